"""`holdfast jobs` as processes: on a terminal and without one, stopped, killed, resumed; the service counts."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.tests.integration.cli._labels import Labels
from backend.tests.integration.cli._terminal import CTRL_C, Terminal
from backend.tests.integration.cli.conftest import Said, both_stores

Start = Callable[..., subprocess.Popen[str]]
ONCE = {str(number): 1 for number in range(1, 11)}
BRIEFLY = ("--drain", "0.1s", "--grace", "0.3s")


def killed(process: subprocess.Popen[str]) -> None:
    """Kill a process as a crash does."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)


def only_job(jobs: Callable[..., Said]) -> str:
    """Return the id of the one job there is."""
    (job,) = jobs("list", "--json").facts
    return str(job["id"])


def test_without_a_terminal_a_run_stops_after_the_preview(
    jobs_process: Callable[..., Said], labels: Labels
) -> None:
    """In confirm mode, without a terminal, `run` shows the estimate and the digest, ends with 5, and calls nobody."""
    said = jobs_process("run", "orders.csv", "app:ship")
    assert (said.code, said.err) == (5, "")
    assert "Estimate: 60.00, every row quoted" in said.out
    assert "Approve it: holdfast jobs approve" in said.out
    assert labels.calls == {}


def test_a_terminal_is_asked(terminal: Callable[..., Terminal], labels: Labels) -> None:
    """On a terminal `run` shows the estimate, asks, and on yes does each row once, with a bar."""
    screen = terminal("run", "orders.csv", "app:ship")
    screen.expect("Execute 10 rows? [y/N]")
    assert "Estimate: 60.00, every row quoted" in screen.said
    assert labels.calls == {}
    screen.type("y\n")
    assert screen.wait() == 0
    assert "━━━━" in screen.said
    assert "succeeded: 10 of 10 succeeded" in screen.said
    assert labels.calls == ONCE


def test_no_on_a_terminal_calls_nobody(
    terminal: Callable[..., Terminal], jobs: Callable[..., Said], labels: Labels
) -> None:
    """On no, `run` ends with 1, the job waits, and how to go on is said."""
    screen = terminal("run", "orders.csv", "app:ship")
    screen.expect("[y/N]")
    screen.type("n\n")
    assert screen.wait() == 1
    assert f"holdfast jobs approve {only_job(jobs)}" in screen.said
    assert jobs("list", "--json").facts[0]["state"] == "previewed"
    assert labels.calls == {}


@both_stores
def test_ctrl_c_drains(terminal: Callable[..., Terminal], jobs: Callable[..., Said], labels: Labels) -> None:
    """Ctrl-C begins no further call and lets those under way end; the exit code is 130, and resume does the rest."""
    labels.hold("2", "3")
    screen = terminal("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "2")
    labels.wait_for(3)
    screen.type(CTRL_C)
    screen.expect("stopping: 2 calls are under way; Ctrl-C again cancels them")
    labels.release()
    assert screen.wait() == 130
    job = only_job(jobs)
    assert f"stopped; go on with: holdfast jobs resume {job}" in screen.said
    assert labels.calls == {"1": 1, "2": 1, "3": 1}
    counts = jobs("status", job, "--json").facts["counts"]
    assert (counts["succeeded"], counts["pending"], counts["needs_review"]) == (3, 7, 0)

    assert jobs("resume", job).code == 0
    assert labels.calls == ONCE


@both_stores
def test_ctrl_c_twice_stops_at_once(
    terminal: Callable[..., Terminal], jobs: Callable[..., Said], labels: Labels
) -> None:
    """The second Ctrl-C does not wait for calls: they need review, and are never made again by themselves."""
    labels.hold("2", "3")
    screen = terminal("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "2")
    labels.wait_for(3)
    screen.type(CTRL_C)
    screen.expect("stopping: 2 calls are under way")
    screen.type(CTRL_C)
    assert screen.wait() == 130
    job = only_job(jobs)
    assert f"decide about calls that may have been made: holdfast jobs review {job}" in screen.said
    assert sorted(step["payload"]["id"] for step in jobs("review", job, "--json").facts) == ["2", "3"]

    labels.release()
    assert jobs("resume", job).code == 6
    assert labels.calls == ONCE


@both_stores
def test_a_killed_run_is_interrupted_and_resumed(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels
) -> None:
    """After SIGKILL `interrupted` says what is left and which calls are in doubt; what is not is made exactly once."""
    labels.hold("4", "5")
    process = start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "2")
    labels.wait_for(5)
    killed(process)
    labels.release()

    said = jobs("interrupted", "--json")
    assert said.code == 1
    (left,) = said.facts
    assert (left["ambiguous"], left["left"]) == (2, 7)
    assert left["choices"] == ["resume", "review", "restart", "cancel"]
    job = left["job"]["id"]

    resumed = jobs("resume", job)
    assert resumed.code == 6
    assert "8 of 10 succeeded, 2 need review" in resumed.out
    assert labels.calls == ONCE

    doubtful = [step["key"] for step in jobs("review", job, "--json").facts]
    assert doubtful == ["line:5", "line:6"]
    assert jobs("review", job, "line:5", "succeeded", "--result", '{"tracking": "T-4"}').code == 0
    assert jobs("review", job, "line:6", "again", "--yes").code == 0
    assert jobs("resume", job).code == 0
    assert labels.calls == {**ONCE, "5": 2}
    assert (jobs("interrupted").code, jobs("review").code) == (0, 0)


@both_stores
def test_status_says_that_nobody_works_on_a_job(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels
) -> None:
    """`status` of a job whose worker was killed says so with the choices and ends with 1; while it runs, with 0."""
    labels.hold("1")
    process = start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "1")
    labels.wait_for(1)
    job = only_job(jobs)
    runs = jobs("status", job)
    assert (runs.code, "nobody" in runs.out) == (0, False)
    killed(process)
    labels.release()

    said = jobs("status", job)
    assert said.code == 1
    assert "  nobody works on it:\n" in said.out
    assert f"  holdfast jobs resume {job}   do what is left\n" in said.out
    assert jobs("status", job, "--json").facts["interrupted"] is True


