"""Keys of cached calls: the function and its arguments, or what a key function makes of them."""

from __future__ import annotations

from holdfast.infrastructure.resilience._ambient import hot
from holdfast.infrastructure.resilience._bus import callback_failed
from holdfast.infrastructure.resilience._compile import CALLER, GENERIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from holdfast.infrastructure.resilience._cache import Key, State
    from holdfast.infrastructure.resilience._compile import Signature, Stack

_ARGUMENTS, _KEYWORDS = 4, 8  # inspect.CO_VARARGS, inspect.CO_VARKEYWORDS


def items(kwargs: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return keyword arguments in an order that does not depend on how they were written."""
    return tuple(sorted(kwargs.items(), key=_first)) if kwargs else ()


def _first(item: tuple[str, Any]) -> str:
    return item[0]


def names_of(signature: Signature) -> tuple[tuple[str, ...], str | None]:
    """Return the names of a signature's parameters, the last one apart if it is `**kwargs`."""
    key: Any = signature.key
    names, (_, _, flags), *_ = key
    return (names[:-1], names[-1]) if flags & _KEYWORDS else (names, None)


def source_of_key(signature: Signature) -> str:
    """Return the source of the default key of a call."""
    if signature is GENERIC or signature is CALLER:
        return "(_fn, _args, _items(_kwargs))"
    names, rest = names_of(signature)
    parts = ["_fn", *names] + ([] if rest is None else [f"_items({rest})"])
    return f"({', '.join(parts)},)"


def exact_key(fn: Any, arguments: dict[str, Any]) -> Key:
    """Return the key that generated code makes of bound arguments."""
    code = fn.__code__
    extra = bool(code.co_flags & _ARGUMENTS) + bool(code.co_flags & _KEYWORDS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + extra]
    values = [arguments[name] for name in names]
    if code.co_flags & _KEYWORDS:
        values[-1] = items(values[-1])
    return (fn, *values)


def no_key(state: State, stack: Stack, args: tuple[Any, ...], key: Any, error: Exception) -> None:
    """Raise TypeError for an argument that cannot be part of a key; report whatever else went wrong with it."""
    name = state.config.name or stack.label(args)
    if state.config.key is None:
        for shown, part in _parts(stack, key):
            if not _hashable(part):
                raise TypeError(
                    f"{name}: {shown} is of type {type(part).__name__}, which cannot be hashed, so the call has no "
                    "key in the cache; give key=, a function of the call's arguments"
                ) from error
    callback_failed(name, "key", error)


def _parts(stack: Stack, key: Key) -> Iterator[tuple[str, Any]]:
    if stack.signature is GENERIC or stack.signature is CALLER:
        yield "the function", key[0]
        yield from ((f"argument {at}", part) for at, part in enumerate(key[1], 1))
        yield from ((f"argument {name!r}", part) for name, part in key[2])
        return
    names, rest = names_of(stack.signature)
    yield from ((f"argument {name!r}", part) for name, part in zip(names, key[1:], strict=False))
    if rest is not None:
        yield from ((f"argument {name!r}", part) for name, part in key[-1])


def _hashable(part: object) -> bool:
    try:
        hash(part)
    except TypeError:
        return False
    except Exception:  # a __hash__ of the user's that is broken: reported as such
        return True
    return True


hot.update(_items=items, _no_key=no_key)
