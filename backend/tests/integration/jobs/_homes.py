"""Where the stores of a test live, and how one is opened there, again if need be."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import psycopg

from backend.tests._run import database_name
from backend.tests.integration._moto import ACCOUNT, client
from holdfast.infrastructure.resilience.clock import Clock
from holdfast.infrastructure.store.dynamodb import create_table, open_dynamodb
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.s3 import S3BlobStore
from holdfast.infrastructure.store.sql import open_store
from holdfast.infrastructure.store.state import StateStore

# Each tenant has a schema of its own; which version its tables have is not forgotten.
KEPT = """
    SELECT schemaname, tablename FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND tablename NOT LIKE '%version%'
"""


class Home(Protocol):
    """A place where stores keep what they are told."""

    @property
    def url(self) -> str | None:
        """Where other processes find it; None when they cannot."""
        ...

    def open(self, tenant: str = "default", *, clock: Clock | None = None) -> StateStore:
        """Open the store of a tenant."""
        ...

    def close(self) -> None:
        """Close every store that was opened here."""
        ...


class MemoryHome:
    """Stores in this process: opened again, one has what it had."""

    url = None

    def __init__(self) -> None:
        self._stores: dict[str, MemoryStateStore] = {}

    def open(self, tenant: str = "default", *, clock: Clock | None = None) -> StateStore:
        """Open the store of a tenant."""
        return self._stores.setdefault(tenant, MemoryStateStore(tenant, clock=clock))

    def close(self) -> None:
        """Close every store that was opened here."""
        for store in self._stores.values():
            store.close()


class SqlHome:
    """Stores in a database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[StateStore] = []

    def open(self, tenant: str = "default", *, clock: Clock | None = None) -> StateStore:
        """Open the store of a tenant, which is created if it is missing."""
        self._opened.append(open_store(self.url, tenant=tenant, create=True, clock=clock))
        return self._opened[-1]

    def close(self) -> None:
        """Close every store that was opened here."""
        for store in self._opened:
            store.close()


class SqliteHome(SqlHome):
    """Stores in files of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder}/")


class PostgresHome(SqlHome):
    """Stores in a database that outlives them: whoever comes next finds it empty."""

    def close(self) -> None:
        """Close every store that was opened here, and forget what they kept: that is faster than a new schema."""
        super().close()
        with psycopg.connect(self.url, autocommit=True) as connection:
            tables = connection.execute(KEPT).fetchall()
            connection.execute("SET session_replication_role = replica")
            connection.execute(
                ";".join(f'DELETE FROM "{schema}"."{table}"' for schema, table in tables).encode()
            )


class DynamoHome:
    """Stores in a table of their own, at an AWS of this run; what is large lies in a bucket."""

    slow = os.environ.get("HOLDFAST_DYNAMODB_AUDIT") != "1"

    def __init__(self, address: str, settings: str = "") -> None:
        table, bucket = f"table-{uuid4().hex}", f"bucket-{uuid4().hex}"
        create_table(table, client=client("dynamodb", address))
        new_bucket(address, bucket)
        region = ACCOUNT["AWS_DEFAULT_REGION"]
        self.url = f"dynamodb://{table}?region={region}&endpoint={address}&bucket={bucket}{settings}"
        self._opened: list[StateStore] = []

    def open(self, tenant: str = "default", *, clock: Clock | None = None) -> StateStore:
        """Open the store of a tenant, which is created if it is missing."""
        self._opened.append(open_dynamodb(self.url, tenant=tenant, create=True, clock=clock))
        return self._opened[-1]

    def close(self) -> None:
        """Close every store that was opened here."""
        for store in self._opened:
            store.close()


def blobs_beside(url: str) -> S3BlobStore | None:
    """Open the blobs that lie beside a table; None for another store."""
    said = dict(parse_qsl(urlsplit(url).query))
    if not url.startswith("dynamodb:"):
        return None
    return S3BlobStore(said["bucket"], prefix="blobs/", client=client("s3", said["endpoint"]))


OWN = os.environ.get("HOLDFAST_TEST_STORE", "")
"""`module:Home`, whose stores the suites run on too, as the kind "yours"; docs/guides/stores.md says what it has."""


def own_homes() -> Any:
    """Return the class that OWN names."""
    module, _, name = OWN.partition(":")
    return getattr(import_module(module), name)


def opened(url: str) -> StateStore:
    """Open the store that others have opened, too."""
    if urlsplit(url).scheme == "dynamodb":
        return open_dynamodb(url)
    known = urlsplit(url).scheme in {"sqlite", "postgresql"}
    store: StateStore = open_store(url) if known else own_homes().at(url).open()
    return store


def own_bucket(address: str) -> Callable[[str], S3BlobStore]:
    """Return a function that opens the blobs of a tenant in a new bucket."""
    name = f"bucket-{uuid4().hex}"
    new_bucket(address, name)
    return partial(S3BlobStore, name, client=client("s3", address))


def new_bucket(address: str, name: str) -> None:
    where = {"LocationConstraint": ACCOUNT["AWS_DEFAULT_REGION"]}
    client("s3", address).create_bucket(Bucket=name, CreateBucketConfiguration=where)


@contextmanager
def own_database(server: str) -> Generator[str]:
    """Give the URL of a new database, which is dropped at the end."""
    name = database_name()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        # Clients crash in these tests, the server does not: nobody need wait for its disk.
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
