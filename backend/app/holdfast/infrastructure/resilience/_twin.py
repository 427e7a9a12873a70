"""Another exception like one that was raised, for whoever else has to raise it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_Member = type(OSError.errno)
_EMPTY = object()


def twin(error: Exception) -> Exception:
    """Return a copy of `error` with its traceback so far; `error` itself where its class cannot be copied.

    One instance that several tasks or threads raise would gather the tracebacks, notes and causes of them all. The
    constructor is not called: what it makes of `args` need not be what it was given.
    """
    try:
        return _copied(error)
    except Exception:  # classes of other people, which may refuse anything
        return error


def _copied(error: Any) -> Exception:
    kind: Any = error.__class__
    made: Any = kind.__new__(kind, *error.args)
    made.args = error.args
    made.__cause__, made.__context__ = error.__cause__, error.__context__
    bases: tuple[type, ...] = kind.__mro__
    for base in bases:
        for member in vars(base).values():
            if type(member) is _Member:
                _copy_member(member, error, made)
    made.__dict__.update(error.__dict__)
    if "__notes__" in made.__dict__:
        made.__notes__ = list(made.__notes__)
    twin: Exception = made.with_traceback(error.__traceback__)
    return twin


def _copy_member(member: Any, error: Any, made: Any) -> None:
    """Copy a slot, or a field of a class written in C, unless it is equal already: it may be read-only."""
    value, own = _read(member, error), _read(member, made)
    if value is not _EMPTY and value is not own and (own is _EMPTY or own != value):
        member.__set__(made, value)


def _read(member: Any, error: Any) -> Any:
    try:
        return member.__get__(error)
    except AttributeError:
        return _EMPTY
