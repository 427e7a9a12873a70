"""Seam: presets × the environment × what a decorated call does."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from backend.tests.integration.resilience._driver import Driver
from backend.tests.integration.resilience._process import run
from holdfast.infrastructure.resilience.circuit_breaker import breaker_of
from holdfast.infrastructure.resilience.errors import CircuitOpenError, TimeoutExceeded
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.operations import with_operation_resilience
from holdfast.infrastructure.resilience.pipeline import explain
from holdfast.infrastructure.resilience.presets import PRESETS, STRATEGIES
from holdfast.infrastructure.resilience.randomness import use_random
from holdfast.infrastructure.resilience.registry import Registry, resilient
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed


class Never(Random):
    """Draws zero: what is left of a wait is its fixed part."""

    def random(self) -> float:
        return 0.0


def waits(attempts: int, multiplier: float, minimum: float, maximum: float) -> list[float]:
    return [max(minimum, min(multiplier * 2**at, maximum)) for at in range(attempts - 1)]


# What a failing call does under an environment: the operation, how often it is tried, and the waits without jitter.
SIMPLE: list[float] = [2, 2]
EFFECTS: list[tuple[dict[str, str], str, int, list[float]]] = [
    ({}, "summarize", 3, SIMPLE),
    ({"RESILIENCE_PRESET": "simple"}, "qa", 3, SIMPLE),
    ({"RESILIENCE_PRESET": "development"}, "summarize", 2, [1]),
    ({"RESILIENCE_PRESET": "development"}, "qa", 3, SIMPLE),
    ({"RESILIENCE_PRESET": "production"}, "summarize", 5, [4, 4, 8, 16]),
    ({"RESILIENCE_PRESET": "production"}, "qa", 7, [3, 3, 6, 12, 24, 48]),
    ({"RESILIENCE_PRESET": "production"}, "sentiment", 2, [1]),
    ({"RESILIENCE_PRESET": "production"}, "key_points", 3, SIMPLE),
    ({"RESILIENCE_PRESET": "production"}, "questions", 3, SIMPLE),
    ({"RESILIENCE_PRESET": "production"}, "other", 5, [4, 4, 8, 16]),
    ({"RESILIENCE_ENABLED": "false"}, "summarize", 1, []),
    ({"RESILIENCE_ENABLED": "true"}, "summarize", 3, SIMPLE),
    ({"RESILIENCE_CUSTOM_CONFIG": '{"retry_attempts": 4}'}, "summarize", 4, [2, 2, 4]),
    ({"RESILIENCE_CUSTOM_CONFIG": '{"exponential_multiplier": 5}'}, "summarize", 3, [5, 10]),
    ({"RESILIENCE_CUSTOM_CONFIG": '{"exponential_min": 7}'}, "summarize", 3, [7, 7]),
    (
        {"RESILIENCE_CUSTOM_CONFIG": '{"exponential_max": 5, "exponential_multiplier": 4}'},
        "summarize",
        3,
        [4, 5],
    ),
    ({"RESILIENCE_CUSTOM_CONFIG": '{"default_strategy": "critical"}'}, "summarize", 3, [3, 3]),
    (
        {"RESILIENCE_CUSTOM_CONFIG": '{"operation_overrides": {"summarize": "aggressive"}}'},
        "summarize",
        2,
        [1],
    ),
    ({"RETRY_MAX_ATTEMPTS": "4"}, "summarize", 4, [2, 2, 4]),
    ({"DEFAULT_RESILIENCE_STRATEGY": "conservative"}, "summarize", 3, [4, 4]),
    ({"SUMMARIZE_RESILIENCE_STRATEGY": "aggressive"}, "summarize", 2, [1]),
]


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(("environ", "operation", "attempts", "expected"), EFFECTS)
def test_an_environment_changes_what_a_call_does(  # noqa: PLR0917
    driver: Driver,
    common_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    environ: Mapping[str, str],
    operation: str,
    attempts: int,
    expected: list[float],
) -> None:
    """Each variable is seen in how often the decorated function is called, and in what is waited in between."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    script = Script(fail())
    call = with_operation_resilience(operation)(driver.function(script))
    with use_random(Never()):
        driver.outcomes(1, call)
    assert (script.calls, list(driver.clock.sleeps)) == (attempts, expected)
    assert operation in common_registry


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("environ", "failures", "recovery"),
    [
        ({}, 5, 60),
        ({"RESILIENCE_PRESET": "development"}, 3, 30),
        ({"RESILIENCE_PRESET": "production"}, 10, 120),
        ({"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "4"}, 4, 60),
        ({"CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "20"}, 5, 20),
        ({"RESILIENCE_CUSTOM_CONFIG": '{"circuit_breaker_threshold": 7, "recovery_timeout": 90}'}, 7, 90),
        ({"RESILIENCE_ENABLED": "off"}, None, None),
    ],
)
def test_an_environment_changes_when_a_breaker_opens(
    driver: Driver,
    names: Registry,
    environ: Mapping[str, str],
    failures: int | None,
    recovery: float | None,
) -> None:
    """The breaker opens at just that failure in a row, and lets one probe through after just that time."""
    configuration = LiveConfiguration(names, environ=environ)
    configuration.register("other", attempts=1)
    script = Script(*[fail()] * (failures or 30), succeed())
    call = driver.decorate(names.resilient("other"), script)
    found = driver.outcomes((failures or 30) + 1, call)
    if failures is None or recovery is None:
        assert (script.calls, found[-1]) == (31, "ok")
        return
    assert script.calls == failures
    assert isinstance(found[-1], CircuitOpenError)
    assert found[-1].retry_after == recovery
    driver.clock.advance(math.nextafter(recovery, 0) - 1e-6)
    assert isinstance(driver.outcomes(1, call)[0], CircuitOpenError)
    driver.clock.advance(2e-6)
    assert driver.outcomes(1, call) == ["ok"]
    assert breaker_of(call).current_state == "closed"


@pytest.mark.parametrize(
    ("environ", "seconds", "calls", "failures"),
    [
        ({}, 30, 3, 2),
        ({"RESILIENCE_PRESET": "development"}, 10, 2, 1),
        ({"RESILIENCE_PRESET": "production"}, 112, 4, 4),
        ({"RESILIENCE_CUSTOM_CONFIG": '{"max_delay_seconds": 15}'}, 15, 3, 2),
        ({"RESILIENCE_CUSTOM_CONFIG": '{"max_delay_seconds": 15, "retry_attempts": 1}'}, 15, 1, 1),
    ],
)
def test_an_environment_changes_how_long_a_call_may_take(  # noqa: PLR0917
    virtual_clock: VirtualClock,
    names: Registry,
    environ: Mapping[str, str],
    seconds: float,
    calls: int,
    failures: int,
) -> None:
    """A dependency that hangs: each attempt has its share of the deadline and is a failure to the breaker.

    The last attempt is not, where the deadline itself cut it; a wait that does not fit is not begun.
    """
    LiveConfiguration(names, environ=environ).register("other")
    script = Script(hang())
    call = names.resilient("other")(script.coroutine_function())
    with use_random(Never()), pytest.raises(TimeoutExceeded):
        virtual_clock.run(call())
    assert (virtual_clock.elapsed, script.calls, breaker_of(call).counts.failures) == (
        seconds,
        calls,
        failures,
    )


@pytest.mark.parametrize("jitter", [0.1, 10])
@pytest.mark.usefixtures("seeded_random")
def test_jitter_is_seen_in_the_waits(driver: Driver, names: Registry, jitter: float) -> None:
    """`jitter_max` bounds what chance adds to a wait, and chance uses the whole of it."""
    LiveConfiguration(
        names, environ={"RESILIENCE_CUSTOM_CONFIG": json.dumps({"jitter_max": jitter, "retry_attempts": 2})}
    )
    extra: list[float] = []
    for at in range(60):
        script = Script(fail(), succeed())
        driver.outcomes(1, driver.decorate(names.resilient(f"x{at}"), script))
        extra.append(driver.clock.sleeps[-1] - 2)
    assert 0 <= min(extra) < jitter * 0.1
    assert jitter * 0.9 < max(extra) <= jitter


def test_names_follow_as_soon_as_anything_is_said(
    driver: Driver, common_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resilient(name)` means what is recommended until there is a source; code's own names never follow."""
    common_registry.define("test mine", Retry(1))
    scripts = {name: Script(fail()) for name in ("test a", "test b", "test mine")}
    calls = {name: driver.decorate(resilient(name), script) for name, script in scripts.items()}
    with use_random(Never()):
        driver.outcomes(1, calls["test a"])
        assert list(driver.clock.sleeps) == []
        monkeypatch.setenv("RESILIENCE_PRESET", "production")
        driver.outcomes(1, calls["test b"])
        assert list(driver.clock.sleeps) == [4, 4, 8, 16]
        driver.outcomes(1, calls["test a"])
        driver.outcomes(1, calls["test mine"])
    assert [script.calls for script in scripts.values()] == [3 + 5, 5, 1]
    assert explain(calls["test a"]).duration == STRATEGIES[PRESETS["production"].strategy].deadline


PROGRAM = """
import json, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from holdfast import resilient, with_critical_resilience, with_operation_resilience
from holdfast.testing import no_wait

counts = dict.fromkeys(("summarize", "qa", "pinned", "named"), 0)

def failing(name, decorator):
    @decorator
    def call():
        counts[name] += 1
        raise ConnectionError(name)
    return call

calls = [
    failing("summarize", with_operation_resilience("summarize")),
    failing("qa", with_operation_resilience("qa")),
    failing("pinned", with_critical_resilience("qa")),
    failing("named", resilient("named")),
]
with no_wait():
    for call in calls:
        try:
            call()
        except ConnectionError:
            pass
print(json.dumps(list(counts.values())))
"""


@pytest.mark.parametrize(
    ("environ", "counts"),
    [
        ({}, [3, 3, 7, 3]),
        ({"RESILIENCE_PRESET": "development"}, [2, 3, 7, 2]),
        ({"RESILIENCE_PRESET": "production"}, [5, 7, 7, 5]),
        ({"RESILIENCE_ENABLED": "false"}, [1, 1, 1, 1]),
        # `summarize` has an override in production, which fields leave alone.
        (
            {"RESILIENCE_PRESET": "production", "RESILIENCE_CUSTOM_CONFIG": '{"retry_attempts": 6}'},
            [5, 7, 7, 6],
        ),
        ({"RETRY_MAX_ATTEMPTS": "4", "QA_RESILIENCE_STRATEGY": "aggressive"}, [4, 2, 7, 4]),
    ],
)
def test_a_process_follows_its_environment(environ: Mapping[str, str], counts: list[int]) -> None:
    """A process that only imports and decorates makes as many calls as its environment says."""
    assert run(PROGRAM, environ=environ) == counts


def test_a_process_follows_a_file(tmp_path: Path) -> None:
    """A file that a variable names holds, and the environment wins over it."""
    path = tmp_path / "resilience.toml"
    path.write_text(
        'preset = "production"\nretry_attempts = 4\n[operation_overrides]\nsummarize = "aggressive"\n'
    )
    environ = {"RESILIENCE_CONFIG_FILE": str(path)}
    assert run(PROGRAM, environ=environ) == [2, 7, 7, 4]
    assert run(PROGRAM, environ={**environ, "RESILIENCE_PRESET": "simple"}) == [2, 4, 7, 4]


def test_importing_and_decorating_configure_nothing() -> None:
    """The environment is read at the first call: what is set in between counts, and nothing is loaded before."""
    program = """
import json, os, sys
from holdfast import with_operation_resilience, explain
call = with_operation_resilience("summarize")(len)
early = [name for name in sys.modules if name.startswith("holdfast") and name.endswith((".live", ".config"))]
os.environ["RESILIENCE_PRESET"] = "production"
print(json.dumps([early, explain(call).attempts]))
"""
    assert run(program) == [[], 5.0]


def test_virtual_time_is_all_that_passed(virtual_clock: VirtualClock, names: Registry) -> None:
    """A call under `critical` may take its five minutes: on the clock, not in this test."""
    custom = '{"operation_overrides": {"qa": "critical"}}'
    LiveConfiguration(names, environ={"RESILIENCE_CUSTOM_CONFIG": custom})
    script = Script(*[fail()] * 6, succeed())
    with use_random(Never()):
        assert names.resilient("qa")(script.function())() == "ok"
    assert (script.calls, virtual_clock.elapsed) == (7, sum(waits(7, 1.5, 3, 60)))
