"""Strategies, presets, templates: every number, what is recommended for an environment, what is near a template."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.infrastructure.resilience._frozen import FrozenDict
from holdfast.infrastructure.resilience.config import RANGES, load, validate
from holdfast.infrastructure.resilience.presets import (
    PRESETS,
    STRATEGIES,
    TEMPLATES,
    Recommendation,
    recommend,
    suggest,
)

# attempts, deadline, multiplier, minimum, maximum, threshold, recovery, jitter
NUMBERS = {
    "aggressive": (2, 10, 0.5, 1, 5, 3, 30, 2),
    "balanced": (3, 30, 1, 2, 10, 5, 60, 2),
    "conservative": (5, 120, 2, 4, 30, 8, 120, 2),
    "critical": (7, 300, 1.5, 3, 60, 10, 300, 5),
}
# attempts, threshold, recovery, strategy, overrides
ENVIRONMENTS: dict[str, tuple[int, int, float, str, dict[str, str]]] = {
    "simple": (3, 5, 60, "balanced", {}),
    "development": (2, 3, 30, "aggressive", {"sentiment": "aggressive", "qa": "balanced"}),
    "production": (
        5,
        10,
        120,
        "conservative",
        {
            "qa": "critical",
            "sentiment": "aggressive",
            "summarize": "conservative",
            "key_points": "balanced",
            "questions": "balanced",
        },
    ),
}
# attempts, threshold, recovery, strategy, the rest
STARTS: dict[str, tuple[int, int, float, str, dict[str, Any]]] = {
    "fast_development": (1, 2, 15, "aggressive", {}),
    "low_latency": (
        1,
        2,
        10,
        "aggressive",
        {
            "max_delay_seconds": 5,
            "exponential_multiplier": 0.5,
            "exponential_min": 0.5,
            "exponential_max": 5,
        },
    ),
    "high_throughput": (3, 8, 45, "balanced", {}),
    "robust_production": (6, 12, 180, "conservative", {"operation_overrides": {"qa": "critical"}}),
    "maximum_reliability": (
        8,
        15,
        300,
        "critical",
        {"exponential_multiplier": 2, "exponential_min": 3, "exponential_max": 60, "jitter_max": 5},
    ),
}


def test_there_are_no_others() -> None:
    """The tables name every strategy, preset and template, in the order in which they are listed."""
    assert (list(NUMBERS), list(ENVIRONMENTS), list(STARTS)) == (
        list(STRATEGIES),
        list(PRESETS),
        list(TEMPLATES),
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_a_strategy(name: str) -> None:
    """A strategy has the eight numbers of the table."""
    one = STRATEGIES[name]
    given = (one.attempts, one.deadline, one.multiplier, one.minimum, one.maximum)
    assert (*given, one.threshold, one.recovery, one.jitter) == NUMBERS[name]
    assert one.name == name


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_numbers_of_a_preset(name: str) -> None:
    """A preset has the three numbers, the default strategy and the overrides of the table."""
    one = PRESETS[name]
    assert (one.attempts, one.threshold, one.recovery, one.strategy, one.overrides) == ENVIRONMENTS[name]
    assert (one.name, bool(one.description)) == (name, True)


@pytest.mark.parametrize("name", STARTS)
def test_the_fields_of_a_template(name: str) -> None:
    """A template has the fields of the table, and is a valid custom configuration as it stands."""
    attempts, threshold, recovery, strategy, rest = STARTS[name]
    template = TEMPLATES[name]
    assert template.settings == {
        "retry_attempts": attempts,
        "circuit_breaker_threshold": threshold,
        "recovery_timeout": recovery,
        "default_strategy": strategy,
        **rest,
    }
    assert validate(template.settings).faults == ()
    assert validate(json.dumps(template.as_dict()["settings"])).settings == template.settings


def test_the_ranges_of_a_custom_configuration() -> None:
    """The ranges are those of the table."""
    assert RANGES == {
        "retry_attempts": (1, 10),
        "circuit_breaker_threshold": (1, 20),
        "recovery_timeout": (10, 300),
        "exponential_multiplier": (0.1, 5),
        "exponential_min": (0.5, 10),
        "exponential_max": (5, 120),
        "jitter_max": (0.1, 10),
        "max_delay_seconds": (5, 600),
    }


@pytest.mark.parametrize(
    ("environment", "preset", "confidence"),
    [
        ("development", "development", 0.95),
        ("production", "production", 0.95),
        (" Production ", "production", 0.95),
        ("dev", "development", 0.90),
        ("prod", "production", 0.90),
        ("staging", "production", 0.90),
        ("test", "development", 0.85),
        ("testing", "development", 0.85),
        ("stage", "production", 0.85),
        ("LIVE", "production", 0.85),
        ("prod-eu-1", "production", 0.75),
        ("my_dev_box", "development", 0.75),
        ("staging2", "production", 0.75),
        ("devlopment", "development", 0.70),
        ("prodution", "production", 0.70),
        ("mydev", "development", 0.70),
        ("preprod", "production", 0.70),
        ("testbed", "development", 0.70),
        ("localhost", "development", 0.70),
        ("uat", "production", 0.70),
        ("nonprod", "development", 0.70),
        ("non-production", "development", 0.70),
        ("dev-mirror-of-prod", "simple", 0.40),
        ("latest", "simple", 0.40),
        ("deliver", "simple", 0.40),
        ("blue", "simple", 0.40),
        ("", "simple", 0.40),
        ("x" * 100_000, "simple", 0.40),
    ],
)
def test_what_is_recommended(environment: str, preset: str, confidence: float) -> None:
    """Exact names, short forms and names that resemble them are recognized, each with less confidence."""
    found = recommend(environment)
    assert (found.preset, found.confidence) == (preset, confidence)
    assert (found.environment, 0 < len(found.reason) < 120) == (environment, True)
    assert json.loads(json.dumps(found.as_dict()))["preset"] == preset


def test_an_environment_is_text() -> None:
    """What is no text is a mistake of the caller's."""
    with pytest.raises(TypeError, match="None is no name of an environment"):
        recommend(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "near"),
    [
        *((template.settings, (name, 1.0)) for name, template in TEMPLATES.items()),
        (
            {"retry_attempts": 6, "circuit_breaker_threshold": 10, "default_strategy": "conservative"},
            ("robust_production", 0.57),
        ),
        (
            {"retry_attempts": 3, "recovery_timeout": 90, "default_strategy": "balanced"},
            ("high_throughput", 0.62),
        ),
        ({"jitter_max": 0.1}, None),
        ({"retry_attempts": True, "default_strategy": 5, "recovery_timeout": 10**400}, None),
        ({}, None),
    ],
)
def test_the_nearest_template(settings: Mapping[str, Any], near: tuple[str, float] | None) -> None:
    """A template is itself with likeness 1; what is like none has none; nonsense is like nothing."""
    found = suggest(settings)
    assert (None if found is None else (found[0].name, found[1])) == near


