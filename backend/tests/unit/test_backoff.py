"""Backoff: exact delays, bounds, jitter within the cap, and what it refuses."""

import copy
import pickle
import threading
from random import Random
from typing import Any, Literal

import pytest

from holdfast.infrastructure.resilience.backoff import Backoff, backoff
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.randomness import use_random

Jitter = Literal["full", "equal", "decorrelated", "none"]
JITTERS: tuple[Jitter, ...] = ("full", "equal", "decorrelated", "none")


def delays(policy: Backoff, retries: int) -> list[float]:
    return [policy.delay(retry) for retry in range(1, retries + 1)]


def draws(policy: Backoff, retry: int, many: int = 1000, previous: float = 0.0) -> list[float]:
    chance = Random(1)
    return [policy.delay(retry, previous, chance) for _ in range(many)]


def faults_of(**settings: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Backoff(**settings)
    return [fault.path for fault in caught.value.faults]


def test_the_defaults_are_pinned() -> None:
    """From 50 ms, doubling, up to 20 s, with full jitter: whoever changes that changes this test."""
    policy = Backoff()

    assert (policy.base, policy.cap, policy.factor, policy.step, policy.jitter) == (0.05, 20, 2, 0, "full")
    assert backoff() == policy


def test_without_jitter_a_delay_is_exactly_the_exponential_up_to_the_cap() -> None:
    """Retry k waits base * factor ** (k - 1), and never more than the cap."""
    policy = Backoff(base=0.5, cap=5, factor=3, jitter="none")

    assert delays(policy, 5) == [0.5, 1.5, 4.5, 5, 5]


def test_a_step_is_added_at_each_further_retry() -> None:
    """Growth by multiplication and by addition can be combined."""
    policy = Backoff(base=1, cap=100, factor=2, step=0.5, jitter="none")

    assert delays(policy, 4) == [1, 2.5, 5, 9.5]


def test_fixed_waits_the_same_every_time() -> None:
    """A fixed delay is exact, and may exceed the default cap."""
    assert delays(Backoff.fixed(90), 3) == [90, 90, 90]


def test_linear_grows_by_its_step_up_to_its_cap() -> None:
    """Linear: base, base + step, base + 2 * step, … up to the cap, exactly."""
    assert delays(Backoff.linear(1, 2, cap=6), 5) == [1, 3, 5, 6, 6]
    assert Backoff.linear(1, 2).cap == 20


def test_none_never_waits() -> None:
    """Without a backoff every retry comes at once."""
    assert delays(Backoff.none(), 3) == [0, 0, 0]


def test_backoff_makes_an_exponential_backoff() -> None:
    """The function and the class agree on every setting."""
    made = backoff(base=1, cap=9, factor=3, jitter="equal")

    assert made == Backoff(base=1, cap=9, factor=3, jitter="equal")


def test_the_cap_comes_before_the_jitter() -> None:
    """Late delays are spread over the whole of 0 to cap: after the jitter, most of them would be exactly the cap."""
    late = sorted(draws(Backoff(base=0.05, cap=20), 12))

    assert late[-1] < 20
    assert len(set(late)) == 1000
    assert 9 < late[500] < 11


def test_late_decorrelated_delays_are_not_in_step() -> None:
    """Decorrelated jitter is drawn below the cap too: min(cap, U(base, 3 * previous)) is mostly exactly the cap."""
    late = draws(Backoff(base=0.05, cap=20, jitter="decorrelated"), 30, previous=20)

    assert max(late) < 20
    assert len(set(late)) == 1000
    assert min(late) >= 0.05


@pytest.mark.parametrize(
    ("jitter", "previous", "least", "most"),
    [
        ("full", 0.0, 0, 4),
        ("equal", 0.0, 2, 4),
        ("decorrelated", 0.0, 1, 3),
        ("decorrelated", 2.0, 1, 6),
        ("decorrelated", 0.5, 1, 3),
        ("decorrelated", 1e300, 1, 10),
        ("decorrelated", float("inf"), 1, 10),
        ("decorrelated", float("nan"), 1, 3),
    ],
)
def test_each_jitter_fills_its_range(jitter: Jitter, previous: float, least: float, most: float) -> None:
    """Draws of the third retry lie in the range of their formula, and reach within 2 % of both of its ends."""
    drawn = draws(Backoff(base=1, cap=10, jitter=jitter), 3, previous=previous)

    assert least <= min(drawn) <= least + 0.02 * (most - least)
    assert most - 0.02 * (most - least) <= max(drawn) <= most


@pytest.mark.parametrize("jitter", JITTERS)
@pytest.mark.parametrize("retry", [1_100, 10_000, 10**9, 10**400])
def test_late_retries_do_not_overflow(jitter: Jitter, retry: int) -> None:
    """However late the retry, the delay is a number within the cap, though 2.0 ** 10000 is none."""
    policy = Backoff(jitter=jitter)

    assert policy.bound(retry) == 20
    assert 0 <= policy.delay(retry, 20.0, Random(1)) <= 20


def test_late_retries_from_a_base_of_zero_only_step() -> None:
    """Zero stays zero, whatever it would be multiplied by; only the step counts."""
    policy = Backoff(base=0, cap=20, step=0.001, jitter="none")

    assert policy.delay(10_001) == 10


@pytest.mark.parametrize(
    ("policy", "bounds"),
    [
        (Backoff(base=1, cap=5), [1, 2, 4, 5, 5]),
        (Backoff(base=1, cap=5, jitter="equal"), [1, 2, 4, 5, 5]),
        (Backoff(base=1, cap=5, jitter="none"), [1, 2, 4, 5, 5]),
        (Backoff(base=1, cap=30, jitter="decorrelated"), [3, 9, 27, 30, 30]),
        (Backoff.linear(1, 1, cap=3), [1, 2, 3, 3, 3]),
    ],
)
def test_the_bound_is_the_longest_delay(policy: Backoff, bounds: list[float]) -> None:
    """What `explain` adds up is known without drawing: the exponential, or three times the bound before."""
    assert [policy.bound(retry) for retry in range(1, 6)] == bounds


@pytest.mark.parametrize("retry", [0, -1])
def test_retries_are_counted_from_one(retry: int) -> None:
    """There is no retry number 0: asking for it is a mistake of the caller's."""
    with pytest.raises(ValueError, match=f"no retry number {retry}"):
        Backoff().bound(retry)


def test_the_given_random_source_decides() -> None:
    """The same seed gives the same delays; the common source is not touched."""
    policy = Backoff()
    with use_random(1) as common:
        state = common.getstate()
        first = [policy.delay(3, random=Random(7)) for _ in range(2)]

        assert common.getstate() == state
    assert first[0] == first[1] == 0.2 * Random(7).random()


def test_the_common_random_source_decides_otherwise() -> None:
    """Without a source of its own a delay is drawn from the common one, which tests replace."""
    policy = Backoff()
    with use_random(7):
        drawn = [policy.delay(3), policy.delay(3)]
    with use_random(7):
        again = [policy.delay(3), policy.delay(3)]

    assert drawn == again
    assert drawn[0] != drawn[1]


def test_delays_that_need_no_chance_draw_none() -> None:
    """Without jitter, and where nothing is to be waited, the random source is left alone."""
    with use_random(7) as common:
        state = common.getstate()
        Backoff(jitter="none").delay(3)
        Backoff(base=0).delay(3)

        assert common.getstate() == state


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({"base": -0.1}, ["base"]),
        ({"base": float("nan")}, ["base"]),
        ({"base": float("inf")}, ["base", "cap"]),
        ({"base": 10**400}, ["base", "cap"]),
        ({"base": "1"}, ["base"]),
        ({"base": True}, ["base"]),
        ({"base": None}, ["base"]),
        ({"base": 5, "cap": 4.99}, ["cap"]),
        ({"cap": float("inf")}, ["cap"]),
        ({"cap": 40_000_000}, ["cap"]),
        ({"cap": -1}, ["cap"]),
        ({"factor": 0.99}, ["factor"]),
        ({"factor": float("inf")}, ["factor"]),
        ({"step": -1}, ["step"]),
        ({"jitter": "some"}, ["jitter"]),
        ({"jitter": ["full"]}, ["jitter"]),
        ({"jitter": "decorrelated", "base": 0}, ["base"]),
        ({"jitter": "decorrelated", "step": 1}, ["step"]),
        (
            {"base": -1, "cap": -1, "factor": 0, "step": -1, "jitter": ""},
            ["base", "cap", "factor", "step", "jitter"],
        ),
    ],
)
def test_every_fault_is_reported_at_once(settings: dict[str, Any], paths: list[str]) -> None:
    """Settings out of range, or that contradict each other, are one ConfigurationError that lists all of them."""
    assert faults_of(**settings) == paths


