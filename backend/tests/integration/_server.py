"""A real HTTP/1.1 server on a local port that treats each request as its script says: well, or badly."""

import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_JOIN_SECONDS = 5.0
_HOPELESS_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; `connection` counts from 1, `complete` says whether all of the body came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    complete: bool


class Link:
    """The server's end of one connection, while it answers one request (None before any was read)."""

    def __init__(self, sock: socket.socket, request: Received | None, stopping: threading.Event) -> None:
        self.sock = sock
        self.request = request
        self.stopping = stopping

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> bool:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()
        return False

    def reset_unread(self) -> bool:
        """Close with RST when a request has come, without reading it."""
        self.sock.recv(1, socket.MSG_PEEK)
        return self.reset()

    def hang(self) -> bool:
        """Say nothing until the client leaves or the server stops."""
        while self.sock.recv(4096):
            pass
        return False

    def drip(self, piece: bytes, interval: float) -> bool:
        """Send one piece after another until the client leaves or the server stops, or the client is hopeless."""
        ends = time.monotonic() + _HOPELESS_SECONDS
        while not self.stopping.wait(interval) and time.monotonic() < ends:
            self.send(piece)
        return False


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How to treat one request: `act` returns whether the connection can be used again.

    `early`: act on a connection as soon as it is accepted, in place of reading requests.
    """

    name: str
    act: Callable[[Link], bool]
    early: bool = False

    def __str__(self) -> str:
        return self.name


def respond(
    status: int = 200, body: bytes = b"ok", *, after: float = 0.0, chunked: bool = False, **headers: str
) -> Behaviour:
    """Answer properly, `after` seconds; `retry_after="1"` is the header Retry-After."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    data = _head(status, **fields, **_framing(body, chunked=chunked))
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body

    def act(link: Link) -> bool:
        if link.stopping.wait(after):
            return False
        without_body = link.request is not None and link.request.method == "HEAD"
        link.send(data if without_body else data + framed)
        return True

    return Behaviour(f"respond {status}", act)


def _framing(body: bytes, *, chunked: bool) -> dict[str, str]:
    return {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(body))}


