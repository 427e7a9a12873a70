"""Strategies, presets and templates: the numbers that a configuration starts from."""

from __future__ import annotations

from holdfast.infrastructure.resilience._frozen import Frozen, FrozenDict, is_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any


class Strategy(Frozen):
    """What one operation gets. Times in seconds; breaker: `threshold` failures in a row open it for `recovery`.

    The wait before retry k is `multiplier * 2 ** (k - 1)`, at least `minimum`, at most `maximum`, plus up to `jitter`.
    """

    __slots__ = (
        "attempts",
        "deadline",
        "jitter",
        "maximum",
        "minimum",
        "multiplier",
        "name",
        "recovery",
        "threshold",
    )

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
    ) -> None:
        self._set(
            name=name,
            attempts=attempts,
            deadline=deadline,
            multiplier=multiplier,
            minimum=minimum,
            maximum=maximum,
            jitter=jitter,
            threshold=threshold,
            recovery=recovery,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return self._fields()


class Preset(Frozen):
    """A configuration with a name: three numbers, a default strategy and the operations that have another one."""

    __slots__ = ("attempts", "description", "name", "overrides", "recovery", "strategy", "threshold")

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
    ) -> None:
        self._set(
            name=name,
            description=description,
            attempts=attempts,
            threshold=threshold,
            recovery=recovery,
            strategy=strategy,
            overrides=FrozenDict(overrides),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return {**self._fields(), "overrides": dict(self.overrides)}


class Template(Frozen):
    """A starting point for a custom configuration; `settings` are its fields."""

    __slots__ = ("description", "name", "settings")

    name: str
    description: str
    settings: Mapping[str, Any]

    def __init__(self, *, name: str, description: str, settings: Mapping[str, Any]) -> None:
        self._set(name=name, description=description, settings=FrozenDict(settings))

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return {**self._fields(), "settings": _plain(self.settings)}


class Recommendation(Frozen):
    """Which preset suits an environment; `confidence` from 0 to 1, `reason` in words."""

    __slots__ = ("confidence", "environment", "preset", "reason")

    environment: str
    preset: str
    confidence: float
    reason: str

    def __init__(self, *, environment: str, preset: str, confidence: float, reason: str) -> None:
        self._set(environment=environment, preset=preset, confidence=confidence, reason=reason)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able facts."""
        return self._fields()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if is_dict(value) else value for key, value in settings.items()}


_FIELDS = ("attempts", "deadline", "multiplier", "minimum", "maximum", "threshold", "recovery", "jitter")
_ROWS: dict[str, tuple[Any, ...]] = {
    "aggressive": (2, 10.0, 0.5, 1.0, 5.0, 3, 30.0, 2.0),
    "balanced": (3, 30.0, 1.0, 2.0, 10.0, 5, 60.0, 2.0),
    "conservative": (5, 120.0, 2.0, 4.0, 30.0, 8, 120.0, 2.0),
    "critical": (7, 300.0, 1.5, 3.0, 60.0, 10, 300.0, 5.0),
}
STRATEGIES: Mapping[str, Strategy] = FrozenDict(
    {name: Strategy(name=name, **dict(zip(_FIELDS, row, strict=True))) for name, row in _ROWS.items()}
)

PRESETS: Mapping[str, Preset] = FrozenDict(
    simple=Preset(
        name="simple",
        description="The same for every operation, and fit for most of them",
        attempts=3,
        threshold=5,
        recovery=60.0,
        strategy="balanced",
        overrides={},
    ),
    development=Preset(
        name="development",
        description="Fails fast, so that whoever waits for it sees the error",
        attempts=2,
        threshold=3,
        recovery=30.0,
        strategy="aggressive",
        overrides={"sentiment": "aggressive", "qa": "balanced"},
    ),
    production=Preset(
        name="production",
        description="Tries long before it gives up, and longest where people wait for the answer",
        attempts=5,
        threshold=10,
        recovery=120.0,
        strategy="conservative",
        overrides={
            "qa": "critical",
            "sentiment": "aggressive",
            "summarize": "conservative",
            "key_points": "balanced",
            "questions": "balanced",
        },
    ),
)


_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "fast_development": (
        "One attempt, so that errors show at once",
        {
            "retry_attempts": 1,
            "circuit_breaker_threshold": 2,
            "recovery_timeout": 15.0,
            "default_strategy": "aggressive",
        },
    ),
    "low_latency": (
        "Rather no answer than a late one",
        {
            "retry_attempts": 1,
            "circuit_breaker_threshold": 2,
            "recovery_timeout": 10.0,
            "default_strategy": "aggressive",
            "max_delay_seconds": 5.0,
            "exponential_multiplier": 0.5,
            "exponential_min": 0.5,
            "exponential_max": 5.0,
        },
    ),
    "high_throughput": (
        "Few retries, quick recovery",
        {
            "retry_attempts": 3,
            "circuit_breaker_threshold": 8,
            "recovery_timeout": 45.0,
            "default_strategy": "balanced",
        },
    ),
    "robust_production": (
        "Many retries and patient breakers, most of all for answers that people wait for",
        {
            "retry_attempts": 6,
            "circuit_breaker_threshold": 12,
            "recovery_timeout": 180.0,
            "default_strategy": "conservative",
            "operation_overrides": FrozenDict(qa="critical"),
        },
    ),
    "maximum_reliability": (
        "Rather a late answer than none",
        {
            "retry_attempts": 8,
            "circuit_breaker_threshold": 15,
            "recovery_timeout": 300.0,
            "default_strategy": "critical",
            "exponential_multiplier": 2.0,
            "exponential_min": 3.0,
            "exponential_max": 60.0,
            "jitter_max": 5.0,
        },
    ),
}
TEMPLATES: Mapping[str, Template] = FrozenDict(
    {
        name: Template(name=name, description=description, settings=settings)
        for name, (description, settings) in _SETTINGS.items()
    }
)

_DEVELOPMENT, _PRODUCTION = "development", "production"
_EXACT = {
    "development": (_DEVELOPMENT, 0.95),
    "production": (_PRODUCTION, 0.95),
    "dev": (_DEVELOPMENT, 0.90),
    "prod": (_PRODUCTION, 0.90),
    "staging": (_PRODUCTION, 0.90),
    "test": (_DEVELOPMENT, 0.85),
    "testing": (_DEVELOPMENT, 0.85),
    "stage": (_PRODUCTION, 0.85),
    "live": (_PRODUCTION, 0.85),
}
_CONTAINS, _RESEMBLES, _UNKNOWN = 0.75, 0.70, 0.40
# What words begin or end with that mean an environment, and words that mean one without looking like it.
_STEMS = {"dev": _DEVELOPMENT, "test": _DEVELOPMENT, "prod": _PRODUCTION, "stag": _PRODUCTION}
_OTHERS = {"local": _DEVELOPMENT, "localhost": _DEVELOPMENT, "sandbox": _DEVELOPMENT, "uat": _PRODUCTION}
_ALIKE = 0.8
_SHOWN = 40


def recommend(environment: str) -> Recommendation:
    """Return the preset for an environment: by its exact name, a usual short form, what it resembles, else simple."""
    if not isinstance(environment, str):
        raise TypeError(f"{environment!r} is no name of an environment: give text, for example 'production'")
    name = environment.strip().casefold()
    preset, confidence, reason = _judge(name[:200])
    return Recommendation(environment=environment, preset=preset, confidence=confidence, reason=reason)


def _judge(name: str) -> tuple[str, float, str]:
    shown = repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")
    if name in _EXACT:
        preset, confidence = _EXACT[name]
        return preset, confidence, f"{shown} is a usual name of an environment"
    found = list(_meanings(name))
    best = max((one[1] for one in found), default=0.0)
    presets = sorted({preset for preset, _, _ in found})
    if len(presets) == 1:
        word = next(word for _, confidence, word in found if confidence == best)
        return presets[0], best, f"{shown} resembles {word!r}"
    if presets:
        return "simple", _UNKNOWN, f"{shown} resembles environments of both kinds"
    return "simple", _UNKNOWN, f"{shown} resembles no environment that we know"


def _meanings(name: str) -> Iterator[tuple[str, float, str]]:
    words = "".join(letter if letter.isalpha() else " " for letter in name).split()
    for before, word in zip(["", *words], words, strict=False):
        if before in {"non", "not", "no"} and word.startswith("prod"):
            yield _DEVELOPMENT, _RESEMBLES, f"non-{word}"
        elif word not in {"non", "not", "no"}:
            yield from _meaning(word)


def _meaning(word: str) -> Iterator[tuple[str, float, str]]:
    if word in _EXACT:
        yield _EXACT[word][0], _CONTAINS, word
    elif word in _OTHERS:
        yield _OTHERS[word], _RESEMBLES, word
    elif word.startswith("nonprod"):
        yield _DEVELOPMENT, _RESEMBLES, "non-production"
    else:
        alike = _nearest(word)
        if alike is not None:
            yield _EXACT[alike][0], _RESEMBLES, alike
            return
        for stem, preset in _STEMS.items():
            if word.startswith(stem) or (word.endswith(stem) and stem in _EXACT and stem != "test"):
                yield preset, _RESEMBLES, stem


def _nearest(word: str) -> str | None:
    from difflib import get_close_matches

    return next(
        iter(get_close_matches(word, [one for one in _EXACT if len(one) > len("prod")], n=1, cutoff=_ALIKE)),
        None,
    )


def suggest(settings: Mapping[str, Any]) -> tuple[Template, float] | None:
    """Return the template nearest to a custom configuration and how near, 0 to 1; None where none is."""
    near = [(template, _likeness(settings, template.settings)) for template in TEMPLATES.values()]
    best = max(near, key=lambda one: one[1])
    return best if best[1] >= _NEAR else None


_NEAR = 0.5
_HUGE = 1e9


def _likeness(settings: Mapping[str, Any], template: Mapping[str, Any]) -> float:
    """Return the mean likeness of the fields that either has; one that only one of them has counts for nothing."""
    fields = {*settings, *template}
    return round(sum(_alike(settings.get(field), template.get(field)) for field in fields) / len(fields), 2)


def _alike(one: object, other: object) -> float:
    if isinstance(one, bool) or isinstance(other, bool):
        return 0.0
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        low, high = min(one, other), max(one, other)
        return low / high if low > 0 and high < _HUGE else 0.0
    return float(one is not None and one == other)
