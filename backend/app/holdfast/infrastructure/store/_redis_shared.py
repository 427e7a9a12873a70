"""The share of one breaker in what Redis holds: what is asked and told, and what is followed."""

from __future__ import annotations

import os
from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.infrastructure.resilience._breaker import CLOSED, HALF_OPEN, OPEN, Probes
from holdfast.infrastructure.resilience._bus import GOES_ON, bus, emit, log_once
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.store._redis_link import Job, Link, refused, wait, wait_async

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from holdfast.infrastructure.resilience._breaker import Change, Machine
    from holdfast.infrastructure.resilience.permit import Permit
    from holdfast.infrastructure.store.redis_breaker import RedisBreakerStorage

_NEVER = float("-inf")
# The states that are shared; the others are a process's own.
_COMMON = frozenset({CLOSED, OPEN, HALF_OPEN})
_STATES = frozenset({"", *(state.value for state in _COMMON)})
# What asks or gives back: nothing is decided by it that others would have to be told again.
_MINOR = frozenset({"look", "probe", "return"})
# Places that Redis may still hold for nobody; it frees them itself when their leases end.
_OWED = 100


class Reply(NamedTuple):
    """What Redis holds; `left` are seconds from `at` on, on the breaker's clock; `granted` is a probe's place."""

    state: str
    gen: str
    left: float
    rounds: int
    granted: bool
    at: float


class Question:
    """What a call has to know before it is made. Without a job it need not wait."""

    __slots__ = ("_give_back", "_timeout", "_used", "job", "lease", "token")

    def __init__(
        self,
        job: Job | None = None,
        *,
        timeout: float = 0.0,
        token: object = None,
        lease: str = "",
        give_back: Callable[[str], None] | None = None,
    ) -> None:
        self.job = job
        self.token = token
        self.lease = lease
        self._timeout = timeout
        self._give_back = give_back
        self._used = False

    def wait(self) -> None:
        """Wait for the answer in this thread."""
        if self.job is not None:
            wait(self.job.future, self._timeout)

    async def wait_async(self) -> None:
        """Wait for the answer in this task."""
        if self.job is not None:
            await wait_async(self.job.future, self._timeout)

    def take(self) -> Reply | None:
        """Return the answer, None if there is none; with an answer nothing is given back from then on."""
        if self.job is None or not self.job.future.done():
            return None
        reply: Reply | None = self.job.future.result()
        self._used = reply is not None
        return reply

    def abandon(self) -> None:
        """Give back what is, or may be, granted to nobody: where the answer is lost, it may have been a grant."""
        give_back, lease = self._give_back, self.lease
        if self.job is not None and give_back is not None and not self._used:
            self._used = True

            def done(future: Future[Reply | None]) -> None:
                reply = future.result()
                if reply is None or reply.granted:
                    give_back(lease)

            self.job.future.add_done_callback(done)


