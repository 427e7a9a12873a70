"""`holdfast jobs`: what each command prints, for people and for programs, and how it ends."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.tests.integration.cli._labels import Labels
from backend.tests.integration.cli.conftest import Said, both_stores
from holdfast.infrastructure.store.sql import open_store
from holdfast.infrastructure.store.state import WorkerRecord

Jobs = Callable[..., Said]
ONCE = {str(number): 1 for number in range(1, 11)}
AUTO = ("--mode", "auto")


def ids(jobs: Jobs) -> list[str]:
    """Return the ids of the jobs there are, newest first."""
    return [job["id"] for job in jobs("list", "--json").facts]


def exported(jobs: Jobs, job: str) -> list[dict[str, str]]:
    """Return what became of every row of a job."""
    jobs("export", job, "rows.csv")
    with Path("rows.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@both_stores
def test_a_run_does_each_row_once(jobs: Jobs, labels: Labels) -> None:
    """`run --mode auto` calls the handler once for each row and ends with 0."""
    said = jobs("run", "orders.csv", "app:ship", *AUTO)
    assert (said.code, said.err) == (0, "")
    assert "orders.csv: succeeded: 10 of 10 succeeded" in said.out
    assert labels.calls == ONCE


def test_a_run_gives_json(jobs: Jobs) -> None:
    """With `--json` a run prints nothing but one object: how far the job is."""
    facts = jobs("run", "orders.csv", "app:plain", *AUTO, "--json").facts
    assert (
        facts["state"],
        facts["succeeded"],
        facts["percent"],
        facts["counts"]["succeeded"],
    ) == ("succeeded", True, 100.0, 10)


def test_a_plain_function_will_do(jobs: Jobs) -> None:
    """A function without decorator is a handler; its job bears the name by which it was given."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    assert jobs("list", "--json").facts[0]["handler"] == "app:plain"


