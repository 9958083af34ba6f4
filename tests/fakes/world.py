"""A whole world for the state machine of the grant: a store, a lock, a token endpoint, an API, clocks, and processes.

Nothing in it waits or sleeps. A schedule is a list of choices; `World.choices` says what can happen next, and
`World.do` makes it happen. The rules that must hold whatever happens are checked at every step (`BrokenRuleError`).
"""

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from krebit_proxy.core.events import (
    NEVER,
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
    Report,
    Revoke,
    Revoked,
    Spend,
    State,
    TakeLock,
    WakeAt,
    Woke,
    WriteGrant,
    Written,
)
from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.grant_status import PATIENCE, due_in, time_left
from krebit_proxy.core.lifecycle import step
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.suspicion import BURST, PROBE_EVERY, REFILL, Unauthorized
from krebit_proxy.core.token_response import Issued, NotSent, Outcome, Refusal, RefusalKind, Rotated, Unclear

Act = Callable[[], None]
Step = Callable[[State, Event, Moment], tuple[State, tuple[Effect, ...]]]
LIFETIME = 100.0
GRACE = 30.0
INTENT_GRACE = 10.0
SLOWEST = 60.0  # seconds until a token request is given up
DOWN = Failed(Denial("token_unavailable", "The store failed."))
BUSY = Failed(Denial("token_unavailable", "Somebody has the lock."), busy=True)


class BrokenRuleError(AssertionError):
    """A rule that must hold in every schedule does not."""


@dataclass
class Server:
    """A token endpoint. `mode`: strict (a second use is refused), family (it also kills the grant), grace, off.

    `soft`: it refuses in words that are no verdict. `refresh_lifetime`: seconds that a refresh token lives, as it says.
    """

    mode: str
    soft: bool = False
    refresh_lifetime: float | None = None
    issued: int = 0
    live: int = 0  # number of the refresh token that is good; 0: none
    old: dict[int, tuple[float, int]] = field(default_factory=dict)  # spent token -> good until, and its successor
    issued_at: dict[int, float] = field(default_factory=dict)  # of each access token
    ends: float = math.inf  # when the live refresh token dies by itself

    def authorize(self, now: float) -> Tokens:
        """A person allows access: a new family."""
        self.old = {}
        return self._issue(now)

    def process(self, token: int, now: float) -> Outcome:
        """One token request, as the server sees it."""
        if token == self.live and now < self.ends:
            if self.mode == "off":
                return Issued(self._issue(now, self.live))
            before = self.live
            issued = self._issue(now)
            self.old[before] = (now + GRACE, self.live)
            return Issued(issued)
        until, successor = self.old.get(token, (0.0, 0))
        if self.mode == "grace" and now <= until and successor == self.live:
            return Issued(tokens(self.issued, successor, now))
        if self.mode == "family" and token in self.old:
            self.live = 0
        if self.soft:
            return Refusal("invalid_request", "The refresh token is invalid.", RefusalKind.OTHER, "invalid_request")
        return Refusal("invalid_grant", "", RefusalKind.VERDICT)

    def now_lives(self, now: float) -> bool:
        """Whether a refresh token is good."""
        return self.live > 0 and now < self.ends

    def _issue(self, now: float, refresh: int = 0) -> Tokens:
        self.issued += 1
        self.issued_at[self.issued] = now
        self.live = refresh or self.issued
        issued = tokens(self.issued, self.live, now)
        if self.refresh_lifetime is None:
            return issued
        self.ends = now + self.refresh_lifetime
        return replace(issued, refresh_expires_at=self.ends)


@dataclass
class Api:
    """What the token is for. It may refuse one path, everything for a while, old tokens, and young ones."""

    lag: float = 0.0  # seconds until a new token is known
    refuses_until: float = NEVER
    revoked: int = 0  # the access tokens up to this number

    def accepts(self, token: int, issued_at: float, path: str, now: float) -> bool:
        """Whether a call with this access token comes back as anything but 401."""
        return path != "odd" and token > self.revoked and now >= max(self.refuses_until, issued_at + self.lag)


