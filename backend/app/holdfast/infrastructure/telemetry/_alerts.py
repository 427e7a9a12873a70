"""Which thresholds are passed, since when, and which were: one alert for each threshold and subject at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from holdfast.infrastructure.telemetry.monitor import Alert, Threshold

_HISTORY = 1000


class Reading(NamedTuple):
    """What a threshold's measure is for a subject now, and from how many calls."""

    threshold: Threshold
    subject: str
    measured: float | None
    calls: int

    def passes(self) -> bool:
        """Return whether the threshold is passed; what is unknown passes none."""
        threshold, measured = self.threshold, self.measured
        if measured is None or self.calls < threshold.min_calls:
            return False
        return measured < threshold.value if threshold.below else measured > threshold.value

    def worse(self, other: float) -> float:
        """Return the worse of two measured values."""
        measured = other if self.measured is None else self.measured
        return (min if self.threshold.below else max)(measured, other)


class Board:
    """The alerts. Not safe to share: the monitor judges under its lock."""

    def __init__(self, make: Callable[..., Alert]) -> None:
        self._make = make
        self._passed: dict[tuple[str, str], tuple[float, float]] = {}
        self._active: dict[tuple[str, str], Alert] = {}
        self._ended: deque[Alert] = deque(maxlen=_HISTORY)
        self._count = 0

    def judge(self, readings: Iterable[Reading], now: float, time: float) -> list[Alert]:
        """Begin and end alerts; return those that did. A subject that is not read any more has ended its own."""
        passed = {
            (reading.threshold.name, reading.subject): reading for reading in readings if reading.passes()
        }
        ended = [self._end(key, time) for key in [*self._active] if key not in passed]
        self._passed = {key: self._passed.get(key, (now, time)) for key in passed}
        begun = [self._begin(key, reading, now) for key, reading in passed.items()]
        return [*ended, *(alert for alert in begun if alert is not None)]

    def _begin(self, key: tuple[str, str], reading: Reading, now: float) -> Alert | None:
        """Begin an alert if the threshold has been passed for long enough, or go on with the one there is."""
        since, time = self._passed[key]
        threshold, alert, measured = reading.threshold, self._active.get(key), reading.measured
        if alert is not None:
            worst = reading.worse(alert.measured)
            self._active[key] = replace(alert, measured=worst, message=_message(reading, worst))
        elif measured is not None and now - since >= threshold.lasting:
            self._count += 1
            alert = self._active[key] = self._make(
                number=self._count,
                threshold=threshold.name,
                severity=threshold.severity,
                subject=reading.subject,
                measured=measured,
                limit=threshold.value,
                since=time,
                until=None,
                message=_message(reading, measured),
            )
            return alert
        return None

    def _end(self, key: tuple[str, str], time: float) -> Alert:
        alert = replace(self._active.pop(key), until=time)
        self._ended.append(alert)
        return alert

    def alerts(self, active: bool | None, limit: int) -> list[Alert]:
        """Return alerts by number, the newest first."""
        now = [] if active is False else list(self._active.values())
        then = [] if active is True else list(self._ended)
        newest = sorted(chain(now, then), key=lambda alert: -alert.number)
        return list(islice(newest, max(limit, 0)))


def _message(reading: Reading, measured: float) -> str:
    threshold = reading.threshold
    measure = threshold.measure.replace("_", " ")
    side = "below" if threshold.below else "above"
    return f"{reading.subject}: {measure} {measured:.4g} is {side} {threshold.value:.4g}"