def test_who_watches_hears_that_nobody_works_on_a_job(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels
) -> None:
    """`watch` of a job whose worker was killed says so, once, beside the output, and goes on until it is resumed."""
    labels.hold("1")
    process = start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "1")
    labels.wait_for(1)
    job = only_job(jobs)
    killed(process)
    labels.release()
    watching = start_jobs("watch", job, "--interval", "0.1")
    assert watching.stderr is not None
    assert watching.stderr.readline() == "nobody works on it:\n"
    assert watching.stderr.readline().strip().startswith(f"holdfast jobs resume {job}")
    jobs("review", job, "line:2", "again", "--yes")
    assert jobs("resume", job).code == 0
    out, err = watching.communicate(timeout=30)
    assert watching.returncode == 0
    assert "succeeded: 10 of 10 succeeded" in out
    assert "nobody works on it" not in err


@both_stores
def test_doubts_can_be_reviewed_right_after_a_kill(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels
) -> None:
    """`review` lists and takes decisions about the calls of a killed worker before anybody resumed its job."""
    labels.hold("4", "5")
    process = start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "2")
    labels.wait_for(5)
    killed(process)
    labels.release()
    job = only_job(jobs)
    said = jobs("review", job, "--json")
    assert (said.code, [step["key"] for step in said.facts]) == (1, ["line:5", "line:6"])
    assert jobs("review", job, "line:5", "succeeded", "--result", '{"tracking": "T-4"}').code == 0
    assert jobs("review", job, "line:6", "succeeded", "--result", '{"tracking": "T-5"}').code == 0
    assert jobs("resume", job).code == 0
    assert labels.calls == ONCE


def test_a_handler_that_can_tell_settles_doubts_itself(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels
) -> None:
    """With a `reconcile` function, resuming after SIGKILL asks the service, and no row needs a person."""
    labels.hold("4", "5")
    process = start_jobs("run", "orders.csv", "app:careful", "--mode", "auto", "--concurrency", "2")
    labels.wait_for(5)
    killed(process)
    labels.release()
    job = only_job(jobs)
    said = jobs("resume", job)
    assert (said.code, labels.calls) == (0, ONCE)


def test_the_next_start_says_what_can_be_resumed(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels, orders: Path
) -> None:
    """After a crash, a run of the same file is refused with the choices; one of another file goes on and tells."""
    labels.hold("1")
    process = start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "1")
    labels.wait_for(1)
    killed(process)
    labels.release()
    job = only_job(jobs)

    again = jobs("run", "orders.csv", "app:ship", "--mode", "auto")
    assert (again.code, again.out, labels.calls) == (5, "", {"1": 1})
    assert f"orders.csv was begun as job {job}" in again.err
    assert f"holdfast jobs resume {job}" in again.err
    assert "give --again" in again.err

    (orders / "more.csv").write_text("id,price\n77,1.00\n", encoding="utf-8")
    other = jobs("run", "more.csv", "app:ship", "--mode", "auto")
    assert (other.code, labels.calls) == (0, {"1": 1, "77": 1})
    assert f"interrupted: {job} orders.csv: 0 of 10 done, 10 left, 1 may have been called" in other.err


