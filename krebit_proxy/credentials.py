"""The only holder of the grant: drives `core.lifecycle.step`, performs its effects, and hands out bearer tokens."""

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
# CLOCK_BOOTTIME goes on while the machine sleeps; where there is none, the monotonic clock has to do.
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 1))
_read_clock = getattr(time, "clock_gettime", lambda _: time.monotonic())
_UNUSABLE: Final = float("-inf")
_ALIKE: Final = 0.1  # seconds within which callers that ask for the same are one


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token for one request: the value of its Authorization field, and the generation that a 401 is charged to."""

    generation: int
    field: bytes  # b"Bearer ..."
    probe: int = 0  # of `core.suspicion.Trust`, where the call tries a suspected token

    def __repr__(self) -> str:
        return f"Bearer(generation={self.generation})"


@dataclass(slots=True)
class _Asking:
    """What callers who want the same wait for, and how many they are."""

    told: asyncio.Task[Go | Denial]
    callers: int = 0
    probed: bool = False  # one of them has gone on with a suspected token


class Credentials:
    """Hands out the current token, and keeps it current."""

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
                # Containers may share a host name, and in each of them the process has number 1.
                holder=f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}",
                ahead=settings.refresh.ahead,
                jitter=random.uniform(-0.1, 0.1),
                intent_grace=store.intent_grace,
            )
        )
        self._bearer = Bearer(0, b"")
        self._usable_wall = self._usable_boot = _UNUSABLE  # until when `_bearer` may be handed out, by either clock
        self._callers: dict[int, asyncio.Future[Go | Denial]] = {}
        self._asking: dict[tuple[Unauthorized | None, float, PathRecord, int], _Asking] = {}
        self._ids = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None
        self._under_way: asyncio.Task[None] | None = None
        self._lock_wait: asyncio.Timeout | None = None
        self._idle = asyncio.Event()
        self._looked = asyncio.Event()

    async def start(self) -> None:
        """Reads the store for the first time; a store that fails is reported in `status`, and tried again."""
        self._happened(Woke())
        await self._looked.wait()

    async def close(self) -> None:
        """Waits for a running refresh and its write, then closes the store."""
        self._happened(Stopping())
        if self._lock_wait is not None:
            self._lock_wait.reschedule(0)
            self._lock_wait = None
        await self._idle.wait()
        if self._alarm:
            self._alarm.cancel()
        if self._under_way is not None:
            await asyncio.wait([self._under_way])  # the lock is being freed
        await self._store.close()

    @property
    def generation(self) -> int:
        """Of the newest tokens."""
        return self._bearer.generation

    def current(self) -> Bearer | None:
        """The token, if one can be used at once. The hot path: no await, no lock. None: call `bearer`."""
        if time.time() < self._usable_wall and _read_clock(_BOOT_CLOCK) < self._usable_boot:
            return self._bearer
        return None

    async def bearer(self, *, lifetime: float = 0, record: PathRecord = PathRecord.NEW) -> Bearer:
        """Waits for a usable token. Safe to cancel: that never cancels a refresh.

        Args:
            lifetime: seconds that the token should still have (for a long upload); a refresh is awaited if it has less.
            record: of the path that it is for.

        Raises:
            Refused: setup_required, reauthorization_required, misconfigured or token_unavailable (with retry_after).
        """
        since = _read_clock(_BOOT_CLOCK)
        bearer = None
        while bearer is None:
            bearer = self._share_of(*await self._ask(Demanded(0, lifetime, None, since, record)))
        return bearer

    async def after_401(self, refused: Bearer, *, repeated: bool = False) -> Bearer | None:
        """Waits for the token to send a call with again that was refused with 401; None: no token would change that.

        The token may be the same, when it was so young that not all of the API knew it. Safe to cancel.

        Args:
            refused: the token that the call was sent with.
            repeated: whether the call was sent with it twice, since it was young at first.

        Raises:
            Refused: as `bearer` does; our answer then, never that 401.
        """
        refusal = Unauthorized(refused.generation, refused.probe, repeated)
        since = _read_clock(_BOOT_CLOCK)
        asking, told = await self._ask(Demanded(0, 0, refusal, since, PathRecord.REFUSED))
        if told is Go.RELAY:
            return None
        bearer = self._share_of(asking, told)
        while bearer is None:
            bearer = self._share_of(*await self._ask(Demanded(0, 0, None, since)))
        return bearer

    def accepted(self, bearer: Bearer) -> None:
        """A call with this token came back as anything but 401. To be told once for each `Bearer`."""
        self._happened(Accepted(bearer.generation, bearer.probe))

    def refused_again(self, bearer: Bearer) -> None:
        """A call was sent again with this token, and was refused with 401 once more."""
        self._happened(RefusedAgain(Unauthorized(bearer.generation, bearer.probe)))

    def _share_of(self, asking: _Asking, told: Go) -> Bearer | None:
        """The token for one of those who asked together; None where another one of them tries it."""
        if told is not Go.PROBE:
            return self._bearer
        if asking.probed:
            return None
        asking.probed = True
        return replace(self._bearer, probe=self._state.trust.number)

    async def _ask(self, demand: Demanded) -> tuple[_Asking, Go]:
        """What the machine tells a caller. Raises Refused for a denial."""
        # A storm of callers is a few to the machine, which looks at each of them in each step.
        alike = demand.refusal, demand.lifetime, demand.record, int(time.monotonic() / _ALIKE)
        asking = self._asking.get(alike)
        if asking is None or asking.told.done():
            caller = next(self._ids)
            told_to = self._told(caller, replace(demand, caller=caller))
            asking = self._asking[alike] = _Asking(spawn(told_to, name="a token for callers"))
        asking.callers += 1
        try:
            told = await asyncio.shield(asking.told)
        finally:
            asking.callers -= 1
            if not asking.callers:  # whoever leaves last takes the question along
                asking.told.cancel()
                if self._asking.get(alike) is asking:
                    del self._asking[alike]
        if isinstance(told, Denial):
            raise Refused(told.code, told.detail, hint=told.hint, retry_after=told.retry_after)
        return asking, told

    async def authorized(self, tokens: Tokens) -> None:
        """Stores the tokens of a new authorization as the next generation. Raises StoreError if that failed for now."""
        caller = next(self._ids)
        await self._ordered(caller, Authorized(caller, tokens))

    async def logout(self) -> None:
        """Revokes where a revocation endpoint is set, then forgets the tokens. Raises StoreError if it cannot."""
        caller = next(self._ids)
        await self._ordered(caller, LogoutAsked(caller, time.time()))

    def status(self) -> GrantStatus:
        """The state of the grant as of now."""
        return status(self._state, _now())

    async def _ordered(self, caller: int, order: Authorized | LogoutAsked) -> None:
        told = await self._told(caller, order)
        if isinstance(told, Denial):
            raise StoreError(told.detail, hint=told.hint)

    async def _told(self, caller: int, event: Event) -> Go | Denial:
        """Lets `event` happen and waits for the answer to `caller`."""
        answer: asyncio.Future[Go | Denial] = asyncio.get_running_loop().create_future()
        self._callers[caller] = answer
        self._happened(event)
        try:
            return await answer
        finally:
            del self._callers[caller]
            if not answer.done() or answer.cancelled():
                self._happened(Abandoned(caller))

    def _happened(self, event: Event) -> None:
        """One step of the machine, and all that it wants done."""
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
        """What `current` needs, worked out once per step instead of once per request."""
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
        """Does `work` when all that was asked for before is done: a lock is freed before it is taken again."""
        before = self._under_way

        async def in_turn() -> None:
            """Waits for the effects before these, and performs these."""
            if before is not None:
                await asyncio.wait([before])
            await work

        self._under_way = spawn(in_turn(), name="grant")

    async def _carry_out(self, effect: ReadStore | TakeLock | WriteGrant | Spend | Revoke) -> None:
        """Performs an effect and reports what came of it, failures included."""
        try:
            event = await self._result_of(effect)
        except StoreConflictError:
            event = Conflicted()
        except StoreError as error:
            event = Failed(Denial(error.code, error.detail, error.hint), busy=isinstance(error, StoreBusyError))
        except TimeoutError:
            event = Failed(Denial("token_unavailable", "The proxy is stopping."))
        except Exception as error:  # whatever it is, the machine must go on
            _log.error("grant.mistake", effect=type(effect).__name__, error=type(error).__name__)
            event = _mistaken(effect)
        self._happened(event)

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
        """Waits for the lock; a stop of the proxy ends the wait by a TimeoutError, whether it has begun or not."""
        try:
            async with asyncio.timeout(0 if self._state.stopping else None) as self._lock_wait:
                await self._store.lock(timeout)
            return Locked()
        finally:
            self._lock_wait = None

    def _wake_at(self, boot: float) -> None:
        """Sets the alarm. It is never far off, so a clock that stops while the machine sleeps does no harm."""
        if self._alarm:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(max(0.0, boot - _read_clock(_BOOT_CLOCK)), self._happened, Woke())


def _mistaken(effect: Effect) -> Event:
    """What an effect comes to that ended in a mistake of our own: as much as nobody knows."""
    reason = "a mistake in krebit-proxy; see its log"
    match effect:
        case Spend():
            return Answered(Unclear(reason))
        case Revoke():
            return Revoked(accepted=False)
        case _:
            return Failed(Denial("token_unavailable", f"The grant store failed: {reason}."))


def _now() -> Moment:
    return Moment(time.time(), _read_clock(_BOOT_CLOCK), random.random())