def test_a_fault_says_value_and_range() -> None:
    """The message has the name, the value, what is wrong, and what to give instead."""
    with pytest.raises(ConfigurationError) as caught:
        Backoff(base=5, cap=4)

    assert str(caught.value) == "Backoff: cap = 4 is out of range; give a number from 5 to 31536000"


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", None])
def test_fixed_names_its_own_argument(seconds: Any) -> None:
    """A bad fixed delay is reported once, under the name that the caller wrote."""
    with pytest.raises(ConfigurationError) as caught:
        Backoff.fixed(seconds)

    assert [fault.path for fault in caught.value.faults] == ["seconds"]


@pytest.mark.parametrize(
    "settings",
    [
        {"base": 0},
        {"base": 0, "cap": 0},
        {"base": 20, "cap": 20},
        {"factor": 1},
        {"cap": 31_536_000},
        {"base": 1e-300, "jitter": "decorrelated"},
    ],
)
def test_the_ends_of_the_ranges_are_accepted(settings: dict[str, Any]) -> None:
    """What a range includes is accepted."""
    policy = Backoff(**settings)

    assert 0 <= policy.delay(2, random=Random(1)) <= policy.cap


def test_a_backoff_is_a_value() -> None:
    """Equal settings are equal and hash alike, also as whole numbers, after pickling and copying; it shows them."""
    policy = Backoff(base=1, cap=20, factor=2, step=0, jitter="equal")

    assert policy == Backoff(base=1.0, jitter="equal") == pickle.loads(pickle.dumps(policy))
    assert hash(policy) == hash(Backoff(base=1.0, jitter="equal"))
    assert copy.deepcopy(policy) == policy
    assert policy != Backoff(base=1)
    assert policy != "a backoff"
    assert repr(policy) == "Backoff(base=1.0, cap=20.0, factor=2.0, jitter='equal', step=0.0)"