def test_sigterm_drains(start_jobs: Start, jobs: Callable[..., Said], labels: Labels) -> None:
    """SIGTERM ends a run as Ctrl-C does, with exit code 143."""
    labels.hold("2")
    process = start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "1")
    labels.wait_for(2)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "stopping: 1 calls are under way" in process.stderr.readline()
    labels.release()
    assert process.wait(20) == 143
    counts = jobs("status", only_job(jobs), "--json").facts["counts"]
    assert (counts["succeeded"], counts["pending"]) == (2, 8)


@both_stores
def test_a_watch_follows_to_the_end(start_jobs: Start, jobs: Callable[..., Said], labels: Labels) -> None:
    """`watch` in another process sees the job end and says partial truthfully: exit code 1."""
    labels.fail("4")
    labels.hold("9")
    start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "1")
    labels.wait_for(9)
    watch = start_jobs("watch", only_job(jobs))
    assert watch.stdout is not None
    first = watch.stdout.readline()
    assert "running  8/10 (80.0 %)" in first
    assert "1 failed" in first
    labels.release()
    out, _ = watch.communicate(timeout=20)
    assert watch.returncode == 1
    assert "partially_failed: 9 of 10 succeeded, 1 failed" in out
    assert "line:5 (line 5) failed: LookupError: the service says 400" in out


@both_stores
def test_history_is_followed_as_it_happens(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels
) -> None:
    """`events --follow` in another process prints what is stored, then what comes, without a gap, to the end."""
    labels.hold("6")
    run = start_jobs("run", "orders.csv", "app:ship", "--mode", "auto", "--concurrency", "1")
    labels.wait_for(6)
    follow = start_jobs("events", only_job(jobs), "--follow", "--json")
    assert follow.stdout is not None
    told = [json.loads(follow.stdout.readline())]
    while told[-1]["positions"] != [4]:
        told.append(json.loads(follow.stdout.readline()))
    labels.release()
    told += map(json.loads, follow.stdout)
    assert (follow.wait(20), run.wait(20)) == (0, 0)
    assert [one["seq"] for one in told] == list(range(1, len(told) + 1))
    assert (told[-1]["kind"], told[-1]["state"]) == ("job", "succeeded")


def test_a_watch_on_a_terminal_draws_the_breaker(
    start_jobs: Start, jobs: Callable[..., Said], terminal: Callable[..., Terminal], labels: Labels
) -> None:
    """A breaker that opens in the running process is seen by a `watch` in another, on a terminal."""
    labels.fail("1", "2", status=503)
    start_jobs("run", "orders.csv", "app:guarded", "--mode", "auto", "--concurrency", "1")
    labels.wait_for(2)
    screen = terminal("watch", only_job(jobs))
    screen.expect("breaker carrier open")
    screen.expect("2 failed")
    screen.type(CTRL_C)
    assert screen.wait() == 130
    assert "no longer watching" in screen.said
    assert labels.calls == {"1": 1, "2": 1}


def test_what_cannot_be_written_back_is_a_dead_letter(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels, orders: Path
) -> None:
    """When the file changes meanwhile, rows succeed, yet the run ends with 1; mended, results can be written."""
    source = orders / "orders.csv"
    before = source.read_bytes()
    labels.hold(*ONCE)
    auto = ("--mode", "auto", "--concurrency", "10")
    run = start_jobs("run", "orders.csv", "app:ship", *auto, "--write-back", "tracking")
    labels.wait_for(10)
    source.write_bytes(before.replace(b"1,1.50", b"1,9.99"))
    labels.release()
    out, _ = run.communicate(timeout=30)
    assert (run.returncode, "succeeded: 10 of 10 succeeded" in out) == (1, True)
    job = only_job(jobs)
    letters = jobs("dead-letters", job, "--json")
    assert (1, [f"T-{n}" for n in range(1, 11)]) == (
        letters.code,
        sorted((one["result"]["tracking"] for one in letters.facts), key=lambda text: int(text[2:])),
    )
    source.write_bytes(before)
    assert jobs("dead-letters", job, "--write").code == 0
    assert source.read_bytes().count(b",T-") == 10
    assert jobs("status", job).code == 0


