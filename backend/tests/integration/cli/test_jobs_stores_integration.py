"""`holdfast jobs` and a store that cannot be used: what it says, its exit code, and no password anywhere."""

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from backend.tests.integration.cli._labels import Labels
from backend.tests.integration.cli._terminal import CTRL_C, Terminal
from backend.tests.integration.cli.conftest import PASSWORD, Said, both_stores, stores, with_user
from backend.tests.integration.jobs._kill_outages import terminate
from backend.tests.integration.jobs._relay import Relay

Jobs = Callable[..., Said]
RUN = ("run", "orders.csv", "app:plain", "--mode", "auto")
COMMANDS = (("list",), RUN, ("worker",), ("status", "01"))


def ask(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run a statement on a database; return its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def refused(said: Said, code: int, *words: str) -> None:
    """Check that a command ended with a code and a sentence that has these words, and told no password."""
    assert (said.code, said.out) == (code, "")
    assert [word for word in words if word not in said.err] == [], said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    assert PASSWORD not in said.err
    assert PASSWORD[:4] not in said.err


def test_a_server_that_does_not_answer(jobs: Jobs) -> None:
    """Where nobody listens, commands end with 3: start the server, or correct the URL."""
    url = f"postgresql://shop:{PASSWORD}@127.0.0.1:1/orders"
    for command in COMMANDS:
        refused(
            jobs(*command, "--store", url),
            3,
            "postgresql://127.0.0.1:1/orders: ",
            "refused",
            "start the server",
        )


@stores("postgresql")
def test_a_database_that_is_not_there(jobs: Jobs, store: str) -> None:
    """A misspelt database ends commands with 3, and nobody is told to start the server that has answered."""
    parts = urlsplit(with_user(store, urlsplit(store).username or ""))
    if urlsplit(store).password:
        parts = urlsplit(store)
    url = parts._replace(path="/no_such_database").geturl()
    for command in COMMANDS:
        said = jobs(*command, "--store", url)
        refused(said, 3, '"no_such_database" does not exist', "create the database, or correct its name")
        assert "start the server" not in said.err


def test_a_wrong_password(jobs: Jobs, guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password, or none, ends commands with 3, the right one with 0; it is not printed, right or wrong."""
    remedy = "correct user and password in the URL, or in PGPASSWORD"
    for url in (guarded.replace(PASSWORD, f"{PASSWORD}-hush"), guarded.replace(f":{PASSWORD}", "")):
        for command in (("list",), RUN):
            refused(jobs(*command, "--store", url), 3, "password", remedy)
    said = jobs(*RUN, "--store", guarded)
    assert (said.code, PASSWORD in said.out + said.err) == (0, False)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert jobs("list", "--store", guarded.replace(f":{PASSWORD}", "")).code == 0


@pytest.mark.parametrize(
    "address",
    [
        "shop:hush/hush@127.0.0.1/orders",
        "shop:1/hush@127.0.0.1/orders",
        "shop:hush@hush@127.0.0.1/orders",
        "shop:hush",
        "shop:hush%zz@127.0.0.1/orders",
        "127.0.0.1/orders?password=hush&hush",
    ],
)
@pytest.mark.usefixtures("store")
def test_a_url_that_cannot_be_read(jobs: Jobs, address: str) -> None:
    """A password that is not percent-encoded may look like a port or host: nothing is repeated; exit code 2."""
    for command in (("list",), RUN):
        refused(jobs(*command, "--store", f"postgresql://{address}"), 2, "cannot be read", "percent-encoded")


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "mysql"])
def test_a_scheme_of_no_store(jobs: Jobs, scheme: str) -> None:
    """What is no store is named without its password, and ends with 2."""
    url = f"{scheme}://shop:{PASSWORD}@127.0.0.1/orders?password={PASSWORD}"
    refused(jobs("list", "--store", url), 2, f"'{scheme}://127.0.0.1/orders' names no store")


@pytest.mark.usefixtures("store")
def test_a_table_of_dynamodb_is_for_python(jobs: Jobs) -> None:
    """Commands refuse it, and name what takes it; exit code 2."""
    for command in (("list",), RUN):
        said = jobs(*command, "--store", "dynamodb://orders?region=eu-central-1")
        refused(said, 2, "--store is 'dynamodb://orders': this command takes", "open_jobs")


@stores("postgresql")
def test_looking_makes_nothing(jobs: Jobs, store: str) -> None:
    """Only what submits makes a schema: to list jobs of a database that has none is wrong use, as of a file."""
    for command in (("list",), ("status", "01"), ("interrupted",), ("approve", "01")):
        refused(jobs(*command), 2, "there are no jobs of tenant 'default' in postgresql://")
    refused(jobs(*RUN, "--tenant", "acme"), 2, "no jobs of tenant 'acme'", "`holdfast jobs run --create`")
    assert ask(store, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'holdfast%'") == []


@stores("postgresql")
def test_a_role_that_may_not_make_schemas(jobs: Jobs, stranger: str, store: str) -> None:
    """Who may not make a tenant's schema is told what to grant, with 3; with that, it works."""
    database = urlsplit(store).path[1:]
    refused(jobs(*RUN, "--store", stranger), 3, "permission denied", "GRANT CREATE ON DATABASE")
    ask(store, f"GRANT CREATE ON DATABASE {database} TO {urlsplit(stranger).username}")
    assert jobs(*RUN, "--store", stranger).code == 0


@stores("postgresql")
def test_a_schema_that_was_made_for_a_role(jobs: Jobs, stranger: str, store: str) -> None:
    """A role needs no right to make schemas where an administrator has made the tenant's, empty, its own."""
    ask(store, f"CREATE SCHEMA holdfast_default AUTHORIZATION {urlsplit(stranger).username}")
    assert jobs(*RUN, "--store", stranger).code == 0


@stores("postgresql")
def test_a_role_that_may_not_use_the_schema(jobs: Jobs, stranger: str) -> None:
    """Another's schema ends commands with 3, and says what to grant."""
    assert jobs(*RUN).code == 0
    for command in (("list",), RUN):
        said = jobs(*command, "--store", stranger)
        refused(said, 3, "permission denied for schema holdfast_default", "GRANT USAGE ON SCHEMA")


@both_stores
def test_a_schema_of_a_newer_version(jobs: Jobs, orders: Path, store: str) -> None:
    """A store that a newer holdfast has migrated is left alone: 3, both versions, and what to install."""
    assert jobs(*RUN).code == 0
    statement = "UPDATE {}alembic_version SET version_num = '9999'"
    if store.startswith("sqlite"):
        with closing(sqlite3.connect(orders / "holdfast.db")) as file, file:
            file.execute(statement.format(""))
    else:
        ask(store, statement.format("holdfast_default."))
    for command in COMMANDS:
        refused(
            jobs(*command), 3, "its schema has version 9999, this holdfast knows up to", "install the version"
        )


@stores("postgresql")
def test_a_fleet_tells_why_its_processes_cannot_begin(
    jobs: Jobs, start_jobs: Callable[..., subprocess.Popen[str]], labels: Labels, store: str
) -> None:
    """A worker names its store without the password; a process that cannot use the store says why in a line."""
    facts = jobs("run", "orders.csv", "app:ship", "--json").facts
    named = store if urlsplit(store).password else with_user(store, urlsplit(store).username or "")
    labels.hold("1")
    fleet = start_jobs("worker", "--processes", "2", "--concurrency", "1", "--store", named)
    assert jobs("approve", facts["job"], facts["digest"]).code == 0
    labels.wait_for(1)
    events = map(json.loads, jobs("events", facts["job"], "--json").out.splitlines())
    (worker,) = {one["data"]["worker"] for one in events if one["kind"] == "step"}
    victim = int(worker.split("-")[-2])
    ask(store, "UPDATE holdfast_default.alembic_version SET version_num = '9999'")
    os.kill(victim, signal.SIGKILL)
    assert fleet.stderr is not None
    said = [fleet.stderr.readline() for _ in range(2)]
    labels.release()
    fleet.send_signal(signal.SIGTERM)
    assert fleet.stdout is not None
    out, err = fleet.stdout.read(), fleet.stderr.read()
    assert f"worker process {victim} ended with -9" in said[0]
    assert "its schema has version 9999" in said[1]
    assert out.startswith("working on postgresql://")
    everything = "".join([out, *said, err])
    assert "Traceback" not in everything
    assert PASSWORD not in everything


@stores("postgresql")
def test_ctrl_c_twice_stops_though_the_server_is_away(
    terminal: Callable[..., Terminal], jobs: Jobs, labels: Labels, store: str
) -> None:
    """When the server does not come back, the second Ctrl-C leaves all the same, and resume goes on."""
    parts = urlsplit(store)
    relay = Relay(parts.hostname or "127.0.0.1", parts.port or 5432)
    user = f"{parts.netloc.rpartition('@')[0]}@" if parts.username else ""
    through = parts._replace(netloc=f"{user}127.0.0.1:{relay.port}").geturl()
    labels.hold("3")
    run = terminal(
        "run", "orders.csv", "app:careful", "--mode", "auto", "--concurrency", "1", "--store", through
    )
    labels.wait_for(3)
    relay.close()
    terminate(store)
    labels.release()
    run.type(CTRL_C)
    run.expect("stopping:")
    run.type(CTRL_C)
    run.expect("left, for the store does not answer")
    assert run.wait() == 130
    (left,) = jobs("interrupted", "--json").facts
    assert jobs("resume", left["job"]["id"]).code == 0
    assert labels.calls == {str(number): 1 for number in range(1, 11)}
