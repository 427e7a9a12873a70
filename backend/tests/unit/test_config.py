"""Configuration: what a custom one may say, where it comes from, which source wins, what an operation gets."""

import json
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

import holdfast
from holdfast.infrastructure.resilience import errors
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.config import (
    RANGES,
    Configuration,
    Fault,
    Validation,
    ValidationLimits,
    load,
    validate,
)
from holdfast.infrastructure.resilience.errors import ConfigurationError, RateLimitedError
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.presets import STRATEGIES
from holdfast.infrastructure.resilience.randomness import use_random
from holdfast.infrastructure.resilience.registry import recommended
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.testing import VirtualClock

WHOLE = {"retry_attempts", "circuit_breaker_threshold"}


class Fixed(Random):
    """Draws the same every time."""

    def __init__(self, drawn: float) -> None:
        super().__init__(0)
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


def paths(settings: Any, **more: Any) -> list[str]:
    return [fault.path for fault in validate(settings, **more).faults]


def policy(pipeline: Pipeline, kind: type[Any]) -> Any:
    return next(one for one in pipeline.policies if isinstance(one, kind))


def budget_of(pipeline: Pipeline) -> RetryBudget:
    budget = policy(pipeline, Retry).config.budget
    assert isinstance(budget, RetryBudget)
    return budget


# Ranges, and faults all at once.


@pytest.mark.parametrize("field", RANGES)
def test_both_ends_of_a_range_are_in_it(field: str) -> None:
    """The lowest and the highest value are accepted, and nothing beyond them."""
    low, high = RANGES[field]
    step = 1 if field in WHOLE else 1e-9 * high
    for value in (low, high):
        assert validate({field: value}).settings == {field: value}
    for value in (low - step, high + step):
        (fault,) = validate({field: value}).faults
        whole = "a whole number" if field in WHOLE else "a number"
        assert (fault.path, fault.value, fault.problem) == (field, value, "is out of range")
        assert fault.allowed == f"{whole} from {low:g} to {high:g}"
        assert float(fault.suggestion) == (low if value < low else high)


@pytest.mark.parametrize("field", RANGES)
@pytest.mark.parametrize("value", ["3", None, True, [3], {"a": 3}, float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_refused(field: str, value: Any) -> None:
    """Text, null, switches, lists, objects, and what is not finite are no numbers, whatever they would convert to."""
    assert paths({field: value}) == [field]


@pytest.mark.parametrize("field", WHOLE)
def test_a_whole_number_has_no_fraction(field: str) -> None:
    """3.0 is no number of attempts."""
    (fault,) = validate({field: 3.0}).faults
    assert (fault.problem, fault.suggestion) == ("is not a whole number", "3")


def test_every_fault_is_reported_at_once() -> None:
    """One validation names every fault: path, value, what is allowed, what to write instead."""
    found = validate(
        {
            "retry_attempts": 99,
            "default_strategy": "agressive",
            "retry_atempts": 3,
            "operation_overrides": {"qa": "critcal", "sumarize": "balanced"},
            "exponential_min": 9,
            "exponential_max": 8,
        },
        operations=["qa", "summarize"],
    )
    facts = {fault.path: (fault.value, fault.suggestion) for fault in found.faults}
    assert facts == {
        "retry_attempts": (99, "10"),
        "default_strategy": ("agressive", "aggressive"),
        "retry_atempts": (None, "retry_attempts"),
        "operation_overrides.qa": ("critcal", "critical"),
        "operation_overrides.sumarize": ("sumarize", "summarize"),
        "exponential_max": (8, "9"),
    }
    assert (found.valid, found.settings) == (False, {})
    assert "one of aggressive, balanced, conservative, critical" in str(found.faults)
    assert json.loads(json.dumps(found.as_dict()))["faults"][0]["allowed"] == "a whole number from 1 to 10"


@pytest.mark.parametrize("settings", ["{}", b"{}", {}])
def test_a_configuration_that_says_nothing_is_refused(settings: Any) -> None:
    """At least one field is needed."""
    (fault,) = validate(settings).faults
    assert (fault.path, fault.problem) == ("configuration", "says nothing")
    assert all(field in fault.allowed for field in RANGES)


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        ([], "operation_overrides"),
        ("qa", "operation_overrides"),
        ({"qa": 5}, "operation_overrides.qa"),
        ({"qa": None}, "operation_overrides.qa"),
        ({"": "balanced"}, "operation_overrides."),
    ],
)
def test_overrides_are_operations_and_strategies(overrides: Any, path: str) -> None:
    """Overrides are an object from names to strategies; nothing else is."""
    assert paths({"operation_overrides": overrides}) == [path]


