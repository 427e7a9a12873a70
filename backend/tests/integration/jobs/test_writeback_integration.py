"""Write-back × files, databases and crashes: what changes, what stays, and what is refused."""

import codecs
import datetime as dt
import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import openpyxl.styles
import pytest
import sqlalchemy as sql

from backend.tests.integration.jobs._files import WriteWorkbook, cells, members, replace_member
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.services.jobs.rows import Fingerprint, SourceChangedError, SourceError
from holdfast.services.jobs.sources import (
    CsvSource,
    ExcelSource,
    IterableSource,
    JsonLinesSource,
    Source,
    SqlSource,
    source,
)
from holdfast.services.jobs.writeback import (
    CsvWriteBack,
    SqlWriteBack,
    WriteBackBusyError,
    WriteBackError,
    write_back,
)

Write = Callable[..., Path]
Pairs = list[tuple[str, dict[str, Any]]]
COLUMNS = {"tracking": "tracking_number"}


def written(path: Path, results: Any, columns: Any = None, **options: Any) -> bytes:
    """Write results back, and return what the file is then."""
    pairs = [(row, {"tracking": said}) for row, said in results.items()]
    write_back(source(path, **options), columns or COLUMNS).apply(pairs)
    return path.read_bytes()


# CSV


def test_a_missing_column_is_appended(file: Write) -> None:
    """The header gets its name, rows with results their value, the others an empty cell."""
    path = file("id,name\n1,Ann\n2,Bob\n")
    assert written(path, {"2": "T2"}, key="id") == b"id,name,tracking_number\n1,Ann,\n2,Bob,T2\n"


def test_a_column_that_is_there_is_filled(file: Write) -> None:
    """Only the cells of rows with results change."""
    path = file("tracking_number,id\nold,1\n,2\n")
    assert written(path, {"2": "T2"}, key="id") == b"tracking_number,id\nold,1\nT2,2\n"


def test_rows_are_found_by_their_lines(file: Write) -> None:
    """Blank lines and line breaks in cells count, as they did when the rows were read."""
    path = file('id,note\n1,"a\nb"\n\n2,c\n')
    assert written(path, {"line:5": "T2"}) == b'id,note,tracking_number\n1,"a\nb",\n\n2,c,T2\n'


def test_everything_else_stays_as_it_is(file: Write) -> None:
    """Quotes nobody needs, odd line ends, blank, ragged and broken lines and a missing last line end are kept."""
    text = 'id;"na""me";x\r\n"1";Ann ;""\n\r\n2;"B""b;";1\r3\r\n;;;;\n4;"x"y;2\n5;e;f'
    path = file(text)
    new = text.replace(";x\r\n", ";x;tracking_number\r\n").replace('""\n', '"";\n').replace(";1\r", ";1;T2\r")
    assert written(path, {"2": "T2"}, key="id", ragged="skip") == (new + ";").encode()


@pytest.mark.parametrize(
    ("codec", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("cp1252", b""),
    ],
)
def test_encoding_and_mark_stay(file: Write, codec: str, mark: bytes) -> None:
    """What is written is in the encoding of the file, and the mark is there once."""
    path = file(mark + "id,name\n1,Zoë\n".encode(codec))
    expected = mark + "id,name,tracking_number\n1,Zoë,Ü\n".encode(codec)
    assert written(path, {"1": "Ü"}, key="id") == expected


def test_what_the_encoding_lacks_is_refused(file: Write) -> None:
    """Nothing is replaced by a question mark, and the file stays."""
    path = file("id,name\n1,Zoë\n".encode("cp1252"))
    before = path.read_bytes()
    with pytest.raises(
        WriteBackError, match="row '1': tracking_number = 'Ж' cannot be written in cp1252; save"
    ):
        written(path, {"1": "Ж"}, key="id")
    assert path.read_bytes() == before


def test_an_encoding_that_loses_bytes_is_refused(file: Write) -> None:
    """Where text written again is not what was read, other cells would change."""
    content = b"id,name\n1," + b"\x1b$B\x1b(B" + b"x\n"
    with pytest.raises(WriteBackError, match="is in iso2022_jp, which does not write all as it was read"):
        written(file(content), {"1": "T1"}, key="id", encoding="iso2022_jp")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("plain", "plain"),
        ('a "b", c', '"a ""b"", c"'),
        ("a\nb", '"a\nb"'),
        ("", ""),
        (None, ""),
        (True, "true"),
        (7, "7"),
        (Decimal("12.50"), "12.50"),
        (Decimal("1E+3"), "1000"),
        (0.1, "0.1"),
        (dt.date(2026, 2, 28), "2026-02-28"),
        (dt.timedelta(seconds=1.5), "1.5"),
        ([1, {"a": Decimal("1.10")}], '"[1, {""a"": 1.10}]"'),
    ],
)
def test_values_become_text(file: Write, value: Any, cell: str) -> None:
    """Cells are quoted where they must be, numbers are exact, dates ISO, nested values JSON."""
    path = file("id\n1\n")
    assert written(path, {"1": value}, key="id").decode() == f"id,tracking_number\n1,{cell}\n"


