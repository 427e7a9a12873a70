"""Plan × files: TEST_PLAN.md says what a seam suite is, and the suite is what it says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# One without a README is checked by its own.
PLANS = Path(__file__).resolve().parents[1].glob("*/TEST_PLAN.md")
SUITES = sorted(path.parent for path in PLANS if (path.parent / "README.md").exists())
FACTS = ("Priority", "Scope", "Impact", "Strategy", "Success criteria")

Seam = dict[str, str]


def read_plan(text: str) -> dict[str, Seam]:
    """Return the facts of each seam by its title; the priority of its chapter is `chapter`."""
    seams: dict[str, Seam] = {}
    for chapter in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        level, *sections = re.split(r"^### ", chapter, flags=re.MULTILINE)
        for section in sections:
            title, _, body = section.partition("\n")
            facts = re.findall(r"^- \*\*(.+?)\*\*: (.+(?:\n  .+)*)", body, flags=re.MULTILINE)
            seams[title] = {
                "chapter": level.strip(),
                **{name: " ".join(said.split()) for name, said in facts},
            }
    return seams


def faults(seams: dict[str, Seam], files: set[str]) -> Iterator[str]:
    """Yield each way in which plan and files differ."""
    named = [seam.get("File", "").strip("`") for seam in seams.values()]
    yield from (f"{file} is not in the plan" for file in sorted(files - set(named)))
    yield from (f"{file} is in the plan twice" for file in sorted(set(named)) if named.count(file) > 1)
    for title, seam in seams.items():
        file = seam.get("File", "").strip("`")
        if file not in files:
            yield f"{title}: there is no file {file!r}"
        if seam.get("Priority") != seam["chapter"] or seam["chapter"] not in {"P0", "P1", "P2"}:
            yield f"{title}: priority {seam.get('Priority')!r} in chapter {seam['chapter']!r}"
        yield from (f"{title} does not say its {fact}" for fact in FACTS if not seam.get(fact))


each_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)


def plan(suite: Path) -> dict[str, Seam]:
    return read_plan((suite / "TEST_PLAN.md").read_text(encoding="utf-8"))


def files(suite: Path) -> set[str]:
    return {path.name for path in suite.glob("test_*.py")}


def is_fixture(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list]
    return any(ast.unparse(mark) in {"pytest.fixture", "fixture"} for mark in marks)


def fixtures(source: str) -> list[str]:
    """Return the names of the fixtures that a file defines, nested ones included."""
    return [node.name for node in ast.walk(ast.parse(source)) if is_fixture(node)]  # type: ignore[attr-defined]


def test_the_suites_have_plans() -> None:
    """Calls and jobs each have a plan."""
    assert {"jobs", "resilience"} <= {suite.name for suite in SUITES}


@each_suite
def test_plan_and_files_agree(suite: Path) -> None:
    """Every seam has its file and all its facts, every file has its seam."""
    assert sorted(faults(plan(suite), files(suite))) == []


@each_suite
def test_every_seam_of_the_suite_is_named_alike(suite: Path) -> None:
    """A file of the suite is called `test_<seam>_integration.py`, so that one pattern finds all."""
    assert [
        name for name in files(suite) if not re.fullmatch(r"test_[a-z0-9_]+_integration[.]py", name)
    ] == []


SEAM = """
## P0

### One × two

- **File**: `test_one_two_integration.py`
- **Priority**: P0
- **Scope**: This,
  and that.
- **Impact**: Bad.
- **Strategy**: Look.
- **Success criteria**: Good.
"""


def test_the_plan_is_read_as_it_is_written() -> None:
    """A fact may take several lines, which are read as one."""
    assert read_plan(SEAM)["One × two"]["Scope"] == "This, and that."
    assert list(faults(read_plan(SEAM), {"test_one_two_integration.py"})) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("test_one_two", "test_one_three", ["test_one_two_integration.py is not in", "there is no file"]),
        ("Priority**: P0", "Priority**: P1", ["priority 'P1' in chapter 'P0'"]),
        ("## P0\n", "## P7\n", ["priority 'P0' in chapter 'P7'"]),
        *((f"- **{fact}**", f"- {fact}", [f"does not say its {fact}"]) for fact in FACTS[1:]),
        ("Bad.", "", ["does not say its Impact"]),
        ("### One", SEAM.partition("\n\n")[2].replace("One", "Three") + "\n### One", ["in the plan twice"]),
    ],
)
def test_a_drift_of_the_plan_is_found(old: str, new: str, said: list[str]) -> None:
    """Each way in which the plan can fall behind the files is reported as just that."""
    found = list(faults(read_plan(SEAM.replace(old, new)), {"test_one_two_integration.py"}))
    assert len(found) == len(said)
    assert all(part in fault for part, fault in zip(said, found, strict=True))


@each_suite
def test_fixtures_are_defined_in_conftest_only(suite: Path) -> None:
    """Whoever looks for a fixture of the suite finds it in its `conftest.py`, or in one above."""
    stray = {
        path.name: found
        for path in suite.rglob("*.py")
        if path.name != "conftest.py" and (found := fixtures(path.read_text(encoding="utf-8")))
    }
    assert stray == {}


@pytest.mark.parametrize(
    "mark", ["@pytest.fixture", "@pytest.fixture(params=[1])", "@fixture", "@pytest.fixture()"]
)
def test_a_stray_fixture_is_found(mark: str) -> None:
    """A fixture is found whatever way it is marked, and inside a class too."""
    assert fixtures(f"class Tests:\n    {mark}\n    def one(self): ...\n\ndef two(): ...") == ["one"]


@each_suite
def test_the_readme_says_what_each_file_covers(suite: Path) -> None:
    """The table in the README has a row for each file of the suite, and no other."""
    text = (suite / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(test_\w+[.]py)` \|", text, flags=re.MULTILINE)) == files(suite)
