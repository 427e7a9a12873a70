"""Seam: what breakers and budgets know × a process that ends × the next one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.resilience._process import environment, run

# One life of a service: take over what the last one knew, call, and leave what it knows for the next one.
LIFE = """
import json, os, sys
from pathlib import Path
from holdfast import CircuitBreaker, Clock, breaker_of, live, registry, resilient, use_clock, with_operation_resilience

kept, told = Path(sys.argv[1]), json.loads(sys.argv[2])


class Skipping(Clock):
    # A monotonic clock begins anywhere in each process; waits take no time; `later` seconds have passed outside.
    begun = Clock().monotonic() - os.getpid()

    def monotonic(self):
        return Clock.monotonic(self) - self.begun

    def time(self):
        return Clock.time(self) + told["later"]

    def sleep(self, seconds):
        pass


reached = {}


def upstream(name):
    reached[name] = reached.get(name, 0) + 1
    if not told["up"]:
        raise ConnectionError("down")


def decorated(name, decorator):
    @decorator
    def call():
        upstream(name)

    return call


def facts(name, call):
    breaker = breaker_of(call)
    budgets = [getattr(one.config, "budget", None) for one in resilient(name).pipeline.policies]
    return {
        "state": breaker.current_state,
        "failures": breaker.counts.failures,
        "wait": breaker.retry_after,
        "tokens": [one.tokens for one in budgets if one],
    }


with use_clock(Skipping()):
    registry.define("code", CircuitBreaker("code", fail_max=2, reset_timeout=300))
    functions = {
        "summarize": decorated("summarize", with_operation_resilience("summarize")),
        "qa": decorated("qa", with_operation_resilience("qa")),
        "named": decorated("named", resilient("named")),
        "code": decorated("code", resilient("code")),
    }
    if kept.exists():
        live().import_state(json.loads(kept.read_text()))
    found = []
    for name in told["calls"]:
        try:
            functions[name]()
            found.append("ok")
        except Exception as error:
            found.append(type(error).__name__)
    if told["isolate"]:
        breaker_of(functions[told["isolate"]]).isolate()
    states = {name: facts(name, functions[name]) for name in told["look"]}
    kept.write_text(json.dumps(live().export_state()))
print(json.dumps({"reached": reached, "found": found, "states": states}), flush=True)
if told["stay"]:
    sys.stdin.read()
"""


class Service:
    """A service that is started again and again, and keeps its state in a file."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.kept = folder / "state.json"
        self.environ = environ

    def live(
        self,
        *calls: str,
        look: tuple[str, ...] = (),
        later: float = 0.0,
        up: bool = False,
        isolate: str | None = None,
    ) -> Any:
        """Live once, `later` seconds after now: make these calls, and return what came of them."""
        told = {"calls": calls, "look": look, "later": later, "up": up, "isolate": isolate, "stay": False}
        return run(LIFE, str(self.kept), json.dumps(told), environ=self.environ)


def test_an_open_breaker_is_open_after_a_restart(tmp_path: Path) -> None:
    """The second process refuses what the first one had stopped calling: its upstream is not asked at all."""
    service = Service(tmp_path)
    first = service.live("summarize", "summarize", "code", "code", look=("summarize", "code"))
    assert {name: facts["state"] for name, facts in first["states"].items()} == {
        "summarize": "open",
        "code": "open",
    }
    assert first["reached"] == {"summarize": 5, "code": 2}
    second = service.live("summarize", "code", "qa", look=("summarize",))
    assert second["found"] == ["CircuitOpenError", "CircuitOpenError", "ConnectionError"]
    assert second["reached"] == {"qa": 3}
    assert 0 < second["states"]["summarize"]["wait"] <= first["states"]["summarize"]["wait"] <= 60


def test_failures_in_a_row_go_on_after_a_restart(tmp_path: Path) -> None:
    """A breaker that had counted three of five opens at the second failure of the next process."""
    service = Service(tmp_path)
    assert service.live("qa", look=("qa",))["states"]["qa"]["failures"] == 3
    second = service.live("qa", look=("qa",))
    assert (second["reached"], second["states"]["qa"]["state"]) == ({"qa": 2}, "open")


def test_the_time_between_counts(tmp_path: Path) -> None:
    """A service that was down for longer than the recovery time begins with a probe, and closes if that succeeds."""
    service = Service(tmp_path)
    service.live("summarize", "summarize")
    assert service.live("summarize", later=30)["found"] == ["CircuitOpenError"]
    third = service.live("summarize", "summarize", later=61, up=True, look=("summarize",))
    assert (third["found"], third["reached"]) == (["ok", "ok"], {"summarize": 2})
    assert third["states"]["summarize"]["state"] == "closed"


def test_what_was_isolated_stays_isolated(tmp_path: Path) -> None:
    """What an operator shut stays shut, through as many restarts as there are, however long they take."""
    service = Service(tmp_path)
    service.live("qa", isolate="qa")
    for later in (10, 100_000):
        again = service.live("qa", later=later, up=True, look=("qa",))
        assert (again["found"], again["reached"], again["states"]["qa"]["state"]) == (
            ["CircuitOpenError"],
            {},
            "isolated",
        )


def test_names_that_a_process_does_not_use_are_handed_on(tmp_path: Path) -> None:
    """A process that never calls an operation still leaves its state to the one after it."""
    service = Service(tmp_path)
    service.live("summarize", "summarize")
    service.live("qa")
    assert service.live("summarize")["found"] == ["CircuitOpenError"]


def test_tokens_that_were_spent_are_spent(tmp_path: Path) -> None:
    """A crash loop gives nobody a new budget; the time in between refills it as it would have."""
    service = Service(tmp_path)
    full = service.live(look=("named",))["states"]["named"]["tokens"][0]
    facts = json.loads(service.kept.read_text())
    facts["budgets"]["named"].update(tokens=0.0, floor=0.0)
    service.kept.write_text(json.dumps(facts))
    assert full == 2
    assert service.live(look=("named",), later=3600)["states"]["named"]["tokens"] == [2]
    service.kept.write_text(
        json.dumps(facts | {"budgets": {"named": {**facts["budgets"]["named"], "at": 4e9}}})
    )
    # The clock of the wall was set back meanwhile: no time has passed, as far as anybody can tell.
    assert service.live(look=("named",))["states"]["named"]["tokens"][0] < 1


def test_another_configuration_takes_the_state_over(tmp_path: Path) -> None:
    """The next process has other numbers: it refuses for as long as the last one meant to."""
    Service(tmp_path, RESILIENCE_PRESET="production").live("named", "named", "named")
    again = Service(tmp_path, RESILIENCE_PRESET="development").live("named", look=("named",))
    assert again["found"] == ["CircuitOpenError"]
    assert 30 < again["states"]["named"]["wait"] <= 120


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_state_survives_a_process_that_was_killed(tmp_path: Path) -> None:
    """What was written before the kill is there afterwards, whoever died."""
    kept = tmp_path / "state.json"
    told = {"calls": ["summarize"] * 2, "look": [], "later": 0.0, "up": False, "isolate": None, "stay": True}
    process = subprocess.Popen(
        [sys.executable, "-c", LIFE, str(kept), json.dumps(told)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["reached"] == {"summarize": 5}
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert Service(tmp_path).live("summarize")["found"] == ["CircuitOpenError"]
