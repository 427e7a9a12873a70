"""What a peer does with commands: it executes each once, so many at the same time, and remembers the replies."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience._compile import is_async_function
from holdfast.infrastructure.transport import _channel_frames as frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast.infrastructure.transport._channel_frames import Command
    from holdfast.infrastructure.transport._channel_memory import Memory

current_id: ContextVar[str | None] = ContextVar("holdfast_request_id", default=None)


async def cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end; who asks is not one of them."""
    others = tasks - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Executor:
    """The actions of one peer, and the commands that it executes; `send` takes a reply to where it is awaited."""

    __slots__ = ("_closing", "_memory", "_most", "_places", "_running", "_send", "actions", "limit")

    def __init__(
        self, send: Callable[[str], Awaitable[None]], *, concurrency: int, queue: int, memory: Memory
    ) -> None:
        self._send = send
        self._places = asyncio.Semaphore(concurrency)
        self._most = concurrency + queue
        self._memory = memory
        self._running: set[asyncio.Task[None]] = set()
        self._closing = False
        self.actions: dict[str, Callable[[Any], Any]] = {}
        # Bytes that the server takes in one frame.
        self.limit = 0

    def register(self, fn: Callable[[Any], Any], name: str | None) -> Callable[[Any], Any]:
        """Let a function execute an action. ValueError if another one does."""
        called = fn.__name__ if name is None else name
        if called in self.actions:
            raise ValueError(f"the action {called!r} has a function already: give the other one another name")
        self.actions[called] = fn
        return fn

    async def close(self) -> None:
        """Cancel what runs."""
        self._closing = True
        await cancel(self._running)

    def answer(self, command: Command) -> str | None:
        """Return the reply that there is already; otherwise the command is executed, or still runs."""
        done = self._memory.find(command.request_id)
        if done is None:
            return self._accept(command)
        if done.digest != command.digest:
            return frames.failure(
                command.request_id, frames.REUSED, "another command came with this id: give it another key"
            )
        if done.forgotten:
            return frames.failure(command.request_id, frames.FORGOTTEN, "it ran, its reply is forgotten")
        return done.reply

    def _accept(self, command: Command) -> str | None:
        action = self.actions.get(command.action)
        if action is None:
            known = ", ".join(sorted(self.actions)) or "none"
            return frames.failure(command.request_id, frames.UNKNOWN, f"there is no such action, but {known}")
        if len(self._running) >= self._most:
            return frames.failure(command.request_id, frames.BUSY, "too many commands wait")
        self._memory.begin(command)
        task = asyncio.create_task(self._execute(command, action))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return None

    async def _execute(self, command: Command, action: Callable[[Any], Any]) -> None:
        current_id.set(command.request_id)
        async with self._places:
            if is_async_function(action):
                reply = await self._run_async(command, action)
            else:
                reply = await asyncio.to_thread(self._run, command, action)
        if len(reply) > self.limit:
            problem = f"the reply has {len(reply)} bytes, the server takes {self.limit}"
            reply = frames.failure(command.request_id, frames.TOO_LARGE, problem)
        self._memory.end(command.request_id, reply)
        await self._send(reply)

    async def _run_async(self, command: Command, action: Callable[[Any], Any]) -> str:
        try:
            return _success(command, await action(command.payload))
        except asyncio.CancelledError as error:
            if self._closing:
                raise
            return _failure(command, error)
        except Exception as error:
            return _failure(command, error)

    def _run(self, command: Command, action: Callable[[Any], Any]) -> str:
        try:
            return _success(command, action(command.payload))
        except Exception as error:
            return _failure(command, error)


def _success(command: Command, data: object) -> str:
    try:
        return frames.success(command.request_id, command.action, data)
    except (TypeError, ValueError) as error:
        return frames.failure(command.request_id, frames.NOT_JSON, str(error))


def _failure(command: Command, error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # an error that cannot be shown is still one
        text = ""
    name = type(error).__name__
    return frames.failure(command.request_id, frames.FAILED, f"{name}: {text}" if text else name)
