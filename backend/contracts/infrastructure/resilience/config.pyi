"""Configuration: what every named operation gets, from preset, file, environment and code, validated as a whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.infrastructure.resilience import errors
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.pipeline import Pipeline

RANGES: Mapping[str, tuple[float, float]]

class Fault(errors.Fault):
    """One thing wrong: where (`path`, for example `retry_attempts`), the value, what is allowed, what to write instead.

    At most 80 characters of a value are kept, and none of a field that is unknown.
    """

    allowed: str
    suggestion: str
    def __init__(
        self, path: str, value: object, problem: str, allowed: str, suggestion: str = ""
    ) -> None: ...
    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

class Validation:
    """What is wrong with a custom configuration, all at once; `settings` are its fields where nothing is.

    `template` is the name of the template that comes nearest, if one is near.
    """

    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    settings: Mapping[str, Any]
    template: str | None
    def __init__(
        self,
        *,
        faults: tuple[Fault, ...],
        warnings: tuple[Fault, ...],
        settings: Mapping[str, Any],
        template: str | None,
    ) -> None: ...
    @property
    def valid(self) -> bool:
        """Whether there is no fault; warnings do not count."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class OperationSettings:
    """What one operation gets: numbers, and for each of them its source.

    Sources are `preset`, `file`, `environment`, `applied` and `code`. Times in seconds.
    """

    operation: str
    strategy: str
    attempts: int
    deadline: float
    multiplier: float
    minimum: float
    maximum: float
    jitter: float
    threshold: int
    recovery: float
    half_open_calls: int
    sources: Mapping[str, str]
    def __init__(
        self,
        *,
        operation: str,
        strategy: str,
        attempts: int,
        deadline: float,
        multiplier: float,
        minimum: float,
        maximum: float,
        jitter: float,
        threshold: int,
        recovery: float,
        half_open_calls: int = 1,
        sources: Mapping[str, str],
    ) -> None: ...
    @property
    def attempt_timeout(self) -> float:
        """How long one attempt may take: its share of the deadline."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

class Configuration:
    """A whole configuration: frozen, comparable, as JSON-able facts. Make one with `load`.

    `settings` are the fields of custom configurations, `overrides` the operations with a strategy of their own;
    `sources` says of each where it comes from.
    """

    preset: str
    strategy: str
    enabled: bool
    overrides: Mapping[str, str]
    settings: Mapping[str, Any]
    sources: Mapping[str, str]
    warnings: tuple[Fault, ...]
    @property
    def given(self) -> bool:
        """Whether any source says anything; otherwise it is what the preset `simple` says."""

    def operation(self, name: str) -> OperationSettings:
        """Return what an operation gets; one that no override names gets the default strategy."""

    def pipeline(self, name: str, *, like: Pipeline | None = None) -> Pipeline:
        """Return the pipeline of an operation; the breaker and the budget of `like` go on in it.

        From then on that breaker has the settings of this configuration.
        """

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

def validate(
    settings: str | bytes | Mapping[str, Any], *, operations: Sequence[str] = (), preset: str | None = None
) -> Validation:
    """Check a custom configuration, JSON text or fields, against ranges and size limits. Never raises for what it says.

    `operations` are the registered ones that overrides may name; () allows any. `preset` is what it would be applied
    on, for warnings about both. ImportError without pydantic.
    """

def load(
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    custom: Mapping[str, Any] | None = None,
    operations: Sequence[str] = (),
) -> Configuration:
    """Return the configuration of preset, then file (TOML or JSON), then environment, then `custom`: later wins.

    A `preset` that is given here wins over those that file and environment name. `environ` is by default the
    process's; `operations` are known names, others in overrides are a warning. ConfigurationError with every fault;
    DeprecationWarning for legacy names.
    """

class ValidationLimits:
    """How often a client may have text validated: 60 times a minute, 1000 an hour. Thread-safe, bounded memory.

    Give the name under which a client was authenticated, never one that it picks itself.
    """

    def __init__(
        self,
        *,
        per_minute: int = 60,
        per_hour: int = 1000,
        max_clients: int = 1000,
        clock: Clock | None = None,
    ) -> None: ...
    def admit(self, client: str) -> None:
        """Count one validation of a client. RateLimitedError, with `retry_after`, for one too many."""
