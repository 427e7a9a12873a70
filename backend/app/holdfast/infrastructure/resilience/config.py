"""Configuration: what every named operation gets, from preset, file, environment and code, validated as a whole."""

from __future__ import annotations

from holdfast.infrastructure.resilience import _environment, errors
from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._frozen import Faults, Frozen, FrozenDict, is_dict
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.resilience.errors import RateLimitedError
from holdfast.infrastructure.resilience.presets import PRESETS, STRATEGIES, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any, Self

    from holdfast.infrastructure.resilience._strategies import Plan
    from holdfast.infrastructure.resilience.pipeline import Pipeline

RANGES: Mapping[str, tuple[float, float]] = FrozenDict(
    retry_attempts=(1, 10),
    circuit_breaker_threshold=(1, 20),
    recovery_timeout=(10, 300),
    exponential_multiplier=(0.1, 5),
    exponential_min=(0.5, 10),
    exponential_max=(5, 120),
    jitter_max=(0.1, 10),
    max_delay_seconds=(5, 600),
)
_SHOWN = 80
_DIGITS = 256
# Which number of an operation each field is, and those of them that the preset itself says.
_NUMBERS = {
    "retry_attempts": "attempts",
    "circuit_breaker_threshold": "threshold",
    "recovery_timeout": "recovery",
    "exponential_multiplier": "multiplier",
    "exponential_min": "minimum",
    "exponential_max": "maximum",
    "jitter_max": "jitter",
    "max_delay_seconds": "deadline",
}
_OF_PRESETS = ("attempts", "threshold", "recovery")


class Fault(errors.Fault):
    """One thing wrong: where (`path`, for example `retry_attempts`), the value, what is allowed, what to write instead.

    At most 80 characters of a value are kept, and none of a field that is unknown.
    """

    __slots__ = ("allowed", "suggestion")

    def __init__(self, path: str, value: object, problem: str, allowed: str, suggestion: str = "") -> None:
        example = f", for example {suggestion}" if suggestion else ""
        super().__init__(path, _kept(value), problem, f"give {allowed}{example}")
        self.allowed = allowed
        self.suggestion = suggestion

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        names = ("path", "value", "problem", "allowed", "suggestion")
        return {name: getattr(self, name) for name in names}

    def _within(self, source: str) -> Fault:
        path = source if self.path == "configuration" else f"{source}.{self.path}"
        return Fault(path, self.value, self.problem, self.allowed, self.suggestion)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by parts."""
        return Fault, (self.path, self.value, self.problem, self.allowed, self.suggestion)

    def __str__(self) -> str:
        """Say what is wrong and what to do."""
        value = "" if self.value is None else f" = {self.value!r}"
        return f"{self.path}{value} {self.problem}; {self.remedy}"


def _shown(value: object) -> str:
    """Return a value as text of at most 80 characters; of what holds others, only how many."""
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    if isinstance(value, int) and value.bit_length() > _DIGITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (int, float)):
        return repr(value)
    size: Any = getattr(value, "__len__", None)
    return type(value).__name__ if size is None else f"{type(value).__name__} of {size()}"


def _kept(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    plain = isinstance(value, (int, float)) and abs(value) < float("inf")
    return value if plain and len(_shown(value)) <= _DIGITS and not _is_huge(value) else _shown(value)


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > _DIGITS


class Validation(Frozen):
    """What is wrong with a custom configuration, all at once; `settings` are its fields where nothing is.

    `template` is the name of the template that comes nearest, if one is near.
    """

    __slots__ = ("faults", "settings", "template", "warnings")

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
    ) -> None:
        self._set(faults=faults, warnings=warnings, settings=FrozenDict(settings), template=template)

    @property
    def valid(self) -> bool:
        """Whether there is no fault; warnings do not count."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return {
            "valid": self.valid,
            "faults": [fault.as_dict() for fault in self.faults],
            "warnings": [fault.as_dict() for fault in self.warnings],
            "settings": _plain(self.settings),
            "template": self.template,
        }


