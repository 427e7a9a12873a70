"""The fields of a custom configuration: their ranges, by pydantic, and what is allowed but unwise."""

from __future__ import annotations

from difflib import get_close_matches

from holdfast.infrastructure.resilience._documents import joined
from holdfast.infrastructure.resilience._frozen import FrozenDict, is_dict
from holdfast.infrastructure.resilience.config import RANGES, Fault
from holdfast.infrastructure.resilience.presets import STRATEGIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

WHOLE = frozenset({"retry_attempts", "circuit_breaker_threshold"})
FIELDS = (*RANGES, "default_strategy", "operation_overrides")
_NEED = (
    "a custom configuration needs pydantic, which is not installed: pip install 'holdfast[config]'; "
    "presets work without it"
)


def check(fields: Mapping[str, Any], operations: Sequence[str] = (), also: Sequence[str] = ()) -> list[Fault]:
    """Return every fault of the fields; `also` are names that their source knows besides."""
    given = {name: value for name, value in fields.items() if _is_text(name) and name not in also}
    faults = [_explain(error, given, also) for error in _errors(given)]
    faults += _between(given, {fault.path for fault in faults})
    overrides = given.get("operation_overrides")
    if operations and is_dict(overrides):
        strange = [name for name in overrides if isinstance(name, str) and name not in operations]
        faults = merged(faults, [unknown_operation(name, operations) for name in strange])
    if not fields:
        faults.append(Fault("configuration", None, "says nothing", f"at least one of {', '.join(FIELDS)}"))
    return faults


def _is_text(name: object) -> bool:
    return isinstance(name, str)


def _errors(fields: Mapping[str, Any]) -> list[Any]:
    if not fields:
        return []
    require()
    import pydantic

    try:
        _model().model_validate(dict(fields))
    except pydantic.ValidationError as error:
        return list(error.errors(include_url=False, include_context=False))
    return []


_LISTED = 10
_made: list[Any] = []


def _model() -> Any:
    if not _made:
        _made.append(_make_model())
    return _made[0]


def _make_model() -> Any:
    from typing import Annotated, Literal

    import pydantic

    fields: dict[str, Any] = {}
    for name, (low, high) in RANGES.items():
        kind = int if name in WHOLE else float
        fields[name] = (Annotated[kind, pydantic.Field(ge=low, le=high)], None)
    strategy: Any = Literal[tuple(STRATEGIES)]
    name_of_operation: Any = Annotated[str, pydantic.Field(min_length=1)]
    fields["default_strategy"] = (strategy, None)
    fields["operation_overrides"] = (dict[name_of_operation, strategy], None)
    config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)
    return pydantic.create_model("CustomConfiguration", __config__=config, **fields)


def require() -> None:
    """Raise ImportError, naming the extra, if pydantic is not there."""
    from importlib.util import find_spec

    if find_spec("pydantic") is None:
        raise ImportError(_NEED)


def _explain(error: Mapping[str, Any], fields: Mapping[str, Any], also: Sequence[str]) -> Fault:
    where: tuple[Any, ...] = error["loc"]
    path = ""
    for part in where:
        path = path if part == "[key]" else joined(path, part)
    field = str(where[0])
    if error["type"] == "extra_forbidden":
        near = nearest(field, (*FIELDS, *also))
        return Fault(path, None, "is unknown", f"one of {', '.join((*also, *FIELDS))}", near)
    value = fields[field]
    if field == "operation_overrides" and len(where) > 1:
        value = where[1] if "[key]" in where else value[where[1]]
    return _at(path, field, value, error["type"])


def _at(path: str, field: str, value: object, kind: str) -> Fault:
    if field in RANGES:
        problem = (
            "is out of range" if kind.endswith("equal") else f"is not a {'whole ' * (field in WHOLE)}number"
        )
        return Fault(path, value, problem, allowed(field), _clipped(field, value))
    if path == "operation_overrides":
        return Fault(path, value, "is no object", "operations and their strategies")
    if kind == "string_too_short":
        return Fault(path, value, "is no name of an operation", "text")
    return strategy_fault(path, value)


def strategy_fault(path: str, value: object) -> Fault:
    """Return that a value is no strategy."""
    return Fault(path, value, "is no strategy", f"one of {', '.join(STRATEGIES)}", nearest(value, STRATEGIES))


def allowed(field: str) -> str:
    """Return a field's range in words."""
    low, high = RANGES[field]
    return f"{'a whole number' if field in WHOLE else 'a number'} from {low:g} to {high:g}"


