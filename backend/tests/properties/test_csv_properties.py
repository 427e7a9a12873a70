"""CSV: any table in any dialect and encoding is read as it was meant, and written back byte for byte."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.services.jobs import _source_csv
from holdfast.services.jobs._source_text import MARKS
from holdfast.services.jobs.rows import CsvDialect, SourceError
from holdfast.services.jobs.sources import CsvSource
from holdfast.services.jobs.writeback import CsvWriteBack

SIGNS = ",;|\t\"' \n\r"
CODECS = ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "cp1252", "latin-1", "ascii", "cp850"]


LETTERS = "ab1=\\/\xa0éßŁЖ€漢\u2028\x85\x00\U0001f600"


class Table(NamedTuple):
    content: bytes
    rows: list[list[str]]
    header: list[str]
    delimiter: str
    quote: str
    codec: str


def encodable(codec: str) -> st.SearchStrategy[str]:
    letters = st.sampled_from([c for c in LETTERS if c.encode(codec, "ignore")])
    # Where all cells begin with a space, it belongs to the delimiter: such tables are not meant here.
    return st.text(letters | st.sampled_from(SIGNS), max_size=6).map(lambda text: text.lstrip(" "))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    codec = draw(st.sampled_from(CODECS))
    delimiter, quote = draw(st.sampled_from([",", ";", "|", "\t"])), draw(st.sampled_from("\"'"))
    texts = encodable(codec)
    names = texts.filter(lambda text: bool(text.strip()))
    header = draw(st.lists(names, min_size=2, max_size=4, unique=True))
    rows = draw(st.lists(st.lists(texts, min_size=len(header), max_size=len(header)), max_size=5))
    ends = st.sampled_from(["\n", "\r\n", "\r"]) if draw(st.booleans()) else st.just("\r\n")

    def cell(text: str) -> str:
        must = any(sign in text for sign in (delimiter, quote, "\r", "\n"))
        if not must and not draw(st.booleans()):
            return text
        return quote + text.replace(quote, quote * 2) + quote

    text = "".join(delimiter.join(map(cell, row)) + draw(ends) for row in [header, *rows])
    if draw(st.booleans()):
        text = text.rstrip("\r\n") if text[-1:] in "\r\n" and not text.endswith(('\n"', '\r"')) else text
    mark = MARKS.get(codec, b"") if draw(st.booleans()) else b""
    return Table(mark + text.encode(codec), rows, header, delimiter, quote, codec)


def source(table: Table, path: Path, **options: Any) -> CsvSource:
    path.write_bytes(table.content)
    return CsvSource(path, delimiter=table.delimiter, quote=table.quote, encoding=table.codec, **options)


def meant(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.header, row, strict=True)) for row in table.rows if any(row)]


@given(tables())
@settings(deadline=None)
def test_a_table_is_read_as_it_was_meant(table: Table) -> None:
    """Every cell is the text that was written, whatever signs, quotes and line breaks are in it."""
    with tempfile.TemporaryDirectory() as folder:
        read = list(source(table, Path(folder, "t.csv")))
    assert [row.values for row in read] == meant(table)


@given(tables())
@settings(deadline=None)
def test_a_line_is_where_an_editor_finds_the_record(table: Table) -> None:
    """Counted by the line ends before it, inside of quotes too."""
    with tempfile.TemporaryDirectory() as folder:
        rows = source(table, Path(folder, "t.csv"))
        text = (
            Path(folder, "t.csv").read_bytes().removeprefix(MARKS.get(table.codec, b"")).decode(table.codec)
        )
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for row in rows:
            first = (
                next(iter(row.values.values())).replace("\r\n", "\n").replace("\r", "\n").partition("\n")[0]
            )
            assert (
                lines[row.line - 1]
                .lstrip(table.quote)
                .startswith(first.replace(table.quote, table.quote * 2).lstrip(table.quote))
            )


@given(tables())
@settings(deadline=None)
def test_what_a_file_says_already_is_written_back_byte_for_byte(table: Table) -> None:
    """Results that are what stands there change no byte, though every record is taken apart and joined again."""
    with tempfile.TemporaryDirectory() as folder:
        rows = source(table, Path(folder, "t.csv"))
        column = table.header[-1]
        results = [(row.key, {"it": row.values[column]}) for row in rows]
        done = CsvWriteBack(rows, {"it": column}).apply(results)
        assert (done.changed, Path(folder, "t.csv").read_bytes()) == (False, table.content)


@given(tables(), st.data())
@settings(deadline=None)
def test_results_are_read_again_and_nothing_else_changes(table: Table, data: st.DataObject) -> None:
    """Old cells are as they were, bytes too; results are where they belong; the same again changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        rows = source(table, path)
        keys = [row.key for row in rows]
        name = data.draw(st.sampled_from(["it is new", table.header[0], table.header[-1]]))
        old = [row.get(name, "") for row in meant(table)]
        plain = encodable(table.codec).map(lambda text: "x" + text.replace("\n", "").replace("\r", ""))
        movable = {key for key, text in zip(keys, old, strict=True) if not {"\r", "\n"} & set(text)}
        results = data.draw(st.dictionaries(st.sampled_from(sorted(movable)), plain)) if movable else {}
        back = CsvWriteBack(rows, {"it": name})
        pairs = [(key, {"it": text}) for key, text in results.items()]
        assert back.apply(pairs).rows == len(results)
        wanted = [
            {**row, name: results.get(key, before)} if results else row
            for key, row, before in zip(keys, meant(table), old, strict=True)
        ]
        assert [row.values for row in rows] == wanted
        once = path.read_bytes()
        assert not back.apply(pairs).changed
        assert path.read_bytes() == once
        assert name in table.header or is_within(table.content, once)


def is_within(old: bytes, new: bytes) -> bool:
    """Return whether `new` is `old` with something put in between."""
    left = iter(new)
    return all(byte in left for byte in old)


@given(
    st.text(st.sampled_from("ab,;\t|\"'\\ \n\r\u00eb"), max_size=60),
    st.sampled_from(["utf-8", "utf-16-le", "cp1252"]),
)
@settings(deadline=None)
def test_any_file_survives_being_taken_apart(text: str, codec: str) -> None:
    """However broken a file is, and whatever dialect is found: its records joined again are the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(text.encode(codec))
        dialect = CsvSource(path, encoding=codec).dialect
        lines = text.splitlines(keepends=True)
        assert "".join(joined(lines, dialect)) == text


def joined(lines: list[str], dialect: CsvDialect) -> list[str]:
    recorder = _source_csv.Recorder(lines)
    records: list[str] = []
    for _, cells in _source_csv.scan(recorder, dialect):
        body, end = _source_csv.body_of(recorder.take())
        if cells and not isinstance(cells, str):
            parts = _source_csv.split(body, dialect)
            assert len(parts) == len(cells)
            body = dialect.delimiter.join(parts)
        records.append(body + end)
    return records


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """No file makes an error that is none of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_bytes(content)
        try:
            entries = list(CsvSource(path).entries())
        except SourceError:
            return
        assert entries == list(CsvSource(path).entries())
