"""The only holder of the grant: drives `core.lifecycle.step`, performs its effects, and gives tokens to callers.

A call uses it so:

    bearer = credentials.current() or await credentials.bearer()
    ...                                                     # send the request with bearer.field
    credentials.accepted(bearer)                            # for any response but 401, once for each bearer
    bearer = await credentials.after_401(bearer)            # for a 401: a token for a second try, or None
"""

import asyncio
import itertools
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Final, assert_never

import structlog

from krebit_proxy.config import Settings
from krebit_proxy.core.events import (
    Abandoned,
    Accepted,
    Answer,
    Answered,
    Authorized,
    Conflicted,
    Demanded,
    Denial,
    Effect,
    Event,
    Failed,
    FreeLock,
    Go,
    Locked,
    LogoutAsked,
    Phase,
    Policy,
    Read,
    ReadStore,
    RefusedAgain,
    Report,
    Revoke,
    Revoked,
    Spend,
    State,
    Stopping,
    TakeLock,
    WakeAt,
    Woke,
    WriteGrant,
    Written,
)
from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.grant_status import GrantStatus, status
from krebit_proxy.core.lifecycle import step
from krebit_proxy.core.suspicion import PathRecord, Unauthorized
from krebit_proxy.core.token_response import Unclear, word_for
from krebit_proxy.errors import Refused, StoreBusyError, StoreConflictError, StoreError
from krebit_proxy.metrics import Metrics
from krebit_proxy.stores import Store
from krebit_proxy.tasks import spawn
from krebit_proxy.token_endpoint import TokenEndpoint

