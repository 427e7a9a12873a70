"""Sources × files and databases: what rows there are, what they are called, and what is told of faulty ones."""

import codecs
import dataclasses
import datetime as dt
import errno
import gc
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest
import sqlalchemy as sql

from backend.tests.integration.jobs._files import WriteWorkbook, replace_member
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.store.payload import decode, encode
from holdfast.services.jobs import open_jobs
from holdfast.services.jobs.sources import (
    CsvSource,
    ExcelSource,
    IterableSource,
    JsonLinesSource,
    Row,
    RowFault,
    Source,
    SourceChangedError,
    SourceError,
    SourceFaultsError,
    SourceNotFoundError,
    SourceUnreadableError,
    SqlSource,
    source,
    validate,
    validated,
)

Write = Callable[..., Path]


def keys(rows: Source) -> list[str]:
    return [row.key for row in rows]


def values(rows: Source) -> list[dict[str, Any]]:
    return [dict(row.values) for row in rows]


def faults(rows: Source, *checks: Any) -> list[str]:
    with pytest.raises(SourceFaultsError) as caught:
        validate(rows, *checks)
    return [str(fault) for fault in caught.value.faults]


# How CSV is written


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_delimiter_and_the_line_ends_are_found(file: Write, delimiter: str, end: str) -> None:
    """Cells are those that the file's own delimiter makes, whatever other signs stand in them."""
    path = file(end.join(["id|note".replace("|", delimiter), '1|"a,b;c"'.replace("|", delimiter), ""]))
    rows = CsvSource(path)
    assert (rows.dialect.delimiter, rows.dialect.line_end) == (delimiter, end)
    assert values(rows) == [{"id": "1", "note": "a,b;c"}]


@pytest.mark.parametrize(
    ("codec", "mark", "found"),
    [
        ("utf-8", b"", "utf-8"),
        ("utf-8", codecs.BOM_UTF8, "utf-8"),
        ("utf-16-le", codecs.BOM_UTF16_LE, "utf-16-le"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "utf-16-be"),
        ("utf-32-le", codecs.BOM_UTF32_LE, "utf-32-le"),
        ("utf-16-le", b"", "utf-16-le"),
        ("utf-16-be", b"", "utf-16-be"),
        ("cp1252", b"", "cp1252"),
    ],
)
def test_the_encoding_is_found(file: Write, codec: str, mark: bytes, found: str) -> None:
    """A mark says it; without one it is the first of UTF-16, UTF-8 and cp1252 that reads the whole file."""
    rows = CsvSource(file(mark + "id,name\n1,Zoë €\n".encode(codec)))
    assert (rows.dialect.encoding, rows.dialect.bom) == (found, bool(mark))
    assert values(rows) == [{"id": "1", "name": "Zoë €"}]


def test_an_encoding_shows_only_late_in_a_file(file: Write) -> None:
    """What decides may stand anywhere: two megabytes of ASCII before it change nothing."""
    head = "id,name\n" + "1,Ann\n" * 350_000
    assert CsvSource(file(head.encode() + b"2,Zo\xeb\n")).dialect.encoding == "cp1252"


def test_an_encoding_that_is_said_is_used(file: Write) -> None:
    """latin-1 and cp1252 differ where only the user can know."""
    path = file("id,name\n1,\x80\n".encode("latin-1"))
    assert values(CsvSource(path, encoding="latin-1")) == [{"id": "1", "name": "\x80"}]
    assert values(CsvSource(path)) == [{"id": "1", "name": "€"}]


def test_a_file_in_no_known_encoding_is_refused(file: Write) -> None:
    """A guess that cannot read all of it is no guess."""
    with pytest.raises(SourceError, match="neither UTF-8 nor UTF-16 nor cp1252; say which encoding"):
        list(CsvSource(file(b"id\n\x81\x8d\n")))


def test_a_file_that_is_not_in_its_encoding_is_refused(file: Write) -> None:
    """The error names the bytes."""
    with pytest.raises(SourceError, match=r"is not in utf-8 \(invalid continuation byte: eb 0a\)"):
        list(CsvSource(file(b"id,name\n1,Zo\xeb\n"), encoding="utf-8"))


