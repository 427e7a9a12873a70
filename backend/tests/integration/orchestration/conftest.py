"""Fixtures of the runs' suite: every kind of store, blobs in a folder, and a target that does as it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.tests.integration.jobs._homes import (
    DynamoHome,
    Home,
    MemoryHome,
    PostgresHome,
    SqliteHome,
    blobs_beside,
    own_database,
)
from backend.tests.integration.orchestration._local import Machine
from backend.tests.integration.orchestration._yard import Yard
from holdfast.infrastructure.store.blob import BlobStore, FolderBlobStore, MemoryBlobStore
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
