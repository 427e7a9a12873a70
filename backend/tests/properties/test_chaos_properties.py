"""Chaos for any seed and rates: which calls are struck."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.chaos import Chaos
from holdfast.testing import VirtualClock

SEEDS = st.integers(min_value=-(2**70), max_value=2**70)
RATES = st.floats(min_value=0, max_value=1)
TIMES = 40


def struck(**settings: Any) -> list[bool]:
    """Return which of the first calls fail."""

    def fetch() -> bool:
        return False

    decorated = Chaos(error=ConnectionError, enabled=True, **settings)(fetch)
    found: list[bool] = []
    for _ in range(TIMES):
        try:
            found.append(decorated())
        except ConnectionError:
            found.append(True)
    return found


@given(seed=SEEDS, rates=st.tuples(RATES, RATES))
def test_a_higher_rate_strikes_the_same_calls_and_more(seed: int, rates: tuple[float, float]) -> None:
    """Of two policies with one seed, the one with the higher rate strikes every call that the other does."""
    few, more = (struck(seed=seed, rate=rate) for rate in sorted(rates))

    assert all(also for one, also in zip(few, more, strict=True) if one)


@given(
    seed=SEEDS,
    rate=RATES,
    other=st.sampled_from([{"latency": 1.0, "clock": VirtualClock()}, {"result": False}]),
)
def test_what_else_strikes_moves_no_error(seed: int, rate: float, other: dict[str, Any]) -> None:
    """For any seed and rate, the calls that fail are the same with and without a second kind of fault."""
    assert struck(seed=seed, rate=rate, **other) == struck(seed=seed, rate=rate)
