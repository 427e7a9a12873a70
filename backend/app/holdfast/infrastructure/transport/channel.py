"""Request/reply over WebSocket: commands to named peers, which execute each of them once (extra `channel`)."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from inspect import isawaitable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience._frozen import Faults, Frozen
from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.clock import Clock, current_clock
from holdfast.infrastructure.resilience.deadline import remaining
from holdfast.infrastructure.resilience.errors import (
    CommandFailed,
    PeerBusy,
    PeerDisconnected,
    PeerNotConnected,
    PeerRefused,
    ReplyTimeout,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.transport import _channel_frames as frames
from holdfast.infrastructure.transport import _channel_session as sessions
from holdfast.infrastructure.transport._channel_checks import (
    check_name,
    check_request,
    check_server,
    check_token,
    check_url,
    is_a,
    is_name,
)
from holdfast.infrastructure.transport._channel_executor import Executor, cancel, current_id
from holdfast.infrastructure.transport._channel_ledger import MALFORMED, Ledger, Pending
from holdfast.infrastructure.transport._channel_memory import Memory
from holdfast.infrastructure.transport._channel_session import Outbox, Session
from holdfast.infrastructure.transport._channel_websockets import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from random import Random
    from ssl import SSLContext
    from types import TracebackType
    from typing import Protocol, Self, TypeAlias, TypeVar

    from holdfast.infrastructure.transport._channel_frames import Reply

    _Authenticate: TypeAlias = Callable[[str, str], bool | Awaitable[bool]]
    _Action: TypeAlias = Callable[[Any], Any]
    _A = TypeVar("_A", bound=_Action)

    class _Handler(Protocol):
        def __call__(self, payload: Any = None, *, idempotency_key: str) -> Coroutine[Any, Any, Any]: ...


_MOST = 1_000_000_000
_LONGEST = 1e9  # seconds, 31 years
_SMALLEST_FRAME = 1_024  # a reply that says what failed has room
_LARGEST_PORT = 65_535
_BACKOFF = Backoff(base=0.5, cap=30.0)
_SOUND = 1.0  # seconds after which a connection that is lost was none that fails at once
_REFUSALS = HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN


def current_request_id() -> str | None:
    """Return the id of the command that the running action executes: the same whenever it is sent; None outside."""
    return current_id.get()


class ChannelServerConfig(Frozen):
    """The settings of a `ChannelServer`, validated: frozen, keyword-only, comparable."""

    __slots__ = (
        "clock",
        "host",
        "max_size",
        "name",
        "ping_interval",
        "port",
        "remember",
        "resume_for",
        "timeout",
    )

    name: str
    host: str
    port: int
    timeout: float
    resume_for: float
    max_size: int
    remember: int
    ping_interval: float | None
    clock: Clock | None

    def __init__(
        self,
        *,
        name: str = "channel",
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = 60.0,
        resume_for: float = 0.0,
        max_size: int = 1_048_576,
        remember: int = 10_000,
        ping_interval: float | None = 20.0,
        clock: Clock | None = None,
    ) -> None:
        faults = Faults("ChannelServer")
        check_name(faults, "name", name)
        faults.check(is_a(host, str) and host, "host", host, "is no host", 'give a str such as "127.0.0.1"')
        faults.number("port", port, 0, _LARGEST_PORT, whole=True)
        faults.number("timeout", timeout, 0, _LONGEST, above=True)
        faults.number("resume_for", resume_for, 0, _LONGEST)
        faults.number("max_size", max_size, _SMALLEST_FRAME, _MOST, whole=True)
        faults.number("remember", remember, 1, _MOST, whole=True)
        faults.number("ping_interval", ping_interval, 0, _LONGEST, above=True, optional=True)
        faults.check(clock is None or is_a(clock, Clock), "clock", clock, "is no Clock", "give one or None")
        faults.finish()
        self._set(name=name, host=host, port=port, timeout=float(timeout), resume_for=float(resume_for))
        self._set(max_size=max_size, remember=remember, ping_interval=ping_interval, clock=clock)


class ChannelServer:
    """Where peers connect, and who sends them commands; `async with` starts and closes it. For one event loop.

    `authenticate(peer, token)` says, sync or async, whether a peer is who it says. `resume_for`: seconds for which
    commands wait for a lost peer to come back; 0: they fail at once. `secret`: makes the ids of commands with an
    idempotency key; give the same one after a restart, so that peers know them again. `remember`: how many ended
    commands it can tell from unknown ones. `max_size`: bytes of a frame. Frames that make no sense change nothing.
    """

    def __init__(
        self,
        authenticate: _Authenticate,
        *,
        name: str = "channel",
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = 60.0,
        resume_for: float = 0.0,
        max_size: int = 1_048_576,
        remember: int = 10_000,
        ping_interval: float | None = 20.0,
        secret: bytes | None = None,
        ssl: SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = ChannelServerConfig(
            name=name,
            host=host,
            port=port,
            timeout=timeout,
            resume_for=resume_for,
            max_size=max_size,
            remember=remember,
            ping_interval=ping_interval,
            clock=clock,
        )
        check_server(authenticate, secret)
        self._authenticate = authenticate
        self._secret = sessions.new_secret() if secret is None else secret
        self._ssl = ssl
        self._ledger = Ledger(remember)
        self._sessions: dict[str, Session] = {}
        self._arrivals: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: Any = None
        self._closing = False

    @property
    def config(self) -> ChannelServerConfig:
        """The settings."""
        return self._config

    @property
    def port(self) -> int:
        """The port it listens on. RuntimeError before it is started."""
        if self._server is None:
            raise RuntimeError("the channel's server is not started: use `async with` or await start()")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where peers connect. RuntimeError before it is started."""
        host = self._config.host
        shown = f"[{host}]" if ":" in host else host
        return f"{'ws' if self._ssl is None else 'wss'}://{shown}:{self.port}"

    @property
    def peers(self) -> tuple[str, ...]:
        """The names of the peers that are connected now, sorted."""
        return tuple(sorted(name for name, one in self._sessions.items() if one.socket is not None))

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many frames changed nothing, by reason: `late`, `duplicate`, `foreign`, `unknown`, `malformed`."""
        return MappingProxyType(self._ledger.ignored)

    async def start(self) -> None:
        """Listen. OSError if it cannot, ImportError without the package websockets."""
        if self._server is not None or self._closing:
            raise RuntimeError("the channel's server was started before: make a new one")
        config = self._config
        self._server = await load().serve(
            self._serve,
            config.host,
            config.port,
            process_request=self._admit,
            process_response=self._welcome,
            max_size=config.max_size,
            ping_interval=config.ping_interval,
            ping_timeout=config.ping_interval,
            compression=None,
            ssl=self._ssl,
        )

    async def close(self) -> None:
        """Fail what waits, say goodbye to the peers and stop listening; a second time does nothing."""
        self._closing = True
        for session in tuple(self._sessions.values()):
            self._end(session)
        for peer in tuple(self._arrivals):
            self._arrivals.pop(peer).set_result(None)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        await cancel(self._tasks)

    async def wait_for(self, peer: str) -> None:
        """Wait until `peer` is connected. RuntimeError if the server is closed."""
        while peer not in self._sessions or self._sessions[peer].socket is None:
            if self._closing:
                raise RuntimeError(f"the channel's server is closed: peer {peer!r} cannot connect any more")
            if peer not in self._arrivals:
                self._arrivals[peer] = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._arrivals[peer])

    async def request(
        self,
        peer: str,
        action: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Let `peer` execute `action` and return what it replies, within `timeout` seconds and the deadline in force.

        Sent again with the same `idempotency_key`, a command is the same one: the peer that has executed it replies
        what it replied then. Without a key each call is a command of its own. Raises PeerNotConnected,
        PeerDisconnected, ReplyTimeout, PeerBusy, CommandFailed; TypeError and ValueError for what is no JSON or too
        large for the peer.
        """
        check_request(peer, action, timeout, idempotency_key)
        request_id = sessions.request_id(self._secret, peer, action, idempotency_key)
        frame = frames.command(request_id, action, payload)
        seconds = self._seconds(timeout)
        if seconds <= 0:
            raise ReplyTimeout(peer, action, 0.0, may_have_run=self._ledger.began(request_id))
        pending = self._pending(peer, action, request_id, frame)
        return _result(pending, await self._reply(pending, seconds))

    def handler(self, peer: str, action: str, *, timeout: float | None = None) -> _Handler:
        """Return an async function of a payload and an `idempotency_key`, to put under policies or into a job."""
        check_request(peer, action, timeout, None)

        async def send(payload: Any = None, *, idempotency_key: str) -> Any:
            return await self.request(peer, action, payload, timeout=timeout, idempotency_key=idempotency_key)

        # What policies around it call it.
        send.__module__, send.__name__ = self._config.name, action
        send.__qualname__ = f"{peer}.{action}"
        return send

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    # Commands

    def _seconds(self, timeout: float | None) -> float:
        seconds, left = self._config.timeout if timeout is None else timeout, remaining()
        return seconds if left is None else min(seconds, left)

    def _pending(self, peer: str, action: str, request_id: str, frame: str) -> Pending:
        """Return the command that waits, the one that waits already if it is the same."""
        waiting = self._ledger.waiting(request_id)
        if waiting is not None:
            if not waiting.is_same(frame):
                raise CommandFailed(
                    peer, action, frames.REUSED, "another payload waits under this idempotency key"
                )
            return waiting
        session = self._sessions.get(peer)
        if session is None:
            raise PeerNotConnected(peer, action, may_have_run=self._ledger.began(request_id))
        if len(frame) > session.limit:
            raise ValueError(
                f"the command {action!r} has {len(frame)} bytes and peer {peer!r} takes {session.limit}: send less"
            )
        pending = Pending(peer, action, request_id, frame, asyncio.get_running_loop().create_future())
        self._ledger.open(pending)
        session.outbox.put(pending)
        return pending

    async def _reply(self, pending: Pending, seconds: float) -> Reply | None:
        pending.waiters += 1
        try:
            async with Timeout(seconds, name=self._config.name, clock=self._config.clock):
                return await asyncio.shield(pending.reply)
        except TimeoutExceeded:
            raise ReplyTimeout(pending.peer, pending.action, seconds, may_have_run=pending.sent) from None
        finally:
            pending.waiters -= 1
            if not pending.waiters:
                self._ledger.close(pending, answered=False)

    # Connections

    async def _admit(self, socket: Any, request: Any) -> Any:
        """Return the answer for a peer that may not connect, None for one that may."""
        name = sessions.only(request.headers, sessions.PEER_HEADER)
        if not is_name(name):
            return socket.respond(HTTPStatus.BAD_REQUEST, f"{sessions.PEER_HEADER} is no name\n")
        scheme, _, token = sessions.only(request.headers, "Authorization").partition(" ")
        verdict: Any = scheme.lower() == "bearer" and token.isascii() and self._authenticate(name, token)
        if isawaitable(verdict):
            verdict = await verdict
        return None if verdict else socket.respond(HTTPStatus.UNAUTHORIZED, "the token is not accepted\n")

    def _welcome(self, socket: Any, request: Any, response: Any) -> None:
        """Tell a peer its session, the one that it had if that is still known."""
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            return
        session = self._sessions.get(sessions.only(request.headers, sessions.PEER_HEADER))
        offered = sessions.only(request.headers, sessions.SESSION_HEADER)
        known = session is not None and session.knows(offered)
        response.headers[sessions.SESSION_HEADER] = offered if known else sessions.new_token()
        response.headers[sessions.SIZE_HEADER] = str(self._config.max_size)

    async def _serve(self, socket: Any) -> None:
        """Serve one connection to its end."""
        session = self._join(socket)
        writer = asyncio.create_task(self._write(session.outbox, socket))
        try:
            async for frame in socket:
                self._receive(session.name, frame)
        except load().exceptions.ConnectionClosed:
            pass
        finally:
            await cancel({writer})
            self._leave(session, socket)

    async def _write(self, outbox: Outbox, socket: Any) -> None:
        while True:
            pending = await outbox.take()
            if self._ledger.waiting(pending.request_id) is pending:
                pending.sent = True
                await socket.send(pending.frame)

    def _join(self, socket: Any) -> Session:
        """Give a connection to the session of its peer, an old one or a new one."""
        name = socket.request.headers[sessions.PEER_HEADER]
        token = socket.response.headers[sessions.SESSION_HEADER]
        session = self._sessions.get(name)
        resumed = session is not None and session.knows(token)
        if session is not None:
            self._replace(session)
            if not resumed:
                self._end(session)
        if session is None or not resumed:
            session = self._sessions[name] = Session(name, token)
        limit = sessions.size_limit(socket.request.headers, _MOST)
        session.attach(socket, limit, self._ledger.of(name))
        self._tell("PeerJoined", peer=name, resumed=resumed)
        if name in self._arrivals:
            self._arrivals.pop(name).set_result(None)
        return session

    def _replace(self, session: Session) -> None:
        if session.socket is not None:
            self._begin(session.socket.close(sessions.REPLACED, "another connection took its place"))
            session.socket = None

    def _receive(self, peer: str, frame: str | bytes) -> None:
        try:
            ignored = self._ledger.settle(peer, frames.read_reply(frame))
        except frames.BadFrame as bad:
            ignored = self._ledger.reject(peer, bad)
        if ignored is not None:
            self._tell("FrameIgnored", peer=peer, reason=ignored)

    def _leave(self, session: Session, socket: Any) -> None:
        """Take a connection that has ended from its session, unless another one took its place."""
        if session.socket is not socket:
            return
        session.socket = None
        self._tell("PeerLeft", peer=session.name, waiting=len(self._ledger.of(session.name)))
        if socket.close_code in sessions.GOODBYE or not self._config.resume_for or self._closing:
            self._end(session)
        else:
            session.expiry = self._begin(self._expire(session))

    async def _expire(self, session: Session) -> None:
        await (self._config.clock or current_clock()).asleep(self._config.resume_for)
        session.expiry = None
        self._end(session)

    def _end(self, session: Session) -> None:
        """Forget a session: what waits for its peer fails."""
        session.stop_expiry()
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
        self._ledger.lose(session.name)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell(self, kind: str, **facts: object) -> None:
        if bus.entries:
            emit(kind, self._config.name, **facts)


