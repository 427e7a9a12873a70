"""Brokers of the test's own, which may be killed and started again."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from backend.tests.integration._services import needed
from backend.tests.integration.jobs._kill_outages import APART, Cluster, need_programs
from backend.tests.integration.jobs._outside import until


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server(Protocol):
    """What carries tickets."""

    @property
    def url(self) -> str:
        """Where it answers."""
        ...

    def start(self) -> None:
        """Let it answer; what it does not keep on disk is gone."""
        ...

    def crash(self) -> None:
        """Kill it."""
        ...


class _Process:
    """A server that is one process, with those it starts."""

    program: list[str]
    environ: dict[str, str]

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._running = subprocess.Popen(
            self.program,
            env={**os.environ, **self.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._answers, 60.0)

    def crash(self) -> None:
        """Kill it."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()
            self._running = None

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
            probe.settimeout(5.0)
            probe.sendall(self.greeting)
            return bool(probe.recv(1))
        return False

    greeting: bytes


class Redis(_Process):
    """A Redis that keeps nothing on disk."""

    greeting = b"PING\r\n"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        words = f"--port {self.port} --bind 127.0.0.1 --appendonly no --dir {folder}"
        self.program = ["redis-server", *words.split(), "--save", ""]
        self.environ = {}

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"redis://127.0.0.1:{self.port}/0"


class RabbitMQ(_Process):
    """A node of RabbitMQ, with a folder of its own."""

    greeting = b"AMQP\x00\x00\x09\x01"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        program = rabbitmq_program()
        assert program is not None
        self.program = [program]
        # With a name server of its own, which it starts.
        self._names = str(_free_port())
        self.environ = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"holdfast-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "ERL_EPMD_PORT": self._names,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def crash(self) -> None:
        """Kill it, and its name server, which outlives it."""
        super().crash()
        subprocess.run(
            ["epmd", "-kill"],  # the one of this port
            env={**os.environ, "ERL_EPMD_PORT": self._names, "ERL_EPMD_ADDRESS": "127.0.0.1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def rabbitmq_program() -> str | None:
    """Return the program of RabbitMQ, if it is installed: not the one of Debian's that changes the user."""
    found = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(found) if found.exists() else shutil.which("rabbitmq-server")


def need_server(kind: str) -> None:
    """Skip without the programs of a server, or fail if HOLDFAST_REQUIRE_SERVICES=1: of which, as `server` says."""
    if not kind:
        need_programs()
        return
    is_there = {
        "redis": shutil.which("redis-server"),
        "rabbitmq": rabbitmq_program() and shutil.which("epmd"),
    }
    program = f"{kind}-server"
    needed(None if is_there[kind] else f"{program} is not installed", f"install {program}, {APART}")


def server(kind: str, folder: Path) -> Server:
    """Start a server of a kind, "redis", "rabbitmq", or "" for PostgreSQL, with what it keeps in a folder."""
    if not kind:
        return Cluster(folder, connections=60)
    made = Redis(folder) if kind == "redis" else RabbitMQ(folder)
    made.start()
    return made
