"""The documentation does what it says: its snippets run, its tables and links are true."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import holdfast
from holdfast import Backoff, CircuitOpened, FallbackUsed, HoldfastError, RetryBudget

ROOT = Path(__file__).parents[4]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.name != "demo.py"]
DEFAULTS: dict[str, Any] = {
    **{name: getattr(holdfast, name) for name in holdfast.__all__ if name.endswith("Config")},
    "Backoff": Backoff,
    "RetryBudget": RetryBudget,
}


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


def test_the_tree_of_errors_is_true() -> None:
    """docs/reference/errors.md draws the tree that the classes form."""

    def tree(kind: type[Exception], depth: int = 0) -> Iterator[tuple[int, str]]:
        yield depth, kind.__name__
        for child in sorted(kind.__subclasses__(), key=lambda one: one.__name__):
            if child.__module__.startswith("holdfast."):
                yield from tree(child, depth + 1)

    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^([│ ├└─]*)(\w+) {2,}", page.split("```text\n")[1].split("```")[0], re.MULTILINE)
    shown = [(len(indent) // 4, name) for indent, name in drawn]
    assert sorted(shown) == sorted(tree(HoldfastError))


def demo() -> ModuleType:
    """Load the demo, which runs for half a minute, without running it."""
    spec = spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["demo"] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["demo"]
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
