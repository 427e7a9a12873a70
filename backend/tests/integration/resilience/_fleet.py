"""A fleet of real processes that share one breaker."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import holdfast
from backend.tests.integration.resilience._redis import CountingRedis, connect

LIMIT = 20.0


def eventually(holds: Callable[[], bool], limit: float = LIMIT) -> float:
    """Wait until something holds; return how long it took, seconds. AssertionError if it never does."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < limit, "it did not come to hold"
        time.sleep(0.01)
    return time.monotonic() - began


class Member:
    """One process of a fleet."""

    def __init__(self, *facts: Any) -> None:
        program = Path(__file__).with_name("_fleet_worker.py")
        roots = [str(Path(holdfast.__file__).parents[1]), str(Path(__file__).parents[4])]
        self._process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(facts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        )

    def tell(self, command: object) -> None:
        """Say what to do, without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Wait for the next answer."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, command: object) -> str:
        """Say what to do and wait for the answer."""
        self.tell(command)
        return self.answer()

    def kill(self) -> None:
        """Kill it, as the kernel does that needs the memory."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Fleet:
    """Some processes with one breaker, in one namespace of Redis."""

    def __init__(self, url: str, namespace: str) -> None:
        self.client: CountingRedis = connect(url)
        self.url = url
        self.namespace = namespace
        self.members: list[Member] = []

    def start(
        self, *skews: float, mode: str = "sync", storage: dict[str, Any], **settings: Any
    ) -> list[Member]:
        """Start a process for each skew of its clock, and wait until all are ready."""
        started = [Member([self.url, self.namespace], mode, skew, storage, settings) for skew in skews]
        self.members += started
        assert [member.answer() for member in started] == ["ready"] * len(started)
        return started

    def counted(self, what: str) -> int:
        """Return how many calls were "admitted" and held, or "refused"."""
        found: Any = self.client.get(f"{self.namespace}:{what}")
        return int(found or 0)

    def let_go(self, calls: int) -> None:
        """Let so many of the calls that are held go on."""
        for _ in range(calls):
            self.client.execute_command("RPUSH", f"{self.namespace}:go", "on")

    def stop(self) -> None:
        """End every process."""
        for member in self.members:
            member.kill()
        self.client.close()