def test_any_operation_may_be_named_where_none_is_registered() -> None:
    """Without registered operations nobody can say which name is wrong."""
    assert paths({"operation_overrides": {"anything": "balanced"}}) == []


def test_no_value_is_echoed_at_length() -> None:
    """A fault keeps at most 80 characters of a value, and none of a field that nobody knows."""
    found = validate(
        {
            "default_strategy": "x" * 199,
            "password": "hunter2",
            "y" * 190: 1,
            "retry_attempts": ["hunter2"],
            "jitter_max": {"secret": "hunter2"},
        }
    )
    assert len(found.faults) == 5
    assert "hunter2" not in json.dumps(found.as_dict()) + str(found)
    assert all(len(str(fault.value)) <= 80 and len(fault.path) <= 80 for fault in found.faults)


def test_a_field_is_not_taken_for_pathless() -> None:
    """Fields whose names are no text are faults too, not errors of ours."""
    assert paths({1: 2}) == ["configuration"]


# What comes from outside.


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("", "configuration", "is no JSON: Expecting value at line 1, column 1"),
        (
            "{",
            "configuration",
            "is no JSON: Expecting property name enclosed in double quotes at line 1, column 2",
        ),
        ("[1]", "configuration", "is no object"),
        ('"a"', "configuration", "is no object"),
        ("null", "configuration", "is no object"),
        ("3", "configuration", "is no object"),
        ('{"retry_attempts": 1} x', "configuration", "is no JSON: Extra data at line 1, column 23"),
        ('{"retry_attempts": 1, "retry_attempts": 2}', "retry_attempts", "is there twice"),
        (
            '{"operation_overrides": {"a": "balanced", "a": "critical"}}',
            "operation_overrides.a",
            "is there twice",
        ),
        ('{"jitter_max": NaN}', "jitter_max", "is not finite"),
        ('{"jitter_max": -Infinity}', "jitter_max", "is not finite"),
        ('{"jitter_max": 1e999}', "jitter_max", "is not finite"),
        ('{"a": ' * 11 + "1" + "}" * 11, "configuration", "is nested too deeply"),
        ("[" * 4000, "configuration", "is nested too deeply"),
        ('{"a": "' + "[" * 150 + '"}', "a", "is unknown"),
        ('{"a": "\\"' + "[" * 150 + '"}', "a", "is unknown"),
        ('{"default_strategy": "' + "x" * 201 + '"}', "default_strategy", "characters are too many"),
        ('{"' + "x" * 201 + '": 1}', None, "characters are too many"),
        ('{"a": [' + "1," * 20 + "1]}", "a", "items are too many"),
        ("{" + ",".join(f'"f{at}": 1' for at in range(51)) + "}", "configuration", "properties are too many"),
        ('{"retry_attempts": 1' + " " * 4096 + "}", "configuration", "bytes are too many"),
        ('{"default_strategy": "\\ud800"}', "default_strategy", "is not text: half a character is missing"),
        ('{"default_strategy": "\ud800"}', "configuration", "is not UTF-8 at byte 22"),
        (b'{"default_strategy": "\xff"}', "configuration", "is not UTF-8 at byte 22"),
        ('{"retry_attempts": 1' + "0" * 4000 + "}", "retry_attempts", "is out of range"),
        ('{"retry_attempts": 1' + "0" * 5000 + "}", "configuration", "bytes are too many"),
    ],
)
def test_text_from_outside_is_bounded(text: str | bytes, path: str | None, problem: str) -> None:
    """Size, depth, width and length have limits, and what is no JSON object has a fault that says where."""
    found = validate(text).faults
    assert problem in [fault.problem for fault in found if path in {None, fault.path}]
    json.dumps(validate(text).as_dict(), allow_nan=False).encode()


@pytest.mark.parametrize(("size", "fine"), [(4096, True), (4097, False)])
@pytest.mark.parametrize("kind", [str, bytes])
def test_the_limit_of_the_size_is_in_bytes(size: int, fine: bool, kind: type) -> None:  # noqa: FBT001
    """4096 bytes are accepted, one more is not, however few characters they are."""
    head, tail = '{"operation_overrides": {"' + "é" * 100, '": "balanced"}}'
    text = head + tail
    text += " " * (size - len(text.encode()))
    assert validate(text if kind is str else text.encode()).valid is fine


