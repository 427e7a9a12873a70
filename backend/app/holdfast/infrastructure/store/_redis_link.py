"""The way to one Redis: what sends what breakers have to say, in order, behind a circuit of its own."""

from __future__ import annotations

import atexit
import inspect
import os
import threading
import weakref
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreaker
from holdfast.infrastructure.resilience.clock import SYSTEM
from holdfast.infrastructure.resilience.errors import CircuitOpenError
from holdfast.infrastructure.resilience.states import CircuitState
from holdfast.infrastructure.resilience.window import Window
from holdfast.infrastructure.store._redis_script import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds: how long an idle thread stays, how long the end of the process or of the loop waits for what is still to be
# sent, how long a command may take, and how old it may be when it is sent.
_IDLE = 10.0
LAST_WORDS = 1.0
COMMAND = 1.0
_STALE = 5.0


class Job:
    """One run of the script, and the answer: what `read` makes of Redis's reply, or None where there is none.

    `report` is whether it tells something that others need, and is not only a question.
    """

    __slots__ = ("args", "failed", "future", "keys", "read", "report", "sent")

    def __init__(
        self,
        keys: list[str],
        args: list[Any],
        read: Callable[[Any], Any],
        failed: Callable[[Exception], None],
        *,
        report: bool = True,
    ) -> None:
        self.keys = keys
        self.args = args
        self.read = read
        self.failed = failed
        self.report = report
        self.sent = SYSTEM.monotonic()
        self.future: Future[Any] = Future()

    def check_age(self) -> None:
        """Raise TimeoutError if this had to wait so long that it may be wrong by now."""
        waited = SYSTEM.monotonic() - self.sent
        if waited > _STALE:
            raise TimeoutError(f"Redis kept a command waiting for {waited:.1f} s")

    def finish(self, answer: Any) -> None:
        """Give the answer to who waits, once."""
        if not self.future.done():
            self.future.set_result(answer)

    def lose(self, error: Exception) -> None:
        """End without an answer."""
        try:
            self.failed(error)
        finally:
            self.finish(None)


class Link:
    """One client and its circuit, which opens when Redis does not answer; that it refuses one breaker is an answer.

    No lock is taken: the garbage collector may settle a call, and so send, at any line.
    """

    # Whether the client is awaited, so that only async functions can wait for it.
    awaited = False

    def __init__(self, client: Any) -> None:
        self._script = client.register_script(SCRIPT)
        self._error: Exception | None = None
        self.renew()
        _links.add(self)

    def renew(self) -> None:
        """Begin anew: in the child of a fork nobody sends."""
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
    def jobs(self) -> Any:
        """What is still to be sent; another object after a fork."""
        raise NotImplementedError

    @property
    def up(self) -> bool:
        """Whether Redis answered last time, or was never asked, and does not hang now."""
        return not self._hangs() and self.circuit.state is CircuitState.CLOSED

    def send(self, job: Job) -> Job:
        """Send in the background, after all that was sent before; a Redis that hangs is sent nothing more."""
        if self._hangs():
            job.lose(self._error or TimeoutError(f"Redis has not answered for {COMMAND:g} s"))
        else:
            self._put(job)
        return job

    def mark(self) -> Future[Any]:
        """Return what is done when all is done that was sent before."""
        mark: Future[Any] = Future()
        self._put(mark)
        return mark

    def last_words(self) -> None:
        """Say what is still to be said before the process ends."""

    def _put(self, job: Job | Future[Any]) -> None:
        raise NotImplementedError

    def _hangs(self) -> bool:
        return False

    def _heard(self, job: Job, reply: Any) -> Any:
        """Return what the reply says; a refusal of Redis's is an exception."""
        error = reply
        if not isinstance(reply, Exception):
            try:
                return job.read(reply)
            except ValueError as malformed:
                error = malformed
        job.failed(error.with_traceback(None))
        return None

    def _lost(self, job: Job, error: Exception) -> None:
        if isinstance(error, CircuitOpenError):
            error = self._error or error
        else:
            self._error = error.with_traceback(None)
        job.failed(error)


