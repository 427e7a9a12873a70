"""Request/reply over WebSocket: commands to named peers, which execute each of them once (extra `channel`)."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from random import Random
from ssl import SSLContext
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar, overload

from holdfast.infrastructure.resilience.backoff import Backoff
from holdfast.infrastructure.resilience.clock import Clock

_Authenticate: TypeAlias = Callable[[str, str], bool | Awaitable[bool]]
_Action: TypeAlias = Callable[[Any], Any]
_A = TypeVar("_A", bound=_Action)

class _Handler(Protocol):
    def __call__(self, payload: Any = None, *, idempotency_key: str) -> Coroutine[Any, Any, Any]: ...

class ChannelServerConfig:
    """The settings of a `ChannelServer`, validated: frozen, keyword-only, comparable."""

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
    ) -> None: ...

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
    ) -> None: ...
    @property
    def config(self) -> ChannelServerConfig:
        """The settings."""

    @property
    def port(self) -> int:
        """The port it listens on. RuntimeError before it is started."""

    @property
    def url(self) -> str:
        """Where peers connect. RuntimeError before it is started."""

    @property
    def peers(self) -> tuple[str, ...]:
        """The names of the peers that are connected now, sorted."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many frames changed nothing, by reason: `late`, `duplicate`, `foreign`, `unknown`, `malformed`."""

    async def start(self) -> None:
        """Listen. OSError if it cannot, ImportError without the package websockets."""

    async def close(self) -> None:
        """Fail what waits, say goodbye to the peers and stop listening; a second time does nothing."""

    async def wait_for(self, peer: str) -> None:
        """Wait until `peer` is connected. RuntimeError if the server is closed."""

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

    def handler(self, peer: str, action: str, *, timeout: float | None = None) -> _Handler:
        """Return an async function of a payload and an `idempotency_key`, to put under policies or into a job."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class ChannelPeerConfig:
    """The settings of a `ChannelPeer`, validated: frozen, keyword-only, comparable."""

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
        backoff: Backoff = ...,
        concurrency: int = 16,
        queue: int = 1_000,
        remember: int = 10_000,
        remember_bytes: int = 16_777_216,
        max_size: int = 1_048_576,
        ping_interval: float | None = 20.0,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...

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
        backoff: Backoff = ...,
        concurrency: int = 16,
        queue: int = 1_000,
        remember: int = 10_000,
        remember_bytes: int = 16_777_216,
        max_size: int = 1_048_576,
        ping_interval: float | None = 20.0,
        ssl: SSLContext | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None: ...
    @property
    def config(self) -> ChannelPeerConfig:
        """The settings."""

    @property
    def connected(self) -> bool:
        """Whether it is connected now."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many frames changed nothing, by reason: `malformed`."""

    @overload
    def action(self, name: _A, /) -> _A: ...
    @overload
    def action(self, name: str | None = None, /) -> Callable[[_A], _A]:
        """Decorate the function that executes the action `name` (default: its own), sync (in a thread) or async.

        It takes the payload and returns what JSON can hold. ValueError for a name that has one already.
        """

    async def run(self) -> None:
        """Connect and execute commands until `close()`. PeerRefused if the server does not want this peer."""

    async def close(self) -> None:
        """Cancel what runs, say goodbye and end `run`; a second time does nothing."""

    async def wait_connected(self) -> None:
        """Wait until it is connected. PeerRefused if it never will be."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

def current_request_id() -> str | None:
    """Return the id of the command that the running action executes: the same whenever it is sent; None outside."""