def test_at_the_limits() -> None:
    """What just fits is read: ten levels, fifty properties, twenty items, two hundred characters."""
    deep: Any = 1
    for _ in range(9):
        deep = {"a": deep}
    wide = {"operation_overrides": {f"f{at}": "balanced" for at in range(49)}}
    assert paths(json.dumps({"x": deep})) == ["x"]
    assert "is nested too deeply" not in str(validate({"x": deep}).faults)
    assert paths(json.dumps(wide)) == []
    assert paths({"operation_overrides": {"o" * 200: "balanced"}}) == []
    assert [fault.problem for fault in validate({"x": [1] * 20}).faults] == ["is unknown"]


def test_fields_are_bounded_as_text_is() -> None:
    """A mapping that code hands over has the same limits, and one that contains itself does no harm."""
    endless: dict[str, Any] = {}
    endless["a"] = endless
    assert "is nested too deeply" in str(validate(endless).faults)
    wide = {"operation_overrides": {f"f{at}": "balanced" for at in range(60)}}
    assert "properties are too many" in str(validate(wide).faults)


def test_a_byte_order_mark_is_no_fault() -> None:
    """Text that an editor put a mark in front of is read."""
    assert validate(b'\xef\xbb\xbf{"retry_attempts": 3}').valid


@pytest.mark.parametrize(
    ("settings", "preset", "said"),
    [
        ({"circuit_breaker_threshold": 2}, None, ["circuit_breaker_threshold"]),
        ({"circuit_breaker_threshold": 3}, None, []),
        ({"retry_attempts": 8}, None, ["retry_attempts"]),
        ({"retry_attempts": 7}, None, []),
        ({"retry_attempts": 5, "max_delay_seconds": 9}, None, ["max_delay_seconds"]),
        ({"retry_attempts": 5, "max_delay_seconds": 10}, None, []),
        ({"retry_attempts": 5, "circuit_breaker_threshold": 4}, None, ["retry_attempts"]),
        ({"retry_attempts": 4, "circuit_breaker_threshold": 4}, None, []),
        ({"default_strategy": "aggressive"}, None, []),
        ({"default_strategy": "aggressive"}, "production", ["default_strategy"]),
        ({"default_strategy": "aggressive"}, "simple", []),
        ({"retry_attempts": 6}, "simple", ["retry_attempts"]),
        ({"retry_attempts": 10}, "production", ["retry_attempts"]),
        ({"max_delay_seconds": 9}, "production", ["max_delay_seconds"]),
    ],
)
def test_what_is_unwise_is_a_warning(
    settings: Mapping[str, Any], preset: str | None, said: list[str]
) -> None:
    """Five things are allowed and warned of, together with a preset's numbers where one is given."""
    found = validate(settings, preset=preset)
    assert (found.valid, [one.path for one in found.warnings]) == (True, said)
    assert (
        load(preset=preset or "simple", environ={}, custom=settings).warnings
        == validate(settings, preset=preset or "simple").warnings
    )


def test_the_presets_alone_warn_of_nothing() -> None:
    """No preset is unwise by its own numbers."""
    assert [load(preset=name, environ={}).warnings for name in ("simple", "development", "production")] == [
        ()
    ] * 3


def test_a_template_is_suggested() -> None:
    """The template that comes nearest is named, also for what is not valid yet."""
    assert validate(
        {"retry_attempts": 1, "circuit_breaker_threshold": 2, "recovery_timeout": 15}
    ).template == ("fast_development")
    assert validate({"retry_attempts": 99}).template is None
    assert validate("[").template is None


# Sources.


