"""Runs × workers over HTTP: orders leave by POST, code and results travel by signed addresses, on real sockets."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from backend.tests.integration.orchestration._http import KEY, SECRET, Remote, listening, serving, worker
from backend.tests.integration.orchestration._yard import order, request, wait_until
from holdfast import CircuitBreaker, Window
from holdfast.api.internal.runs.app import create_blob_router
from holdfast.infrastructure.resilience.errors import HttpFailed
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.store.blob import BlobStore, MemoryBlobStore
from holdfast.infrastructure.store.state import StepState
from holdfast.services.jobs.graphs.http import HttpTarget, SignedUrls, UrlBlobs
from holdfast.services.jobs.graphs.ports import Work

S = StepState


def test_a_run_is_executed_elsewhere(remote: Remote) -> None:
    """Code arrives, order by order; results and output come back; a failure is one."""
    run = remote.submit(
        order("a", commands=["sh run.sh; ls deep"]),
        order("b", "a", commands=["exit 3"], must_succeed=False),
        *(order(f"c{one}", "b") for one in range(5)),
    )
    remote.machine.pump(run)
    done = remote.yard.done(run)
    assert (done["status"], done["counts"]) == ("succeeded", {"failed": 1, "succeeded": 6})
    assert remote.yard.runs.log(run, "a") == b"ran\ndata.bin\n"
    assert done["orders"]["b"]["error"] == "command 1 ended with exit code 3"


def test_an_order_elsewhere_is_cancelled(remote: Remote, tmp_path: Path) -> None:
    """The worker kills it and says so."""
    mark = tmp_path / "mark"
    run = remote.submit(order("a", commands=[f"touch {mark}; sleep 600"], timeout=600))
    remote.yard.runs.evaluate(run)
    wait_until(mark.exists)
    remote.yard.runs.cancel(run)
    remote.machine.pump(run)
    assert remote.yard.done(run)["orders"]["a"]["error"] == "it was cancelled"


def test_a_worker_that_dies_holds_up_nobody_for_ever(remote: Remote, tmp_path: Path) -> None:
    """The watchdog ends its order; one that nobody takes fails with what went wrong."""
    mark = tmp_path / "mark"
    run = remote.submit(
        order("a", commands=[f"touch {mark}; sleep 600"], timeout=1.0), order("b", "a", must_succeed=False)
    )
    remote.yard.runs.evaluate(run)
    wait_until(mark.exists)
    remote.worker.kill()
    remote.worker.wait()
    again = remote.submit(order("a"))
    remote.machine.pump(run, again)
    assert remote.yard.states(run) == {"a": S.TIMED_OUT, "b": S.FAILED}
    assert "target local did not take it" in remote.yard.store.step(again, "a").error


def test_an_open_breaker_is_no_room(remote: Remote) -> None:
    """Who comes while it is open waits, reserved, and starts when there is a worker again; nobody fails for it."""
    breaker = CircuitBreaker(window=Window.consecutive(1), open_for=60.0)
    target = HttpTarget(remote.target.url, remote.urls, token=KEY, policy=breaker)
    runs = remote.yard.again(targets={"local": target}, listener=remote.machine)
    breaker.open()
    run = runs.submit(request(order("a"), order("b", "a"))).run_id
    runs.evaluate(run)
    assert [(one.state, one.reserved) for one in runs.status(run).orders] == [
        (S.RUNNING, True),
        (S.PENDING, False),
    ]
    breaker.reset()
    remote.yard.runs = runs
    remote.machine.pump(run)
    target.close()
    assert remote.yard.done(run)["status"] == "succeeded"


def test_an_order_that_is_posted_twice_starts_once(remote: Remote, tmp_path: Path) -> None:
    """As after a crash, or when an answer was lost: to the same worker while it runs, and to another."""
    mark = tmp_path / "mark"
    gate = tmp_path / "gate"
    command = f"echo + >> {mark}; while ! test -e {gate}; do sleep 0.05; done"
    run = remote.submit(order("a", commands=[command]))
    remote.yard.runs.evaluate(run)
    wait_until(mark.exists)
    remote.yard.runs.resume()
    with worker() as (url, _):
        other = HttpTarget(url, remote.urls, token=KEY)
        remote.yard.again(targets={"local": other}).resume()
        other.close()
        gate.touch()
        remote.machine.pump(run)
    assert mark.read_text(encoding="utf-8") == "+\n"
    assert remote.yard.done(run)["status"] == "succeeded"


def test_a_stranger_gives_a_worker_nothing(remote: Remote) -> None:
    """Without its key an order is not taken."""
    target = HttpTarget(remote.target.url, remote.urls, token="wrong")
    keys = {name: f"a/{name}" for name in ("archive", "started", "result", "log")}
    with pytest.raises(HttpFailed, match="answered 401"):
        target.dispatch(Work(run="r", order="o", number=1, target="local", timeout=1.0, **keys))
    target.close()


@contextmanager
def signed(blobs: BlobStore) -> Generator[SignedUrls]:
    """Serve blobs under signed addresses."""
    listener, base = listening()
    urls = SignedUrls(f"{base}/blobs", SECRET)
    app = FastAPI()
    app.include_router(create_blob_router(blobs, urls), prefix="/blobs")
    with serving(app, listener):
        yield urls


def test_an_address_does_one_thing_once(tmp_path: Path) -> None:
    """It reads or writes its own blob; other bytes, methods, blobs, forgeries and times are refused."""
    with signed(MemoryBlobStore()) as urls:
        put, get = urls.url("PUT", "a/b", 60), urls.url("GET", "a/b", 60)
        base = get.rpartition("/")[0]
        with httpx.Client() as client:
            assert client.get(get).status_code == 404
            assert client.put(put, content=b"x").status_code == 201
            assert client.put(put, content=b"x").status_code == 200
            assert client.put(put, content=b"y").status_code == 412
            assert client.get(get).content == b"x"
            assert client.get(put).json()["detail"] == "The address is for PUT, not for GET."
            assert client.put(get, content=b"y").status_code == 403
            late = client.get(urls.url("GET", "a/b", -1))
            assert (late.status_code, late.json()["detail"]) == (403, "The address has expired.")
            for forged in (
                SignedUrls(base, b"another secret of tests").url("GET", "a/b", 60),
                get[:-2],
                f"{base}/x",
            ):
                assert client.get(forged).json()["detail"] == "The address is not one of ours."
            posted = client.post(put)
            assert (posted.status_code, posted.headers["allow"]) == (405, "GET, PUT")


def test_blobs_over_addresses_are_those_behind_them() -> None:
    """A worker's `put` is true once, also when an answer was lost, `get` finds what is there."""
    with signed(MemoryBlobStore()) as urls:
        far = UrlBlobs(policy=Retry(1))
        put, get = urls.url("PUT", "a", 60), urls.url("GET", "a", 60)
        assert not far.exists(get)
        assert far.put(put, b"1")
        assert far.put(put, b"1")
        assert not far.put(put, b"2")
        assert (far.get(get), far.exists(get), far.presign(get)) == (b"1", True, get)
        far.close()


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    """It says how long it must be."""
    with pytest.raises(ValueError, match="has 3 bytes; give 16 at least"):
        SignedUrls("http://localhost", b"abc")
