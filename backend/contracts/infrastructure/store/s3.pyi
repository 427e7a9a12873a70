"""Blobs in Amazon S3 (extra `aws`): objects of one bucket, written once, apart by tenant."""

from collections.abc import Iterator
from typing import Any

from holdfast.infrastructure.resilience.retry import Retry

class S3BlobStore:
    """Objects of a bucket below `prefix`, in a folder for each tenant. Threads and processes may share the bucket.

    `client` is boto3's, by default made from the environment. `retry` replaces six attempts under the AWS SDKs' budget.
    The role needs GetObject, PutObject and DeleteObject below the prefix, and ListBucket, without which a missing
    object cannot be told from a forbidden one. ValueError unless a tenant is named as `FolderBlobStore` takes it.
    """

    tenant: str
    def __init__(
        self,
        bucket: str,
        tenant: str = "default",
        *,
        prefix: str = "",
        client: Any = None,
        retry: Retry | None = None,
    ) -> None: ...
    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored. It is durable when this returns.

        Each call marks its object, so that one whose answer was lost still knows whether it was the first.
        """

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything: of two at once, both may hear yes."""

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return a URL that reads it for `expires_in` seconds, a week and as long as our own rights last at most."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with `prefix`, in order, page by page."""
