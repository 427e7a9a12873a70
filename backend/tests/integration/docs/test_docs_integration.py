"""The documentation does what it says: its snippets run, its tables and links are true."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

import pytest

import holdfast
from holdfast import Backoff, CircuitOpened, FallbackUsed, HoldfastError, RetryBudget
from holdfast.infrastructure.resilience.config import RANGES
from holdfast.infrastructure.resilience.presets import PRESETS, STRATEGIES, TEMPLATES

ROOT = Path(__file__).parents[4]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DEMOS = {"demo.py", "orders_demo.py", "graph_demo.py"}
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.name not in DEMOS]
DEFAULTS: dict[str, Any] = {
    **{name: getattr(holdfast, name) for name in holdfast.__all__ if name.endswith("Config")},
    "Backoff": Backoff,
    "RetryBudget": RetryBudget,
}

NUMBERS = ("attempts", "deadline", "multiplier", "minimum", "maximum", "jitter", "threshold", "recovery")


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every Python block of a page."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, found.start()) + 2, found[1]


SNIPPETS = [
    pytest.param(page, line, source, id=f"{page.relative_to(ROOT)}:{line}")
    for page in PAGES
    for line, source in blocks(page)
]


@pytest.mark.usefixtures("zero_meters")
@pytest.mark.parametrize(("page", "line", "source"), SNIPPETS)
def test_every_snippet_runs_as_it_stands(page: Path, line: int, source: str) -> None:
    """Every Python block of the documentation is a complete program whose assertions hold."""
    code = compile("\n" * (line - 1) + source, str(page), "exec")
    exec(code, {"__name__": f"snippet_{line}"})  # what the pages show is ours


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs_as_it_stands(example: Path) -> None:
    """Every example ends well and says something."""
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """Every relative link of a page leads to a file or folder."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_page_is_in_the_index() -> None:
    """Every page under docs is reached from the index."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES[1:] if page.name != "README.md"]
    assert [page for page in pages if f"({page})" not in index] == []


def test_the_readme_is_short() -> None:
    """The README has fewer than 600 words; bars and marks of tables are none."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([word for word in text.split() if re.search(r"\w", word)]) < 600


@pytest.mark.parametrize("name", DEFAULTS)
def test_tables_of_defaults_are_true(name: str) -> None:
    """Each table of docs/reference/defaults.md shows every setting with the default that the code has."""
    page = (ROOT / "docs" / "reference" / "defaults.md").read_text(encoding="utf-8")
    table = page.split(f"## {name}\n")[1].split("##")[0]
    public = {one: getattr(holdfast, one) for one in holdfast.__all__}
    shown = {
        row[0]: eval(row[1], public) for row in re.findall(r"^\| `(\w+)` \| `(.+)` \|$", table, re.MULTILINE)
    }
    parameters = inspect.signature(DEFAULTS[name]).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
    # A setting that has to be given, or that stands for nothing, has no default to show.
    defaults = {key: value for key, value in defaults.items() if repr(value) != "..."}
    if name == "RetryBudget":
        defaults = {key: value for key, value in defaults.items() if key not in {"name", "clock"}}
    assert shown == defaults