@pytest.mark.parametrize(
    ("store", "processes"), [("sqlite", "1"), ("sqlite", "2"), ("postgresql", "2")], indirect=["store"]
)
def test_a_worker_does_what_is_approved(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels, processes: str
) -> None:
    """A worker, of one process or several, does jobs that were approved elsewhere, each row once, and drains."""
    jobs("preview", "orders.csv", "app:ship")
    job = only_job(jobs)
    worker = start_jobs("worker", "--processes", processes, "--concurrency", "2", "--json")
    assert jobs("approve", job, "--yes").code == 0
    assert jobs("watch", job).code == 0
    assert labels.calls == ONCE
    worker.send_signal(signal.SIGTERM)
    out, err = worker.communicate(timeout=20)
    assert (worker.returncode, [line for line in err.splitlines() if "stopping" not in line]) == (0, [])
    told = [json.loads(line) for line in out.splitlines()]
    assert [job] == [one["job"]["id"] for one in told if "job" in one]


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("stuck", ["hang", "deaf"])
def test_a_worker_ends_though_a_call_does_not(
    start_jobs: Start, jobs: Callable[..., Said], stuck_orders: Path, stuck: str, processes: str
) -> None:
    """After drain and grace it says which rows are in doubt, and ends; they need review, the rest waits."""
    jobs("run", "orders.csv", f"stuck:{stuck}", "--rows", "1")
    job = only_job(jobs)
    worker = start_jobs("worker", "--processes", processes, "--concurrency", "2", *BRIEFLY)
    jobs("approve", job, "--yes")
    wait_for_calls(stuck_orders, 2)
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=30)

    counts = jobs("status", job, "--json").facts["counts"]
    assert (worker.returncode, counts["needs_review"], counts["pending"]) == (0, 2, 8)
    said = "gave up on calls that did not end in the grace of 0.3 s, though they may have been made: "
    assert f"{said}'line:2', 'line:3' of job {job}" in err


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_ends_though_a_handler_blocks_it(
    start_jobs: Start, jobs: Callable[..., Said], stuck_orders: Path, processes: str
) -> None:
    """An async handler that blocks its worker is left behind with its process; what it held is recovered."""
    jobs("run", "orders.csv", "stuck:block", "--rows", "1")
    job = only_job(jobs)
    worker = start_jobs("worker", "--processes", processes, "--concurrency", "1", *BRIEFLY)
    jobs("approve", job, "--yes")
    wait_for_calls(stuck_orders, 1)
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=30)

    assert worker.returncode == (143 if processes == "1" else 0)
    assert f"left, for calls do not end, and may have been made: 'line:2' of job {job}" in err
    (left,) = jobs("interrupted", "--json").facts
    assert (left["ambiguous"], left["left"]) == (1, 10)
    assert jobs("resume", job, "--no-run").code == 0
    assert [step["key"] for step in jobs("review", job, "--json").facts] == ["line:2"]


def test_a_run_ends_though_a_handler_blocks_it(start_jobs: Start, stuck_orders: Path) -> None:
    """The second signal ends a run in the end, also if an async handler keeps it from hearing."""
    run = start_jobs("run", "orders.csv", "stuck:block", "--mode", "auto", "--concurrency", "1")
    wait_for_calls(stuck_orders, 1)
    run.send_signal(signal.SIGTERM)
    assert run.stderr is not None
    assert "stopping: 1 calls are under way" in run.stderr.readline()
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 143
    assert "left, for calls do not end, and may have been made: 'line:2' of job" in err


def wait_for_calls(folder: Path, number: int) -> None:
    """Wait until so many handlers have begun."""
    ends = time.monotonic() + 20.0
    while len(list(folder.glob("begun-*"))) < number:
        assert time.monotonic() < ends, "they never began"
        time.sleep(0.01)


@both_stores
def test_a_fleet_replaces_a_worker_that_was_killed(
    start_jobs: Start, jobs: Callable[..., Said], labels: Labels
) -> None:
    """What a killed worker process held is taken up by the others; when their parent is killed, they end, too."""
    labels.hold("1")
    jobs("preview", "orders.csv", "app:careful")
    job = only_job(jobs)
    fleet = start_jobs("worker", "--processes", "2", "--concurrency", "1")
    jobs("approve", job, "--yes")
    labels.wait_for(1)
    events = map(json.loads, jobs("events", job, "--json").out.splitlines())
    (worker,) = {
        one["data"]["worker"] for one in events if (one["kind"], one["state"]) == ("step", "running")
    }
    os.kill(int(worker.split("-")[-2]), signal.SIGKILL)
    labels.release()
    assert jobs("watch", job).code == 0
    assert labels.calls == ONCE
    killed(fleet)


def test_a_run_of_a_worker_that_cannot_import_ends(start_jobs: Start) -> None:
    """A worker whose handler cannot be imported ends with 2 and says why, however many processes it would be."""
    worker = start_jobs("worker", "app:absent", "--processes", "2")
    _, err = worker.communicate(timeout=20)
    assert (worker.returncode, err) == (2, "error: app has no 'absent'\n")


def test_ids_of_jobs_are_completed(jobs: Callable[..., Said], start_jobs: Start) -> None:
    """A shell that completes a job's id is given those of the store."""
    jobs("preview", "orders.csv", "app:plain")
    words = {"COMP_WORDS": "holdfast jobs status 0", "COMP_CWORD": "3"}
    process = start_jobs(**words, _HOLDFAST_COMPLETE="complete_bash")
    out, _ = process.communicate(timeout=20)
    assert out.split() == [only_job(jobs)]
