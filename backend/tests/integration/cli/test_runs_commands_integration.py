"""`holdfast runs`: what each command prints and how it ends, with processes that are stopped and killed."""

import base64
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.tests.integration.cli.conftest import Said, both_stores
from backend.tests.integration.orchestration._github import TOKEN, GitHub
from backend.tests.integration.orchestration._programs import git, path, recipient
from backend.tests.integration.orchestration._yard import order, request, wait_until

Runs = Callable[..., Said]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def runs(store: str, shop: Path, run: Callable[..., Said]) -> Runs:
    """Give a function that runs `holdfast runs` here, in a folder with code."""
    (shop / "code").mkdir()
    (shop / "code" / "run.sh").write_text("echo ran\n", encoding="utf-8")
    return lambda *arguments: run("runs", *arguments)


@pytest.fixture
def start_runs(runs: Runs, start: Start) -> Start:
    """Give a function that starts `holdfast runs` as a process of its own."""
    return lambda *arguments: start("runs", *arguments)


def submit(runs: Runs, *orders: dict[str, Any], **settings: Any) -> str:
    """Submit a run; return its id."""
    Path("run.json").write_text(json.dumps(request(*orders, **settings)), encoding="utf-8")
    said = runs("submit", "run.json", "--json")
    assert (said.code, said.err) == (0, "")
    run: str = said.facts["run_id"]
    return run


def states(runs: Runs, run: str) -> dict[str, str]:
    """Return the state of each order."""
    return {one["name"]: one["state"] for one in runs("status", run, "--json").facts["orders"]}


def hanging(mark: str) -> str:
    """Return a command that notes its process, and hangs."""
    return f"echo $$ > {Path(mark).absolute()}; exec sleep 600"


def lives(mark: str) -> bool:
    """Return whether the process that a command noted is there; one that nobody has waited for is not."""
    try:
        pid = Path(mark).read_text(encoding="utf-8").strip()
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def begun(mark: str) -> Callable[[], bool]:
    """Return what says whether a command has noted its process."""
    return lambda: Path(mark).exists() and Path(mark).read_text(encoding="utf-8").endswith("\n")


@both_stores
def test_a_run_is_submitted_served_and_shown(runs: Runs) -> None:
    """The comment tells of it, each order is executed after those it waits for, its output is kept; all end with 0."""
    run = submit(runs, order("a", commands=["sh run.sh"]), order("b", "a"))
    served = runs("serve")
    assert (served.code, served.err) == (0, "")
    assert f"run {run}: succeeded: 2 of 2 orders succeeded" in served.out
    assert served.out.index(" a: succeeded") < served.out.index(" b: running")
    shown = runs("status", run)
    assert (shown.code, "ann:" in shown.out) == (0, True)
    assert states(runs, run) == {"a": "succeeded", "b": "succeeded"}
    assert runs("logs", run, "a").out == "ran\n"
    assert [one["run_id"] for one in runs("status", "--json").facts] == [run]
    [comment] = Path("holdfast-runs/comments").iterdir()
    assert "**: succeeded" in comment.read_text(encoding="utf-8")


def test_a_run_that_fails_can_be_done_again(runs: Runs) -> None:
    """`serve` and `status` end with 1 and say what failed; `retry` repeats that and what fell, and nothing else."""
    mended = Path("mended").absolute()
    run = submit(runs, order("a"), order("b", commands=[f"test -e {mended}"]), order("c", "a", "b"))
    assert runs("serve").code == 1
    shown = runs("status", run)
    assert shown.code == 1
    assert "command 1 ended with exit code 1" in shown.out
    assert f"holdfast runs retry {run}" in shown.out
    mended.touch()
    assert "is submitted" in (again := runs("retry", run, "--serve")).out
    assert again.code == 0
    new = runs("status", "--json").facts[0]["run_id"]
    assert states(runs, new) == {"b": "succeeded", "c": "succeeded"}
    assert runs("status", new, "--json").facts["retry_of"] == run
    refused = runs("retry", new)
    assert (refused.code, "there is nothing to rerun" in refused.err) == (2, True)


def test_what_is_refused_is_wrong_use(runs: Runs) -> None:
    """Every fault is told, the code is 2, and nothing is stored."""
    Path("run.json").write_text('{"orders": [], "user": "-", "colour": 1}', encoding="utf-8")
    said = runs("submit", "run.json")
    assert said.code == 2
    for fault in ("there are no orders", "'user' is '-'", "'label' is missing", "'colour' is unknown"):
        assert fault in said.err
    assert runs("status", "--json").facts == []
    assert runs("submit", "nowhere.json").code == 2
    Path("run.json").write_text(json.dumps({"httpMethod": "GET", "body": ""}), encoding="utf-8")
    assert "method GET is not allowed" in runs("submit", "run.json").err