def test_results_that_cannot_be_stored_are_told(jobs: Jobs, orders: Path) -> None:
    """A handler whose results cannot be stored is told of at the end of the run and by `status`; its rows are done."""
    (orders / "app.py").write_text("def odd(row):\n    return {row['id'], 1} if row['id'] == '3' else None\n")
    said = jobs("run", "orders.csv", "app:odd", *AUTO)
    assert (said.code, "10 of 10 succeeded" in said.out) == (0, True)
    lost = "  1 of the first 10 rows that succeeded lost their results: result not stored: result: "
    assert lost in said.err
    assert "(set) would not come back as it is; give None, bool, int" in said.err
    assert lost in jobs("status", ids(jobs)[0]).out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("absent:ship", "there is no module 'absent' here"),
        ("app:shp", "app has no 'shp'; did you mean 'ship'?"),
        ("app:number", "app:number is of type int, no handler: name a function of one row"),
        ("app:Klass", "app:Klass is a class, no handler: name a function of one row"),
        ("app:three", "take (payload) or (payload, call), no more"),
        ("app", "'app' is no target: write module:name"),
        ("broken:ship", "broken cannot be imported: ZeroDivisionError: division by zero (broken.py, line 2)"),
        ("quits:ship", "quits cannot be imported: SystemExit: 3 (quits.py, line 1)"),
        ("needs:ship", "needs needs nowhere, which is not installed"),
        ("wrong:ship", "wrong cannot be imported: SyntaxError: invalid syntax (wrong.py, line 1)"),
    ],
)
def test_a_wrong_handler_is_wrong_use(jobs: Jobs, orders: Path, target: str, said: str) -> None:
    """A handler that is not there, is none, or cannot be imported ends with 2 and says why; nothing is stored."""
    (orders / "broken.py").write_text("def ship(row): pass\n1 / 0\n", encoding="utf-8")
    (orders / "quits.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    (orders / "needs.py").write_text("import nowhere\n", encoding="utf-8")
    (orders / "wrong.py").write_text("def def\n", encoding="utf-8")
    found = jobs("run", "orders.csv", target)
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert not (orders / "holdfast.db").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "absent.csv", "app:ship"], "absent.csv is not there"),
        (["run", ".", "app:ship"], ". is no file"),
        (["preview", "absent.csv", "app:ship"], "absent.csv is not there"),
        (["run", "orders.csv", "app:ship", "--mode", "hasty"], "--mode is 'hasty': give confirm or auto"),
        (["run", "orders.csv", "app:ship", "--rate", "fast"], "'fast' is no rate"),
        (["run", "orders.csv", "app:ship", "--rate", "0/s"], "'0/s' is no rate"),
        (["run", "orders.csv", "app:ship", "--step-timeout", "long"], "'long' is no duration"),
        (["run", "orders.csv", "app:ship", "--on-error", "cry"], "--on-error is 'cry'"),
        (["run", "orders.csv", "app:ship", "--on-error", "-5%"], "--on-error is '-5%': give continue"),
        (["run", "orders.csv", "app:ship", "--on-error", "500%"], "--on-error is '500%': give continue"),
        (["run", "orders.csv", "app:ship", "--on-error", "0"], "--on-error is '0': give continue"),
        (["run", "orders.csv", "app:ship", "--write-back", "=x"], "--write-back is '=x'"),
        (["run", "orders.csv", "app:ship", "--record", "some"], "--record is 'some'"),
        (["run", "orders.csv", "app:ship", "--store", "orders"], "'orders' names no store"),
        (["run", "orders.csv", "app:ship", "--tenant", "No One"], "tenant 'No One'"),
        (["run", "orders.csv", "app:ship", "--tenant", "acme"], "there are no jobs of tenant 'acme'"),
        (["list"], "there are no jobs of tenant 'default' in sqlite:///holdfast.db"),
        (["worker", "app:absent"], "app has no 'absent'"),
    ],
)
def test_wrong_use_ends_with_2(jobs: Jobs, arguments: list[str], said: str) -> None:
    """What cannot be done as it is asked for ends with 2, says why, and prints nothing on standard output."""
    found = jobs(*arguments)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["watch"],
        ["pause"],
        ["resume"],
        ["cancel", "--yes"],
        ["skip", "--yes"],
        ["retry-failed"],
        ["restart"],
        ["review"],
        ["events"],
        ["export"],
        ["dead-letters"],
        ["approve"],
        ["preview"],
    ],
    ids=lambda command: str(command[0]),
)
def test_an_unknown_job_is_an_error(jobs: Jobs, command: list[str]) -> None:
    """Every command about a job ends with 2 for one that is not there, and says how to find those that are."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    name, *options = command
    more = {"export": ["out.csv"], "skip": ["line:1"]}.get(name, [])
    said = jobs(name, "nobody", *more, *options)
    assert (said.code, said.out) == (2, "")
    assert "no job 'nobody' in tenant 'default'" in said.err


def test_a_file_of_nothing_has_a_fault(jobs: Jobs, orders: Path) -> None:
    """A file without even a header ends with 1, as other faults of a file do; nothing is stored."""
    (orders / "empty.csv").touch()
    said = jobs("run", "empty.csv", "app:ship", *AUTO)
    assert (said.code, said.out) == (1, "")
    assert "empty.csv: is empty: not even a header is there; write a first line" in said.err
    assert jobs("list", "--json").out.strip() == "[]"


def test_a_file_that_cannot_be_read_is_wrong_use(jobs: Jobs, orders: Path) -> None:
    """Also when that shows at the approval, before which the rows are compared: the path, and what to do."""
    previewed = json.loads(jobs("preview", "orders.csv", "app:ship", "--json").out)
    (orders / "orders.csv").unlink()
    (orders / "orders.csv").mkdir()
    said = jobs("approve", previewed["job"], previewed["digest"])
    assert (said.code, said.out) == (2, "")
    assert f"{orders / 'orders.csv'}: is a folder; name a file in it" in said.err
    assert json.loads(jobs("status", previewed["job"], "--json").out)["state"] == "previewed"


def test_faults_of_rows_are_all_told(jobs: Jobs, orders: Path, labels: Labels) -> None:
    """A file with faulty rows ends with 1, names them all, and calls nobody."""
    (orders / "bad.csv").write_text("id,price\n1,1.00\n2\n1,3.00\n", encoding="utf-8")
    said = jobs("run", "bad.csv", "app:ship", "--key", "id", *AUTO)
    assert (said.code, said.out, labels.calls) == (1, "", {})
    assert "line 3" in said.err
    assert ids(jobs) == []


@both_stores
def test_partial_is_said_truthfully(jobs: Jobs, labels: Labels) -> None:
    """When some rows fail, `run`, `watch` and `status` end with 1, name them, and say what can be done."""
    labels.fail("3", "7")
    run = jobs("run", "orders.csv", "app:ship", *AUTO)
    (job,) = ids(jobs)
    for said in (run, jobs("watch", job), jobs("status", job)):
        assert said.code == 1
        assert "partially_failed: 8 of 10 succeeded, 2 failed" in said.out
        assert "line:4 (line 4) failed: LookupError: the service says 400" in said.out
        assert f"holdfast jobs retry-failed {job}" in said.out
    assert labels.calls == ONCE


@both_stores
def test_what_failed_is_done_again(jobs: Jobs, labels: Labels) -> None:
    """`retry-failed` calls for the rows that failed, no others, under the keys of the first job."""
    labels.fail("3", "7")
    jobs("run", "orders.csv", "app:careful", *AUTO)
    labels.mend()
    (job,) = ids(jobs)
    assert jobs("retry-failed", job).code == 0
    assert labels.calls == {**ONCE, "3": 2, "7": 2}
    assert labels.keys == ONCE
    new, _ = ids(jobs)
    assert jobs("list", "--json").facts[0]["retry_of"] == job
    assert jobs("status", new, "--json").facts["counts"]["total"] == 2


@both_stores
def test_the_first_error_halts(jobs: Jobs, labels: Labels) -> None:
    """With `--on-error fail-fast` the first failure ends it; `retry-failed --pending` does all that is left."""
    labels.fail("3")
    said = jobs("run", "orders.csv", "app:ship", *AUTO, "--on-error", "fail-fast")
    assert said.code == 1
    assert "2 of 10 succeeded, 1 failed, 7 left" in said.out
    assert labels.calls == {"1": 1, "2": 1, "3": 1}
    labels.mend()
    assert jobs("retry-failed", ids(jobs)[0], "--pending").code == 0
    assert labels.calls == {**ONCE, "3": 2}


def test_a_share_of_failures_halts(jobs: Jobs, labels: Labels) -> None:
    """`--on-error 20%` bears two failures of ten, and not three."""
    labels.fail("1", "2", "3")
    jobs("run", "orders.csv", "app:ship", *AUTO, "--on-error", "20%", "--concurrency", "1")
    assert labels.calls == {"1": 1, "2": 1, "3": 1}


def test_a_rate_is_kept(jobs: Jobs) -> None:
    """`--rate 20/s` lets ten rows take nine twentieths of a second at least."""
    facts = jobs("run", "orders.csv", "app:plain", *AUTO, "--rate", "20/s", "--json").facts
    assert facts["elapsed"] >= 0.44


@both_stores
def test_results_are_written_back(jobs: Jobs, orders: Path) -> None:
    """`--write-back tracking=tracking` fills that column of the file, and leaves the others as they are."""
    assert jobs("run", "orders.csv", "app:ship", *AUTO, "--write-back", "tracking=tracking").code == 0
    lines = (orders / "orders.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["id,price,tracking", *(f"{n},{n}.50,T-{n}" for n in range(1, 11))]


@both_stores
def test_confirm_mode_shows_what_it_would_cost(jobs: Jobs, labels: Labels) -> None:
    """Without a terminal `run` ends with 5; as JSON it gives estimate, digest and job."""
    said = jobs("run", "orders.csv", "app:ship", "--rows", "4", "--json")
    assert (said.code, labels.calls) == (5, {})
    facts = said.facts
    assert (
        facts["state"],
        facts["total"],
        facts["estimate"],
        facts["low"],
        facts["high"],
    ) == ("previewed", 10, "30.00", "21.00", "39.00")
    assert (ids(jobs), False) == ([facts["job"]], facts["exact"])


def test_yes_approves(jobs: Jobs, labels: Labels) -> None:
    """`run --yes` shows the estimate and executes."""
    said = jobs("run", "orders.csv", "app:ship", "--yes")
    assert (said.code, labels.calls) == (0, ONCE)
    assert "Estimate: 60.00, every row quoted" in said.out


@both_stores
def test_a_digest_approves_the_job_that_waits(jobs: Jobs, labels: Labels) -> None:
    """`run --digest` executes the very job that was previewed, and makes no second one."""
    facts = jobs("run", "orders.csv", "app:ship", "--json").facts
    assert jobs("run", "orders.csv", "app:ship", "--digest", facts["digest"]).code == 0
    assert (ids(jobs), labels.calls) == ([facts["job"]], ONCE)


def test_a_digest_of_other_rows_is_refused(jobs: Jobs, orders: Path, labels: Labels) -> None:
    """When the file has other rows than the digest, `run --digest` ends with 1, and calls nobody."""
    said = jobs("run", "orders.csv", "app:ship", "--digest", "0" * 64)
    assert (said.code, labels.calls) == (1, {})
    assert "the rows are not those of the digest" in said.err
    assert [job["state"] for job in jobs("list", "--json").facts] == ["cancelled"]


@both_stores
def test_approval_needs_the_digest(jobs: Jobs, labels: Labels) -> None:
    """Without a terminal `approve` wants the digest (5), refuses another (1), and takes the right one (0)."""
    facts = jobs("preview", "orders.csv", "app:ship", "--json").facts
    job = facts["job"]
    asked = jobs("approve", job)
    assert (asked.code, facts["digest"] in asked.err) == (5, True)
    assert jobs("approve", job, "0" * 64).code == 1
    assert jobs("resume", job).code == 5
    assert labels.calls == {}
    assert jobs("approve", job, facts["digest"], "--run").code == 0
    assert labels.calls == ONCE


def test_a_job_is_previewed_again(jobs: Jobs, labels: Labels) -> None:
    """`preview JOB` quotes the rows of a job that waits again."""
    job = jobs("preview", "orders.csv", "app:ship", "--json").facts["job"]
    said = jobs("preview", job, "--rows", "2")
    assert (said.code, labels.calls) == (0, {})
    assert "Estimate: 20.00, between 16.00 and 24.00; 2 rows quoted" in said.out


def test_a_handler_without_estimate_says_so(jobs: Jobs) -> None:
    """Where the handler cannot quote, the preview says that there is no estimate."""
    assert "Estimate: none: app:plain has no estimate" in jobs("preview", "orders.csv", "app:plain").out


def test_quotes_that_failed_are_named(jobs: Jobs, orders: Path) -> None:
    """Rows without a quote are named with their line and error, and the estimate is of the others."""
    (orders / "odd.csv").write_text("id,price\n1,1.00\n2,dear\n3,3.00\n", encoding="utf-8")
    said = jobs("preview", "odd.csv", "app:ship")
    assert "Estimate: 6.00, between 5.00 and 7.00; 2 rows quoted" in said.out
    assert "no quote for line:3 (line 3): InvalidOperation" in said.out


@both_stores
def test_jobs_are_listed_by_state(jobs: Jobs) -> None:
    """`list --state` lists jobs in these states, newest first, and refuses a state that there is not."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    jobs("preview", "orders.csv", "app:plain")
    states = [job["state"] for job in jobs("list", "--json").facts]
    assert states == ["previewed", "succeeded"]
    assert len(jobs("list", "--state", "succeeded", "--json").facts) == 1
    assert re.search(r"orders\.csv +succeeded +100\.0 % +10", jobs("list").out)
    assert "--state is 'done': give one of pending, previewed" in jobs("list", "--state", "done").err


