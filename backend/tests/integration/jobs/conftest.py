"""Fixtures of the jobs' suite: files that rows come from, databases, and every kind of store."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sql

from backend.tests.integration._moto import client, hooked
from backend.tests.integration.jobs._brokers import Server, need_server, server
from backend.tests.integration.jobs._desk import Desk, Letterbox, Mode
from backend.tests.integration.jobs._files import WriteWorkbook, write_workbook
from backend.tests.integration.jobs._fleet import WAYS, Fleet, Post, Way, gate, through
from backend.tests.integration.jobs._homes import (
    OWN,
    DynamoHome,
    Home,
    MemoryHome,
    PostgresHome,
    SqliteHome,
    own_bucket,
    own_database,
    own_homes,
)
from backend.tests.integration.jobs._kill_job import Plan
from backend.tests.integration.jobs._kill_matrix import ORDERS, Nurseries
from backend.tests.integration.jobs._kill_outages import Cluster, need_programs, terminate
from backend.tests.integration.jobs._kill_service import Labels
from backend.tests.integration.jobs._kill_worker import Nursery
from backend.tests.integration.jobs._ledger import Ledger
from backend.tests.integration.jobs._next_version import version_that_adds, version_that_renames
from backend.tests.integration.jobs._outside import HANDLERS, KILLED, ROWS, asked, ended, started
from backend.tests.integration.jobs._posting import echo, nap
from backend.tests.integration.jobs._racing import RACERS, Race, Racers, race_threads
from backend.tests.integration.jobs._relay import Relay
from holdfast.cli.main import main
from holdfast.infrastructure.store.blob import BlobStore, FolderBlobStore, MemoryBlobStore
from holdfast.infrastructure.store.dynamodb import DynamoStateStore, create_table
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.s3 import S3BlobStore
from holdfast.infrastructure.store.sql import SqlStateStore, drop_tenant, open_store
from holdfast.infrastructure.store.sql import tenants as sql_tenants
from holdfast.infrastructure.store.state import JobRecord, StateStore
from holdfast.services.jobs import Jobs, open_jobs
from holdfast.services.jobs.executors import Executor
from holdfast.testing.clock import VirtualClock

TABLES = count()


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes a file: its content, as text in UTF-8 or as bytes, and its name."""

    def write(content: str | bytes, name: str = "orders.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def workbook(tmp_path: Path) -> WriteWorkbook:
    """Give a function that writes an Excel file with the rows of one sheet, or of several by name."""

    def write(rows: Any, name: str = "orders.xlsx") -> Path:
        return write_workbook(tmp_path / name, rows)

    return write


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sql.Engine]:
    """Run the test on SQLite and on PostgreSQL: give the engine of an empty database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'orders.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    made = sql.create_engine(url)
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def empty_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of empty SQLite stores, to be copied: that is faster than making new ones."""
    folder = tmp_path_factory.mktemp("stores")
    made = SqliteHome(folder)
    for tenant in ("default", "other"):
        made.open(tenant)
    made.close()
    return folder


@pytest.fixture(scope="session")
def stores_database(postgres_server: str) -> Iterator[str]:
    """Give the URL of a PostgreSQL database for the stores of all tests, dropped at the end."""
    with own_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session", params=["SQLite", "PostgreSQL"])
def query_plans(request: pytest.FixtureRequest) -> list[Any]:
    """Give the plans of all statements that a store sent to a table that is nearly all done, on each database."""
    tracing: Any = import_module("benchmarks._query_plans")
    where: dict[str, str] = {}
    if request.param == "PostgreSQL":
        where["postgres"] = request.getfixturevalue("stores_database")
        if not tracing.has_auto_explain(where["postgres"]):
            pytest.skip("this PostgreSQL has no auto_explain, or keeps it from this user")
    found: list[Any] = tracing.plans(request.param, **where)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run on DynamoDB what every store must do: most of it, or all with HOLDFAST_DYNAMODB=all; few jobs on top."""
    items[:] = [item for item in items if not beside_the_point(item)]
    for item in items:
        spec = getattr(item, "callspec", None)
        if (
            spec is not None
            and spec.params.get("store_kind") == "dynamodb"
            and TENANT_WIDE.search(item.nodeid)
        ):
            item.add_marker(
                pytest.mark.skip("DynamoDB bounds no calls of all jobs together (UnsupportedError)")
            )


# Many alike, or many processes at one moto: minutes, for what one of each shows too.
LONG = re.compile(
    "test_store_conformance_transitions|a_name_that_no_database|four_workers|no_wake_up|"
    "a_long_job_is|concurrency_holds|a_rate_holds|worked_off_by_four|one_winner|what_another_tenant_has"
)

TENANT_WIDE = re.compile("a_tenants_concurrency|a_dead_workers_calls_count")


def beside_the_point(item: pytest.Item) -> bool:
    spec = getattr(item, "callspec", None)
    if spec is None or spec.params.get("store_kind") != "dynamodb":
        return False
    if item.path.name.startswith("test_dynamodb"):
        return False
    if not item.path.name.startswith("test_store_conformance"):
        return True
    return os.environ.get("HOLDFAST_DYNAMODB") != "all" and LONG.search(item.nodeid) is not None


@pytest.fixture(params=["memory", "sqlite", "postgresql", "dynamodb", *(["yours"] if OWN else [])])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Run the test on each kind of store; give its name."""
    kind: str = request.param
    return kind


