"""What only SQLite has: files for tenants, one writer, full disks, clocks of a boot, forks."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest

from backend.tests.integration.jobs._ledger import made, outcome, worker
from backend.tests.integration.jobs._sql import KILLED, MANY, claimed, many, run, ship, submitted
from holdfast.infrastructure.store.sql import (
    SqlStateStore,
    create_tenant,
    drop_tenant,
    open_store,
    tenants,
)
from holdfast.infrastructure.store.state import (
    JobState,
    NewJob,
    NewStep,
    StepState,
    StoreUnavailableError,
    SubmissionError,
    TenantNotFoundError,
)


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_a_file_is_there_at_the_first_opening(sqlite_url: str) -> None:
    """Users expect `sqlite:///jobs.db` to just work, and to have what it had when it is opened again."""
    with open_store(sqlite_url) as store:
        submitted(store)
    with open_store(sqlite_url) as store:
        assert [job.id for job in store.jobs()] == ["job"]


def test_each_tenant_has_a_file_beside_the_first(sqlite_url: str, tmp_path: Path) -> None:
    """The file that the URL names is the default tenant's; the others' names have theirs in the middle."""
    open_store(sqlite_url).close()
    create_tenant(sqlite_url, "acme")
    assert tenants(sqlite_url) == ["acme", "default"]
    assert {path.name for path in tmp_path.glob("*.db")} == {"jobs.db", "jobs.acme.db"}


def test_each_tenant_has_a_file_in_a_folder(tmp_path: Path) -> None:
    """A folder is made with the first tenant; a file of any other name is none."""
    url = f"sqlite:///{tmp_path}/stores/"
    create_tenant(url, "acme")
    create_tenant(url, "b-2")
    (tmp_path / "stores" / "Not_a_tenant.db").touch()
    assert tenants(url) == ["acme", "b-2"]
    drop_tenant(url, "acme")
    assert tenants(url) == ["b-2"]


def test_an_unknown_tenant_is_not_made_by_opening_it(sqlite_url: str, tmp_path: Path) -> None:
    """A misspelt name is an error that says which, unless `create` is given."""
    with pytest.raises(TenantNotFoundError, match="'acm'"):
        open_store(sqlite_url, tenant="acm")
    with pytest.raises(TenantNotFoundError, match="'acm'"):
        drop_tenant(sqlite_url, "acm")
    assert list(tmp_path.iterdir()) == []
    open_store(sqlite_url, tenant="acm", create=True).close()
    assert tenants(sqlite_url) == ["acm"]


@pytest.mark.parametrize("name", ["", "Acme", "a b", "a/b", "..", "a.b", '"', "-a", "a" * 49])
def test_a_tenants_name_is_checked(sqlite_url: str, name: str) -> None:
    """It becomes part of a file's name."""
    with pytest.raises(ValueError, match="tenant"):
        open_store(sqlite_url, tenant=name, create=True)


@pytest.mark.parametrize("bad", ["jobs.db", "sqlite://", "sqlite:///", "sqlite://jobs.db", "mysql://host/db"])
def test_an_url_of_no_store_is_refused(bad: str) -> None:
    """The error says which URLs there are."""
    with pytest.raises(ValueError, match="sqlite:///FILE"):
        open_store(bad)


@pytest.mark.foundation
def test_commits_are_durable(sqlite_url: str, sqlite_store: SqlStateStore) -> None:
    """The file is in WAL mode; what a store writes is synced at each commit."""
    with closing(sqlite3.connect(file_of(sqlite_url))) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_processes_may_open_a_new_file_at_once(sqlite_url: str) -> None:
    """One sets it up, the others wait for it; none fails."""
    body = "submitted(store, job=sys.argv[2])"
    root = Path(__file__).parents[4]
    script = (
        "import sys; from backend.tests.integration.jobs._sql import submitted; "
        f"from holdfast.infrastructure.store.sql import open_store; store = open_store(sys.argv[1]); {body}"
    )
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'backend' / 'app'}"}
    racers = [
        subprocess.Popen([sys.executable, "-c", script, sqlite_url, f"job-{me}"], env=environment, cwd=root)
        for me in range(4)
    ]
    assert [racer.wait() for racer in racers] == [0] * 4
    with open_store(sqlite_url) as store:
        assert sorted(job.id for job in store.jobs()) == [f"job-{me}" for me in range(4)]


def test_a_newer_schema_is_left_alone(sqlite_url: str) -> None:
    """A file that a newer version wrote is refused, with both versions."""
    open_store(sqlite_url).close()
    with closing(sqlite3.connect(file_of(sqlite_url))) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.commit()
    with pytest.raises(StoreUnavailableError, match=r"version 9999.*install the version"):
        open_store(sqlite_url)


