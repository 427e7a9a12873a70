"""Simulated servers × queueing theory: times and loads are what the formulas say."""

from math import factorial

import pytest

from holdfast import Retry
from holdfast.lab import Scenario, Server, Trouble, run


def waiting(servers: int, arrivals: float, service: float) -> float:
    """Return the mean wait in M/M/c, seconds (Erlang's C formula)."""
    offered = arrivals * service
    last = offered**servers / factorial(servers) * servers / (servers - offered)
    busy = last / (sum(offered**k / factorial(k) for k in range(servers)) + last)
    return busy * service / (servers - offered)


def time_in_system(servers: int, arrivals: float, *, service: str = "exponential") -> float:
    """Return the mean time of a call with no policy, seconds; work takes 0.1 s."""
    server = Server(workers=servers, mean=0.1, queue=100_000, service=service)
    # Without trouble the middle half is measured.
    scenario = Scenario(
        name="theory", duration=30_000 / arrivals, load=arrivals, slots=10_000, patience=86_400, server=server
    )
    return run("none", scenario, seeds=1).measures[0].mean


@pytest.mark.parametrize(("servers", "arrivals"), [(2, 14.0), (10, 75.0)])
def test_calls_wait_as_erlang_says(servers: int, arrivals: float) -> None:
    """With Poisson arrivals and exponential work, c workers give the time of M/M/c."""
    expected = waiting(servers, arrivals, 0.1) + 0.1
    assert time_in_system(servers, arrivals) == pytest.approx(expected, rel=0.06)


def test_fixed_work_waits_half_as_long() -> None:
    """With work that always takes the same, one worker gives the time of M/D/1 (Pollaczek and Khinchine)."""
    expected = 0.1 + 0.6 * 0.1 / (2 * (1 - 0.6))
    assert time_in_system(1, 6.0, service="fixed") == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("tiers", "retries"), [(1, 2), (2, 1), (3, 2)])
def test_nested_retries_multiply(tiers: int, retries: int) -> None:
    """N retries at each of k tiers make (1 + N) to the power of k attempts of a call that cannot succeed."""
    always = Trouble(kind="errors", start=0, end=60)
    scenario = Scenario(
        name="dead", duration=60, clients=1, load=0.2, tiers=tiers, patience=1000, troubles=(always,)
    )

    def retrying() -> Retry:
        return Retry(attempts=1 + retries, wait=0.0, nested=True)

    assert run(retrying, scenario, seeds=1).measures[0].load == (1 + retries) ** tiers
