"""Every way in which contracts, code and users can drift apart is caught, and laid at the right door."""
# ruff: noqa: E501  # cases read as a table: one a line

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from backend.tests.integration.contracts.conftest import Project
from holdfast.testing.contracts import Drift, check_mirror, check_stubtest, check_text, check_use

pytestmark = [pytest.mark.one_python, pytest.mark.no_cover]

ROOT = Path(__file__).resolve().parents[4]
DOOR, DOOR_CODE = "backend/contracts/__init__.pyi", "backend/app/holdfast/__init__.py"
PACKAGE, PACKAGE_CODE = "backend/contracts/policies/__init__.pyi", "backend/app/holdfast/policies/__init__.py"
BASE_CODE = "backend/app/holdfast/policies/_base.py"
ERRORS, ERRORS_CODE = "backend/contracts/policies/errors.pyi", "backend/app/holdfast/policies/errors.py"
RETRY, RETRY_CODE = "backend/contracts/policies/retry.pyi", "backend/app/holdfast/policies/retry.py"
STATES, STATES_CODE = "backend/contracts/policies/states.pyi", "backend/app/holdfast/policies/states.py"
TEST, EXAMPLE = "backend/tests/test_use.py", "examples/basic.py"


class Case(NamedTuple):
    """Replacing `old` by `new` in `path` makes `name` drift, in `file` (by default the contract of `path`)."""

    id: str
    path: str
    old: str
    new: str
    name: str
    says: str
    file: str = ""

    def place(self) -> tuple[str, str]:
        contract = self.path.replace("backend/app/holdfast", "backend/contracts")
        return self.file or f"{contract.removesuffix('i')}i", self.name


PARAMETERS = [
    Case("renamed", RETRY_CODE, "left(self, error:", "left(self, fault:", "Retry.left", "fault"),
    Case("type changed", RETRY_CODE, "limit: Optional[int]", "limit: Optional[str]", "Retry.stream", "str"),
    Case("type missing", RETRY_CODE, "parse(text: str,", "parse(text,", "Retry.parse", "nothing"),
    Case("quoted type changed", RETRY_CODE, '"float | Mode"', '"float | str"', "Retry.__init__", "str"),
    Case("private alias changed", RETRY_CODE, "[[int], object]", "[[], object]", "Retry.__init__", "hook"),
    Case("type from elsewhere", RETRY, "Callable, Iterator", "Callable, Set as Iterator", "Retry.left", "Set"),
    Case("type of *args changed", RETRY, "*details: object", "*details: str", "Retry.__exit__", "details"),
    Case("default changed", RETRY_CODE, "strict: bool = False) -> Retry", "strict: bool = True) -> Retry", "Retry.parse", "True"),
    Case("default of another type", PACKAGE, "width: int = 80", "width: int = 80.0", "Described.describe", "80.0"),
    Case("default dropped", RETRY_CODE, "limit: Optional[int] = None", "limit: Optional[int]", "Retry.stream", "nothing"),
    Case("default not written out", RETRY, "strict: bool = False) -> Retry", "strict: bool = ...) -> Retry", "Retry.parse", "write the literal out"),
    Case("default of an enum changed", RETRY, "        mode: Mode = ...,\n", "        mode: Mode = Mode.SLOW,\n", "Retry.__init__", "Mode.SLOW"),
    Case("added", RETRY_CODE, "decorate(fn: Callable[_P, _T])", "decorate(fn: Callable[_P, _T], n: int = 0)", "decorate", "n: int=0"),
    Case("removed", RETRY_CODE, "others: Retry, **changes: Any", "others: Retry", "Retry.replace", "changes"),
    Case("reordered", STATES_CODE, "error: _E, kind: type[_E]", "kind: type[_E], error: _E", "narrow", "(kind"),
    Case("keyword-only made positional", RETRY_CODE, "LIMIT, *, wait", "LIMIT, wait", "Retry.__init__", "LIMIT, wait"),
    Case("positional-only made positional", RETRY_CODE, "text: str, /, *,", "text: str, *,", "Retry.parse", "/"),
    Case("of an override changed", RETRY_CODE, "describe(self, width: int = 80)", "describe(self, width: int = 8)", "Fast.describe", "8"),
]  # fmt: skip

