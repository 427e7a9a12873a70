"""Blobs in Amazon S3 (extra `aws`): objects of one bucket, written once, apart by tenant."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.store import _aws
from holdfast.infrastructure.store._tenants import checked_tenant
from holdfast.infrastructure.store.blob import _checked
from holdfast.infrastructure.store.state import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.infrastructure.resilience.retry import Retry

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_TAKEN = frozenset({"412", "PreconditionFailed"})
_MARK = "holdfast-put"
# What Signature Version 4 allows.
_LONGEST_ADDRESS = 7 * 86_400


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
    ) -> None:
        self.tenant = checked_tenant(tenant)
        self._bucket, self._folder = bucket, f"{prefix}{tenant}/"
        given = _aws.client("s3") if client is None else client
        self._s3 = _aws.Service(given, f"bucket {bucket!r}", retry)

    def put(self, key: str, data: bytes) -> bool:
        """Store `data` unless the key is taken; return whether it was stored. It is durable when this returns.

        Each call marks its object, so that one whose answer was lost still knows whether it was the first.
        """
        mark, tries = f"{current_random().getrandbits(128):032x}", count(1)
        path, data, last = self._path(key), bytes(data), 0

        def attempt() -> None:
            nonlocal last
            last = next(tries)
            self._s3.client.put_object(
                Bucket=self._bucket, Key=path, Body=data, IfNoneMatch="*", Metadata={_MARK: mark}
            )

        try:
            self._s3.run(attempt)
        except Exception as error:
            if _aws.error_code(error) not in _TAKEN:
                raise
            return last > 1 and self._mark(key) == mark
        return True

    def get(self, key: str) -> bytes:
        """Return what is stored. NotFoundError."""
        path = self._path(key)

        def attempt() -> bytes:
            found: bytes = self._s3.client.get_object(Bucket=self._bucket, Key=path)["Body"].read()
            return found

        try:
            return self._s3.run(attempt)
        except Exception as error:
            if _aws.error_code(error) in _MISSING:
                raise NotFoundError("blob", key, self.tenant) from None
            raise

    def exists(self, key: str) -> bool:
        """Return whether there is anything under a key."""
        return self._mark(key) is not None

    def delete(self, key: str) -> bool:
        """Remove what is stored; return whether there was anything: of two at once, both may hear yes."""
        there = self.exists(key)
        if there:
            self._s3.call("delete_object", Bucket=self._bucket, Key=self._path(key))
        return there

    def presign(self, key: str, expires_in: float = 3600.0) -> str | None:
        """Return a URL that reads it for `expires_in` seconds, a week and as long as our own rights last at most."""
        seconds = max(1, min(int(expires_in), _LONGEST_ADDRESS))
        what = {"Bucket": self._bucket, "Key": self._path(key)}
        address: str = self._s3.client.generate_presigned_url("get_object", Params=what, ExpiresIn=seconds)
        return address

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with `prefix`, in order, page by page."""
        request: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._folder + prefix}
        while True:
            page = self._s3.call("list_objects_v2", **request)
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(self._folder)
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _mark(self, key: str) -> str | None:
        """Return the mark of what is stored, "" if another program stored it, None if there is nothing."""
        try:
            head = self._s3.call("head_object", Bucket=self._bucket, Key=self._path(key))
        except Exception as error:
            if _aws.error_code(error) in _MISSING:
                return None
            raise
        return str(head.get("Metadata", {}).get(_MARK, ""))

    def _path(self, key: str) -> str:
        return self._folder + _checked(key)
