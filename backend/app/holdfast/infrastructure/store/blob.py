"""Logs and large results, apart from the rows that name them: `BlobStore`, in a folder or in memory."""

from __future__ import annotations

import os
import re
import tempfile
from errno import EMLINK, ENOTSUP, EOPNOTSUPP, EPERM
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from holdfast.infrastructure.store import _boundaries
from holdfast.infrastructure.store._tenants import checked_tenant
from holdfast.infrastructure.store.state import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_LONGEST = 500
# No key begins with a dot, so that nothing that is stored can be in the way.
_INCOMING = ".incoming"
_UNLINKABLE = frozenset({EPERM, ENOTSUP, EOPNOTSUPP, EMLINK})


class BlobStore(Protocol):
    """Bytes under keys such as `job-7/step-3.log`, written once. Safe to share between threads and processes.

    A key is up to 500 letters, digits, `.`, `_` and `-`, in parts between `/`, none of which begins with `.`; a tenant
    is named as for `open_store`. ValueError otherwise.
    """

    tenant: str

    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored. It is durable when this returns."""
        ...

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""
        ...

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything."""
        ...

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return a URL that reads it, for `expires_in` seconds where that can be limited; None where there is none."""
        ...


class FolderBlobStore:
    """A folder of files, one for each key, in a subfolder for each tenant: whole and on the disk, or not there.

    ValueError unless a tenant's name is 1 to 48 of a-z, 0-9, - and _, the first a letter or digit.
    """

    tenant: str

    def __init__(self, folder: str | Path, tenant: str = "default") -> None:
        self.tenant = checked_tenant(tenant)
        self._folder = Path(folder).absolute() / tenant

    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored. It is durable when this returns."""
        path = self._path(key)
        if path.exists():
            return False
        _make(path.parent)
        arriving = self._arriving(data)
        try:
            _boundaries.reach("blob.put.before_rename")
            stored = _publish(arriving, path)
            _sync(path.parent)
            _boundaries.reach("blob.put.after_rename")
        finally:
            arriving.unlink(missing_ok=True)
        return stored

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFoundError("blob", key, self.tenant) from None

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""
        return self._path(key).is_file()

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything."""
        path = self._path(key)
        if not path.is_file():
            return False
        path.unlink(missing_ok=True)
        _sync(path.parent)
        return True

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return the file's URL, which whoever may read the folder can use at any time."""
        return self._path(key).as_uri()

    def _path(self, key: str) -> Path:
        return self._folder / _checked(key)

    def _arriving(self, data: bytes) -> Path:
        folder = self._folder / _INCOMING
        _make(folder)
        handle, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return Path(name)


class MemoryBlobStore:
    """Blobs of this process, gone with it. ValueError unless a tenant is named as `FolderBlobStore` takes it."""

    tenant: str

    def __init__(self, tenant: str = "default") -> None:
        self.tenant = checked_tenant(tenant)
        self._lock = Lock()
        self._blobs: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored."""
        key, data = _checked(key), bytes(data)
        with self._lock:
            if key in self._blobs:
                return False
            self._blobs[key] = data
            return True

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""
        try:
            return self._blobs[_checked(key)]
        except KeyError:
            raise NotFoundError("blob", key, self.tenant) from None

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""
        return _checked(key) in self._blobs

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything."""
        with self._lock:
            return self._blobs.pop(_checked(key), None) is not None

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return None: nobody else can read this memory."""
        return None


def _checked(key: str) -> str:
    if len(key) > _LONGEST or not _KEY.fullmatch(key):
        raise ValueError(
            f"{key!r} names no blob: give up to {_LONGEST} of A-Z, a-z, 0-9, '.', '_' and '-', in parts between '/', "
            "none of which begins with '.'"
        )
    return key


def _publish(arriving: Path, path: Path) -> bool:
    """Give a whole file its name, unless another has it."""
    try:
        os.link(arriving, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _UNLINKABLE or path.exists():
            raise
        arriving.rename(path)
    return True


def _make(folder: Path) -> None:
    """Make a folder and what it is in, so that all of it is on the disk."""
    for one in reversed(list(_missing(folder))):
        one.mkdir(exist_ok=True)
        _sync(one.parent)


def _missing(folder: Path) -> Iterator[Path]:
    while not folder.is_dir():
        yield folder
        folder = folder.parent


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