def table(page: str, head: str) -> list[list[str]]:
    """Return the rows of the table on a page of docs whose first line begins with `head`."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = text.split(f"\n| {head} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


def test_the_tables_of_configuration_are_true() -> None:
    """docs/configuration.md shows the numbers that strategies, presets, templates and ranges have."""
    strategies = [[one.name, *(f"{getattr(one, name):g}" for name in NUMBERS)] for one in STRATEGIES.values()]
    assert table("configuration.md", "strategy") == strategies
    shown = {row[0]: row[1:] for row in table("configuration.md", "preset")}
    assert shown == {
        one.name: [
            *(f"{number:g}" for number in (one.attempts, one.threshold, one.recovery)),
            one.strategy,
            ", ".join(f"{name}: {strategy}" for name, strategy in one.overrides.items()) or "–",
        ]
        for one in PRESETS.values()
    }
    starts = [row[:5] for row in table("configuration.md", "template")]
    fields = ("retry_attempts", "circuit_breaker_threshold", "recovery_timeout")
    assert starts == [
        [one.name, *(f"{one.settings[field]:g}" for field in fields), one.settings["default_strategy"]]
        for one in TEMPLATES.values()
    ]
    ranges = {row[0]: row[1] for row in table("configuration.md", "field")}
    assert list(ranges) == [*RANGES, "default_strategy", "operation_overrides"]
    assert all(ranges[name].startswith(f"{low:g} to {high:g}") for name, (low, high) in RANGES.items())


def test_the_tree_of_errors_is_true() -> None:
    """docs/reference/errors.md draws the tree that the classes form."""
    for module in walk_packages(holdfast.__path__, "holdfast."):
        if not re.search(r"\._|__", module.name):
            import_module(module.name)

    def tree(kind: type[Exception], depth: int = 0) -> Iterator[tuple[int, str]]:
        yield depth, kind.__name__
        for child in sorted(kind.__subclasses__(), key=lambda one: one.__name__):
            if child.__module__.startswith("holdfast."):
                yield from tree(child, depth + 1)

    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^([│ ├└─]*)(\w+) {2,}", page.split("```text\n")[1].split("```")[0], re.MULTILINE)
    shown = [(len(indent) // 4, name) for indent, name in drawn]
    assert sorted(shown) == sorted(tree(HoldfastError))


def demo(name: str = "demo") -> ModuleType:
    """Load a demo without running it, which takes long."""
    spec = spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def test_the_demo_reports_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's report counts prices, waits and requests of each phase, and tells what each policy did."""
    module = demo()
    held, bare, stack = module.Client("with", 1), module.Client("without", 2), module.Stack.build()
    for second in range(30):
        held.outcomes.append(module.Outcome(second, 0.25, "today's" if second < 15 else "yesterday's"))
        bare.outcomes.append(module.Outcome(second, 2.5, "none"))
        held.sent.append(module.Request(second, second + 0.5))
        bare.sent.append(module.Request(second))
    opened = CircuitOpened(
        name="x", at=0.0, open_for=0.5, reason="why", calls=1, failures=1, slow=0, shadow=False
    )
    module.report(held, bare, stack, [(15.0, opened), (15.0, FallbackUsed(name="x", at=0.0, error=None))])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "slow, 5-10 s 100% | 0% 0% | 0% 0% | 100% 0.25 | 2.50 5 | 5 1 | 10" in lines
    assert "in all 50% | 0% 50% | 0% 0% | 100% 0.25 | 2.50 30 | 30 1 | 30" in lines
    assert "fallback answered 1 of 30 users with yesterday's price" in lines
    assert "15.0 s opened: why; nothing is sent for 0.5 s" in lines


def test_the_demo_writes_plain_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard output is no terminal, progress is a line of its own each time."""
    module = demo()
    breaker = module.Stack.build().breaker
    module.progress(4.0, [], breaker)
    module.progress(8.0, [], breaker)
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "\r" not in out


@pytest.mark.one_python
def test_the_demo_of_orders_keeps_what_it_promises() -> None:
    """Killed half-way, 300 orders get 300 labels, and every number of the report is right."""
    path = ROOT / "examples" / "orders_demo.py"
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=110, check=False
    )
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert "orders with exactly one label, by the service's book 300 ok" in lines
    assert "A150, labelled when the program died: settled by asking True ok" in lines
    assert sum(line.endswith(" ok") for line in lines) == 10
    assert not [line for line in lines if "WRONG" in line]


def test_the_demo_of_orders_tells_wrong_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is not as promised is named, with what was expected, and counted for the exit status."""
    module = demo("orders_demo")

    def found(*_: object) -> list[tuple[str, object, object]]:
        return [("labels", 299, 300), ("rows", 300, 300)]

    monkeypatch.setattr(module, "checks", found)
    story = module.Story(then={"labels": {}})
    assert module.report(None, None, None, story, {"requests": {}, "troubles": {}}) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "labels 299 WRONG, expected 300" in lines
    assert "rows 300 ok" in lines


@pytest.mark.one_python
def test_the_demo_of_a_graph_keeps_what_it_promises() -> None:
    """An order fails, one hangs, the process is killed; at the end the orders' own book agrees with the store."""
    path = ROOT / "examples" / "graph_demo.py"
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=110, check=False
    )
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert "publish failed succeeded 1" in lines
    assert "package failed succeeded 2" in lines
    assert sum(line.startswith("yes ") for line in lines) == 8
    assert not [line for line in lines if line.startswith("NO ")]
