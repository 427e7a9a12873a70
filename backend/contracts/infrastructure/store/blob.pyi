"""Logs and large results, apart from the rows that name them: `BlobStore`, in a folder or in memory."""

from pathlib import Path
from typing import Protocol

class BlobStore(Protocol):
    """Bytes under keys such as `job-7/step-3.log`, written once. Safe to share between threads and processes.

    A key is up to 500 letters, digits, `.`, `_` and `-`, in parts between `/`, none of which begins with `.`; a tenant
    is named as for `open_store`. ValueError otherwise.
    """

    tenant: str
    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored. It is durable when this returns."""

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything."""

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return a URL that reads it, for `expires_in` seconds where that can be limited; None where there is none."""

class FolderBlobStore:
    """A folder of files, one for each key, in a subfolder for each tenant: whole and on the disk, or not there.

    ValueError unless a tenant's name is 1 to 48 of a-z, 0-9, - and _, the first a letter or digit.
    """

    tenant: str
    def __init__(self, folder: str | Path, tenant: str = "default") -> None: ...
    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored. It is durable when this returns."""

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything."""

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return the file's URL, which whoever may read the folder can use at any time."""

class MemoryBlobStore:
    """Blobs of this process, gone with it. ValueError unless a tenant is named as `FolderBlobStore` takes it."""

    tenant: str
    def __init__(self, tenant: str = "default") -> None: ...
    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored."""

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything."""

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return None: nobody else can read this memory."""