FUNCTIONS = [
    Case("return type changed", RETRY_CODE, '-> Callable[_P, _T]:\n    """D', '-> Callable[_P, int]:\n    """D', "decorate", "int"),
    Case("return type erased", RETRY_CODE, '-> Callable[_P, _T]:\n    """D', '-> Callable[..., _T]:\n    """D', "decorate", "..."),
    Case("return type in a private base changed", BASE_CODE, "count(self) -> int", "count(self) -> float", "Retry.count", "float", RETRY),
    Case("async made sync", RETRY_CODE, "async def gather", "def gather", "gather", "def gather"),
    Case("sync made async", RETRY_CODE, "def default_wait", "async def default_wait", "Fast.default_wait", "async def"),
    Case("async generator made a coroutine", RETRY, "def stream", "async def stream", "Retry.stream", "async def"),
    Case("property made a method", RETRY_CODE, "    @property\n", "", "Retry.wait", "property"),
    Case("cached property made a property", RETRY_CODE, "@cached_property\n", "@property\n", "Retry.codes", "cached_property"),
    Case("setter removed", RETRY_CODE, "@wait.setter\n    def wait", "def _set_wait", "Retry.wait.setter", "nothing"),
    Case("staticmethod removed", RETRY_CODE, "    @staticmethod\n", "", "Retry.parse", "staticmethod"),
    Case("classmethod made static", RETRY_CODE, "@classmethod\n", "@staticmethod\n", "Retry.default", "classmethod"),
    Case("overload missing in the contract", RETRY, "@overload\ndef retry(fn: None = None, /, *, attempts: int = 3, mode: Mode = ...) -> Retry: ...\n", "", "retry", "attempts"),
    Case("overload missing in the code", RETRY_CODE, "    @overload\n    def retry(fn: Callable[_P, _T], /) -> Callable[_P, _T]: ...\n", "", "retry", "overloads"),
    Case("overload with another return type", RETRY, "mode: Mode = ...) -> Retry: ...", "mode: Mode = ...) -> Fast: ...", "retry", "Fast"),
    Case("overload with the default of no code", RETRY, "attempts: int = 3, mode", "attempts: int = 4, mode", "retry", "4"),
    Case("overload with a parameter of no code", RETRY, "strict: bool = False) -> str", "loud: bool = False) -> str", "pick", "loud"),
    Case("overload with another default than its signature", RETRY, "def pick(first: int, second: int = 1)", "def pick(first: int, second: int = 2)", "pick", "default of overload parameter `second`"),
    Case("overload that is async", RETRY, "def pick(first: int,", "async def pick(first: int,", "pick", "async def pick"),
    Case("overload with a positional parameter that is keyword-only", RETRY, "*, strict: bool = False) -> str", "strict: bool = False) -> str", "pick", "strict"),
    Case("overload without a required parameter", RETRY, "def pick(first: int, second: int = 1)", "def pick(*, strict: bool = False)", "pick", "first"),
    Case("function without contract", RETRY_CODE, "def _helper", "def helper", "helper", "nothing", RETRY_CODE),
    Case("contract without function", RETRY, "def decorate", 'def help() -> None:\n    """Help."""\ndef decorate', "help", "nothing"),
    Case("method without contract", ERRORS_CODE, "class LateError", "    def more(self) -> None: ...\n\nclass LateError", "CallError.more", "nothing", ERRORS_CODE),
    Case("contract without method", RETRY, "    def __enter__(self) -> Retry: ...\n", "    def __enter__(self) -> Retry: ...\n    def __len__(self) -> int: ...\n", "Retry.__len__", "nothing"),
    Case("special method without contract", RETRY, "    def __enter__(self) -> Retry: ...\n", "", "Retry.__enter__", "nothing", RETRY_CODE),
]  # fmt: skip

