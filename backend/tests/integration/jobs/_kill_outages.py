"""Takeovers by the clock, a PostgreSQL that can be crashed, and connections that can be ended."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from backend.tests.integration._services import needed
from backend.tests.integration.jobs._kill_job import JOB, Plan
from backend.tests.integration.jobs._kill_worker import KILLED, Nursery
from backend.tests.integration.jobs._outside import until
from holdfast.infrastructure.store.state import StateStore

APART = "whose server is started beside the one that all tests share, and killed"
"""What a program is needed for, although its server answers."""
INSTALLED = Path("/usr/lib/postgresql")
TERMINATE = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def begun(store: StateStore) -> bool:
    """Return whether calls of the job are under way."""
    return bool(store.jobs()) and store.job(JOB).counts.in_flight > 0


def takeover(
    store: StateStore, one: Nursery, other: Nursery, plan: Plan, wait: float = 0.2, **dead: Any
) -> float:
    """Kill a worker in its calls, seconds after another came; return the seconds until that one takes them back."""
    victim = one.start(replace(plan, pace=20.0, handler="again", **dead))
    until(lambda: begun(store))
    other.start(replace(plan, handler="again", poll=0.5))
    until(lambda: len(store.workers()) == 2)
    time.sleep(wait)
    os.kill(victim, signal.SIGKILL)
    died = store.now()
    assert one.ended() == KILLED
    assert other.ended() == 0
    back = [event.at for event in store.events(JOB, kinds=["step"]) if event.state == "pending"]
    return back[0] - died


def terminate(url: str) -> int:
    """End every other connection to a database; return how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(TERMINATE).fetchone()
        return int(found[0]) if found else 0


def need_programs() -> None:
    """Skip without PostgreSQL's own programs, or fail if HOLDFAST_REQUIRE_SERVICES=1."""
    problem = "PostgreSQL's own programs, initdb and pg_ctl, are not installed"
    needed(None if programs() else problem, f"install postgresql, {APART}")


def programs() -> Path | None:
    """Return the folder of PostgreSQL's own programs, if there is one."""
    found = sorted(INSTALLED.glob("*/bin/pg_ctl"))
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        return Path(os.path.realpath(on_path)).parent
    return found[-1].parent if found else None


class Cluster:
    """A PostgreSQL of its own, in a folder, that nobody else uses; with a `password`, it asks for that."""

    def __init__(self, folder: Path, password: str = "", connections: int = 20) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._data = folder / "data"
        # The server refuses to run as root.
        self._user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "postgres", "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._password = password
        self._connections = connections
        secret = folder / "password"
        secret.write_text(password or "none", encoding="ascii")
        auth = f"--auth={'scram-sha-256' if password else 'trust'}"
        words = (auth, f"--pwfile={secret}", "--username=postgres", "--no-sync", "-D", str(self._data))
        self._run("initdb", *words)
        self.start()

    @property
    def url(self) -> str:
        """Its database."""
        user = f"postgres:{self._password}" if self._password else "postgres"
        return f"postgresql://{user}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Let it answer."""
        options = f"-p {self._port} -h 127.0.0.1 -c unix_socket_directories="
        options = f"{options} -c max_connections={self._connections}"
        log = str(self._data.parent / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", log, "-o", options)

    def crash(self) -> None:
        """End it as a loss of power would end its processes: nothing is tidied up."""
        self._run("pg_ctl", "stop", "-m", "immediate", "-D", str(self._data))

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [str(self._programs / program), *words],
            check=True,
            cwd=self._data.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._user,
        )
