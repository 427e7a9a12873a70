"""The way to one Redis: a thread that sends what breakers have to say, in order, behind a circuit of its own."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.store._redis_script import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds: how long an idle thread stays, how long the end of the process waits for what is still to be sent, and how
# long a command of our own clients may take.
_IDLE = 10.0
_LAST_WORDS = 1.0
_COMMAND = 1.0


class Job:
    """One run of the script, and the answer: what `read` makes of Redis's reply, or None where there is none."""

    __slots__ = ("args", "failed", "future", "keys", "read")

    def __init__(
        self,
        keys: list[str],
        args: list[Any],
        read: Callable[[Any], Any],
        failed: Callable[[Exception], None],
    ) -> None:
        self.keys = keys
        self.args = args
        self.read = read
        self.failed = failed
        self.future: Future[Any] = Future()


class Link:
    """One client, its thread and its circuit. The thread begins with the first job and ends when it is idle.

    No lock is taken: the garbage collector may settle a call, and so send, at any line.
    """

    def __init__(self, client: Any) -> None:
        self._script = client.register_script(SCRIPT)
        self._error: Exception | None = None
        self.renew()
        _links.add(self)

    def renew(self) -> None:
        """Begin anew, without a thread: in the child of a fork there is none."""
        self.jobs: SimpleQueue[Job | Future[None]] = SimpleQueue()
        # Holds one token while nobody works.
        self.idle: list[None] = [None]
        self.circuit = CircuitBreaker(
            "redis of shared breakers",
            window=Window.consecutive(1),
            on=Exception,
            open_for=0.5,
            open_cap=5.0,
            half_open_calls=1,
            half_open_timeout=5.0,
        )

    @property
    def up(self) -> bool:
        """Whether Redis answered last time, or was never asked."""
        return self.circuit.state is CircuitState.CLOSED

    def send(self, job: Job) -> Job:
        """Send in the background, after all that was sent before."""
        self.jobs.put(job)
        self._wake()
        return job

    def flush(self, timeout: float) -> bool:
        """Wait until all that was sent before is done; return whether it was in time."""
        mark: Future[None] = Future()
        self.jobs.put(mark)
        self._wake()
        try:
            mark.result(timeout)
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        try:
            self.idle.pop()
        except IndexError:
            return
        try:
            threading.Thread(target=self._work, args=(self.jobs, self.idle), daemon=True).start()
        except RuntimeError:
            self.idle.append(None)  # too many threads, or the end of the process: somebody else may try

    def _work(self, jobs: SimpleQueue[Job | Future[None]], idle: list[None]) -> None:
        while True:
            try:
                job = jobs.get(timeout=_IDLE)
            except Empty:
                idle.append(None)
                if jobs.empty() or not _take(idle):
                    return
                continue
            try:
                self._run(job)
            except BaseException:
                # A subscriber wants out. Whoever sends next gets another thread.
                idle.append(None)
                raise
            del job

    def _run(self, job: Job | Future[None]) -> None:
        if not isinstance(job, Job):
            job.set_result(None)
            return
        answer = None
        try:
            answer = self._ask(job)
        finally:
            job.future.set_result(answer)

    def _ask(self, job: Job) -> Any:
        try:
            with self.circuit:
                reply = self._script(keys=job.keys, args=job.args)
            return job.read(reply)
        except CircuitOpenError as error:
            job.failed(self._error or error)
        except Exception as error:
            self._error = error.with_traceback(None)
            job.failed(error)
        return None


def _take(idle: list[None]) -> bool:
    try:
        idle.pop()
    except IndexError:
        return False
    return True


_links: weakref.WeakSet[Link] = weakref.WeakSet()
_known: weakref.WeakValueDictionary[object, Link] = weakref.WeakValueDictionary()


def link_to(redis: Any) -> Link:
    """Return the link of a client or URL, the same for all breakers of this process. ImportError without redis-py."""
    # A link keeps its client, so that no other has its id meanwhile.
    key = redis if isinstance(redis, str) else id(redis)
    found = _known.get(key)
    if found is None:
        found = _known[key] = Link(_client(redis) if isinstance(redis, str) else redis)
    return found


def _client(url: str) -> Any:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise ImportError(
            "RedisBreakerStorage needs redis-py, which is not installed: pip install 'holdfast[redis]'"
        ) from error
    # One retry: a connection that Redis closed while it was idle is found out by the first command on it.
    once = Retry(NoBackoff(), 1)
    client: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  # redis has no type for it
        url, socket_connect_timeout=_COMMAND, socket_timeout=_COMMAND, retry=once
    )
    return client


def _renew_links() -> None:
    for link in list(_links):
        link.renew()


def _last_words() -> None:
    for link in list(_links):
        if not link.idle:
            link.flush(_LAST_WORDS)


atexit.register(_last_words)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_links)
