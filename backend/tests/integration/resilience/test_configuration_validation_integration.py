"""Seam: text from outside × validation × limits × who it comes from."""

import json
import random
import string
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from backend.tests.integration.resilience._race import race
from holdfast.infrastructure.resilience.config import Validation, ValidationLimits, validate
from holdfast.infrastructure.resilience.errors import ConfigurationError, RateLimitedError
from holdfast.infrastructure.resilience.live import LiveConfiguration
from holdfast.infrastructure.resilience.registry import Registry
from holdfast.testing.clock import VirtualClock

GOOD = '{"retry_attempts": 4, "circuit_breaker_threshold": 6, "operation_overrides": {"qa": "critical"}}'
HOSTILE: dict[str, str | bytes] = {
    "deep": "[" * 4096,
    "deep objects": '{"a":' * 800,
    "wide": "{" + ",".join(f'"f{at}":1' for at in range(400)) + "}",
    "huge number": '{"retry_attempts":' + "9" * 4000 + "}",
    "long": '{"default_strategy":"' + "x" * 4000 + '"}',
    "far too long": '{"default_strategy":"' + "x" * 1_000_000 + '"}',
    "twice": '{"retry_attempts":1,"retry_attempts":2}',
    "not a number": '{"jitter_max":NaN}',
    "bytes": b"\xff\xfe{}",
    "nul": b"\x00" * 100,
    "lone surrogate": '{"default_strategy":"\\udc00"}',
    "control": '{"\\u0000\\u001b[2J":1}',
    "proto": '{"__proto__":{"a":1},"constructor":1,"__class__":1}',
    "empty": b"",
}


class Gate:
    """What stands in front of validation for clients that were authenticated, as the HTTP API has it."""

    def __init__(self, live: LiveConfiguration) -> None:
        self.live = live
        self.limits = ValidationLimits()
        self.validated = 0

    def validate(self, client: str, text: str | bytes) -> Validation:
        self.limits.admit(client)
        self.validated += 1
        return validate(text, operations=self.live.operations, preset=self.live.current.preset)


def gate(names: Registry) -> Gate:
    live = LiveConfiguration(names, environ={"RESILIENCE_PRESET": "production"})
    live.register("qa")
    live.register("summarize")
    return Gate(live)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_an_answer(names: Registry, name: str) -> None:
    """Whatever comes in, the answer is a short list of faults as JSON; nothing is raised and nothing changes."""
    door = gate(names)
    answer = json.dumps(door.validate("ann", HOSTILE[name]).as_dict(), allow_nan=False)
    assert json.loads(answer)["valid"] is False
    assert len(answer) < 40_000
    assert answer.isprintable()
    with pytest.raises(ConfigurationError):
        door.live.apply(HOSTILE[name], actor="ann")
    assert (door.live.version, len(names)) == (0, 0)
    assert len(json.dumps(door.live.audit()[0].as_dict())) < 20_000


def test_random_text_is_an_answer(names: Registry) -> None:
    """Two thousand pieces of nonsense, from bytes to almost valid JSON: each has faults or is valid, none raises."""
    source, door = random.Random(7), gate(names)
    fields = ("retry_attempts", "jitter_max", "default_strategy", "operation_overrides", "x")
    values: tuple[Any, ...] = (
        None,
        True,
        -1,
        0,
        3,
        1e308,
        "balanced",
        "",
        [],
        [1],
        {},
        {"qa": "critical"},
        {"qa": 1},
    )
    for at in range(2000):
        if at % 2:
            text: str | bytes = source.randbytes(source.randrange(200))
        else:
            made = {source.choice(fields): source.choice(values) for _ in range(source.randrange(4))}
            text = json.dumps(made)
            cut = source.randrange(1, len(text) + 1)
            text = text if source.random() < 0.7 else text[:cut] + source.choice(string.printable)
        found = validate(text, operations=door.live.operations)
        assert found.valid is not bool(found.faults)
        json.dumps(found.as_dict(), allow_nan=False)


