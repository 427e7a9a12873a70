"""Replace a file in one step: after a crash at any point it is the old one or the new one, whole."""

from __future__ import annotations

import importlib
import io
import os
import stat as modes
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.store import _boundaries
from holdfast.services.jobs._source_text import changed, stamp
from holdfast.services.jobs._write_values import Unwritable
from holdfast.services.jobs.rows import Fingerprint, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from holdfast.services.jobs._source_text import Encoding

try:
    fcntl: Any = importlib.import_module("fcntl")
except ImportError:  # Windows: two writers at once are not told apart there
    fcntl = None

_SUFFIX = ".holdfast"
_LARGEST = 1 << 20
# Encodings whose text, written again, is always the bytes that it was read from.
_EXACT = {"utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "cp1252", "iso8859-1", "ascii"}


class BusyError(Exception):
    """Another writer holds the file."""


class Draft(io.RawIOBase):
    """What is to become of a file: written beside it, counted and hashed."""

    def __init__(self, target: Path, descriptor: int) -> None:
        self.target = target
        self._descriptor = descriptor
        self._hash = sha256()
        self._size = 0
        self._before = target.stat()

    def writable(self) -> bool:
        """Say so."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write all of it."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._size += len(view)
        left = view
        while left:
            left = left[os.write(self._descriptor, left) :]
        return len(view)

    def fingerprint(self) -> Fingerprint:
        """Return what the file will be."""
        mtime = os.fstat(self._descriptor).st_mtime_ns
        return Fingerprint(self._size, mtime, self._hash.hexdigest())

    def publish(self, announce: Callable[[Fingerprint], None] | None) -> Fingerprint:
        """Make it the file, durably; `announce` first, which may store what the file is about to be."""
        _boundaries.reach("writeback.after_temp_write")
        _keep_attributes(self.target, self._before, self._descriptor)
        os.fsync(self._descriptor)
        _boundaries.reach("writeback.after_fsync")
        made = self.fingerprint()
        if announce is not None:
            announce(made)
        _boundaries.reach("writeback.after_announce")
        if stamp(self.target.stat()) != stamp(self._before):
            raise changed(self.target, "was written to while results were written back")
        _boundaries.reach("writeback.before_rename")
        self._rename()
        _boundaries.reach("writeback.after_rename")
        _sync_folder(self.target.parent)
        _boundaries.reach("writeback.after_folder_sync")
        return made

    def _rename(self) -> None:
        if fcntl is None:
            os.close(self._descriptor)  # Windows renames no open file
            self._descriptor = -1
        beside(self.target).replace(self.target)

    def discard(self) -> None:
        """Remove what is left of it, and let others write."""
        if self._descriptor < 0:
            return
        with suppress(OSError):
            if _is_at(self._descriptor, beside(self.target)):
                beside(self.target).unlink()
        os.close(self._descriptor)
        self._descriptor = -1


class TextOut:
    """Text on its way to a draft, in the encoding of the file that it is made from."""

    def __init__(self, out: Draft, encoding: Encoding) -> None:
        self._out = out
        self._codec = encoding.codec
        self._mirror = None if encoding.codec in _EXACT else sha256(encoding.mark)
        self._held = [encoding.mark]
        self._size = 0

    def write(self, old: str, new: str) -> None:
        """Take a part as it was and as it is to be."""
        data = new.encode(self._codec)
        if self._mirror is not None:
            self._mirror.update(old.encode(self._codec))
        self._held.append(data)
        self._size += len(data)
        if self._size > _LARGEST:
            self._flush()

    def _flush(self) -> None:
        self._out.write(b"".join(self._held))
        self._held, self._size = [], 0

    def finish(self, before: Fingerprint) -> None:
        """Write the rest. Raises Unwritable if the encoding does not give the file back that was read."""
        self._flush()
        if self._mirror is not None and self._mirror.hexdigest() != before.sha256:
            problem = f"is in {self._codec}, which does not write all as it was read"
            raise Unwritable(problem, "save the file as UTF-8 and submit it again")


def beside(target: Path) -> Path:
    """Return where the draft of a file is written: always the same place, so that a dead writer's is found."""
    return target.with_name(f".{target.name}{_SUFFIX}")


@contextmanager
def draft(path: Path) -> Generator[Draft]:
    """Give a draft for the file that `path` leads to, which nobody else writes. Raises BusyError if somebody does."""
    target = Path(os.path.realpath(path))
    if not modes.S_ISREG(target.stat().st_mode):
        raise SourceError(str(path), "is no ordinary file", "write results back to a file, or not at all")
    one = Draft(target, _locked(beside(target)))
    try:
        os.ftruncate(one._descriptor, 0)
        _boundaries.reach("writeback.before_temp_write")
        yield one
    finally:
        one.discard()


def _locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
        try:
            if fcntl is None:
                return descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError from None
        except BaseException:
            os.close(descriptor)
            raise
        # Its writer has renamed or removed it since: it is no draft any more.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _keep_attributes(target: Path, stat: os.stat_result, descriptor: int) -> None:
    """Give the draft the owner, the mode and the extended attributes of the file."""
    if fcntl is None:
        return
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (stat.st_uid, stat.st_gid):
        try:
            os.fchown(descriptor, stat.st_uid, stat.st_gid)
        except PermissionError as error:
            problem = (
                f"belongs to user {stat.st_uid} and group {stat.st_gid}, which a new file cannot be given"
            )
            raise SourceError(str(target), problem, "write back as its owner") from error
    _keep_extended(target, descriptor)
    os.fchmod(descriptor, modes.S_IMODE(stat.st_mode))


def _keep_extended(target: Path, descriptor: int) -> None:
    if not hasattr(os, "listxattr"):
        return
    with suppress(OSError):  # file systems without them, and those that only the system may set
        for name in os.listxattr(target):
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(target, name))


def _sync_folder(folder: Path) -> None:
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
