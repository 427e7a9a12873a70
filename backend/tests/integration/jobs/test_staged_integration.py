"""`make test-staged`: what runs the stages stops where one fails, tells the truth in its table, and clears up."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from backend.tests._run import RUN, database_name
from backend.tests.integration.cli._terminal import CTRL_C, Terminal
from backend.tests.integration.jobs._stages import Ran, command, environment, run, stage
from backend.tests.staged import GRACE, ROOT, STAGES, Stage

GOOD = "def test_one(): pass\ndef test_two(): pass"
BAD = "def test_one(): pass\ndef test_two(): assert 1 == 2"
NEVER = "from pathlib import Path\ndef test_one(): Path('ran').touch()"
ABSENT = (
    "import pytest\n@pytest.mark.parametrize('n', range(3))\ndef test_one(n): pytest.skip('no kelp here')"
)
WAITS = """
import subprocess, time
from pathlib import Path
import pytest

@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path("pid").write_text(str(process.pid))
    yield
    Path("tidied").touch()

def test_one(child):
    print("begun", flush=True)
    time.sleep(60)
"""
COUNTS = """
import signal, time
from pathlib import Path

told = []
signal.signal(signal.SIGINT, lambda *_: told.append(time.monotonic()))
print("begun", flush=True)
while not told or time.monotonic() < told[0] + 1:
    time.sleep(0.01)
Path("told").write_text(str(len(told)))
"""
STUBBORN = """
import os, signal, time

def test_one():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("begun", flush=True)
    time.sleep(60)
"""


def ended(pid: int) -> bool:
    """Return whether a process has ended, though its parent may not have heard of it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def begun(*stages: Stage, root: Path) -> "subprocess.Popen[str]":
    """Start stages, and wait until a test has begun."""
    process = subprocess.Popen(
        command(stages, root), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "begun" in line:
            return process
    raise AssertionError("it ended before a test had begun")


def rest(process: "subprocess.Popen[str]") -> Ran:
    """Wait for the end."""
    said, _ = process.communicate(timeout=60)
    return Ran(process.returncode, said)


def test_stages_run_in_order(tmp_path: Path) -> None:
    """When all pass the exit code is 0, and the table has each with its result, its seconds and its tests."""
    slow = stage(tmp_path, "slow", "import time\ndef test_one(): time.sleep(0.3)")
    ran = run(stage(tmp_path, "good", GOOD), slow, root=tmp_path)

    assert (ran.code, ran.verdict) == (0, "No stage failed")
    assert ran.table == [("good", "passed", "2 passed"), ("slow", "passed", "1 passed")]
    assert ran.said.index("== good") < ran.said.index("== slow")
    assert all(re.fullmatch(r"\d+\.\d", took) for took in ran.seconds)
    assert 0.3 <= float(ran.seconds[1]) < 30


def test_the_first_stage_that_fails_is_the_last_that_runs(tmp_path: Path) -> None:
    """It is said which one failed and which were not run; those did nothing; the exit code is 1."""
    stages = [
        stage(tmp_path, name, text) for name, text in {"good": GOOD, "bad": BAD, "never": NEVER}.items()
    ]
    ran = run(*stages, stages[0], root=tmp_path)

    assert ran.code == 1
    assert ran.table == [
        ("good", "passed", "2 passed"),
        ("bad", "failed", "1 failed, 1 passed"),
        ("never", "not run", ""),
        ("good", "not run", ""),
    ]
    assert ran.seconds[2:] == ["–", "–"]
    assert ran.verdict == "Stopped at bad because it failed; not run: never, good"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "options", "what"),
    [
        ("def not_a_test(): pass", (), "no test was found"),
        (GOOD, ("-k", "three"), "no test was found"),
        (GOOD, ("--unknown",), "pytest ended with 4"),
        ("def test_one(", (), "1 failed"),
        (
            "import pytest\n@pytest.fixture\ndef broken(): 1 / 0\ndef test_one(broken): pass",
            (),
            "1 failed",
        ),
        (
            "import pytest\n@pytest.fixture\ndef broken():\n    yield\n    1 / 0\ndef test_one(broken): pass",
            (),
            "1 failed",
        ),
        (
            "import os\ndef test_one(): os.kill(os.getpid(), 9)",
            (),
            "pytest was killed by SIGKILL",
        ),
        (
            "import os\ndef test_one(): pass\ndef test_two(): os._exit(0)",
            (),
            "1 passed, pytest ended with 0 before its end",
        ),
    ],
    ids=["no tests", "none selected", "wrong option", "no syntax", "setup", "teardown", "killed", "left"],
)
def test_what_proves_nothing_has_failed(
    tmp_path: Path, source: str, options: tuple[str, ...], what: str
) -> None:
    """No tests, tests that cannot be collected or set up, and a pytest that dies: the stage failed, and says how."""
    ran = run(stage(tmp_path, "odd", source, *options), root=tmp_path)

    assert (ran.code, ran.table) == (1, [("odd", "failed", what)])