@pytest.fixture
def new_home(request: pytest.FixtureRequest, store_kind: str, tmp_path: Path) -> Callable[[], Home]:
    """Give a function that makes a place for stores, where nothing is stored yet; one at a time."""
    if store_kind == "memory":
        return MemoryHome
    if store_kind == "dynamodb":
        address: str = request.getfixturevalue("aws_address")
        return partial(DynamoHome, address)
    if store_kind == "postgresql":
        database: str = request.getfixturevalue("stores_database")
        return partial(PostgresHome, database)
    numbers = count()
    if store_kind == "yours":
        return lambda: cast("Home", own_homes()(tmp_path / f"own-{next(numbers)}"))
    empty: Path = request.getfixturevalue("empty_stores")
    return lambda: SqliteHome(copytree(empty, tmp_path / f"stores-{next(numbers)}"))


@pytest.fixture
def home(new_home: Callable[[], Home]) -> Iterator[Home]:
    """Run the test on each kind of store; give a place where nothing is stored yet."""
    made = new_home()
    yield made
    made.close()


@pytest.fixture
def ledger(home: Home, virtual_clock: VirtualClock) -> Iterator[Ledger]:
    """Give an empty store on the virtual clock, which is checked after each change, or at the end."""
    made = Ledger(home, virtual_clock)
    yield made
    made.look()


@pytest.fixture
def tenants(home: Home, virtual_clock: VirtualClock) -> tuple[Ledger, Ledger]:
    """Give the empty stores of two tenants in one place."""
    return Ledger(home, virtual_clock), Ledger(home, virtual_clock, "other")


@pytest.fixture(scope="session")
def racers() -> Iterator[Racers]:
    """Give the processes that race for a store."""
    made = Racers()
    yield made
    made.end()


@pytest.fixture
def race(home: Home, racers: Racers) -> Race:
    """Give a function that lets four callers do the same at once: `race(task, *facts)` returns their results."""

    def run(task: str, *facts: Any, callers: int = RACERS) -> list[Any]:
        if home.url is None:
            return race_threads(home.open(), task, facts, callers)
        return racers.race(home.url, task, facts, callers)

    return run


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Run the test with a sync and with an async handler."""
    said: Mode = request.param
    return said


@pytest.fixture
def desk(home: Home, virtual_clock: VirtualClock, mode: Mode) -> Desk:
    """Give jobs over an empty store on the virtual clock."""
    return Desk(home.open(clock=virtual_clock), virtual_clock, mode)


@pytest.fixture
def letterbox() -> Iterator[type[Letterbox]]:
    """Give an empty letterbox for results that are written back."""
    Letterbox.empty()
    yield Letterbox
    Letterbox.empty()


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file of the outside service, for this process too."""
    monkeypatch.setenv("OUTSIDE", str(tmp_path / "calls"))
    monkeypatch.setenv("PACE", "0")
    return tmp_path / "calls"


@pytest.fixture
def jobs(home: Home) -> Jobs:
    """Give jobs in real time, over a store that other processes can open."""
    return Jobs(home.open(), HANDLERS.values())


