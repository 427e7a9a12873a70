"""Compile a stack of policies and a function into one function of the same signature.

Each policy writes its lines around those of the next one, as straight-line code; whatever is needed only when
something fails lives in functions of the policies' modules, which generated code reaches through `clock.hot`.
The factory of a shape (signature × policies) is compiled once and reused.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from functools import partial
from types import CodeType, FunctionType, MethodType

from holdfast.infrastructure.resilience._ambient import hot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from holdfast.infrastructure.resilience.policy import Policy

_ARGUMENTS, _KEYWORDS, _GENERATOR, _COROUTINE, _ITERABLE, _ASYNC_GENERATOR = 4, 8, 32, 128, 256, 512
_CHECKED_CALLS = 16
_MAX_FACTORIES = 2048
FILE_PREFIX = "<holdfast "
# How the file's name ends of functions that are the whole of a named pipeline.
NAMED = " named>"
GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class Signature:
    """The parameters of a function as source, and the same names as arguments of a call."""

    __slots__ = ("args", "call", "key", "kwargs", "parameters")

    def __init__(self, key: Hashable, parameters: str, call: str, args: str, kwargs: str) -> None:
        self.key = key
        self.parameters = parameters
        self.call = call
        self.args = args
        self.kwargs = kwargs


GENERIC = Signature("generic", "*_args, **_kwargs", "*_args, **_kwargs", "_args", "_kwargs")
CALLER = Signature("caller", "_fn, /, *_args, **_kwargs", "*_args, **_kwargs", "(_fn, *_args)", "_kwargs")
_TAKEN = frozenset({"Exception", "BaseException", "KeyError"})


def signature_of(fn: Any) -> Signature:
    """Return the exact signature of a Python function, the generic one of anything else."""
    code = getattr(fn, "__code__", None)
    if type(fn) is not FunctionType or not isinstance(code, CodeType):
        return GENERIC
    count, flags = code.co_argcount + code.co_kwonlyargcount, code.co_flags
    extra = bool(flags & _ARGUMENTS) + bool(flags & _KEYWORDS)
    names = code.co_varnames[: count + extra]
    if any(name.startswith("_") or not name.isidentifier() or name in _TAKEN for name in names):
        return GENERIC
    defaults, optional = len(fn.__defaults__ or ()), frozenset(fn.__kwdefaults__ or ())
    counts = (code.co_argcount, code.co_posonlyargcount, flags & (_ARGUMENTS | _KEYWORDS))
    key = (names, counts, defaults, optional)
    found = _signatures.get(key)
    if found is None:
        found = _exact(key, code, names, defaults, optional)
        if len(_signatures) < _MAX_FACTORIES:
            _signatures[key] = found
    return found


_signatures: dict[Hashable, Signature] = {}


def _exact(
    key: Hashable, code: CodeType, names: tuple[str, ...], defaults: int, optional: frozenset[str]
) -> Signature:
    positional, count, flags = code.co_argcount, code.co_argcount + code.co_kwonlyargcount, code.co_flags
    plain, keyword = names[:positional], names[positional:count]
    rest = list(names[count:])
    star = [rest.pop(0)] if flags & _ARGUMENTS else []
    parameters = [f"{name}=None" if at >= positional - defaults else name for at, name in enumerate(plain)]
    if code.co_posonlyargcount:
        parameters.insert(code.co_posonlyargcount, "/")
    parameters += [f"*{name}" for name in star] or (["*"] if keyword else [])
    parameters += [f"{name}=None" if name in optional else name for name in keyword]
    parameters += [f"**{name}" for name in rest]
    stars, doubles = [f"*{name}" for name in star], [f"**{name}" for name in rest]
    call = ", ".join([*plain, *stars, *(f"{name}={name}" for name in keyword), *doubles])
    args = "(" + "".join(f"{part}, " for part in [*plain, *stars]) + ")"
    kwargs = "{" + ", ".join([*(f"{name!r}: {name}" for name in keyword), *doubles]) + "}"
    return Signature(key, ", ".join(parameters), call, args, kwargs)


class Code:
    """Source in the making: lines at an indentation, and the pieces that templates put into them."""

    __slots__ = ("await_", "depth", "is_async", "lines", "signature")

    def __init__(self, signature: Signature, *, is_async: bool) -> None:
        self.signature = signature
        self.is_async = is_async
        self.await_ = "await " if is_async else ""
        self.lines: list[str] = []
        self.depth = 2

    def line(self, text: str) -> None:
        """Add one line."""
        self.lines.append("    " * self.depth + text)

    def block(self, head: str) -> Block:
        """Add a line that begins a block; what is added inside the `with` is its body."""
        self.line(head)
        return Block(self)

    def slow(self, function: str, *before: str) -> str:
        """Return a call of a slow-path function, with the stack's arguments packed at its end."""
        name = f"{function}_async" if self.is_async else function
        inside = ", ".join([*before, self.signature.args, self.signature.kwargs])
        return f"{self.await_}{name}({inside})"


