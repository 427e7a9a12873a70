"""Throttle: the chance is the formula's for every history of calls."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import ThrottledError
from holdfast.infrastructure.resilience.throttle import Throttle
from holdfast.testing.clock import VirtualClock

# What happens next: seconds that pass, then a call that is answered, refused by the dependency, or cancelled.
HISTORIES = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.0, 1.0, 2.0, 9.0, 10.0, 25.0)),
        st.sampled_from("aaarrrrc"),
        st.integers(1, 5),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(
    HISTORIES, st.sampled_from((1.0, 1.5, 2.0, 10.0)), st.sampled_from((1, 2, 10, 30)), st.integers(0, 2**32)
)
def test_the_chance_follows_the_calls_of_the_window(
    history: list[tuple[float, str, int]], k: float, least: int, seed: int
) -> None:
    """After every call the counts are those of the last ten buckets, and refusals those that the seed says."""
    clock, oracle = VirtualClock(), Random(seed)
    counted: list[tuple[float, bool]] = []
    with use_clock(clock):
        throttle = Throttle(k=k, min_calls=least, random=Random(seed))
        for passed, what, times in history:
            clock.advance(passed)
            for _ in range(times):
                counted = [(at, accepted) for at, accepted in counted if at > clock.elapsed - 10.0]
                requests, accepts = len(counted), sum(accepted for _, accepted in counted)
                assert (throttle.requests, throttle.accepts) == (requests, accepts)
                chance = min(0.9, max(0.0, (requests - k * accepts) / (requests + 1)))
                chance *= requests >= least
                assert throttle.rejection_probability == chance
                refused = chance > 0 and oracle.random() < chance
                assert call(throttle, what) is refused
                if refused or what != "c":
                    counted.append((clock.elapsed, not refused and what == "a"))


def call(throttle: Throttle, what: str) -> bool:
    """Make a call that ends so; return whether it was refused."""

    def dependency() -> None:
        if what != "a":
            raise ConnectionError if what == "r" else KeyboardInterrupt

    try:
        throttle.call(dependency)
    except ThrottledError:
        return True
    except (ConnectionError, KeyboardInterrupt):
        return False
    return False


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(1.0, 10.0), st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_the_chance_is_never_above_the_cap(answered: int, failed: int, k: float, cap: float) -> None:
    """The chance is between 0 and the cap: 0 while `requests <= k * accepts`, or below `min_calls`, and only then."""
    with use_clock(VirtualClock()):
        throttle = Throttle(k=k, max_rejection=cap, random=Random(0))
        for accepted, number in ((True, answered % 50), (False, failed % 50)):
            for _ in range(number):
                permit(throttle, accepted=accepted)
        chance = throttle.rejection_probability
        assert 0.0 <= chance <= cap
        assert (chance == 0) is (throttle.requests <= k * throttle.accepts or throttle.requests < 10)


def permit(throttle: Throttle, *, accepted: bool) -> None:
    """Make a block that ends so, unless it is refused."""
    try:
        with throttle:
            if not accepted:
                raise ConnectionError
    except (ConnectionError, ThrottledError):
        return
