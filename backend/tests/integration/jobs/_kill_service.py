"""The outside service of the kill matrix: labels for orders, over HTTP, counted by idempotency key."""

import json
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Labels(ThreadingHTTPServer):
    """Makes a label for each POST to /labels, only the first time of each key for one to /once.

    `calls` and `effects`, by idempotency key, are its own count. GET /labels/KEY says whether there is one.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, pace: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Desk)
        self.pace = pace
        self.calls: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.open = 0
        # Labels are made at once; while this is not set, nobody is told.
        self.answering = threading.Event()
        self.answering.set()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def take(self, key: str, *, once: bool) -> None:
        """Make a label."""
        with self.lock:
            self.calls[key] += 1
            if not (once and self.effects[key]):
                self.effects[key] += 1

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connections whose requests are not through."""
        with self.lock:
            self.open += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer; a client that has died is no error."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.lock:
                self.open -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone."""

    def settle(self) -> None:
        """Wait until what a dead client has sent is done."""
        # One more connection, which is accepted after all of the dead one's.
        with socket.create_connection(("127.0.0.1", self.port), timeout=10):
            pass
        end = time.monotonic() + 10
        while self.open and time.monotonic() < end:
            time.sleep(0.002)
        assert not self.open, "requests hang"

    def forget(self) -> None:
        """Begin anew."""
        self.answering.set()
        self.calls.clear()
        self.effects.clear()

    def close(self) -> None:
        """End."""
        self.shutdown()
        self.server_close()


class _Desk(BaseHTTPRequestHandler):
    timeout = 20

    @property
    def labels(self) -> Labels:
        """Whose request this is."""
        assert isinstance(self.server, Labels)
        return self.server

    def do_POST(self) -> None:  # the name that http.server calls
        """Make a label."""
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["order"]
        self.labels.take(self.headers["Idempotency-Key"], once=self.path == "/once")
        time.sleep(self.labels.pace)
        self.labels.answering.wait(self.timeout)
        self._answer(200, {"label": f"L-{order}"})

    def do_GET(self) -> None:  # the name that http.server calls
        """Tell whether there is a label."""
        made = self.labels.effects[self.path.removeprefix("/labels/")]
        self._answer(200 if made else 404, {})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name of the method above
        """Be silent."""