def test_the_same_delivery_is_one_run(runs: Runs) -> None:
    """Known by `--delivery` or by the header of a webhook, whose body is base64."""
    body = base64.b64encode(json.dumps(request(order("a"))).encode()).decode()
    event = {
        "httpMethod": "POST",
        "headers": {"X-GitHub-Delivery": "1"},
        "isBase64Encoded": True,
        "body": body,
    }
    Path("event.json").write_text(json.dumps(event), encoding="utf-8")
    first, again = (runs("submit", "event.json", "--json").facts for _ in range(2))
    assert (first["run_id"], first["created"], again["created"]) == (again["run_id"], True, False)
    Path("plain").write_text(body, encoding="utf-8")
    named = [runs("submit", "plain", "--delivery", "2", "--json").facts["run_id"] for _ in range(2)]
    assert named[0] == named[1] != first["run_id"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "nope"), 2, "no run 'nope'"),
        (("logs", "{run}", "nope"), 2, "has no order 'nope'"),
        (("logs", "{run}", "a"), 6, "order a is pending: there is output when it has ended"),
        (("retry", "{run}"), 1, "wait until it has ended"),
        (("serve", "nope"), 2, "no run 'nope'"),
        (("cancel", "nope", "--yes"), 2, "no run 'nope'"),
    ],
)
def test_what_is_not_there_is_said(runs: Runs, arguments: tuple[str, ...], code: int, said: str) -> None:
    """Runs and orders that are not there, and output that is not there yet, each with its code."""
    run = submit(runs, order("a"))
    found = runs(*(one.format(run=run) for one in arguments))
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_a_run_that_has_not_begun_is_cancelled_at_once(runs: Runs) -> None:
    """Nothing is left to serve, and its orders never wrote anything."""
    run = submit(runs, order("a"))
    assert runs("cancel", run, "--yes", "--reason", "no").out == f"{run} is cancelled\n"
    assert states(runs, run) == {"a": "cancelled"}
    assert runs("serve", "--json").out == ""
    assert runs("logs", run, "a").code == 1
    assert runs("cancel", run, "--yes").code == 1


@both_stores
def test_another_process_cancels_what_runs(runs: Runs, start_runs: Start) -> None:
    """Whoever serves finds out, kills the order, and the run ends."""
    run = submit(runs, order("a", commands=[hanging("mark")], timeout=600))
    server = start_runs("serve", "--every", "100ms")
    wait_until(begun("mark"))
    assert runs("cancel", run, "--yes").code == 0
    out, _ = server.communicate(timeout=30)
    assert (server.returncode, f"run {run}: cancelled" in out) == (1, True)
    assert not lives("mark")


def test_a_run_that_is_cancelled_as_a_job_is_finished(
    runs: Runs, start_runs: Start, run: Callable[..., Said]
) -> None:
    """`jobs cancel` knows nothing of runs: whoever serves kills the order, or finishes what never began."""
    hangs = submit(runs, order("a", commands=[hanging("mark")], timeout=600), order("b", "a"))
    server = start_runs("serve", "--every", "100ms")
    wait_until(begun("mark"))
    assert run("jobs", "cancel", hangs, "--yes").code == 0
    out, _ = server.communicate(timeout=30)
    assert (server.returncode, f"run {hangs}: cancelled" in out) == (1, True)
    assert not lives("mark")

    waits = submit(runs, order("a"), order("b", "a"))
    assert run("jobs", "cancel", waits, "--yes").code == 0
    served = runs("serve")
    assert (served.code, f"run {waits}: cancelled" in served.out) == (1, True)
    assert [runs("status", one, "--json").facts["finished"] for one in (hangs, waits)] == [True, True]
    comments = [path.read_text(encoding="utf-8") for path in Path("holdfast-runs", "comments").iterdir()]
    assert [comment.count("**: cancelled") for comment in comments] == [1, 1]


def test_what_waits_for_an_order_that_is_skipped_runs(runs: Runs, run: Callable[..., Said]) -> None:
    """`jobs skip` decides about one order; the next `serve` does the rest, and the run succeeds."""
    graph = submit(runs, order("a", commands=["exit 3"]), order("b", "a"))
    assert run("jobs", "skip", graph, "a", "--yes").code == 0
    assert runs("serve").code == 0
    assert states(runs, graph) == {"a": "skipped", "b": "succeeded"}