CLASSES = [
    Case("final removed", RETRY_CODE, "@final\n", "", "Fast", "typing.final"),
    Case("base added", RETRY, "class Retry:", "class Retry(Described):", "Retry", "Described"),
    Case("base changed", RETRY_CODE, "class Fast(Retry)", "class Fast(Retry, states.Listener)", "Fast", "Listener"),
    Case("base of an exception changed", ERRORS_CODE, "TimeoutError", "ValueError", "LateError", "ValueError"),
    Case("bases reordered", ERRORS, "(CallError, TimeoutError)", "(TimeoutError, CallError)", "LateError", "bases"),
    Case("protocol made a class", STATES_CODE, "class Listener(Protocol)", "class Listener", "Listener", "Protocol"),
    Case("metaclass added", STATES_CODE, "Listener(Protocol)", "Listener(Protocol, metaclass=type)", "Listener", "metaclass"),
    Case("class made a constant", STATES_CODE, "class Counts(NamedTuple):", "Counts = 1\nclass _Counts:", "Counts", "kind"),
    Case("class without contract", STATES_CODE, "class Listener", "class More: ...\n\nclass Listener", "More", "class", STATES_CODE),
    Case("frozen dropped", STATES_CODE, "frozen=True, ", "", "Event", "frozen=True"),
    Case("kw_only dropped", STATES, "frozen=True, kw_only=True", "frozen=True", "Event", "kw_only=True"),
    Case("field default changed", STATES_CODE, "attempt: int = 1", "attempt: int = 2", "Event.attempt", "2"),
    Case("field default dropped", STATES_CODE, "attempt: int = 1", "attempt: int", "Event.attempt", "nothing"),
    Case("field factory dropped", STATES_CODE, " = field(default_factory=tuple)", "", "Event.tags", "nothing"),
    Case("field option dropped", STATES_CODE, "default=0.0, init=False", "default=0.0", "Event.stamp", "init"),
    Case("field type changed", STATES_CODE, "tags: tuple[str, ...]", "tags: list[str]", "Event.tags", "list"),
    Case("field made a class variable", STATES, "attempt: int", "attempt: ClassVar[int]", "Event.attempt", "ClassVar"),
    Case("field missing in the contract", STATES, "    attempt: int = 1\n", "", "Event.attempt", "nothing", STATES_CODE),
    Case("field missing in the code", STATES_CODE, "    attempt: int = 1\n", "", "Event.attempt", "nothing"),
    Case("tuple field default changed", STATES_CODE, "failures: int = 0", "failures: int = 1", "Counts.failures", "1"),
    Case("class variable changed", STATES_CODE, "ClassVar[int] = 2", "ClassVar[int] = 3", "Event.schema", "3"),
    Case("attribute type changed", RETRY_CODE, "        attempts: int\n", "        attempts: str\n", "Retry.attempts", "str"),
    Case("attribute type not written", RETRY_CODE, "self.mode = mode", "self.mode = mode or Mode.FAST", "Retry.mode", "annotate"),
    Case("attribute type not shown by its value", RETRY_CODE, "settled = False", "settled = None", "Retry.settled", "annotate"),
    Case("attribute with a value of another type", RETRY_CODE, "settled = False", "settled = 0", "Retry.settled", "int"),
    Case("slot behind a property of another type", RETRY_CODE, "tag: str", "tag: int", "Retry.tag", "int"),
    Case("slot behind a property without type", RETRY_CODE, "        tag: str\n", "", "Retry.tag", "annotate"),
    Case("slot behind a method", RETRY, "@property\n    def tag", "def tag", "Retry.tag", "kind"),
    Case("attribute narrower than its parameter", ERRORS, "retry_after: float | None\n", "retry_after: float\n", "CallError.retry_after", "Optional"),
    Case("attribute without contract", ERRORS_CODE, "self.name = name", "self.name = self.title = name", "CallError.title", "nothing", ERRORS_CODE),
    Case("attribute from unpacking without contract", ERRORS_CODE, "self.name = name", "self.name = name\n        self.title, _ = name, 1", "CallError.title", "nothing", ERRORS_CODE),
    Case("contract without attribute", ERRORS_CODE, "        self.name = name\n", "", "CallError.name", "nothing"),
    Case("slot without contract", RETRY_CODE, '"_wait", "attempts"', '"_wait", "extra", "attempts"', "Retry.extra", "nothing", RETRY_CODE),
]  # fmt: skip