class OperationSettings(Frozen):
    """What one operation gets: numbers, and for each of them its source.

    Sources are `preset`, `file`, `environment`, `applied` and `code`. Times in seconds.
    """

    __slots__ = (
        "attempts",
        "deadline",
        "half_open_calls",
        "jitter",
        "maximum",
        "minimum",
        "multiplier",
        "operation",
        "recovery",
        "sources",
        "strategy",
        "threshold",
    )

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
    ) -> None:
        self._set(
            operation=operation,
            strategy=strategy,
            attempts=attempts,
            deadline=deadline,
            multiplier=multiplier,
            minimum=minimum,
            maximum=maximum,
            jitter=jitter,
            threshold=threshold,
            recovery=recovery,
            half_open_calls=half_open_calls,
            sources=FrozenDict(sources),
        )

    def _numbers(self) -> tuple[Any, ...]:
        """Return what makes the pipeline, wherever it comes from."""
        return tuple(value for name, value in self._fields().items() if name not in {"sources", "strategy"})

    @property
    def attempt_timeout(self) -> float:
        """How long one attempt may take: its share of the deadline."""
        return self.deadline / self.attempts

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return {
            **self._fields(),
            "attempt_timeout": self.attempt_timeout,
            "sources": dict(self.sources),
        }


class Configuration(Frozen):
    """A whole configuration: frozen, comparable, as JSON-able facts. Make one with `load`.

    `settings` are the fields of custom configurations, `overrides` the operations with a strategy of their own;
    `sources` says of each where it comes from.
    """

    __slots__ = ("_legacy", "enabled", "overrides", "preset", "settings", "sources", "strategy", "warnings")

    preset: str
    strategy: str
    enabled: bool
    overrides: Mapping[str, str]
    settings: Mapping[str, Any]
    sources: Mapping[str, str]
    warnings: tuple[Fault, ...]
    _legacy: frozenset[str]

    @classmethod
    def _make(
        cls,
        *,
        preset: str,
        strategy: str,
        enabled: bool,
        overrides: Mapping[str, str],
        settings: Mapping[str, Any],
        sources: Mapping[str, str],
        warnings: tuple[Fault, ...],
        legacy: frozenset[str],
    ) -> Self:
        made = cls.__new__(cls)
        made._set(preset=preset, strategy=strategy, enabled=enabled, warnings=warnings, _legacy=legacy)
        made._set(overrides=FrozenDict(overrides), settings=FrozenDict(settings), sources=FrozenDict(sources))
        return made

    def _warned(self, warnings: tuple[Fault, ...]) -> Self:
        """Return the same with warnings."""
        made = type(self).__new__(type(self))
        made._set(**{**self._fields(), "warnings": warnings})
        return made

    @property
    def given(self) -> bool:
        """Whether any source says anything; otherwise it is what the preset `simple` says."""
        return any(source != "preset" for source in self.sources.values())

    def operation(self, name: str) -> OperationSettings:
        """Return what an operation gets; one that no override names gets the default strategy."""
        return self._operation(name, FrozenDict())

    def _operation(self, name: str, code: Mapping[str, Any]) -> OperationSettings:
        """Return what an operation gets by this configuration and by what code says of it."""
        strategy, source, plain = self._strategy_of(name, code)
        numbers = {key: value for key, value in STRATEGIES[strategy]._fields().items() if key != "name"}
        sources = dict.fromkeys(numbers, source)
        if plain:
            self._fill(numbers, sources)
        given = {key: value for key, value in code.items() if key != "strategy"}
        numbers |= given
        sources |= dict.fromkeys(given, "code")
        sources.setdefault("half_open_calls", "preset")
        return OperationSettings(operation=name, strategy=strategy, sources=sources, **numbers)

    def _strategy_of(self, name: str, code: Mapping[str, Any]) -> tuple[str, str, bool]:
        """Return an operation's strategy, who says so, and whether it is the default one."""
        if "strategy" in code:
            return code["strategy"], "code", False
        key = name if name in self.overrides else _environment.as_variable(name)
        if key == name or key in self._legacy:
            found = self.overrides.get(key)
            if found is not None:
                return found, self.sources[f"operation_overrides.{key}"], False
        return self.strategy, self.sources.get("default_strategy", "preset"), True

    def _fill(self, numbers: dict[str, Any], sources: dict[str, str]) -> None:
        """Put what preset and fields say in the place of the default strategy's numbers."""
        preset = PRESETS[self.preset]
        for number in _OF_PRESETS:
            numbers[number], sources[number] = getattr(preset, number), "preset"
        for field, number in _NUMBERS.items():
            if field in self.settings:
                numbers[number], sources[number] = self.settings[field], self.sources[field]
        # A bound that is given alone moves the other one, which the strategy says, out of its way.
        numbers["maximum"] = max(numbers["maximum"], numbers["minimum"])

    def pipeline(self, name: str, *, like: Pipeline | None = None) -> Pipeline:
        """Return the pipeline of an operation; the breaker and the budget of `like` go on in it.

        From then on that breaker has the settings of this configuration.
        """
        plan = self._plan(name, FrozenDict(), like)
        plan.commit()
        return plan.pipeline

    def _plan(self, name: str, code: Mapping[str, Any], like: Pipeline | None) -> Plan:
        from holdfast.infrastructure.resilience._strategies import Plan

        return Plan(self._operation(name, code), like, enabled=self.enabled)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        default = self._operation("", FrozenDict())
        return {
            "preset": self.preset,
            "strategy": self.strategy,
            "enabled": self.enabled,
            "overrides": dict(self.overrides),
            "settings": _plain(self.settings),
            "numbers": {name: getattr(default, name) for name in (*_NUMBERS.values(), "half_open_calls")},
            "sources": dict(self.sources),
            "warnings": [fault.as_dict() for fault in self.warnings],
        }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if is_dict(value) else value for key, value in settings.items()}


