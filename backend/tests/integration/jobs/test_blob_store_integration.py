"""Blobs in a folder and in memory: written once, whole or not at all, apart from other tenants'."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.infrastructure.store.blob import BlobStore, FolderBlobStore, MemoryBlobStore
from holdfast.infrastructure.store.sql import create_tenant
from holdfast.infrastructure.store.state import NotFoundError

KEY = "job-7/step-3.log"
PUT = """
import sys
from holdfast.infrastructure.store.blob import FolderBlobStore
letter = sys.argv[2]
print(FolderBlobStore(sys.argv[1]).put("raced", letter.encode() * 1_000_000))
"""


def put_by_process(folder: Path, letter: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PUT, str(folder), letter],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=60,
        check=False,
    )


@pytest.mark.foundation
def test_a_blob_is_written_once(blobs: BlobStore) -> None:
    """The first one stays; whoever comes later is told."""
    assert (blobs.exists(KEY), blobs.put(KEY, b"first"), blobs.put(KEY, b"second")) == (False, True, False)
    assert (blobs.exists(KEY), blobs.get(KEY)) == (True, b"first")


def test_what_was_deleted_can_be_written_again(blobs: BlobStore) -> None:
    """Deleting says whether there was anything."""
    blobs.put(KEY, b"first")
    assert (blobs.delete(KEY), blobs.delete(KEY), blobs.exists(KEY)) == (True, False, False)
    assert blobs.put(KEY, b"") is True
    assert blobs.get(KEY) == b""


def test_what_is_not_there_is_an_error_that_names_it(blobs: BlobStore) -> None:
    """By kind, key and tenant; a part of a key is no blob."""
    blobs.put(KEY, b"first")
    for missing in ("job-8/step-3.log", "job-7", f"{KEY}/deeper"):
        with pytest.raises(NotFoundError) as caught:
            blobs.get(missing)
        assert (caught.value.kind, caught.value.which, caught.value.tenant) == ("blob", missing, "default")


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a b", "ä", "a" * 501]
)
def test_a_key_that_could_lead_elsewhere_is_refused(blobs: BlobStore, key: str) -> None:
    """Before anything is touched, with the rule in the message."""
    with pytest.raises(ValueError, match="names no blob"):
        blobs.put(key, b"")
    with pytest.raises(ValueError, match="names no blob"):
        blobs.exists(key)


def test_tenants_do_not_see_each_others_blobs(tenant_blobs: Callable[[str], BlobStore]) -> None:
    """The same key is another blob."""
    one, two = tenant_blobs("one"), tenant_blobs("two")
    assert (one.put(KEY, b"one"), two.put(KEY, b"two")) == (True, True)
    assert (one.get(KEY), two.get(KEY)) == (b"one", b"two")
    assert (one.tenant, two.tenant) == ("one", "two")


@pytest.mark.parametrize("tenant", ["", "../one", "one/two", ".one", "-one", "One", "ö", "one\n", "o" * 49])
def test_a_tenant_is_named_as_in_the_store_of_jobs(
    tenant_blobs: Callable[[str], BlobStore], sqlite_url: str, tenant: str
) -> None:
    """Another name could lead to another's blobs: it is refused, in the same words."""
    with pytest.raises(ValueError, match="give 1 to 48 of a-z") as elsewhere:
        create_tenant(sqlite_url, tenant)
    with pytest.raises(ValueError, match="give 1 to 48 of a-z") as here:
        tenant_blobs(tenant)
    assert str(here.value) == str(elsewhere.value)


def test_only_a_folder_gives_addresses(tmp_path: Path) -> None:
    """The address of a file leads to its bytes; memory has none."""
    folder = FolderBlobStore(tmp_path)
    folder.put(KEY, b"first")
    address = folder.presign(KEY)
    assert address is not None
    assert Path(address.removeprefix("file://")).read_bytes() == b"first"
    assert MemoryBlobStore().presign(KEY) is None


def test_processes_that_write_the_same_blob_write_one(tmp_path: Path) -> None:
    """Of four at once one stores its own, whole; the others are told."""

    def put(letter: str) -> str:
        return put_by_process(tmp_path, letter).stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(put, "abcd"))
    assert sorted(said) == ["False", "False", "False", "True"]
    winner = "abcd"[said.index("True")]
    assert FolderBlobStore(tmp_path).get("raced") == winner.encode() * 1_000_000


@pytest.mark.parametrize(("point", "there"), [("before_rename", False), ("after_rename", True)])
def test_a_killed_writer_leaves_all_or_nothing(tmp_path: Path, point: str, *, there: bool) -> None:
    """Before its name is given a blob is not there, afterwards it is whole; in both cases others go on."""
    died = put_by_process(tmp_path, "a", HOLDFAST_KILL_AT=f"blob.put.{point}")
    assert died.returncode == -signal.SIGKILL
    blobs = FolderBlobStore(tmp_path)
    assert blobs.exists("raced") is there
    assert blobs.put("raced", b"b") is not there
    assert blobs.get("raced") == (b"a" * 1_000_000 if there else b"b")