@both_stores
def test_a_job_is_paused_and_resumed(jobs: Jobs, labels: Labels) -> None:
    """A paused job is not begun; `watch` says paused; `resume` does it."""
    job = jobs("preview", "orders.csv", "app:ship", "--json").facts["job"]
    jobs("approve", job, "--yes")
    assert "is paused" in jobs("pause", job, "--reason", "lunch").out
    assert "paused – lunch: 0 of 10 succeeded, 10 left" in jobs("status", job).out
    assert labels.calls == {}
    again = jobs("run", "orders.csv", "app:ship", *AUTO)
    assert (again.code, f"holdfast jobs resume {job}" in again.err) == (5, True)
    assert jobs("resume", job).code == 0
    assert labels.calls == ONCE


@both_stores
def test_a_job_is_cancelled(jobs: Jobs, labels: Labels) -> None:
    """`cancel --yes` ends a job for good: `watch` ends with 1, `resume` is refused with 1."""
    job = jobs("preview", "orders.csv", "app:ship", "--json").facts["job"]
    assert jobs("cancel", job, "--yes", "--reason", "wrong file", "--json").facts["state"] == "cancelled"
    watch = jobs("watch", job)
    assert (watch.code, "cancelled – wrong file: 0 of 10 succeeded, 10 cancelled" in watch.out) == (1, True)
    assert (jobs("resume", job).code, labels.calls) == (1, {})