CONSTANTS = [
    Case("enum value changed", STATES_CODE, 'FAST = "fast"', 'FAST = "quick"', "Mode.FAST", "quick"),
    Case("enum member missing in the contract", STATES, '    SLOW = "slow"\n', "", "Mode.SLOW", "nothing", STATES_CODE),
    Case("enum member missing in the code", STATES_CODE, '    SLOW = "slow"\n', "", "Mode.SLOW", "nothing"),
    Case("enum base changed", STATES_CODE, "class Mode(str, Enum)", "class Mode(Enum)", "Mode", "str, enum.Enum"),
    Case("constant changed", STATES_CODE, "RATE = 0.5", "RATE = 0.6", "RATE", "0.6"),
    Case("constant of another type", STATES_CODE, "RATE = 0.5", "RATE = 1", "RATE", "float"),
    Case("constants changed", STATES_CODE, "(429, 503)", "(429, 502, 503)", "CODES", "502"),
    Case("constant not written out", STATES, "RATE: float = 0.5", "RATE: float", "RATE", "write the literal out"),
    Case("Final dropped", STATES, "LIMIT: Final = 3", "LIMIT: int = 3", "LIMIT", "Final"),
    Case("constant without contract", STATES_CODE, "LIMIT: Final", "MORE = 1\nLIMIT: Final", "MORE", "nothing", STATES_CODE),
    Case("constants from unpacking without contract", STATES_CODE, "RATE = 0.5", "RATE, MORE = 0.5, 1", "MORE", "1", STATES_CODE),
    Case("constants from unpacking something without contract", STATES_CODE, "RATE = 0.5", "RATE = 0.5\n(_x, [MORE, *_]) = [_E, 'ab']", "MORE", "nothing", STATES_CODE),
    Case("contract without constant", STATES_CODE, "RATE = 0.5\n", "", "RATE", "nothing"),
    Case("constant made a function", STATES_CODE, "RATE = 0.5", "def RATE() -> float: ...", "RATE", "def RATE"),
    Case("constant of another enum", STATES, "NORMAL: Mode", "NORMAL: Event", "NORMAL", "Mode"),
    Case("constant of another class", STATES, "FIRST: Final[Event]", "FIRST: Final[Counts]", "FIRST", "Event"),
    Case("constant from a class", STATES_CODE, "SCHEMA: int", "SCHEMA", "SCHEMA", "annotate"),
    Case("constant without type", STATES_CODE, "Final[dict[int, bool]]", "Final", "TABLE", "annotate"),
    Case("type of a constant that is set later", STATES_CODE, "SPLIT: int", "SPLIT: float", "SPLIT", "float"),
    Case("value of a constant that is set later", STATES_CODE, "SPLIT = 4", "SPLIT = 5", "SPLIT", "5"),
    Case("alias changed", STATES_CODE, "Callable[[Exception], bool]]", "Callable[[Exception], int]]", "Errors", "int"),
    Case("bound changed", STATES_CODE, "bound=Exception", "bound=BaseException", "_E", "BaseException"),
    Case("version reached", STATES_CODE, "(3, 99)", "(3, 1)", "FUTURE", "nothing", STATES_CODE),
]  # fmt: skip

EXPORTS = [
    Case("__all__ unsorted", PACKAGE, '["Described", "Mode"]', '["Mode", "Described"]', "__all__", "`Mode`"),
    Case("__all__ of the code unsorted", PACKAGE_CODE, '["Described", "Mode"]', '["Mode", "Described"]', "__all__", "`Mode`", PACKAGE_CODE),
    Case("__all__ doubled", PACKAGE, '"Mode"]', '"Mode", "Mode"]', "__all__", "`Mode`"),
    Case("__all__ shorter", PACKAGE, '"Described", "Mode"', '"Described"', "__all__", "['Mode']"),
    Case("__all__ missing", PACKAGE, '__all__ = ["Described", "Mode"]', "", "__all__", "contract: names: there is no list"),
    Case("__all__ unreadable", PACKAGE, '= ["Described", "Mode"]', "= sorted(names)", "__all__", "names"),
    Case("__all__ in two parts", PACKAGE_CODE, '"Mode"]', '"Mode"]\n__all__ += []', "__all__", "literal list"),
    Case("re-export of something else", DOOR, "import Fast as Fast", "import Retry as Fast", "Fast", "retry.Retry"),
    Case("lazy export of something else", DOOR_CODE, '"CallError": "holdfast.policies.errors"', '"CallError": "holdfast.policies.states"', "CallError", "states.CallError"),
]  # fmt: skip

DOCSTRINGS = [
    Case("of a module", RETRY, '"""Retry."""\n', "", "holdfast.policies.retry", "there is none"),
    Case("of a class", RETRY, '    """Try again."""\n', "", "Retry", "there is none"),
    Case("of a function", RETRY, '"""Return `fn`, decorated."""', "...", "decorate", "there is none"),
    Case("of every overload", RETRY, '    """Decorate with a retry."""', "    ...", "retry", "there is none"),
    Case("of a method", RETRY, '"""Read a retry."""', "...", "Retry.parse", "there is none"),
    Case("of a property", RETRY, '"""The wait, seconds."""', "...", "Retry.wait", "there is none"),
    Case("too long", RETRY, '"""Read a retry."""', '"""Read\n1\n2\n3\n4\n5\n6\n"""', "Retry.parse", "7 lines"),
    Case("too long, fields aside", STATES, "    are fine.\n", "    are fine.\n    Not\n    more.\n", "Event", "7 lines"),
]  # fmt: skip

TEXT = [*PARAMETERS, *FUNCTIONS, *CLASSES, *CONSTANTS, *EXPORTS, *DOCSTRINGS]


@pytest.mark.parametrize("case", TEXT, ids=lambda case: case.id)
def test_a_drift_of_the_text_is_caught(project: Project, case: Case) -> None:
    """Where contract and code agree no drift is reported; one change is reported with its file and name, alone."""
    assert check_text(project.root) == []
    project.replace(case.path, case.old, case.new)
    drifts = check_text(project.root)
    assert places(drifts) == {case.place()}
    assert case.says in "\n".join(map(str, drifts))


