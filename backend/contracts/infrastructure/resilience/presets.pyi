"""Strategies, presets and templates: the numbers that a configuration starts from."""

from collections.abc import Mapping
from typing import Any

class Strategy:
    """What one operation gets. Times in seconds; breaker: `threshold` failures in a row open it for `recovery`.

    The wait before retry k is `multiplier * 2 ** (k - 1)`, at least `minimum`, at most `maximum`, plus up to `jitter`.
    """

    name: str
    attempts: int
    deadline: float
    multiplier: float
    minimum: float
    maximum: float
    jitter: float
    threshold: int
    recovery: float
    def __init__(
        self,
        *,
        name: str,
        attempts: int,
        deadline: float,
        multiplier: float,
        minimum: float,
        maximum: float,
        jitter: float,
        threshold: int,
        recovery: float,
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class Preset:
    """A configuration with a name: three numbers, a default strategy and the operations that have another one."""

    name: str
    description: str
    attempts: int
    threshold: int
    recovery: float
    strategy: str
    overrides: Mapping[str, str]
    def __init__(
        self,
        *,
        name: str,
        description: str,
        attempts: int,
        threshold: int,
        recovery: float,
        strategy: str,
        overrides: Mapping[str, str],
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class Template:
    """A starting point for a custom configuration; `settings` are its fields."""

    name: str
    description: str
    settings: Mapping[str, Any]
    def __init__(
        self,
        *,
        name: str,
        description: str,
        settings: Mapping[str, Any],
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class Recommendation:
    """Which preset suits an environment; `confidence` from 0 to 1, `reason` in words."""

    environment: str
    preset: str
    confidence: float
    reason: str
    def __init__(
        self,
        *,
        environment: str,
        preset: str,
        confidence: float,
        reason: str,
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

STRATEGIES: Mapping[str, Strategy]
PRESETS: Mapping[str, Preset]
TEMPLATES: Mapping[str, Template]

def recommend(environment: str) -> Recommendation:
    """Return the preset for an environment: by its exact name, a usual short form, what it resembles, else simple."""

def suggest(settings: Mapping[str, Any]) -> tuple[Template, float] | None:
    """Return the template nearest to a custom configuration and how near, 0 to 1; None where none is."""