def test_a_mark_that_contradicts_the_encoding_is_refused(file: Write) -> None:
    """Nobody decodes UTF-16 as UTF-8 by mistake."""
    with pytest.raises(SourceError, match="begins with the mark of utf-16-le, not of utf-8"):
        list(CsvSource(file(codecs.BOM_UTF16_LE + "id\n1\n".encode("utf-16-le")), encoding="utf-8"))


def test_apostrophes_are_found_as_quotes(file: Write) -> None:
    """A file that quotes with them, and has no other quote, is read so; an apostrophe in a word is text."""
    assert values(CsvSource(file("'id','note'\n'1','a,b'\n"))) == [{"id": "1", "note": "a,b"}]
    assert values(CsvSource(file("id,note\n1,'tis\n"))) == [{"id": "1", "note": "'tis"}]


def test_spaces_after_delimiters_are_found(file: Write) -> None:
    """Where each delimiter has a space after it, the space is none of the text, and quotes after it are quotes."""
    rows = CsvSource(file('id, name, note\n1, Ann, "a, b"\n'))
    assert rows.dialect.skip_spaces
    assert values(rows) == [{"id": "1", "name": "Ann", "note": "a, b"}]


def test_spaces_that_only_some_cells_begin_with_are_text(file: Write) -> None:
    """Text stays text."""
    assert values(CsvSource(file("id,name\n1, Ann\n2,Bob\n"))) == [
        {"id": "1", "name": " Ann"},
        {"id": "2", "name": "Bob"},
    ]


def test_an_escape_sign_is_used_where_it_is_said(file: Write) -> None:
    r"""Some programs write \" and \, instead of doubling and quoting."""
    rows = CsvSource(file('id,note\n1,"a \\"b\\""\n2,c\\,d\n'), escape="\\")
    assert [row.values["note"] for row in rows] == ['a "b"', "c,d"]


def test_a_column_of_text_is_no_table(file: Write) -> None:
    """A delimiter is one only if the header has it."""
    assert values(CsvSource(file("note\nhello, world\n"))) == [{"note": "hello, world"}]


def test_text_stays_text(file: Write) -> None:
    """Zeros in front, long numbers and dates are what the file says."""
    path = file("id,price,day\n007,1.10,2026-02-30\n")
    assert values(CsvSource(path)) == [{"id": "007", "price": "1.10", "day": "2026-02-30"}]


def test_a_file_without_a_header_takes_its_columns(file: Write) -> None:
    """With `columns`, the first record is a row."""
    assert list(CsvSource(file("1,Ann\n2,Bob\n"), key="id", columns=["id", "name"])) == [
        Row("1", 1, {"id": "1", "name": "Ann"}),
        Row("2", 2, {"id": "2", "name": "Bob"}),
    ]


@pytest.mark.parametrize("content", ["id,name\n", "id,name"])
def test_a_file_without_rows_has_none(file: Write, content: str) -> None:
    """A header alone is no error; where columns are given, nor is a file of nothing; JSON lines have no header."""
    assert validate(CsvSource(file(content))) == 0
    for empty in ("", "\n\n"):
        assert validate(CsvSource(file(empty), columns=["id"])) == 0
        assert validate(JsonLinesSource(file(empty, "orders.jsonl"))) == 0


@pytest.mark.parametrize("content", ["", "\n\n", " \r\n"])
def test_a_file_without_a_header_is_an_error(file: Write, content: str) -> None:
    """Nothing in a file says that there were no rows: it was cut off, or is another one."""
    path = file(content)
    with pytest.raises(SourceError, match="is empty") as caught:
        validate(CsvSource(path))
    assert str(caught.value) == (
        f"{path}: is empty: not even a header is there; write a first line with the names of the columns, or give "
        "them: columns=[…]"
    )
    assert faults(CsvSource(file('"a"b,c\n'), quote='"'))[0].startswith("line 1: cannot be split")


UNREADABLE: dict[str, tuple[type[OSError], type[OSError], str]] = {
    "absent": (SourceNotFoundError, FileNotFoundError, "is not there; name the file that has the rows"),
    "folder": (SourceUnreadableError, OSError, "is a folder; name a file in it"),
    "file/in": (
        SourceUnreadableError,
        OSError,
        "cannot be opened (Not a directory); name a file that can be read",
    ),
}


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".jsonl"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, suffix: str, name: str) -> None:
    """By submission, reading and fingerprint alike: path, problem and remedy; and it is caught as it always was."""
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / "file").touch()
    path, (kind, also, said) = tmp_path / f"{name}{suffix}", UNREADABLE[name]
    for read in (lambda: list(source(path)), source(path).fingerprint, lambda: _submitted(path)):
        with pytest.raises(also) as caught:
            read()
        error = caught.value
        assert (type(error), str(error), error.filename) == (kind, f"{path}: {said}", str(path))
        assert isinstance(error.__cause__, OSError)
        assert error.errno == error.__cause__.errno
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.errno, copy.filename) == (str(error), error.errno, str(path))


