"""A label service over HTTP that counts what it is asked for, and can fail, hold and be asked afterwards."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast


class Labels:
    """Makes a label for each POST /labels; GET /labels/KEY tells whether there is one. A context manager."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._asked: list[tuple[str, str]] = []
        self._made: dict[str, str] = {}
        self._held: set[str] = set()
        self._failing: dict[str, int] = {}
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "Labels":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def calls(self) -> dict[str, int]:
        """How many labels were asked for, by order."""
        with self._news:
            return Counter(order for order, _ in self._asked)

    @property
    def keys(self) -> dict[str, int]:
        """How many idempotency keys they came under, by order."""
        with self._news:
            return Counter(order for order, _ in set(self._asked))

    def hold(self, *orders: str) -> None:
        """Make the labels of these orders, but do not answer before `release`."""
        with self._news:
            self._held |= set(orders)

    def release(self) -> None:
        """Answer all."""
        with self._news:
            self._held.clear()
            self._news.notify_all()

    def fail(self, *orders: str, status: int = 400) -> None:
        """Answer these orders with a status, and make no label."""
        with self._news:
            self._failing.update(dict.fromkeys(orders, status))

    def mend(self) -> None:
        """Fail no more."""
        with self._news:
            self._failing.clear()

    def wait_for(self, number: int, timeout: float = 20.0) -> None:
        """Wait until `number` labels were asked for."""
        with self._news:
            assert self._news.wait_for(lambda: len(self._asked) >= number, timeout), self._asked

    def make(self, order: str, key: str) -> tuple[int, Any]:
        """Make a label, and answer."""
        with self._news:
            self._asked.append((order, key))
            self._news.notify_all()
            if order in self._failing:
                return self._failing[order], {"error": "no such street"}
            self._made[key] = f"T-{order}"
            self._news.wait_for(lambda: order not in self._held, 60)
        return 200, {"tracking": f"T-{order}"}

    def find(self, key: str) -> tuple[int, Any]:
        """Tell which label there is for a key."""
        with self._news:
            found = self._made.get(key)
        return (404, {}) if found is None else (200, {"tracking": found})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(*self._labels.make(row["id"], self.headers["Idempotency-Key"]))

    def do_GET(self) -> None:
        self._answer(*self._labels.find(self.path.removeprefix("/labels/")))

    @property
    def _labels(self) -> Labels:
        return cast(_Server, self.server).labels

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # whoever asked was killed

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
        pass