class Block:
    """One level of indentation."""

    __slots__ = ("_code",)

    def __init__(self, code: Code) -> None:
        self._code = code

    def __enter__(self) -> None:
        """Indent."""
        self._code.depth += 1

    def __exit__(self, *_: object) -> None:
        """Dedent."""
        self._code.depth -= 1


def generate(parts: tuple[Policy, ...], signature: Signature, *, is_async: bool) -> str:
    """Return the source of the factory for a shape: two versions of the function, one that checks its results."""
    head = f"{'async ' * is_async}def call({signature.parameters}):"
    body = Code(signature, is_async=is_async)
    _emit(body, parts, 0)
    bound = ["_fn"] * (signature is not CALLER) + ["_stack"]
    bound += [f"_{name}{at}" for at, part in enumerate(parts) for name in part._bind()]
    lines = [f"def _make({', '.join(bound)}):"]
    if is_async:
        # By this name `stack_of` finds the stack.
        lines += [f"    {head}", *body.lines, "        if 0: _stack", "        return _result"]
        lines += ["    return call, call"]
        return "\n".join(lines) + "\n"
    # Both versions must close over the same names, or the code of one could not replace that of the other.
    lines += [f"    {head}", *body.lines, "        if 0: _stack", "        return _result", "    fast = call"]
    lines += [f"    {head}", *body.lines, "        _stack.check(_result)", "        return _result"]
    lines += ["    return call, fast"]
    return "\n".join(lines) + "\n"


def _emit(code: Code, parts: tuple[Policy, ...], at: int) -> None:
    if at == len(parts):
        code.line(f"_result = {code.await_}_fn({code.signature.call})")
    else:
        parts[at]._emit(code, at, lambda: _emit(code, parts, at + 1))


class _Seen:
    """Whether any named pipeline of this process retries: until then nobody need be found that does."""

    __slots__ = ("retry",)

    def __init__(self) -> None:
        self.retry = False


seen = _Seen()

_factories: dict[Hashable, Callable[..., tuple[Any, Any]]] = {}


