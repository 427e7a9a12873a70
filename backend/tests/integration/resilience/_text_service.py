"""The reference service and its flaky model, each a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import holdfast

ROOT = Path(__file__).resolve().parents[4]
HOME = str(Path(holdfast.__file__).parents[1])
INTERNAL = "/internal/resilience"
FAILING = "qa"
OPERATIONS = ("summarize", "sentiment", "key_points", "questions", "qa")
# Two attempts, half a second apart: the shortest wait that a configuration may ask for.
CONFIGURATION = (
    '{"retry_attempts": 2, "circuit_breaker_threshold": 4, "recovery_timeout": 10, "exponential_multiplier": 0.1,'
    ' "exponential_min": 0.5, "exponential_max": 5, "jitter_max": 0.1}'
)


class TextService:
    """The running service: asks it, its internal API and its model."""

    def __init__(self, service: str, model: str) -> None:
        self.service = httpx.Client(base_url=service, timeout=30)
        self.model = httpx.Client(base_url=model, timeout=30)

    def ask(self, operation: str, text: str, question: str = "") -> httpx.Response:
        """Ask the service."""
        return self.service.post(f"/v1/{operation}", json={"text": text, "question": question})

    def fail(self, **faults: Any) -> None:
        """Let the model go wrong; without faults, let it be well."""
        self.model.put("/faults", json=faults or {"times": 0}).raise_for_status()

    def count(self, operation: str) -> int:
        """Return how many requests for an operation came to the model."""
        counts: dict[str, int] = self.model.get("/counts").json()
        return counts.get(operation, 0)

    def internal(self, path: str) -> Any:
        """Ask the internal API."""
        return self.service.get(INTERNAL + path).raise_for_status().json()

    def state(self, operation: str) -> str:
        """Return the state of an operation's breaker."""
        state: str = self.internal(f"/circuit-breakers/{operation}")["state"]
        return state

    def mend(self) -> None:
        """Let the model be well, and close every breaker."""
        self.fail()
        for one in self.internal("/circuit-breakers")["items"]:
            path = f"{INTERNAL}/circuit-breakers/{one['name']}/reset"
            self.service.post(path, json={"reason": "the next test"}).raise_for_status()

    def close(self) -> None:
        """Close the connections."""
        self.service.close()
        self.model.close()


@contextmanager
def started_text_service() -> Generator[TextService]:
    """Start both, and stop them."""
    with _started("model:create_model") as model, _started("service:create_service", MODEL_URL=model) as url:
        made = TextService(url, model)
        yield made
        made.close()


@contextmanager
def _started(factory: str, **environ: str) -> Generator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        command = ["uvicorn", "--factory", f"examples.text_service.{factory}", "--fd", str(listener.fileno())]
        with subprocess.Popen(
            [sys.executable, "-m", *command, "--log-level", "error"],
            cwd=ROOT,
            pass_fds=[listener.fileno()],
            env={**os.environ, "PYTHONPATH": HOME, "RESILIENCE_CUSTOM_CONFIG": CONFIGURATION, **environ},
        ) as process:
            try:
                # Connections wait in the listener's queue until the server takes them.
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                process.terminate()
                _reap(process)


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