def _submitted(path: Path) -> None:
    with open_jobs("memory:") as jobs:
        jobs.submit(path, lambda row: row)


def test_a_file_that_may_not_be_read_is_named(file: Write) -> None:
    """It says so, and what to do."""
    path = file("id\n1\n")
    with not_readable(path), pytest.raises(OSError, match="by this user") as caught:
        list(CsvSource(path))
    assert str(caught.value) == (
        f"{path}: may not be read by this user; let this user read it, or run as one who may"
    )
    assert (type(caught.value), caught.value.errno) == (SourceUnreadableError, errno.EACCES)


@contextmanager
def not_readable(path: Path) -> Generator[None]:
    """Let nobody read a file for a while; whoever is root is somebody else meanwhile."""
    user = os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


# Lines and keys


def test_a_row_is_known_by_its_physical_line(file: Write) -> None:
    """Line breaks inside of quotes and blank lines count: the line is where an editor finds the record."""
    path = file('id,note\n1,"a\nb\r\nc"\n\n2,d\n')
    assert [(row.key, row.line) for row in CsvSource(path)] == [("line:2", 2), ("line:6", 6)]


def test_the_line_does_not_depend_on_what_is_skipped(file: Write) -> None:
    """Reported or skipped, the rows after a blank or ragged one keep their identity."""
    path = file("id,note\n1,a\n\n2\n3,c\n")
    assert keys(CsvSource(path, ragged="skip")) == ["line:2", "line:5"]
    assert keys(CsvSource(path, ragged="pad")) == ["line:2", "line:4", "line:5"]


def test_a_column_makes_the_key(file: Write) -> None:
    """The key is the text that stands there."""
    assert keys(CsvSource(file("id,name\n007,a\nA/1,b\n"), key="id")) == ["007", "A/1"]


def test_several_columns_make_one_key_without_doubt(file: Write) -> None:
    """No two rows with different values have the same key, whatever signs are in them."""
    rows = CsvSource(file("a,b\nx/y,z\nx,y/z\nx%2Fy,z\n"), key=["a", "b"])
    assert keys(rows) == ["x%2Fy/z", "x/y%2Fz", "x%252Fy/z"]


def test_a_function_makes_the_key(file: Write) -> None:
    """What it returns is told as text."""
    assert keys(CsvSource(file("a,b\n1,2\n"), key=lambda row: int(row["a"]) + int(row["b"]))) == ["3"]


def test_rows_without_a_key_are_faults(file: Write) -> None:
    """An empty key, and a function that fails or makes none, are told with their lines."""
    path = file("id,name\n,a\n2,b\n")
    assert faults(CsvSource(path, key="id"))[0].startswith("line 2, id = '' is empty, and is its key; give")
    by_none = faults(CsvSource(path, key=lambda row: None))
    assert by_none[0].startswith("line 2: its key is None, no text")
    by_error = faults(CsvSource(path, key=lambda row: row["no"]))
    assert by_error[1].startswith("line 3: its key cannot be made (KeyError: 'no')")


def test_keys_that_are_there_twice_are_faults(file: Write) -> None:
    """Each later row is told, with the line of the first."""
    path = file("id,name\n1,a\n2,b\n1,c\n1,d\n")
    remedy = "give each row a key of its own"
    assert faults(CsvSource(path, key="id")) == [
        f"line 4: has the same key as line 2; {remedy}",
        f"line 5: has the same key as line 2; {remedy}",
    ]


# Faults


def test_faulty_headers_are_told_as_a_whole(file: Write) -> None:
    """Names that are empty or there twice, and a key that is missing, are told together; no row is read."""
    assert faults(CsvSource(file("id,,id\n1,2,3\n"), key="nr")) == [
        "line 1: column 2 has no name; name it, or remove it",
        "line 1: column 3 has the name of column 1, 'id'; give each column a name of its own",
        "line 1: there is no column 'nr', which is to be the key; there are 'id', '', 'id'",
    ]