def test_a_file_that_quotes_everything_goes_on_so(file: Write) -> None:
    """New cells are written in the manner of the others."""
    path = file('"id","name"\n"1","Ann"\n"2",""\n')
    new = b'"id","name","tracking_number"\n"1","Ann","T1"\n"2","",""\n'
    assert written(path, {"1": "T1"}, key="id") == new


def test_a_cell_that_says_it_already_stays(file: Write) -> None:
    """A quoted cell with the same text keeps its quotes, and the file is not even replaced."""
    path = file('id,tracking_number\n1,"T1"\n')
    inode = path.stat().st_ino
    assert written(path, {"1": "T1"}, key="id") == b'id,tracking_number\n1,"T1"\n'
    assert path.stat().st_ino == inode


def test_padded_rows_are_filled_up(file: Write) -> None:
    """A short row gets the cells before the result, and short rows without one stay short."""
    path = file("id,name,x\n1\n2\n")
    assert written(path, {"1": "T1"}, key="id", ragged="pad") == b"id,name,x,tracking_number\n1,,,T1\n2\n"


def test_results_that_would_move_lines_are_refused(file: Write) -> None:
    """Where rows are known by lines, a line break would give all later rows another identity."""
    path = file("id\n1\n2\n")
    with pytest.raises(
        WriteBackError, match="row 'line:2': would move the rows below to other lines; identify rows by"
    ):
        written(path, {"line:2": "a\nb"})
    assert written(path, {"1": "a\nb"}, key="id") == b'id,tracking_number\n1,"a\nb"\n2,\n'


def test_a_row_does_not_become_blank(file: Write, workbook: WriteWorkbook) -> None:
    """It would be skipped from then on, and the same results would not find it again."""
    paths = [file("t,u\nx,\n"), workbook([["t", "u"], ["x", None]])]
    for path in paths:
        with pytest.raises(WriteBackError, match="row 'line:2': would be blank, and not found again"):
            written(path, {"line:2": None}, {"tracking": "t"})


def both(row: Mapping[str, Any]) -> str:
    return f"{row['id']}-{row['tracking_number']}"


def test_a_result_that_changes_the_key_is_refused(file: Write) -> None:
    """A function may make the key of any column: the row must be found again."""
    path = file("id,tracking_number\n1,\n")
    with pytest.raises(WriteBackError, match="row '1-': would get another key"):
        written(path, {"1-": "T"}, key=both)


def test_a_file_without_a_header_gets_no_columns(file: Write) -> None:
    """There is no place for a name; known columns can be written."""
    path = file("1,\n")
    rows = CsvSource(path, key="id", columns=["id", "t"])
    with pytest.raises(
        WriteBackError, match="has no header, and no column 'tracking_number'; give one of id, t"
    ):
        CsvWriteBack(rows, COLUMNS).apply([("1", {"tracking": "T1"})])
    back = CsvWriteBack(rows, {"tracking": "t"})
    back.apply([("1", {"tracking": "T1"})])
    assert path.read_bytes() == b"1,T1\n"


def test_several_fields_go_to_their_columns(file: Write) -> None:
    """New columns come in the order of the mapping; a field that a result lacks leaves its cell."""
    path = file("id,cost\n1,9\n2,9\n")
    back = write_back(source(path, key="id"), {"t": "tracking", "c": "cost", "d": "day"})
    back.apply([("1", {"t": "T1", "c": Decimal("1.10"), "other": 1}), ("2", {"d": "mon"})])
    assert path.read_bytes() == b"id,cost,tracking,day\n1,1.10,T1,\n2,9,,mon\n"


def fingerprint(rows: Source) -> Fingerprint:
    found = rows.fingerprint()
    assert found is not None
    return found


# Idempotence, and what is refused


def kinds(file: Write, workbook: WriteWorkbook) -> dict[str, Path]:
    return {
        "csv": file("id,name\n1,Ann\n2,Bob\n", "o.csv"),
        "jsonl": file('{"id": "1", "name": "Ann"}\n{"id": "2", "name": "Bob"}\n', "o.jsonl"),
        "xlsx": workbook([["id", "name"], ["1", "Ann"], ["2", "Bob"]], "o.xlsx"),
    }


each_kind = pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])


