"""Live configuration: who follows it, what a change does, the audit trail, files that change, state that travels."""

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.infrastructure.resilience._audit import Trail, plain
from holdfast.infrastructure.resilience._watch import FileWatch
from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker, breaker_of
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.resilience.events import CallbackFailed
from holdfast.infrastructure.resilience.live import Change, LiveConfiguration, live
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.testing import EventRecorder, Script, VirtualClock, fail


@pytest.fixture
def names() -> Registry:
    """Give a registry in which nothing is defined."""
    return Registry()


def following(registry: Registry, name: str = "payments") -> tuple[Callable[..., Any], Script]:
    script = Script(fail())
    return registry.resilient(name)(script.function()), script


def attempts(call: Callable[..., Any]) -> float:
    return explain(call).attempts


def budget_of(registry: Registry, name: str) -> RetryBudget:
    budget = next(one.config.budget for one in registry.get(name).policies if isinstance(one, Retry))
    assert budget is not None
    return budget


# Who follows.


def test_without_a_source_a_name_means_what_is_recommended(names: Registry) -> None:
    """A configuration that nobody gave changes nothing, but for registered operations."""
    live = LiveConfiguration(names, environ={})
    live.register("summarize")
    call, _ = following(names)
    operation, _ = following(names, "summarize")
    assert (live.current.given, live.version) == (False, 0)
    assert [repr(one) for one in explain(call).policies][1].count("exponential") == 0
    assert [repr(one) for one in explain(operation).policies][1].count("exponential") == 1


def test_with_a_source_every_name_follows_it(names: Registry) -> None:
    """Names that code did not define follow, those that it defined do not."""
    names.define("mine", Retry(9))
    LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    got = [attempts(following(names, name)[0]) for name in ("payments", "qa", "mine")]
    assert got == [5, 7, 9]


def test_names_that_were_used_before_follow_too(names: Registry) -> None:
    """A name that meant what is recommended goes over to the configuration, with its budget and its state."""
    call, _ = following(names)
    before, budget = breaker_of(call), budget_of(names, "payments")
    before.isolate()
    LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    assert attempts(call) == 5
    assert (breaker_of(call).current_state, budget_of(names, "payments") is budget) == ("isolated", True)


def test_a_name_may_be_registered_after_it_was_used(names: Registry) -> None:
    """An operation that is registered late follows from its next call on."""
    live = LiveConfiguration(names, environ={})
    call, _ = following(names)
    assert explain(call).hinted_duration == 30
    live.register("payments", strategy="critical")
    assert (attempts(call), explain(call).duration) == (7, 300)


def test_what_code_says_wins(names: Registry) -> None:
    """Numbers given at registration win over every source, within wider ranges, and say that they are code's."""
    live = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    live.register("qa", attempts=20, threshold=100, recovery=3600, half_open_calls=10, deadline=1000)
    call, _ = following(names, "qa")
    got = live.operation("qa")
    assert (got.strategy, got.attempts, got.threshold, got.recovery) == ("critical", 20, 100, 3600)
    assert (got.half_open_calls, got.deadline, got.jitter) == (10, 1000, 5)
    assert {name for name, source in got.sources.items() if source == "code"} == {
        "attempts",
        "threshold",
        "recovery",
        "half_open_calls",
        "deadline",
    }
    assert (attempts(call), breaker_of(call).config.half_open_calls) == (20, 10)
    live.use_preset("development", actor="me")
    assert attempts(call) == 20


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 21}, "attempts"),
        ({"attempts": 2.0}, "attempts"),
        ({"threshold": 101}, "threshold"),
        ({"recovery": 0.5}, "recovery"),
        ({"recovery": 3601}, "recovery"),
        ({"half_open_calls": 11}, "half_open_calls"),
        ({"deadline": 0}, "deadline"),
        ({"strategy": "fast"}, "strategy"),
        ({"operation": ""}, "operation"),
        ({"operation": None}, "operation"),
    ],
)
def test_what_code_says_has_ranges(names: Registry, settings: dict[str, Any], path: str) -> None:
    """A bad number is refused where it is written, and registers nothing."""
    configuration = LiveConfiguration(names, environ={})
    register: Callable[..., None] = configuration.register
    with pytest.raises(ConfigurationError) as caught:
        register(**{"operation": "x", **settings})
    assert [fault.path for fault in caught.value.faults] == [path]
    assert configuration.operations == ()