@both_stores
def test_rows_are_skipped(jobs: Jobs, labels: Labels) -> None:
    """`skip --yes` takes rows out of a job, all or none; the rest is done, and it succeeds."""
    job = jobs("preview", "orders.csv", "app:ship", "--json").facts["job"]
    keys = [row["key"] for row in exported(jobs, job)]
    refused = jobs("skip", job, keys[1], "nobody", "--yes")
    assert (refused.code, f"no step 'nobody' of job {job} in" in refused.err) == (2, True)
    assert refused.err.endswith("list what there is to see the ids: holdfast jobs export JOB FILE\n")
    facts = jobs("skip", job, keys[1], keys[4], "--yes", "--reason", "sold out", "--json").facts
    assert (facts["counts"]["skipped"], facts["counts"]["pending"]) == (2, 8)
    assert jobs("skip", job, keys[7], "--yes").out == (
        f"{keys[7]} of {job} skipped; it is previewed: 0 of 10 succeeded, 3 skipped, 7 left\n"
    )
    again = jobs("skip", job, keys[0], keys[1], "--yes")
    assert (again.code, f"step '{keys[1]}'" in again.err) == (1, True)
    jobs("approve", job, "--yes")
    assert jobs("resume", job).code == jobs("status", job).code == 0
    assert len(labels.calls) == 7
    states = {row["key"]: (row["state"], row["error"]) for row in exported(jobs, job)}
    assert states[keys[4]] == ("skipped", "sold out")
    ended = jobs("skip", job, keys[0], "--yes")
    assert (ended.code, "is succeeded: it cannot become skipped" in ended.err) == (1, True)