@each_kind
def test_the_same_results_again_change_nothing(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """The file is the same byte for byte, and is not replaced."""
    path = kinds(file, workbook)[kind]
    back = write_back(source(path, key="id"), COLUMNS)
    results: Pairs = [("1", {"tracking": "T1"}), ("2", {"tracking": Decimal("1.10")})]
    first = back.apply(results)
    content, inode = path.read_bytes(), path.stat().st_ino
    again = back.apply(results)
    assert (first.changed, again.changed, again.rows) == (True, False, 2)
    assert (path.read_bytes(), path.stat().st_ino) == (content, inode)
    assert first.fingerprint == again.fingerprint == source(path).fingerprint()


@each_kind
def test_no_results_change_nothing(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """Not even a column is appended."""
    path = kinds(file, workbook)[kind]
    before = path.read_bytes()
    done = write_back(source(path, key="id"), COLUMNS).apply([("1", {"other": 1})])
    assert (done.rows, done.changed, path.read_bytes()) == (0, False, before)


@each_kind
def test_results_in_parts_give_the_same_rows(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """A second part finds the column of the first, and both sources read the same."""
    path = kinds(file, workbook)[kind]
    back = write_back(source(path, key="id"), COLUMNS)
    back.apply([("2", {"tracking": "T2"})])
    back.apply([("1", {"tracking": "T1"})])
    assert [row.values.get("tracking_number") for row in source(path)] == ["T1", "T2"]


@each_kind
def test_the_last_of_several_results_counts(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """Duplicated results are no error."""
    path = kinds(file, workbook)[kind]
    write_back(source(path, key="id"), COLUMNS).apply([("1", {"tracking": "a"}), ("1", {"tracking": "b"})])
    assert next(iter(source(path))).values["tracking_number"] == "b"


@each_kind
def test_a_source_that_changed_is_refused(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """Somebody else's change is seen by its content, and the file stays as they left it."""
    path = kinds(file, workbook)[kind]
    rows = source(path, key="id")
    read = fingerprint(rows)
    other = path.read_bytes().replace(b"Ann", b"Eve") + b"\n"
    path.write_bytes(other)
    with pytest.raises(SourceChangedError, match="has changed since its rows were read"):
        write_back(rows, COLUMNS).apply([("1", {"tracking": "T1"})], expected=read)
    assert path.read_bytes() == other


@each_kind
def test_our_own_write_back_is_no_change(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """What was announced before is expected, whether or not the process lived to say that it was done."""
    path = kinds(file, workbook)[kind]
    rows = source(path, key="id")
    known = [fingerprint(rows)]
    back = write_back(rows, COLUMNS)
    done = back.apply([("1", {"tracking": "T1"})], expected=known, announce=known.append)
    assert known[1:] == [done.fingerprint]
    back.apply([("2", {"tracking": "T2"})], expected=known, announce=known.append)
    assert [row.values["tracking_number"] for row in source(path)] == ["T1", "T2"]


def test_a_file_that_is_gone_is_refused(file: Write) -> None:
    """It is a change like any other."""
    path = file("id\n1\n")
    rows = source(path, key="id")
    path.unlink()
    with pytest.raises(SourceChangedError, match="is gone; submit it again"):
        write_back(rows, COLUMNS).apply([("1", {"tracking": "T1"})])


def test_a_change_while_results_are_written_is_refused(file: Write) -> None:
    """Between reading and replacing, somebody else's change wins, and no draft stays."""
    path = file("id\n1\n")

    def somebody(_: Fingerprint) -> None:
        path.write_text("id\n1\n3\n")

    with pytest.raises(SourceChangedError, match="was written to while results were written back"):
        write_back(source(path, key="id"), COLUMNS).apply([("1", {"tracking": "T1"})], announce=somebody)
    assert path.read_text() == "id\n1\n3\n"
    assert [name.name for name in path.parent.iterdir()] == ["orders.csv"]


def test_an_announcement_that_fails_changes_nothing(file: Write) -> None:
    """What could not be stored must not happen: the error comes out, the file stays."""
    path = file("id\n1\n")

    def fail(_: Fingerprint) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(OSError, match="no space left"):
        write_back(source(path, key="id"), COLUMNS).apply([("1", {"tracking": "T1"})], announce=fail)
    assert path.read_text() == "id\n1\n"
    assert [name.name for name in path.parent.iterdir()] == ["orders.csv"]


@each_kind
def test_results_of_unknown_rows_are_refused(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """All or none: the error names them, and nothing is written."""
    path = kinds(file, workbook)[kind]
    before = path.read_bytes()
    results = [(str(n), {"tracking": "T"}) for n in range(1, 10)]
    with pytest.raises(
        WriteBackError, match="has no row '3', '4', '5', '6', '7', …; give the keys of its rows"
    ):
        write_back(source(path, key="id"), COLUMNS).apply(results)
    assert path.read_bytes() == before


@each_kind
def test_rows_that_are_there_twice_are_refused(file: Write, workbook: WriteWorkbook, kind: str) -> None:
    """Nobody can say which of them the result belongs to."""
    path = {
        "csv": lambda: file("id\n1\n1\n", "d.csv"),
        "jsonl": lambda: file('{"id": 1}\n{"id": 1}\n', "d.jsonl"),
        "xlsx": lambda: workbook([["id"], [1], [1]], "d.xlsx"),
    }[kind]()
    with pytest.raises(WriteBackError, match="row '1' is there twice"):
        written(path, {"1": "T1"}, key="id")


def test_wrong_mappings_are_told_at_once(file: Write) -> None:
    """The key cannot be overwritten, nor one column by two fields."""
    rows = source(file("id\n1\n"), key="id")
    with pytest.raises(ConfigurationError) as caught:
        write_back(rows, {"a": "id", "b": "x", "c": "x"})
    assert [fault.problem for fault in caught.value.faults] == [
        "is the key",
        "is written twice",
        "is written twice",
    ]
    with pytest.raises(ConfigurationError, match="no mapping"):
        write_back(rows, {})


def test_only_files_and_tables_take_results() -> None:
    """A list of Python objects has no place for them, and a query must name its table."""
    for rows in (IterableSource([{"id": 1}]), SqlSource("sqlite://", "SELECT 1 AS id", key="id")):
        with pytest.raises(WriteBackError, match="takes no results back; write to a file, or name the table"):
            write_back(rows, COLUMNS)


# The file itself


def test_mode_and_owner_stay(file: Write) -> None:
    """Who could read the file before can read it now, and nobody else."""
    path = file("id\n1\n")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    before = path.stat()
    written(path, {"1": "T1"}, key="id")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o640


def test_extended_attributes_stay(file: Write) -> None:
    """Labels and lists of who may read are part of the file."""
    path = file("id\n1\n")
    try:
        os.setxattr(path, "user.note", b"mine")
    except OSError as error:
        pytest.skip(f"the file system has no extended attributes ({error})")
    written(path, {"1": "T1"}, key="id")
    assert os.getxattr(path, "user.note") == b"mine"


def test_an_owner_that_cannot_be_kept_is_refused(file: Write) -> None:
    """A file of somebody else does not become ours."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    path = file("id\n1\n")
    os.chown(path, 12345, 54321)
    path.chmod(0o666)
    path.parent.chmod(0o777)
    command = [sys.executable, "-c", AS_ANOTHER, str(path), str(file("id\n1\n", "warm.csv"))]
    with opened_for_all(path.parent):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "belongs to user 12345 and group 54321, which a new file cannot be given" in done.stdout
    assert path.read_text() == "id\n1\n"


AS_ANOTHER = """
import os, sys
from holdfast.services.jobs.sources import source
from holdfast.services.jobs.writeback import write_back
def apply(path):
    write_back(source(path, key="id"), {"t": "t"}).apply([("1", {"t": "T"})])
apply(sys.argv[2])  # imports all that is imported late: the other user may not read where it comes from
os.setgid(22222)
os.setuid(22222)
try:
    apply(sys.argv[1])
except ValueError as error:
    print(error)
"""


class opened_for_all:
    """Let everybody through to a folder for a while: pytest's own are closed to others."""

    def __init__(self, folder: Path) -> None:
        self._closed = [(one, one.stat().st_mode) for one in folder.parents if not one.stat().st_mode & 0o001]

    def __enter__(self) -> None:
        for folder, mode in self._closed:
            folder.chmod(mode | 0o011)

    def __exit__(self, *_: object) -> None:
        for folder, mode in self._closed:
            folder.chmod(stat.S_IMODE(mode))


def test_links_are_followed(file: Write, tmp_path: Path) -> None:
    """The link stays a link, also one to a link in another folder, and the draft is beside the real file."""
    (tmp_path / "deep").mkdir()
    path = file("id\n1\n", "deep/real.csv")
    (tmp_path / "middle.csv").symlink_to(Path("deep") / "real.csv")
    link = tmp_path / "link.csv"
    link.symlink_to("middle.csv")
    assert written(link, {"1": "T1"}, key="id") == path.read_bytes() == b"id,tracking_number\n1,T1\n"
    assert link.is_symlink()
    assert not path.is_symlink()


def test_only_ordinary_files_are_replaced(tmp_path: Path) -> None:
    """A pipe or a device is not renamed over."""
    os.mkfifo(tmp_path / "o.csv")
    with pytest.raises(SourceError, match="is no ordinary file"):
        write_back(source(tmp_path / "o.csv"), COLUMNS).apply([("1", {"tracking": "T"})])


def test_what_a_dead_writer_left_is_used_and_removed(file: Write) -> None:
    """A draft that nobody holds is no obstacle, and none of its content gets into the file."""
    path = file("id\n1\n")
    left = path.with_name(".orders.csv.holdfast")
    left.write_text("x" * 10_000)
    left.chmod(0o777)
    assert written(path, {"1": "T1"}, key="id") == b"id,tracking_number\n1,T1\n"
    assert not left.exists()
    assert stat.S_IMODE(path.stat().st_mode) & 0o100 == 0


def test_a_draft_that_is_a_link_is_not_followed(file: Write, tmp_path: Path) -> None:
    """Somebody who may write to the folder cannot have another file overwritten."""
    path = file("id\n1\n")
    victim = file("precious", "victim")
    path.with_name(".orders.csv.holdfast").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        written(path, {"1": "T1"}, key="id")
    assert victim.read_text() == "precious"


def test_two_writers_do_not_meet(file: Write) -> None:
    """While one writes, another is told so at once; afterwards it can, and both results are there."""
    path = file("id\n1\n2\n")
    back = write_back(source(path, key="id"), COLUMNS)
    inside: list[int] = []

    def meanwhile(_: Fingerprint) -> None:
        with pytest.raises(WriteBackBusyError, match="is being written by another; try again later"):
            back.apply([("2", {"tracking": "T2"})])
        inside.append(1)

    back.apply([("1", {"tracking": "T1"})], announce=meanwhile)
    back.apply([("2", {"tracking": "T2"})])
    assert inside == [1]
    assert path.read_text() == "id,tracking_number\n1,T1\n2,T2\n"


def test_writers_that_try_again_lose_nothing(file: Write) -> None:
    """Eight threads, each with a row of its own, on one file: every result is there."""
    path = file("id\n" + "".join(f"{n}\n" for n in range(8)))

    def work(row: str) -> None:
        while True:
            try:
                write_back(source(path, key="id"), COLUMNS).apply([(row, {"tracking": f"T{row}"})])
            except (WriteBackBusyError, SourceChangedError):
                continue
            return

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.values["tracking_number"] for row in source(path)] == [f"T{n}" for n in range(8)]


# Crashes

BOUNDARIES = [
    "writeback.before_temp_write",
    "writeback.after_temp_write",
    "writeback.after_fsync",
    "writeback.after_announce",
    "writeback.before_rename",
    "writeback.after_rename",
    "writeback.after_folder_sync",
]
KILLED = """
import sys
from holdfast.services.jobs.sources import source
from holdfast.services.jobs.writeback import write_back
back = write_back(source(sys.argv[1], key="id"), {"tracking": "tracking_number"})
known = open(sys.argv[2], "a")
back.apply([("1", {"tracking": "T1"})], announce=lambda made: print(*made, file=known, flush=True))
print("alive")
"""


def killed_at(boundary: str, *arguments: Any, program: str = KILLED) -> None:
    """Run a program that is killed at a boundary, and see that it was."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environ = {**os.environ, "HOLDFAST_KILL_AT": boundary}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_killed_write_back_leaves_the_old_file_or_the_new(
    file: Write, tmp_path: Path, boundary: str
) -> None:
    """Wherever it dies, the file is whole; the next one goes on from there, and leaves nothing behind."""
    old, new = b"id,name\n1,Ann\n", b"id,name,tracking_number\n1,Ann,T1\n"
    path = file(old)
    before = CsvSource(path).fingerprint()
    known = tmp_path / "announced"
    known.touch()
    killed_at(boundary, path, known)
    renamed = BOUNDARIES.index(boundary) >= BOUNDARIES.index("writeback.after_rename")
    assert path.read_bytes() == (new if renamed else old)
    announced = [Fingerprint(int(a), int(b), c) for a, b, c in map(str.split, known.read_text().splitlines())]
    back = write_back(source(path, key="id"), COLUMNS)
    done = back.apply([("1", {"tracking": "T1"})], expected=[before, *announced])
    assert (done.changed, path.read_bytes()) == (not renamed, new)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["announced", "orders.csv"]


@pytest.mark.parametrize("kind", ["jsonl", "xlsx"])
@pytest.mark.parametrize("boundary", ["writeback.before_rename", "writeback.after_rename"])
def test_every_kind_of_file_survives(
    file: Write, workbook: WriteWorkbook, tmp_path: Path, kind: str, boundary: str
) -> None:
    """JSON lines and workbooks are replaced in the same way."""
    path = kinds(file, workbook)[kind]
    old = path.read_bytes()
    killed_at(boundary, path, tmp_path / "announced")
    assert (path.read_bytes() == old) == (boundary == "writeback.before_rename")
    write_back(source(path, key="id"), COLUMNS).apply([("1", {"tracking": "T1"})])
    assert next(iter(source(path))).values["tracking_number"] == "T1"


# JSON lines


def test_members_are_appended_in_the_manner_of_the_line(file: Write) -> None:
    """Spaces, order, numbers and line ends of all else stay as they are."""
    path = file('{"id":1,"p":1.10}\r\n{ "id" : 2 , "p" : 1e2 }\n{}\n\n{"id": 3, "x": {"a": 1}}', "o.jsonl")
    back = write_back(JsonLinesSource(path), COLUMNS)
    back.apply([(f"line:{line}", {"tracking": "T"}) for line in (1, 2, 3, 5)])
    assert path.read_bytes().decode() == (
        '{"id":1,"p":1.10,"tracking_number":"T"}\r\n'
        '{ "id" : 2 , "p" : 1e2 , "tracking_number" : "T" }\n'
        '{"tracking_number": "T"}\n\n'
        '{"id": 3, "x": {"a": 1}, "tracking_number": "T"}'
    )


def test_members_that_are_there_are_replaced(file: Write) -> None:
    """Only the value changes; one that says the same stays as it is written."""
    path = file(
        '{"tracking_number" : {"old": [1]}, "id": 1}\n{"tracking_number": "\\u0054", "id": 2}\n', "o.jsonl"
    )
    assert written(path, {"1": "T", "2": "T"}, key="id").decode() == (
        '{"tracking_number" : "T", "id": 1}\n{"tracking_number": "\\u0054", "id": 2}\n'
    )


def test_numbers_are_written_to_json_exactly(file: Write) -> None:
    """Money stays the number that it is, with its zeros; dates are ISO text, None is null."""
    path = file('{"id": 1}\n{"id": 2}\n{"id": 3}\n', "o.jsonl")
    results = {"1": Decimal("12.50"), "2": dt.date(2026, 2, 28), "3": None}
    written(path, results, key="id")
    assert [row.values["tracking_number"] for row in source(path)] == [Decimal("12.50"), "2026-02-28", None]
    assert b'"tracking_number": 12.50}' in path.read_bytes()
    with pytest.raises(WriteBackError, match="row '1': NaN is no number that JSON has"):
        written(path, {"1": Decimal("NaN")}, key="id")


def test_json_in_a_small_encoding_is_escaped(file: Write) -> None:
    """JSON can say in ASCII what the encoding of the file cannot."""
    path = file('{"id": "ë"}\n'.encode("cp1252"), "o.jsonl")
    assert written(path, {"ë": "Ж\U0001f600"}, key="id") == (
        '{"id": "ë", "tracking_number": "\\u0416\\ud83d\\ude00"}\n'.encode("cp1252")
    )


# Excel


def test_cells_of_a_sheet_are_written(workbook: WriteWorkbook) -> None:
    """Text, numbers, truth and nothing are what they are; numbers that Excel would round are text."""
    path = workbook([["id", "old"], *([n, "x"] for n in range(1, 9))])
    given = [
        "T <&> 1",
        7,
        Decimal("12.50"),
        True,
        None,
        12345678901234567890,
        dt.date(2026, 2, 28),
        " a\nb ",
    ]
    written(path, dict(zip(map(str, range(1, 9)), given, strict=True)), key="id")
    column = [row[2] for row in cells(path)]
    expected = ["T <&> 1", 7, 12.5, True, None, "12345678901234567890", "2026-02-28", " a\nb "]
    assert column == ["tracking_number", *expected]
    assert [row[1] for row in cells(path)] == ["old"] + ["x"] * 8


def test_the_rest_of_a_workbook_is_copied(workbook: WriteWorkbook) -> None:
    """Every other part is the same byte for byte, and in the sheet everything but the cells that changed."""
    path = workbook({"Orders": [["id", "name"], [1, "Ann"], [], [2, "Bob"]], "Other": [["x"]]})
    before = members(path)
    written(path, {"2": "T2"}, key="id")
    after = members(path)
    sheet = "xl/worksheets/sheet1.xml"
    assert {name for name in after if after[name] != before.get(name)} == {sheet}
    assert after.keys() == before.keys()
    cut = re.sub(rb'<c r="C[14]" t="inlineStr">.*?</c>', b"", after[sheet])
    assert cut.replace(b'"A1:C4"', b'"A1:B4"') == re.sub(rb' spans="[^"]*"', b"", before[sheet])


def test_formats_of_cells_stay(workbook: WriteWorkbook) -> None:
    """A cell that is overwritten keeps its style."""
    path = workbook([["id", "tracking_number"], [1, "old"]])
    book = openpyxl.load_workbook(path)
    book["Orders"]["B2"].font = openpyxl.styles.Font(bold=True)
    book.save(path)
    written(path, {"1": "T1"}, key="id")
    cell = openpyxl.load_workbook(path)["Orders"]["B2"]
    assert (cell.value, cell.font.bold) == ("T1", True)


def test_formulas_stay_and_are_not_overwritten(workbook: WriteWorkbook) -> None:
    """What other formulas computed is still there; a formula in the column itself is refused."""
    path = workbook([["id", "sum"], [1, "=1+1"]])
    replace_member(path, "xl/worksheets/sheet1.xml", lambda xml: re.sub(rb"<v ?/>|<v></v>", b"<v>2</v>", xml))
    written(path, {"1": "T1"}, key="id")
    assert next(iter(ExcelSource(path))).values == {"id": 1, "sum": 2, "tracking_number": "T1"}
    with pytest.raises(WriteBackError, match="has a formula in B2; write to a column without formulas"):
        written(path, {"1": "T1"}, {"tracking": "sum"}, key="id")


@pytest.mark.parametrize("prefix", [b"", b"x:"])
def test_sheets_of_other_programs_are_written(workbook: WriteWorkbook, prefix: bytes) -> None:
    """Prefixes, rows and cells without references, spans and comments are what programs other than Excel write."""
    path = workbook([["id", "name"], ["1", "Ann"], ["2", "Bob"]])
    p = prefix
    names = b' xmlns:x="%s"' if prefix else b' xmlns="%s"'
    cell = b'<%bc t="inlineStr"><%bis><%bt>%b</%bt></%bis></%bc>'

    def text(value: bytes) -> bytes:
        return cell % (p, p, p, value, p, p, p)

    def rebuilt(_: bytes) -> bytes:
        rows = [(b"id", b"name"), (b"1", b"Ann"), (b"2", b"Bob")]
        body = b"".join(
            b'<%brow spans="1:2"><!-- </%brow> -->%b</%brow>' % (p, p, b"".join(map(text, row)), p)
            for row in rows
        )
        space = names % b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
        return b"<?xml version='1.0'?><%bworksheet%b><%bsheetData>%b</%bsheetData></%bworksheet>" % (
            p,
            space,
            p,
            body,
            p,
            p,
        )

    replace_member(path, "xl/worksheets/sheet1.xml", rebuilt)
    written(path, {"2": "T2"}, key="id")
    assert cells(path) == [["id", "name", "tracking_number"], ["1", "Ann", None], ["2", "Bob", "T2"]]
    # What a changed row says of its width would be wrong.
    assert members(path)["xl/worksheets/sheet1.xml"].count(b'spans="1:2"') == 1


def test_empty_cells_are_filled(workbook: WriteWorkbook) -> None:
    """A cell that only has a format is overwritten in its place, and the cells and rows after it stay."""
    path = workbook([["id", "tracking_number", "name"], [1, "x", "Ann"], [2, "x", "Bob"]])
    empty = re.compile(rb'<c r="(B\d)"[^>]*>.*?</c>')
    name = "xl/worksheets/sheet1.xml"
    replace_member(path, name, lambda xml: xml[:200] + empty.sub(rb'<c r="\1" s="0"/>', xml[200:]))
    replace_member(
        path,
        name,
        lambda xml: xml.replace(
            b'<c r="B1" s="0"/>', b'<c r="B1" t="inlineStr"><is><t>tracking_number</t></is></c>'
        ),
    )
    written(path, {"1": "T1", "2": "T2"}, key="id")
    assert cells(path) == [["id", "tracking_number", "name"], [1, "T1", "Ann"], [2, "T2", "Bob"]]


def test_a_large_sheet_is_written_in_pieces(workbook: WriteWorkbook) -> None:
    """Rows that lie across the blocks in which a sheet is read are no different."""
    path = workbook([["id", "name"], *([n, "Ann" * 10] for n in range(3000))])
    written(path, {str(n): f"T{n}" for n in range(0, 3000, 3)}, key="id")
    found = [(row.values["id"], row.values["tracking_number"]) for row in ExcelSource(path)]
    assert found == [(n, None if n % 3 else f"T{n}") for n in range(3000)]


def test_what_a_cell_cannot_hold_is_refused(workbook: WriteWorkbook) -> None:
    """Control characters and very long text are told with the row."""
    path = workbook([["id"], [1]])
    with pytest.raises(
        WriteBackError, match="row '1': tracking_number = 'a\\\\x00' has characters that Excel cannot"
    ):
        written(path, {"1": "a\x00"}, key="id")
    with pytest.raises(WriteBackError, match="tracking_number has 32768 characters; give at most 32767"):
        written(path, {"1": "x" * 32768}, key="id")


# SQL


def table(engine: sql.Engine) -> sql.Table:
    made = sql.Table(
        "Order s",
        sql.MetaData(),
        sql.Column("id", sql.Integer, primary_key=True),
        sql.Column("region", sql.String),
        sql.Column("track no", sql.String),
        sql.Column("cost", sql.Numeric(10, 2)),
        sql.Column("day", sql.Date),
    )
    made.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(made.insert(), [{"id": n, "region": "n" if n < 3 else "s"} for n in range(1, 5)])
    return made


def rows(engine: sql.Engine, made: sql.Table, *columns: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        query = sql.select(*(made.c[name] for name in columns)).order_by(made.c.id)
        return [tuple(row) for row in connection.execute(query)]


SQL_COLUMNS = {"tracking": "track no", "cost": "cost", "day": "day"}


def test_rows_of_a_table_are_updated_by_key(engine: sql.Engine) -> None:
    """Each result goes to its row, each field to its column in the column's type; others stay."""
    made = table(engine)
    rows_read = SqlSource(engine, sql.select(made), key="id")
    back = write_back(rows_read, SQL_COLUMNS, table="Order s")
    results: Pairs = [
        ("1", {"tracking": "x'; DROP TABLE", "cost": Decimal("1.10"), "day": "2026-02-28"}),
        ("2", {"tracking": 7}),
        ("4", {"cost": "2.50", "day": dt.date(2026, 3, 1)}),
    ]
    done = back.apply(results)
    assert (done.rows, done.fingerprint) == (3, None)
    expected = [
        ("x'; DROP TABLE", Decimal("1.10"), dt.date(2026, 2, 28)),
        ("7", None, None),
        (None, None, None),
        (None, Decimal("2.50"), dt.date(2026, 3, 1)),
    ]
    assert rows(engine, made, "track no", "cost", "day") == expected
    back.apply(results)
    assert rows(engine, made, "track no", "cost", "day") == expected


def test_several_columns_find_a_row(engine: sql.Engine) -> None:
    """The key of the source is taken apart again."""
    made = table(engine)
    back = SqlWriteBack(engine, "Order s", {"tracking": "track no"}, key=["id", "region"])
    back.apply([("3/s", {"tracking": "T3"})])
    assert rows(engine, made, "track no") == [(None,), (None,), ("T3",), (None,)]


@pytest.mark.parametrize("missing", ["99", "x"])
def test_a_missing_row_undoes_all(engine: sql.Engine, missing: str) -> None:
    """All or none: also those that were found are as before."""
    made = table(engine)
    back = SqlWriteBack(engine, "Order s", {"tracking": "track no"}, key="id")
    with pytest.raises(WriteBackError, match=r"row '99' is not in Order s|id takes int, and 'x' is none"):
        back.apply([("1", {"tracking": "T1"}), (missing, {"tracking": "T"}), ("2", {"tracking": "T2"})])
    assert rows(engine, made, "track no") == [(None,)] * 4


def test_a_key_of_several_rows_is_refused(engine: sql.Engine) -> None:
    """A result belongs to one row."""
    made = table(engine)
    back = SqlWriteBack(engine, "Order s", {"tracking": "track no"}, key="region")
    with pytest.raises(WriteBackError, match="row 'n' is in Order s 2 times; name the columns that identify"):
        back.apply([("n", {"tracking": "T"})])
    assert rows(engine, made, "track no") == [(None,)] * 4


def test_unknown_names_are_refused(engine: sql.Engine) -> None:
    """Tables and columns are looked up; what is there is told."""
    table(engine)
    results = [("1", {"tracking": "T"})]
    with pytest.raises(
        WriteBackError, match="has no table 'x; DROP TABLE y'; give one of its tables: Order s"
    ):
        SqlWriteBack(engine, "x; DROP TABLE y", COLUMNS, key="id").apply(results)
    with pytest.raises(
        WriteBackError, match="Order s has no column 'tracking_number'; add it, or give one of its"
    ):
        SqlWriteBack(engine, "Order s", COLUMNS, key="id").apply(results)


def test_what_a_database_refuses_is_told(engine: sql.Engine) -> None:
    """Its own words, and nothing is written."""
    made = table(engine)
    with engine.begin() as connection:
        connection.execute(sql.text('CREATE UNIQUE INDEX one ON "Order s" ("track no")'))
    back = SqlWriteBack(engine, "Order s", {"tracking": "track no"}, key="id")
    with pytest.raises(WriteBackError, match=r"refuses \("):
        back.apply([("1", {"tracking": "T"}), ("2", {"tracking": "T"})])
    assert rows(engine, made, "track no") == [(None,)] * 4


SQL_KILLED = """
import sys
from holdfast.services.jobs.writeback import SqlWriteBack
back = SqlWriteBack(sys.argv[1], "Order s", {"tracking": "track no"}, key="id")
back.apply([(str(n), {"tracking": "T"}) for n in range(1, 5)])
print("alive")
"""


SQL_BOUNDARIES = {"writeback.before_sql_commit": None, "writeback.after_sql_commit": "T"}


@pytest.mark.parametrize(("boundary", "value"), SQL_BOUNDARIES.items())
def test_a_killed_update_is_whole_or_not_at_all(engine: sql.Engine, boundary: str, value: str | None) -> None:
    """Before the commit nothing has happened, after it everything; the next one makes it good."""
    made = table(engine)
    killed_at(boundary, engine.url.render_as_string(hide_password=False), program=SQL_KILLED)
    assert rows(engine, made, "track no") == [(value,)] * 4
    back = SqlWriteBack(engine, "Order s", {"tracking": "track no"}, key="id")
    back.apply([(str(n), {"tracking": "T"}) for n in range(1, 5)])
    assert rows(engine, made, "track no") == [("T",)] * 4
