"""The quantile that hedges wait for, against exact quantiles of the same values."""

import gc
import tracemalloc
from collections.abc import Callable
from itertools import accumulate
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience._quantile import Estimate, _moved

# What the estimate can differ by from the value that it stands for: the width of a bucket.
RATIO = 1.195

DISTRIBUTIONS: dict[str, Callable[[Random], float]] = {
    "uniform": lambda random: random.uniform(0.01, 0.5),
    "exponential": lambda random: 0.02 + random.expovariate(10),
    "lognormal": lambda random: random.lognormvariate(-3, 1),
    "pareto": lambda random: 0.01 * random.paretovariate(1.5),
    "two modes": lambda random: (
        random.uniform(0.8, 1.2) if random.random() < 0.2 else random.uniform(0.01, 0.02)
    ),
    "constant": lambda random: 0.25,
}


def exact(values: list[float], q: float) -> float:
    """Return the smallest value that at least the share `q` of all does not exceed."""
    return sorted(values)[max(0, ceil(min(q, 1.0) * len(values)) - 1)]


def fed(values: list[float], q: float, samples: int = 1) -> Estimate:
    estimate = Estimate(q, samples)
    for value in values:
        estimate.add(value)
    return estimate


@given(
    values=st.lists(st.floats(1e-3, 99.0), min_size=32, max_size=254),
    q=st.sampled_from([0.25, 0.5, 0.75, 0.9375]),
)
def test_a_few_hundred_values_are_exact_but_for_their_bucket(values: list[float], q: float) -> None:
    """Before anything fades the estimate lies in the bucket of the exact quantile, whatever the values."""
    seen = values[: (len(values) - 1) // 32 * 32 + 1]
    assert fed(seen, q).value == pytest.approx(exact(seen, q), rel=RATIO - 1)


@given(
    counts=st.lists(st.integers(0, 255), min_size=65, max_size=65).filter(any),
    start=st.integers(0, 64),
    q=st.floats(0.001, 0.999),
)
def test_the_bucket_is_the_same_wherever_the_search_begins(counts: list[int], start: int, q: float) -> None:
    """The search from the last bucket found ends in the first whose cumulative count reaches the rank."""
    rank = q * sum(counts)
    wanted = next(at for at, below in enumerate(accumulate(counts)) if below >= rank)
    assert _moved(bytearray(counts), start, sum(counts[:start]), rank) == wanted


@given(st.floats(allow_nan=False, allow_infinity=True))
def test_every_value_has_the_bucket_of_its_logarithm(value: float) -> None:
    """Buckets have equal ratio between 1 ms and 100 s; whatever lies outside, even infinity, counts as the nearest."""
    found = fed([value], 0.5).value
    nearest = min(max(value, 1e-3), 100.0)
    assert found is not None
    assert found == pytest.approx(nearest, rel=RATIO**0.5 - 1 + 1e-9)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), q=st.sampled_from([0.5, 0.9, 0.95]))
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_long_run_stays_near_the_quantile(name: str, seed: int, q: float) -> None:
    """After thousands of values the estimate is what a sample of a few hundred gives: 4 standard errors of its rank."""
    random = Random(seed)
    values = [DISTRIBUTIONS[name](random) for _ in range(3008)]
    slack = 4.5 * (q * (1 - q) / 256) ** 0.5
    value = fed(values, q).value
    assert value is not None
    assert exact(values, q - slack) / RATIO <= value <= exact(values, q + slack) * RATIO


@settings(deadline=None)
@given(before=st.integers(0, 3000), low=st.floats(1e-3, 0.1), factor=st.floats(3.0, 100.0))
def test_it_follows_what_becomes_slower(before: int, low: float, factor: float) -> None:
    """When latency rises, the 95th percentile has risen 64 calls later, whatever came before."""
    estimate = fed([low] * before, 0.95)
    for _ in range(64):
        estimate.add(low * factor)
    assert estimate.value == pytest.approx(low * factor, rel=RATIO - 1)


@settings(deadline=None)
@given(before=st.integers(0, 3000), low=st.floats(1e-3, 0.1), factor=st.floats(3.0, 100.0))
def test_it_follows_what_becomes_quicker(before: int, low: float, factor: float) -> None:
    """When latency falls, the 95th percentile has fallen 1,536 calls later, whatever came before."""
    estimate = fed([low * factor] * before, 0.95)
    for _ in range(1536):
        estimate.add(low)
    assert estimate.value == pytest.approx(low, rel=RATIO - 1)


@given(values=st.lists(st.floats(1e-3, 99.0), max_size=300), times=st.integers(1, 9))
def test_fading_moves_no_rank(values: list[float], times: int) -> None:
    """Each halving of the counts halves every cumulative count, to within one."""
    estimate = fed(values, 0.5)
    for _ in range(times):
        before = [*accumulate(estimate.counts)]
        estimate.halve()
        after = [*accumulate(estimate.counts)]
        assert all(abs(old / 2 - new) <= 0.5 for old, new in zip(before, after, strict=True))


@given(st.lists(st.floats(0.0, 1e12), min_size=32, max_size=64))
def test_no_value_is_out_of_range(values: list[float]) -> None:
    """Values below 1 ms or above 100 s count as those, 0 included."""
    value = fed(values, 0.5).value
    assert value is not None
    assert 1e-3 <= value <= 100.0


@settings(deadline=None)
@given(samples=st.integers(1, 500))
def test_nothing_is_said_before_enough_is_known(samples: int) -> None:
    """The estimate comes with value number `samples`, and stays."""
    estimate, seen = Estimate(0.95, samples), list[float | None]()
    for _ in range(samples + 600):
        estimate.add(0.25)
        seen.append(estimate.value)
    assert seen[: samples - 1] == [None] * (samples - 1)
    assert seen[samples - 1 :] == [pytest.approx(0.25, rel=RATIO - 1)] * 601


def test_it_fits_into_400_bytes() -> None:
    """However many values there were, an estimate and all that it holds is at most 400 bytes."""
    random = Random(1)
    values = [random.lognormvariate(-3, 1) for _ in range(2000)]
    gc.collect()
    tracemalloc.start()
    try:
        estimates = [fed(values, 0.95) for _ in range(20)]
        before = tracemalloc.get_traced_memory()[0]
        estimates[:] = [Estimate(0.5, 1)]
        freed = before - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 100 < freed / 19 <= 400