def write(folder: Path, text: str, name: str = "resilience.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_preset_simple() -> None:
    """Without any source it is what `simple` says, and it knows that nobody said so."""
    found = load(environ={})
    assert (found.preset, found.strategy, found.enabled, found.given) == ("simple", "balanced", True, False)
    assert load(environ={"PATH": "/", "RESILIENCE_PRESET": " "}).given is False
    assert load(environ={"RESILIENCE_ENABLED": "true"}).given is True
    assert load(preset="simple", environ={}).given is True


def test_later_sources_win(tmp_path: Path) -> None:
    """Preset, then file, then environment, then what is applied: field by field, and each field says whence it is."""
    file = write(
        tmp_path,
        'preset = "development"\nretry_attempts = 3\nrecovery_timeout = 40\njitter_max = 1\n'
        '[operation_overrides]\nqa = "conservative"\nother = "balanced"\n',
    )
    environ = {"RESILIENCE_CUSTOM_CONFIG": '{"recovery_timeout": 50, "jitter_max": 3}'}
    found = load(
        file=file, environ=environ, custom={"jitter_max": 4, "operation_overrides": {"other": "critical"}}
    )
    got = found.operation("")
    assert (got.threshold, got.attempts, got.recovery, got.jitter) == (3, 3, 50, 4)
    assert {key: got.sources[key] for key in ("threshold", "attempts", "recovery", "jitter", "deadline")} == {
        "threshold": "preset",
        "attempts": "file",
        "recovery": "environment",
        "jitter": "applied",
        "deadline": "preset",
    }
    strategies = {name: found.operation(name).strategy for name in ("sentiment", "qa", "other", "nobody")}
    assert strategies == {
        "sentiment": "aggressive",
        "qa": "conservative",
        "other": "critical",
        "nobody": "aggressive",
    }
    assert found.operation("qa").sources["attempts"] == "file"
    assert found.sources["preset"] == "file"


@pytest.mark.parametrize(
    ("file", "variable", "argument", "preset"),
    [
        (None, None, None, "simple"),
        ("development", None, None, "development"),
        ("development", "production", None, "production"),
        ("development", "production", "simple", "simple"),
        ("development", " PRODUCTION ", None, "production"),
    ],
)
def test_which_preset_holds(
    tmp_path: Path, file: str | None, variable: str | None, argument: str | None, preset: str
) -> None:
    """The argument wins over the variable, and that over the file."""
    path = None if file is None else write(tmp_path, f'preset = "{file}"')
    environ = {} if variable is None else {"RESILIENCE_PRESET": variable}
    assert load(preset=argument, file=path, environ=environ).preset == preset


@pytest.mark.parametrize(
    ("preset", "suggestion"),
    [("prodution", "production"), ("prod", "production"), ("dev", "development"), ("blue", ""), (5, "")],
)
def test_a_preset_that_was_meant(preset: Any, suggestion: str) -> None:
    """An environment's name is no preset, but tells which one was meant."""
    with pytest.raises(ConfigurationError) as caught:
        load(preset=preset, environ={})
    (fault,) = caught.value.faults
    assert isinstance(fault, Fault)
    assert (fault.path, fault.suggestion) == ("preset", suggestion)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "retry_attempts = 4\n# a comment\n[operation_overrides]\nqa = 'critical'\n"),
        ("a.json", '{"retry_attempts": 4, "operation_overrides": {"qa": "critical"}}'),
        ("a.conf", '{"retry_attempts": 4, "operation_overrides": {"qa": "critical"}}'),
    ],
)
def test_a_file_is_toml_or_json(tmp_path: Path, name: str, text: str) -> None:
    """A file that is called `.toml` is TOML, any other JSON; a variable may name it."""
    path = write(tmp_path, text, name)
    for found in (load(file=path, environ={}), load(environ={"RESILIENCE_CONFIG_FILE": str(path)})):
        assert (found.operation("").attempts, found.operation("qa").attempts) == (4, 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("retry_attempts = 99", ["resilience.toml.retry_attempts"]),
        (
            "retry_attempts = 4\nenabled = 'yes'\npreset = 'prodction'",
            ["resilience.toml.enabled", "resilience.toml.preset"],
        ),
        ("preset = 5", ["resilience.toml.preset"]),
        ("retries = 4", ["resilience.toml.retries"]),
        ("retry_attempts = ", ["resilience.toml"]),
        ("a = " + "[" * 30_000, ["resilience.toml"]),
        ("a = 2020-01-01", ["resilience.toml.a"]),
        ("retry_attempts = 4 # " + "x" * 70_000, ["resilience.toml"]),
        ("a = nan", ["resilience.toml.a"]),
    ],
)
def test_the_faults_of_a_file(tmp_path: Path, text: str, said: list[str]) -> None:
    """A fault of a file names the file and the field."""
    with pytest.raises(ConfigurationError) as caught:
        load(file=write(tmp_path, text), environ={})
    assert [fault.path for fault in caught.value.faults] == said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read is a fault, not a traceback."""
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load(file=tmp_path / "none.toml", environ={})


def test_the_faults_of_all_sources_come_together(tmp_path: Path) -> None:
    """File, environment and what is applied are read whole before anything is refused."""
    environ = {
        "RESILIENCE_PRESET": "prodution",
        "RESILIENCE_ENABLED": "maybe",
        "RESILIENCE_CUSTOM_CONFIG": '{"x": 1, "retry_attempts": 0}',
        "RETRY_MAX_ATTEMPTS": "eleven",
        "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "9",
        "QA_RESILIENCE_STRATEGY": "critcal",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ConfigurationError) as caught:
            load(
                file=write(tmp_path, "jitter_max = 99"),
                environ=environ,
                custom={"jitter_max": "a"},
                preset="no",
            )
    assert {fault.path for fault in caught.value.faults} == {
        "resilience.toml.jitter_max",
        "RESILIENCE_PRESET",
        "RESILIENCE_ENABLED",
        "RESILIENCE_CUSTOM_CONFIG.x",
        "RESILIENCE_CUSTOM_CONFIG.retry_attempts",
        "RETRY_MAX_ATTEMPTS",
        "CIRCUIT_BREAKER_RECOVERY_TIMEOUT",
        "QA_RESILIENCE_STRATEGY",
        "jitter_max",
        "preset",
    }
    assert "RESILIENCE_PRESET = 'prodution' is no preset; give one of simple, development, production" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("true", True),
        ("1", True),
        ("Yes", True),
        ("on", True),
        ("false", False),
        ("0", False),
        ("NO", False),
        ("off", False),
    ],
)
def test_the_switch(text: str, enabled: bool) -> None:  # noqa: FBT001
    """RESILIENCE_ENABLED is read in the usual spellings."""
    assert load(environ={"RESILIENCE_ENABLED": text}).enabled is enabled


@pytest.mark.parametrize(
    ("variable", "text", "form", "number", "value"),
    [
        ("RETRY_MAX_ATTEMPTS", "4", '{"retry_attempts": 4}', "attempts", 4),
        ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "7", '{"circuit_breaker_threshold": 7}', "threshold", 7),
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "45", '{"recovery_timeout": 45.0}', "recovery", 45),
        (
            "DEFAULT_RESILIENCE_STRATEGY",
            "Critical",
            '{"default_strategy": "critical"}',
            "strategy",
            "critical",
        ),
        (
            "QA_RESILIENCE_STRATEGY",
            "critical",
            '{"operation_overrides": {"qa": "critical"}}',
            "strategy",
            "critical",
        ),
    ],
)
def test_older_variables_hold_and_show_the_new_form(
    variable: str, text: str, form: str, number: str, value: object
) -> None:
    """An older variable is applied; the warning shows what to write instead, and that means the same."""
    with pytest.warns(
        DeprecationWarning, match=f"{variable} is deprecated: write RESILIENCE_CUSTOM_CONFIG"
    ) as told:
        found = load(environ={variable: text})
    assert str(told[0].message).endswith(f"='{form}'")
    assert getattr(found.operation("qa"), number) == value
    new = load(environ={"RESILIENCE_CUSTOM_CONFIG": form})
    assert new.operation("qa") == found.operation("qa")
    assert [(one.path, form in one.suggestion) for one in found.warnings if "deprecated" in one.problem] == [
        (variable, True)
    ]
    assert found.sources["preset"] == "preset"
    assert found.given is True


def test_older_variables_are_told_together() -> None:
    """One warning names all of them, and one custom configuration that says the same."""
    environ = {
        "RETRY_MAX_ATTEMPTS": "4",
        "KEY_POINTS_RESILIENCE_STRATEGY": "critical",
        "_RESILIENCE_STRATEGY": "x",
    }
    with pytest.warns(DeprecationWarning, match="are deprecated") as told:
        found = load(environ=environ)
    assert len(told) == 1
    assert "KEY_POINTS_RESILIENCE_STRATEGY, RETRY_MAX_ATTEMPTS are deprecated" in str(told[0].message)
    assert [
        found.operation(name).strategy for name in ("key_points", "key-points", "Key.Points", "keypoints")
    ] == [
        "critical",
        "critical",
        "critical",
        "balanced",
    ]


def test_the_new_form_wins_over_the_older_one() -> None:
    """Where both are there, RESILIENCE_CUSTOM_CONFIG holds."""
    environ = {"RETRY_MAX_ATTEMPTS": "4", "RESILIENCE_CUSTOM_CONFIG": '{"retry_attempts": 6}'}
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        assert load(environ=environ).operation("").attempts == 6


def test_a_slip_in_a_name_is_a_warning() -> None:
    """A variable that looks like one of ours is named with the right name; others are nobody's business."""
    found = load(environ={"RESILIENCE_PERSET": "production", "RESILIENCE_HOME": "x"})
    assert [(one.path, one.allowed) for one in found.warnings] == [("RESILIENCE_PERSET", "RESILIENCE_PRESET")]
    assert found.given is False