def test_ragged_rows_are_reported(file: Write) -> None:
    """Each is told with its line and how many cells it has."""
    said = faults(CsvSource(file("a,b\n1\n1,2\n1,2,3\n")))
    assert [fault.partition(";")[0] for fault in said] == [
        "line 2: has 1 cells, not 2 as the header",
        "line 4: has 3 cells, not 2 as the header",
    ]


def test_short_rows_are_padded_and_long_ones_stay_faults(file: Write) -> None:
    """Padding loses nothing; cutting would."""
    path = file("a,b\n1\n1,2,3\n")
    entries = list(CsvSource(path, ragged="pad").entries())
    assert entries[0] == Row("line:2", 2, {"a": "1", "b": ""})
    assert isinstance(entries[1], RowFault)
    assert entries[1].line == 3


def test_ragged_rows_are_skipped_where_it_is_said(file: Write) -> None:
    """Short and long ones alike."""
    assert keys(CsvSource(file("a,b\n1\n1,2\n1,2,3\n"), ragged="skip")) == ["line:3"]


@pytest.mark.parametrize("blank", ["", "   ", ",", '""'])
def test_blank_rows_are_skipped_or_reported(file: Write, blank: str) -> None:
    """A row is blank if none of its cells says anything, or if it is a line of spaces."""
    path = file(f"a,b\n{blank}\n1,2\n")
    assert keys(CsvSource(path)) == ["line:3"]
    assert faults(CsvSource(path, blank="report")) == [
        "line 2: is blank; remove it, or skip blank rows: blank='skip'"
    ]


def test_broken_quotes_are_faults_of_their_lines(file: Write) -> None:
    """Text after a closing quote is told where it stands, and what follows is read."""
    path = file('a,b\n1,"x"y\n2,z\n')
    assert [entry.line for entry in CsvSource(path).entries()] == [2, 3]
    assert faults(CsvSource(path))[0].startswith(
        "line 2: cannot be split into cells (',' expected after '\"')"
    )


def test_a_quote_that_is_never_closed_is_a_fault(file: Write) -> None:
    """The rest of the file is not taken for one cell: the line is told on which it was opened."""
    assert faults(CsvSource(file('a,b\n1,2\n3,"x\n4,5\n')))[0].startswith(
        "line 3: cannot be split into cells"
    )


def test_all_faults_are_told_at_once(file: Write) -> None:
    """The faults of the source and of every check come together, in the order of lines, with the names of rows."""

    def priced(row: Row) -> str | None:
        return None if row.values["price"] else "has no price"

    def paid(row: Row) -> bool:
        return bool(row.values["price"] != "0")

    path = file("id,price\n1,\n2,0\n3\n2,5\n")
    said = faults(CsvSource(path, key="id"), priced, paid)
    assert [fault.partition(";")[0] for fault in said] == [
        "line 2, row '1': has no price",
        "line 3, row '2': does not pass paid",
        "line 4: has 1 cells, not 2 as the header",
        "line 5: has the same key as line 3",
    ]


def test_pydantic_models_check_rows(file: Write) -> None:
    """Each of the model's errors is a fault of its column, with the value."""

    class Order(pydantic.BaseModel):
        price: Decimal
        quantity: int

    def checked(row: Row) -> Order:
        return Order.model_validate(row.values)

    path = file("id,price,quantity\n1,abc,x\n2,1.5,2\n")
    said = faults(CsvSource(path, key="id"), checked)
    assert len(said) == 2
    assert said[0].startswith("line 2, row '1', price = 'abc' is wrong: ")


def test_faults_are_bounded(file: Write) -> None:
    """Of many faults the first hundred are told, and how many more there are."""
    path = file("a,b\n" + "1\n" * 1000)
    with pytest.raises(SourceFaultsError) as caught:
        validate(CsvSource(path))
    assert (len(caught.value.faults), caught.value.total) == (100, 1000)
    assert str(caught.value).endswith("and 900 more")


def test_good_rows_come_before_the_faults_are_told(file: Write) -> None:
    """A submission streams what is good into its transaction, and the error at the end undoes it."""
    rows = validated(CsvSource(file("a,b\n1,2\n3\n5,6\n")))
    assert [next(rows).line, next(rows).line] == [2, 4]
    with pytest.raises(SourceFaultsError):
        next(rows)


