"""The pytest plugin: its fixtures, and what pytest reports of them."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from holdfast.infrastructure.resilience._bus import emit
from holdfast.infrastructure.resilience.clock import SYSTEM, current_clock
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.testing import EventRecorder, VirtualClock

GUIDE = Path(__file__).resolve().parents[3] / "docs/guides/testing/TEST_KIT.md"

pytest_plugins = ["pytester"]

# The project's settings do not reach a test's own pytest.
RUN = ("-p", "holdfast.testing.plugin", "-p", "no:randomly", "-p", "no:cacheprovider")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> "Run":
    return Run(pytester, monkeypatch)


class Run:
    """Run a test file in a pytest of its own, with nothing but this plugin."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        self.pytester = pytester

    def __call__(self, source: str, *arguments: str) -> pytest.RunResult:
        self.pytester.makepyfile(source)
        return self.pytester.runpytest_inprocess(*arguments)


def test_virtual_clock_is_the_common_clock(virtual_clock: VirtualClock) -> None:
    """The fixture's clock is the one that policies read."""
    current_clock().sleep(60)

    assert current_clock() is virtual_clock
    assert virtual_clock.elapsed == 60.0


def test_event_recorder_records(event_recorder: EventRecorder) -> None:
    """The fixture's recorder hears events during the test."""
    emit("CircuitClosed", "db")

    assert event_recorder.kinds == ("CircuitClosed",)


def test_seeded_random_draws_from_its_seed(seeded_random: int) -> None:
    """The common random source is seeded with the number that the fixture gives."""
    from random import Random

    assert current_random().random() == Random(seeded_random).random()


@pytest.mark.parametrize("seeded_random", [1, 2**40], indirect=True)
def test_a_seed_can_be_given(seeded_random: int) -> None:
    """Indirect parametrization chooses the seed."""
    assert seeded_random in (1, 2**40)


def test_fixtures_end_with_the_test(run: Run) -> None:
    """After a test with the fixtures, passed or failed, everything is as it was."""
    result = run(
        """
        import pytest
        from holdfast.infrastructure.resilience._bus import bus
        from holdfast.infrastructure.resilience.clock import SYSTEM, current_clock
        from holdfast.infrastructure.resilience.randomness import current_random

        COMMON = current_random()

        @pytest.mark.parametrize("passes", [True, False])
        def test_with(virtual_clock, event_recorder, seeded_random, passes):
            assert current_clock() is virtual_clock
            assert current_random() is not COMMON
            assert bus.entries
            assert passes

        def test_after():
            assert current_clock() is SYSTEM
            assert current_random() is COMMON
            assert not bus.entries
        """,
        *RUN,
    )

    result.assert_outcomes(passed=2, failed=1)


SEED = """
def test_{name}(seeded_random):
    print("drawn", seeded_random)
    assert {passes}
"""


def test_a_failure_shows_the_seed(run: Run) -> None:
    """The report of a failed test says what to give to see the same numbers again."""
    result = run(SEED.format(name="fails", passes=False), *RUN)

    drawn = next(line.split()[1] for line in result.outlines if line.startswith("drawn"))
    result.stdout.fnmatch_lines(["*Captured holdfast setup*", f"seeded_random: {drawn}"])


def test_a_success_shows_nothing(run: Run) -> None:
    """Where nothing failed there is nothing to say, but the seed is among the test's properties."""
    result = run(SEED.format(name="passes", passes=True), *RUN, "--junitxml=report.xml")

    assert "seeded_random:" not in result.stdout.str()
    assert 'name="holdfast_seed"' in (run.pytester.path / "report.xml").read_text()


def test_the_seed_is_the_tests_own_and_stable(run: Run) -> None:
    """Each test has a seed of its own, the same in every run."""
    source = SEED.format(name="one", passes=True) + SEED.format(name="two", passes=True)
    runs = [
        [line.lstrip(".") for line in run(source, *RUN, "-s").outlines if "drawn" in line] for _ in range(2)
    ]

    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 2


def test_the_tests_of_the_guide_pass(run: Run) -> None:
    """What the guide shows as a test file is one, and passes."""
    (example,) = re.findall(
        r"^```python\n(import pytest\n.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE
    )
    result = run(example, *RUN)

    result.assert_outcomes(passed=2)


def test_pytest_finds_the_plugin() -> None:
    """The package registers the plugin under the name `holdfast`."""
    (found,) = entry_points(group="pytest11", name="holdfast")

    assert found.value == "holdfast.testing.plugin"


def test_the_fixtures_are_listed_with_a_plain_install(run: Run) -> None:
    """Without any setting pytest offers the three fixtures, each with its sentence."""
    run.pytester.plugins.clear()
    result = run.pytester.run(
        sys.executable, "-m", "pytest", "-p", "holdfast.testing.plugin", "--fixtures", "-q"
    )

    result.stdout.fnmatch_lines_random(["virtual_clock -- *", "event_recorder -- *", "seeded_random -- *"])


def test_the_plugin_is_cheap_to_import() -> None:
    """The plugin loads neither asyncio nor the modules of its fixtures: pytest imports it at every start."""
    script = (
        "import sys, pytest; before = set(sys.modules); import holdfast.testing.plugin;"
        "print(sorted(name for name in set(sys.modules) - before"
        " if name.startswith(('asyncio', 'holdfast.testing'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['holdfast.testing', 'holdfast.testing.plugin']"


def test_the_package_offers_what_it_lists() -> None:
    """Every name of `holdfast.testing.__all__` is there, and no other one."""
    import holdfast.testing

    for name in holdfast.testing.__all__:
        assert getattr(holdfast.testing, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        holdfast.testing.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_without_fixtures_nothing_is_replaced() -> None:
    """The plugin alone changes nothing."""
    assert current_clock() is SYSTEM
