"""Runs × subprocesses: commands, their code, environment, limits, output and ends, from submission to summary."""

import os
from pathlib import Path

import pytest

from backend.tests.integration.orchestration._local import Machine
from backend.tests.integration.orchestration._yard import order, wait_until
from holdfast.infrastructure.store.state import StepState

S = StepState


def test_three_orders_run_to_their_end(machine: Machine) -> None:
    """Through every event: each in a folder with its code and its own environment; what it said is kept."""
    run = machine.submit(
        order("a", commands=["sh run.sh", "pwd; ls deep"]),
        order("b", commands=['test "$WHERE" = here && ./run.sh'], environment={"WHERE": "here"}),
        order("c", "a", "b", commands=["echo last; echo more >&2"]),
    )
    machine.pump(run)
    done = machine.yard.done(run)
    assert (done["status"], done["counts"]) == ("succeeded", {"succeeded": 3})
    said = machine.yard.runs.log(run, "a").decode().split()
    assert (said[0], said[2]) == ("ran", "data.bin")
    assert not Path(said[1]).exists()
    assert machine.yard.runs.log(run, "c") == b"last\nmore\n"


def test_the_first_command_that_fails_is_the_last(machine: Machine) -> None:
    """The order fails with its exit code, and what it said before is kept."""
    run = machine.submit(order("a", commands=["echo one", "exit 3", "echo two"]), order("b", "a"))
    machine.pump(run)
    assert machine.yard.states(run) == {"a": S.FAILED, "b": S.FAILED}
    assert machine.yard.store.step(run, "a").error == "command 2 ended with exit code 3"
    assert machine.yard.runs.log(run, "a") == b"one\n"


def test_nothing_of_this_process_is_passed_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment may hold secrets; PATH is needed."""
    monkeypatch.setenv("HOLDFAST_SECRET", "s3cret")
    run = machine.submit(order("a", commands=["env"]))
    machine.pump(run)
    said = machine.yard.runs.log(run, "a").decode()
    assert "s3cret" not in said
    assert f"PATH={os.environ['PATH']}" in said


def test_what_hangs_is_killed_with_all_it_started(machine: Machine, tmp_path: Path) -> None:
    """At its timeout, by its target or the watchdog, whoever is first: the process in the background too."""
    mark = tmp_path / "mark"
    command = f"(sleep 1; echo late > {mark}) & echo $! > {mark}.pid; sleep 60"
    run = machine.submit(order("a", commands=[command], timeout=0.4))
    machine.pump(run)
    assert machine.yard.done(run)["status"] == "timed_out"
    errors = {"command 1 was killed after 0.4 s", "no result 0.4 s after its start"}
    assert machine.yard.store.step(run, "a").error in errors
    pid = int(Path(f"{mark}.pid").read_text(encoding="utf-8"))
    wait_until(lambda: not alive(pid))
    assert not mark.exists()


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_cancelled_order_is_killed(machine: Machine) -> None:
    """And the run ends as soon as it has said so."""
    run = machine.submit(order("a", commands=["echo begun; sleep 60"]), order("b", "a"))
    machine.yard.runs.evaluate(run)
    wait_until(lambda: machine.yard.blobs.exists(f"runs/{run}/0001/started"))
    machine.yard.runs.cancel(run)
    machine.pump(run)
    assert machine.yard.done(run)["status"] == "cancelled"
    assert machine.yard.store.step(run, "a").error == "it was cancelled"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("exec python3 -c 'bytearray(1 << 31)'", "exit code 1"),
        ("while :; do :; done", "signal SIGKILL"),
    ],
    ids=["memory", "CPU"],
)
def test_limits_hold(machine: Machine, command: str, error: str) -> None:
    """Of memory and of CPU: the order fails, the process of the target does not."""
    run = machine.submit(order("a", commands=[command]))
    machine.pump(run)
    assert error in machine.yard.store.step(run, "a").error


def test_output_is_bounded(machine: Machine) -> None:
    """What is too much is counted, not kept."""
    run = machine.submit(order("a", commands=["head -c 5000 /dev/zero"]))
    machine.pump(run)
    log = machine.yard.runs.log(run, "a")
    assert log == bytes(1000) + "\n… 4000 more bytes were dropped\n".encode()


def test_no_more_run_than_may(machine: Machine, tmp_path: Path) -> None:
    """Across runs: two at once, the others wait for room, and all are done."""
    command = f"echo + >> {tmp_path}/log; sleep 0.05; echo - >> {tmp_path}/log"
    runs = [machine.submit(*(order(f"o{one}", commands=[command]) for one in range(3))) for _ in range(2)]
    machine.pump(*runs)
    running = most = 0
    for sign in (tmp_path / "log").read_text(encoding="utf-8").split():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert most == 2
    assert [machine.yard.done(run)["counts"] for run in runs] == [{"succeeded": 3}] * 2


def test_what_a_dead_process_had_taken_is_dispatched_again(machine: Machine) -> None:
    """What it had not started; what it had started is not."""
    machine.yard.runs = machine.yard.again()
    run = machine.submit(order("a"), order("b"))
    machine.yard.runs.evaluate(run)
    assert machine.yard.blobs.delete(f"runs/{run}/0002/started")
    machine.yard.puppets.started.clear()
    assert machine.yard.again().resume() == [run]
    assert machine.yard.puppets.started == ["b"]