def test_a_plain_loop_stops_at_the_first_fault(file: Write) -> None:
    """Nobody who only iterates misses that rows are faulty."""
    rows = iter(CsvSource(file("a,b\n1,2\n3\n")))
    assert next(rows).line == 2
    with pytest.raises(SourceFaultsError, match="line 3: has 1 cells"):
        next(rows)


def test_wrong_arguments_are_told_at_once() -> None:
    """Every one of them, with the remedy."""
    arguments: dict[str, Any] = {
        "key": [],
        "delimiter": ",,",
        "encoding": "klingon",
        "blank": "no",
        "ragged": 1,
    }
    with pytest.raises(ConfigurationError) as caught:
        CsvSource("orders.csv", **arguments)
    assert sorted(fault.path for fault in caught.value.faults) == [
        "blank",
        "delimiter",
        "encoding",
        "key",
        "ragged",
    ]


# Fingerprints


def test_a_fingerprint_is_that_of_what_was_read(file: Write) -> None:
    """After a full reading it says what was read, though the file has changed since."""
    path = file("id\n1\n")
    rows = CsvSource(path)
    assert validate(rows) == 1
    read = rows.fingerprint()
    path.write_text("id\n2\n")
    assert rows.fingerprint() == read
    assert not read.is_content_of(CsvSource(path).fingerprint())


def test_a_touched_file_has_not_changed(file: Write) -> None:
    """The content decides, not the time."""
    path = file("id\n1\n")
    before = CsvSource(path).fingerprint()
    path.touch()
    assert before.is_content_of(CsvSource(path).fingerprint())


@pytest.mark.parametrize("name", ["orders.csv", "orders.jsonl"])
def test_a_file_that_is_written_to_while_it_is_read_is_refused(file: Write, name: str) -> None:
    """Rows of two versions are never mixed without a word."""
    text = '{"id": 1}\n{"id": 2}\n' if name.endswith("jsonl") else "id\n1\n2\n"
    path = file(text, name)
    rows = iter(source(path))
    next(rows)
    with path.open("a") as more:
        more.write(text)
    with pytest.raises(SourceChangedError, match="was written to while it was read"):
        list(rows)


# Excel


def test_cells_keep_their_values(workbook: WriteWorkbook) -> None:
    """Text stays text, whole numbers int, fractions the Decimal that shows them, dates and times ISO."""
    moment = dt.datetime(2026, 2, 28, 13, 30)  # noqa: DTZ001  # Excel knows no zones
    day = dt.date(2026, 2, 28)
    row = [
        "007",
        12,
        12.5,
        0.1,
        True,
        day,
        moment,
        dt.time(13, 30),
        dt.timedelta(seconds=90.5),
        None,
        "x",
    ]
    path = workbook([[f"c{at}" for at in range(len(row))], row])
    (read,) = values(ExcelSource(path))
    assert list(read.values()) == [
        "007",
        12,
        Decimal("12.5"),
        Decimal("0.1"),
        True,
        "2026-02-28",
        "2026-02-28T13:30:00",
        "13:30:00",
        Decimal("90.5"),
        None,
        "x",
    ]
    assert decode(encode(read)) == read


def test_rows_of_a_sheet_are_known_by_their_numbers(workbook: WriteWorkbook) -> None:
    """Blank rows count, above the header too."""
    path = workbook([[], ["id", "name"], [1, "Ann"], [], [2, "Bob"]])
    assert [(row.key, row.line) for row in ExcelSource(path)] == [("line:3", 3), ("line:5", 5)]
    assert keys(ExcelSource(path, key="id")) == ["1", "2"]


def test_short_rows_of_a_sheet_are_whole(workbook: WriteWorkbook) -> None:
    """A sheet has no ragged ends, but a cell beyond the header is a fault."""
    path = workbook([["id", "name"], [1], [2, "Bob", "beyond"]])
    entries = list(ExcelSource(path).entries())
    assert entries[0] == Row("line:2", 2, {"id": 1, "name": None})
    assert str(entries[1]).startswith("line 3: has 3 cells, not 2 as the header")


