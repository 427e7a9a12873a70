"""A name whose failures a fallback answers."""

from __future__ import annotations

from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.registry import Resilient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast.infrastructure.resilience._compile import Code
    from holdfast.infrastructure.resilience.fallback import Fallback
    from holdfast.infrastructure.resilience.policy import Policy
    from holdfast.infrastructure.resilience.registry import Registry


class Answered(Resilient):
    """A name's pipeline, and what answers for it: within the name's meter, to which the answers are successes."""

    __slots__ = ("_fallback",)

    def __init__(self, registry: Registry, name: str, fallback: Fallback) -> None:
        super().__init__(registry, name)
        self._fallback = fallback

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of that name now, with the fallback around it."""
        return Pipeline(self._fallback, super().pipeline, name=self._name)

    def __repr__(self) -> str:
        """Show both."""
        return f"{super().__repr__()} with {self._fallback!r}"

    def _around(self) -> tuple[Policy, ...]:
        return (self._fallback,)

    def _shape(self) -> tuple[Any, ...]:
        return ("resilient", self._fallback._is_async())

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        # Where it is decorated, not at its first call.
        self._fallback._require_fit(code)
        super()._emit(code, at, inner)