def test_skipping_asks(jobs: Jobs, jobs_process: Jobs) -> None:
    """Without `--yes`, and with nobody to answer, nothing is skipped."""
    job = jobs("preview", "orders.csv", "app:ship", "--json").facts["job"]
    asked = jobs_process("skip", job, *(row["key"] for row in exported(jobs, job)[:2]))
    assert (asked.code, f"Skip 2 rows of job {job} for good?" in asked.err) == (1, True)
    assert {row["state"] for row in exported(jobs, job)} == {"pending"}


@both_stores
def test_a_restart_says_how_many_calls_repeat(jobs: Jobs, labels: Labels) -> None:
    """`restart` wants the number of calls that would repeat (5); with it, all rows are called again, as a new job."""
    jobs("run", "orders.csv", "app:ship", *AUTO)
    (job,) = ids(jobs)
    asked = jobs("restart", job)
    assert (asked.code, labels.calls) == (5, ONCE)
    assert f"10 calls of job {job} were made, or may have been" in asked.err
    assert "--confirm 10" in asked.err
    assert jobs("restart", job, "--confirm", "10").code == 0
    assert labels.calls == labels.keys == dict.fromkeys(ONCE, 2)


def test_a_restart_without_calls_asks_nobody(jobs: Jobs, labels: Labels) -> None:
    """When no call was made, `restart` just begins."""
    job = jobs("preview", "orders.csv", "app:ship", "--json").facts["job"]
    jobs("approve", job, "--yes")
    jobs("cancel", job, "--yes")
    assert (jobs("restart", job).code, labels.calls) == (0, ONCE)