def test_an_override_of_an_unknown_operation_is_a_warning() -> None:
    """Code may still register it: file and environment are read at the first call."""
    found = load(
        environ={
            "RESILIENCE_CUSTOM_CONFIG": '{"operation_overrides": {"sumary": "critical", "qa": "critical"}}'
        },
        operations=["summary", "extract"],
    )
    assert [(one.path, one.suggestion) for one in found.warnings] == [
        ("operation_overrides.sumary", "summary")
    ]


def test_without_pydantic_the_error_names_the_extra() -> None:
    """A custom configuration cannot be checked without pydantic, and says what to install."""
    path = str(Path(holdfast.__file__).parents[1])
    program = (
        f"import sys; sys.path.insert(0, {path!r}); sys.modules['pydantic'] = None\n"
        "from holdfast.infrastructure.resilience.config import load\n"
        "for environ in ({'RESILIENCE_CUSTOM_CONFIG': '{\"a\": 1}'}, {'RETRY_MAX_ATTEMPTS': '4'}):\n"
        "    try: print(load(environ=environ).operation('').attempts)\n"
        "    except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], check=True, capture_output=True, text=True
    )
    error, attempts = done.stdout.splitlines()
    assert "needs pydantic, which is not installed: pip install 'holdfast[config]'" in error
    assert attempts == "4"


