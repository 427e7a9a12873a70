"""What write-backs keep to themselves: where many results go, and where they may be killed."""

import os
import re
import stat
from pathlib import Path

import pytest

from backend.tests.integration.jobs import test_writeback_integration as seam
from holdfast.services.jobs import _results
from holdfast.services.jobs.sources import source
from holdfast.services.jobs.writeback import WriteBackError, write_back


def test_many_results_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number they go to a temporary database, and the file is the same."""
    monkeypatch.setattr(_results, "_FEW", 100)
    monkeypatch.setattr(_results, "_STEP", 50)
    path = tmp_path / "orders.csv"
    path.write_text("id\n" + "".join(f"{n}\n" for n in range(1000)))
    back = write_back(source(path, key="id"), {"tracking": "tracking_number"})
    results = [(str(n), {"tracking": f"T{n}"}) for n in range(999, -1, -1)]
    assert back.apply([*results, ("7", {"tracking": "last"})]).rows == 1000
    expected = "".join(f"{n},{'last' if n == 7 else f'T{n}'}\n" for n in range(1000))
    assert path.read_text() == "id,tracking_number\n" + expected
    with pytest.raises(WriteBackError, match=r"has no row '1000'; give"):
        back.apply([*results, ("1000", {"tracking": "T"})])


def test_every_boundary_is_known() -> None:
    """The kills that are tested are all that the code has."""
    here = Path(_results.__file__).parent
    said = {
        name
        for path in here.glob("*.py")
        for name in re.findall(r'reach\("(writeback\.\w+)"\)', path.read_text())
    }
    assert said == {*seam.BOUNDARIES, *seam.SQL_BOUNDARIES}


def test_what_is_renamed_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is synced before it takes the place of the old one, and the folder after it."""
    path = tmp_path / "orders.csv"
    path.write_text("id\n1\n")
    seen: list[tuple[str, bool, bool]] = []
    sync = os.fsync

    def record(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((kind, (tmp_path / ".orders.csv.holdfast").exists(), "T1" in path.read_text()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_back(source(path, key="id"), {"tracking": "tracking"}).apply([("1", {"tracking": "T1"})])
    assert seen == [("file", True, False), ("folder", False, True)]
