"""Policies × scenarios: measures are what the scenario implies."""

from dataclasses import replace
from math import inf
from pathlib import Path
from types import ModuleType

import pytest

from holdfast import CircuitBreaker, Hedge, Pipeline, Retry, RetryBudget, Window
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.lab import (
    Scenario,
    compare,
    cost,
    escape_load,
    html,
    load_scenarios,
    run,
    scenarios,
    subject,
)
from holdfast.lab.measures import bootstrap
from holdfast.testing import VirtualClock


def retrying() -> Retry:
    return Retry(attempts=3)


def smaller(name: str) -> Scenario:
    """Return a scenario of the lab's with a fifth of load, workers and queue, for a fifth of the cost."""
    whole = scenarios()[name]
    workers = 4 if whole.server.shards == 4 else whole.server.workers // 5
    return replace(whole, clients=4, load=14.0, server=replace(whole.server, workers=workers, queue=200))


def opening() -> Pipeline:
    return Pipeline(CircuitBreaker("lab", min_calls=5, open_for=2.0, open_cap=2.0))


@pytest.mark.parametrize("name", [name for name in scenarios() if name not in {"tiers", "hang"}])
def test_the_default_never_stays_down(name: str) -> None:
    """In every scenario our default recovers, and sends the dependency at most what its budget allows."""
    found = run("holdfast", smaller(name), seeds=1).measures[0]
    assert not found.metastable
    assert found.amplification < 1.6
    assert found.goodput_before > 0.99


def test_nothing_is_refused_in_health() -> None:
    """With nothing wrong, the default refuses no call and adds no attempt."""
    found = run("holdfast", smaller("healthy"), seeds=1).measures[0]
    assert (found.false_rejections, found.load, found.goodput) == (0, 1, 1)


def test_too_many_calls_at_once_are_limited() -> None:
    """In a spike the default makes of the server what can be made of it, and is back at once."""
    ours, none = (run(name, "spike", seeds=1) for name in ("holdfast", "none"))
    assert ours.goodput_at_least(0.5)
    assert ours.recovers_within(5)
    assert not none.goodput_at_least(0.2)


def test_retries_without_a_budget_keep_an_overload_alive() -> None:
    """After a stall, three attempts without a budget never let the queue drain, until the load drops."""
    stall = smaller("stall")
    found = run(retrying, stall, seeds=1)
    assert found.measures[0].metastable
    assert found.measures[0].recovery == inf
    assert "never recovers" in found.verdict
    assert not found.recovers_within(100)
    assert 0 < escape_load(retrying, stall) < 1


def test_a_full_outage_is_measured(short_file: Path) -> None:
    """Without a policy every call of the outage fails with one attempt, and the first after it succeeds."""
    found = run("none", load_scenarios(short_file)["outage"], seeds=2)
    assert found.goodput_at_least(0)
    assert found.values("goodput") == (0, 0)
    assert found.values("amplification") == (1, 1)
    assert found.values("recovery") == (0, 0)
    assert found.values("opened") == (inf, inf)
    assert found.amplifies_at_most(1)
    assert found.recovers_within(0)


def test_a_breaker_is_seen_from_outside(short_file: Path) -> None:
    """When a client first refuses a call, and how many attempts follow, needs no word of the breaker's."""
    found = run(opening, load_scenarios(short_file)["outage"], seeds=1).measures[0]
    assert 0 < found.opened < 5
    assert 10 < found.probes < 40
    assert found.false_rejections > 0


def test_differences_are_paired(short_file: Path) -> None:
    """A policy does not differ from itself, and a breaker sends less than none, in every resample."""
    scenario = load_scenarios(short_file)["outage"]
    found = compare(["none", subject(opening, name="breaker")], scenario, seeds=4)
    assert found.difference("none", "goodput").high == 0
    assert found.difference("breaker", "amplification").high < 0


