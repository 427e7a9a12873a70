"""The tutorial of jobs does what it says: its commands run as they stand, a killed process among them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs" / "tutorials" / "first-batch.md"
ID = re.compile(r"\b01[0-9a-z]{18}\b")


def blocks() -> Iterator[tuple[str, str]]:
    """Yield kind and text of each block of the page, but how to install."""
    for kind, text in re.findall(
        r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        if "pip install" not in text:
            yield kind, text


def plain(text: str) -> list[str]:
    """Return lines without what differs from run to run: ids, numbers, widths, and calls that were in doubt."""
    text = re.sub(r", \d+ (running|need review)", "", ID.sub("JOB", text))
    return [re.sub(r"\d+", "N", " ".join(line.split())) for line in text.splitlines()]


@pytest.mark.one_python
def test_the_tutorial_is_true(tmp_path: Path) -> None:
    """Every command of the tutorial is run, and says what the page shows; at the end each label is made once."""
    tool = tmp_path / "bin" / "holdfast"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast "$@"\n', encoding="utf-8")
    tool.chmod(0o755)
    folder = tmp_path / "shop"
    folder.mkdir()
    home = str(Path(holdfast.__file__).parents[1])
    path = f"{tool.parent}:{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": home, "PATH": path, "LC_ALL": "C"}

    def shell(script: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    said = ""
    shown: dict[str, str] = {}
    for kind, text in blocks():
        if kind == "python":
            (folder / "app.py").write_text(text, encoding="utf-8")
        elif kind == "sh":
            said = shell(ID.sub(lambda found: shown[found[0]], text))
        else:
            actual = plain(said)
            assert [line for line in plain(text) if line not in actual] == [], said
            ids = ID.findall(text), ID.findall(said)
            shown.update(zip(dict.fromkeys(ids[0]), dict.fromkeys(ids[1]), strict=False))
    assert said.split() == ["60", "0", "60"]