def test_operations_are_listed(names: Registry) -> None:
    """Registered ones and names in use are listed, code's own are not; who asks for another learns which there are."""
    live = LiveConfiguration(names, environ={})
    live.register("b")
    names.define("mine", Retry(2))
    explain(following(names, "a")[0])
    assert live.operations == ("a", "b")
    with pytest.raises(LookupError, match="no operation is called 'c'; known: 'a', 'b'"):
        live.operation("c")
    assert len(names) == 2


def test_a_name_that_is_discarded_begins_anew(names: Registry) -> None:
    """Forgotten state is forgotten; what the name means comes from the configuration again."""
    LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    call, _ = following(names)
    breaker = breaker_of(call)
    names.discard("payments")
    assert (attempts(call), breaker_of(call) is breaker) == (5, False)


def test_the_newest_of_several_counts(names: Registry) -> None:
    """A configuration that another one has replaced refuses to change anything, and says so."""
    first = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    call, _ = following(names)
    assert attempts(call) == 5
    second = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "development"})
    assert attempts(call) == 2
    with pytest.raises(RuntimeError, match="another configuration has taken over"):
        first.use_preset("simple", actor="me")
    assert (attempts(call), first.audit()[0].error is None) == (2, False)
    second.close()
    assert attempts(call) == 2
    assert second.registry is names


@pytest.mark.parametrize(
    ("settings", "path"), [({"audit": 0}, "audit"), ({"audit": 10**6}, "audit"), ({"clock": 5}, "clock")]
)
def test_the_settings_are_checked(names: Registry, settings: dict[str, Any], path: str) -> None:
    """A bad setting is a fault."""
    with pytest.raises(ConfigurationError) as caught:
        LiveConfiguration(names, environ={}, **settings)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_a_bad_source_is_refused_at_the_beginning(names: Registry) -> None:
    """Nothing follows a configuration that could not be made."""
    with pytest.raises(ConfigurationError, match="RESILIENCE_PRESET"):
        LiveConfiguration(names, environ={"RESILIENCE_PRESET": "x"})
    assert attempts(following(names)[0]) == 3


# Changes.


def test_a_change_keeps_what_is_equal(names: Registry) -> None:
    """Names whose numbers stay keep their pipeline as it is, the others their breaker and budget."""
    live = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    calls = {name: following(names, name)[0] for name in ("qa", "other")}
    before = {name: (names.resilient(name).pipeline, breaker_of(call)) for name, call in calls.items()}
    live.apply({"retry_attempts": 2}, actor="me")
    assert names.get("qa") is before["qa"][0]
    assert names.get("other") is not before["other"][0]
    assert [breaker_of(call) for call in calls.values()] == [breaker for _, breaker in before.values()]
    assert (attempts(calls["qa"]), attempts(calls["other"])) == (7, 2)


def test_a_refused_change_changes_nothing(names: Registry) -> None:
    """Configuration, version, pipelines and breakers are as before; the trail has the fault, without its value."""
    live = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    call, _ = following(names)
    pipeline, config, current = names.resilient("payments").pipeline, breaker_of(call).config, live.current
    for bad in (
        {"retry_attempts": 99},
        "{",
        {"operation_overrides": {"nobody": "critical"}},
        {"secret": "hunter2"},
    ):
        with pytest.raises(ConfigurationError):
            live.apply(bad, actor="me")
    with pytest.raises(ConfigurationError):
        live.use_preset("prod", actor="me")
    assert (names.get("payments"), breaker_of(call).config, live.current, live.version) == (
        pipeline,
        config,
        current,
        0,
    )
    trail = live.audit()
    assert [change.error for change in trail] == [
        "preset is no preset",
        "secret is unknown",
        "operation_overrides.nobody is no registered operation",
        "configuration is no JSON: Expecting property name enclosed in double quotes at line 1, column 2",
        "retry_attempts is out of range",
    ]
    assert "hunter2" not in str(trail)
    assert all(change.changed == {} and change.before == change.after for change in trail)