@pytest.fixture
def monitor(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Give a function that runs a command of `holdfast jobs` on the store; it returns exit code and what was said."""
    # The command looks for handlers in the current folder, too.
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(command: str, *words: str) -> tuple[int, str]:
        code = main(["jobs", command, *words, "--store", str(home.url)])
        return code, "".join(capsys.readouterr())

    return run


@pytest.fixture
def killed(home: Home, jobs: Jobs, outside: Path) -> Callable[..., JobRecord]:
    """Give a function that submits a job and runs it in a process, which is killed at a boundary."""

    def run(handler: str, at: str, record: str = "each") -> JobRecord:
        job = jobs.submit(range(ROWS), HANDLERS[handler], mode="auto")
        assert home.url is not None
        program = started(home.url, outside, "run", job.id, record, HOLDFAST_KILL_AT=at)
        assert ended(program) == KILLED
        return job

    return run


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Give the process that forks those to be killed."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def later_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a later version of the library, whose migrations only add."""
    return version_that_adds(tmp_path_factory.mktemp("later"))


@pytest.fixture(scope="session")
def renaming_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a later version of the library, whose migration renames a table."""
    return version_that_renames(tmp_path_factory.mktemp("renaming"))


@pytest.fixture(scope="session")
def nurseries(nursery: Nursery, later_version: Path) -> Iterator[Nurseries]:
    """Give the processes that fork those of this version, and of the later one."""
    later = Nursery(later_version)
    yield Nurseries(now=nursery, later=later)
    later.close()


@pytest.fixture(scope="session")
def label_service() -> Iterator[Labels]:
    """Give the outside service, which makes labels and counts."""
    made = Labels()
    yield made
    made.close()


@pytest.fixture
def labels(label_service: Labels) -> Labels:
    """Give the outside service, which has made no label yet."""
    label_service.forget()
    label_service.pace = 0.0
    return label_service


@pytest.fixture(scope="session")
def second() -> Iterator[Nursery]:
    """Give another process that forks, for two workers at once."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Give a PostgreSQL of the test's own."""
    need_programs()
    # Not below pytest's folder, where the server's user may not look.
    with TemporaryDirectory() as folder:
        made = Cluster(Path(folder))
        yield made
        made.crash()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Give the URL of a SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[SqlStateStore]:
    """Give an empty store in a SQLite file."""
    with open_store(sqlite_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def schemas_database(postgres_server: str) -> Iterator[str]:
    """Give the URL of a PostgreSQL database for tests that make and drop tenants."""
    with own_database(postgres_server) as url:
        yield url


@pytest.fixture
def server_url(schemas_database: str) -> Iterator[str]:
    """Give the URL of a PostgreSQL database without tenants."""
    yield schemas_database
    for tenant in sql_tenants(schemas_database):
        drop_tenant(schemas_database, tenant)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Run the test on SQLite and on PostgreSQL: give the URL of a place without tenants."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "server_url")
    return url


@pytest.fixture
def server_store(server_url: str) -> Iterator[SqlStateStore]:
    """Give an empty store in PostgreSQL."""
    with open_store(server_url) as opened:
        yield opened


@pytest.fixture
def relay(server_url: str) -> Iterator[Relay]:
    """Give a relay before the PostgreSQL server."""
    parts = urlsplit(server_url)
    made = Relay(parts.hostname or "127.0.0.1", parts.port or 5432)
    yield made
    made.close()


@pytest.fixture
def relayed_url(server_url: str, relay: Relay) -> str:
    """Give the URL of the same database through the relay."""
    parts = urlsplit(server_url)
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=f"{user}127.0.0.1:{relay.port}").geturl()


@pytest.fixture
def cut_store(server_store: SqlStateStore, relayed_url: str) -> Iterator[SqlStateStore]:
    """Give an empty store whose connections go through the relay."""
    with open_store(relayed_url) as opened:
        yield opened


@pytest.fixture
def plan(home: Home, tmp_path: Path, labels: Labels) -> Callable[..., Plan]:
    """Give a function that makes a plan for a process, for which the orders lie ready."""
    rows = "".join(f"{order},{order} Kelp Lane\n" for order in ORDERS)
    (tmp_path / "orders.csv").write_text(f"order,street\n{rows}", encoding="utf-8")

    assert home.url is not None
    return partial(replace, Plan(url=home.url, folder=str(tmp_path), port=labels.port))


@pytest.fixture
def store(home: Home) -> StateStore:
    """Give the store, open in this process too."""
    return home.open()


@pytest.fixture(params=["memory", "folder", "s3"])
def tenant_blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], BlobStore]:
    """Give a function that opens the blobs of a tenant, in a store of each kind."""
    if request.param == "s3":
        address: str = request.getfixturevalue("aws_address")
        return own_bucket(address)
    return MemoryBlobStore if request.param == "memory" else partial(FolderBlobStore, tmp_path)


@pytest.fixture
def blobs(tenant_blobs: Callable[[str], BlobStore]) -> BlobStore:
    """Give an empty store of blobs, of each kind."""
    return tenant_blobs("default")


@pytest.fixture
def fleet_store(postgres_server: str) -> Iterator[str]:
    """Give the URL of a database of the test's own."""
    with own_database(postgres_server) as url:
        yield url


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, fleet_store: str) -> Iterator[Way]:
    """Run the test with each engine, and each broker of it."""
    executor, _, broker = request.param.partition("-")
    url = request.getfixturevalue(f"{broker}_url") if broker else ""
    made = Way(executor=executor, store=fleet_store, broker=url)
    yield made
    made.clear()


