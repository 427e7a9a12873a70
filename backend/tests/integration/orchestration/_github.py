"""An HTTP server that answers as GitHub does where comments are concerned, and fails as it does."""

import json
import re
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

TOKEN = "the-token-of-the-tests"
MOST = 100
TOKENS = {"ci": TOKEN, "bad": "wrong"}


class GitHub:
    """Comments of repositories; `script`: answers to come first, `after`: after a request had its effect."""

    def __init__(self) -> None:
        self.comments: dict[int, dict[str, Any]] = {}
        self.script: deque[tuple[int, dict[str, str]]] = deque()
        self.after: deque[int] = deque()
        self.asked: list[str] = []
        self.next_elsewhere = False
        self.lock = threading.Lock()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "GitHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, place: str, body: str, *, mine: bool = True) -> int:
        """Write a comment; return its id."""
        number = len(self.comments) + 1
        self.comments[number] = {"id": number, "body": body, "place": place, "mine": mine}
        return number

    def bodies(self, place: str) -> list[str]:
        """Return the comments of a pull request, in order."""
        return [one["body"] for one in self.comments.values() if one["place"] == place]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: GitHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as it is named there
        """Say nothing."""

    def _handle(self) -> None:
        hub = cast("_Server", self.server).hub
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with hub.lock:
            hub.asked.append(f"{self.command} {self.path}")
            if hub.script:
                status, headers = hub.script.popleft()
                self._answer(status, {"message": "slow down"}, headers)
                return
            status, found, headers = self._do(hub, data)
            if self.command != "GET" and hub.after:
                status = hub.after.popleft()
                if not status:
                    self.close_connection = True
                    return
            self._answer(status, found, headers)

    def _do(self, hub: GitHub, data: bytes) -> tuple[int, Any, dict[str, str]]:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}, {}
        path = urlsplit(self.path)
        if one := re.fullmatch(r"/repos/[^/]+/[^/]+/issues/comments/(\d+)", path.path):
            comment = hub.comments.get(int(one[1]))
            if comment is None:
                return 404, {"message": "Not Found"}, {}
            if not comment["mine"]:
                return 403, {"message": "Must have admin rights"}, {}
            comment["body"] = json.loads(data)["body"]
            return 200, comment, {}
        if self.command == "POST":
            number = hub.add(path.path, json.loads(data)["body"])
            return 201, hub.comments[number], {}
        return self._page(hub, path.path, parse_qs(path.query))

    def _page(self, hub: GitHub, place: str, asked: dict[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        size, page = min(int(asked["per_page"][0]), MOST), int(asked.get("page", ["1"])[0])
        found = [one for one in hub.comments.values() if one["place"] == place]
        more = len(found) > size * page
        base = "http://elsewhere.invalid" if hub.next_elsewhere else hub.url
        link = f'<{base}{place}?per_page={size}&page={page + 1}>; rel="next"'
        return 200, found[size * (page - 1) : size * page], {"Link": link} if more else {}

    def _answer(self, status: int, found: Any, headers: dict[str, str]) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