def test_a_stage_of_skipped_tests_is_skipped(tmp_path: Path) -> None:
    """With the reasons, each once with its number; it is no failure, so that the next stage runs."""
    whole = "import pytest\npytest.skip('no wrack either', allow_module_level=True)"
    ran = run(
        *(stage(tmp_path, "absent", ABSENT), stage(tmp_path, "whole", whole), stage(tmp_path, "good", GOOD)),
        root=tmp_path,
    )

    assert (ran.code, ran.verdict) == (0, "No stage failed, and skipped were: absent, whole")
    assert ran.table == [
        ("absent", "skipped", "3 skipped"),
        ("whole", "skipped", "1 skipped"),
        ("good", "passed", "2 passed"),
    ]
    assert "\nskipped in absent:\n    3 × no kelp here\nskipped in whole:\n    1 × " in ran.said
    assert "no wrack either" in ran.said


def test_a_stage_of_which_a_part_was_skipped_has_passed(tmp_path: Path) -> None:
    """How many tests did not run, and why, is said; a failure that was expected is none, and no skip."""
    expected = "\n@pytest.mark.xfail\ndef test_two(): assert 1 == 2"
    ran = run(stage(tmp_path, "part", ABSENT + "\ndef test_one_more(): pass" + expected), root=tmp_path)

    assert (ran.code, ran.table) == (0, [("part", "passed", "2 passed, 3 skipped")])
    assert "\nskipped in part:\n    3 × no kelp here\n" in ran.said


@pytest.mark.parametrize(
    ("code", "result", "what"),
    [
        (0, "passed", "2 passed, demo.py ended with 0"),
        (3, "failed", "2 passed, demo.py ended with 3"),
    ],
)
def test_the_exit_code_of_a_program_counts(tmp_path: Path, code: int, result: str, what: str) -> None:
    """A program runs after the tests of its stage, in the folder of the project; it has to end with 0."""
    program = f"import sys\nfrom pathlib import Path\nassert Path('demo.py').exists()\nsys.exit({code})"
    (tmp_path / "demo.py").write_text(program, encoding="utf-8")
    good = stage(tmp_path, "good", GOOD)
    ran = run(Stage(name="end", tests=good.tests, programs=("demo.py",)), root=tmp_path)

    assert (ran.code, ran.table) == (int(code > 0), [("end", result, what)])


def test_a_program_does_not_run_when_its_tests_failed(tmp_path: Path) -> None:
    """What is built on what failed shows nothing."""
    (tmp_path / "demo.py").write_text("open('ran', 'w')", encoding="utf-8")
    bad = stage(tmp_path, "bad", BAD)
    ran = run(Stage(name="end", tests=bad.tests, programs=("demo.py",)), root=tmp_path)

    assert ran.table == [("end", "failed", "1 failed, 1 passed")]
    assert not (tmp_path / "ran").exists()


def test_ctrl_c_stops_and_tidies_up(tmp_path: Path) -> None:
    """On a terminal: tests tear down, their processes are ended, the table shows how far it came, the code is 130."""
    stages = (
        stage(tmp_path, "good", GOOD),
        stage(tmp_path, "waits", WAITS, "-s"),
        stage(tmp_path, "never", NEVER),
    )
    terminal = Terminal(command(stages, tmp_path), environment(TMPDIR=str(tmp_path)))
    try:
        terminal.expect("begun")
        terminal.type(CTRL_C)
        ran = Ran(terminal.wait(60), terminal.said.replace("\r\n", "\n"))
    finally:
        terminal.close()

    assert ran.code == 130
    assert ran.table == [
        ("good", "passed", "2 passed"),
        ("waits", "interrupted", ""),
        ("never", "not run", ""),
    ]
    assert ran.verdict == "Stopped at waits by SIGINT; not run: never"
    assert (tmp_path / "tidied").exists()
    assert ended(int((tmp_path / "pid").read_text(encoding="utf-8")))
    assert not (tmp_path / "ran").exists()
    assert list(tmp_path.glob("holdfast_staged_*")) == []


