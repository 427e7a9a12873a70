"""Permits: the admission of one call by whatever can refuse it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Permit:
    """The admission of one call: belongs to the generation that granted it and is settled once.

    Later settlements do nothing, and neither do those of an older generation.
    """

    __slots__ = ("_probe", "owner", "settled", "started", "token")

    # `owner` grants and settles; `token` is its generation; `started` is monotonic seconds on its clock.

    def __init__(self, owner: Any, token: Any, started: float, *, probe: bool = False) -> None:
        self.owner = owner
        self.token = token
        self.started = started
        self.settled = False
        self._probe = probe

    @property
    def probe(self) -> bool:
        """Whether this is a half-open probe."""
        return self._probe

    def success(self) -> None:
        """The call succeeded."""
        self.owner.settle(self, failed=False)

    def failure(self, error: BaseException | None = None) -> None:
        """The call failed with `error`, which is classified; without one it is a failure."""
        failed, hint = (True, None) if error is None else self.owner.judge(error)
        self.owner.settle(self, failed, hint)

    def neutral(self) -> None:
        """The call says nothing about the dependency (cancelled, never made); a probe's place is given back."""
        self.owner.settle(self, failed=None)
