"""What every policy can do."""

from __future__ import annotations

from holdfast.infrastructure.resilience import _compile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    from holdfast.infrastructure.resilience._bounds import Bounds
    from holdfast.infrastructure.resilience._compile import Code

    _P = ParamSpec("_P")
    _T = TypeVar("_T")


class Policy:
    """A way of making a call hold: decorate with it, or call through it. Immutable, shared by threads and tasks."""

    __slots__ = ("_callers",)

    _callers: tuple[Any, Any]
    # What a meter has counted; other policies count for the nearest meter around them.
    _counts: Any = None

    @property
    def name(self) -> str | None:
        """The name in events and errors, if the policy has one of its own."""
        return None

    def __call__(self, fn: Callable[_P, _T], /) -> Callable[_P, _T]:
        """Return `fn` under this policy, with its signature: sync stays sync, async stays async.

        Policies that `fn` already has are compiled into the same function. TypeError for generator functions,
        classes, bound methods and sync functions that return awaitables.
        """
        decorated: Callable[_P, _T] = _compile.decorate(self._parts(), fn, self._label())
        return decorated

    def call(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call `fn` once under this policy and return what it returns: an awaitable for an async function."""
        _compile.refuse_target(fn, call=True)
        try:
            callers = self._callers
        except AttributeError:
            callers = self._make_callers()
        result: _T = callers[_compile.is_async_function(fn)](fn, *args, **kwargs)
        return result

    def source(self, fn: Callable[..., Any] | None = None) -> str:
        """Return the Python source that decorating `fn` (by default a function of one argument) compiles to."""
        return _compile.source(self._parts(), fn or _example)

    def _make_callers(self) -> tuple[Any, Any]:
        parts = self._parts()
        name = self._label()
        made = (_compile.caller(parts, name, is_async=False), _compile.caller(parts, name, is_async=True))
        object.__setattr__(self, "_callers", made)
        return made

    def __getstate__(self) -> object:
        """Return what a copy has, too: not what is compiled, which works on this one's state."""
        state: Any = super().__getstate__()
        if state.__class__ is tuple:
            state[1].pop("_callers", None)
        return state

    def _label(self) -> str | None:
        """Return the name for events of policies that have none, if it is not the function's."""
        return None

    def _parts(self) -> tuple[Policy, ...]:
        return (self,)

    def _keeps_state(self) -> bool:
        """Return whether there is something to see of it while functions live that it decorates."""
        return False

    def _current(self) -> tuple[Policy, ...]:
        """Return the policies that this one stands for now."""
        return (self,)

    def _require(self, *, whole: bool) -> None:
        """Raise TypeError, with what to do, for what no function can be under; unless `whole`, a transport may help."""

    # What a policy gives to the compiler: the shape says which lines `_emit` writes, `_bind` the values they name.

    def _shape(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def _bind(self) -> dict[str, Any]:
        return {}

    def _emit(self, code: Code, at: int, inner: Callable[[], None]) -> None:
        raise NotImplementedError

    # What `explain()` says of it: the worst case of a call through it, given that of what it wraps.

    def _bounds(self, inner: Bounds) -> Bounds:
        return inner


def _example(argument: object) -> object:
    return argument