_log = structlog.get_logger()
# CLOCK_BOOTTIME also runs while the machine is suspended. Fall back to the monotonic clock on systems without it.
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 1))
_read_clock = getattr(time, "clock_gettime", lambda _: time.monotonic())
_UNUSABLE: Final = float("-inf")
_ALIKE: Final = 0.1  # seconds; callers with equal demands within this time share one answer


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token for one call: the value of its Authorization field, and what identifies the token in a later event."""

    generation: int
    field: bytes  # b"Bearer ..."
    probe: int = 0  # `core.suspicion.Trust.number` if the call tries a suspected token, else 0

    def __repr__(self) -> str:
        return f"Bearer(generation={self.generation})"


@dataclass(slots=True)
class _SharedAnswer:
    """Callers with equal demands, which wait for the same answer."""

    answer: asyncio.Task[Go | Denial]
    callers: int = 0
    probed: bool = False  # one of them has got the suspected token to try


class Credentials:
    """Gives the current token to callers, and renews it in time."""

    def __init__(
        self, settings: Settings, store: Store, token_endpoint: TokenEndpoint, metrics: Metrics | None = None
    ) -> None:
        self._store = store
        self._token_endpoint = token_endpoint
        self._metrics = metrics or Metrics()
        self._state = State(
            Policy(
                organization=settings.organization,
                client_id=settings.client_id,
                # Containers may share a host name, and their process ids are often all 1.
                holder=f"{_host()}/{os.getpid()}/{secrets.token_hex(3)}",
                ahead=settings.refresh.ahead,
                jitter=random.uniform(-0.1, 0.1),
                intent_grace=store.intent_grace,
            )
        )
        self._bearer = Bearer(0, b"")
        self._usable_wall = self._usable_boot = _UNUSABLE  # until when `current` may return `_bearer`, by each clock
        self._callers: dict[int, asyncio.Future[Go | Denial]] = {}
        self._shared: dict[tuple[Unauthorized | None, float, PathRecord, int], _SharedAnswer] = {}
        self._ids = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None
        self._under_way: asyncio.Task[None] | None = None
        self._lock_wait: asyncio.Timeout | None = None
        self._idle = asyncio.Event()
        self._looked = asyncio.Event()

    async def start(self) -> None:
        """Waits until the store was read once. If that fails, `status` says so, and the store is tried again."""
        self._take_step(Woke())
        await self._looked.wait()

    async def close(self) -> None:
        """Waits for a running refresh and its write, then closes the store."""
        self._take_step(Stopping())
        if self._lock_wait is not None:
            self._lock_wait.reschedule(0)
            self._lock_wait = None
        await self._idle.wait()
        if self._alarm:
            self._alarm.cancel()
        if self._under_way is not None:
            await asyncio.wait([self._under_way])  # the last effect, which frees the lock
        await self._store.close()

    @property
    def generation(self) -> int:
        """Of the newest tokens."""
        return self._bearer.generation

    def current(self) -> Bearer | None:
        """The token, if one can be used at once; else None: call `bearer`. The hot path: no await, no lock."""
        if time.time() < self._usable_wall and _read_clock(_BOOT_CLOCK) < self._usable_boot:
            return self._bearer
        return None

    async def bearer(self, *, lifetime: float = 0, record: PathRecord = PathRecord.NEW) -> Bearer:
        """Waits for a usable token. It is safe to cancel: that never cancels a refresh.

        Args:
            lifetime: Seconds for which the token should still be good, for example during a long upload.
            record: Of the path that it is for.

        Raises:
            Refused: setup_required, reauthorization_required, misconfigured or token_unavailable (with retry_after).
        """
        return await self._share(Demanded(0, lifetime, None, _read_clock(_BOOT_CLOCK), record))

    async def after_401(self, refused: Bearer, *, repeated: bool = False) -> Bearer | None:
        """Waits for a token to repeat a call with that was answered with 401. None: no token would help.

        It may be the same token, if it was so young that perhaps not all servers knew it. It is safe to cancel.

        Args:
            refused: The token that the call was sent with.
            repeated: Whether the call was sent with that token twice, because it was young the first time.

        Raises:
            Refused: As in `bearer`. The caller gets this error instead of the 401.
        """
        refusal = Unauthorized(refused.generation, refused.probe, repeated)
        since = _read_clock(_BOOT_CLOCK)
        shared, told = await self._ask(Demanded(0, 0, refusal, since, PathRecord.REFUSED))
        if told is Go.RELAY:
            return None
        return self._share_of(shared, told) or await self._share(Demanded(0, 0, None, since))

    def accepted(self, bearer: Bearer) -> None:
        """Records that a call with this token got any other response than 401. Call it once for each `Bearer`."""
        self._take_step(Accepted(bearer.generation, bearer.probe))

    def refused_again(self, bearer: Bearer) -> None:
        """Takes note of a 401 to a call that was sent again with this token."""
        self._take_step(RefusedAgain(Unauthorized(bearer.generation, bearer.probe)))

    async def _share(self, demand: Demanded) -> Bearer:
        """The token for one caller. It asks again for as long as another caller is the one to try the token."""
        bearer = None
        while bearer is None:
            bearer = self._share_of(*await self._ask(demand))
        return bearer

    def _share_of(self, shared: _SharedAnswer, told: Go) -> Bearer | None:
        """The token for one of the callers in `shared`. None: the token is suspected, and another of them tries it."""
        if told is not Go.PROBE:
            return self._bearer
        if shared.probed:
            return None
        shared.probed = True
        return replace(self._bearer, probe=self._state.trust.number)

    async def _ask(self, demand: Demanded) -> tuple[_SharedAnswer, Go]:
        """Waits for the state machine's answer to a caller. Raises Refused for a denial."""
        # The machine looks at all its callers in each step. So a thousand equal demands are only a few to it.
        alike = demand.refusal, demand.lifetime, demand.record, int(time.monotonic() / _ALIKE)
        shared = self._shared.get(alike)
        if shared is None or shared.answer.done():
            caller = next(self._ids)
            answer = self._answer_to(caller, replace(demand, caller=caller))
            shared = self._shared[alike] = _SharedAnswer(spawn(answer, name="a token for callers"))
        shared.callers += 1
        try:
            told = await asyncio.shield(shared.answer)
        finally:
            shared.callers -= 1
            if not shared.callers:  # nobody waits for the answer any more
                shared.answer.cancel()
                if self._shared.get(alike) is shared:
                    del self._shared[alike]
        if isinstance(told, Denial):
            raise Refused(told.code, told.detail, hint=told.hint, retry_after=told.retry_after)
        return shared, told

    async def authorized(self, tokens: Tokens) -> None:
        """Stores the tokens of a new authorization. Raises StoreError if that fails for now; it is then tried again."""
        caller = next(self._ids)
        await self._ordered(caller, Authorized(caller, tokens))

    async def logout(self) -> None:
        """Revokes the tokens if `oauth.revoke_url` is set, then deletes them. Raises StoreError if that fails."""
        caller = next(self._ids)
        await self._ordered(caller, LogoutAsked(caller, time.time()))

    @property
    def authorized_at(self) -> float:
        """When a person last authorized the proxy or logged out, by any way. Seconds since the epoch, 0 if unknown."""
        return self._state.grant.authorized_at if self._state.grant else 0.0

    def status(self) -> GrantStatus:
        return status(self._state, _now())

    async def _ordered(self, caller: int, order: Authorized | LogoutAsked) -> None:
        told = await self._answer_to(caller, order)
        if isinstance(told, Denial):
            raise StoreError(told.reason, hint=told.hint, code=told.code)

    async def _answer_to(self, caller: int, event: Event) -> Go | Denial:
        """Takes a step with `event`, and waits for the answer to `caller`."""
        answer: asyncio.Future[Go | Denial] = asyncio.get_running_loop().create_future()
        self._callers[caller] = answer
        self._take_step(event)
        try:
            return await answer
        finally:
            del self._callers[caller]
            if not answer.done() or answer.cancelled():
                self._take_step(Abandoned(caller))

    def _take_step(self, event: Event) -> None:
        """Takes one step of the state machine, and starts its effects."""
        self._state, effects = step(self._state, event, _now())
        self._remember_bearer()
        if self._state.phase is not Phase.LOOKING:
            self._looked.set()
        if self._state.phase is Phase.IDLE:
            self._idle.set()
        else:
            self._idle.clear()
        for effect in effects:
            self._perform(effect)

    def _remember_bearer(self) -> None:
        """Computes what `current` needs, once for each step instead of once for each request."""
        state = self._state
        if state.fresh is None or state.tokens is None or state.trust.half_open:
            self._usable_wall = self._usable_boot = _UNUSABLE
        else:
            self._usable_wall = state.fresh.wall - state.fresh.margin
            self._usable_boot = state.fresh.boot - state.fresh.margin
        if state.tokens is not None and state.generation != self._bearer.generation:
            self._bearer = Bearer(state.generation, b"Bearer " + state.tokens.access_token.reveal().encode())

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Answer(caller, told):
                answer = self._callers.get(caller)
                if answer is not None and not answer.done():
                    answer.set_result(told)
            case Report(event, level, fields):
                getattr(_log, level)(event, **dict(fields))
            case WakeAt(boot):
                self._wake_at(boot)
            case FreeLock():
                self._after(self._store.unlock())
            case ReadStore() | TakeLock() | WriteGrant() | Spend() | Revoke():
                self._after(self._carry_out(effect))
            case _:
                assert_never(effect)

    def _after(self, work: Awaitable[None]) -> None:
        """Performs `work` after all earlier effects, so that for example a lock is freed before it is taken again."""
        before = self._under_way

        async def in_turn() -> None:
            if before is not None:
                await asyncio.wait([before])
            await work

        self._under_way = spawn(in_turn(), name="grant")

    async def _carry_out(self, effect: ReadStore | TakeLock | WriteGrant | Spend | Revoke) -> None:
        """Performs an effect and takes the next step with its result or its failure."""
        try:
            event = await self._result_of(effect)
        except StoreConflictError:
            event = Conflicted()
        except StoreError as error:
            told = error.discreet()
            denial = Denial(error.code, told.detail, told.hint, cause=error.detail)
            event = Failed(denial, busy=isinstance(error, StoreBusyError))
        except TimeoutError:
            event = Failed(Denial("token_unavailable", "The proxy is stopping."))
        except Exception as error:  # a bug must not stop the state machine
            _log.error("grant.bug", effect=type(effect).__name__, error=type(error).__name__)
            event = _result_of_bug(effect)
        self._take_step(event)

    async def _result_of(self, effect: ReadStore | TakeLock | WriteGrant | Spend | Revoke) -> Event:
        match effect:
            case ReadStore():
                return Read(await self._store.read())
            case TakeLock(timeout):
                return await self._locked(timeout)
            case WriteGrant(expected, grant, under_lock):
                if under_lock:
                    await self._store.confirm_lock()
                await self._store.write(expected, grant)
                return Written()
            case Spend(refresh_token):
                await self._store.confirm_lock()
                outcome = await self._token_endpoint.refresh(refresh_token)
                self._metrics.refreshed(word_for(outcome))
                return Answered(outcome)
            case Revoke(token):
                return Revoked(await self._token_endpoint.revoke(token))
            case _:
                assert_never(effect)

    async def _locked(self, timeout: float) -> Event:
        """Waits for the lock. If the proxy stops before or during the wait, it raises TimeoutError."""
        try:
            async with asyncio.timeout(0 if self._state.stopping else None) as self._lock_wait:
                await self._store.lock(timeout)
            return Locked()
        finally:
            self._lock_wait = None

    def _wake_at(self, boot: float) -> None:
        """Sets the timer. It is never far ahead, so it does no harm that it stops while the machine is suspended."""
        if self._alarm:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(max(0.0, boot - _read_clock(_BOOT_CLOCK)), self._take_step, Woke())


def _result_of_bug(effect: Effect) -> Event:
    """The result of an effect that ended in a bug of ours: nobody knows whether it took place."""
    reason = "a bug in krebit-proxy. Its log has the details"
    match effect:
        case Spend():
            return Answered(Unclear(reason))
        case Revoke():
            return Revoked(accepted=False)
        case _:
            return Failed(Denial("token_unavailable", f"The grant store failed: {reason}."))


def _host() -> str:
    """The name of this computer. It can have any bytes, but the store takes only text."""
    return socket.gethostname().encode(errors="replace").decode()


def _now() -> Moment:
    return Moment(time.time(), _read_clock(_BOOT_CLOCK), random.random())