def validate(
    settings: str | bytes | Mapping[str, Any], *, operations: Sequence[str] = (), preset: str | None = None
) -> Validation:
    """Check a custom configuration, JSON text or fields, against ranges and size limits. Never raises for what it says.

    `operations` are the registered ones that overrides may name; () allows any. `preset` is what it would be applied
    on, for warnings about both. ImportError without pydantic.
    """
    from holdfast.infrastructure.resilience import _documents, _settings

    if isinstance(settings, (str, bytes)):
        fields, faults = _documents.read_json(settings)
    else:
        fields, faults = _documents.read_fields(settings)
    if _documents.is_readable(faults):
        faults = _settings.merged(faults, _settings.check(fields, operations))
    near = None if not fields else suggest(fields)
    return Validation(
        faults=tuple(faults),
        warnings=() if faults else tuple(_settings.unwise(fields, preset)),
        settings={} if faults else _settings.frozen(fields),
        template=None if near is None else near[0].name,
    )


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
    from holdfast.infrastructure.resilience._sources import Reader

    return Reader(operations).read(preset=preset, file=file, environ=environ, custom=custom)


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
    ) -> None:
        import threading
        from collections import OrderedDict

        faults = Faults("ValidationLimits")
        faults.number("per_minute", per_minute, 1, 1_000_000, whole=True)
        faults.number("per_hour", per_hour, 1, 1_000_000, whole=True)
        faults.number("max_clients", max_clients, 1, 1_000_000, whole=True)
        fine = clock is None or isinstance(clock, Clock)
        faults.check(fine, "clock", clock, "is no Clock", "give one or None")
        faults.finish()
        self._bounds = ((60.0, per_minute), (3600.0, per_hour))
        self._most = max_clients
        self._clock = clock
        self._lock = threading.Lock()
        # When each client's calls of the last hour were admitted, oldest first; least recent clients first.
        self._admitted: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, client: str) -> None:
        """Count one validation of a client. RateLimitedError, with `retry_after`, for one too many."""
        now = (ambient.clock if self._clock is None else self._clock).monotonic()
        with self._lock:
            times = self._times(client)
            wait = max(self._wait(times, now, seconds, most) for seconds, most in self._bounds)
            if wait <= 0:
                times.append(now)
        if wait > 0:
            raise RateLimitedError("validation", wait)

    def _times(self, client: str) -> deque[float]:
        from collections import deque

        times = self._admitted.get(client)
        if times is None:
            times = self._admitted[client] = deque(maxlen=max(most for _, most in self._bounds))
            if len(self._admitted) > self._most:
                self._admitted.popitem(last=False)
        else:
            self._admitted.move_to_end(client)
        return times

    @staticmethod
    def _wait(times: deque[float], now: float, seconds: float, most: int) -> float:
        """Return how long it is until fewer than `most` calls lie in the last `seconds`."""
        return times[-most] + seconds - now if len(times) >= most else 0.0