def _clipped(field: str, value: object) -> str:
    low, high = RANGES[field]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # noqa: PLR0124  # NaN
        return ""
    if low <= value <= high:
        return f"{round(value)}"
    return f"{low if value < low else high:g}"


def nearest(value: object, known: Iterable[str]) -> str:
    """Return the known name that is nearest to a value, or nothing."""
    if not isinstance(value, str):
        return ""
    return next(iter(get_close_matches(value[:200].lower(), list(known), n=1, cutoff=0.6)), "")


def unknown_operation(name: str, operations: Sequence[str]) -> Fault:
    """Return that an override names an operation that nobody registered."""
    path = joined("operation_overrides", name)
    registered = ", ".join(operations[:_LISTED]) + (", …" if len(operations) > _LISTED else "")
    return Fault(path, name, "is no registered operation", f"one of {registered}", nearest(name, operations))


def number(field: str, text: str) -> int | float | None:
    """Return a field's number as a variable of the environment says it, or None if that is none, or out of range."""
    try:
        value = int(text) if field in WHOLE else float(text)
    except ValueError:
        return None
    low, high = RANGES[field]
    return value if low <= value <= high else None


def number_fault(path: str, field: str, text: str) -> Fault:
    """Return that a variable's text is no number of a field's range."""
    return Fault(path, text, "is out of range or no number", allowed(field))


def merged(first: list[Fault], then: list[Fault]) -> list[Fault]:
    """Return the faults of both, without those that only say more about what is wrong already."""
    known = {fault.path for fault in first}
    return [*first, *(fault for fault in then if fault.path not in known)]


def near_name(name: str, known: Iterable[str]) -> str:
    """Return the variable that a name of one was probably meant to be, or nothing."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.8)), "")


def _between(fields: Mapping[str, Any], wrong: set[str]) -> Iterator[Fault]:
    low, high = fields.get("exponential_min"), fields.get("exponential_max")
    if low is None or high is None or wrong & {"exponential_min", "exponential_max"} or low <= high:
        return
    yield Fault(
        "exponential_max", high, f"is below exponential_min = {low:g}", f"at least {low:g}", f"{low:g}"
    )


def warnings(
    *,
    attempts: float | None,
    threshold: float | None,
    deadline: float | None,
    strategy: str | None,
    preset: str | None,
) -> Iterator[Fault]:
    """Yield what is allowed but unwise; None is a number that is not known."""
    if threshold is not None and threshold < _FEW:
        yield Fault(
            "circuit_breaker_threshold", threshold, "opens the breaker at a hiccup", f"at least {_FEW}"
        )
    if attempts is not None and attempts > _MANY:
        yield Fault("retry_attempts", attempts, "makes an outage worse", f"at most {_MANY}")
    if attempts is not None and deadline is not None and deadline < _EACH * attempts:
        yield Fault(
            "max_delay_seconds",
            deadline,
            f"is short for {attempts:g} attempts",
            f"at least {_EACH * attempts:g}",
        )
    if attempts is not None and threshold is not None and attempts > threshold:
        problem = f"is above circuit_breaker_threshold = {threshold:g}: one call opens the breaker"
        yield Fault("retry_attempts", attempts, problem, f"at most {threshold:g}")
    if preset == "production" and strategy == "aggressive":
        yield Fault(
            "default_strategy", strategy, "gives up early in production", "balanced, conservative or critical"
        )


_FEW, _MANY, _EACH = 3, 7, 2


def unwise(fields: Mapping[str, Any], preset: str | None) -> list[Fault]:
    """Return what is allowed but unwise in the fields, together with a preset's numbers if one is given."""
    if preset is not None:
        from holdfast.infrastructure.resilience.config import load

        return list(load(preset=preset, environ={}, custom=fields).warnings)
    found = warnings(
        attempts=fields.get("retry_attempts"),
        threshold=fields.get("circuit_breaker_threshold"),
        deadline=fields.get("max_delay_seconds"),
        strategy=fields.get("default_strategy"),
        preset=None,
    )
    return list(found)


def frozen(fields: Mapping[str, Any]) -> FrozenDict:
    """Return checked fields as part of a frozen object, numbers as the floats and ints that they are meant to be."""
    made: dict[str, Any] = {}
    for name, value in fields.items():
        if name in RANGES:
            made[name] = int(value) if name in WHOLE else float(value)
        else:
            made[name] = FrozenDict(value) if is_dict(value) else value
    return FrozenDict(made)