def test_ctrl_c_lets_orders_end(runs: Runs, start_runs: Start) -> None:
    """What runs ends and is recorded, nothing more begins, the code is 130; the next `serve` goes on."""
    gate = Path("gate").absolute()
    waiting = f"echo $$ > {Path('mark').absolute()}; while ! test -e {gate}; do sleep 0.05; done; echo over"
    run = submit(runs, order("a", commands=[waiting], timeout=600), order("b", "a"))
    server = start_runs("serve")
    wait_until(begun("mark"))
    server.send_signal(signal.SIGINT)
    assert server.stdout is not None
    assert any("stopping: orders that run may end" in line for line in server.stdout)
    gate.touch()
    server.communicate(timeout=30)
    assert server.returncode == 130
    assert runs("logs", run, "a").out == "over\n"
    assert states(runs, run)["b"] in {"pending", "running"}
    assert runs("serve").code == 0
    assert states(runs, run) == {"a": "succeeded", "b": "succeeded"}


def test_who_is_told_twice_kills_orders(runs: Runs, start_runs: Start) -> None:
    """They fail and say so; the code is 143."""
    run = submit(runs, order("a", commands=[hanging("mark")], timeout=600))
    server = start_runs("serve")
    wait_until(begun("mark"))
    server.send_signal(signal.SIGTERM)
    assert server.stdout is not None
    assert any("stopping" in line for line in server.stdout)
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)
    assert (server.returncode, lives("mark")) == (143, False)
    runs("serve")
    assert "it was killed, as what ran it had to stop" in runs("status", run).out


@both_stores
def test_a_killed_process_leaves_no_order_behind(runs: Runs, start_runs: Start) -> None:
    """SIGKILL: its orders die with it; the next `serve` fails them, without waiting, and does what is left."""
    run = submit(
        runs,
        order("a", commands=[hanging("mark")], timeout=600),
        order("b", "a", commands=["true"]),
        order("c", commands=[hanging("other")], timeout=600, must_succeed=False),
        order("d", "c"),
    )
    server = start_runs("serve")
    wait_until(lambda: begun("mark")() and begun("other")())
    server.kill()
    server.wait()
    wait_until(lambda: not lives("mark") and not lives("other"))
    assert runs("serve").code == 1
    assert states(runs, run) == {"a": "failed", "b": "failed", "c": "failed", "d": "succeeded"}
    assert "the process that ran it died, perhaps in the middle of it" in runs("status", run).out


def test_a_person_decides_whether_an_order_is_repeated_whose_process_died(
    runs: Runs, start_runs: Start
) -> None:
    """It failed and the run has ended; nothing repeats it by itself, `retry` does, with what fell and nothing else."""
    log = Path("log").absolute()
    once = f"echo + >> {log}; test $(wc -l < {log}) = 2 || {{ {hanging('mark')}; }}"
    other = Path("other").absolute()
    run = submit(
        runs,
        order("before", commands=[f"echo + >> {other}"]),
        order("a", "before", commands=[once], timeout=600),
        order("b", "a"),
    )
    server = start_runs("serve")
    wait_until(begun("mark"))
    server.kill()
    server.wait()
    for _ in range(2):
        runs("serve")
    assert states(runs, run) == {"before": "succeeded", "a": "failed", "b": "failed"}
    assert log.read_text(encoding="utf-8") == "+\n"
    assert runs("retry", run, "a", "--serve").code == 0
    again = runs("status", "--json").facts[0]["run_id"]
    assert states(runs, again) == {"a": "succeeded", "b": "succeeded"}
    assert (log.read_text(encoding="utf-8"), other.read_text(encoding="utf-8")) == ("+\n+\n", "+\n")