def test_a_sheet_without_a_header_is_an_error(workbook: WriteWorkbook) -> None:
    """Nothing in a sheet says that there were no rows; a header alone does."""
    assert validate(ExcelSource(workbook([["id", "name"]]))) == 0
    path = workbook([[], []])
    with pytest.raises(SourceError, match="is empty: not even a header is there; write a first row"):
        validate(ExcelSource(path))


def test_sheets_are_named(workbook: WriteWorkbook) -> None:
    """Without a name it is the first; one that is not there is an error that tells the others."""
    path = workbook({"One": [["a"], [1]], "Two": [["b"], [2]]})
    assert values(ExcelSource(path)) == [{"a": 1}]
    assert values(ExcelSource(path, sheet="Two")) == [{"b": 2}]
    with pytest.raises(SourceError, match="has no sheet 'Three'; give one of its sheets: 'One', 'Two'"):
        list(ExcelSource(path, sheet="Three"))


def test_an_error_in_a_cell_is_a_fault(workbook: WriteWorkbook) -> None:
    """#N/A is no text that anybody meant."""
    path = workbook([["id", "price"], [1, "#N/A"]])
    assert faults(ExcelSource(path)) == ["line 2, price = '#N/A' is an error of Excel; mend the formula"]


def test_a_wrong_dimension_is_not_believed(workbook: WriteWorkbook) -> None:
    """Some programs write a dimension that is too small; the rows are there all the same."""
    path = workbook([["id", "name"], [1, "Ann"], [2, "Bob"]])
    replace_member(path, "xl/worksheets/sheet1.xml", lambda xml: xml.replace(b'ref="A1:B3"', b'ref="A1"'))
    assert values(ExcelSource(path)) == [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]


def test_what_is_no_workbook_is_refused(file: Write) -> None:
    """A CSV file with another name, or one with a password, is one clear error."""
    with pytest.raises(SourceError, match="is no Excel workbook"):
        list(ExcelSource(file("id\n1\n", "orders.xlsx")))


# JSON lines


def test_numbers_of_json_are_exact(file: Write) -> None:
    """A fraction is the Decimal that stands there, also deep inside; whole numbers are int of any length."""
    path = file('{"id": 1, "price": 1.10, "lines": [{"qty": 12345678901234567890, "net": 0.1}]}\n', "o.jsonl")
    (read,) = values(JsonLinesSource(path))
    assert str(read["price"]) == "1.10"
    assert read["lines"] == [{"qty": 12345678901234567890, "net": Decimal("0.1")}]


def test_faulty_lines_of_json_are_told(file: Write) -> None:
    """Each line that is no object is told with its number, and why."""
    content = '{"id": 1}\n\n[1]\n{"id": \n{"id": 1, "id": 2}\n{"id": NaN}\n\u2028{"id": 2}\n'
    said = faults(JsonLinesSource(file(content, "o.jsonl"), blank="report"))
    assert [fault.partition(";")[0] for fault in said] == [
        "line 2: is blank",
        "line 3: is an array, no object",
        "line 4: is no JSON (Expecting value, at character 9)",
        "line 5: has the member 'id' twice",
        "line 6: holds NaN, which is no JSON",
        "line 7: is no JSON (Expecting value, at character 1)",
    ]


def test_only_line_feeds_end_lines_of_json(file: Write) -> None:
    """Other separators of lines may stand in a text, and a carriage return before the end."""
    path = file('{"a": "x\u2028y\x85z"}\r\n{"a": "b"}', "o.jsonl")
    assert [(row.line, row.values["a"]) for row in JsonLinesSource(path)] == [(1, "x\u2028y\x85z"), (2, "b")]


def test_a_missing_member_of_the_key_is_a_fault(file: Write) -> None:
    """The object is told, with what it lacks."""
    assert faults(JsonLinesSource(file('{"id": 1}\n{}\n', "o.jsonl"), key="id"))[0].startswith(
        "line 2, id = None is missing, and is its key"
    )


# SQL


def orders(engine: sql.Engine) -> sql.Table:
    table = sql.Table(
        "orders",
        sql.MetaData(),
        sql.Column("id", sql.Integer, primary_key=True),
        sql.Column("region", sql.String),
        sql.Column("price", sql.Numeric(10, 2)),
        sql.Column("weight", sql.Double),
        sql.Column("day", sql.Date),
        sql.Column("code", sql.Uuid),
        sql.Column("raw", sql.LargeBinary),
    )
    table.metadata.create_all(engine)
    return table