def test_work_is_left_to_workers(jobs: Jobs, labels: Labels) -> None:
    """With `--no-run`, `resume`, `retry-failed` and `restart` call nobody here."""
    labels.fail("1")
    jobs("run", "orders.csv", "app:ship", *AUTO)
    (job,) = ids(jobs)
    assert jobs("retry-failed", job, "--no-run").code == 0
    assert jobs("restart", job, "--yes", "--no-run").code == 0
    assert jobs("resume", ids(jobs)[0], "--no-run").code == 0
    assert labels.calls == ONCE


@both_stores
def test_history_is_printed(jobs: Jobs) -> None:
    """`events` prints a line for each event from a number on, without gaps; with `--json` an object a line."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    (job,) = ids(jobs)
    events = [json.loads(line) for line in jobs("events", job, "--json", "--follow").out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[-1]["kind"], events[-1]["state"]) == ("job", "succeeded")
    rest = jobs("events", job, "--after", str(len(events) - 1)).out.splitlines()
    assert len(rest) == 1
    assert re.fullmatch(r" +\d+  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  job succeeded", rest[0])


@both_stores
def test_results_are_exported(jobs: Jobs, orders: Path) -> None:
    """`export` writes every row with its result to a .csv or .jsonl file, and refuses other kinds with 2."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    (job,) = ids(jobs)
    assert jobs("export", job, "out.jsonl", "--json").facts == {"file": "out.jsonl", "rows": 10}
    rows = [json.loads(line) for line in (orders / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["result"] for row in rows] == list(ONCE)
    assert jobs("export", job, "out.csv").out == "out.csv: 10 rows\n"
    assert jobs("export", job, "out.txt").code == 2
    assert jobs("export", job, "absent/out.csv").code == 2


@both_stores
def test_a_tenants_calls_are_bounded(jobs: Jobs, orders: Path) -> None:
    """`concurrency` bounds what is under way of all jobs, shows the bound, and lifts it; else it says what it takes."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    assert jobs("concurrency").out == "any number of calls at once of tenant default\n"
    assert jobs("concurrency", "16").out == "at most 16 calls at once of tenant default\n"
    assert jobs("concurrency", "--json").facts == {"tenant": "default", "concurrency": 16}
    refused = jobs("concurrency", "many")
    assert (refused.code, "'many'" in refused.err) == (2, True)
    assert jobs("concurrency", "0").code == 2
    assert jobs("concurrency", "none", "--json").facts == {"tenant": "default", "concurrency": None}


def test_old_jobs_are_archived(jobs: Jobs, orders: Path) -> None:
    """`archive` moves jobs that ended long enough ago to a file each, and out of the store."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    (job,) = ids(jobs)
    assert jobs("archive", "old").out == "0 jobs moved to old\n"
    assert jobs("archive", "old", "--older-than", "0s", "--json").facts == {"folder": "old", "jobs": [job]}
    assert ids(jobs) == []
    assert (orders / "old" / f"{job}.jsonl").stat().st_size > 0


@both_stores
def test_nothing_is_wanting(jobs: Jobs) -> None:
    """Where nothing was interrupted or has to be decided, `interrupted`, `review` and `dead-letters` end with 0."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    (job,) = ids(jobs)
    assert [jobs(*one).code for one in (["interrupted"], ["review"], ["dead-letters", job])] == [0, 0, 0]
    assert [jobs(*one, "--json").facts for one in (["interrupted"], ["review"])] == [[], []]


def test_a_write_back_that_another_does_is_said_so(jobs: Jobs, orders: Path, labels: Labels) -> None:
    """While a worker writes the results back, `dead-letters --write` ends with 1 and says which."""
    jobs("run", "orders.csv", "app:ship", "--write-back", "tracking", *AUTO)
    (job,) = ids(jobs)
    with open_store(f"sqlite:///{orders / 'holdfast.db'}") as store:
        store.register(WorkerRecord(id="other", host="yard", pid=7, born="", expires_at=0.0), 60.0)
        store.acquire(f"write-back of {job}", "other", 60.0)
        said = jobs("dead-letters", job, "--write")
    assert (said.code, said.out) == (1, "")
    assert f"results of job '{job}': worker 'other', process 7 on yard, writes them back now" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["line:2"], "say what became of 'line:2': succeeded, failed, again"),
        (["line:2", "perhaps"], "'perhaps' is no decision"),
        (["line:2", "succeeded", "--result", "{"], "--result is no JSON"),
    ],
)
def test_a_decision_has_to_be_one(jobs: Jobs, arguments: list[str], said: str) -> None:
    """`review` refuses what is no decision with 2."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    found = jobs("review", ids(jobs)[0], *arguments)
    assert (found.code, said in found.err) == (2, True)


def test_a_row_that_needs_no_review_cannot_be_decided(jobs: Jobs) -> None:
    """`review` of a row that has ended changes nothing and ends with 1."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    assert jobs("review", ids(jobs)[0], "line:2", "failed").code == 1


@both_stores
def test_tenants_do_not_see_each_other(jobs: Jobs, orders: Path) -> None:
    """A tenant is created on demand, in a file or schema of its own; its jobs are nobody else's."""
    acme = ("--tenant", "acme")
    assert jobs("run", "orders.csv", "app:plain", *AUTO, *acme).code == 2
    assert jobs("run", "orders.csv", "app:plain", *AUTO, *acme, "--create").code == 0
    (job,) = [one["id"] for one in jobs("list", *acme, "--json").facts]
    jobs("run", "orders.csv", "app:plain", *AUTO)
    assert job not in ids(jobs)
    assert jobs("status", job).code == 2
    assert jobs("status", job, *acme).code == 0


def test_a_tenant_is_a_file_beside_the_first(jobs: Jobs, orders: Path) -> None:
    """In SQLite a tenant's jobs are in a file that bears its name; nothing but `run --create` makes one."""
    jobs("run", "orders.csv", "app:plain", *AUTO)
    for command in (["list"], ["worker"], ["run", "orders.csv", "app:plain"]):
        said = jobs(*command, "--tenant", "acme")
        assert (said.code, "`holdfast jobs run --create` creates one" in said.err) == (2, True)
    jobs("run", "orders.csv", "app:plain", *AUTO, "--tenant", "acme", "--create")
    assert sorted(path.name for path in orders.glob("holdfast*.db")) == ["holdfast.acme.db", "holdfast.db"]


def test_the_environment_names_the_store(jobs: Jobs, orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`HOLDFAST_STORE` says where jobs are kept when `--store` does not."""
    monkeypatch.setenv("HOLDFAST_STORE", "sqlite:///elsewhere.db")
    assert jobs("run", "orders.csv", "app:plain", *AUTO).code == 0
    assert (orders / "elsewhere.db").exists()
    assert not (orders / "holdfast.db").exists()
    assert jobs("list", "--store", "sqlite:///holdfast.db").code == 2


def test_a_store_that_is_none_is_unreachable(jobs: Jobs, orders: Path) -> None:
    """A store that cannot be opened ends with 3 and says why."""
    (orders / "holdfast.db").write_text(
        "this is no database, and long enough to be seen as none", encoding="utf-8"
    )
    said = jobs("list")
    assert (said.code, said.out) == (3, "")
    assert "holdfast.db" in said.err


def test_every_command_helps(jobs: Jobs) -> None:
    """Every command is listed with a sentence that fits its line, and takes `--help` and `--json`."""
    table = jobs("--help").out.partition("Commands:")[2]
    assert "..." not in table
    listed = re.findall(r"^ +([a-z-]+)  ", table, re.MULTILINE)
    assert len(listed) == 20
    for name in listed:
        said = jobs(name, "--help")
        assert (said.code, "--json" in said.out) == (0, True)
