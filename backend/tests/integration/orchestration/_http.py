"""Applications served over real sockets: in a thread of the test, or by a process of their own."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from backend.tests.integration.orchestration._local import Machine
from backend.tests.integration.orchestration._yard import Yard, wait_until
from holdfast.services.jobs.graphs.http import HttpTarget, SignedUrls

KEY = "the-key-of-the-tests"
SECRET = b"the secret of the tests"


@contextmanager
def serving(app: Any, listener: socket.socket | None = None) -> Generator[str]:
    """Serve an application in a thread; give its address."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def listening() -> tuple[socket.socket, str]:
    """Return a socket that listens, and its address, for an application that has to know it."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def worker(concurrency: int = 4) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """Start a worker as a process of its own; give the address of its orders, and the process."""
    command = [sys.executable, "-m", __name__, str(concurrency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0], process
        finally:
            process.terminate()


def main() -> None:
    """Serve a worker until it is told to stop."""
    from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
    from holdfast.api.internal.runs.worker import PREFIX, create_worker_app

    concurrency = int(sys.argv[1])
    app = create_worker_app(keys=ApiKeys([ApiKey("runs", KEY, "operate")]), concurrency=concurrency)
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)).run(
        sockets=[listener]
    )


if __name__ == "__main__":
    main()


@dataclass
class Remote:
    """Runs whose orders are executed by a worker process."""

    machine: Machine
    urls: SignedUrls
    target: HttpTarget
    worker: subprocess.Popen[str]

    @property
    def yard(self) -> Yard:
        return self.machine.yard

    def submit(self, *orders: dict[str, object]) -> str:
        return self.machine.submit(*orders)
