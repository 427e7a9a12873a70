"""Permits: the admission of one call by whatever can refuse it."""

from typing import Any

class Permit:
    """The admission of one call: belongs to the generation that granted it and is settled once.

    Later settlements do nothing, and neither do those of an older generation. `owner` grants and settles,
    `token` is its generation, `started` monotonic seconds on its clock.
    """

    owner: Any
    token: Any
    started: float
    settled: bool
    def __init__(self, owner: Any, token: Any, started: float, *, probe: bool = False) -> None: ...
    @property
    def probe(self) -> bool:
        """Whether this is a half-open probe."""

    def success(self) -> None:
        """The call succeeded."""

    def failure(self, error: BaseException | None = None) -> None:
        """The call failed with `error`, which is classified; without one it is a failure."""

    def neutral(self) -> None:
        """The call says nothing about the dependency (cancelled, never made); a probe's place is given back."""
