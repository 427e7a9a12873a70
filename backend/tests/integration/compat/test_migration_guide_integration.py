"""The migration guide: what it shows of libraries that holdfast does not need runs too, where they are installed."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[4] / "docs" / "guides" / "migration.md"
TEXT = PAGE.read_text(encoding="utf-8")
# `python` blocks are run by the tests of the documentation; `py` marks those that need one of these.
PEERS = ("stamina", "backoff")
SNIPPETS = re.findall(r"^```py\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_each_of_these_libraries_is_shown() -> None:
    """There is one snippet of each library, before the one of holdfast's that replaces it."""
    assert [re.findall(r"^import (\w+)$", snippet, re.MULTILINE) for snippet in SNIPPETS] == [
        [name] for name in PEERS
    ]


@pytest.mark.parametrize("name", PEERS)
def test_what_is_shown_of_a_library_runs(name: str) -> None:
    """The code that the guide starts from is a complete program whose assertions hold."""
    pytest.importorskip(name)
    exec(SNIPPETS[PEERS.index(name)], {"__name__": f"snippet_of_{name}"})  # what the page shows is ours


def test_the_guide_can_be_read_in_one_go() -> None:
    """The guide has at most 250 lines."""
    assert len(TEXT.splitlines()) <= 250