# What an operation gets.


def test_the_presets_numbers_are_those_of_operations_without_override() -> None:
    """Without an override: the preset's three numbers and the default strategy's others; with one: all of its own."""
    found = load(preset="production", environ={})
    plain, own = found.operation("anything"), found.operation("qa")
    assert (plain.attempts, plain.threshold, plain.recovery, plain.deadline, plain.minimum) == (
        5,
        10,
        120,
        120,
        4,
    )
    assert (own.attempts, own.threshold, own.recovery, own.deadline, own.minimum) == (7, 10, 300, 300, 3)
    assert (plain.strategy, own.strategy, plain.half_open_calls) == ("conservative", "critical", 1)


def test_fields_leave_overrides_alone() -> None:
    """A custom configuration's fields change operations that no override names, and no others."""
    custom = {"retry_attempts": 9, "max_delay_seconds": 500, "exponential_min": 1, "jitter_max": 1}
    found = load(preset="production", environ={}, custom=custom)
    assert found.operation("qa") == load(preset="production", environ={}).operation("qa")
    plain = found.operation("anything")
    assert (plain.attempts, plain.deadline, plain.minimum, plain.jitter) == (9, 500, 1, 1)


def test_a_bound_that_is_given_alone_moves_the_other() -> None:
    """A minimum above the strategy's maximum lifts that: no wait is ever shorter than was asked for."""
    found = load(environ={}, custom={"default_strategy": "aggressive", "exponential_min": 9}).operation("")
    assert (found.minimum, found.maximum) == (9, 9)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_waits_are_those_of_the_table(name: str) -> None:
    """The wait is clipped between the bounds, and the jitter comes on top of that, up to its limit."""
    one = STRATEGIES[name]
    configuration = load(environ={}, custom={"operation_overrides": {"x": name}})
    wait = policy(configuration.pipeline("x"), Retry).config.wait
    for retry in range(1, one.attempts):
        plain = max(one.minimum, min(one.multiplier * 2 ** (retry - 1), one.maximum))
        with use_random(Fixed(0.0)):
            assert wait.delay(retry) == plain
        with use_random(Fixed(0.5)):
            assert wait.delay(retry) == plain + one.jitter / 2
        assert (wait.delay(retry, random=Fixed(1.0)), wait.bound(retry)) == (
            plain + one.jitter,
            plain + one.jitter,
        )
    assert wait.bound(10_000) == one.maximum + one.jitter
    assert wait == pickle.loads(pickle.dumps(wait))
    assert wait != policy(load(environ={}, custom={"jitter_max": 1.5}).pipeline("x"), Retry).config.wait