@pytest.mark.parametrize("options", [(), ("--sops",)], ids=["age", "sops"])
def test_secrets_are_encrypted_and_read(
    runs: Runs, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a recipient when it is submitted, with an identity when it is served; each that is missing is named."""
    monkeypatch.setenv("PATH", path())
    for program in ("age-keygen", "sops" if options else "age"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    secret, to = "hush-hush-4711", recipient(tmp_path)
    one = order("a", commands=['test "${#TOKEN}" = 14; echo "it is $TOKEN"'], secrets={"TOKEN": secret})
    document = Path("run.json")
    document.write_text(json.dumps(request(one)), encoding="utf-8")
    refused = runs("submit", "run.json")
    assert (refused.code, "nothing here encrypts them" in refused.err) == (2, True)
    assert "--age-recipient" in refused.err
    assert runs("submit", "run.json", "--age-recipient", "age1wrong", *options).code == 2
    assert runs("status", "--json").facts == []

    run = runs("submit", "run.json", "--age-recipient", to, "--json", *options).facts["run_id"]
    document.unlink()
    assert runs("serve").code == 1
    assert "--age-identity" in runs("status", run).out.replace("\n", "")
    assert runs("retry", run, "--serve", "--age-identity", str(tmp_path / "key"), *options).code == 0
    again = runs("status", "--json").facts[0]["run_id"]
    assert runs("logs", again, "a").out == "it is ***\n"
    for one_file in tmp_path.rglob("*"):
        assert not one_file.is_file() or secret.encode() not in one_file.read_bytes(), one_file


@pytest.mark.parametrize("options", [(), ("--sops",)], ids=["age", "sops"])
def test_a_program_that_is_missing_is_named_by_the_command(
    runs: Runs, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how to get it, before anything is stored or begun."""
    Path("empty").mkdir()
    Path("key").touch()
    Path("run.json").write_text(json.dumps(request(order("a", secrets={"A": "b"}))), encoding="utf-8")
    monkeypatch.setenv("PATH", str(Path("empty").absolute()))
    program = "sops" if options else "age"
    for command in (("submit", "run.json", "--age-recipient", "age1x"), ("serve", "--age-identity", "key")):
        said = runs(*command, *options)
        assert (said.code, said.out) == (2, "")
        assert f"the program {program} is not installed; " in said.err
        assert "https://" in said.err
    assert not Path("holdfast-runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--sops"), "--sops needs --age-recipient to encrypt secrets"),
        (("serve", "--github-repository", "a/b"), "set the environment variable GITHUB_TOKEN"),
        (("serve", "--github-repository", "nothing"), "names no repository; give OWNER/NAME"),
    ],
)
def test_an_option_that_lacks_something_is_wrong_use(
    runs: Runs, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what."""
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    if "nothing" in arguments:
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    found = runs(*arguments)
    assert (found.code, said in found.err) == (2, True)


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_a_key_file_that_is_not_there_is_wrong_use(runs: Runs) -> None:
    """Before an order fails for it."""
    found = runs("serve", "--age-identity", "nowhere")
    assert (found.code, "there is no key file nowhere" in found.err) == (2, True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_code_comes_from_a_repository(runs: Runs) -> None:
    """As it was committed, at a tag or a branch; a location without one is refused."""
    app = Path("repositories/app").absolute()
    app.mkdir(parents=True)
    git(app, "init", "-q", "-b", "main")
    for text in ("one", "two"):
        (app / "run.sh").write_text(f"echo {text}\n", encoding="utf-8")
        git(app, "add", ".")
        git(app, "commit", "-qm", text)
        git(app, "tag", text)
    (app / "run.sh").write_text("echo three\n", encoding="utf-8")
    orders = [order(name, commands=["sh run.sh"], code=f"app@{name}") for name in ("one", "main")]
    Path("run.json").write_text(json.dumps(request(*orders)), encoding="utf-8")
    said = runs("submit", "run.json", "--git", "--code", "repositories", "--serve")
    assert said.code == 0
    run = runs("status", "--json").facts[0]["run_id"]
    assert [runs("logs", run, name).out for name in ("one", "main")] == ["one\n", "two\n"]

    Path("run.json").write_text(json.dumps(request(order("a"))), encoding="utf-8")
    refused = runs("submit", "run.json", "--git", "--code", "repositories")
    assert (refused.code, "it names no commit; give PATH@REF" in refused.err) == (2, True)


def test_a_pull_request_is_told(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one comment, by each command that knows the repository; its token is nowhere but in the environment."""
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    place = "/repos/ann/shop/issues/7/comments"
    with GitHub() as hub:
        options = ("--github-repository", "ann/shop", "--github-url", hub.url, "--comment-file", "told.md")
        Path("run.json").write_text(json.dumps(request(order("a"), pull_request=7)), encoding="utf-8")
        first = runs("submit", "run.json", "--json", *options).facts["run_id"]
        assert "**: pending" in hub.bodies(place)[0]
        assert runs("serve", *options).code == 0
        assert ["**: succeeded" in one for one in hub.bodies(place)] == [True]
        second = runs("submit", "run.json", "--json", *options).facts["run_id"]
        assert runs("cancel", second, "--yes", *options).code == 0
        assert ["**: succeeded" in one for one in hub.bodies(place)] == [True, False]
        assert hub.bodies(place)[1] == Path("told.md").read_text(encoding="utf-8")
        assert "**: cancelled" in hub.bodies(place)[1]
    assert first != second
    for one in Path().rglob("*"):
        assert not one.is_file() or TOKEN.encode() not in one.read_bytes(), one
