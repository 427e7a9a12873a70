"""The bulkhead against a naive model: lists of who runs and who waits, worked out anew after every step."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.bulkhead import Bulkhead
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.deadline import deadline_after
from holdfast.infrastructure.resilience.errors import BulkheadFullError
from holdfast.testing import VirtualClock

NEVER = float("inf")
_ROUNDS = 6

Step: TypeAlias = tuple[str, int]

# What can happen: a call comes with so many seconds left (0: without a deadline), the running call of that rank ends
# or fails, the call of that rank among all is cancelled, the limit changes, seconds pass.
steps = st.one_of(
    st.tuples(st.just("come"), st.integers(0, 4)),
    st.tuples(st.sampled_from(("end", "fail", "cancel")), st.integers(0, 9)),
    st.tuples(st.just("end and cancel"), st.integers(0, 9)),
    st.tuples(st.just("resize"), st.integers(1, 4)),
    st.tuples(st.just("pass"), st.integers(1, 3)),
)


@dataclass
class Model:
    """What a bulkhead is, said as simply as possible."""

    limit: int
    queue: int
    max_wait: float | None
    now: float = 0.0
    begun: list[int] = field(default_factory=list[int])
    running: list[int] = field(default_factory=list[int])
    waiting: dict[int, float] = field(default_factory=dict[int, float])
    outcomes: dict[int, str] = field(default_factory=dict[int, str])

    def come(self, call: int, left: float) -> None:
        """Run, wait or be refused."""
        longest = NEVER if self.max_wait is None else self.max_wait
        self.waiting[call] = self.now + min(longest, left)
        full = len(self.waiting) > self.queue or self.waiting[call] <= self.now
        self.admit()
        if full and self.waiting.pop(call, None) is not None:
            self.outcomes[call] = "refused"

    def admit(self) -> None:
        """Let whoever has waited longest run, while there are places."""
        while self.waiting and len(self.running) < self.limit:
            call = next(iter(self.waiting))
            del self.waiting[call]
            self.running.append(call)
            self.begun.append(call)

    def leave(self, call: int, outcome: str) -> None:
        """End a call, wherever it is."""
        self.outcomes[call] = outcome
        self.waiting.pop(call, None)
        if call in self.running:
            self.running.remove(call)

    def tick(self, seconds: float) -> None:
        """Drop whoever has waited too long."""
        self.now += seconds
        for call in [call for call, until in self.waiting.items() if until <= self.now]:
            self.leave(call, "refused")


class World:
    """A real bulkhead with tasks, driven step by step beside the model."""

    def __init__(self, clock: VirtualClock, limit: int, queue: int, max_wait: float | None) -> None:
        self.clock = clock
        self.places = Bulkhead(limit, queue=queue, max_wait=max_wait)
        self.model = Model(limit, queue, max_wait)
        self.begun: list[int] = []
        self.ends: list[asyncio.Future[None]] = []
        self.tasks: list[asyncio.Task[str]] = []
        self.call = self.places(self._work())

    def _work(self) -> Any:
        async def work(call: int) -> str:
            self.begun.append(call)
            await self.ends[call]
            return "done"

        return work

    async def _task(self, call: int, left: float) -> str:
        try:
            if left == NEVER:
                return await self.call(call)  # type: ignore[no-any-return]  # the decorated function is Any
            with deadline_after(left):
                return await self.call(call)  # type: ignore[no-any-return]  # as above
        except BulkheadFullError:
            return "refused"
        except ValueError:
            return "failed"
        except asyncio.CancelledError:
            return "cancelled"

    def do(self, kind: str, number: int) -> None:
        """Make one step in both worlds; time aside."""
        model = self.model
        if kind == "come":
            call, left = len(self.tasks), number or NEVER
            self.ends.append(asyncio.get_running_loop().create_future())
            self.tasks.append(asyncio.ensure_future(self._task(call, left)))
            model.come(call, left)
        elif kind == "resize":
            self.places.resize(number)
            model.limit = number
            model.admit()
        elif kind == "cancel":
            self._cancel(number)
            model.admit()
        elif model.running:
            self._end(kind, model.running[number % len(model.running)])
            if kind == "end and cancel":
                self._cancel_next()
            model.admit()

    def _end(self, kind: str, call: int) -> None:
        if kind == "fail":
            self.ends[call].set_exception(ValueError())
        else:
            self.ends[call].set_result(None)
        self.model.leave(call, "failed" if kind == "fail" else "done")

    def _cancel(self, number: int) -> None:
        here = [*self.model.running, *self.model.waiting]
        if here:
            call = here[number % len(here)]
            self.tasks[call].cancel()
            self.model.leave(call, "cancelled")

    def _cancel_next(self) -> None:
        """Cancel the next in the queue when it has the place, but has not heard of it."""
        if self.model.waiting and len(self.model.running) < self.model.limit:
            call = next(iter(self.model.waiting))
            asyncio.get_running_loop().call_soon(self.tasks[call].cancel)
            self.model.leave(call, "cancelled")

    async def settle(self) -> None:
        """Let the loop go round until nothing moves."""
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)

    def check(self) -> None:
        """Compare."""
        model, places = self.model, self.places
        assert self.begun == model.begun
        assert (places.limit, places.running, places.waiting) == (
            model.limit,
            len(model.running),
            len(model.waiting),
        )
        assert {at: task.result() for at, task in enumerate(self.tasks) if task.done()} == model.outcomes
        assert places.rejected == [*model.outcomes.values()].count("refused")


async def live(world: World, script: list[Step]) -> None:
    """Play a script, then end every call: nobody may be left."""
    for kind, number in script:
        if kind == "pass":
            await world.clock.asleep(number)
            world.model.tick(number)
        else:
            world.do(kind, number)
        await world.settle()
        world.check()
    while world.model.running:
        world.do("end", 0)
        await world.settle()
        world.check()
    assert all(task.done() for task in world.tasks)


@given(
    limit=st.integers(1, 3),
    queue=st.integers(0, 4),
    max_wait=st.sampled_from((None, 1.0, 2.0, 5.0)),
    script=st.lists(steps, max_size=40),
)
def test_a_bulkhead_is_what_the_model_says(
    limit: int, queue: int, max_wait: float | None, script: list[Step]
) -> None:
    """After any steps the same calls have begun in the same order, run, wait and were refused; every waiter ends."""
    clock = VirtualClock()
    with use_clock(clock):
        clock.run(live(World(clock, limit, queue, max_wait if queue else None), script))