def _head(status: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _send_then(data: bytes, then: Callable[[Link], bool]) -> Callable[[Link], bool]:
    def act(link: Link) -> bool:
        link.send(data)
        return then(link)

    return act


def _leave(_: Link) -> bool:
    return False


_PROMISE = _head(200, **{"content-length": "1000"})
_CHUNKED = _head(200, **{"transfer-encoding": "chunked"})
_HALF_A_HEAD = b"HTTP/1.1 200 OK\r\nX-Slow: "

HEALTHY = respond()
RESET_UNREAD = Behaviour("reset before reading the request", Link.reset_unread, early=True)
RESET = Behaviour("reset after the request", Link.reset)
RESET_IN_BODY = Behaviour("reset in the body", _send_then(_PROMISE + b"part", Link.reset))
DISCONNECT = Behaviour("disconnect without an answer", _leave)
GARBAGE = Behaviour("garbage", _send_then(b"\x00\x01 this is not HTTP\r\n\r\n", _leave))
HANG = Behaviour("hang before the headers", Link.hang)
HANG_IN_HEADERS = Behaviour("hang in the headers", _send_then(_HALF_A_HEAD, Link.hang))
HANG_IN_BODY = Behaviour("hang in the body", _send_then(_PROMISE + b"part", Link.hang))
TRUNCATED = Behaviour("truncated body", _send_then(_PROMISE + b"part", _leave))
TRUNCATED_CHUNKED = Behaviour("chunked body without its end", _send_then(_CHUNKED + b"4\r\npart\r\n", _leave))


def drip(interval: float = 0.005, *, status: int = 200) -> Behaviour:
    """Send the body a byte at a time, on and on."""
    head = _head(status, **{"transfer-encoding": "chunked"})
    return Behaviour(f"drip {status}", _send_then(head, lambda link: link.drip(b"1\r\nx\r\n", interval)))


def hang_in_failure(status: int = 503) -> Behaviour:
    """Send a failure whose body hangs."""
    head = _head(status, **{"content-length": "1000"})
    return Behaviour(f"hang in the body of {status}", _send_then(head + b"part", Link.hang))


def drip_headers(interval: float = 0.005) -> Behaviour:
    """Send the headers a byte at a time, on and on."""
    return Behaviour("drip in the headers", _send_then(_HALF_A_HEAD, lambda link: link.drip(b"x", interval)))


class FaultyServer:
    """Plays `script`, one behaviour a request, then `otherwise` for ever; `at` gives a path its own script.

    A context manager: leaving it ends every thread and closes every socket. Thread-safe.
    """

    def __init__(self, *script: Behaviour, otherwise: Behaviour = HEALTHY) -> None:
        self._lock = threading.Condition()
        self._script = deque(script)
        self._paths: dict[str, deque[Behaviour]] = {}
        self._otherwise = otherwise
        self._received: list[Received] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._begin()

    def play(self, *behaviours: Behaviour, otherwise: Behaviour | None = None) -> None:
        """Replace what is left of the script; the last behaviour of all is `otherwise`, if one is given."""
        with self._lock:
            self._script = deque(behaviours)
            self._otherwise = otherwise or self._otherwise

    def at(self, path: str, *behaviours: Behaviour) -> None:
        """Give `path` its own script; when it is played, the common one is used."""
        with self._lock:
            self._paths[path] = deque(behaviours)

    @property
    def received(self) -> tuple[Received, ...]:
        """Every request whose headers arrived, in order."""
        with self._lock:
            return tuple(self._received)

    @property
    def requests(self) -> int:
        """How many requests arrived."""
        return len(self.received)

    @property
    def by_path(self) -> Counter[str]:
        """How many requests arrived for each path."""
        return Counter(one.path for one in self.received)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies that arrived, in order."""
        return [one.body for one in self.received]

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        with self._lock:
            return self._accepted

    def wait_for_requests(self, number: int, timeout: float = 30.0) -> bool:
        """Wait until `number` requests have arrived; return whether they have."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self._received) >= number, timeout)

    def wait_for_connections(self, number: int, timeout: float = 30.0) -> bool:
        """Wait until `number` connections were accepted, perhaps after the client left; return whether they were."""
        with self._lock:
            return self._lock.wait_for(lambda: self._accepted >= number, timeout)

    def wait_until_unused(self, timeout: float = 5.0) -> bool:
        """Wait until no connection is open; return whether that came true."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._open, timeout)

    def die(self) -> None:
        """Cut every connection and refuse new ones."""
        self._end()
        # Bound but not listening: connections are refused, and nobody else can be given the port.
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))

    def revive(self) -> None:
        """Listen again, on the same port."""
        self._listener.listen()
        self._begin()

    def close(self) -> None:
        """End every thread and close every socket."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> None:
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name=self.url, daemon=True)
        self._acceptor.start()

    def _end(self) -> None:
        self._stopping.set()
        if self._acceptor.is_alive():
            self._wake_acceptor()
            self._acceptor.join(_JOIN_SECONDS)
        with self._lock:
            links, threads = list(self._open), list(self._threads)
            self._threads.clear()
        for sock in links:
            _shut(sock)
        for thread in threads:
            thread.join(_JOIN_SECONDS)
        self._listener.close()

    def _wake_acceptor(self) -> None:
        # Closing a listening socket wakes nobody who waits in accept(); a connection does.
        with socket.socket() as caller:
            caller.connect(("127.0.0.1", self.port))

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._stopping.is_set():
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._accepted += 1
                self._lock.notify_all()
                self._open.add(sock)
                serving = (sock, self._accepted)
                thread = threading.Thread(target=self._serve, args=serving, name=self.url, daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            self._answer_all(sock, number)
        except OSError:
            pass  # the client left, or the server stops
        finally:
            sock.close()
            with self._lock:
                self._open.discard(sock)
                self._lock.notify_all()

    def _answer_all(self, sock: socket.socket, number: int) -> None:
        early = self._take_early()
        if early is not None:
            early.act(Link(sock, None, self._stopping))
            return
        reader = _Reader(sock)
        while (request := reader.request(number)) is not None:
            behaviour = self._take(request)
            if not request.complete or not behaviour.act(Link(sock, request, self._stopping)):
                return

    def _take_early(self) -> Behaviour | None:
        with self._lock:
            return self._script.popleft() if self._script and self._script[0].early else None

    def _take(self, request: Received) -> Behaviour:
        with self._lock:
            self._received.append(request)
            self._lock.notify_all()
            own = self._paths.get(request.path)
            script = own or self._script
            return script.popleft() if script else self._otherwise


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed already


class _Reader:
    """Reads requests off a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""

    def request(self, connection: int) -> Received | None:
        """Return the next request, or None when the client has left."""
        head, complete = self._until(b"\r\n\r\n")
        if not complete:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body, complete = self._body(headers)
        return Received(method, path, headers, body, connection, complete)

    def _body(self, headers: dict[str, str]) -> tuple[bytes, bool]:
        if headers.get("transfer-encoding") == "chunked":
            return self._chunks()
        return self._exactly(int(headers.get("content-length", "0")))

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            line, complete = self._until(b"\r\n")
            if not complete:
                return body, False
            size = int(line, 16)
            data, complete = self._exactly(size + 2)
            body += data[:size]
            if not complete or size == 0:
                return body, complete

    def _until(self, end: bytes) -> tuple[bytes, bool]:
        while end not in self._buffer:
            if not self._more():
                return self._buffer, False
        found, _, self._buffer = self._buffer.partition(end)
        return found, True

    def _exactly(self, size: int) -> tuple[bytes, bool]:
        while len(self._buffer) < size:
            if not self._more():
                return self._buffer, False
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found, True

    def _more(self) -> bool:
        try:
            data = self._sock.recv(65536)
        except OSError:
            data = b""
        self._buffer += data
        return bool(data)