class ThreadLink(Link):
    """A client that blocks, and its thread, which begins with the first job and ends when it is idle."""

    def renew(self) -> None:
        """Begin anew, without a thread."""
        super().renew()
        self._began: float | None = None
        self._jobs: SimpleQueue[Job | Future[Any]] = SimpleQueue()
        # Holds one token while nobody works.
        self.idle: list[None] = [None]

    @property
    def jobs(self) -> SimpleQueue[Job | Future[Any]]:
        """What is still to be sent."""
        return self._jobs

    def last_words(self) -> None:
        """Wait for the thread, if there is one."""
        if not self.idle:
            wait(self.mark(), LAST_WORDS)

    def _hangs(self) -> bool:
        # A client without a socket timeout hangs as long as its connection does.
        began = self._began
        return began is not None and SYSTEM.monotonic() - began > COMMAND

    def _put(self, job: Job | Future[Any]) -> None:
        self._jobs.put(job)
        try:
            self.idle.pop()
        except IndexError:
            return
        try:
            threading.Thread(target=self._work, args=(self._jobs, self.idle), daemon=True).start()
        except RuntimeError:
            self.idle.append(None)  # too many threads, or the end of the process: somebody else may try

    def _work(self, jobs: SimpleQueue[Job | Future[Any]], idle: list[None]) -> None:
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

    def _run(self, job: Job | Future[Any]) -> None:
        if not isinstance(job, Job):
            job.set_result(None)
            return
        answer = None
        self._began = SYSTEM.monotonic()
        try:
            answer = self._ask(job)
        finally:
            self._began = None
            job.finish(answer)

    def _ask(self, job: Job) -> Any:
        try:
            job.check_age()
            with self.circuit:
                reply = self._reply(job)
        except Exception as error:
            return self._lost(job, error)
        return self._heard(job, reply)

    def _reply(self, job: Job) -> Any:
        try:
            return self._script(keys=job.keys, args=job.args)
        except Exception as error:
            if refused(error):
                return error
            raise


def _take(idle: list[None]) -> bool:
    try:
        idle.pop()
    except IndexError:
        return False
    return True


def refused(error: Exception) -> bool:
    """Return whether Redis, or its client, answered by an error: it is there, and others may have better luck."""
    from redis import exceptions

    refusals = (exceptions.ResponseError, exceptions.DataError, exceptions.RedisClusterException, ValueError)
    return isinstance(error, refusals) and not isinstance(error, exceptions.ClusterError)


def wait(future: Future[Any], timeout: float) -> bool:
    """Wait in this thread until a future is done; return whether it was in time."""
    try:
        future.result(timeout)
    except TimeoutError:
        return future.done()
    return True


async def wait_async(future: Future[Any], timeout: float) -> bool:  # noqa: ASYNC109  # it ends, and raises nothing
    """Wait in this task until a future is done; return whether it was in time. Others may wait for it too."""
    if future.done():
        return True
    import asyncio

    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def done(_: object) -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:
            pass  # the loop has ended, and nobody waits any more

    future.add_done_callback(done)
    await asyncio.wait([waiter], timeout=timeout)
    return future.done()


def on_a_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
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
        found = _known[key] = _link(redis)
    return found


def _link(redis: Any) -> Link:
    if isinstance(redis, str):
        client = _client(redis)
        link = ThreadLink(client)
        # Nobody else can close it. At the end of the process the system does, after the last words.
        weakref.finalize(link, client.close).atexit = False
        return link
    if not inspect.iscoroutinefunction(getattr(redis, "execute_command", None)):
        return ThreadLink(redis)
    from holdfast.infrastructure.store._redis_loop import LoopLink

    return LoopLink(redis)


def _client(url: str) -> Any:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.exceptions import ReadOnlyError
        from redis.retry import Retry
    except ImportError as error:
        raise ImportError(
            "RedisBreakerStorage needs redis-py, which is not installed: pip install 'holdfast[redis]'"
        ) from error
    # One retry on a new connection: Redis may have closed this one while it was idle, or lead no longer.
    once = Retry(NoBackoff(), 1)
    client: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  # redis has no type for it
        url,
        socket_connect_timeout=COMMAND,
        socket_timeout=COMMAND,
        retry=once,
        retry_on_error=[ReadOnlyError],
    )
    return client


def _renew_links() -> None:
    for link in list(_links):
        link.renew()


def _last_words() -> None:
    for link in list(_links):
        link.last_words()


atexit.register(_last_words)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_links)
