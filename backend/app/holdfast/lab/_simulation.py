"""One run: the clients of a scenario, each under a policy of its own, and a record of all that happened."""

from __future__ import annotations

import asyncio
import logging
import random
from array import array
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from math import inf
from typing import Any, TypeAlias

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, breaker_of
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.randomness import use_random
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.lab import _chance
from holdfast.lab._chance import Chance, mix
from holdfast.lab._course import arrival_rates
from holdfast.lab._server import Attempt, Call, Model, Refused
from holdfast.lab.scenarios import Scenario
from holdfast.lab.subjects import Subject
from holdfast.lab.world import World

# A transport that waits this long has no time limit.
_NEVER = 86_400.0
# A service that calls another is faster and wider than that one, so that the last one is what limits.
_FRONT = 10
# Attempts per call that would have been made without a policy, beyond which a run is ended: it would take for ever.
_OVERRUN = 30


_Submit: TypeAlias = Callable[[Call, Callable[[BaseException | None], object]], Attempt]


class Trace:
    """All that happened in a run: calls in the order of their numbers, when which attempts reached the last tier."""

    __slots__ = ("attempts", "breakers", "calls", "digest", "overrun", "seed", "until", "wasted", "worked")

    def __init__(self, seed: int, calls: list[Call], attempts: list[tuple[float, Call]]) -> None:
        self.seed = seed
        self.calls = calls
        self.attempts = attempts
        # At each second, how many clients' breakers are open, and half-open.
        self.breakers: list[tuple[int, int]] = []
        self.worked = 0.0
        self.wasted = 0.0
        self.overrun = False
        self.until = inf
        self.digest = ""

    def seal(self) -> None:
        """Compute the digest: equal runs have equal ones."""
        numbers = array("d")
        for call in self.calls:
            numbers.extend((call.number, call.at, call.end, *call.attempts))
        for at, call in self.attempts:
            numbers.extend((at, call.number))
        text = ",".join(call.outcome for call in self.calls)
        self.digest = sha256(numbers.tobytes() + text.encode()).hexdigest()