def test_ctrl_c_reaches_a_command_once(tmp_path: Path) -> None:
    """A second signal would interrupt its tidying up; that comes only when Ctrl-C is pressed again."""
    (tmp_path / "demo.py").write_text(COUNTS, encoding="utf-8")
    terminal = Terminal(command((Stage(name="end", programs=("demo.py",)),), tmp_path), environment())
    try:
        terminal.expect("begun")
        terminal.type(CTRL_C)
        assert terminal.wait(60) == 130
    finally:
        terminal.close()

    assert (tmp_path / "told").read_text(encoding="utf-8") == "1"


def test_sigterm_stops_as_ctrl_c_does(tmp_path: Path) -> None:
    """With the code 143."""
    process = begun(stage(tmp_path, "waits", WAITS, "-s"), stage(tmp_path, "never", NEVER), root=tmp_path)
    process.send_signal(signal.SIGTERM)
    ran = rest(process)

    assert (ran.code, ran.verdict) == (143, "Stopped at waits by SIGTERM; not run: never")
    assert (tmp_path / "tidied").exists()
    assert ended(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_ctrl_c_twice_does_not_wait(tmp_path: Path) -> None:
    """Who does not end when told to is killed at the second time, and the table comes all the same."""
    process = begun(stage(tmp_path, "stubborn", STUBBORN, "-s"), root=tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told = time.monotonic()
    ran = rest(process)

    assert (ran.code, ran.table) == (130, [("stubborn", "interrupted", "")])
    assert time.monotonic() - told < GRACE - 5


def test_a_stage_that_hangs_is_ended(tmp_path: Path) -> None:
    """A command that takes longer than its stage may is told to end; the stage failed."""
    ran = run(stage(tmp_path, "waits", WAITS, limit=2.0), stage(tmp_path, "never", NEVER), root=tmp_path)

    assert ran.code == 1
    assert ran.table == [
        ("waits", "failed", "told to end after 2 s, pytest ended with 2"),
        ("never", "not run", ""),
    ]
    assert (tmp_path / "tidied").exists()


def test_a_program_that_hangs_has_failed(tmp_path: Path) -> None:
    """Though it ends well when it is told to."""
    hangs = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(0))\ntime.sleep(60)"
    (tmp_path / "demo.py").write_text(hangs, encoding="utf-8")
    ran = run(Stage(name="end", programs=("demo.py",), limit=1.0), root=tmp_path)

    assert (ran.code, ran.table) == (
        1,
        [("end", "failed", "told to end after 1 s, demo.py ended with 1")],
    )


@pytest.mark.parametrize("killed", [False, True])
def test_processes_that_are_left_are_ended(tmp_path: Path, *, killed: bool) -> None:
    """Whoever a test leaves running, in whatever session, is ended before the next stage, and named."""
    end = "os.kill(os.getpid(), 9)" if killed else "pass"
    leaves = (
        "import os, subprocess\nfrom pathlib import Path\ndef test_one():\n"
        "    process = subprocess.Popen(['sleep', '601'], start_new_session=True)\n"
        f"    Path('pid').write_text(str(process.pid))\n    {end}"
    )
    ran = run(stage(tmp_path, "leaves", leaves), root=tmp_path)

    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    assert ended(pid)
    assert f"left running, ended now: {pid} sleep 601\n" in ran.said
    assert ran.code == int(killed)


def test_nobody_elses_process_is_ended(tmp_path: Path) -> None:
    """A process that was there before is none of its business."""
    other = subprocess.Popen(["sleep", "602"])
    try:
        ran = run(stage(tmp_path, "good", GOOD), root=tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    assert "left" not in ran.said


def test_what_was_written_is_removed(tmp_path: Path) -> None:
    """Tests write into one folder, found by TMPDIR, which is gone afterwards; failed ones, too."""
    writes = (
        "import tempfile\nfrom pathlib import Path\ndef test_one(tmp_path):\n"
        "    (tmp_path / 'kept').touch()\n    folder = tempfile.mkdtemp()\n"
        "    Path('where').write_text(f'{tmp_path}\\n{folder}')\n    assert 1 == 2"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run(stage(tmp_path, "writes", writes), root=tmp_path, TMPDIR=str(scratch))

    where = (tmp_path / "where").read_text(encoding="utf-8").splitlines()
    assert [Path(folder).is_relative_to(scratch) for folder in where] == [True, True]
    assert list(scratch.iterdir()) == []


def test_databases_that_are_left_are_dropped(
    tmp_path: Path, postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process leaves its database, which is dropped; that of another run stays."""
    monkeypatch.setenv(RUN, "holdfast_elsewhere")
    other = database_name()
    leaves = (
        "import os\nfrom pathlib import Path\n"
        "from backend.tests.integration.jobs._homes import own_database\n"
        "def test_one():\n"
        f"    with own_database({postgres_server!r}) as url:\n"
        "        Path('url').write_text(url)\n"
        "        os.kill(os.getpid(), 9)"
    )
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {other}".encode())
        try:
            ran = run(stage(tmp_path, "leaves", leaves), root=tmp_path)
            there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        finally:
            connection.execute(f"DROP DATABASE {other}".encode())

    name = (tmp_path / "url").read_text(encoding="utf-8").rpartition("/")[2]
    assert name.startswith("holdfast_staged_")
    assert f"left behind, dropped now: database {name}\n" in ran.said
    assert name not in there
    assert other in there


ANSWER = "test_postgresql_lets_a_database_be_made or test_redis_keeps_what_it_is_given"
NOWHERE = {"HOLDFAST_POSTGRES_URL": "postgresql://127.0.0.1:1/x", "HOLDFAST_REDIS_URL": "redis://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("required", "code", "row"),
    [("", 0, ("foundation", "skipped", "2 skipped")), ("1", 1, ("foundation", "failed", "2 failed"))],
    ids=["found or skipped", "required"],
)
def test_a_service_is_found_or_skipped_unless_it_is_required(
    required: str, code: int, row: tuple[str, str, str]
) -> None:
    """What does not answer is skipped with the reason; with HOLDFAST_REQUIRE_SERVICES=1 it is a failure."""
    foundation = Stage(name="foundation", tests=("-p", "pytest_cov", "-k", ANSWER, *STAGES[0].tests))
    ran = run(
        foundation,
        root=ROOT,
        HOLDFAST_REQUIRE_SERVICES=required,
        **NOWHERE,
    )

    assert (ran.code, ran.table) == (code, [row])
    for reason in ("no PostgreSQL answers at postgresql://127.0.0.1:1/x", "no Redis answers at redis://"):
        assert reason in ran.said


def test_the_stages_name_files_that_are_there() -> None:
    """A path that a stage names exists, and leads to tests or a program."""
    named = [word.removeprefix("--ignore=") for one in STAGES for word in (*one.tests, *one.programs)]
    paths = [ROOT / word for word in named if "/" in word]
    assert len(paths) > 20
    assert [path for path in paths if not path.exists()] == []


def test_the_foundation_is_all_that_is_marked_so() -> None:
    """The first stage looks into each file with a test of the foundation."""
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "backend/tests").rglob("test_*.py")
        if re.search(
            r"^(@|pytestmark = )pytest\.mark\.foundation$", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {word for word in STAGES[0].tests if "/" in word} == marked


def test_make_runs_the_stages() -> None:
    """`make test-staged` sets up what the tests need, and runs exactly this; `make help` tells of it."""
    # Within `make test` one that is called says where it goes and what variables the outer one was given.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def make(*words: str) -> str:
        done = subprocess.run(
            ["make", "--no-print-directory", *words],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    planned = make("--dry-run", "VENV=/nowhere", "PYTHON=python3", "test-staged").splitlines()
    assert planned[-1] == "/nowhere/bin/python -m backend.tests.staged"
    assert any("pip" in line and "-e '.[test]'" in line for line in planned)
    assert re.search(r"^make test-staged +the jobs", make("help"), re.MULTILINE)


def test_the_guide_has_every_stage() -> None:
    """The page about integration tests has a row for each stage, in their order."""
    page = (ROOT / "docs/guides/testing/INTEGRATION_TESTS.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \d (.+?) \|", page, flags=re.MULTILINE) == [one.name for one in STAGES]