def test_a_backoff_cannot_be_changed() -> None:
    """It is shared by everything that uses it, so it refuses assignment and deletion."""
    policy: Any = Backoff()

    for name in ("base", "cap", "unknown"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(policy, name, 1)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(policy, name)
    assert policy == Backoff()


# What http_retry_helpers.py shows of aiohttp-retry, redis-py, urllib3 and httpx-retries, by its letters.


def test_http_retry_helpers_a_the_first_delay_of_every_call_is_the_same() -> None:
    """The delay is a function of the retry's number alone.

    aiohttp-retry's FibonacciRetry keeps its position in a shared object: after some requests every first retry waits
    the longest time.
    """
    policy = Backoff(base=1, cap=30, jitter="none")
    for retry in range(1, 9):
        policy.delay(retry)

    assert [policy.delay(1) for _ in range(8)] == [1] * 8


@pytest.mark.parametrize("jitter", JITTERS)
def test_http_retry_helpers_b_jitter_stays_within_the_cap(jitter: Jitter) -> None:
    """No jitter exceeds the cap; aiohttp-retry's JitterRetry(max_timeout=1.0) waits up to 5 s."""
    assert max(draws(Backoff(cap=1.0, jitter=jitter), 5, previous=1.0)) <= 1.0


def test_http_retry_helpers_d_threads_do_not_share_a_decorrelated_delay() -> None:
    """Eight threads get what each of them gets alone, because the previous delay is an argument.

    redis-py's DecorrelatedJitterBackoff keeps it on itself, and a reset by thread B lowers thread A's.
    """
    policy = Backoff(base=0.1, cap=10, jitter="decorrelated")
    together: dict[int, list[float]] = {}
    start = threading.Barrier(8)

    def chain(seed: int) -> list[float]:
        chance, made = Random(seed), [0.0]
        for retry in range(1, 200):
            made.append(policy.delay(retry, made[-1], chance))
        return made

    def work(seed: int) -> None:
        start.wait()
        together[seed] = chain(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert together == {seed: chain(seed) for seed in range(8)}


def test_http_retry_helpers_e_no_delay_is_longer_than_seconds_by_default() -> None:
    """The default cap bounds every delay by 20 s, whatever the jitter; urllib3 waits up to 6 h by default."""
    assert max(Backoff(jitter=jitter).bound(10**6) for jitter in JITTERS) == 20


def test_http_retry_helpers_f_the_default_does_wait() -> None:
    """By default the first three retries wait 25, 50 and 100 ms at the mean.

    urllib3 and httpx-retries have a default backoff_factor of 0, so that retries come at once.
    """
    means = [sum(draws(Backoff(), retry)) / 1000 for retry in (1, 2, 3)]

    assert means == pytest.approx([0.025, 0.05, 0.1], rel=0.1)