def places(drifts: list[Drift]) -> set[tuple[str, str]]:
    return {(drift.file, drift.name) for drift in drifts}


HARMLESS = [
    Case("a private function", RETRY_CODE, "def _helper", "def _other", "", ""),
    Case("a private attribute", ERRORS_CODE, "self.name = name", "self.name = self._title = name", "", ""),
    Case("an attribute of something else", ERRORS_CODE, "self.name = name", "self.name = name\n        t.name = t.title = name\n        t.kind: int = 1", "", ""),
    Case("object as a base", RETRY, "class Retry:", "class Retry(object):", "", ""),
    Case("a private metaclass", STATES_CODE, "Listener(Protocol)", "Listener(Protocol, metaclass=_Meta)", "", ""),
    Case("an alias that does not say so", STATES, "Errors: TypeAlias", "Errors", "", ""),
    Case("a private name for something else", RETRY, "_T = TypeVar", "_helper: int\n_T = TypeVar", "", ""),
    Case("another spelling of a type", RETRY_CODE, "List[int]", "'list[int]'", "", ""),
    Case("a union in another order", RETRY, "float | Mode = 0.5", "Mode | float = 0.5", "", ""),
    Case("a literal in another spelling", STATES, "RATE: float = 0.5", "RATE: float = 5e-1", "", ""),
    Case("a constant's name for a default", RETRY, "attempts: int = 3,\n        *", "attempts: int = ...,\n        *", "", ""),
    Case("a decorator with a private name", RETRY_CODE, "def decorate(", "@_helper\ndef decorate(", "", ""),
    Case("a special method that every object has", RETRY_CODE, "def __repr__", "def __str__", "", ""),
    Case("dataclass arguments in another order", STATES, "frozen=True, kw_only=True", "kw_only=True, frozen=True", "", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case.id)
def test_what_means_the_same_is_no_drift(project: Project, case: Case) -> None:
    """A change that callers cannot see is not reported."""
    project.replace(case.path, case.old, case.new)
    assert check_text(project.root) == []


def test_constants_may_stand_first(project: Project) -> None:
    """`__all__` is sorted by character, or has constants before classes and functions last."""
    for path in (PACKAGE, PACKAGE_CODE):
        project.replace(path, '["Described", "Mode"]', '["LIMIT", "Described", "Mode", "limit"]')
        project.write(path, f"{(project.root / path).read_text()}\nLIMIT = limit = 3\n")
    assert check_text(project.root) == []


def test_a_changed_constant_drifts_with_every_default_that_uses_it(project: Project) -> None:
    """A default that names a constant has the constant's value."""
    assert check_text(project.root) == []
    project.replace(STATES_CODE, "LIMIT: Final = 3", "LIMIT: Final = 5")
    assert places(check_text(project.root)) == {(STATES, "LIMIT"), (RETRY, "Retry.__init__")}


def test_a_name_missing_at_the_lazy_door_drifts(project: Project) -> None:
    """A name that the door no longer loads is missing twice: by itself, and in `__all__`."""
    assert check_text(project.root) == []
    project.replace(DOOR_CODE, '    "Fast": "holdfast.policies.retry",\n', "")
    assert places(check_text(project.root)) == {(DOOR, "__all__"), (DOOR, "Fast")}


def test_a_removed_private_base_drifts_with_all_it_gave(project: Project) -> None:
    """What a class has from a private base is its own: without the base it is missing."""
    assert check_text(project.root) == []
    project.replace(RETRY_CODE, "class Retry(Counted)", "class Retry")
    assert places(check_text(project.root)) == {(RETRY, "Retry.count"), (RETRY, "Retry.describe")}


@pytest.mark.parametrize("path", [RETRY, RETRY_CODE])
def test_a_syntax_error_is_reported_where_it_is(project: Project, path: str) -> None:
    """A file that cannot be parsed is a drift with its line, and hides nothing of the others."""
    assert check_text(project.root) == []
    project.replace(path, "class Retry", "class class")
    project.replace(STATES_CODE, "RATE = 0.5", "RATE = 0.6")
    drifts = check_text(project.root)
    assert places(drifts) == {(path, "holdfast.policies.retry"), (STATES, "RATE")}
    assert [drift.line > 0 for drift in drifts] == [True, True]


# Mirror


def test_a_module_without_contract_is_caught(project: Project) -> None:
    """A new public module needs a contract; private modules and `__main__` need none."""
    assert check_mirror(project.root) == []
    for name in ("more", "_hidden", "__main__", "_inner/more"):
        project.write(f"backend/app/holdfast/policies/{name}.py", "")
    assert places(check_mirror(project.root)) == {
        ("backend/app/holdfast/policies/more.py", "holdfast.policies.more")
    }


def test_a_package_without_contract_is_caught(project: Project) -> None:
    """A package is a module: its `__init__` needs a contract."""
    assert check_mirror(project.root) == []
    project.remove(PACKAGE)
    assert places(check_mirror(project.root)) == {(PACKAGE_CODE, "holdfast.policies")}


def test_a_contract_without_module_is_caught(project: Project) -> None:
    """A contract describes a module that exists."""
    assert check_mirror(project.root) == []
    project.remove(ERRORS_CODE)
    assert places(check_mirror(project.root)) == {(ERRORS, "holdfast.policies.errors")}


@pytest.mark.parametrize("check", [check_mirror, check_text, check_stubtest, check_use])
def test_a_folder_without_contracts_passes_no_check(
    project: Project, check: Callable[[Path], list[Drift]]
) -> None:
    """An empty folder of contracts is a failure of every check by itself, never a vacuous pass."""
    shutil.rmtree(project.root / "backend/contracts")
    (project.root / "backend/contracts").mkdir()
    assert check(project.root) != []


# stubtest


def swap_behind_a_decorator(project: Project) -> None:
    swap = "_swap = lambda fn: lambda other: other\n\n\n@_swap\n"
    project.replace(RETRY_CODE, "def decorate(", f"{swap}def decorate(")


def delete_at_the_end(project: Project) -> None:
    project.replace(RETRY_CODE, "def _helper", "del decorate\n\n\ndef _helper")


@pytest.mark.usefixtures("mypy")
@pytest.mark.parametrize(
    ("change", "says"),
    [(swap_behind_a_decorator, "other"), (delete_at_the_end, "is not present at runtime")],
)
def test_what_only_running_shows_is_caught(
    project: Project, change: Callable[[Project], None], says: str
) -> None:
    """A drift that the text does not show is found by importing the code."""
    assert check_stubtest(project.root) == []
    change(project)
    assert check_text(project.root) == []
    drifts = check_stubtest(project.root)
    assert places(drifts) == {(RETRY, "decorate")}
    assert says in str(drifts[0])


@pytest.mark.usefixtures("mypy")
def test_a_module_that_cannot_be_imported_is_caught(project: Project) -> None:
    """A module that fails when it is imported is a drift of its contract, and of whatever imports it."""
    assert check_stubtest(project.root) == []
    project.replace(ERRORS_CODE, "import typing as t", "import typing as t\nimport no_such_module")
    drifts = check_stubtest(project.root)
    assert places(drifts) == {(DOOR, "holdfast"), (ERRORS, "holdfast.policies.errors")}
    assert "No module named 'no_such_module'" in str(drifts[-1])


@pytest.mark.usefixtures("mypy")
@pytest.mark.parametrize("check", [check_stubtest, check_use])
def test_a_contract_that_mypy_refuses_is_caught(
    project: Project, check: Callable[[Path], list[Drift]]
) -> None:
    """A contract with a syntax error or an unknown name stops the comparison, and says where."""
    assert check(project.root) == []
    project.replace(ERRORS, "name: str\n", "name: Nothing\n")
    assert places(check(project.root)) == {(ERRORS, "name-defined")}
    project.replace(ERRORS, "name: Nothing\n", "name: :\n")
    assert places(check(project.root)) == {(ERRORS, "syntax")}


@pytest.mark.usefixtures("mypy")
def test_a_contract_that_stubtest_did_not_read_is_caught(project: Project) -> None:
    """Each contract is given a name that no code has; where stubtest does not miss it, it read something else."""
    assert check_stubtest(project.root) == []
    project.replace(DOOR_CODE, "raise AttributeError(name)", "return 1")
    assert places(check_stubtest(project.root)) == {(DOOR, "holdfast")}


@pytest.mark.usefixtures("mypy")
@pytest.mark.parametrize("check", [check_stubtest, check_use])
def test_a_package_found_elsewhere_is_caught(project: Project, check: Callable[[Path], list[Drift]]) -> None:
    """Without the contract of the package itself mypy finds other code of that name; nothing passes then."""
    assert check(project.root) == []
    project.remove(DOOR)
    assert check(project.root) != []


# Use


USES = [
    Case("a private name", TEST, "import Retry, retry", "import Retry, retry\nfrom holdfast.policies.retry import _helper", "attr-defined", "_helper"),
    Case("a private module", TEST, "import Retry, retry", "import Retry, retry\nfrom holdfast.policies._base import Counted", "holdfast.policies._base", "Counted"),
    Case("a private module through its package", EXAMPLE, "import Fast", "import Fast\nfrom holdfast.policies import _base", "holdfast.policies._base", "import _base"),
    Case("a module that there is not", TEST, "import Retry, retry", "import Retry, retry\nfrom holdfast.policies.more import Counted", "import-not-found", "policies.more"),
    Case("an attribute without contract", TEST, "wait=1.0).attempts", "wait=1.0)._wait", "attr-defined", '"_wait"'),
    Case("an argument of a wrong type", EXAMPLE, 'parse("3"', "parse(3", "arg-type", 'incompatible type "int"'),
    Case("an argument that there is not", EXAMPLE, "strict=True", "loud=True", "call-arg", '"loud"'),
    Case("a result of a wrong type", TEST, "assert double(2)", "number: str = double(2)\n    assert number", "assignment", "number: str"),
    Case("a function without types", TEST, "def test_use() -> None", "def test_use()", "no-untyped-def", "return type"),
]  # fmt: skip


@pytest.mark.usefixtures("mypy")
def test_uses_that_contracts_do_not_allow_are_caught(project: Project) -> None:
    """Tests and examples are checked strictly, against the contracts alone, whatever the code offers."""
    assert check_use(project.root) == []
    wrong = {f"{case.path.removesuffix('.py')}_{number}.py": case for number, case in enumerate(USES)}
    for path, case in wrong.items():
        project.write(path, (project.root / case.path).read_text(encoding="utf-8"))
        project.replace(path, case.old, case.new)
    drifts = check_use(project.root)
    assert places(drifts) >= {(path, case.name) for path, case in wrong.items()}
    assert {drift.file for drift in drifts} == set(wrong)
    said = {drift.file: str(drift) for drift in drifts if drift.name == wrong[drift.file].name}
    assert [case.id for path, case in wrong.items() if case.says not in said[path]] == []


@pytest.mark.usefixtures("mypy")
def test_a_contract_that_needs_a_private_module_is_caught(project: Project) -> None:
    """A contract stands alone: it imports contracts, never the code behind them."""
    assert check_use(project.root) == []
    project.replace(RETRY, "import Errors, Mode", "import Errors, Mode\nfrom holdfast.policies import _base")
    assert places(check_use(project.root)) == {(RETRY, "holdfast.policies._base")}


@pytest.mark.usefixtures("mypy")
def test_a_unit_test_may_look_inside(project: Project) -> None:
    """Tests of internals may import private modules, of whose types nothing is known; the rest is checked."""
    project.write(
        "backend/tests/unit/test_base.py",
        "from holdfast import retry\nfrom holdfast.policies._base import Counted\n\n"
        "number: int = Counted().anything\n",
    )
    assert check_use(project.root) == []
    project.replace("backend/tests/unit/test_base.py", "Counted()", "retry()")
    assert [drift.name for drift in check_use(project.root)] == ["attr-defined"]


@pytest.mark.usefixtures("mypy")
def test_tests_that_use_nothing_are_caught(project: Project) -> None:
    """If no test and no example imports the package, the check of their types says nothing."""
    assert check_use(project.root) == []
    project.remove(EXAMPLE)
    assert check_use(project.root) == []
    project.write(TEST, "")
    assert [drift.name for drift in check_use(project.root)] == ["holdfast"]


@pytest.mark.usefixtures("mypy")
def test_the_projects_own_settings_of_mypy_hold(project: Project) -> None:
    """Rules and overrides in pyproject.toml apply to tests and examples; paths to the code do not."""
    project.write("examples/more.py", "import no_such_module\n\nprint(no_such_module.x)\n")
    assert [drift.name for drift in check_use(project.root)] == ["import-not-found"]
    project.write(
        "pyproject.toml",
        '[tool.mypy]\nmypy_path = ["$MYPY_CONFIG_FILE_DIR/backend/app"]\nfiles = ["backend/app"]\n'
        '[[tool.mypy.overrides]]\nmodule = ["no_such_module.*"]\nignore_missing_imports = true\n',
    )
    assert check_use(project.root) == []
    project.replace("pyproject.toml", "files =", 'enable_error_code = ["ignore-without-code"]\nfiles =')
    project.write("examples/more.py", "number: int = None  # type: ignore\n")
    assert [drift.name for drift in check_use(project.root)] == ["ignore-without-code"]


# A copy of the real tree


Statement = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.AnnAssign | ast.Assign


def add_parameter(node: Statement) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    node.args.kwonlyargs.append(ast.arg("drifted"))
    node.args.kw_defaults.append(None)
    return True


def change_parameter_types(node: Statement) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    typed = [arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg) and arg.annotation]
    for arg in typed:
        arg.annotation = ast.Name("Drifted")
    return bool(typed)