def test_the_shape_of_a_pipeline() -> None:
    """Deadline around retry around breaker around the attempt's share; a single attempt has the whole deadline."""
    made = load(environ={}).pipeline("x")
    assert [type(one) for one in made.policies] == [Timeout, Retry, CircuitBreaker, Timeout]
    assert [one.config.seconds for one in made.policies if isinstance(one, Timeout)] == [30, 10]
    breaker = policy(made, CircuitBreaker)
    assert (made.name, breaker.name, budget_of(made).name) == ("x", "x", "x")
    facts = breaker.config
    assert (facts.window.kind, facts.window.size, facts.open_for, facts.open_cap, facts.open_jitter) == (
        "consecutive",
        5,
        60,
        60,
        0,
    )
    single = load(environ={}, custom={"retry_attempts": 1}).pipeline("x")
    assert [type(one) for one in single.policies] == [Retry, CircuitBreaker, Timeout]
    assert policy(single, Timeout).config.seconds == 30


# State goes on.


def test_a_pipeline_like_another_has_its_breaker_and_budget() -> None:
    """Other numbers, the same objects: what the breaker knows stays, its new settings hold from now on."""
    old = load(environ={}).pipeline("x")
    breaker = policy(old, CircuitBreaker)
    for _ in range(4):
        breaker.admit().failure()
    new = load(preset="production", environ={}).pipeline("x", like=old)
    assert policy(new, CircuitBreaker) is breaker
    assert budget_of(new) is budget_of(old)
    assert (breaker.config.window.size, breaker.config.open_for, breaker.counts.failures) == (10, 120, 4)


def test_an_open_breaker_stays_open_for_what_was_left(virtual_clock: VirtualClock) -> None:
    """A new recovery time holds from the next opening; an open breaker ends when it would have."""
    old = load(environ={}).pipeline("x")
    breaker = policy(old, CircuitBreaker)
    breaker.open()
    virtual_clock.advance(20)
    load(environ={}, custom={"recovery_timeout": 10}).pipeline("x", like=old)
    assert (breaker.state, breaker.retry_after) == (CircuitState.OPEN, 40)
    breaker.open()
    assert breaker.retry_after == 10


@pytest.mark.parametrize("state", ["closed", "open", "half-open", "isolated", "disabled", "shadow"])
def test_the_recommended_breaker_hands_its_state_on(state: str, virtual_clock: VirtualClock) -> None:
    """A breaker that looks back in another way is another object, in the same state, for as long."""
    old = recommended("x")
    breaker = policy(old, CircuitBreaker)
    {
        "closed": breaker.close,
        "open": breaker.open,
        "half-open": breaker.half_open,
        "isolated": breaker.isolate,
        "disabled": breaker.disable,
        "shadow": breaker.shadow,
    }[state]()
    virtual_clock.advance(1)
    new = load(environ={}).pipeline("x", like=old)
    follower = policy(new, CircuitBreaker)
    assert follower is not breaker
    # Its probes are still out there: the next call begins a round of its own.
    expected = "open" if state == "half-open" else state
    assert (follower.current_state, budget_of(new)) == (expected, budget_of(old))
    assert follower.retry_after == {"open": breaker.retry_after, "half-open": 0}.get(state)
    follower.release()
    assert follower.current_state == ("closed" if state == "isolated" else expected)


def test_what_is_switched_off_waits() -> None:
    """Disabled, a name means nothing but the call; enabled again, breaker and budget are those from before."""
    old = load(environ={}).pipeline("x")
    off = load(environ={"RESILIENCE_ENABLED": "false"}).pipeline("x", like=old)
    assert [repr(one) for one in off.policies] == ["nothing: resilience is disabled"]
    assert off.call(len, "four") == 4
    on = load(environ={}).pipeline("x", like=off)
    assert policy(on, CircuitBreaker) is policy(old, CircuitBreaker)
    assert budget_of(on) is budget_of(old)


# Values.


