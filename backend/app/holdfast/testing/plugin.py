"""The pytest plugin: fixtures for services that use holdfast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from holdfast.testing.clock import VirtualClock
    from holdfast.testing.recorder import EventRecorder


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Give a `VirtualClock` that every policy without its own clock reads during the test."""
    from holdfast.testing.waiting import no_wait

    with no_wait() as clock:
        yield clock


@pytest.fixture
def event_recorder() -> Iterator[EventRecorder]:
    """Give an `EventRecorder` that records during the test."""
    from holdfast.testing.recorder import EventRecorder

    with EventRecorder() as recorder:
        yield recorder


@pytest.fixture
def seeded_random(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give the seed of the random source that every policy without its own draws from during the test.

    It comes from the test's name, or from indirect parametrization; a failure's report shows it.
    """
    from holdfast.infrastructure.resilience.randomness import use_random

    node: pytest.Item = request.node
    seed: int = getattr(request, "param", crc32(node.nodeid.encode()))
    node.user_properties.append(("holdfast_seed", seed))
    node.add_report_section("setup", "holdfast", f"seeded_random: {seed}")
    with use_random(seed):
        yield seed


@pytest.fixture
def lab() -> ModuleType:
    """Give `holdfast.lab`: `assert lab.run(policy, "stall", seeds=3).recovers_within(5)`."""
    import holdfast.lab

    return holdfast.lab