def factory(
    parts: tuple[Policy, ...], signature: Signature, *, is_async: bool, named: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Return the compiled factory for a shape, from the cache if it is there."""
    key = (signature.key, is_async, named, *[part._shape() for part in parts])
    found = _factories.get(key)
    if found is None:
        if len(_factories) >= _MAX_FACTORIES:
            _factories.clear()
        source = generate(parts, signature, is_async=is_async)
        found = _factories[key] = _compile(source, parts, NAMED if named else ">")
    return found


_serial = iter(range(1, sys.maxsize))
hot.setdefault("__name__", "holdfast.generated")


def _compile(source: str, parts: tuple[Policy, ...], end: str) -> Callable[..., tuple[Any, Any]]:
    kinds = [str(part._shape()[0]) for part in parts]
    # Functions that retry are known by the beginning of their file's name, see `current_attempt`.
    kinds.sort(key=lambda kind: kind != "retry")
    seen.retry = seen.retry or (end is NAMED and kinds[0] == "retry")
    file = f"{FILE_PREFIX}{'+'.join(kinds)} {next(_serial)}{end}"
    made: dict[str, Any] = {}
    exec(compile(source, file, "exec"), hot, made)  # noqa: S102  # source is ours alone: no text of users is in it
    _show_in_tracebacks(file, source)
    make: Callable[..., tuple[Any, Any]] = made["_make"]
    return make


def _show_in_tracebacks(file: str, source: str) -> None:
    import linecache  # not needed before something is decorated

    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)


class Stack:
    """Policies, outermost first, around one function, and the compiled functions of what lies below each."""

    __slots__ = ("_below", "_pending", "fn", "name", "parts", "signature")

    # What counts the retries and fallbacks among the policies, by their identity; None where there is no meter.
    meters: dict[int, Any] | None = None

    def __init__(
        self, parts: tuple[Policy, ...], fn: Any, signature: Signature, name: str | None = None
    ) -> None:
        self.parts = parts
        self.fn = fn
        self.signature = signature
        self.name = name
        self._below: dict[int, Any] | None = None
        # The function whose results are still checked, and for how many calls more.
        self._pending: tuple[Any, int] | None = None

    @property
    def is_async(self) -> bool:
        """Whether the function is async."""
        return is_async_function(self.fn)

    def below(self, depth: int) -> Any:
        """Return what the policy above `depth` calls: the function under the remaining policies."""
        if depth == len(self.parts):
            return self.fn
        if self._below is None:
            self._below = {}
        found = self._below.get(depth)
        if found is None:
            found = self._below[depth] = Below(self, depth).build()[1]
        return found

    @property
    def root(self) -> Stack:
        """The stack of which this is a part: itself, if it is the whole."""
        return self

    @property
    def levels(self) -> int:
        """How many stacks this one is within."""
        return 0

    def build(self, *, whole: bool = False) -> tuple[Any, Any]:
        """Return the function that checks its results and the one that does not; `whole`: nothing is above it."""
        bound: dict[str, Any] = {"_stack": self}
        if self.signature is not CALLER:
            bound["_fn"] = self.fn
        for at, part in enumerate(self.parts):
            for name, value in part._bind().items():
                bound[f"_{name}{at}"] = value
        named = whole and self.name is not None
        checked, fast = factory(self.parts, self.signature, is_async=self.is_async, named=named)(**bound)
        _copy_defaults(self.fn, checked, self.signature)
        _copy_defaults(self.fn, fast, self.signature)
        return checked, fast

    def wrap(self) -> Any:
        """Return the decorated function: it checks the results of its first calls, then no longer."""
        wrapper = self.build(whole=True)[0]
        _remember(wrapper, self.parts)
        self._pending = None if self.is_async else (wrapper, _CHECKED_CALLS)
        return wrapper

    def check(self, result: Any) -> None:
        """Refuse an awaitable; after enough other results, put the unchecked code in place."""
        refuse_awaitable(result)
        if self._pending is None:
            return
        wrapper, left = self._pending
        self._pending = (wrapper, left - 1) if left > 1 else None
        if self._pending is None:
            wrapper.__code__ = self.build(whole=True)[1].__code__

    def target(self, args: tuple[Any, ...]) -> Any:
        """Return the function that is called, given the packed arguments."""
        return args[0] if self.signature is CALLER and args else self.fn

    def own(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of the function itself, given the packed ones."""
        return args[1:] if self.signature is CALLER else args

    def label(self, args: tuple[Any, ...] = ()) -> str:
        """Return the name that events of policies without a name carry: the pipeline's or the function's."""
        return label_of(self.target(args)) if self.name is None else self.name


class MeteredStack(Stack):
    """A stack with a meter in it; others need no place for one."""

    __slots__ = ("meters",)

    def __init__(
        self, parts: tuple[Policy, ...], fn: Any, signature: Signature, name: str | None = None
    ) -> None:
        super().__init__(parts, fn, signature, name)
        self.meters = {}
        nearest = None
        for part in parts:
            nearest = part._counts or nearest
            if nearest is not None:
                self.meters[id(part)] = nearest


def stack(parts: tuple[Policy, ...], fn: Any, signature: Signature, name: str | None = None) -> Stack:
    """Return the stack of these policies around `fn`."""
    metered = any(part._counts is not None for part in parts)
    return (MeteredStack if metered else Stack)(parts, fn, signature, name)


_living: list[weakref.ref[Any]] = []
# Reentrant: the garbage collector may run code that decorates while it is held.
_lock = threading.RLock()


def _remember(call: Any, parts: tuple[Policy, ...]) -> None:
    """Let `living` find a compiled function if there is state to see in it."""
    if not any(part._keeps_state() for part in parts):
        return
    with _lock:
        if not len(_living) & (len(_living) - 1):
            _living[:] = [ref for ref in _living if ref() is not None]
        _living.append(weakref.ref(call))


def _renew_lock() -> None:
    # In the child of a fork nobody is left to release the old one.
    global _lock  # noqa: PLW0603  # read where functions are decorated
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def living() -> list[Stack]:
    """Return the stacks with state of living functions, oldest first; keeps none alive."""
    found = [stack_of(call) for ref in _living.copy() if (call := ref()) is not None]
    return [stack for stack in found if stack is not None]


def label_of(fn: Any) -> str:
    """Return the full name of a function."""
    label: str | None = getattr(fn, "_holdfast_label", None)
    if label is not None:
        return label
    module = getattr(fn, "__module__", None) or "?"
    return f"{module}.{getattr(fn, '__qualname__', None) or repr(fn)}"


class Below(Stack):
    """What lies below a policy of another stack, for the attempts that this policy makes."""

    __slots__ = ("_around",)

    def __init__(self, around: Stack, depth: int) -> None:
        super().__init__(around.parts[depth:], around.fn, around.signature, around.name)
        self._around = around

    @property
    def meters(self) -> dict[int, Any] | None:  # type: ignore[override]
        """What counts for the policies of the whole stack."""
        return self._around.meters

    @property
    def root(self) -> Stack:
        """The whole stack."""
        return self._around.root

    @property
    def levels(self) -> int:
        """How many stacks this one is within."""
        return self._around.levels + 1


def _invoke(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


async def _invoke_async(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return await fn(*args, **kwargs)


def _copy_defaults(fn: Any, made: Any, signature: Signature) -> None:
    if signature is not GENERIC and signature is not CALLER:
        made.__defaults__ = fn.__defaults__
        made.__kwdefaults__ = fn.__kwdefaults__


def refuse_awaitable(result: Any) -> None:
    """Raise TypeError if a sync function handed back something to await: its failure would go unseen."""
    kind: Any = result.__class__
    if hasattr(kind, "__await__"):
        close = getattr(result, "close", None)
        if close is not None:
            close()
        raise TypeError(
            f"a sync function under a holdfast policy returned {type(result).__name__}, which must be awaited: "
            "what fails later would go unseen; make the function `async def` and await inside it"
        )


def decorate(parts: tuple[Policy, ...], fn: Any, name: str | None = None) -> Any:
    """Return `fn` under `parts` and whatever policies it has already."""
    if type(fn) in {staticmethod, classmethod}:
        return type(fn)(decorate(parts, fn.__func__, name))
    refuse_target(fn)
    under = stack_of(fn)
    if under is not None:
        # Usually nobody keeps the function below: it must not keep itself. It goes on checking its results, if called.
        under._pending = None
        made = stack((*parts, *under.parts), under.fn, under.signature, name or under.name)
    else:
        made = stack(parts, fn, signature_of(fn), name)
    return _finish(made, fn)


_SHOWN = ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__", "__type_params__")


def _finish(stack: Stack, shown: Any) -> Any:
    wrapper = stack.wrap()
    for name in _SHOWN:
        value = getattr(shown, name, None)
        if value is not None:
            setattr(wrapper, name, value)
    wrapper.__dict__.update(getattr(shown, "__dict__", {}))
    wrapper.__wrapped__ = stack.fn
    return wrapper


def stack_of(fn: Any) -> Stack | None:
    """Return the stack of a function that was made here; None for others, wrappers around ours included.

    It is found where the function itself finds it: attributes may have been copied to a wrapper.
    """
    code = getattr(fn, "__code__", None)
    if type(fn) is not FunctionType or code is None or not code.co_filename.startswith(FILE_PREFIX):
        return None
    cells: Any = fn.__closure__
    stack: Stack = cells[code.co_freevars.index("_stack")].cell_contents
    return stack


def is_async_function(fn: Any) -> bool:
    """Return whether calling `fn` gives a coroutine, as far as `fn` itself says."""
    return bool(_flags(fn) & _COROUTINE)


def _flags(fn: Any) -> int:
    while isinstance(fn, partial):
        inner: Any = fn.func
        fn = inner
    if isinstance(fn, MethodType):
        fn = fn.__func__
    code = getattr(fn, "__code__", None)
    if code is None and not isinstance(fn, type):
        fn = next((vars(base)["__call__"] for base in type(fn).__mro__ if "__call__" in vars(base)), None)
        code = getattr(fn, "__code__", None)
    flags: int = getattr(code, "co_flags", 0)
    marked = getattr(fn, "_is_coroutine_marker", None) is not None
    return flags | _COROUTINE if marked else flags


def refuse_target(fn: Any, *, call: bool = False) -> None:
    """Raise TypeError, saying what to do, for what no policy can hold."""
    name = getattr(fn, "__qualname__", None) or repr(fn)
    flags = _flags(fn)
    if isinstance(fn, property):
        raise TypeError("a property cannot be decorated: put the policy below @property, on the function")
    if not callable(fn):
        named = f", a name as name={fn!r}" if isinstance(fn, str) else ""
        raise TypeError(f"{fn!r} is not callable: decorate a function; settings are given by keyword{named}")
    if flags & (_GENERATOR | _ASYNC_GENERATOR | _ITERABLE):
        kind = "an async generator" if flags & _ASYNC_GENERATOR else "a generator"
        raise TypeError(
            f"{name} is {kind} function: calling it runs nothing yet, so there is nothing to protect; "
            "decorate a function that makes one step or returns the whole list, or use `for attempt in Retry(...)`"
        )
    if call:
        return
    if isinstance(fn, type):
        raise TypeError(
            f"{name} is a class: decorate the function that makes it, or use policy.call({name}, ...)"
        )
    if isinstance(fn, MethodType):
        raise TypeError(
            f"{name} is an already bound method: decorate the function in its class, "
            "or use policy.call(object.method, ...)"
        )


def caller(parts: tuple[Policy, ...], name: str | None, *, is_async: bool) -> Any:
    """Return a function `(fn, *args, **kwargs)` that calls `fn` under `parts`."""
    call = stack(parts, _invoke_async if is_async else _invoke, CALLER, name).build(whole=True)[0]
    _remember(call, parts)
    return call


def source(parts: tuple[Policy, ...], fn: Any) -> str:
    """Return the source that `fn` under `parts` compiles to."""
    refuse_target(fn)
    under = stack_of(fn)
    inner, fn = (under.parts, under.fn) if under is not None else ((), fn)
    return generate((*parts, *inner), signature_of(fn), is_async=is_async_function(fn))
