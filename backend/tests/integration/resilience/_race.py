"""Real threads that do something at the same moment."""

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")


def race(*actions: Callable[[], _T]) -> list[_T]:
    """Run every action in a real thread of its own, all starting together; return results, or raise the first error."""
    start, results, errors = threading.Barrier(len(actions)), list[_T](), list[Exception]()

    def body(action: Callable[[], _T]) -> None:
        start.wait()
        try:
            results.append(action())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(action,)) for action in actions]
    with switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results


@contextmanager
def switching_often() -> Generator[None]:
    """Let threads take turns every few microseconds, so that races are lost that could be lost."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
