"""A small package with contracts, of every shape that the gate compares, on which both sides agree."""

from dataclasses import dataclass
from pathlib import Path

import pytest

FILES = {
    "backend/app/holdfast/__init__.py": '''
"""Calls that hold."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXPORTS = {
    "CallError": "holdfast.policies.errors",
    "Fast": "holdfast.policies.retry",
    "Mode": "holdfast.policies.states",
    "Retry": "holdfast.policies.retry",
    "retry": "holdfast.policies.retry",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
''',
    "backend/contracts/__init__.pyi": '''
"""Calls that hold."""

from holdfast.policies import Mode as Mode
from holdfast.policies.errors import CallError as CallError
from holdfast.policies.retry import Fast as Fast
from holdfast.policies.retry import Retry as Retry
from holdfast.policies.retry import retry as retry

__all__ = ["CallError", "Fast", "Mode", "Retry", "retry"]
''',
    "backend/app/holdfast/py.typed": "",
    "backend/app/holdfast/__main__.py": '''
"""Run it."""
raise SystemExit("not to be imported")
''',
    "backend/app/holdfast/policies/__init__.py": '''
"""Policies."""

from ._base import Described
from .states import Mode

__all__ = ["Described", "Mode"]
''',
    "backend/contracts/policies/__init__.pyi": '''
"""Policies."""

from holdfast.policies.states import Mode as Mode

__all__ = ["Described", "Mode"]

class Described:
    """Has a description."""

    def describe(self, width: int = 80) -> str:
        """Say what it is, in at most `width` characters."""
''',
    "backend/app/holdfast/policies/_base.py": '''
"""What policies share."""

from __future__ import annotations


class Described:
    """Has a description."""

    __slots__ = ()

    def describe(self, width: int = 80) -> str:
        return type(self).__name__[:width]


class Counted(Described):
    __slots__ = ("_calls",)

    def count(self) -> int:
        return 0

    def __copy__(self) -> Counted:
        return self
''',
    "backend/app/holdfast/policies/errors.py": '''
"""Errors."""

from __future__ import annotations

import contextlib
import typing as t


class CallError(Exception):
    """A call failed."""

    def __init__(self, name: str, retry_after: t.Optional[float] = None) -> None:
        self.args = (name, retry_after)
        self.name = name
        self.retry_after = retry_after


class LateError(CallError, TimeoutError):
    """A call was late."""


def guard() -> t.ContextManager[None]:
    """Guard a block."""
    return contextlib.nullcontext()
''',
    "backend/contracts/policies/errors.pyi": '''
"""Errors."""

from contextlib import AbstractContextManager

class CallError(Exception):
    """A call failed."""

    name: str
    retry_after: float | None
    def __init__(self, name: str, retry_after: float | None = None) -> None: ...

class LateError(CallError, TimeoutError):
    """A call was late."""

def guard() -> AbstractContextManager[None]:
    """Guard a block."""
''',
    "backend/app/holdfast/policies/states.py": '''
"""States, settings and events."""

from __future__ import annotations

import collections.abc
import dataclasses as dc
import sys
from dataclasses import field
from enum import Enum
from typing import ClassVar, Final, NamedTuple, Protocol, TypeAlias, TypeVar, Union

_E = TypeVar("_E", bound=Exception)

LIMIT: Final = 3
RATE = 0.5
SPLIT: int
SPLIT = 4
CODES: Final[tuple[int, ...]] = (429, 503)
TABLE: Final[dict[int, bool]] = {code: True for code in CODES}
Errors: TypeAlias = Union["type[Exception]", collections.abc.Callable[[Exception], bool]]

if sys.version_info >= (3, 99):
    FUTURE = 1


class Mode(str, Enum):
    """How fast."""

    FAST = "fast"
    SLOW = "slow"


@dc.dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened."""

    schema: ClassVar[int] = 2
    name: str
    attempt: int = 1
    tags: tuple[str, ...] = field(default_factory=tuple)
    stamp: float = field(default=0.0, init=False)


class Counts(NamedTuple):
    """What was counted."""

    calls: int
    failures: int = 0


class Listener(Protocol):
    """Whoever listens."""

    def hear(self, event: Event) -> None:
        """Take an event."""


NORMAL = Mode.FAST
FIRST: Final = Event(name="first")
SCHEMA: int = Event.schema


def narrow(error: _E, kind: type[_E]) -> _E:
    """Return the error."""
    return error
''',
    "backend/contracts/policies/states.pyi": '''
"""States, settings and events."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Final, NamedTuple, Protocol, TypeAlias, TypeVar

_E = TypeVar("_E", bound=Exception)

LIMIT: Final = 3
RATE: float = 0.5
SPLIT: int = 4
CODES: Final[tuple[int, ...]] = (429, 503)
TABLE: Final[dict[int, bool]]
Errors: TypeAlias = Callable[[Exception], bool] | type[Exception]

class Mode(str, Enum):
    """How fast."""

    FAST = "fast"
    SLOW = "slow"

@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened.

    name: of the policy
    attempt: from 1
    tags: what else
        there is to say
    stamp: when, seconds
    schema: of the event
    More lines,
    up to
    six,
    are fine.
    """

    schema: ClassVar[int] = 2
    name: str
    attempt: int = 1
    tags: tuple[str, ...] = ...
    stamp: float = field(default=0.0, init=False)

class Counts(NamedTuple):
    """What was counted."""

    calls: int
    failures: int = 0

class Listener(Protocol):
    """Whoever listens."""

    def hear(self, event: Event) -> None:
        """Take an event."""

NORMAL: Mode
FIRST: Final[Event]
SCHEMA: int

def narrow(error: _E, kind: type[_E]) -> _E:
    """Return the error."""
''',
    "backend/app/holdfast/policies/retry.py": '''
"""Retry."""

from __future__ import annotations

from functools import cached_property

from . import states
from ..policies._base import Counted
from .states import LIMIT, Mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any, List, Literal, Optional, ParamSpec, TypeVar, overload

    _P = ParamSpec("_P")
    _T = TypeVar("_T")
    _Hook = Optional[Callable[[int], object]]

try:
    from typing import final
except ImportError:
    def final(cls):
        return cls


class Retry(Counted):
    """Try again."""

    __slots__ = ("__dict__", "_wait", "attempts", "mode", "settled", "tag")

    if TYPE_CHECKING:
        attempts: int
        tag: str

    def __init__(
        self, attempts: int = LIMIT, *, wait: "float | Mode" = 0.5, mode: Mode = Mode.FAST, hook: _Hook = None
    ) -> None:
        self.attempts = attempts
        self.mode = mode
        self.settled = False
        object.__setattr__(self, "tag", "")
        self._wait = wait

    @property
    def wait(self) -> float | Mode:
        """The wait."""
        return self._wait

    @wait.setter
    def wait(self, value: float | Mode) -> None:
        self._wait = value

    @cached_property
    def codes(self) -> List[int]:
        """Codes."""
        return list(states.CODES)

    @staticmethod
    def parse(text: str, /, *, strict: bool = False) -> Retry:
        """Parse."""
        return Retry(int(text))

    @classmethod
    def default(cls) -> Retry:
        """Default."""
        return cls()

    def replace(self, *others: Retry, **changes: Any) -> Retry:
        """Replace."""
        return self

    async def acall(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call."""
        return fn(*args, **kwargs)

    async def stream(self, limit: Optional[int] = None) -> AsyncIterator[int]:
        """Stream."""
        yield 1

    def left(self, error: states.Errors | None = None) -> Iterator[int]:
        """Left."""
        yield 1

    def __enter__(self) -> Retry:
        return self

    def __exit__(self, *details: object) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "Retry()"

    def close(self) -> None:
        """Close."""

    shutdown = close


@final
class Fast(Retry):
    """Try again at once."""

    def __init__(self) -> None:
        super().__init__(wait=0.0)
        self.attempts = 2

    def default_wait(self) -> float:
        return 0.0

    def describe(self, width: int = 80) -> str:
        return "fast"


if TYPE_CHECKING:
    @overload
    def retry(fn: Callable[_P, _T], /) -> Callable[_P, _T]: ...
    @overload
    def retry(fn: None = None, /, *, attempts: int = ..., mode: Mode = ...) -> Retry: ...


def retry(fn: Any = None, /, *, attempts: int = 3, mode: Mode = Mode.FAST) -> Any:
    """Decorate."""
    return fn


def pick(first: Any, second: int = 1, *, strict: bool = False) -> Any:
    """Pick."""
    return first


async def gather(*functions: Callable[[], _T]) -> list[_T]:
    """Gather."""
    return [fn() for fn in functions]


def decorate(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate."""
    return fn


def _helper() -> None:
    pass
''',
    "backend/contracts/policies/retry.pyi": '''
"""Retry."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property
from typing import Any, Literal, ParamSpec, TypeVar, final, overload

from holdfast.policies import Described
from holdfast.policies.states import Errors, Mode

_P = ParamSpec("_P")
_T = TypeVar("_T")

class Retry:
    """Try again."""

    attempts: int
    mode: Mode
    settled: bool
    @property
    def tag(self) -> str:
        """The tag."""
    def __init__(
        self,
        attempts: int = 3,
        *,
        wait: float | Mode = 0.5,
        mode: Mode = ...,
        hook: Callable[[int], object] | None = None,
    ) -> None: ...
    @property
    def wait(self) -> float | Mode:
        """The wait, seconds."""
    @wait.setter
    def wait(self, value: float | Mode) -> None: ...
    @cached_property
    def codes(self) -> list[int]:
        """The codes."""
    @staticmethod
    def parse(text: str, /, *, strict: bool = False) -> Retry:
        """Read a retry."""
    @classmethod
    def default(cls) -> Retry:
        """Return the default."""
    def replace(self, *others: Retry, **changes: Any) -> Retry:
        """Return a changed copy."""
    async def acall(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call `fn`."""
    def stream(self, limit: int | None = None) -> AsyncIterator[int]:
        """Yield numbers."""
    def left(self, error: Errors | None = None) -> Iterator[int]:
        """Yield what is left."""
    def __enter__(self) -> Retry: ...
    def __exit__(self, *details: object) -> Literal[False]: ...
    def count(self) -> int:
        """Return how many calls there were."""
    def describe(self, width: int = 80) -> str:
        """Say what it is."""
    def close(self) -> None:
        """End it."""
    def shutdown(self) -> None:
        """End it."""

@final
class Fast(Retry):
    """Try again at once."""

    def __init__(self) -> None: ...
    def default_wait(self) -> float:
        """Return the wait."""

@overload
def retry(fn: Callable[_P, _T], /) -> Callable[_P, _T]:
    """Decorate with a retry."""
@overload
def retry(fn: None = None, /, *, attempts: int = 3, mode: Mode = ...) -> Retry: ...
@overload
def pick(first: int, second: int = 1) -> int: ...
@overload
def pick(first: str, second: int = 1, *, strict: bool = False) -> str:
    """Return the first."""
async def gather(*functions: Callable[[], _T]) -> list[_T]:
    """Call all."""
def decorate(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return `fn`, decorated."""
''',
    "backend/tests/test_use.py": '''
"""Tests."""

from holdfast import Retry, retry
from holdfast.policies.states import Event


@retry
def double(number: int) -> int:
    return number * 2


def test_use() -> None:
    assert double(2) == 4
    assert Event(name="a").attempt == 1
    assert Retry(2, wait=1.0).attempts == 2
''',
    "examples/basic.py": '''
"""An example."""

from holdfast import Fast

with Fast() as fast:
    print(fast.parse("3", strict=True).attempts)
''',
}


@dataclass(frozen=True)
class Project:
    """A project on disk whose files a test changes."""

    root: Path

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace the one occurrence of `old`."""
        text = (self.root / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{text.count(old)} times in {path}: {old}"
        self.write(path, text.replace(old, new))

    def write(self, path: str, text: str) -> None:
        """Write a file, in new folders if need be."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def remove(self, path: str) -> None:
        """Delete a file."""
        (self.root / path).unlink()


@pytest.fixture(autouse=True)
def measure_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep child processes out of the coverage: what they import is a sample that has this package's name."""
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Give a project on which every check passes."""
    made = Project(tmp_path)
    for path, text in FILES.items():
        made.write(path, text.removeprefix("\n"))
    return made


@pytest.fixture
def mypy() -> None:
    """Skip the test where mypy is not installed."""
    pytest.importorskip("mypy")