def change_defaults(node: Statement) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    given = [*node.args.defaults, *node.args.kw_defaults]
    written = [value for value in given if isinstance(value, ast.Constant) and value.value is not ...]
    for value in written:
        value.value = "drifted"
    return bool(written)


def change_return_type(node: Statement) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.returns is None:
        return False
    node.returns = ast.Name("Drifted")
    return True


def add_decorator(node: Statement) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    node.decorator_list.append(ast.Name("drifted"))
    return True


def add_base(node: Statement) -> bool:
    if not isinstance(node, ast.ClassDef):
        return False
    node.bases.append(ast.Name("Drifted"))
    return True


def change_attribute_type(node: Statement) -> bool:
    if not isinstance(node, ast.AnnAssign) or "TypeAlias" in ast.unparse(node.annotation):
        return False
    node.annotation = ast.Name("Drifted")
    return True


def change_value(node: Statement) -> bool:
    if not isinstance(node, ast.AnnAssign | ast.Assign) or not isinstance(node.value, ast.Constant):
        return False
    node.value.value = "drifted"
    return True


def remove_docstring(node: Statement) -> bool:
    if not isinstance(node, ast.ClassDef) or not ast.get_docstring(node):
        return False
    node.body[0] = ast.Pass()
    return True


class Mutant(ast.NodeTransformer):
    """Change every public name of a contract for which `change` finds something to change, and remember it."""

    def __init__(self, change: Callable[[Statement], bool]) -> None:
        self.change = change
        self.changed: set[str] = set()
        self.inside: list[str] = []

    def visit(self, node: ast.AST) -> ast.AST:
        """Change a statement, then those inside it."""
        name = name_of(node) if isinstance(node, Statement) else ""
        if isinstance(node, Statement) and name and not name.startswith("_"):
            self.inside.append(name)
            if self.change(node):
                self.changed.add(".".join(self.inside))
            if isinstance(node, ast.ClassDef):
                self.generic_visit(node)
            self.inside.pop()
        elif isinstance(node, ast.Module):
            self.generic_visit(node)
        return node


