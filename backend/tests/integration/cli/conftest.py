"""The `holdfast` command in this process and as one of its own, and a service that it serves."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

import holdfast
from backend.tests.integration.cli._labels import Labels
from backend.tests.integration.cli._terminal import Terminal
from backend.tests.integration.jobs._homes import own_database
from backend.tests.integration.jobs._kill_outages import Cluster, need_programs
from holdfast.cli.main import main
from holdfast.infrastructure.store.sql import drop_tenant, tenants

PASSWORD = "hush-hush"


def stores(*kinds: str) -> pytest.MarkDecorator:
    """Run a test with each of these kinds of store."""
    return pytest.mark.parametrize("store", kinds, indirect=True)


both_stores = stores("sqlite", "postgresql")


def with_user(url: str, user: str, password: str = PASSWORD) -> str:
    """Return a URL for another user."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


SHOP = """
from holdfast import CircuitBreaker, Pipeline, Retry, Timeout, Window, registry, resilient

breaker = CircuitBreaker("orders", window=Window.consecutive(1), open_for=3600, open_cap=3600)
registry.define("orders", Timeout(5), Retry(1), breaker, Timeout(1))

@resilient("orders")
def order() -> None:
    raise ConnectionError("the warehouse is closed")

registry.define("prices", Timeout(5), Retry(2), Timeout(1))

@Pipeline(Timeout(3), Retry(4))
def price() -> int:
    return 1

def plain() -> int:
    return 1

try:
    order()
except ConnectionError:
    pass
"""
ORDERS = """
import json
import os
import urllib.error
import urllib.request
from decimal import Decimal

from holdfast import CircuitBreaker, Pipeline, Timeout, Window
from holdfast.services.jobs import Done, NotDone, handler


def ask(path, key, row=None):
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    data = None if row is None else json.dumps(row).encode()
    request = urllib.request.Request(os.environ["LABELS_URL"] + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        kind = ConnectionError if error.code >= 500 else LookupError
        raise kind(f"the service says {error.code}") from None


def price(row):
    return Decimal(row["price"])


def look(key):
    try:
        return Done(ask(f"/labels/{key}", key))
    except LookupError:
        return NotDone()


@handler(estimate=price)
def ship(row, call):
    return ask("/labels", call.idempotency_key, row)


@handler(estimate=price, reconcile=look)
def careful(row, call):
    return ask("/labels", call.idempotency_key, row)


@handler(policy=CircuitBreaker("carrier", window=Window.consecutive(2), open_for=30, open_cap=30))
def guarded(row, call):
    return ask("/labels", call.idempotency_key, row)


def plain(row):
    return row["id"]


def three(one, two, three):
    pass


class Klass:
    pass


number = 3
"""
STUCK = """
import asyncio
import threading
from pathlib import Path


def begun(row):
    Path(f"begun-{row['id']}").touch()


def hang(row):
    begun(row)
    threading.Event().wait()


async def deaf(row):
    begun(row)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


async def block(row):
    begun(row)
    threading.Event().wait()
"""
_HOME = str(Path(holdfast.__file__).parents[1])


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, common_registry: holdfast.Registry
) -> Iterator[Path]:
    """Give a folder, the current one, with a module `shop`; nothing else is defined, nothing configured."""
    assert len(common_registry) == 0
    for name in [name for name in os.environ if name.startswith(("HOLDFAST_", "RESILIENCE_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path = sys.path.copy()
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("shop", None)


@pytest.fixture
def run(shop: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Give a function that runs the command here."""

    def call(*arguments: str) -> Said:
        code = main(arguments)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call


@dataclass(frozen=True)
class Served:
    """A served API: its address, and the process."""

    url: str
    process: subprocess.Popen[str]


@pytest.fixture
def start(shop: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts the command as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: str, **environ: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "holdfast", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONPATH": _HOME, "PYTHONUNBUFFERED": "1", **environ},
            )
        )
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def served(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Served]:
    """Give a function that serves the shop's API, with these keys in the environment, on a free port."""

    def call(keys: str = "") -> Served:
        process = start("serve", "shop", "--port", "0", **({"HOLDFAST_API_KEYS": keys} if keys else {}))
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+/internal/resilience", line):
                return Served(found[0], process)
        raise AssertionError(f"it did not start: {said}")

    return call


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": _HOME, "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture
def labels() -> Iterator[Labels]:
    """Give a label service that answers over HTTP and counts."""
    with Labels() as service:
        yield service


@pytest.fixture(scope="session")
def jobs_database(postgres_server: str) -> Iterator[str]:
    """Give the URL of a PostgreSQL database for the stores of all tests, dropped at the end."""
    with own_database(postgres_server) as url:
        yield url


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let commands keep jobs in a SQLite file, which is their default, or as `stores` says in PostgreSQL."""
    kind = getattr(request, "param", "sqlite")
    # The shop hides the environment, which says where PostgreSQL is.
    url: str = request.getfixturevalue("jobs_database") if kind == "postgresql" else ""
    request.getfixturevalue("shop")
    if not url:
        yield "sqlite:///holdfast.db"
        return
    monkeypatch.setenv("HOLDFAST_STORE", url)
    yield url
    for tenant in tenants(url):
        drop_tenant(url, tenant)


@pytest.fixture
def stranger(jobs_database: str) -> Iterator[str]:
    """Give the URL of a role that may connect to the database, and nothing else; it has a password."""
    name = f"holdfast_{uuid4().hex[:12]}"
    with psycopg.connect(jobs_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'".encode())
        yield with_user(jobs_database, name)
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def guarded() -> Iterator[str]:
    """Give the URL of a PostgreSQL of the test's own that asks for a password."""
    need_programs()
    # Not below pytest's folder, where the server's user may not look.
    with TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), password=PASSWORD)
        yield cluster.url
        cluster.crash()


@pytest.fixture
def orders(store: str, shop: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder, the current one, with orders.csv of ten orders and a module `app` that has labels made."""
    (shop / "app.py").write_text(ORDERS, encoding="utf-8")
    rows = "".join(f"{number},{number}.50,\n" for number in range(1, 11))
    (shop / "orders.csv").write_text("id,price,tracking\n" + rows, encoding="utf-8")
    monkeypatch.setenv("LABELS_URL", labels.url)
    yield shop
    sys.modules.pop("app", None)


@pytest.fixture
def stuck_orders(orders: Path) -> Iterator[Path]:
    """Give that folder with a module `stuck`, whose handlers do not return."""
    (orders / "stuck.py").write_text(STUCK, encoding="utf-8")
    yield orders
    sys.modules.pop("stuck", None)


@pytest.fixture
def jobs(orders: Path, run: Callable[..., Said]) -> Callable[..., Said]:
    """Give a function that runs `holdfast jobs` here."""
    return lambda *arguments: run("jobs", *arguments)


@pytest.fixture
def start_jobs(orders: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts `holdfast jobs` as a process of its own, without a terminal."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: str, **environ: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "holdfast", "jobs", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=_environment(**environ),
            )
        )
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def jobs_process(start_jobs: Callable[..., subprocess.Popen[str]]) -> Callable[..., Said]:
    """Give a function that runs `holdfast jobs` as a process of its own, to its end."""

    def call(*arguments: str, **environ: str) -> Said:
        process = start_jobs(*arguments, **environ)
        out, err = process.communicate(timeout=60)
        return Said(process.returncode, out, err)

    return call


@pytest.fixture
def terminal(orders: Path) -> Iterator[Callable[..., Terminal]]:
    """Give a function that runs `holdfast jobs` on a terminal."""
    opened: list[Terminal] = []

    def call(*arguments: str) -> Terminal:
        opened.append(Terminal([sys.executable, "-m", "holdfast", "jobs", *arguments], _environment()))
        return opened[-1]

    yield call
    for one in opened:
        one.close()
