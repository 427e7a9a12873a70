"""The time that is left: nested bounds meet in one deadline, carried by a context variable."""

from types import TracebackType

def remaining() -> float | None:
    """Return the seconds left of the tightest deadline around the caller, negative when passed; None without one."""

def current_deadline() -> float | None:
    """Return the tightest deadline around the caller on the current clock's monotonic time, or None."""

class deadline_after:
    """Bound what runs in a `with` block to `seconds` from now, cooperatively: it only tightens what `remaining()` says.

    One instance serves one block at a time.
    """

    def __init__(self, seconds: float) -> None: ...
    def __enter__(self) -> float: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