class ChannelPeerConfig(Frozen):
    """The settings of a `ChannelPeer`, validated: frozen, keyword-only, comparable."""

    __slots__ = (
        "backoff",
        "clock",
        "concurrency",
        "max_size",
        "name",
        "ping_interval",
        "queue",
        "random",
        "remember",
        "remember_bytes",
        "url",
    )

    url: str
    name: str
    backoff: Backoff
    concurrency: int
    queue: int
    remember: int
    remember_bytes: int
    max_size: int
    ping_interval: float | None
    clock: Clock | None
    random: Random | None

    def __init__(
        self,
        *,
        url: str,
        name: str,
        backoff: Backoff = _BACKOFF,
        concurrency: int = 16,
        queue: int = 1_000,
        remember: int = 10_000,
        remember_bytes: int = 16_777_216,
        max_size: int = 1_048_576,
        ping_interval: float | None = 20.0,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        faults = Faults("ChannelPeer")
        check_url(faults, url)
        check_name(faults, "name", name)
        fine = is_a(backoff, Backoff)
        faults.check(fine, "backoff", backoff, "is no Backoff", "give one, such as Backoff(base=0.5)")
        faults.number("concurrency", concurrency, 1, _MOST, whole=True)
        faults.number("queue", queue, 0, _MOST, whole=True)
        faults.number("remember", remember, 1, _MOST, whole=True)
        faults.number("remember_bytes", remember_bytes, 0, whole=True)
        faults.number("max_size", max_size, _SMALLEST_FRAME, _MOST, whole=True)
        faults.number("ping_interval", ping_interval, 0, _LONGEST, above=True, optional=True)
        faults.check(clock is None or is_a(clock, Clock), "clock", clock, "is no Clock", "give one or None")
        faults.finish()
        self._set(url=url, name=name, backoff=backoff, concurrency=concurrency, queue=queue)
        self._set(remember=remember, remember_bytes=remember_bytes, max_size=max_size)
        self._set(ping_interval=ping_interval, clock=clock, random=random)


class ChannelPeer:
    """Executes the commands of a `ChannelServer`, each once, and connects again when the connection is lost.

    `concurrency` commands run at once, `queue` more wait, others are refused as busy. It remembers the last `remember`
    commands, with replies of `remember_bytes` bytes in all: what is sent again is answered from there. The memory is
    this object's: a restarted process has none. `backoff`: the waits between connections. For one event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        token: str,
        backoff: Backoff = _BACKOFF,
        concurrency: int = 16,
        queue: int = 1_000,
        remember: int = 10_000,
        remember_bytes: int = 16_777_216,
        max_size: int = 1_048_576,
        ping_interval: float | None = 20.0,
        ssl: SSLContext | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._config = ChannelPeerConfig(
            url=url,
            name=name,
            backoff=backoff,
            concurrency=concurrency,
            queue=queue,
            remember=remember,
            remember_bytes=remember_bytes,
            max_size=max_size,
            ping_interval=ping_interval,
            clock=clock,
            random=random,
        )
        check_token(token)
        self._token = token
        self._ssl = ssl
        self._executor = Executor(
            self._send, concurrency=concurrency, queue=queue, memory=Memory(remember, remember_bytes)
        )
        self._ignored: dict[str, int] = {}
        self._connected = asyncio.Event()
        self._socket: Any = None
        self._session = ""
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def config(self) -> ChannelPeerConfig:
        """The settings."""
        return self._config

    @property
    def connected(self) -> bool:
        """Whether it is connected now."""
        return self._connected.is_set()

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many frames changed nothing, by reason: `malformed`."""
        return MappingProxyType(self._ignored)

    @overload
    def action(self, name: _A, /) -> _A: ...
    @overload
    def action(self, name: str | None = None, /) -> Callable[[_A], _A]: ...
    def action(self, name: Any = None, /) -> Any:
        """Decorate the function that executes the action `name` (default: its own), sync (in a thread) or async.

        It takes the payload and returns what JSON can hold. ValueError for a name that has one already.
        """
        if callable(name):
            return self._executor.register(name, None)

        def decorate(fn: _Action) -> _Action:
            return self._executor.register(fn, name)

        return decorate

    async def run(self) -> None:
        """Connect and execute commands until `close()`. PeerRefused if the server does not want this peer."""
        task = self._start()
        try:
            await asyncio.wait({task})
        finally:
            await self.close()
        if not task.cancelled():
            task.result()

    async def close(self) -> None:
        """Cancel what runs, say goodbye and end `run`; a second time does nothing."""
        self._closing = True
        await self._executor.close()
        if self._task is not None:
            await cancel({self._task})

    async def wait_connected(self) -> None:
        """Wait until it is connected. PeerRefused if it never will be."""
        if self._task is None:
            raise RuntimeError("the peer does not run: use `async with`, or run() in a task")
        arrival = asyncio.create_task(self._connected.wait())
        try:
            await asyncio.wait({arrival, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
        if self._task.done():
            self._task.result()

    async def __aenter__(self) -> Self:
        """Begin to connect, in a task of its own."""
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it; raise PeerRefused if that is how it ended."""
        await self.close()
        task = self._task
        if error is None and task is not None and not task.cancelled():
            task.result()

    # Connections

    def _start(self) -> asyncio.Task[None]:
        if self._task is not None or self._closing:
            raise RuntimeError("the peer was started before: make a new one")
        connector = load().connect
        self._task = asyncio.create_task(self._keep_connected(connector))
        return self._task

    async def _keep_connected(self, connector: Any) -> None:
        clock, lost, delay = self._config.clock or current_clock(), 0, 0.0
        while True:
            began = clock.monotonic()
            error = await self._connection(connector)
            lost = 1 if error is None and clock.monotonic() - began >= _SOUND else lost + 1
            delay = self._config.backoff.delay(lost, delay, self._config.random)
            self._tell("RetryScheduled", attempt=lost, delay=delay, error=error)
            await clock.asleep(delay)

    async def _connection(self, connector: Any) -> Exception | None:
        """Execute the commands of one connection; return why there was none."""
        refused = load().exceptions.InvalidStatus
        try:
            socket = await self._connect(connector)
        except refused as error:
            if error.response.status_code in _REFUSALS:
                raise PeerRefused(self._config.name, _reason(error.response)) from None
            rejected: Exception = error
            return rejected
        except (OSError, EOFError, load().exceptions.WebSocketException) as error:
            failure: Exception = error
            return failure
        try:
            await self._serve(socket)
        finally:
            await socket.close()
        if socket.close_code == sessions.REPLACED:
            raise PeerRefused(self._config.name, "another connection with its name took its place")
        return None

    def _connect(self, connector: Any) -> Any:
        config = self._config
        headers = {
            "Authorization": f"Bearer {self._token}",
            sessions.PEER_HEADER: config.name,
            sessions.SIZE_HEADER: str(config.max_size),
        }
        if self._session:
            headers[sessions.SESSION_HEADER] = self._session
        options = {} if self._ssl is None else {"ssl": self._ssl}
        return connector(
            config.url,
            additional_headers=headers,
            max_size=config.max_size,
            ping_interval=config.ping_interval,
            ping_timeout=config.ping_interval,
            compression=None,
            **options,
        )

    async def _serve(self, socket: Any) -> None:
        self._session = sessions.only(socket.response.headers, sessions.SESSION_HEADER)
        self._executor.limit = sessions.size_limit(socket.response.headers, _MOST)
        self._socket = socket
        self._connected.set()
        try:
            async for frame in socket:
                await self._receive(frame)
        except load().exceptions.ConnectionClosed:
            pass
        finally:
            self._socket = None
            self._connected.clear()

    async def _receive(self, frame: str | bytes) -> None:
        try:
            answer = self._executor.answer(frames.read_command(frame))
        except frames.BadFrame as bad:
            self._ignored[MALFORMED] = self._ignored.get(MALFORMED, 0) + 1
            self._tell("FrameIgnored", peer="server", reason=MALFORMED)
            answer = bad.request_id and frames.failure(bad.request_id, frames.MALFORMED, str(bad))
        if answer:
            await self._send(answer)

    async def _send(self, reply: str) -> None:
        """Send a reply, unless the connection is lost: then the server asks again, if it still wants to know."""
        if self._socket is None:
            return
        try:
            await self._socket.send(reply)
        except load().exceptions.ConnectionClosed:
            pass

    def _tell(self, kind: str, **facts: object) -> None:
        if bus.entries:
            emit(kind, self._config.name, **facts)


def _result(pending: Pending, reply: Reply | None) -> Any:
    """Return what a command came to, or raise it."""
    peer, action = pending.peer, pending.action
    if reply is None:
        raise PeerDisconnected(peer, action, may_have_run=pending.sent)
    if reply.success:
        return reply.data
    if reply.kind == frames.BUSY:
        raise PeerBusy(peer, action, may_have_run=pending.began)
    raise CommandFailed(peer, action, reply.kind, reply.message)


def _reason(response: Any) -> str:
    body = (response.body or b"").decode(errors="replace").strip()
    return f"{response.status_code} {response.reason_phrase}: {body[:200]}"