@pytest.fixture(params=WAYS)
def own_way(request: pytest.FixtureRequest) -> Iterator[tuple[Way, Server]]:
    """Run the test with each engine: give the way, and the server that carries its tickets, of the test's own."""
    executor, _, broker = request.param.partition("-")
    need_server(broker)
    # Not below pytest's folder, where the user of a server may not look.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = server(broker, Path(folder))
        try:
            store = made.url if not broker else request.getfixturevalue("fleet_store")
            yield Way(executor=executor, store=store, broker=made.url if broker else ""), made
        finally:
            made.crash()


@pytest.fixture
def fleet_jobs(fleet_store: str) -> Iterator[Jobs]:
    """Give the jobs of the ledger, open in this process."""
    with open_jobs(fleet_store, [asked, gate]) as opened:
        yield opened


@pytest.fixture
def fleet_of(tmp_path: Path) -> Iterator[Callable[[Way], Fleet]]:
    """Give a function that makes a fleet."""
    made: list[Fleet] = []

    def make(way: Way) -> Fleet:
        made.append(Fleet(way, tmp_path / "outside"))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def relayed() -> Iterator[Callable[[Way], tuple[Way, Callable[[], int]]]]:
    """Give a function that puts a relay before a broker: the way through it, and what cuts all its connections.

    Procrastinate has none: the server ends the connections of everybody to the database.
    """
    made: list[Relay] = []

    def relay(way: Way) -> tuple[Way, Callable[[], int]]:
        if not way.broker:
            return way, lambda: terminate(way.store)
        parts = urlsplit(way.broker)
        made.append(Relay(parts.hostname or "127.0.0.1", parts.port or 0))
        over = Way(
            executor=way.executor,
            store=way.store,
            broker=through(way.broker, made[-1].port),
            queue=way.queue,
        )

        def cut() -> int:
            before = made[-1].cuts
            made[-1].cut()
            return made[-1].cuts - before

        return over, cut

    yield relay
    for one in made:
        one.close()


@pytest.fixture(params=["local", *WAYS])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Run the test with each executor."""
    name, _, broker = request.param.partition("-")
    store = request.getfixturevalue("stores_database") if name == "procrastinate" else ""
    url = request.getfixturevalue(f"{broker}_url") if broker else ""
    way = Way(executor=name, store=store, broker=url)
    made = way.open()
    yield made
    made.close()
    way.clear()


@pytest.fixture
def dynamo_place(aws_address: str) -> Iterator[DynamoHome]:
    """Give an empty table, and a bucket beside it."""
    made_ = DynamoHome(aws_address)
    yield made_
    made_.close()


@pytest.fixture
def dynamo_table(aws_address: str) -> str:
    """Give the name of an empty table."""
    name = f"own-{next(TABLES)}"
    create_table(name, client=client("dynamodb", aws_address))
    return name


@pytest.fixture
def dynamo_requests(aws_address: str) -> Iterator[Counter[str]]:
    """Count the requests of this test's client, by operation."""
    told: Counter[str] = Counter()

    def tell(model: Any, **_: Any) -> None:
        told[model.name] += 1

    with hooked(client("dynamodb", aws_address), "before-call.dynamodb", tell):
        yield told


@pytest.fixture
def dynamo_store(aws_address: str, dynamo_table: str, virtual_clock: VirtualClock) -> DynamoStateStore:
    """Give an empty store on the virtual clock, whose requests can be heard, and which has no bucket."""
    return DynamoStateStore(dynamo_table, client=client("dynamodb", aws_address), clock=virtual_clock)


@pytest.fixture
def dynamo_hear(aws_address: str) -> Callable[..., Any]:
    """Give a function that lets another hear an event of the client."""
    return partial(hooked, client("dynamodb", aws_address))


@pytest.fixture
def bucket_tenants(aws_address: str) -> Callable[[str], S3BlobStore]:
    """Give a function that opens the blobs of a tenant in one new bucket."""
    return own_bucket(aws_address)


@pytest.fixture
def bucket(bucket_tenants: Callable[[str], S3BlobStore]) -> S3BlobStore:
    """Give an empty bucket."""
    return bucket_tenants("default")


@pytest.fixture
def bucket_hook(aws_address: str) -> Callable[[str, Callable[..., Any]], AbstractContextManager[None]]:
    """Give a function that lets another hear an event of the client that all buckets share."""
    return partial(hooked, client("s3", aws_address))


@pytest.fixture
def post() -> Post:
    """Give an executor that keeps what is sent."""
    return Post(carry=False)


@pytest.fixture
def silent() -> Jobs:
    """Give jobs in memory of which nobody is told."""
    return Jobs(MemoryStateStore(), [echo, nap])


@pytest.fixture
def told(post: Post) -> Jobs:
    """Give jobs in memory of which the executor is told."""
    return Jobs(MemoryStateStore(), [echo, nap], executor=post)