@dataclass(frozen=True)
class ApiCall:
    """A call of a caller: on its way to the API, or waiting for a token. `generation` is 0 before it was sent."""

    path: str
    generation: int = 0
    token: int = 0
    probe: int = 0
    repeated: bool = False
    renewed: bool = False


def tokens(number: int, refresh: int, now: float) -> Tokens:
    """The tokens of one answer, recognizable by their numbers."""
    return Tokens(Secret(f"a{number}"), Secret(f"r{refresh}"), now, now + LIFETIME)


def number_of(token: Secret | None) -> int:
    """The number of a refresh token."""
    return int(token.reveal()[1:]) if token else 0


@dataclass
class Process:
    """One proxy: its state, and the effects that are under way, the oldest first."""

    name: str
    state: State
    work: list[Effect] = field(default_factory=list)
    arrived: Outcome | None = None  # the server has answered; the answer is under way to us
    alarm: float = 0
    patience: float = 0  # until when it waits for the lock
    sent_at: float = 0  # when it sent the token request that is under way
    waiting: dict[int, float] = field(default_factory=dict)
    asking: dict[int, ApiCall] = field(default_factory=dict)  # the calls of those who wait
    calls: tuple[ApiCall, ...] = ()  # under way at the API
    relayed: int = 0  # 401s that callers got
    accepted: int = 0  # calls that came back as anything else
    probed_at: float = NEVER
    charging: bool = False  # the token request under way is due to a 401
    unstored: set[int] = field(default_factory=set)  # generations whose write was refused after the answer


