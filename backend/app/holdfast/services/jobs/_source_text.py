"""Text files: which encoding they have, and reading them while what is read is hashed."""

from __future__ import annotations

import codecs
import io
import os
from contextlib import contextmanager
from errno import EACCES, EISDIR, ENOENT
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from holdfast.services.jobs.rows import (
    Fingerprint,
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
    SourceUnreadableError,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from io import FileIO
    from pathlib import Path
    from typing import BinaryIO, TextIO

_BLOCK = 1 << 20
_SAMPLE = 4096
# The longer ones first: that of UTF-32-LE begins as that of UTF-16-LE does.
MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
_FAMILY = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
# Those in which every file that can be read is written again byte for byte.
_GUESSES = ("utf-8", "cp1252")


class Encoding(NamedTuple):
    """A codec that knows nothing of marks, and whether the file begins with one."""

    codec: str
    bom: bool

    @property
    def mark(self) -> bytes:
        """The bytes before the text."""
        return MARKS[self.codec] if self.bom else b""


def opened(path: Path) -> FileIO:
    """Open a file to read it. Raises SourceNotFoundError, SourceUnreadableError."""
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(path: str, error: OSError) -> SourceUnreadableError:
    kind = SourceNotFoundError if isinstance(error, FileNotFoundError) else SourceUnreadableError
    problem, remedy = _UNREADABLE.get(
        error.errno or 0, (f"cannot be opened ({error.strerror or error})", "name a file that can be read")
    )
    made = kind(path, problem, remedy)
    made.errno, made.strerror, made.filename = error.errno, error.strerror, path
    return made


_UNREADABLE = {
    ENOENT: ("is not there", "name the file that has the rows"),
    EISDIR: ("is a folder", "name a file in it"),
    EACCES: ("may not be read by this user", "let this user read it, or run as one who may"),
}


def find_encoding(path: Path, given: str | None) -> Encoding:
    """Return how the file is encoded: as its mark says, as it is said, or as all of it can be read."""
    with opened(path) as file:
        head = file.read(_SAMPLE)
        marks = [codec for codec, mark in MARKS.items() if head.startswith(mark)]
        if given is not None:
            return _given(str(path), given, marks)
        if marks:
            return Encoding(marks[0], bom=True)
        guesses = (_wide(head), *_GUESSES)
        for codec in filter(None, guesses):
            if _reads(file, codec):
                return Encoding(codec, bom=False)
    raise SourceError(
        str(path), "is neither UTF-8 nor UTF-16 nor cp1252", "say which encoding: encoding='latin-1'"
    )


def check_encoding(given: str) -> str | None:
    """Return the name that codecs go by, or None if there is no such codec of text."""
    try:
        "".encode(given)
        name = codecs.lookup(given).name
    except LookupError:
        return None
    return _FAMILY.get(name, name)


def _given(path: str, given: str, marks: list[str]) -> Encoding:
    codec = check_encoding(given) or given
    stem = codec.removesuffix("-le").removesuffix("-be")
    marked = next((mark for mark in marks if mark.startswith(stem)), None)
    if marked is not None:
        return Encoding(marked, bom=True)
    if marks and stem.startswith("utf"):
        raise SourceError(path, f"begins with the mark of {marks[0]}, not of {given}", "leave encoding out")
    return Encoding(codec, bom=False)


def _wide(head: bytes) -> str | None:
    """Return which UTF-16 a head without a mark is in: most text has a zero in every other byte."""
    zeros = [head[side::2].count(0) for side in (0, 1)]
    half = len(head) / 4
    if zeros[1] > half > zeros[0]:
        return "utf-16-le"
    return "utf-16-be" if zeros[0] > half > zeros[1] else None


def _reads(file: BinaryIO, codec: str) -> bool:
    decoder = codecs.getincrementaldecoder(codec)()
    file.seek(0)
    try:
        while block := file.read(_BLOCK):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


class Hashing(io.RawIOBase):
    """Count and hash what is read from a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = sha256()
        self.size = 0

    def readable(self) -> bool:
        """Say so."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read, count and hash."""
        block = self._file.read(len(buffer))
        buffer[: len(block)] = block
        self._hash.update(block)
        self.size += len(block)
        return len(block)

    def fingerprint(self, mtime_ns: int) -> Fingerprint:
        """Return the fingerprint of what was read so far."""
        return Fingerprint(self.size, mtime_ns, self._hash.hexdigest())


class Reading:
    """A file that is being read as text; `fingerprint` is there when it was read to its end."""

    def __init__(self, path: Path, file: BinaryIO, encoding: Encoding, newline: str) -> None:
        self._path = path
        self._file = file
        self._before = os.fstat(file.fileno())
        self._raw = Hashing(file)
        buffered = io.BufferedReader(self._raw, _BLOCK)
        buffered.read(len(encoding.mark))
        self.text: TextIO = io.TextIOWrapper(buffered, encoding.codec, newline=newline)

    def finish(self) -> Fingerprint:
        """Return what was read, all of it. Raises SourceChangedError if the file was written to meanwhile."""
        while self.text.read(_BLOCK):
            pass
        after = os.fstat(self._file.fileno())
        if stamp(after) != stamp(self._before):
            raise changed(self._path, "was written to while it was read")
        return self._raw.fingerprint(self._before.st_mtime_ns)


@contextmanager
def reading(path: Path, encoding: Encoding, newline: str = "") -> Generator[Reading]:
    """Open a file to read it as text. Raises SourceError where it is not in the encoding."""
    with opened(path) as file:
        one = Reading(path, file, encoding, newline)
        try:
            yield one
        except UnicodeDecodeError as error:
            shown = error.object[error.start : error.start + 4].hex(" ")
            problem = f"is not in {encoding.codec} ({error.reason}: {shown})"
            raise SourceError(
                str(path), problem, "say which encoding it has, or leave it to be found"
            ) from error


def stamp(stat: os.stat_result) -> tuple[int, int, int, int]:
    """Return what shows that a file was written to or replaced."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def changed(path: Path, problem: str) -> SourceChangedError:
    """Return the error that says so."""
    return SourceChangedError(str(path), problem, "submit it again, or restore what was submitted")


def fingerprint_of(path: Path) -> Fingerprint:
    """Read and hash a file."""
    with opened(path) as file:
        before = os.fstat(file.fileno())
        raw = Hashing(file)
        buffer = bytearray(_BLOCK)
        while raw.readinto(buffer):
            pass
        if stamp(os.fstat(file.fileno())) != stamp(before):
            raise changed(path, "was written to while it was read")
        return raw.fingerprint(before.st_mtime_ns)