def test_values_are_frozen_and_travel() -> None:
    """Configurations, settings, validations and faults compare by content, can be pickled, and are JSON."""
    environ = {
        "RESILIENCE_CUSTOM_CONFIG": '{"operation_overrides": {"qa": "critical"}, "circuit_breaker_threshold": 2}'
    }
    configuration = load(environ=environ)
    values: list[Any] = [
        configuration,
        configuration.operation("qa"),
        validate({"retry_attempts": 99}),
        validate({"jitter_max": 1}),
    ]
    for value in values:
        again = pickle.loads(pickle.dumps(value))
        assert (again, hash(again), repr(again)) == (value, hash(value), repr(value))
        assert json.loads(json.dumps(value.as_dict())) == value.as_dict()
    assert isinstance(values[0], Configuration)
    assert isinstance(values[2], Validation)
    with pytest.raises(AttributeError, match="Configuration is immutable"):
        configuration.preset = "x"
    assert configuration != load(environ={})
    fault = Fault("a", 1, "is wrong", "2", "3")
    assert isinstance(fault, errors.Fault)
    assert (str(fault), pickle.loads(pickle.dumps(fault))) == ("a = 1 is wrong; give 2, for example 3", fault)


def test_the_facts_of_a_configuration() -> None:
    """The facts show preset, strategy, switch, overrides, fields, the default numbers and every source."""
    facts = load(environ={"RESILIENCE_PRESET": "development"}, custom={"jitter_max": 1}).as_dict()
    assert facts == {
        "preset": "development",
        "strategy": "aggressive",
        "enabled": True,
        "overrides": {"sentiment": "aggressive", "qa": "balanced"},
        "settings": {"jitter_max": 1.0},
        "numbers": {
            "attempts": 2,
            "threshold": 3,
            "recovery": 30.0,
            "multiplier": 0.5,
            "minimum": 1.0,
            "maximum": 5.0,
            "jitter": 1.0,
            "deadline": 10.0,
            "half_open_calls": 1,
        },
        "sources": {
            "operation_overrides.sentiment": "preset",
            "operation_overrides.qa": "preset",
            "preset": "environment",
            "enabled": "preset",
            "jitter_max": "applied",
        },
        "warnings": [],
    }


# How often text may be validated.


def test_sixty_a_minute(virtual_clock: VirtualClock) -> None:
    """Sixty are admitted, the next one when the first is a minute ago; a refusal counts for nothing."""
    limits = ValidationLimits()
    for _ in range(60):
        limits.admit("a")
        virtual_clock.advance(0.5)
    with pytest.raises(RateLimitedError) as caught:
        limits.admit("a")
    assert caught.value.retry_after == 30
    limits.admit("b")
    virtual_clock.advance(29.5)
    with pytest.raises(RateLimitedError):
        limits.admit("a")
    virtual_clock.advance(0.5)
    limits.admit("a")
    with pytest.raises(RateLimitedError, match=r"rate limit 'validation'"):
        limits.admit("a")


def test_a_thousand_an_hour(virtual_clock: VirtualClock) -> None:
    """However well they are spread, a thousand and one do not fit into an hour."""
    limits = ValidationLimits()
    for _ in range(1000):
        limits.admit("a")
        virtual_clock.advance(2)
    with pytest.raises(RateLimitedError) as caught:
        limits.admit("a")
    assert caught.value.retry_after == 1600
    virtual_clock.advance(1600)
    limits.admit("a")


def test_the_clients_that_are_remembered_are_bounded() -> None:
    """The client that came least recently is forgotten, never the one that is just being limited."""
    limits = ValidationLimits(per_minute=1, max_clients=2, clock=VirtualClock())
    limits.admit("a")
    limits.admit("b")
    for client in ("b", "a"):
        with pytest.raises(RateLimitedError):
            limits.admit(client)
    limits.admit("c")
    with pytest.raises(RateLimitedError):
        limits.admit("a")
    limits.admit("b")


def test_threads_share_the_limit() -> None:
    """Eight threads get sixty together."""
    limits, admitted = ValidationLimits(clock=VirtualClock()), list[int]()

    def work() -> None:
        for _ in range(20):
            try:
                limits.admit("a")
                admitted.append(1)
            except RateLimitedError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 60


def test_the_limits_have_ranges() -> None:
    """Every bad setting is reported."""
    with pytest.raises(ConfigurationError) as caught:
        ValidationLimits(per_minute=0, per_hour=0, max_clients=0, clock="now")  # type: ignore[arg-type]
    assert [fault.path for fault in caught.value.faults] == ["per_minute", "per_hour", "max_clients", "clock"]
