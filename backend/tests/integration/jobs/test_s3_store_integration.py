"""Blobs in S3 over HTTP: one writer wins, lost answers, pages, throttling, addresses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import count
from typing import Any
from urllib.request import urlopen

import pytest

from backend.tests.integration._moto import answer, client
from holdfast.infrastructure.resilience.errors import HoldfastError
from holdfast.infrastructure.store.s3 import S3BlobStore
from holdfast.infrastructure.store.state import StoreUnavailableError
from holdfast.testing.clock import VirtualClock

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
Hook = Callable[..., Any]
On = Callable[[str, Hook], AbstractContextManager[None]]


def test_of_many_writers_one_wins(bucket: S3BlobStore) -> None:
    """Eight threads put eight things under one key: one hears that it was stored, and that is what lies there."""

    def put(mine: int) -> bool:
        return bucket.put("raced", str(mine).encode())

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(put, range(8)))
    assert said.count(True) == 1
    assert bucket.get("raced") == str(said.index(True)).encode()


@pytest.mark.parametrize("first", [True, False])
def test_a_lost_answer_is_asked_for_again(
    bucket: S3BlobStore, bucket_hook: On, virtual_clock: VirtualClock, *, first: bool
) -> None:
    """Who stored a blob hears so although the answer was lost; who did not, does not, though the bytes are the same."""
    if not first:
        bucket.put("key", b"same")
    lose = iter([True])

    def lost(**_: Any) -> None:
        if next(lose, False):
            raise ConnectionError("lost")

    with bucket_hook("after-call.s3.PutObject", lost):
        assert bucket.put("key", b"same") is first
    assert bucket.get("key") == b"same"


def test_keys_come_page_by_page(bucket_tenants: Callable[[str], S3BlobStore], bucket_hook: On) -> None:
    """All that begin with a prefix, in order, of this tenant, in as many requests as it takes."""
    bucket = bucket_tenants("default")
    for key in ("b/2", "a/1", "b/1", "b/3", "ba"):
        bucket.put(key, b"")
    requests = count()

    def two(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 2
        next(requests)

    with bucket_hook("provide-client-params.s3.ListObjectsV2", two):
        assert list(bucket.keys("b/")) == ["b/1", "b/2", "b/3"]
        assert next(requests) == 2
        assert list(bucket.keys()) == ["a/1", "b/1", "b/2", "b/3", "ba"]
    assert list(bucket_tenants("other").keys()) == []


def test_an_address_leads_to_the_bytes(bucket: S3BlobStore) -> None:
    """Signed, for as many seconds as were asked, a week at most; anybody can read it over HTTP."""
    bucket.put("runs/1/done", b"summary")
    address = bucket.presign("runs/1/done", 10**9) or ""
    assert "X-Amz-Expires=604800" in address
    with urlopen(address) as response:
        assert response.read() == b"summary"


def test_throttling_is_waited_out(bucket: S3BlobStore, bucket_hook: On, virtual_clock: VirtualClock) -> None:
    """Two refusals are retried after a backoff, by our own policy."""
    refusals = iter([503, 503])

    def refuse(request: Any, **_: Any) -> Any:
        status = next(refusals, None)
        return None if status is None else answer(request, status, SLOW_DOWN)

    with bucket_hook("before-send.s3.PutObject", refuse):
        assert bucket.put("key", b"data") is True
    assert virtual_clock.elapsed > 0


def test_a_lasting_outage_ends_with_the_budget(
    bucket: S3BlobStore, bucket_hook: On, virtual_clock: VirtualClock
) -> None:
    """Each call gives up with an error of ours, and together they send little more than once each."""
    sent = count()

    def refuse(request: Any, **_: Any) -> Any:
        next(sent)
        return answer(request, 503, SLOW_DOWN)

    with bucket_hook("before-send.s3.GetObject", refuse):
        for _ in range(300):
            with pytest.raises(StoreUnavailableError, match="SlowDown"):
                bucket.get("key")
    assert next(sent) < 300 + 110


def test_a_bucket_that_is_not_there_is_told(aws_address: str) -> None:
    """As an error that says which, and that trying again does not help."""
    store = S3BlobStore("nowhere-at-all", client=client("s3", aws_address))
    with pytest.raises(HoldfastError, match=r"bucket 'nowhere-at-all'.*look at its name"):
        store.put("key", b"")
