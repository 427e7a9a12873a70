"""Why a command ends."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """What the exit codes mean."""

    FINE = 0
    WANTING = 1
    WRONG_USE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    ASKS = 5
    NOT_ENDED = 6


class Stop(Exception):
    """End the command with a code and a sentence for people."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Leave(Exception):
    """End the process at once: threads that wait for a store would keep it alive."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
