"""The pytest plugin: fixtures for services that use holdfast."""

from collections.abc import Iterator
from types import ModuleType

import pytest

from holdfast.testing.clock import VirtualClock
from holdfast.testing.recorder import EventRecorder

@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Give a `VirtualClock` that every policy without its own clock reads during the test."""

@pytest.fixture
def event_recorder() -> Iterator[EventRecorder]:
    """Give an `EventRecorder` that records during the test."""

@pytest.fixture
def seeded_random(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give the seed of the random source that every policy without its own draws from during the test.

    It comes from the test's name, or from indirect parametrization; a failure's report shows it.
    """

@pytest.fixture
def lab() -> ModuleType:
    """Give `holdfast.lab`: `assert lab.run(policy, "stall", seeds=3).recovers_within(5)`."""