@dataclass
class World:
    """Everything. `losable`: the lock can die before its holder, as one in a database can."""

    server: Server
    losable: bool = False
    advance: Step = step
    api: Api = field(default_factory=Api)
    early: int = 0  # renewals that 401s have caused
    unaware: int = 0  # processes that did not know of such a renewal, for they had not read the store yet
    began_at: float = 1000.0
    now: float = 1000.0
    grant: Grant | None = None
    holder: str | None = None
    processes: dict[str, Process] = field(default_factory=dict)
    transcript: list[str] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)  # access tokens that were in the store at some time
    excused: list[str] = field(default_factory=list)  # what may have cost the grant
    doubtful: set[int] = field(default_factory=set)  # refresh tokens whose last use has an unclear outcome
    spent: set[int] = field(default_factory=set)  # refresh tokens that were sent at least once
    logged_out: bool = False
    authorized_at: float = 0.0  # when a person authorized last
    orders: int = 0  # how often a person may still authorize or log out
    lives: int = 0
    callers: int = 0

    def start(self, name: str) -> None:
        """A process starts, or starts again after a crash, with no memory."""
        self.lives += 1
        policy = Policy("acme", "app", f"{name}/{self.lives}", ahead=20, intent_grace=self.losable * INTENT_GRACE)
        self.processes[name] = Process(name, State(policy))
        self.happen(name, Woke())

    def happen(self, name: str, event: Event) -> None:
        """One event, and what follows from it at once."""
        process = self.processes[name]
        process.state, effects = self.advance(process.state, event, Moment(self.now, self.now))
        for effect in effects:
            self._begin(process, effect)
        if len(process.work) > 1:  # a lock that is being freed is no obstacle
            work = [effect for effect in process.work if not isinstance(effect, FreeLock)]
            self.require(len(work) <= 1, f"{name} has two effects under way: {work}")

    def _begin(self, process: Process, effect: Effect) -> None:
        match effect:
            case WakeAt(boot):
                process.alarm = boot
            case Answer(caller, told):
                process.waiting.pop(caller, None)
                self._answered(process, process.asking.pop(caller, None), told)
            case Report():
                pass
            case Spend(token):
                process.work.append(effect)
                process.sent_at = self.now if self.holder == process.name else NEVER
                process.charging = process.state.run.attempt == 1 and process.state.run.charged
                if process.sent_at != NEVER:
                    self._sent(process, number_of(token))
            case TakeLock(timeout):
                process.patience = self.now + timeout
                process.work.append(effect)
            case _:
                process.work.append(effect)

    def _answered(self, process: Process, call: ApiCall | None, told: Go | Denial) -> None:
        """A caller goes on, or not."""
        if isinstance(told, Denial):
            self._check_denial(process, call)
            return
        if told is Go.RELAY:
            process.relayed += 1
            return
        self._used(process)
        state = process.state
        if told is Go.PROBE:
            gap = self.now - process.probed_at
            again = state.trust.number > 1 or state.trust.unproven
            self.require(gap > PROBE_EVERY - 0.01 or again, f"{process.name} probes too often")
            process.probed_at = self.now
        if call is None or state.tokens is None:
            return
        sent = ApiCall(
            call.path,
            state.generation,
            int(state.tokens.access_token.reveal()[1:]),
            state.trust.number if told is Go.PROBE else 0,
            repeated=told is Go.AGAIN,
            renewed=call.generation > 0 and told is not Go.AGAIN,
        )
        process.calls = (*process.calls, sent)

    def _check_denial(self, process: Process, call: ApiCall | None) -> None:
        """A new call is refused only when there is no token, or when another try is at most a second off."""
        state, moment = process.state, Moment(self.now, self.now)
        if call is None or call.generation or state.fresh is None or time_left(state, moment) <= state.fresh.margin:
            return
        soon = state.trust.suspected and self.now < state.trust.probe_at <= self.now + PROBE_EVERY + 0.01
        self.require(soon, f"{process.name} refuses a call that the API may accept")

    def _used(self, process: Process) -> None:
        grant = process.state.grant
        if grant is None or grant.tokens is None:  # the order of a person was carried out
            return
        known = grant.tokens.access_token.reveal() in self.stored or grant.generation in process.unstored
        self.require(known, f"{process.name} uses a token that was never stored")

    def _sent(self, process: Process, token: int) -> None:
        for other in self.processes.values():
            # A server that never rotates knows one token only, which the next generation has, too.
            if other is not process and self._has_sent(other, token) and self.server.mode != "off":
                patient = self.losable and self.now >= other.sent_at + INTENT_GRACE
                self.require(patient, f"{process.name} spends r{token} while the request of {other.name} is under way")
                self.excused.append("the lock was lost while a slow request was under way")
        self.require(
            token not in self.spent or token in self.doubtful or self.server.mode == "off",
            f"{process.name} spends r{token} a second time after a clear outcome",
        )
        intent = self.grant.intent if self.grant else None
        stored = intent is not None and intent.holder == process.state.policy.holder
        self.require(stored or self.losable, f"{process.name} spends r{token} without a stored intent")
        self.spent.add(token)
        self.doubtful.discard(token)

    def require(self, holds: bool, rule: str) -> None:
        """Raises BrokenRuleError, with the schedule that led there, unless the rule holds."""
        if not holds:
            raise BrokenRuleError("\n".join([*self.transcript, rule]))

    # What can happen next

    def choices(self, *, faults: bool = True) -> Iterator[tuple[str, Act]]:
        """Every next event: its name, and what makes it happen. Without `faults`, only what a kind world does."""
        for name, process in self.processes.items():
            if process.work:
                yield from self._outcomes(name, process, process.work[0], faults=faults)
            for index, call in enumerate(process.calls):
                yield f"the API answers {call.path} of {name}", partial(self._answer_call, process, index)
        processes = self.processes.values()
        if not any(p.calls or (p.work and not self._is_blocked(p)) for p in processes):
            yield "time passes", self._pass_time
        elif faults and not any(p.work and not self._is_blocked(p) and not self._is_slow(p) for p in processes):
            yield "time passes, and no answer comes", self._pass_time
        if faults:
            yield from self._whims()
            for name, process in self.processes.items():
                yield from self._blows(name, process)

    def _blows(self, name: str, process: Process) -> Iterator[tuple[str, Act]]:
        """What may befall a process."""
        yield f"{name} crashes", lambda: self.crash(name)
        if self.losable and self.holder == name:
            yield f"{name} loses the lock", lambda: self.lose_lock(name)
        if self.orders > 0:
            yield f"a person authorizes at {name}", lambda: self.setup(name)
            yield f"a person logs out at {name}", lambda: self.logout(name)
        if process.work and len(process.waiting) < 2:
            yield f"{name} is asked for a token", lambda: self.demand(name)

    def _whims(self) -> Iterator[tuple[str, Act]]:
        """What the API may do."""

        def refuse() -> None:
            self.api.refuses_until = self.now + 20

        def revoke() -> None:
            self.api.revoked = self.server.issued

        yield "the API refuses everything for 20 s", refuse
        yield "the API revokes every token", revoke

    def _answer_call(self, process: Process, index: int) -> None:
        call = process.calls[index]
        process.calls = (*process.calls[:index], *process.calls[index + 1 :])
        if self.api.accepts(call.token, self.server.issued_at[call.token], call.path, self.now):
            process.accepted += 1
            trust, generation = process.state.trust, process.state.generation
            self.happen(process.name, Accepted(call.generation, call.probe))
            if (call.generation, call.probe) == (generation, trust.number):
                self.require(not process.state.trust.suspected, f"{process.name} suspects a token that was accepted")
        elif call.renewed:
            process.relayed += 1
        else:
            self._ask(process, call, Unauthorized(call.generation, call.probe, call.repeated))

    def _ask(self, process: Process, call: ApiCall, refusal: Unauthorized | None = None) -> None:
        self.callers += 1
        process.waiting[self.callers] = self.now
        process.asking[self.callers] = call
        self.happen(process.name, Demanded(self.callers, refusal=refusal))

    def call(self, name: str, path: str = "plain") -> None:
        """A caller wants to call the API."""
        self._ask(self.processes[name], ApiCall(path))

    def _is_blocked(self, process: Process) -> bool:
        """Waits for a lock that another process holds."""
        takes_lock = bool(process.work) and isinstance(process.work[0], TakeLock)
        return takes_lock and self.holder is not None and self.now < process.patience

    def _has_sent(self, process: Process, token: int | None = None) -> bool:
        """Waits for an answer of the server, to a request with this refresh token."""
        sent = [number_of(effect.refresh_token) for effect in process.work if isinstance(effect, Spend)]
        return bool(sent) and process.sent_at != NEVER and token in {None, *sent}

    def _is_slow(self, process: Process) -> bool:
        """Waits for an answer of the server, and has not waited for too long."""
        return self._has_sent(process) and self.now < process.sent_at + SLOWEST

    def _outcomes(  # noqa: C901 -- one case for each effect
        self, name: str, process: Process, effect: Effect, *, faults: bool
    ) -> Iterator[tuple[str, Act]]:
        done = partial(self._done, process)
        match effect:
            case FreeLock():
                yield f"{name} frees the lock", lambda: self._free(process)
            case ReadStore():
                yield f"{name} reads {_brief(self.grant)}", done(Read(self.grant))
                if faults:
                    yield f"{name} cannot read", done(DOWN)
            case TakeLock():
                if self.holder is None:
                    yield f"{name} takes the lock", done(Locked(), lambda: self._take(name))
                if self.holder is not None and self.now >= process.patience:
                    yield f"{name} has waited for the lock in vain", done(BUSY)
                if faults:
                    yield f"{name} does not get the lock", done(DOWN)
            case WriteGrant(under_lock=True) if self.holder != name:
                yield f"{name} finds that it lost the lock", done(DOWN)
            case WriteGrant():
                yield from self._write(name, process, effect, done, faults=faults)
            case Spend() if process.sent_at == NEVER:
                yield f"{name} finds that it lost the lock", done(DOWN)
            case Spend(token):
                yield from self._token_request(name, process, number_of(token), done, faults=faults)
            case Revoke():
                yield f"{name} revokes", done(Revoked(accepted=True))
            case _:  # pragma: no cover
                raise AssertionError(effect)

    def _done(self, process: Process, event: Event, before: Act | None = None) -> Act:
        """The oldest effect comes to this, and `before` is what it does to the world."""

        def happen() -> None:
            process.work.pop(0)
            if before:
                before()
            self.happen(process.name, event)

        return happen

    def _write(
        self,
        name: str,
        process: Process,
        effect: WriteGrant,
        done: Callable[..., Act],
        *,
        faults: bool,
    ) -> Iterator[tuple[str, Act]]:
        grant, current = effect.grant, self.grant.generation if self.grant else 0
        if current == effect.expected:
            yield f"{name} writes {_brief(grant)}", done(Written(), lambda: self._store(process, grant))
        else:
            refused = done(Conflicted(), lambda: self._refused(process, grant))
            yield f"{name} meets {_brief(self.grant)}, not {effect.expected}", refused
        if faults:
            yield f"{name} cannot write {_brief(grant)}", done(DOWN, lambda: self._refused(process, grant))
        if faults and current == effect.expected:

            def unknown() -> None:
                self._store(process, grant)
                self._refused(process, grant)

            yield f"{name} writes {_brief(grant)}, but never knows", done(DOWN, unknown)

    def _token_request(
        self, name: str, process: Process, token: int, done: Callable[..., Act], *, faults: bool
    ) -> Iterator[tuple[str, Act]]:
        arrived = process.arrived
        if arrived is None:
            yield f"the server sees r{token} from {name}", lambda: self._process(process, token)
            if faults:
                yield (
                    f"{name} does not reach the server",
                    done(Answered(NotSent("no connection")), lambda: self._doubt(token)),
                )
                yield f"the request of {name} is lost", done(Answered(Unclear("no answer")), lambda: self._doubt(token))
            return

        def forget() -> None:
            process.arrived = None

        yield f"{name} is answered {_short(arrived)}", done(Answered(arrived), forget)
        if faults and isinstance(arrived, Issued) and arrived.tokens.refresh_token:
            rotated = Rotated(arrived.tokens.refresh_token, "no access token", arrived.tokens.refresh_expires_at)
            yield f"{name} is answered without an access token", done(Answered(rotated), forget)
        if faults:

            def lose() -> None:
                forget()
                self._doubt(token)
                if isinstance(arrived, Issued):
                    self.excused.append("an answer was lost")

            yield f"the answer to {name} is lost", done(Answered(Unclear("reset")), lose)

    # What happens

    def _process(self, process: Process, token: int) -> None:
        if self.server.live == token and self.now >= self.server.ends:
            self.excused.append("nobody renewed the refresh token before its end")
        process.arrived = self.server.process(token, self.now)
        if process.charging and isinstance(process.arrived, Issued):
            process.charging = False
            self.early += 1
            memories = 1 + self.lives - len(self.processes) + self.unaware
            allowed = BURST * memories + (self.now - self.began_at) / REFILL + len(self.processes)
            self.unaware += sum(not other.state.known for other in self.processes.values())
            self.require(self.early <= allowed, f"{process.name} renews for one 401 too many")
        if isinstance(process.arrived, Refusal) and process.arrived.kind is RefusalKind.OTHER:
            self._doubt(token)  # it may be presented again

    def _take(self, name: str) -> None:
        self.holder = name

    def _free(self, process: Process) -> None:
        process.work.pop(0)
        if self.holder == process.name:
            self.holder = None

    def _store(self, process: Process, grant: Grant) -> None:
        before = self.grant.generation if self.grant else 0
        self.require(grant.generation >= before, f"{process.name} overwrites {before} with {grant.generation}")
        if grant.generation == before and grant.intent is None and grant.verdict is None:
            self._check_retraction(process)
        # Who lost the lock after it had read can write over a verdict: that costs one more token request, no grant.
        if self.losable and self.holder != process.name and self.grant and self.grant.verdict:
            self.doubtful.update(self.spent)
        self.grant = grant
        if grant.tokens:
            self.stored.add(grant.tokens.access_token.reveal())

    def _check_retraction(self, process: Process) -> None:
        """An intent is taken back by its holder only, or when its holder is not at it any more."""
        intent = self.grant.intent if self.grant else None
        for other in self.processes.values():
            if intent and other is not process and intent.holder == other.state.policy.holder:
                self.require(not self._has_sent(other), f"{process.name} takes back the intent of {other.name}")

    def _refused(self, process: Process, grant: Grant) -> None:
        process.unstored.add(grant.generation)

    def _doubt(self, token: int) -> None:
        self.doubtful.add(token)

    def _pass_time(self) -> None:
        alarms = [process.alarm for process in self.processes.values()]
        alarms += [process.patience for process in self.processes.values() if self._is_blocked(process)]
        alarms += [process.sent_at + SLOWEST for process in self.processes.values() if self._is_slow(process)]
        self.now = max(self.now, min(alarms)) + 0.001
        for name, process in list(self.processes.items()):
            if process.alarm <= self.now:
                self.happen(name, Woke())
            patient = all(self.now - since <= PATIENCE + 1 for since in process.waiting.values())
            self.require(patient, f"a caller of {name} waits for too long")

    def crash(self, name: str) -> None:
        """SIGKILL, and a new start. What was under way may have been done; the kernel frees the lock."""
        process = self.processes[name]
        for effect in process.work:
            if isinstance(effect, Spend):
                self._doubt(number_of(effect.refresh_token))
        if process.arrived is not None and isinstance(process.arrived, Issued):
            self.excused.append("a crash between the answer and the write")
        if any(isinstance(order, Authorized) for order in process.state.orders):
            self.excused.append("a crash before a new authorization was stored")
        pending = process.state.run.pending
        kept = self.grant is not None and pending is not None and self.grant.tokens == pending.tokens
        if pending and pending.tokens and not kept and process.state.phase is not Phase.INTENDING:
            self.excused.append("a crash between the answer and the write")
            if process.state.tokens:
                self.doubtful.update(self.spent)
        if process.state.phase in {Phase.STORING, Phase.UNSTORED, Phase.RECONCILING}:
            self.doubtful.update(self.spent)  # a verdict that was not stored: the next process has to find out again
        if self.holder == name:
            self.holder = None
        self.start(name)

    def lose_lock(self, name: str) -> None:
        """The lock dies, and its holder is not told."""
        self.holder = None
        self.doubtful.update(self.spent)

    def demand(self, name: str) -> None:
        """A caller wants a token."""
        self.callers += 1
        self.processes[name].waiting[self.callers] = self.now
        self.happen(name, Demanded(self.callers))

    def setup(self, name: str) -> None:
        """A person authorizes at this process."""
        self.callers += 1
        self.orders -= 1
        self.logged_out = False
        self.excused = []
        self.now += 0.01
        tokens = self.server.authorize(self.now)
        self.authorized_at = tokens.obtained_at
        self.happen(name, Authorized(self.callers, tokens))

    def logout(self, name: str) -> None:
        """A person logs out at this process."""
        self.callers += 1
        self.orders -= 1
        self.logged_out = True
        self.now += 0.01
        self.happen(name, LogoutAsked(self.callers, self.now))

    # How it must end

    def settle(self, seconds: float = 600) -> None:
        """A kind world: every effect works, and time passes until all is well. It must end well within `seconds`."""
        end = self.now + seconds
        while not self._is_settled():
            self.require(self.now < end, "it does not end: callers wait for ever, or no usable token is found")
            label, act = next(iter(self.choices(faults=False)))
            if label != "time passes":
                self.transcript.append(f"{self.now:.1f} {label}")
            act()
        for process in self.processes.values():
            self._check_end(process)
        self._check_calls(end)

    def _is_settled(self) -> bool:
        return all(
            process.state.phase is Phase.IDLE
            and not process.work
            and not process.waiting
            and not process.state.orders
            and (process.state.grant == self.grant and self.now < process.state.look_at)
            and self._is_well(process)
            for process in self.processes.values()
        )

    def _is_well(self, process: Process) -> bool:
        grant, fresh = process.state.grant, process.state.fresh
        if grant is None or grant.tokens is None or grant.verdict:
            return True
        if process.state.soft_verdict:
            return True
        return fresh is not None and due_in(process.state, Moment(self.now, self.now)) > 0

    def _check_end(self, process: Process) -> None:
        grant = process.state.grant
        if grant is None or grant.tokens is None:
            self.require(self.logged_out or bool(self.excused), "a grant was forgotten")
        elif grant.verdict or process.state.soft_verdict:
            self.require(bool(self.excused), f"{process.name} lost the grant without an excuse")
        elif not self.excused:
            self.require(grant.authorized_at >= self.authorized_at, "a later authorization was dropped")

    def _is_lost(self, process: Process) -> bool:
        """Whether a person is needed, as `_check_end` has excused."""
        self._check_end(process)
        grant = process.state.grant
        return not grant or not grant.tokens or bool(grant.verdict or process.state.soft_verdict)

    def _check_calls(self, end: float) -> None:
        """After all trouble, the next call of one process is accepted: at once, or when the API knows the token."""
        name = list(self.processes)[self.callers % len(self.processes)]
        process = self.processes[name]
        before = process.accepted
        self.call(name)
        while process.accepted == before and not self._is_lost(process):
            self.require(self.now < end, f"no call of {name} gets through any more")
            if not process.waiting and not process.calls:
                self.now += PROBE_EVERY  # it was refused, and comes back when it may
                self.call(name)
            label, act = next(iter(self.choices(faults=False)))
            if label != "time passes":
                self.transcript.append(f"{self.now:.1f} {label}")
            act()

    def copy(self) -> "World":
        """A world with the same past and a future of its own."""
        other = copy(self)
        other.server = replace(self.server, old=dict(self.server.old), issued_at=dict(self.server.issued_at))
        other.api = replace(self.api)
        other.processes = {
            name: replace(
                p, work=list(p.work), waiting=dict(p.waiting), asking=dict(p.asking), unstored=set(p.unstored)
            )
            for name, p in self.processes.items()
        }
        other.transcript, other.excused = list(self.transcript), list(self.excused)
        other.stored, other.doubtful, other.spent = set(self.stored), set(self.doubtful), set(self.spent)
        return other

    def key(self) -> Any:
        """Two worlds with the same key have the same future."""
        api, server = self.api, self.server
        return (
            self.now, self.grant, self.holder, server.live, server.issued, tuple(server.old.items()), server.ends,
            api.refuses_until, api.revoked, frozenset(self.doubtful), frozenset(self.spent), bool(self.excused),
            self.logged_out, self.orders, self.early,
            tuple((p.state, tuple(p.work), p.arrived, p.alarm, tuple(p.waiting), p.calls, frozenset(p.unstored))
                  for p in self.processes.values()),
        )  # fmt: skip


def _brief(grant: Grant | None) -> str:
    if grant is None:
        return "nothing"
    notes = ("+intent" if grant.intent else "") + ("+verdict" if grant.verdict else "")
    return f"{grant.generation}{notes}" + ("" if grant.tokens else " (logged out)")


def _short(outcome: Outcome) -> str:
    if isinstance(outcome, Issued):
        return f"r{number_of(outcome.tokens.refresh_token)}"
    return outcome.error if isinstance(outcome, Refusal) else outcome.reason
