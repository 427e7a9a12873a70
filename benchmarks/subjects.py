"""The functions that are wrapped, and the units that they are compared with."""

# they take what services take, and do nothing with it

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from benchmarks.rows import Function

SERVICE = "7, quantity=2"
PLAIN = "1"


def fetch(order_id: int, *, quantity: int = 1) -> int:
    """Look like a call of a service: the subject of the headline."""
    return order_id


def f(x: int) -> int:
    """Have one positional argument: the cheapest call to pass through."""
    return x


def anything(*args: Any, **kwargs: Any) -> None:
    """Take whatever comes: no signature is left to generate."""


def order(order_id: int, quantity: int = 1) -> int:
    """Tell which limit a call of `fetch` or `f` belongs to."""
    return order_id


async def afetch(order_id: int, *, quantity: int = 1) -> int:
    """Return at once, as an awaited `fetch`."""
    return order_id


async def af(x: int) -> int:
    """Return at once, as an awaited `f`."""
    return x


def pass_through(fn: Function) -> Function:
    """Wrap by hand, as one does without a library: this is 1.0."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception:  # noqa: TRY203  # the unit is what people write around more
            raise

    return wrapper


def async_pass_through(fn: Function) -> Function:
    """Wrap a coroutine function by hand: this is 1.0 for async calls."""

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await fn(*args, **kwargs)
        except Exception:  # noqa: TRY203  # the unit is what people write around more
            raise

    return wrapper


def asyncio_timeout(fn: Function) -> Function:
    """Bound `fetch` by hand, without packing its arguments: the cheapest use of `asyncio.timeout`."""

    @functools.wraps(fn)
    async def bounded(order_id: int, *, quantity: int = 1) -> Any:
        async with asyncio.timeout(30):
            return await fn(order_id, quantity=quantity)

    return bounded


def asyncio_wait_for(fn: Function) -> Function:
    """Bound `fetch` by hand with `asyncio.wait_for`."""

    @functools.wraps(fn)
    async def bounded(order_id: int, *, quantity: int = 1) -> Any:
        return await asyncio.wait_for(fn(order_id, quantity=quantity), 30)

    return bounded


def service() -> Function:
    """Return a `fetch` of its own, as every `def` makes one, with annotations that nobody has asked for yet."""

    def fetch(order_id: int, *, quantity: int = 1) -> int:
        """Look like a call of a service."""
        return order_id

    return fetch


def plain() -> Function:
    """Return a `fetch` of its own without annotations, which cost a dictionary once somebody asks for them."""

    def fetch(order_id, *, quantity=1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Look like a call of a service."""
        return order_id

    return fetch  # pyright: ignore[reportUnknownVariableType]


def flaky() -> Function:
    """Return a `fetch` of which every other call, beginning with the first, fails in passing."""
    failing = False

    def fetch(order_id: int, *, quantity: int = 1) -> int:
        nonlocal failing
        failing = not failing
        if failing:
            raise ConnectionError
        return order_id

    return fetch


def again_by_hand(fn: Function) -> Function:
    """Call a flaky function, catch its error and call it again: what a retried attempt costs without a library."""

    @functools.wraps(fn)
    def wrapper(order_id: int, *, quantity: int = 1) -> Any:
        try:
            return fn(order_id, quantity=quantity)
        except ConnectionError:
            pass
        return fn(order_id, quantity=quantity)

    return wrapper


def async_flaky() -> Function:
    """Return an async `flaky`."""
    fn = flaky()

    async def fetch(order_id: int, *, quantity: int = 1) -> Any:
        return fn(order_id, quantity=quantity)

    return fetch


def async_again_by_hand(fn: Function) -> Function:
    """Do as `again_by_hand`, with a coroutine function."""

    @functools.wraps(fn)
    async def wrapper(order_id: int, *, quantity: int = 1) -> Any:
        try:
            return await fn(order_id, quantity=quantity)
        except ConnectionError:
            pass
        return await fn(order_id, quantity=quantity)

    return wrapper


class Refused(Exception):
    """Says nothing."""


def refusing(fn: Function) -> Function:
    """Refuse by hand, as cheaply as a refusal that depends on time can be."""

    @functools.wraps(fn)
    def wrapper(order_id: int, *, quantity: int = 1) -> Any:
        monotonic()
        raise Refused

    return wrapper


def down(order_id: int, *, quantity: int = 1) -> int:
    """Fail as a service does that is not there."""
    raise ConnectionError


def semaphore(fn: Function) -> Function:
    """Refuse by hand when 100 calls run: what a bulkhead is without a library."""
    places = threading.BoundedSemaphore(100)

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not places.acquire(blocking=False):
            raise Refused
        try:
            return fn(*args, **kwargs)
        finally:
            places.release()

    return wrapper


def async_semaphore(fn: Function) -> Function:
    """Do the same with a coroutine function."""
    places = asyncio.BoundedSemaphore(100)

    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if places.locked():
            raise Refused
        async with places:
            return await fn(*args, **kwargs)

    return wrapper


def lru_cache(fn: Function) -> Function:
    """Keep results for ever."""
    wrapped: Function = functools.lru_cache(maxsize=1000)(fn)
    return wrapped


class Nothing:
    """An `async with` block that does nothing, written as one writes them."""

    __slots__ = ()

    async def __aenter__(self) -> float:
        return 0.0

    async def __aexit__(self, *_: object) -> None: ...


class Looks:
    """The cheapest `async with` block that reads a clock: it awaits futures that are done, which C does by itself."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.set_result(None)

    def __aenter__(self) -> Awaitable[None]:
        monotonic()
        return self.done

    def __aexit__(self, kind: object, error: object, traceback: object) -> Awaitable[None]:
        return self.done


def async_with_nothing(fn: Function) -> Function:
    """Put the call into a block that does nothing."""
    nothing = Nothing()

    async def limited(order_id: int, *, quantity: int = 1) -> Any:
        async with nothing:
            return await fn(order_id, quantity=quantity)

    return limited


def async_with_clock(fn: Function) -> Function:
    """Put the call into a block that reads a clock, and does nothing with it."""
    looks = Looks()

    async def limited(order_id: int, *, quantity: int = 1) -> Any:
        async with looks:
            return await fn(order_id, quantity=quantity)

    return limited


def in_a_task(fn: Function) -> Function:
    """Run each call of `afetch` in a task of its own: the least that a call costs which can be left behind."""

    @functools.wraps(fn)
    async def wrapper(order_id: int, *, quantity: int = 1) -> Any:
        return await asyncio.create_task(fn(order_id, quantity=quantity))

    return wrapper


def in_a_thread(fn: Function) -> Function:
    """Run each call of `fetch` in a pool of threads."""
    pool = ThreadPoolExecutor(2)

    @functools.wraps(fn)
    def wrapper(order_id: int, *, quantity: int = 1) -> Any:
        return pool.submit(fn, order_id, quantity=quantity).result()

    return wrapper