def name_of(node: Statement) -> str:
    match node:
        case ast.FunctionDef(
            name=name, decorator_list=[ast.Attribute(value=ast.Name(id=same), attr=kind)]
        ) if name == same:
            return f"{name}.{kind}"  # the setter of a property
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case _:
            return ""


@pytest.fixture
def real_project(tmp_path: Path) -> Project:
    """Give a copy of this project's package and contracts."""
    for folder in ("backend/app/holdfast", "backend/contracts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Project(tmp_path)


def contracts_of(project: Project) -> Iterator[str]:
    for path in sorted((project.root / "backend/contracts").rglob("*.pyi")):
        yield path.relative_to(project.root).as_posix()


@pytest.mark.parametrize(
    ("change", "at_least"),
    [
        (add_parameter, 100),
        (change_parameter_types, 50),
        (change_defaults, 20),
        (change_return_type, 100),
        (add_decorator, 100),
        (add_base, 30),
        (change_attribute_type, 30),
        (change_value, 6),
        (remove_docstring, 30),
    ],
)
def test_a_drift_of_every_real_contract_is_caught(
    real_project: Project, change: Callable[[Statement], bool], at_least: int
) -> None:
    """One kind of change, made to every name of every contract that it fits, is reported for each of them."""
    assert check_text(real_project.root) == []
    drifted: set[tuple[str, str]] = set()
    for path in contracts_of(real_project):
        mutant = Mutant(change)
        tree = mutant.visit(ast.parse((real_project.root / path).read_text(encoding="utf-8")))
        real_project.write(path, ast.unparse(tree))
        drifted |= {(path, name) for name in mutant.changed}
    assert len(drifted) >= at_least
    assert drifted - places(check_text(real_project.root)) == set()


def test_the_loss_of_every_real_contract_is_caught(real_project: Project) -> None:
    """Without its contract every public module is reported."""
    assert check_mirror(real_project.root) == []
    lost = list(contracts_of(real_project))
    for path in lost:
        real_project.remove(path)
    modules = {path.replace("backend/contracts", "backend/app/holdfast").removesuffix("i") for path in lost}
    assert {drift.file for drift in check_mirror(real_project.root)} == modules
