"""Virtual time for experiments: coroutines and plain functions on one loop, one at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from holdfast.testing.clock import VirtualClock

_T = TypeVar("_T")

class World(VirtualClock):
    """A virtual clock for simulations, where nothing outside can act: time jumps at once, and no real second passes.

    While `run` goes on, the policies, `asyncio` and the `time` module show its time to what runs in it; in `packages`
    so do `datetime`, names imported from `time`, and locks, which wait in virtual time. One run at a time per process.
    """

    def __init__(self, start: float = 1000.0, *, packages: Iterable[str] = ()) -> None: ...
    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end; what still waits then is cancelled.

        RuntimeError when everything waits for something that can no longer happen.
        """

    def thread(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Call a plain function in a cooperative thread of its own; give a future of its result."""

    def pause(self, arm: Callable[[Callable[[], None]], object]) -> None:
        """Block this cooperative thread until `arm`'s argument is called from the loop; `arm` is called at once."""
