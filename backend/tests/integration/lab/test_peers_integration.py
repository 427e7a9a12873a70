"""Peers × virtual time: libraries run unmodified and see the lab's time."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from holdfast.lab import load_scenarios, run, subjects

# tenacity's own default never stops and never waits: that is what it is there to show, at a price.
PEERS = [name for name in subjects() if name not in {"none", "holdfast", "holdfast-sync", "tenacity"}]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_lives_in_virtual_time(name: str, short_file: Path) -> None:
    """Every peer runs through an outage and gives the same trace again."""
    if any(find_spec(package.partition(".")[0]) is None for package in subjects()[name].packages):
        pytest.skip(f"{name} is not installed")
    scenario = load_scenarios(short_file)["outage"]
    found = run(name, scenario, seeds=[3])
    assert found.digests == run(name, scenario, seeds=[3]).digests
    # pybreaker holds its lock while a call runs, so that calls of one client wait for each other.
    assert found.measures[0].goodput_before > 0.9
    assert found.measures[0].amplification > 0


@pytest.mark.parametrize("name", ["hyx-tuned", "tenacity+pybreaker-tuned", "backoff+circuitbreaker-tuned"])
def test_a_breaker_of_a_peer_opens_and_closes(name: str, short_file: Path) -> None:
    """A peer's breaker opens within seconds of the outage, and closes again within seconds of its end."""
    if any(find_spec(package.partition(".")[0]) is None for package in subjects()[name].packages):
        pytest.skip(f"{name} is not installed")
    found = run(name, load_scenarios(short_file)["outage"], seeds=[3])
    assert found.measures[0].opened < 10
    assert found.recovers_within(15)
