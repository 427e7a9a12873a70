"""A dependency under a concurrency limit that waits until calls queue."""

from typing import Any

from backend.tests.integration.resilience._driver import Driver, Scenario
from backend.tests.integration.resilience._make import _over
from holdfast.infrastructure.resilience.concurrency_limit import ConcurrencyLimit, StandingQueue
from holdfast.infrastructure.resilience.errors import ConcurrencyLimitedError
from holdfast.infrastructure.resilience.events import LimitChanged
from holdfast.testing.recorder import EventRecorder

FREE = 1000


def standing(**settings: Any) -> ConcurrencyLimit:
    """Return a limit called `dependency` that takes timeouts for late answers, and admits 1000 without a sign."""
    given: dict[str, Any] = {"initial": None, "max_limit": FREE, "on": TimeoutError, "name": "dependency"}
    algorithm = StandingQueue(**settings.pop("algorithm", {}))
    return ConcurrencyLimit(**_over(settings, algorithm=algorithm, **given))


class Dependency:
    """What is called under a limit."""

    def __init__(self, driver: Driver, limit: ConcurrencyLimit) -> None:
        async def fetch(took: float, error: type[Exception] | None) -> str:
            await driver.sleep(took)
            if error is not None:
                raise error
            return "ok"

        self.driver = driver
        self.fetch = driver.decorate(limit, fetch)

    def calls(self, *phases: tuple[int, float, float], error: type[Exception] | None = None) -> list[str]:
        """Make so many calls, one every so many seconds, that take so long, phase by phase; return what came out."""
        scenarios: list[Scenario] = []
        at = 0.0
        for number, every, took in phases:
            for _ in range(number):
                scenarios.append(self.driver.after(at, self.fetch, took, error))
                at += every
        return [kind(outcome) for outcome in self.driver.together(*scenarios)]

    def warm(self) -> None:
        """Make enough calls side by side, of a tenth of a second each, that it is known what is usual."""
        assert self.calls((31, 0.0, 0.1)) == ["ok"] * 31


def kind(outcome: object) -> str:
    """Return what became of a call."""
    if isinstance(outcome, ConcurrencyLimitedError):
        return "refused"
    return outcome if isinstance(outcome, str) else type(outcome).__name__


def changes(recorder: EventRecorder) -> list[tuple[int, int]]:
    """Return how the limit moved."""
    return [(event.old, event.new) for event in recorder.of(LimitChanged)]
