"""What a stack guarantees, worked out from the inside: each policy widens or narrows the bounds of what it wraps."""

from __future__ import annotations

FOREVER = float("inf")
FALLBACK_ERRORS = "whatever the fallback raises"


class Bounds:
    """Worst case of one call of what lies below: attempts, seconds, seconds with a server's hints, mean load, errors.

    `duration` is infinite where nothing bounds what the function itself takes.
    """

    __slots__ = ("amplification", "attempts", "duration", "errors", "hinted")

    def __init__(
        self,
        *,
        attempts: float = 1.0,
        duration: float = FOREVER,
        hinted: float = FOREVER,
        amplification: float = 1.0,
        errors: tuple[str, ...] = ("whatever the function raises",),
    ) -> None:
        self.attempts = attempts
        self.duration = duration
        self.hinted = hinted
        self.amplification = amplification
        self.errors = errors

    def within(self, seconds: float) -> Bounds:
        """Return the same, cut off after `seconds`."""
        return self.but(duration=min(self.duration, seconds), hinted=min(self.hinted, seconds))

    def after(self, seconds: float) -> Bounds:
        """Return the same, begun up to `seconds` later."""
        return self.but(duration=self.duration + seconds, hinted=self.hinted + seconds)

    def raising(self, *errors: str) -> Bounds:
        """Return the same with further errors that may come out: what the function raises first, the rest by name."""
        function, *known = self.errors
        return self.but(errors=(function, *sorted({*known, *errors})))

    def but(
        self,
        *,
        attempts: float | None = None,
        duration: float | None = None,
        hinted: float | None = None,
        amplification: float | None = None,
        errors: tuple[str, ...] | None = None,
    ) -> Bounds:
        """Return the same with some figures replaced."""
        return Bounds(
            attempts=self.attempts if attempts is None else attempts,
            duration=self.duration if duration is None else duration,
            hinted=self.hinted if hinted is None else hinted,
            amplification=self.amplification if amplification is None else amplification,
            errors=self.errors if errors is None else errors,
        )