def test_a_pipeline_that_cannot_be_built_undoes_the_change(
    names: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure halfway through many names leaves all of them as they were, breakers' settings included."""
    from holdfast.infrastructure.resilience import _strategies

    live = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    calls = [following(names, f"name {at}")[0] for at in range(4)]
    before = [(breaker_of(call), breaker_of(call).config, attempts(call)) for call in calls]
    made: list[str] = []
    build: Callable[..., Pipeline] = _strategies._pipeline  # noqa: SLF001  # where memory may run out

    def breaking(settings: Any, *more: Any) -> Pipeline:
        made.append(settings.operation)
        if len(made) == 3:
            raise MemoryError("no more")
        return build(settings, *more)

    monkeypatch.setattr(_strategies, "_pipeline", breaking)
    with pytest.raises(MemoryError):
        live.use_preset("development", actor="me")
    assert [(breaker_of(call), breaker_of(call).config, attempts(call)) for call in calls] == before
    assert (live.current.preset, live.version, live.audit()[0].error) == (
        "production",
        0,
        "MemoryError: no more",
    )
    live.use_preset("development", actor="me")
    assert [attempts(call) for call in calls] == [2] * 4


def test_names_that_are_made_while_a_change_is_prepared_change_too(
    names: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is met, or made anew, after the pipelines were built and before they hold, is not left behind."""
    from holdfast.infrastructure.resilience import _strategies

    live = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    calls = [following(names, f"name {at}")[0] for at in range(2)]
    assert [attempts(call) for call in calls] == [5, 5]
    build: Callable[..., Pipeline] = _strategies._pipeline  # noqa: SLF001  # where another thread may come between
    meanwhile = list[float]()

    def interrupted(settings: Any, *more: Any) -> Pipeline:
        if settings.operation == "name 1" and not meanwhile:
            meanwhile.append(attempts(following(names, "late")[0]))
            live.register("name 0", deadline=77)
            meanwhile.append(explain(calls[0]).duration)
        return build(settings, *more)

    monkeypatch.setattr(_strategies, "_pipeline", interrupted)
    live.use_preset("development", actor="me")
    assert meanwhile == [5, 77]
    assert [attempts(call) for call in (*calls, following(names, "late")[0])] == [2, 2, 2]
    assert explain(calls[0]).duration == 77


def test_a_change_in_the_middle_of_a_first_call_holds_for_the_second(names: Registry) -> None:
    """What was compiled for an older meaning is called once, and not kept."""

    class Changing(Retry):
        """Changes what its name means while it is being compiled."""

        __slots__ = ()

        def _bind(self) -> dict[str, Any]:
            names.define("payments", Retry(2, wait=0.0))
            bound: dict[str, Any] = vars(Retry)["_bind"](self)
            return bound

    names.define("payments", Changing(4, wait=0.0))
    call, script = following(names)
    for calls in (4, 6):
        with pytest.raises(ConnectionError):
            call()
        assert script.calls == calls


def test_what_is_applied_takes_the_place_of_what_was(names: Registry) -> None:
    """Each application begins from the sources; presets chosen, withdrawals and reloads do what they say."""
    environ = {"RESILIENCE_PRESET": "production"}
    live = LiveConfiguration(names, environ=environ)
    live.apply({"retry_attempts": 2}, actor="me")
    live.apply('{"jitter_max": 1}', actor="me")
    assert live.current.settings == {"jitter_max": 1}
    environ["RESILIENCE_PRESET"] = "development"
    live.reload(actor="me")
    assert (live.current.preset, live.current.settings) == ("development", {"jitter_max": 1})
    live.use_preset("simple", actor="me")
    assert (live.current.preset, live.current.settings, live.current.sources["preset"]) == (
        "simple",
        {},
        "applied",
    )
    live.apply({"jitter_max": 3}, actor="me")
    assert live.current.preset == "simple"
    live.apply(b'{"jitter_max": 2}', preset="production", actor="me")
    assert (live.current.preset, live.current.settings) == ("production", {"jitter_max": 2})
    live.withdraw(actor="me")
    assert (live.current.preset, live.current.settings) == ("development", {})
    assert live.version == 7


def test_both_faults_of_an_application_come_together(names: Registry) -> None:
    """A bad preset and a bad field are one error."""
    live = LiveConfiguration(names, environ={})
    with pytest.raises(ConfigurationError) as caught:
        live.apply({"retry_attempts": 0}, preset="prod", actor="me")
    assert [fault.path for fault in caught.value.faults] == ["retry_attempts", "preset"]


def test_a_change_is_told(names: Registry) -> None:
    """The change says who, what, when, why, what was before and after, and which numbers differ."""
    clock = VirtualClock()
    live = LiveConfiguration(names, environ={}, clock=clock)
    change = live.apply({"retry_attempts": 4, "max_delay_seconds": 60}, actor="ann", reason="slow today")
    assert (change.number, change.at, change.actor, change.action) == (1, clock.time(), "ann", "apply")
    assert (change.reason, change.error, live.version) == ("slow today", None, 1)
    assert change.changed == {
        "numbers.attempts": (3, 4),
        "numbers.deadline": (30, 60),
        "settings.max_delay_seconds": (None, 60),
        "settings.retry_attempts": (None, 4),
    }
    assert (change.before["numbers"]["attempts"], change.after["numbers"]["attempts"]) == (3, 4)
    same = live.reload(actor="ann")
    assert (same.changed, live.version) == ({}, 1)
    assert json.loads(json.dumps(change.as_dict()))["changed"]["numbers.attempts"] == [3, 4]


def test_subscribers_hear_of_every_line(names: Registry) -> None:
    """Changes, refusals and records are told, in order; one that raises harms nobody; one that ended hears no more."""
    live = LiveConfiguration(names, environ={})
    heard: list[tuple[str, bool]] = []

    def broken(_: Change) -> None:
        raise ValueError("broken")

    live.subscribe(broken)
    end = live.subscribe(lambda change: heard.append((change.action, change.error is None)))
    with EventRecorder() as recorder:
        live.use_preset("production", actor="me")
        with pytest.raises(ConfigurationError):
            live.use_preset("x", actor="me")
        live.record(actor="me", action="isolate", target="payments", before="closed", after="isolated")
        end()
        live.withdraw(actor="me")
    assert heard == [("preset", True), ("preset", False), ("isolate", True)]
    assert [event.callback for event in recorder.of(CallbackFailed)] == ["subscriber"] * 4


def test_a_subscriber_may_change_it_again(names: Registry) -> None:
    """No lock is held while subscribers run: neither their own thread nor another one waits."""
    live = LiveConfiguration(names, environ={})
    seen: list[str] = []

    def again(change: Change) -> None:
        if change.action == "preset":
            thread = threading.Thread(target=live.reload, kwargs={"actor": "other"})
            thread.start()
            thread.join(5)
            seen.append("alive" if thread.is_alive() else "done")
            live.apply({"retry_attempts": 4}, actor="subscriber")

    live.subscribe(again)
    live.use_preset("production", actor="me")
    assert (seen, live.current.settings) == (["done"], {"retry_attempts": 4})


# The audit trail.


def test_the_trail_can_be_asked(names: Registry) -> None:
    """Newest first, by actor, by action, in pages, bounded."""
    live = LiveConfiguration(names, environ={}, audit=5)
    for at in range(6):
        live.use_preset("production" if at % 2 else "simple", actor="ann" if at < 4 else "bob")
    live.withdraw(actor="ann")
    assert [change.number for change in live.audit()] == [7, 6, 5, 4, 3]
    assert [change.number for change in live.audit(actor="ann")] == [7, 4, 3]
    assert [change.number for change in live.audit(actor="bob", action="preset")] == [6, 5]
    assert [change.number for change in live.audit(limit=2)] == [7, 6]
    assert [change.number for change in live.audit(limit=2, before=6)] == [5, 4]
    assert live.audit(actor="eve") == live.audit(limit=0) == []


def test_what_others_did_is_bounded(names: Registry) -> None:
    """A record of something else keeps plain facts, cut where they are long or deep, and is JSON."""
    live = LiveConfiguration(names, environ={})
    deep: Any = "end"
    for _ in range(10):
        deep = {"a": deep}
    change = live.record(
        actor="x" * 500,
        action="isolate",
        target="payments",
        before={
            "state": "closed",
            "deep": deep,
            "list": list(range(100)),
            "nan": float("nan"),
            "text": "y" * 500,
        },
        after=object(),
        reason="z" * 500,
    )
    facts = json.dumps(change.as_dict(), allow_nan=False)
    assert len(facts) < 3000
    assert (len(change.actor), len(change.reason or "")) == (200, 200)
    assert change.after == {"payments": "object"}
    assert change.changed["payments.state"] == ("closed", None)
    assert plain((1, True, None, 10**400)) == [1, True, None, "a number of 1329 bits"]


def test_a_trail_on_disk_survives(names: Registry, tmp_path: Path) -> None:
    """The next process finds the lines of the last one and goes on counting; nobody else may read the file."""
    path = tmp_path / "audit.jsonl"
    first = LiveConfiguration(names, environ={}, audit_file=path)
    first.use_preset("production", actor="ann", reason="début")
    first.record(actor="bob", action="isolate", target="payments", before=None, after=True)
    second = LiveConfiguration(Registry(), environ={}, audit_file=path)
    assert second.audit() == first.audit()
    assert second.withdraw(actor="ann").number == 3
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "torn", [b'{"number": 2, "act', b"\xff\xfe", b"[]\n", b"{}\n", b"null\n", b"[" * 5000]
)
def test_a_torn_line_is_skipped(names: Registry, tmp_path: Path, torn: bytes) -> None:
    """A line that a killed process left unfinished harms neither the reader nor the next line."""
    path = tmp_path / "audit.jsonl"
    LiveConfiguration(names, environ={}, audit_file=path).use_preset("production", actor="ann")
    with path.open("ab") as file:
        file.write(torn)
    again = LiveConfiguration(names, environ={}, audit_file=path)
    assert [change.number for change in again.audit()] == [1]
    again.use_preset("simple", actor="bob")
    third = LiveConfiguration(names, environ={}, audit_file=path)
    assert [change.actor for change in third.audit()] == ["bob", "ann"]


def test_a_trail_on_disk_is_bounded(tmp_path: Path) -> None:
    """A full file is put aside, in the place of the one before: never more than two, and no line is lost from them."""
    path = tmp_path / "audit.jsonl"

    def make(number: int) -> Change:
        return Change(number=number, at=0.0, actor="a", action="b", before={}, after={}, changed={})

    def read(facts: Mapping[str, Any]) -> Change:
        return make(facts["number"])

    trail = Trail(10, path, read, most_bytes=1000)
    for _ in range(40):
        trail.add(make)
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(sizes) == {"audit.jsonl", "audit.jsonl.1"}
    assert all(0 < size <= 1000 for size in sizes.values())
    numbers = [change.number for change in Trail(100, path, read, most_bytes=1000).newest()]
    assert numbers == list(range(40, 40 - len(numbers), -1))
    assert len(numbers) > 8


def test_a_trail_that_cannot_be_written(
    names: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A place that is wrong from the beginning is a fault; a disk that fails later is logged, and the change stays."""
    with pytest.raises(ConfigurationError, match=r"audit_file = .* cannot be used: No such file"):
        LiveConfiguration(names, environ={}, audit_file=tmp_path / "none" / "audit.jsonl")
    folder = tmp_path / "folder"
    folder.mkdir()
    live = LiveConfiguration(names, environ={}, audit_file=folder / "audit.jsonl")
    (folder / "audit.jsonl").unlink()
    folder.rmdir()
    live.use_preset("production", actor="ann")
    assert (live.current.preset, len(live.audit())) == ("production", 1)
    assert "audit.jsonl" in caplog.text


def test_many_may_write_at_once(names: Registry, tmp_path: Path) -> None:
    """Eight threads leave a line each for everything they did, numbered without a gap."""
    path = tmp_path / "audit.jsonl"
    live = LiveConfiguration(names, environ={}, audit_file=path)

    def work() -> None:
        for _ in range(10):
            live.record(actor="a", action="b", target="c", before=1, after=2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == list(range(1, 81))


# Files and signals.


class Watched:
    """A file under watch, and how often it was called changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changes = 0
        self.watch = FileWatch(path, self.changed)

    def changed(self) -> None:
        self.changes += 1
        if self.changes == 3:
            raise ValueError("broken")

    def looks(self, times: int) -> int:
        for _ in range(times):
            self.watch.look()
        return self.changes


def write(path: Path, text: str, *, at: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(at, at))


def test_a_file_is_read_when_it_has_settled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that differs at every look is being written; one that is the same twice is read, once."""
    path = tmp_path / "resilience.toml"
    write(path, "1", at=1)
    watched = Watched(path)
    assert watched.looks(3) == 0
    for at in range(2, 6):
        write(path, "1" * at, at=at)
        assert watched.looks(1) == 0
    assert watched.looks(3) == 1
    path.unlink()
    assert watched.looks(1) == 1
    write(path, "2", at=9)
    assert watched.looks(1) == 1
    assert watched.looks(3) == 2
    path.unlink()
    assert watched.looks(3) == 3
    assert "resilience.toml" in caplog.text
    other = tmp_path / "other"
    write(other, "2", at=9)
    other.replace(path)
    assert watched.looks(3) == 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file that names a preset."""
    path = tmp_path / "resilience.toml"
    path.write_text('preset = "production"')
    return path


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_file_that_changes_is_reloaded(names: Registry, file: Path) -> None:
    """The watch reads what was written, reports a bad file once and leaves all as it is, and ends when told to."""
    live = LiveConfiguration(names, file=file, environ={})
    end = live.watch(interval=0.01)
    file.write_text('preset = "development"')
    until(lambda: live.current.preset == "development")
    file.write_text("preset = ")
    until(lambda: len(live.audit()) == 2)
    time.sleep(0.05)
    assert [(change.actor, change.action, change.error is None) for change in live.audit()] == [
        ("file", "reload", False),
        ("file", "reload", True),
    ]
    assert live.current.preset == "development"
    end()
    time.sleep(0.03)
    file.write_text('preset = "simple"')
    time.sleep(0.05)
    assert live.current.preset == "development"
    live.watch(interval=0.01)
    live.close()
    until(lambda: not [one for one in threading.enumerate() if "configuration watch" in one.name])


def test_a_watch_needs_a_file(names: Registry, file: Path) -> None:
    """Without a file there is nothing to watch; a variable may name it."""
    with pytest.raises(
        ConfigurationError, match="is no file to watch; give file=, or set RESILIENCE_CONFIG_FILE"
    ):
        LiveConfiguration(names, environ={}).watch()
    with pytest.raises(ConfigurationError, match="interval"):
        LiveConfiguration(names, file=file, environ={}).watch(interval=0)
    live = LiveConfiguration(names, environ={"RESILIENCE_CONFIG_FILE": str(file)})
    live.watch(interval=60)()


@pytest.fixture
def signals() -> Iterator[None]:
    """Put the handlers back that were there before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_signal_reloads(names: Registry, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGHUP, or another one, reads the file again; a bad file is logged and harms nobody."""
    live = LiveConfiguration(names, file=file, environ={})
    live.on_signal()
    live.on_signal(signal.SIGUSR1)
    file.write_text('preset = "development"')
    os.kill(os.getpid(), signal.SIGHUP)
    until(lambda: live.current.preset == "development")
    file.write_text('preset = "x"')
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: len(live.audit(actor="signal")) == 2)
    until(lambda: "the configuration was not reloaded" in caplog.text)
    assert live.current.preset == "development"


def test_a_signal_is_for_the_main_thread(names: Registry) -> None:
    """Elsewhere Python cannot install a handler, and says so."""
    live, errors = LiveConfiguration(names, environ={}), list[str]()

    def work() -> None:
        try:
            live.on_signal()
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]


# State that travels.


def test_state_goes_to_another_process(names: Registry, virtual_clock: VirtualClock) -> None:
    """Breakers and budgets of names, code's own too, find their state at the first call; time passes meanwhile."""
    live = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    call, _ = following(names)
    breaker_of(call).open()
    other = breaker_of(following(names, "qa")[0])
    for _ in range(4):
        other.admit().failure()
    names.define("mine", CircuitBreaker("mine's"))
    breaker_of(following(names, "mine")[0]).isolate()
    for _ in range(10):
        assert budget_of(names, "qa").try_withdraw()
    facts = json.loads(json.dumps(live.export_state()))
    virtual_clock.advance(0.5)

    again = Registry()
    again.define("mine", CircuitBreaker("mine's"))
    heir = LiveConfiguration(again, environ={"RESILIENCE_PRESET": "production"})
    with EventRecorder() as recorder:
        heir.import_state(facts)
    assert [event.name for event in recorder.events] == ["mine's"]
    assert heir.export_state()["breakers"].keys() == facts["breakers"].keys()
    breaker = breaker_of(following(again)[0])
    assert (breaker.current_state, breaker.retry_after) == ("open", 119.5)
    assert breaker_of(following(again, "qa")[0]).counts.failures == 4
    assert budget_of(again, "qa").tokens == 5
    assert breaker_of(following(again, "mine")[0]).current_state == "isolated"


def test_state_of_names_that_nobody_configured(names: Registry) -> None:
    """What is recommended for a name has its state back as well."""
    live = LiveConfiguration(names, environ={})
    breaker_of(following(names)[0]).open()
    again = Registry()
    heir = LiveConfiguration(again, environ={})
    heir.import_state(live.export_state())
    assert breaker_of(following(again)[0]).current_state == "open"


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {},
        {"version": 2, "breakers": {}, "budgets": {}},
        {"version": 1, "breakers": []},
        {"version": 1, "breakers": {1: {}}, "budgets": {}},
        {"version": 1, "breakers": {"a": {}}, "budgets": {}},
        {"version": 1, "breakers": {}, "budgets": {"a": 5}},
        {"version": 1, "breakers": {}, "budgets": {"a": {"tokens": -1, "floor": 0, "at": 0}}},
        {"version": 1, "breakers": {}, "budgets": {"a": {"tokens": True, "floor": 0, "at": 0}}},
        {"version": 1, "breakers": {}, "budgets": {"a": {"tokens": float("nan"), "floor": 0, "at": 0}}},
    ],
)
def test_malformed_state_is_refused_whole(names: Registry, facts: Any) -> None:
    """What is no exported state is a ValueError, and nothing of it is taken."""
    live = LiveConfiguration(names, environ={})
    before = live.export_state()
    with pytest.raises(ValueError, match="this is no"):
        live.import_state(facts)
    assert live.export_state() == before == {"version": 1, "breakers": {}, "budgets": {}}


# The process's own.


def test_the_process_has_one(common_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """`live()` is made once, over the common registry and the environment as it was then."""
    monkeypatch.setenv("RESILIENCE_PRESET", "production")
    first = live()
    monkeypatch.setenv("RESILIENCE_PRESET", "development")
    assert (live(), first.registry, first.current.preset) == (first, common_registry, "production")
    first.reload(actor="me")
    assert first.current.preset == "development"
    first.close()
    own = LiveConfiguration(environ={})
    assert live() is own


def test_eight_threads_make_one(common_registry: Registry) -> None:
    """Whoever is first makes it, the others get the same."""
    assert len(common_registry) >= 0
    barrier, found = threading.Barrier(8), list[LiveConfiguration]()

    def work() -> None:
        barrier.wait()
        found.append(live())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
