"""Policies for the seam suite without chance in them, so that sleeps, states and counts can be told exactly."""

from typing import Any

from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, CircuitBreakers
from holdfast.infrastructure.resilience.classify import THROTTLED, Classifier, Verdict
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.resilience.window import Window


class Busy(Exception):
    """The dependency asks to be left alone for so many seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


def _throttled(error: Exception) -> Verdict | None:
    return THROTTLED if isinstance(error, Busy) else None


# For `on=`: the default table, in which `Busy` is throttled.
BUSY = Classifier(predicates=(_throttled,))


class Make:
    """Make policies with plain numbers; any setting can be given, and then takes the place of the one here."""

    def retry(self, attempts: int | None = 3, **settings: Any) -> Retry:
        """Return a retry called `caller` that waits 1 s before each retry."""
        return Retry(attempts, **_over(settings, wait=1.0, name="caller"))

    def breaker(self, failures: int = 3, **settings: Any) -> CircuitBreaker:
        """Return a breaker called `dependency`: `failures` in a row open it for 5 s, one probe closes it."""
        return CircuitBreaker("dependency", **_over(settings, **_breaker(failures)))

    def breakers(self, failures: int = 3, **settings: Any) -> CircuitBreakers:
        """Return a family called `family` of breakers like that of `breaker`, one per first argument."""
        return CircuitBreakers("family", **_over(settings, key=_first, **_breaker(failures)))

    def timeout(self, seconds: float, **settings: Any) -> Timeout:
        """Return a timeout called `bound`; sync, it is cooperative."""
        return Timeout(seconds, **_over(settings, name="bound"))

    def punctual(self, seconds: float, **settings: Any) -> Timeout:
        """Return a timeout called `bound` that ends on time in both modes: sync, it calls in a thread."""
        return self.timeout(seconds, **_over(settings, sync="thread"))

    def budget(self, retries: int = 2) -> RetryBudget:
        """Return a budget called `budget` that grants so many retries, and next to nothing for first attempts."""
        budget = RetryBudget("budget", ratio=0.001, min_per_second=0.0, ttl=86_400.0)
        for _ in range(1000 * retries + 500):
            budget.deposit()
        return budget

    def pipeline(self, *policies: Policy, name: str | None = "service") -> Pipeline:
        """Return a pipeline called `service`."""
        return Pipeline(*policies, name=name)


def _over(given: dict[str, Any], **usual: Any) -> dict[str, Any]:
    return {**usual, **given}


def _breaker(failures: int) -> dict[str, Any]:
    return {
        "window": Window.consecutive(failures),
        "open_for": 5.0,
        "open_jitter": 0.0,
        "half_open_calls": 1,
    }


def _first(key: Any, *_: Any, **__: Any) -> Any:
    return key
