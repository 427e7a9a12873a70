"""The time that is left: nested bounds meet in one deadline, carried by a context variable."""

from __future__ import annotations

from contextvars import ContextVar
from math import inf

from holdfast.infrastructure.resilience._ambient import ambient
from holdfast.infrastructure.resilience._frozen import Faults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

# Absolute seconds of the policies' monotonic clock. Whoever sets it keeps an earlier one.
_deadline: ContextVar[float | None] = ContextVar("holdfast_deadline", default=None)


def remaining() -> float | None:
    """Return the seconds left of the tightest deadline around the caller, negative when passed, or None."""
    until = current_deadline()
    return None if until is None else until - ambient.monotonic()


def current_deadline() -> float | None:
    """Return the tightest deadline around the caller on the current clock's monotonic time, or None."""
    until = _in_force()
    return None if until is None else float(until)


def _in_force() -> float | None:
    until = _deadline.get()
    while isinstance(until, _BlockDeadline) and until.ended:
        until = until.outer
    return until


def _tighter(until: float) -> float:
    outer = _in_force()
    return until if outer is None or until < outer else outer


def _undo(token: Token[float | None]) -> None:
    try:
        _deadline.reset(token)
    except ValueError:
        pass  # another context, such as the one in which an abandoned coroutine is closed


class _BlockDeadline(float):
    """The deadline of a `with` block; when the block has ended it counts as the one around it.

    A block inside a generator may end in another order than it began or, if the generator is abandoned, in another
    context, where no token can undo what it set.
    """

    __slots__ = ("ended", "outer")

    ended: bool
    outer: float | None

    def _value(self) -> float:
        until: float | None = self
        while isinstance(until, _BlockDeadline) and until.ended:
            until = until.outer
        return inf if until is None else float(until)

    def __lt__(self, other: float) -> bool:
        return self._value() < other

    def __le__(self, other: float) -> bool:
        return self._value() <= other

    def __gt__(self, other: float) -> bool:
        return self._value() > other

    def __ge__(self, other: float) -> bool:
        return self._value() >= other

    def __sub__(self, other: float) -> float:
        return self._value() - other


def _end(own: _BlockDeadline, token: Token[float | None]) -> None:
    own.ended = True
    if _deadline.get() is own:
        _undo(token)


class _Scope:
    """The deadline from the beginning of a block to its end."""

    __slots__ = ("outer_first", "own", "token")

    def __init__(self, until: float) -> None:
        outer = _in_force()
        self.outer_first = outer is not None and outer <= until
        if not self.outer_first:
            self.own = own = _BlockDeadline(until)
            own.ended, own.outer = False, outer
            self.token = _deadline.set(own)

    def end(self) -> None:
        """Put the deadline back that was there before."""
        if not self.outer_first:
            _end(self.own, self.token)


class deadline_after:
    """Bound a `with` block to `seconds` from now, cooperatively: it only tightens what `remaining()` says.

    One instance serves one block at a time.
    """

    __slots__ = ("_scope", "_seconds")

    def __init__(self, seconds: float) -> None:
        faults = Faults("deadline_after")
        faults.number("seconds", seconds, float("-inf"))
        faults.finish()
        self._seconds = seconds
        self._scope: _Scope | None = None

    def __enter__(self) -> float:
        """Set the deadline and give the tightest one, monotonic seconds."""
        if self._scope is not None:
            raise RuntimeError("this deadline_after is in use: make one for each block")
        self._scope = _Scope(ambient.monotonic() + self._seconds)
        return float(_tighter(inf))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the deadline back that was there before."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.end()
