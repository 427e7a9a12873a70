"""Seeds × traces: equal seeds give equal traces, and policies meet the same chance."""

from pathlib import Path

from holdfast.lab import Scenario, load_scenarios, run


def test_equal_seeds_give_equal_traces(short_file: Path) -> None:
    """A run that is repeated has the same digest; another seed has another one."""
    scenario = load_scenarios(short_file)["outage"]
    digests = run("holdfast", scenario, seeds=[1, 2]).digests
    assert run("holdfast", scenario, seeds=[2, 1]).digests == digests[::-1]
    assert digests[0] != digests[1]


def test_threads_and_coroutines_tell_the_same(short_file: Path) -> None:
    """The same policy has the same trace under plain functions and under coroutines."""
    scenario = load_scenarios(short_file)["outage"]
    assert run("holdfast-sync", scenario, seeds=2).digests == run("holdfast", scenario, seeds=2).digests


def test_policies_meet_the_same_arrivals(short_file: Path) -> None:
    """On one seed, every policy is asked the same calls at the same instants."""
    scenario = load_scenarios(short_file)["outage"]
    asked = {
        run(policy, scenario, seeds=[5]).series.calls for policy in ("none", "holdfast", "tenacity-tuned")
    }
    assert len(asked) == 1


def test_a_policy_that_has_nothing_to_do_changes_nothing() -> None:
    """In health the default's trace is that of no policy at all."""
    scenario = Scenario(name="healthy", duration=60)
    assert run("holdfast", scenario, seeds=1).digests == run("none", scenario, seeds=1).digests
