"""What happens to jobs: their history by the page and as a stream, and how far all are, over real sockets."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from backend.tests.integration._asgi import AsgiServer
from backend.tests.integration.api._jobs import OPERATE, OTHER, ROWS, JobsApi, Shop
from backend.tests.integration.api._service import Stream
from holdfast.api.internal.jobs.app import PREFIX

Serve = Callable[[Any], AsgiServer]
HEADERS = {"Authorization": f"Bearer {OPERATE}"}


def kinds(stream: Stream) -> list[tuple[str, str]]:
    return [(one.kind, one.data["state"]) for one in stream.events]


def numbers(stream: Stream) -> list[int]:
    return [one.id for one in stream.events]


@pytest.fixture
def url(shop: Shop, asgi: Serve) -> str:
    """Give the address of the shop's API on a real server."""
    return f"{asgi(shop.app).url}{PREFIX}"


def test_a_history_comes_by_the_page(ann: JobsApi, shop: Shop) -> None:
    """Events have numbers from 1 without a gap; `after`, `limit` and `kind` choose a part."""
    job = shop.submit().id
    shop.run(job)
    page = ann.get(f"/jobs/{job}/events", limit=2).json()
    rest = ann.get(f"/jobs/{job}/events", after=page["next"]).json()
    every = page["items"] + rest["items"]
    assert list(range(1, len(every) + 1)) == [one["seq"] for one in every]
    assert (every[0]["kind"], every[0]["state"]) == ("job", "pending")
    assert (every[-1]["kind"], every[-1]["state"]) == ("job", "succeeded")
    assert rest["next"] is None
    ours = ann.get(f"/jobs/{job}/events", kind="job").json()["items"]
    assert [one["state"] for one in ours] == ["pending", "running", "succeeded"]


def test_a_job_is_followed_until_it_ends(shop: Shop, url: str) -> None:
    """A stream gives what there is, then what comes, and ends with the job; asked again, there is nothing more: 204."""
    job = shop.submit().id
    with Stream(f"{url}/jobs/{job}/events/stream", HEADERS) as stream:
        stream.wait_for(1)
        shop.run(job)
        assert stream.wait(lambda one: one.ended)
    assert list(range(1, len(stream.events) + 1)) == numbers(stream)
    assert kinds(stream)[-1] == ("job", "succeeded")
    last = {**HEADERS, "Last-Event-ID": str(stream.events[-1].id)}
    assert httpx.get(f"{url}/jobs/{job}/events/stream", headers=last).status_code == 204


def test_what_was_missed_is_replayed(shop: Shop, url: str) -> None:
    """`Last-Event-ID`, or `after`, is where a stream goes on: nothing twice, nothing left out."""
    job = shop.submit().id
    shop.jobs().pause(job)
    with Stream(f"{url}/jobs/{job}/events/stream", HEADERS) as stream:
        assert [one.id for one in stream.wait_for(2)] == [1, 2]
    shop.jobs().resume(job, execute=False)
    for where in ({"headers": {**HEADERS, "Last-Event-ID": "2"}}, {"headers": HEADERS, "query": "?after=2"}):
        address = f"{url}/jobs/{job}/events/stream{where.get('query', '')}"
        with Stream(address, where["headers"]) as stream:  # type: ignore[arg-type]
            [event] = stream.wait_for(1)
        assert (event.id, event.data["state"]) == (3, "pending")


def test_a_stream_of_another_tenants_job_is_not_there(shop: Shop, url: str) -> None:
    """A job of another tenant cannot be followed."""
    job = shop.submit().id
    headers = {"Authorization": f"Bearer {OTHER}"}
    assert httpx.get(f"{url}/jobs/{job}/events/stream", headers=headers).status_code == 404


def test_how_far_jobs_are_is_followed(shop: Shop, url: str) -> None:
    """The stream begins with every job as it is, then tells each one that changes, to its end, and new ones."""
    old, job = shop.submit(name="old"), shop.submit(name="now")
    shop.submit(tenant="other", name="theirs")
    shop.run(old)
    with Stream(f"{url}/progress", HEADERS) as stream:
        first = stream.wait_for(2)
        assert {("old", "succeeded", 100.0), ("now", "pending", 0.0)} == {
            (one.data["name"], one.data["state"], one.data["percent"]) for one in first
        }
        shop.run(job)
        assert stream.wait(
            lambda one: (
                [event.data["state"] for event in one.events if event.data["id"] == job.id][-1] == "succeeded"
            )
        )
        new = shop.submit(name="new")
        assert stream.wait(lambda one: one.events[-1].data["id"] == new.id)
    assert {"progress"} == {one.kind for one in stream.events}
    assert "theirs" not in {one.data["name"] for one in stream.events}
    assert list(range(1, len(stream.events) + 1)) == numbers(stream)


def test_a_job_that_is_deleted_is_told_to_be_gone(shop: Shop, url: str) -> None:
    """A job that is archived meanwhile is told as `gone`."""
    job = shop.submit(ROWS)
    shop.run(job)
    with Stream(f"{url}/progress", HEADERS) as stream:
        stream.wait_for(1)
        shop.stores["default"].delete_job(job.id)
        [_, gone] = stream.wait_for(2)
    assert ("gone", {"id": job.id}) == (gone.kind, gone.data)