def test_intervals_hold_their_mean() -> None:
    """The interval of different values lies around their mean, and is the same each time."""
    found = bootstrap([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert 1 <= found.low < 2.5 < found.high <= 4
    assert bootstrap([1.0, 2.0, 3.0, 4.0]) == found
    assert bootstrap([1.0, inf]).mean == inf


def test_a_shared_policy_is_one_process(short_file: Path) -> None:
    """A policy that is given as it is, is shared by all clients; a function makes one for each."""
    scenario = load_scenarios(short_file)["outage"]
    shared = CircuitBreaker("lab", window=Window.consecutive(20), open_for=60.0)
    assert run(shared, scenario, seeds=1).measures[0].amplification < 0.1
    assert shared.state.value in {"open", "half-open"}


def test_a_shared_policy_begins_anew_in_each_run(short_file: Path) -> None:
    """What it learnt in other runs, or on the clock that it was made on, is no part of an experiment."""
    scenario = load_scenarios(short_file)["outage"]
    budget = RetryBudget("lab", ratio=0.1, min_per_second=0.1)
    hedges = RetryBudget("lab", ratio=0.05, min_per_second=0.0)
    shared = Pipeline(
        Retry(3, budget=budget), Hedge(0.2, budget=hedges), CircuitBreaker("lab", open_for=60.0)
    )

    async def done() -> None:
        """Succeed."""

    async def before() -> None:
        for _ in range(300):
            await shared.call(done)

    clock = VirtualClock(1010.0)
    with use_clock(clock):
        clock.run(before())
    together = run(shared, scenario, seeds=[0, 1]).digests
    assert together == tuple(run(shared, scenario, seeds=[seed]).digests[0] for seed in (0, 1))


def test_closed_clients_wait_for_their_answers() -> None:
    """With closed arrivals a client makes its next call only when the last has ended."""
    scenario = Scenario(name="closed", arrivals="closed", clients=3, think=0.9, duration=200)
    found = run("none", scenario, seeds=1)
    assert sum(found.series.calls) == pytest.approx(3 * 200 / 1.0, rel=0.1)


def test_a_scenario_of_500_clients() -> None:
    """Hundreds of clients are a scenario as any other."""
    scenario = Scenario(name="many", clients=500, duration=20)
    assert run("holdfast", scenario, seeds=1).measures[0].goodput == 1


def test_breakers_are_shown_over_time(short_file: Path) -> None:
    """The first seed's series has the breakers' states, which the page draws; without one of ours there is nothing."""
    scenario = load_scenarios(short_file)["outage"]
    found = run(opening, scenario, seeds=2)
    assert found.series.open[:10] == (0,) * 10
    assert found.series.open[25] + found.series.half_open[25] == 4
    assert len(found.series.open) == len(found.series.half_open) == len(found.series.calls)
    assert 'aria-label="breakers of opening"' in html(found)
    bare = run("none", scenario, seeds=1)
    assert bare.series.open == ()
    assert "breakers of" not in html(bare)


def test_looking_at_breakers_changes_nothing(short_file: Path) -> None:
    """The first seed is watched, the others are not: in whichever place a seed is, its trace is the same."""
    scenario = load_scenarios(short_file)["outage"]
    assert run(opening, scenario, seeds=[7, 8]).digests[::-1] == run(opening, scenario, seeds=[8, 7]).digests


@pytest.mark.parametrize("name", ["holdfast", "holdfast-sync"])
def test_a_policy_has_its_price(name: str) -> None:
    """A pipeline takes some of the processor's time and some memory; no policy takes hardly any."""
    ours, bare = cost(name), cost("none")
    assert 0 < ours.cpu < 0.01
    assert 500 < ours.size < 100_000
    assert bare.size < 100


def test_a_patient_batch_keeps_no_shard_down() -> None:
    """A shard that was dead for a minute is well at once afterwards, however often `batch` tried it meanwhile."""
    assert run("holdfast-batch", scenarios()["shard"], seeds=[103]).recovers_within(5)


@pytest.mark.parametrize("kind", ["interactive", "sharded", "batch", "idempotent-read"])
def test_each_kind_is_good_for_what_it_is_named_for(kind: str) -> None:
    """In the scenario that a kind is meant for, it is better there than the general one by what it is meant for."""
    scenario, measure, sign, least = {
        "interactive": ("hang", "p999", -1, 10.0),
        "sharded": ("shard", "amplification", -1, 0.2),
        "batch": ("hang", "goodput", 1, 0.05),
        "idempotent-read": ("grey-tail", "p999", -1, 1.0),
    }[kind]
    found = compare(["holdfast", f"holdfast-{kind}"], scenario, seeds=1)
    assert sign * found.difference(f"holdfast-{kind}", measure).mean > least


def test_one_dead_shard_is_not_taken_for_the_whole() -> None:
    """With one shard of four dead, our default serves what the others can, as without a policy."""
    found = compare(["none", "holdfast"], "shard", seeds=2)
    assert found.difference("holdfast", "goodput").mean > -0.01


def test_three_tiers_recover() -> None:
    """With our default in each of three services, the last one's outage is over soon after it is over."""
    assert run("holdfast", "tiers", seeds=[0, 1]).recovers_within(10)


def test_the_fixture_guards_a_policy(lab: ModuleType, short_file: Path) -> None:
    """A service's tests can assert measures of its policy; a failure says what happened in words."""
    scenario = lab.load_scenarios(short_file)["outage"]
    found = lab.run(opening, scenario, seeds=2)
    assert found.recovers_within(5)
    assert found.amplifies_at_most(0.5)
    assert "opening in 'outage'" in repr(found)


@pytest.mark.parametrize(
    ("policy", "scenario", "error"),
    [
        ("nobody", "stall", LookupError),
        ("none", "plague", LookupError),
        (3, "stall", TypeError),
        (dict, "stall", TypeError),
    ],
)
def test_what_is_unknown_is_named(policy: str, scenario: str, error: type[Exception]) -> None:
    """A name that means nothing is an error that lists what there is; so is what is no policy."""
    with pytest.raises(error, match=r"known|polic"):
        run(policy, scenario, seeds=1)
