"""Fixtures of the runs' suite: every kind of store, blobs in a folder, and a target that does as it is told."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from backend.tests.integration.jobs._homes import (
    DynamoHome,
    Home,
    MemoryHome,
    PostgresHome,
    SqliteHome,
    blobs_beside,
    own_database,
)
from backend.tests.integration.orchestration._cloud import Cloud, Queue
from backend.tests.integration.orchestration._github import TOKENS, GitHub
from backend.tests.integration.orchestration._http import KEY, SECRET, Remote, listening, serving, worker
from backend.tests.integration.orchestration._local import Machine
from backend.tests.integration.orchestration._programs import KINDS, git, path, recipient
from backend.tests.integration.orchestration._yard import Yard
from holdfast.api.internal.runs.app import create_blob_router
from holdfast.infrastructure.store.blob import BlobStore, FolderBlobStore, MemoryBlobStore
from holdfast.services.jobs.graphs.github import GitHubNotifier
from holdfast.services.jobs.graphs.http import HttpTarget, SignedUrls
from holdfast.services.jobs.graphs.secrets import Secrets
from holdfast.testing.clock import VirtualClock


@pytest.fixture(scope="session")
def runs_database(postgres_server: str) -> Iterator[str]:
    """Give the URL of a PostgreSQL database for the runs of all tests, dropped at the end."""
    with own_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", "dynamodb"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """Run the test on each kind of store that processes share; give a place where nothing is stored yet."""
    if request.param == "sqlite":
        (tmp_path / "stores").mkdir()
        made: Home = SqliteHome(tmp_path / "stores")
    elif request.param == "dynamodb":
        made = DynamoHome(request.getfixturevalue("aws_address"), "&frugal=true")
    else:
        made = PostgresHome(request.getfixturevalue("runs_database"))
    yield made
    made.close()


@pytest.fixture
def blobs(home: Home, tmp_path: Path) -> BlobStore:
    """Give an empty store of blobs: a folder, or the bucket beside the table."""
    return blobs_beside(home.url or "") or FolderBlobStore(tmp_path / "blobs")


@pytest.fixture
def yard(home: Home, blobs: BlobStore, tmp_path: Path, virtual_clock: VirtualClock) -> Yard:
    """Give runs on the virtual clock."""
    return Yard(home.open(clock=virtual_clock), blobs, tmp_path, virtual_clock)


@pytest.fixture
def quick_yard(tmp_path: Path, virtual_clock: VirtualClock) -> Iterator[Yard]:
    """Give runs on the virtual clock in memory, for what is repeated hundreds of times."""
    made = MemoryHome()
    yield Yard(made.open(clock=virtual_clock), MemoryBlobStore(), tmp_path, virtual_clock)
    made.close()


@pytest.fixture
def machine(home: Home, blobs: BlobStore, tmp_path: Path) -> Iterator[Machine]:
    """Give runs in real time whose orders are subprocesses, two at once; none outlives the test."""
    made = Machine(Yard(home.open(), blobs, tmp_path))
    yield made
    made.target.close(cancel=True)


@pytest.fixture
def remote(machine: Machine) -> Iterator[Remote]:
    """Give runs whose target posts orders to a worker of two at once, and serve their blobs."""
    listener, base = listening()
    urls = SignedUrls(f"{base}/blobs", SECRET)
    app = FastAPI()
    app.include_router(create_blob_router(machine.yard.blobs, urls, machine), prefix="/blobs")
    with serving(app, listener), worker(concurrency=2) as (url, process):
        target = HttpTarget(url, urls, token=KEY)
        machine.yard.runs = machine.yard.again(targets={"local": target}, listener=machine)
        yield Remote(machine, urls, target, process)
        target.close()


@pytest.fixture(params=sorted(KINDS))
def sealed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Secrets:
    """Give secrets of each kind whose programs are installed here."""
    monkeypatch.setenv("PATH", path())
    for program in {request.param, "age-keygen"}:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    made: Secrets = KINDS[request.param]([recipient(tmp_path)], identity=tmp_path / "key")
    return made


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Give a folder with a repository `app` of two commits, and something that is not committed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    app = tmp_path / "repositories" / "app"
    (app / "deep").mkdir(parents=True)
    git(app, "init", "-q", "-b", "main")
    (app / "run.sh").write_text("echo one\n", encoding="utf-8")
    (app / "run.sh").chmod(0o755)
    (app / "deep" / "data").write_bytes(b"\0\1")
    git(app, "add", ".")
    git(app, "commit", "-qm", "one")
    git(app, "tag", "v1")
    (app / "run.sh").write_text("echo two\n", encoding="utf-8")
    git(app, "commit", "-qam", "two")
    (app / "run.sh").write_text("echo three\n", encoding="utf-8")
    return tmp_path / "repositories"


@pytest.fixture(scope="module")
def queue() -> Iterator[Queue]:
    """Give what stands in Lambda's place: handlers keep their client."""
    made = Queue()
    yield made
    made.close()


@pytest.fixture
def cloud(aws_address: str, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Give what the template makes, in the environment of the handlers."""
    made = Cloud(aws_address, queue)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def hub() -> Iterator[GitHub]:
    """Give a server."""
    with GitHub() as made:
        yield made


@pytest.fixture
def notifier(hub: GitHub) -> Iterator[GitHubNotifier]:
    """Give a notifier."""
    with GitHubNotifier(TOKENS.__getitem__, url=hub.url) as made:
        yield made