def test_another_programs_database_is_left_alone(sqlite_url: str) -> None:
    """A file with tables that are not ours is refused; nothing is added to it."""
    with closing(sqlite3.connect(file_of(sqlite_url))) as other:
        other.execute("CREATE TABLE jobs (id)")
    before = file_of(sqlite_url).read_bytes()
    with pytest.raises(StoreUnavailableError, match="another program's"):
        open_store(sqlite_url)
    with closing(sqlite3.connect(file_of(sqlite_url))) as other:
        assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("jobs",)]
    assert before[:16] == file_of(sqlite_url).read_bytes()[:16]


def test_what_is_no_database_is_refused(sqlite_url: str) -> None:
    """The error names the file and the remedy."""
    file_of(sqlite_url).write_text("order,city\n" * 1000)
    with pytest.raises(StoreUnavailableError, match=r"jobs\.db: file is not a database; give the path"):
        open_store(sqlite_url)


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    """The folder of a single file has to be there."""
    with pytest.raises(StoreUnavailableError, match="create the folder"):
        open_store(f"sqlite:///{tmp_path}/none/jobs.db")


def test_without_its_packages_a_store_says_which_extra(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setting up a database needs SQLAlchemy and alembic, and says so."""
    monkeypatch.setitem(sys.modules, "alembic", None)
    with pytest.raises(ImportError, match=r"pip install 'holdfast\[jobs\]'"):
        open_store(sqlite_url)


def test_a_long_writer_is_waited_for_and_then_named(sqlite_url: str) -> None:
    """Who waits too long gets an error, with the remedy; nothing has changed, and the next call succeeds."""
    with (
        open_store(sqlite_url, busy_timeout=0.1) as store,
        closing(sqlite3.connect(file_of(sqlite_url))) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="database is locked; another process") as caught:
            submitted(store)
        assert caught.value.certain
        assert store.jobs() == []
        other.rollback()
        submitted(store)
        assert len(store.jobs()) == 1


def test_readers_do_not_wait_for_a_writer(sqlite_url: str) -> None:
    """While another process writes, jobs can be looked at."""
    with (
        open_store(sqlite_url, busy_timeout=0.1) as store,
        closing(sqlite3.connect(file_of(sqlite_url))) as other,
    ):
        submitted(store)
        other.execute("BEGIN IMMEDIATE")
        assert store.job("job").counts.total == 3


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A submission that does not fit is refused whole; what is stored stays, and goes on when there is room."""
    script = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from holdfast.infrastructure.store.state import NewJob, NewStep, StoreUnavailableError
submitted(store)
room = 400_000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
try:
    store.create_job(NewJob(id="big", handler="ship"), [NewStep(key=str(n), payload=b"x" * 10_000) for n in range(200)])
except StoreUnavailableError as error:
    assert "big" not in {job.id for job in store.jobs()}, "half of it is there"
    assert error.remedy, error
else:
    raise AssertionError("it fitted")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ship(store)
assert store.job("job").counts.succeeded == 3
submitted(store, job="after")
"""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    assert run(url, script) == 0
    with open_store(url) as store:
        assert [job.id for job in store.jobs()] == ["after", "job"]
        assert store.job("job").state is JobState.SUCCEEDED


def test_the_clock_is_the_boots_not_the_walls(sqlite_url: str) -> None:
    """All who open a file read one clock: an anchor in the file and the machine's monotonic clock."""
    open_store(sqlite_url).close()
    with closing(sqlite3.connect(file_of(sqlite_url))) as other:
        other.execute("UPDATE clocks SET anchor = anchor + 86400")
        other.commit()
    with open_store(sqlite_url) as one, open_store(sqlite_url) as two:
        assert one.now() - time.time() == pytest.approx(86400, abs=60)
        assert one.now() == pytest.approx(two.now(), abs=1)


def test_a_new_boot_begins_after_all_that_is_written(sqlite_url: str) -> None:
    """Where the wall clock is behind the last event, as after a battery's end, time goes on from that event."""
    with open_store(sqlite_url) as store:
        submitted(store)
    ahead = time.time() + 1_000_000
    with closing(sqlite3.connect(file_of(sqlite_url))) as other:
        other.execute("UPDATE clocks SET boot = 'an older one'")
        other.execute("UPDATE events SET at = ?", (ahead,))
        other.commit()
    with open_store(sqlite_url) as store:
        assert ahead <= store.now() < ahead + 60


def test_threads_share_a_store(sqlite_store: SqlStateStore) -> None:
    """Eight threads submit, claim, record and look, all on one store."""

    def work(me: int) -> int:
        submitted(sqlite_store, job=f"job-{me}", steps=5)
        sqlite_store.register(worker(f"w{me}"), 60.0)
        refs = claimed(sqlite_store, name=f"w{me}")
        sqlite_store.advance(f"w{me}", (), refs)
        sqlite_store.advance(f"w{me}", [outcome(one) for one in refs])
        return len(sqlite_store.steps(f"job-{me}"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [5] * 8
    assert sum(job.counts.succeeded for job in sqlite_store.jobs()) == 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_its_own_connections(sqlite_store: SqlStateStore) -> None:
    """The child of a fork, even while another thread writes, uses the store as its parent does, and harms it not."""
    submitted(sqlite_store)
    stop, writing = Event(), Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            sqlite_store.note("job", "busy", {"number": number})
            number += 1
            writing.set()

    writer = Thread(target=write)
    writer.start()
    writing.wait(10)
    children = [_child(sqlite_store, f"child-{number}") for number in range(5)]
    ends = [os.waitpid(child, 0)[1] for child in children]
    stop.set()
    writer.join()
    assert ends == [0] * 5
    submitted(sqlite_store, job="parent")
    assert {job.id for job in sqlite_store.jobs()} == {
        "job",
        "parent",
        *(f"child-{number}" for number in range(5)),
    }


def _child(store: SqlStateStore, job: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            submitted(store, job=job)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def test_wait_ends_when_another_process_commits(sqlite_url: str, sqlite_store: SqlStateStore) -> None:
    """A commit elsewhere is seen within the poll's interval, long before the timeout."""
    sqlite_store.wait(0)
    assert sqlite_store.wait(0.05) is False
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: (sqlite_store.wait(0), sqlite_store.wait(30.0)))
        assert run(sqlite_url, "submitted(store)") == 0
        assert waiting.result(10)[1] is True


def test_a_closed_store_says_so(sqlite_store: SqlStateStore) -> None:
    """Closing twice does nothing; what is called afterwards is an error."""
    sqlite_store.close()
    sqlite_store.close()
    for call in (sqlite_store.jobs, sqlite_store.next_due, lambda: sqlite_store.wait(0), sqlite_store.sweep):
        with pytest.raises(StoreUnavailableError, match="closed"):
            call()


def test_closing_ends_a_wait(sqlite_store: SqlStateStore) -> None:
    """A thread that waits does not keep a program from ending."""
    sqlite_store.wait(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: (sqlite_store.wait(0), sqlite_store.wait(30.0)))
        time.sleep(0.1)
        sqlite_store.close()
        assert isinstance(waiting.exception(10), StoreUnavailableError)


def test_messages_with_odd_characters_are_kept(sqlite_store: SqlStateStore) -> None:
    """Zero bytes and lone surrogates in an error cannot keep it from being recorded."""
    submitted(sqlite_store, steps=1)
    refs = claimed(sqlite_store)
    sqlite_store.advance("w1", (), refs)
    sqlite_store.advance("w1", [outcome(refs[0], StepState.FAILED, error="a\0b\udce9 é")])
    assert sqlite_store.step("job", "s0").error == "a\\x00b\\udce9 é"


def test_keys_with_odd_characters_are_faults(sqlite_store: SqlStateStore) -> None:
    """What no database can store is named in the submission's faults."""
    with pytest.raises(SubmissionError, match="lone surrogates"):
        submitted(sqlite_store, steps=["fine", "a\0"])
    assert sqlite_store.jobs() == []


def test_a_slow_source_keeps_nobody_waiting(sqlite_url: str) -> None:
    """While a source of many rows is read, others write; its job is there when it is complete."""
    with open_store(sqlite_url, busy_timeout=0.1) as store:

        def rows() -> Iterator[NewStep]:
            yield from many()
            submitted(store, job="meanwhile")
            yield NewStep(key="last", payload=b"1")

        store.create_job(NewJob(id="slow", handler="ship"), rows())
        assert [job.id for job in store.jobs()] == ["slow", "meanwhile"]
        assert store.job("slow").counts.total == MANY + 1


def test_the_first_connection_is_not_needed_again(sqlite_url: str) -> None:
    """An open store goes on when another process opens, writes and closes the file."""
    with open_store(sqlite_url) as store:
        assert run(sqlite_url, "submitted(store); store.close()") == 0
        assert len(ship(store)) == 3


CHANGES = {
    "create_job": "submitted(store, job='new')",
    "create_job of many": "submitted(store, many(), job='new')",
    "claim": "store.claim('w1', 3)",
    "advance": "store.advance('w1', (), held)",
}


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_at_a_commit_is_all_or_nothing(sqlite_url: str, change: str, moment: str) -> None:
    """Killed before the commit nothing is there, killed after it everything is."""
    with open_store(sqlite_url) as store:
        submitted(store)
        store.register(worker("w1"), 3600.0)
    method = change.split(maxsplit=1)[0]
    body = (
        "from backend.tests.integration.jobs._ledger import ref\n"
        f"held = [ref(one) for one in store.claim('w1', 3)] if {method == 'advance'} else []\n"
        f"{CHANGES[change]}"
    )
    assert run(sqlite_url, body, kill_at=f"store.{method}.{moment}") == KILLED
    with open_store(sqlite_url) as store:
        counts = store.job("job").counts
        done = {
            "create_job": [job.counts.total for job in store.jobs() if job.id == "new"] in ([3], [MANY]),
            "claim": counts.running == 3,
            "advance": counts.in_flight == 3,
        }[method]
        assert done is (moment == "after_commit")
        assert counts.total == len(made(3))
