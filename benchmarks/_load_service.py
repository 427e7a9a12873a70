"""What `benchmarks.load` serves: ten operations, one of which fails, called all the time by a thread."""

import contextlib
import threading
import time
from collections.abc import Callable

from holdfast import resilient


def _operation(name: str, *, broken: bool) -> Callable[[], int]:
    @resilient(name)
    def call() -> int:
        if broken:
            raise ConnectionError(name)
        return 1

    return call


OPERATIONS = [_operation(f"op-{number}", broken=number == 3) for number in range(10)]


def _use() -> None:
    while True:
        for call in OPERATIONS:
            with contextlib.suppress(Exception):
                call()
        time.sleep(0.05)


threading.Thread(target=_use, daemon=True).start()