def test_what_is_valid_can_be_applied(names: Registry) -> None:
    """The same text that was found valid is applied, and does what validation said it would."""
    door = gate(names)
    found = door.validate("ann", GOOD)
    assert (found.faults, found.template) == ((), None)
    change = door.live.apply(GOOD, actor="ann")
    assert (change.error, change.after["numbers"]["threshold"]) == (
        None,
        found.settings["circuit_breaker_threshold"],
    )
    assert names.resilient("other").explain().attempts == 4
    assert door.live.operation("qa").strategy == "critical"


def test_an_override_names_a_registered_operation(names: Registry) -> None:
    """What validation refuses for its operations, application refuses too, with the same fault."""
    text = '{"operation_overrides": {"sumarize": "critical", "qa": "critical"}}'
    door = gate(names)
    (fault,) = door.validate("ann", text).faults
    with pytest.raises(ConfigurationError) as caught:
        door.live.apply(text, actor="ann")
    assert caught.value.faults == (fault,)
    assert (fault.path, fault.suggestion) == ("operation_overrides.sumarize", "summarize")


def test_no_secret_gets_anywhere(names: Registry) -> None:
    """A password in the wrong place is in no answer, no error and no line of the trail."""
    door = gate(names)
    secret = "hunter2" * 20
    texts = [
        json.dumps({"api_key": secret}),
        json.dumps({"retry_attempts": [secret]}),
        json.dumps({"retry_attempts": {"password": secret}}),
        '{"password": "' + secret,
        '{"password": ' + secret + "}",
    ]
    for text in texts:
        answer = str(door.validate("ann", text)) + json.dumps(door.validate("ann", text).as_dict())
        with pytest.raises(ConfigurationError) as caught:
            door.live.apply(text, actor="ann")
        assert "hunter2" not in answer + str(caught.value) + str(door.live.audit())


def test_each_client_has_its_own_limit(names: Registry, virtual_clock: VirtualClock) -> None:
    """Sixty a minute for one that was authenticated; what it calls itself in the text does not matter."""
    door = gate(names)
    for at in range(60):
        door.validate("ann", json.dumps({"client": f"bob {at}"}))
    with pytest.raises(RateLimitedError) as caught:
        door.validate("ann", GOOD)
    assert (caught.value.retry_after, door.validated) == (60, 60)
    assert door.validate("bob", GOOD).valid
    virtual_clock.advance(60)
    assert door.validate("ann", GOOD).valid


def test_a_refused_client_costs_nothing(names: Registry) -> None:
    """The limit comes before the text: not a byte of it is read."""
    door = gate(names)
    for _ in range(60):
        door.limits.admit("ann")

    class Untouchable(str):
        __slots__ = ()

        def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
            raise AssertionError("it was read")

    with pytest.raises(RateLimitedError):
        door.validate("ann", Untouchable("{}"))
    with pytest.raises(AssertionError):
        door.validate("bob", Untouchable("{}"))


def test_clients_race(names: Registry) -> None:
    """Eight threads of one client get sixty validations together, those of eight clients sixty each."""
    door = gate(names)
    lock = threading.Lock()

    def many(client: str) -> Callable[[], int]:
        def work() -> int:
            admitted = 0
            for _ in range(70):
                try:
                    door.limits.admit(client)
                except RateLimitedError:
                    continue
                with lock:
                    admitted += 1
            return admitted

        return work

    assert sum(race(*[many("ann")] * 8)) == 60
    assert race(*[many(f"client {at}") for at in range(8)]) == [60] * 8


def test_memory_is_bounded(names: Registry) -> None:
    """A flood of bad text from many clients leaves a bounded trail and bounded limits behind."""
    live = LiveConfiguration(names, environ={}, audit=100)
    limits = ValidationLimits(max_clients=50, clock=VirtualClock())

    def flood(times: int) -> None:
        for at in range(times):
            limits.admit(f"client {at}")
            with pytest.raises(ConfigurationError):
                live.apply({f"field {at}": "x" * 150}, actor=f"client {at}")

    flood(300)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    flood(300)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 500_000
    assert len(live.audit(limit=1000)) == 100