CODE = uuid.UUID("12345678-1234-5678-1234-567812345678")


def test_rows_of_a_query_keep_their_values(engine: sql.Engine) -> None:
    """Numbers are exact, dates ISO, bytes bytes: they can be stored and come back as they were."""
    table = orders(engine)
    row = {"id": 1, "region": "n", "price": Decimal("12.50"), "weight": 0.1, "code": CODE, "raw": b"\x00\xff"}
    with engine.begin() as connection:
        connection.execute(table.insert(), {**row, "day": dt.date(2026, 2, 28)})
    statement = sql.select(table)
    (read,) = SqlSource(engine, statement, key="id")
    assert read == Row("1", 1, {**row, "weight": Decimal("0.1"), "day": "2026-02-28", "code": str(CODE)})
    assert str(read.values["price"]) == "12.50"
    assert decode(encode(read.values)) == read.values


def test_parameters_of_a_query_are_bound(engine: sql.Engine) -> None:
    """Text that a user gives cannot become part of the statement."""
    table = orders(engine)
    with engine.begin() as connection:
        connection.execute(
            table.insert(), [{"id": n, "region": r} for n, r in enumerate(["n", "s", "x' or 1=1"], 1)]
        )
    text = "SELECT id, region FROM orders WHERE region = :region ORDER BY id"
    assert keys(SqlSource(engine, text, key="id", parameters={"region": "x' or 1=1"})) == ["3"]


def test_a_query_is_read_in_a_stream(engine: sql.Engine) -> None:
    """The first row is there before the last was fetched, and stopping early leaves no connection behind."""
    table = orders(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"id": n} for n in range(3000)])
    rows = iter(SqlSource(engine, "SELECT id FROM orders ORDER BY id", key="id"))
    assert next(rows).key == "0"
    del rows
    gc.collect()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert sum(1 for _ in SqlSource(engine, "SELECT id FROM orders", key="id")) == 3000


def test_a_url_is_a_database_too(engine: sql.Engine) -> None:
    """Its connection is closed afterwards, and messages do not tell the password."""
    orders(engine)
    url = engine.url.render_as_string(hide_password=False)
    assert list(SqlSource(url, "SELECT id FROM orders", key="id")) == []
    assert SqlSource("postgresql+psycopg://me:secret@host/db", "SELECT 1", key="id").name == (
        "postgresql+psycopg://me:***@host/db"
    )


def test_a_query_cannot_write(postgres_url: str) -> None:
    """PostgreSQL is told that the transaction only reads, whatever the statement calls."""
    calls = "SELECT setval('numbers', 7) AS id"
    made = sql.create_engine(postgres_url)
    with made.begin() as connection:
        connection.execute(sql.text("CREATE SEQUENCE numbers"))
    made.dispose()
    with pytest.raises(SourceError, match="read-only transaction"):
        list(SqlSource(postgres_url, calls, key="id"))


def test_a_failing_query_is_one_clear_error(engine: sql.Engine) -> None:
    """What the database says is told, with its name."""
    with pytest.raises(SourceError, match="cannot be read"):
        list(SqlSource(engine, "SELECT id FROM nowhere", key="id"))


def test_columns_of_a_query_are_distinct(engine: sql.Engine) -> None:
    """Two columns of one name would hide each other."""
    orders(engine)
    assert faults(SqlSource(engine, "SELECT id, id FROM orders", key="id"))[0].startswith(
        "column 2 has the name of"
    )


@pytest.mark.parametrize("statement", ["DELETE FROM orders", "UPDATE orders SET id = 1", "", 7])
def test_only_queries_are_read(statement: Any) -> None:
    """What would change rows is refused before it is sent."""
    with pytest.raises(ConfigurationError, match="does not read rows"):
        SqlSource("sqlite://", statement, key="id")


# Python


@dataclasses.dataclass
class Order:
    id: int
    price: Decimal


class Model(pydantic.BaseModel):
    id: int
    price: Decimal


class Pair(NamedTuple):
    id: int
    price: Decimal


PRICE = Decimal("1.10")


