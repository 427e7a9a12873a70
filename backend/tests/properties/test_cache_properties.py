"""The cache against a naive model that keeps a list and searches it, over random time, calls, errors and evictions."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience._cache import State
from holdfast.infrastructure.resilience.cache import Cache
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.testing import VirtualClock

TTL, STALE = 4.0, 6.0


@dataclass(frozen=True)
class Kept:
    """A result, when it came, and the number of the step that used it last."""

    key: int
    value: int
    born: float
    used: int


class Model:
    """The rules of the cache in the plainest words: fresh until `TTL`, stale for errors until `STALE` after that."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: list[Kept] = []
        self.step = self.value = 0
        self.counts = {"hits": 0, "stale": 0, "misses": 0, "coalesced": 0, "evictions": 0}

    def find(self, key: int) -> Kept | None:
        return next((one for one in self.kept if one.key == key), None)

    def use(self, one: Kept) -> int:
        self.step += 1
        self.kept[self.kept.index(one)] = replace(one, used=self.step)
        return one.value

    def call(self, key: int, now: float, outcome: str) -> int | str:
        """Return what the caller gets."""
        one = self.find(key)
        if one is not None and now < one.born + TTL:
            self.counts["hits"] += 1
            return self.use(one)
        self.counts["misses"] += 1
        if outcome == "ok":
            return self.keep(key, now, one)
        if outcome == "transient" and one is not None and now < one.born + TTL + STALE:
            self.counts["stale"] += 1
            return self.use(one)
        return outcome

    def keep(self, key: int, now: float, before: Kept | None) -> int:
        self.value += 1
        self.step += 1
        self.kept = [one for one in self.kept if one != before]
        self.kept.append(Kept(key, self.value, now, self.step))
        if len(self.kept) > self.limit:
            self.kept.remove(min(self.kept, key=lambda one: one.used))
            self.counts["evictions"] += 1
        return self.value

    def invalidate(self, key: int) -> bool:
        one = self.find(key)
        self.kept = [other for other in self.kept if other.key != key]
        return one is not None


ERRORS = {"transient": ConnectionError, "permanent": ValueError}
keys = st.integers(0, 5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), keys, st.sampled_from(["ok", "ok", "transient", "permanent"])),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 1.0, 3.5, 4.0, 6.0]), st.none()),
        st.tuples(st.just("invalidate"), keys, st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
    ),
    max_size=60,
)


def state_of(cache: Any) -> State:
    state: State = cache._state  # noqa: SLF001  # what it holds shows nowhere else
    return state


class Subject:
    """The cache itself, around a function that does what it is told."""

    def __init__(self, limit: int, clock: VirtualClock, *, is_async: bool) -> None:
        self.cache = Cache(TTL, jitter=0, stale_if_error=STALE, max_entries=limit)
        self.clock = clock
        self.value = 0
        self.outcome = "ok"
        self.is_async = is_async
        self.runner = asyncio.Runner(loop_factory=clock.loop)
        self.function = self.cache(self.asynchronous()) if is_async else self.cache(self.plain())

    def compute(self) -> int:
        if self.outcome != "ok":
            raise ERRORS[self.outcome]
        self.value += 1
        return self.value

    def plain(self) -> Any:
        def function(key: int) -> int:
            return self.compute()

        return function

    def asynchronous(self) -> Any:
        async def function(key: int) -> int:
            return self.compute()

        return function

    def call(self, key: int, outcome: str) -> int | str:
        self.outcome = outcome
        try:
            result: int = self.runner.run(self.function(key)) if self.is_async else self.function(key)
        except ConnectionError:
            return "transient"
        except ValueError:
            return "permanent"
        return result


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 4), script=steps)
def test_the_cache_does_as_the_model_does(*, is_async: bool, limit: int, script: list[Any]) -> None:
    """Same results, same errors, same counts and the same keys held, after every step."""
    clock = VirtualClock()
    with use_clock(clock):
        model, subject = Model(limit), Subject(limit, clock, is_async=is_async)
        with subject.runner:
            for what, value, outcome in script:
                if what == "call":
                    expected = model.call(value, clock.monotonic(), outcome)
                    assert subject.call(value, outcome) == expected
                elif what == "pass":
                    clock.advance(value)
                elif what == "invalidate":
                    assert subject.cache.invalidate(value) is model.invalidate(value)
                else:
                    model.kept.clear()
                    subject.cache.clear()
                info = subject.cache.info()
                assert {name: getattr(info, name) for name in model.counts} == model.counts
                held = {entry.key[1]: entry.value for entry in state_of(subject.cache).entries.values()}
                assert held == {one.key: one.value for one in model.kept}
                assert info.entries == len(held)


durations = st.sampled_from([0.5, 1.0, 2.0, 5.0])
callers = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.75, 1.5, 3.0]), st.integers(0, 1), st.none() | durations),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(script=callers, latency=durations)
def test_every_caller_is_answered_or_cancelled(
    script: list[tuple[float, int, float | None]], latency: float
) -> None:
    """Whoever comes when, and goes when: who stays is answered, no two computations of a key overlap, none is left."""
    clock = VirtualClock()
    cache = Cache(0.125, jitter=0)
    running: dict[int, int] = {0: 0, 1: 0}

    @cache
    async def function(key: int) -> int:
        running[key] += 1
        assert running[key] == 1
        try:
            await clock.asleep(latency)
        finally:
            running[key] -= 1
        return key

    async def caller(begins: float, key: int, patience: float | None) -> Any:
        await clock.asleep(begins)
        came = clock.elapsed
        try:
            async with asyncio.timeout(patience):
                return await function(key) == key and clock.elapsed - came <= latency
        except TimeoutError:
            return patience is not None and clock.elapsed - came == patience

    async def main() -> list[Any]:
        return await asyncio.gather(*(caller(*one) for one in script))

    with use_clock(clock):
        assert all(clock.run(main()))
    assert running == {0: 0, 1: 0}
    assert state_of(cache).flights == {}