def test_they_cannot_change() -> None:
    """Whoever has one has the numbers of all: neither objects nor mappings can be changed."""
    with pytest.raises(AttributeError, match="Strategy is immutable"):
        STRATEGIES["balanced"].attempts = 5
    for mapping in (STRATEGIES, PRESETS["production"].overrides, TEMPLATES["low_latency"].settings):
        assert isinstance(mapping, FrozenDict)
        changes: tuple[Callable[[], object], ...] = (
            partial(mapping.update, a=1),
            partial(mapping.pop, "qa", None),
            partial(mapping.__setitem__, "qa", 1),
            mapping.clear,
        )
        for change in changes:
            with pytest.raises(TypeError, match="part of a frozen object"):
                change()


def test_they_travel() -> None:
    """They can be pickled, compared and used as keys, and are JSON."""
    for one in (STRATEGIES, PRESETS, TEMPLATES):
        for value in one.values():
            assert pickle.loads(pickle.dumps(value)) == value
            assert {value: 1}[pickle.loads(pickle.dumps(value))] == 1
            assert json.loads(json.dumps(value.as_dict())) == value.as_dict()
    assert pickle.loads(pickle.dumps(PRESETS)) == PRESETS
    assert isinstance(recommend("prod"), Recommendation)


def test_presets_need_no_other_package() -> None:
    """Presets, and an environment that names one, load neither pydantic nor the modules that read text."""
    path = str(Path(holdfast.__file__).parents[1])
    program = (
        f"import sys; sys.path.insert(0, {path!r}); sys.modules['pydantic'] = None; "
        "from holdfast.infrastructure.resilience.presets import PRESETS, recommend; recommend('prod'); "
        "from holdfast.infrastructure.resilience.config import load; "
        "load(environ={'RESILIENCE_PRESET': 'production'}).pipeline('qa'); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], check=True, capture_output=True, text=True
    )
    assert {"pydantic", "json", "tomllib", "dataclasses"} & set(done.stdout.split()) == {"pydantic"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("custom", [None, *(template.settings for template in TEMPLATES.values())], ids=str)
def test_every_pipeline_is_sound(preset: str, custom: Mapping[str, Any] | None) -> None:
    """Whatever the preset, the template and the operation: `explain()` has nothing to warn of."""
    configuration = load(preset=preset, environ={}, custom=custom)
    for operation in ("qa", "sentiment", "summarize", "key_points", "questions", "other"):
        told = configuration.pipeline(operation).explain()
        settings = configuration.operation(operation)
        assert (told.warnings, told.attempts, told.duration) == ((), settings.attempts, settings.deadline)
