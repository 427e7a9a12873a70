"""Who waits on a virtual clock, who runs, and whose turn it is."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from holdfast.infrastructure.resilience.clock import SYSTEM

# In units of a clock's patience: how long a job that is queued, and whoever runs, may keep the others waiting; how
# long nothing at all may happen while somebody unknown could still make it happen.
QUEUED, RUN, SILENCE = 1, 10, 600
# The same for one that runs on and gives no sign, but is ready to.
STARVED = 40
# Also in units of patience: how long to nap between two looks, and how much real time to see at most in one look.
NAP, LOOK = 0.1, 0.15

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


def _nothing() -> None:
    return


def _is_ready(thread: threading.Thread) -> bool:
    """Tell whether a thread runs or would like to; where the system does not say, it does not."""
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    # The name before may hold anything, parentheses too. D: it waits for the disk, or for memory.
    return stat.rpartition(")")[2].split()[0] in {"R", "D"}


@dataclass(slots=True, eq=False)
class Participant:
    """A thread, a running event loop or a job of its executor; it waits if it has an `until`, or runs."""

    label: str
    guest: bool = False
    ring: Callable[[], None] = _nothing
    thread: threading.Thread | None = None
    since: float = 0.0
    hold: float = 0.0
    until: float | None = None
    event: threading.Event | None = None
    sockets: bool = False
    visit: int = -1
    order: int = 0
    stuck: bool = False

    def due(self, now: float) -> float:
        """Return when it is to wake: now, if the event that it waits for is set."""
        called = self.event is not None and self.event.is_set()
        return now if called or self.until is None else self.until

    def check(self) -> None:
        """Raise if it was woken only because everybody waited for ever."""
        if self.stuck:
            self.stuck = False
            raise RuntimeError(
                f"everything waits for something that can no longer happen; so does this {self.label}:"
                " give the wait a timeout, or let somebody who runs on the clock end it"
            )


@dataclass(slots=True)
class Coordinator:
    """Let one participant run at a time, and time pass only when none does; `patience` in real seconds."""

    now: float
    patience: float
    changed: threading.Condition = field(default_factory=threading.Condition)
    home: threading.Thread = field(default_factory=threading.current_thread)
    _present: set[Participant] = field(default_factory=set[Participant])
    _parked: set[threading.Thread] = field(default_factory=set[threading.Thread])
    _last: float = 0.0
    _visits: int = 0
    _orders: Iterator[int] = field(default_factory=itertools.count)
    _here: threading.local = field(default_factory=threading.local)
    _lived: float = 0.0
    _seen: float = field(default_factory=SYSTEM.monotonic)

    def pause(self, until: float, event: threading.Event | None = None) -> None:
        """Block this thread until the clock shows `until` or `event` is set, and it is this thread's turn."""
        me = self._me()
        self.block(me, until, event)
        self.await_turn(me)

    def _real(self) -> float:
        """Return real seconds, but for those in which the machine let nobody here look: they are no one's fault."""
        with self.changed:
            seen, self._seen = self._seen, SYSTEM.monotonic()
            self._lived += min(self._seen - seen, LOOK * self.patience)
            return self._lived

    def await_turn(self, me: Participant) -> None:
        """Block this thread until `me` runs."""
        try:
            while self._nap(me):
                pass
        finally:
            self.run(me)
        me.check()

    def _nap(self, me: Participant) -> bool:
        """Wait a little, for real, if `me` still has to wait; tell whether it had to."""
        with self.changed:
            nap = self.elect()
            if me.until is None:
                return False
            # Whoever wakes `me` from now on takes it away.
            event = me.event
            if event is None or event.is_set():
                self.changed.wait(nap)
                return True
        # Whoever sets an event tells nobody else: look up from it often.
        event.wait(NAP * self.patience)
        return True

    def block(
        self, who: Participant, until: float, event: threading.Event | None = None, *, sockets: bool = False
    ) -> None:
        """Note that `who` waits from now on."""
        with self.changed:
            self._present.add(who)
            who.until, who.event, who.sockets, who.order = until, event, sockets, next(self._orders)
            self._visits += who.thread is self.home
            self._last = self._real()

    def run(self, who: Participant, hold: float = RUN) -> None:
        """Note that `who` runs from now on, and may keep the others waiting for `hold` times the patience."""
        with self.changed:
            who.until, who.event, who.sockets, who.hold = None, None, False, hold
            who.since = self._last = self._real()

    def enter(self, who: Participant, hold: float = RUN) -> None:
        """Note that `who` is there, and runs."""
        with self.changed:
            self._present.add(who)
            self.run(who, hold)

    def leave(self, who: Participant) -> None:
        """Note that `who` is not there any more."""
        with self.changed:
            self._present.discard(who)
            self._last = self._real()
            self.elect()
            self.changed.notify_all()

    def elect(self) -> float:
        """If none runs, wake whoever is due first; return after how many real seconds to look again."""
        with self.changed:
            real = self._real()
            self._forget(real)
            waiting = [one for one in self._present if one.until is not None]
            if waiting and not any(self._holds_up(one, real) for one in self._running()):
                self._wake_first(waiting, real)
            return NAP * self.patience

    def _holds_up(self, one: Participant, real: float) -> bool:
        """Tell whether the others still wait for one that runs: longer if only a busy machine keeps it from running."""
        over = real - one.since - one.hold * self.patience
        return over < 0 or (over < STARVED * self.patience and any(map(_is_ready, self._threads_of(one))))

    def _threads_of(self, one: Participant) -> set[threading.Thread]:
        """Return the thread of one that runs; a job that is still queued may be about to begin in any other."""
        return self._unknown() if one.thread is None else {one.thread}

    def _wake_first(self, waiting: list[Participant], real: float) -> None:
        first = min(waiting, key=lambda one: (one.due(self.now), one.order))
        due = first.due(self.now)
        if due <= self.now:
            self._wake(first, waiting)
        elif self._may_act(waiting, due, real - self._last):
            return
        elif due < inf:
            self.now = due
            for one in waiting:
                one.visit = self._visits
            self._wake(first, waiting)
        else:
            self._despair(waiting)

    def _may_act(self, waiting: list[Participant], due: float, silence: float) -> bool:
        """Tell whether the outside still has time to act, after so many real seconds in which nothing happened."""
        grace = self._grace(waiting, due)
        if silence < grace:
            return True
        # A thread that is ready to run, but that a busy machine lets wait, gets as long as one that runs.
        return grace > 0 and silence < RUN * self.patience and any(map(_is_ready, self._unknown()))

    def _grace(self, waiting: list[Participant], due: float) -> float:
        """Return for how many real seconds the outside may act before time passes, or before all is lost."""
        sockets = any(one.sockets for one in waiting)
        if due < inf:
            set_by_others = any(one.event for one in waiting) and self._strangers()
            return self.patience if sockets or set_by_others or self._home_may_come(waiting) else 0.0
        outside = sockets or any(self._running()) or self._strangers()
        return self.patience * (SILENCE if outside else RUN)

    def _wake(self, who: Participant, waiting: list[Participant]) -> None:
        self.run(who)
        if who.guest and (who.thread is not self.home or len(waiting) == 1):
            self._present.discard(who)
        who.ring()
        self.changed.notify_all()

    def _despair(self, waiting: list[Participant]) -> None:
        for one in waiting:
            one.stuck = True
            self._wake(one, waiting)

    def _running(self) -> Iterator[Participant]:
        return (one for one in self._present if one.until is None)

    def _forget(self, real: float) -> None:
        """Drop the unregistered threads that have run for too long to be heard of again."""
        for one in [*self._running()]:
            if one.guest and one.since + one.hold * self.patience <= real:
                self._present.discard(one)

    def _home_may_come(self, waiting: list[Participant]) -> bool:
        """Tell whether the thread that made the clock may be about to wait for one that it has just started.

        It is given time for that once, until it does come: it may as well wait for them elsewhere.
        """
        asked = all(one.visit == self._visits for one in waiting if one.guest)
        known = self.home in self._parked or any(one.thread is self.home for one in self._present)
        return not (asked or known) and self.home.is_alive()

    def _strangers(self) -> bool:
        """Tell whether a thread lives of which nothing is known."""
        return bool(self._unknown())

    def _unknown(self) -> set[threading.Thread]:
        known = self._parked.union(one.thread for one in self._present if one.thread)
        return {*threading.enumerate()} - known

    def _me(self) -> Participant:
        me: Participant | None = getattr(self._here, "participant", None)
        if me is None:
            thread = threading.current_thread()
            me = self._here.participant = Participant(f"thread {thread.name!r}", guest=True, thread=thread)
        return me

    def release(self, who: Participant) -> None:
        """Expect nothing more of `who`; if it still waits, it goes on as an unregistered thread does."""
        with self.changed:
            who.guest = True
            if who.until is None:
                self.leave(who)

    def work(self, job: Participant, function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        """Call `function` in this thread as `job`, which stays until its loop has heard of the end."""
        before: Participant | None = getattr(self._here, "participant", None)
        self._here.participant, job.thread = job, threading.current_thread()
        self.run(job)
        try:
            return function(*args)
        finally:
            self._here.participant = before
            self._end(job)

    def _end(self, job: Participant) -> None:
        with self.changed:
            self.run(job)
            # This thread is free: the job that it may take on from the queue needs a moment to begin.
            for one in self._running():
                if one.hold == QUEUED:
                    one.since = job.since
            if job.guest:
                self.leave(job)

    @contextmanager
    def acting(self, who: Participant | None) -> Generator[None]:
        """Let this thread act as `who`, or as nobody, for a block; what it was before is away meanwhile."""
        before: Participant | None = getattr(self._here, "participant", None)
        thread = threading.current_thread()
        with self.changed:
            self._here.participant = who
            if who is None:
                self._parked.add(thread)
            else:
                who.thread = thread
                if who.until is None:
                    self.enter(who)
            if before is not None:
                self.leave(before)
        try:
            yield
        finally:
            with self.changed:
                self._here.participant = before
                if before is not None and not before.guest:
                    self.enter(before)
                self._parked.discard(thread)
                if who is not None:
                    self.leave(who)

    def run_threads(self, functions: Sequence[Callable[[], _T]]) -> list[_T]:
        """Run every function in a thread of its own; where time does not decide, in their order."""
        results: dict[int, _T] = {}
        errors: list[BaseException] = []
        members = [Participant(f"thread {number}") for number in range(len(functions))]

        def body(number: int) -> None:
            with self.acting(members[number]):
                try:
                    self.await_turn(members[number])
                    results[number] = functions[number]()
                except BaseException as error:
                    errors.append(error)

        for member in members:
            self.block(member, self.now)
        with self.acting(None):
            self._see_through(members, body)
        if errors:
            raise errors[0]
        # Taken out: by its traceback an error that was returned may keep the frame that keeps the results.
        return [results.pop(number) for number in range(len(functions))]

    def _see_through(self, members: list[Participant], body: Callable[[int], None]) -> None:
        """Start a thread for every member, and wait until all have left."""
        try:
            threads = [
                threading.Thread(target=body, args=(number,), name=f"virtual {member.label}", daemon=True)
                for number, member in enumerate(members)
            ]
            for thread in threads:
                thread.start()
            self._await_end(members)
        finally:
            for member in members:
                self.release(member)
        for thread in threads:
            thread.join()

    def _await_end(self, members: list[Participant]) -> None:
        with self.changed:
            while self._present.intersection(members):
                self.changed.wait(NAP * self.patience)
                # Later than those who wait give up, who know more of what is wrong.
                if self._real() - self._last > (SILENCE + RUN) * self.patience:
                    raise RuntimeError(
                        f"nothing happened on the virtual clock for {SILENCE * self.patience:g} real seconds,"
                        " but a thread still runs: what it waits for is not on the clock"
                    )