@pytest.mark.parametrize(
    "item",
    [
        {"id": 7, "price": PRICE},
        Order(7, PRICE),
        Model(id=7, price=PRICE),
        Pair(7, PRICE),
        (7, PRICE),
        [7, PRICE],
    ],
)
def test_python_objects_are_rows(item: Any) -> None:
    """Mappings, dataclasses, pydantic models, named tuples, and plain ones with columns give the same row."""
    columns = ["id", "price"] if type(item) in {tuple, list} else None
    assert list(IterableSource([item], key="id", columns=columns)) == [Row("7", 1, {"id": 7, "price": PRICE})]


def test_what_is_no_row_is_a_fault() -> None:
    """Each is told with its position, and what to do."""
    said = faults(IterableSource([1, (1, 2), {"a": 1}]))
    assert said[0].startswith("line 1: is no row (int); give mappings")
    assert said[1] == "line 2: is no row (tuple); name the columns: columns=[…]"
    assert faults(IterableSource([(1,)], columns=["a", "b"]))[0].endswith("give 2 values, not 1")


def test_an_iterator_is_read_once() -> None:
    """The second time is an error, not an empty job; a function is asked again."""
    rows = IterableSource(iter([{"id": 1}]))
    assert keys(rows) == ["line:1"]
    with pytest.raises(SourceError, match="was read before; give a list, or a function"):
        list(rows)

    def again() -> Iterator[dict[str, int]]:
        yield {"id": 1}

    rows = IterableSource(again)
    assert keys(rows) == keys(rows) == ["line:1"]


# Which source is meant


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", CsvSource),
        ("a.TSV", CsvSource),
        ("a.txt", CsvSource),
        ("a.xlsx", ExcelSource),
        ("a.xlsm", ExcelSource),
        ("a.jsonl", JsonLinesSource),
        ("a.ndjson", JsonLinesSource),
    ],
)
def test_the_suffix_says_what_a_file_is(name: str, kind: type[Source]) -> None:
    """Text and paths alike; options go to the class."""
    assert type(source(name)) is type(source(Path(name), key="id")) is kind


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ("a.xls", "save it as .xlsx"),
        ("a.json", "write one object on each line"),
        ("orders", r"cannot be read \(no suffix\); one of .csv, .tsv"),
        ("SELECT 1", "is no file; for a database: SqlSource"),
        ("postgresql://host/db", "is no file; for a database: SqlSource"),
        (7, "holds no rows; give a path, an iterable of rows, or SqlSource"),
    ],
)
def test_what_is_no_source_is_refused(of: Any, said: str) -> None:
    """The error says what there is."""
    with pytest.raises(SourceError, match=said):
        source(of)


def test_a_source_is_a_source() -> None:
    """It is given back, and takes no options any more; an iterable becomes one."""
    rows = source([{"id": 1}], key="id")
    assert source(rows) is rows
    with pytest.raises(SourceError, match="is a source already, and takes no key"):
        source(rows, key="id")


@pytest.mark.parametrize(
    ("missing", "made", "extra"),
    [
        ("openpyxl", "list(ExcelSource('a.xlsx'))", "excel"),
        ("sqlalchemy", "SqlSource('sqlite://', 'SELECT 1', key='a')", "jobs"),
        ("psycopg", "list(SqlSource('postgresql+psycopg://localhost/a', 'SELECT 1', key='a'))", "postgres"),
    ],
)
def test_a_missing_extra_is_named(file: Write, missing: str, made: str, extra: str) -> None:
    """Without the package that a source needs there is one clear error; the module itself needs none of them."""
    path = file("", "a.xlsx")
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from holdfast.services.jobs.sources import *\n"
        "from holdfast.services.jobs.writeback import *\n"
        f"try: {made.replace('a.xlsx', str(path))}\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert f"pip install 'holdfast[{extra}]'" in done.stdout


# Size

STREAM = """
import re, sys
from pathlib import Path
from holdfast.services.jobs.sources import CsvSource, validate
rows = CsvSource(sys.argv[1], key="id")
print(validate(rows), re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_rows_are_never_all_in_memory(file: Write) -> None:
    """100,000 rows and the search for keys that are there twice take less than 60 MB, Python itself included."""
    path = file("id,name,price,city\n" + "".join(f"{n},Ann {n},{n}.50,Berlin\n" for n in range(100_000)))
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(path)], check=True, capture_output=True, text=True
    )
    count, kilobytes = map(int, done.stdout.split())
    assert count == 100_000
    assert kilobytes < 60_000
