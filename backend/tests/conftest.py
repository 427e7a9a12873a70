"""Options and fixtures that every suite shares."""

import gc
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from backend.tests._environment import configures

if TYPE_CHECKING:
    from holdfast.infrastructure.resilience.registry import Registry


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Accept `--randomly`; load holdfast's plugin, which pyproject.toml keeps from loading too early."""
    parser.addoption(
        "--randomly",
        action="store_true",
        help="random order, the default; accepted so that the command reads as it means",
    )
    if not pluginmanager.hasplugin("holdfast"):
        pluginmanager.import_plugin("holdfast.testing.plugin")


def pytest_configure() -> None:
    """Let Ctrl-C interrupt: a shell script has what it starts with `&` ignore it, and all that begins from there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def common_registry(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Registry]":
    """Give the common registry in a process that nothing configures; forget afterwards what the test said to it."""
    # Not above: the plugin loads the library only when coverage has begun to measure.
    from holdfast.infrastructure.resilience.live import LiveConfiguration
    from holdfast.infrastructure.resilience.registry import registry

    for name in filter(configures, list(os.environ)):
        monkeypatch.delenv(name)
    # What other tests said to it, in this process, is none of this test's business, nor the other way round.
    kept = {name: getattr(registry, name) for name in ("_provider", "_operations", "_entries")}
    registry.__dict__.update(_provider=None, _operations={}, _entries={})
    yield registry
    live = registry.__dict__["_provider"]
    if isinstance(live, LiveConfiguration):
        live.close()
    registry.__dict__.update(kept)


def _listeners() -> tuple[list[Any], list[Any]]:
    """Return who hears events and who has calls timed, in this process."""
    # By name: the plugin loads the library only when coverage has begun to measure.
    bus = import_module("holdfast.infrastructure.resilience._bus").bus
    counts = import_module("holdfast.infrastructure.resilience._counts")
    return list(bus.entries), list(counts.asked.each)


@contextmanager
def _no_listener_stays() -> Generator[None]:
    before = _listeners()
    yield
    assert _listeners() == before, (
        "close what listens to events, or has calls timed: the next test would feel it"
    )


@pytest.fixture(autouse=True, scope="module")
def each_module_leaves_nothing() -> Iterator[None]:
    """Fail a module whose fixtures left a listener; keep the rest of the heap out of later garbage collections."""
    with _no_listener_stays():
        yield
    # Type checkers that ran in this process, for one, leave millions of objects.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def each_test_leaves_nothing() -> Iterator[None]:
    """Fail a test after which somebody still hears events or has calls timed."""
    with _no_listener_stays():
        yield


@pytest.fixture
def zero_meters() -> None:
    """Let the meters of all names begin anew: they are the process's, and functions of other tests may be alive."""
    from holdfast.infrastructure.resilience.meter import meters

    for meter in meters().values():
        meter.reset()


# What these are about is the work of FastAPI, typer, a browser and databases.
SAME_EVERYWHERE = tuple(
    f"/tests/integration/{name}/" for name in ("api", "cli", "dashboard", "jobs", "orchestration")
)
# The gate is about the policies: what has nothing to do with them need not be slowed down by measuring.
UNMEASURED = tuple(
    f"/tests/integration/{name}/" for name in ("cli", "dashboard", "jobs", "lab", "orchestration")
)
# By this variable coverage finds its way into other processes.
MEASURING = "COVERAGE_PROCESS_CONFIG"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whole suites that CI runs on one Python."""
    for item in items:
        if any(folder in item.path.as_posix() for folder in SAME_EVERYWHERE):
            item.add_marker(pytest.mark.one_python)
        if any(folder in item.path.as_posix() for folder in UNMEASURED):
            item.add_marker(pytest.mark.no_cover)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the processes that an unmeasured test starts be unmeasured, too."""
    kept = os.environ.pop(MEASURING, None) if item.get_closest_marker("no_cover") else None
    try:
        return (yield)
    finally:
        if kept is not None:
            os.environ[MEASURING] = kept


def pytest_collection_finish() -> None:
    """Keep what collecting made out of every later garbage collection: ten thousand tests are a large heap."""
    gc.collect()
    gc.freeze()