class Shared:
    """The share of one breaker of this process in the state that Redis holds.

    A reply is followed only while the local generation is the one it was asked in, and if it tells of another
    generation than the one that is known: what was decided here meanwhile is on its way.
    """

    def __init__(self, storage: RedisBreakerStorage, machine: Machine) -> None:
        self._machine = machine
        self._storage = storage
        self._link: Link = storage._link
        self._keys = storage._keys()
        self._gen = ""
        self._asked = self._refused_until = _NEVER
        self._knows = False
        self._look: Job | None = None
        self._looked_on: object = None
        # Replies that no call waits for, with the local generation they were asked in; the next call reads them.
        self._inbox: deque[tuple[Reply, object]] = deque()
        self._leases: dict[Permit, str] = {}
        self._owed: deque[str] = deque(maxlen=_OWED)
        # The local round of probes, and the generation it belongs to.
        self._round: tuple[object, str] = (None, "")
        self._unsent = self._behind = False
        # What is wrong with Redis, if that was reported: it is "gone", or refuses a "look" or what is "told".
        self._trouble = ""
        self._failures: object = 0

    @property
    def awaited(self) -> bool:
        """Whether only async functions can wait for Redis."""
        return self._link.awaited

    # What the breaker calls.

    def succeeded(self) -> None:
        """Send nothing for a success."""

    def failed(self, machine: Machine, change: Change | None) -> Change | None:
        """Send nothing for a failure: only an opening is shared."""
        return change

    def forget(self) -> None:
        """Close for all processes, at the wish of one that was closed already."""
        self._report("force", CLOSED.value, 0, 0)

    def changed(self, machine: Machine, change: Change) -> None:
        """Share a new state: what was set by hand holds for all, the rest if nobody was faster."""
        new = change.new
        if new not in _COMMON:
            return
        if change.kind != "CircuitOverridden":
            self._failures = change.facts.get("failures", 0)
            if new is not HALF_OPEN and not change.shared:
                self._report_state()
        elif change.old in _COMMON:
            self._report("force", new.value, self._left(), machine.rounds)
        else:
            # Whoever leaves a state of its own knows nothing of the others'.
            self._gen, self._asked = "", _NEVER

    def probed(self, permit: Permit, change: Change | None, now: float, *, failed: bool | None) -> None:
        """Settle the lease of a probe; Redis draws the conclusion from all processes' probes."""
        lease = self._leases.pop(permit, None)
        if lease is None:
            return
        if change is not None:
            change.shared = True
        if failed is None:
            self._give_back(lease)
            return
        machine, config = self._machine, self._machine.config
        limit = config.slow_call_duration
        slow = limit is not None and now - permit.started >= limit
        allowed = 1 / config.half_open_calls if config.window.kind == "consecutive" else config.failure_rate
        wait = min(config.open_for * 2.0 ** min(machine.rounds + 1, 60), config.open_cap)
        if change is not None and change.new is OPEN:
            wait = machine.until - now
        self._report(
            "settle",
            lease,
            int(failed),
            int(slow),
            config.half_open_calls,
            repr(allowed),
            repr(2.0 if limit is None else config.slow_call_rate),
            _ms(wait),
        )

    def poll(self, machine: Machine, now: float) -> Change | None:
        """Follow what Redis said, and have it asked again if it is time."""
        change = self._read(now) if self._inbox else None
        if now - self._asked >= self._storage._poll:
            jobs = self._link.jobs
            if self._look is None or self._looked_on is not jobs or self._look.future.done():
                self._looked_on = jobs
                self._look = self._report("look")
            # Last: whoever finds that it was asked for finds what was asked.
            self._asked = now
        return change

    def question(self, permit: Permit) -> Question | None:
        """Return what this call has to wait for; None, as nearly always, if nothing."""
        if not self._link.up:
            return None
        if permit.probe:
            return self._ask_for_probe(permit)
        if not self._knows and not self._trouble and self._look is not None:
            return Question(self._look, timeout=self._storage._timeout)
        # A permit of a state that has ended since, or will when what was heard is read.
        ended = bool(self._inbox) or self._machine.mode in {OPEN, HALF_OPEN}
        return Question() if ended else None

    def answered(self, permit: Permit, question: Question) -> tuple[Change | None, bool | None]:
        """Follow the answer; return the change, and whether the call may be made; None: in another state."""
        now = self._machine.now()
        if not permit.probe:
            change = self._read(now)
            self._knows = True  # or gave up: the first call waits, not each until Redis answers
            with self._machine.lock:  # who reads besides us has followed then, too
                return change, None if self._machine.mode in {OPEN, HALF_OPEN} else True
        if question.job is None:
            return None, False
        reply = question.take()
        if reply is None:
            # Redis is slow or gone: what this process knows decides, and a late grant goes back.
            question.abandon()
            return None, True
        return self._probe_answered(permit, reply, question, now)

    # How that is done.

    def _ask_for_probe(self, permit: Permit) -> Question:
        now, storage = self._machine.now(), self._storage
        if now < self._refused_until:
            return Question()
        places = self._machine.config.half_open_calls
        # An identity, not chance: processes that are seeded alike must take different places.
        lease = os.urandom(12).hex()  # noqa: TID251
        job = self._send("probe", None, lease, _ms(self._held()), places)
        return Question(
            job, timeout=storage._timeout, token=permit.token, lease=lease, give_back=self._give_back
        )

    def _probe_answered(
        self, permit: Permit, reply: Reply, question: Question, now: float
    ) -> tuple[Change | None, bool | None]:
        if reply.granted:
            self._leases[permit] = question.lease
            self._forget_lost(now)
        change = self._read(now) or self._follow(reply, question.token, now)
        self._catch_up()
        if reply.granted:
            return change, True
        if reply.state == CLOSED.value:
            return change, None
        self._refused_until = now + self._storage._poll
        return change, False

    def _forget_lost(self, now: float) -> None:
        """Forget the leases of probes that never came back; Redis does so by itself."""
        held = self._held()
        for permit in [one for one in list(self._leases) if one.started + held < now]:
            self._leases.pop(permit, None)

    def _held(self) -> float:
        lease = self._storage._lease
        return self._machine.config.half_open_timeout if lease is None else lease

    def _give_back(self, lease: str) -> None:
        self._report("return", lease)

    def _left(self) -> int:
        machine = self._machine
        return _ms(machine.until - machine.now()) if machine.mode is OPEN else 0

    def _report_state(self) -> None:
        """Tell Redis the state that this process came to by itself."""
        machine = self._machine
        if machine.mode is OPEN:
            self._report("open", self._left(), machine.rounds, self._failures)
        elif machine.mode is CLOSED:
            self._report("close")

    def _report(self, op: str, *args: Any) -> Job:
        return self._send(op, self._token(), *args)

    def _send(self, op: str, token: object, *args: Any) -> Job:
        """Send one operation; its reply goes to the inbox if it has a token."""
        open_for = _ms(self._machine.config.open_for)
        told = [op, self._gen, int(self._storage._mirror), open_for, *args]

        def read(raw: Any) -> Reply:
            return self._received(op, raw, token)

        def failed(error: Exception) -> None:
            if op == "return":
                self._owed.append(args[0])
            self._failed(op, error)

        return self._link.send(Job(self._keys, told, read, failed, report=op not in {"look", "probe"}))

    def _received(self, op: str, raw: Any, token: object) -> Reply:
        reply = _reply(raw, self._machine.now())
        # That Redis can be read says nothing of whether it can be written.
        if op != "look" or self._trouble != "told":
            self._trouble = ""
        if token is not None:
            self._inbox.append((reply, token))
        if self._owed and not self._trouble:
            self._return_owed()
        return reply

    def _return_owed(self) -> None:
        try:
            self._give_back(self._owed.popleft())
        except IndexError:
            pass  # another thread was faster

    def _failed(self, op: str, error: Exception) -> None:
        if op not in _MINOR:
            self._unsent = True
        gone = not refused(error)
        if self._trouble and gone is (self._trouble == "gone"):
            return
        self._trouble = "gone" if gone else "look" if op == "look" else "told"
        if bus.entries:
            emit("StorageFailed", self._machine.name, error=error)
        log_once(f"storage of {self._machine.name!r}", error, GOES_ON)

    def _token(self) -> object:
        """Return what stands for the local generation."""
        machine = self._machine
        if machine.window is not None:
            return machine.window
        return machine.extra if type(machine.extra) is Probes else machine.until

    def _read(self, now: float) -> Change | None:
        """Follow the replies in order, up to the first that changes something."""
        change = None
        while change is None and self._inbox:
            with self._machine.lock:
                try:
                    reply, token = self._inbox.popleft()
                except IndexError:
                    break
                change = self._follow(reply, token, now)
        self._catch_up()
        return change

    def _follow(self, reply: Reply, token: object, now: float) -> Change | None:
        machine = self._machine
        with machine.lock:
            if machine.mode not in _COMMON or self._token() is not token:
                return None
            news = reply.gen != self._gen
            # An older generation than the known one is what a failover went back to.
            lost = not reply.state or int(reply.gen or 0) < int(self._gen or 0)
            if lost or (self._unsent and not news):
                self._behind = bool(reply.state) or machine.mode is OPEN
                self._unsent = False
                return None
            return self._adopt(reply, now, news=news)

    def _catch_up(self) -> None:
        """Tell Redis again what it has forgotten, or missed while it was away."""
        if self._behind:
            self._behind = False
            self._report_state()

    def _adopt(self, reply: Reply, now: float, *, news: bool) -> Change | None:
        machine = self._machine
        mode, state = machine.mode, CircuitState(reply.state)
        left = max(0.0, reply.at + reply.left - now)
        if mode is OPEN and state is OPEN:
            machine.until = now + left
        if not news:
            return None
        self._gen, self._unsent = reply.gen, False
        machine.rounds = reply.rounds
        if state is HALF_OPEN:
            return self._join_round(reply, now)
        if state is mode or (mode is HALF_OPEN and state is OPEN and left <= 0):
            return None
        return machine.adopt(state, now, left)

    def _join_round(self, reply: Reply, now: float) -> Change | None:
        """Let this process compete for the places of a round that another began."""
        machine = self._machine
        if machine.mode is CLOSED:
            return machine.adopt(OPEN, now, 0.0)
        if machine.mode is OPEN:
            machine.until = min(machine.until, now)
            return None
        known, gen = self._round
        if known is machine.extra and gen != reply.gen:
            machine.extra = Probes()
        self._round = (machine.extra, reply.gen)
        return None


def _reply(raw: Any, at: float) -> Reply:
    """Return a reply as Redis gave it; ValueError if it says what no breaker told."""
    state, gen, left, rounds, granted = raw
    reply = Reply(_text(state), _text(gen), int(left) / 1000, int(rounds), int(granted) == 1, at)
    if reply.state not in _STATES or bool(reply.state) is not reply.gen.isdecimal():
        raise ValueError(f"Redis holds no state of a breaker: {reply.state!r} of generation {reply.gen!r}")
    return reply


def _ms(seconds: float) -> int:
    return max(0, ceil(seconds * 1000))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