class Simulation:
    """The clients, the servers, and the way from one to the other."""

    def __init__(self, scenario: Scenario, subject: Subject, seed: int, *, watch: bool = False) -> None:
        self.scenario = scenario
        self._watch = watch
        self.subject = subject
        self.chance = Chance(seed)
        self.world = World(packages=subject.packages)
        self.trace = Trace(seed, [], [])
        self._limit = _OVERRUN * scenario.load * scenario.duration
        self._running: dict[Call, asyncio.Future[Any]] = {}
        self._busy = [0] * scenario.clients
        self._counts = [0] * scenario.clients
        self._zero = 0.0

    def run(self) -> Trace:
        """Run it to its end."""
        with _seeded(self.chance.seed), _quiet(self.subject.packages):
            self.world.run(self._main())
        self.trace.calls.sort(key=lambda call: call.number)
        self.trace.seal()
        return self.trace

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._zero = self._loop.time()
        self._over = self._loop.create_future()
        if isinstance(self.subject.make, Policy):
            _begin_anew(self.subject.make)
        self._build()
        for client in range(self.scenario.clients):
            self._start(client)
        for trouble in self.scenario.troubles:
            if trouble.kind == "cancel":
                self._loop.call_at(self._zero + trouble.start, self._cancel, trouble.rate)
        breakers = _breakers(self._sends) if self._watch else []
        if breakers:
            self._look(breakers)
        end = self._loop.call_at(self._zero + self.scenario.duration, self._end)
        try:
            await self._over
        finally:
            end.cancel()
            self.trace.until = self.now()
            self.trace.worked, self.trace.wasted = self._models[-1].worked, self._models[-1].wasted

    def now(self) -> float:
        """Return seconds since the start of the scenario."""
        return self._loop.time() - self._zero

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _look(self, breakers: list[CircuitBreaker]) -> None:
        """Note the breakers' states, now and every second."""
        states = [one.state for one in breakers]
        self.trace.breakers.append((states.count(CircuitState.OPEN), states.count(CircuitState.HALF_OPEN)))
        second = len(self.trace.breakers)
        if second < self.scenario.duration:
            self._loop.call_at(self._zero + second, self._look, breakers)

    def _build(self) -> None:
        """Make the servers, last tier last, and the wrapped functions that call the first one, one per client."""
        spec, tiers = self.scenario.server, self.scenario.tiers
        front = replace(spec, workers=spec.workers * _FRONT, mean=spec.mean / _FRONT)
        self._models: list[Model] = []
        below: Model | None = None
        for tier in reversed(range(tiers)):
            forward = None if below is None else self._forwarder(below, tier + 1)
            below = Model(
                self._loop,
                self.chance,
                spec if forward is None else front,
                self.scenario.troubles if forward is None else (),
                tier=tier,
                forward=forward,
            )
            self._models.insert(0, below)
        sends = [self._sender(self._models[0], 0) for _ in range(self.scenario.clients)]
        self._sends = [self.subject.make(send) for send in sends]

    def _sender(self, model: Model, tier: int) -> Callable[[Call], Any]:
        """Return the function that makes an attempt at a tier: what the policy wraps."""

        def submit(call: Call, answer: Callable[[BaseException | None], object]) -> Attempt:
            attempt = Attempt(call, call.attempts[tier], answer)
            call.attempts[tier] += 1
            if tier == self.scenario.tiers - 1:
                self._note(call)
            model.submit(attempt)
            return attempt

        return self._asend(submit) if self.subject.asynchronous else self._send(submit)

    def _timer(self, attempt: Attempt, limit: float) -> asyncio.TimerHandle | None:
        if limit >= _NEVER:
            return None
        return self._loop.call_later(limit, attempt.give_up, TimeoutError("no answer"))

    def _asend(self, submit: _Submit) -> Callable[[Call], Any]:
        async def send(call: Call) -> Call:
            future: asyncio.Future[None] = self._loop.create_future()
            attempt = submit(call, partial(_settle, future))
            timer = self._timer(attempt, self.scenario.patience)
            try:
                await future
            finally:
                attempt.leave()
                if timer is not None:
                    timer.cancel()
            return call

        return send

    def _send(self, submit: _Submit) -> Callable[[Call], Any]:
        def send(call: Call) -> Call:
            errors: list[BaseException | None] = []
            timers: list[asyncio.TimerHandle | None] = []
            # As httpx under our transport does: the policies' deadline is a time limit, too.
            left = remaining()
            limit = self.scenario.patience if left is None else min(self.scenario.patience, max(left, 0.0))

            def arm(wake: Callable[[], None]) -> None:
                def answer(error: BaseException | None) -> None:
                    errors.append(error)
                    wake()

                timers.append(self._timer(submit(call, answer), limit))

            self.world.pause(arm)
            for timer in timers:
                if timer is not None:
                    timer.cancel()
            for error in errors:
                if error is not None:
                    raise error
            return call

        return send

    def _forwarder(self, below: Model, tier: int) -> Callable[..., object]:
        """Return what makes the call of one tier to the next, through a policy of that service's own."""
        send = self.subject.make(self._sender(below, tier))

        def forward(attempt: Attempt, done: Callable[[BaseException | None], None]) -> None:
            def ended(task: asyncio.Future[Any]) -> None:
                if not task.cancelled():
                    error = task.exception()
                    done(None if error is None else Refused("the service below failed"))

            self._launch(send, attempt.call).add_done_callback(ended)

        return forward

    def _launch(self, send: Callable[[Call], Any], call: Call) -> asyncio.Future[Any]:
        if self.subject.asynchronous:
            return self._loop.create_task(send(call))
        return self.world.thread(lambda: send(call))

    def _note(self, call: Call) -> None:
        """Note that an attempt reached the last tier."""
        self.trace.attempts.append((self.now(), call))
        if len(self.trace.attempts) > self._limit:
            self.trace.overrun = True
            self._end()

    def _start(self, client: int) -> None:
        """Have a client make its calls."""
        if self.scenario.arrivals == "closed":
            self._think(client)
            return
        arrivals = self.chance.arrivals(client, arrival_rates(self.scenario, client))
        self._next_arrival(client, arrivals)

    def _next_arrival(self, client: int, arrivals: Iterator[float]) -> None:
        at = next(arrivals, None)
        if at is not None:
            self._loop.call_at(self._zero + at, self._arrive, client, arrivals)

    def _arrive(self, client: int, arrivals: Iterator[float]) -> None:
        self._next_arrival(client, arrivals)
        self._call(client)

    def _think(self, client: int) -> None:
        pause = self.scenario.think * self.chance.exponential(_chance.THINK, client, self._counts[client])
        self._loop.call_later(pause, self._call, client)

    def _call(self, client: int) -> None:
        number = client << 32 | self._counts[client]
        self._counts[client] += 1
        shard = int(self.chance.uniform(_chance.SHARD, number) * self.scenario.server.shards)
        call = Call(number, client, shard, self.now(), attempts=[0] * self.scenario.tiers)
        self.trace.calls.append(call)
        if self._busy[client] >= self.scenario.slots:
            call.end, call.outcome = call.at, "full"
            return
        self._busy[client] += 1
        task = self._running[call] = self._launch(self._sends[client], call)
        task.add_done_callback(partial(self._ended, call))

    def _ended(self, call: Call, task: asyncio.Future[Any]) -> None:
        del self._running[call]
        self._busy[call.client] -= 1
        if self._over.done():
            # Cancelled because the run is over.
            return
        call.end, call.outcome = self.now(), _outcome(call, task)
        if self.scenario.arrivals == "closed":
            self._think(call.client)

    def _cancel(self, share: float) -> None:
        """Cancel a share of the running calls; a thread cannot be cancelled."""
        for call, task in [*self._running.items()]:
            if self.subject.asynchronous and self.chance.uniform(_chance.CANCEL, call.number) < share:
                task.cancel()


def _begin_anew(policy: Policy) -> None:
    """Have a policy that all clients share forget other runs, and the clock that it was on, as far as it can."""
    for part in policy._parts():
        for one in (part, getattr(getattr(part, "config", None), "budget", None)):
            reset: Callable[[], None] | None = getattr(one, "reset", None)
            if reset is not None:
                reset()


def _breakers(sends: list[Callable[[Call], Any]]) -> list[CircuitBreaker]:
    """Return the outermost breaker of each client that has one of ours."""
    found: list[CircuitBreaker] = []
    for send in sends:
        with suppress(LookupError, ValueError):
            found.append(breaker_of(send))
    return found


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _outcome(call: Call, task: asyncio.Future[Any]) -> str:
    """Say how a call ended: a call that failed without an attempt was refused by its own policy."""
    if task.cancelled():
        return "cancelled"
    if task.exception() is None:
        return "ok"
    return "failed" if call.attempts[0] else "rejected"


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Give the policies, and the libraries that draw from the common source, random numbers of their own."""
    before = random.getstate()
    random.seed(mix(seed ^ _chance.POLICY))  # noqa: TID251  # peers draw from it
    try:
        with use_random(mix(~seed ^ _chance.POLICY)):
            yield
    finally:
        random.setstate(before)


@contextmanager
def _quiet(packages: tuple[str, ...]) -> Generator[None]:
    """Keep libraries from logging each of a hundred thousand retries."""
    loggers = [logging.getLogger(package) for package in packages]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was
