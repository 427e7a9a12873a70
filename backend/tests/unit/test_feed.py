"""The feed: numbers, the ring, what entries are made of, and followers of every kind."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.infrastructure.resilience._bus import bus, emit
from holdfast.infrastructure.resilience.errors import ConfigurationError
from holdfast.infrastructure.telemetry.feed import GAP, Feed, FeedEntry
from holdfast.testing import VirtualClock


@pytest.fixture
def feed() -> Iterator[Feed]:
    made = Feed(size=5)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_subscriber_is_left() -> Iterator[None]:
    before = bus.entries
    yield
    assert bus.entries == before


def publish(feed: Feed, count: int, *, kind: str = "Told") -> None:
    for _ in range(count):
        feed.publish(kind, "x", {})


def numbers(entries: list[FeedEntry]) -> list[int]:
    return [entry.number for entry in entries]


async def take(feed: Feed, count: int, *, after: int = 0) -> list[FeedEntry]:
    found: list[FeedEntry] = []
    async for entry in feed.follow(after):
        found.append(entry)
        if len(found) == count:
            break
    return found


def bells(feed: Feed) -> dict[Any, Any]:
    """Return the followers that wait, by event loop: nothing public tells."""
    found: dict[Any, Any] = vars(feed)["_bells"]
    return found


def hanging(feed: Feed) -> int:
    return sum(len(bell.waiting) for bell in bells(feed).values())


async def until_hanging(feed: Feed, count: int) -> None:
    for _ in range(1000):
        if hanging(feed) == count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{hanging(feed)} wait, not {count}")


def test_an_event_becomes_an_entry(feed: Feed, virtual_clock: VirtualClock) -> None:
    """An entry has the next number, the Unix time, the event's class name, its name and its other fields."""
    virtual_clock.advance(5)
    emit("RetryScheduled", "payments", attempt=2, delay=0.5, error=ConnectionError("refused"))
    emit("CircuitClosed", "payments")

    assert [entry.as_dict() for entry in feed.since(0)] == [
        {
            "number": 1,
            "at": virtual_clock.time(),
            "kind": "RetryScheduled",
            "name": "payments",
            "fields": {
                "attempt": 2,
                "delay": 0.5,
                "error": {"type": "ConnectionError", "message": "refused"},
            },
        },
        {
            "number": 2,
            "at": virtual_clock.time(),
            "kind": "CircuitClosed",
            "name": "payments",
            "fields": {},
        },
    ]
    assert feed.last == 2


def test_an_entry_of_ones_own_is_returned(feed: Feed) -> None:
    """`publish` returns the entry that it added, number included."""
    publish(feed, 2)
    entry = feed.publish("ConfigurationChanged", "live", {"actor": "ann", "changed": {"a": [1, 2]}})

    assert (entry.number, entry.kind, entry.name) == (3, "ConfigurationChanged", "live")
    assert entry.fields == {"actor": "ann", "changed": {"a": [1, 2]}}
    assert feed.since(2) == [entry]


def test_the_oldest_are_forgotten(feed: Feed) -> None:
    """The feed keeps `size` entries; numbers go on, and what is asked for and no longer kept is missing."""
    publish(feed, 12)

    assert numbers(feed.since(0)) == [8, 9, 10, 11, 12]
    assert numbers(feed.since(9)) == [10, 11, 12]
    assert numbers(feed.since(0, limit=2)) == [8, 9]
    assert feed.since(12) == feed.since(99) == feed.since(0, limit=0) == []
    assert numbers(feed.since(-7)) == [8, 9, 10, 11, 12]


def test_what_is_overwritten_while_it_is_read_is_missing(feed: Feed) -> None:
    """A reader that is overtaken by publishers never takes a newer entry for an older one."""
    inside: Any = feed
    publish(feed, 5)
    reading = inside._lines(0, 5)  # noqa: SLF001  # nothing public stops there
    assert next(reading).number == 1
    publish(feed, 2)

    assert [line.number for line in reading] == [3, 4, 5]


def test_a_reader_cannot_change_an_entry_for_others(feed: Feed) -> None:
    """Every reader gets fields of its own."""
    feed.publish("Told", "x", {"a": 1})
    dict.clear(feed.since(0)[0].fields)  # type: ignore[arg-type]

    assert feed.since(0)[0].fields == {"a": 1}


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("x" * 201, "x" * 199 + "…"),
        ("x" * 200, "x" * 200),
        ("\ud800", "?"),
        ("größer", "größer"),
        (float("inf"), None),
        (float("nan"), None),
        (True, True),
        (None, None),
        (2**63 - 1, 2**63 - 1),
        (2**63, "beyond 64 bits"),
        (10**5000, "beyond 64 bits"),
        (Unprintable(), {"type": "Unprintable", "message": "<unprintable Unprintable>"}),
        (ValueError("x" * 500), {"type": "ValueError", "message": "x" * 199 + "…"}),
        ((1, [2.5, float("inf")], {"a"}), [1, [2.5, None], ["a"]]),
        ({1: {"inner": ValueError("v")}}, {"1": {"inner": {"type": "ValueError", "message": "v"}}}),
        (range(3), "range(0, 3)"),
        (list(range(60)), list(range(50))),
    ],
    ids=lambda one: repr(one)[:20] if not isinstance(one, int) else "",
)
def test_values_are_small_and_json_able(feed: Feed, given: Any, expected: Any) -> None:
    """Text is cut at 200 characters, errors are type and message, what JSON cannot say is text or None."""
    entry = feed.publish("Told", "x", {"value": given})

    assert entry.fields == {"value": expected}
    assert len(json.dumps(entry.as_dict(), allow_nan=False, ensure_ascii=False).encode()) < 20_000


def test_depth_is_bounded(feed: Feed) -> None:
    """Six levels below the fields' own are kept, cycles included."""
    endless: list[Any] = []
    endless.append(endless)

    assert feed.publish("Told", "x", {"a": endless}).fields == {"a": [[[[["…"]]]]]}


def test_an_entry_has_at_most_a_thousand_values(feed: Feed) -> None:
    """Wide and deep together are cut too: 50 lists of 50 would be 2,500 values."""
    entry = feed.publish("Told", "x", {"a": [[0] * 50] * 50})

    inside = [one for one in entry.fields["a"] if one != "…"]
    assert 900 < sum(map(len, inside)) < 1000


def test_an_error_is_not_kept_alive(feed: Feed) -> None:
    """An entry holds the text of an error, not the error with its traceback."""
    error = Unprintable()
    gone = weakref.ref(error)
    emit("StorageFailed", "x", error=error)
    del error
    gc.collect()

    assert feed.last == 1
    assert gone() is None


def test_fields_that_are_no_mapping_do_not_raise(feed: Feed) -> None:
    """Publishing never raises, whatever it is given."""
    wrong: Any = 7
    assert feed.publish(wrong, wrong, wrong).as_dict() | {"at": 0} == {
        "number": 1,
        "at": 0,
        "kind": "7",
        "name": "7",
        "fields": {"value": 7},
    }


@pytest.mark.parametrize("size", [0, -1, 1.5, "many", True, 1_000_001])
def test_a_size_has_a_range(size: Any) -> None:
    """The size is a whole number from 1 to 1,000,000."""
    with pytest.raises(ConfigurationError, match="size"):
        Feed(size=size)


def test_a_closed_feed_hears_nothing(feed: Feed) -> None:
    """After `close` events are not even made for it; what is kept stays."""
    emit("CircuitClosed", "x")
    feed.close()
    feed.close()
    emit("CircuitClosed", "x")

    assert numbers(feed.since(0)) == [1]


def test_threads_share_the_numbers() -> None:
    """Threads that publish at once leave no gap and no double, and each one's entries stay in order."""
    feed = Feed(size=8000)
    start = threading.Barrier(4)

    def work(name: str) -> None:
        start.wait()
        for at in range(2000):
            feed.publish("Told", name, {"at": at})

    threads = [threading.Thread(target=work, args=(str(one),)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    feed.close()
    entries = feed.since(0, limit=10_000)

    assert numbers(entries) == list(range(1, 8001))
    for name in "0123":
        assert [entry.fields["at"] for entry in entries if entry.name == name] == list(range(2000))


def test_publishing_within_publishing_is_no_deadlock(feed: Feed) -> None:
    """What the garbage collector or a signal runs while the lock is held may publish as well."""
    with vars(feed)["_lock"]:
        emit("CircuitClosed", "x")

    assert feed.last == 1


def test_a_follower_gets_history_and_then_what_comes(feed: Feed) -> None:
    """`follow` begins after the number it is given and goes on with each new entry."""
    publish(feed, 3)

    async def main() -> list[FeedEntry]:
        follower = asyncio.create_task(take(feed, 4, after=1))
        await until_hanging(feed, 1)
        publish(feed, 1)
        await until_hanging(feed, 1)
        publish(feed, 2)
        return await follower

    assert numbers(asyncio.run(main())) == [2, 3, 4, 5]
    assert hanging(feed) == 0


def test_many_loops_follow_at_once() -> None:
    """Followers on loops in several threads all get every entry that other threads publish, in order."""
    feed = Feed(size=4000)
    found: list[list[int]] = []
    ready = threading.Barrier(4)

    def follow() -> None:
        async def main() -> None:
            tasks = [asyncio.create_task(take(feed, 2000)) for _ in range(3)]
            await asyncio.sleep(0)
            ready.wait()
            found.extend(numbers(entries) for entries in await asyncio.gather(*tasks))

        asyncio.run(main())

    def work() -> None:
        ready.wait()
        publish(feed, 1000)

    threads = [threading.Thread(target=one) for one in (follow, follow, work, work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    feed.close()

    assert found == [list(range(1, 2001))] * 6
    assert bells(feed) == {}


def test_a_loop_is_woken_once_for_all_its_followers(feed: Feed) -> None:
    """However many followers wait on a loop, publishing wakes the loop once, and not again before they wait."""
    wakes: list[object] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe

        def counted(*args: Any) -> Any:
            wakes.append(args)
            return wake(*args)

        loop.call_soon_threadsafe = counted
        followers = [asyncio.create_task(take(feed, 3)) for _ in range(100)]
        await until_hanging(feed, 100)
        publish(feed, 3)
        assert [numbers(found) for found in await asyncio.gather(*followers)] == [[1, 2, 3]] * 100

    asyncio.run(main())
    assert len(wakes) == 1


def test_an_entry_between_looking_and_waiting_is_not_missed(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that found nothing, and is overtaken by a publisher before it waits, looks again."""
    inside: Any = feed
    hang = inside._hang  # noqa: SLF001  # nothing public stops there

    def overtaken(*args: Any) -> Any:
        publish(feed, 1)
        return hang(*args)

    monkeypatch.setattr(feed, "_hang", overtaken)
    entries = asyncio.run(asyncio.wait_for(take(feed, 1), 5.0))

    assert numbers(entries) == [1]


def test_a_slow_reader_loses_the_oldest_and_is_told(feed: Feed) -> None:
    """What was overwritten is one entry of kind `gap`, which counts it; after it the numbers go on."""
    publish(feed, 12)
    entries = asyncio.run(take(feed, 3, after=3))

    assert [(entry.number, entry.kind, entry.fields) for entry in entries] == [
        (7, GAP, {"lost": 4}),
        (8, "Told", {}),
        (9, "Told", {}),
    ]


def test_whoever_comes_back_with_the_number_of_a_gap_misses_nothing(feed: Feed) -> None:
    """A gap's number is that of the last entry lost, so that it serves to go on after."""
    publish(feed, 12)
    gap = asyncio.run(take(feed, 1, after=3))[0]

    assert numbers(asyncio.run(take(feed, 5, after=gap.number))) == [8, 9, 10, 11, 12]


def test_a_number_that_has_not_come_is_another_feeds(feed: Feed) -> None:
    """Who followed a feed before a restart gets all that the new one keeps, after a gap of unknown size."""
    publish(feed, 2)
    entries = asyncio.run(take(feed, 3, after=5000))

    assert [(entry.number, entry.kind, entry.fields) for entry in entries] == [
        (0, GAP, {"lost": None}),
        (1, "Told", {}),
        (2, "Told", {}),
    ]


def test_a_feed_says_when_it_was_born(virtual_clock: VirtualClock) -> None:
    """`born` is the Unix time at which it was made."""
    virtual_clock.advance(7)
    feed = Feed()
    feed.close()

    assert feed.born == virtual_clock.time()


def test_a_cancelled_wait_loses_nothing(feed: Feed) -> None:
    """A wait that is given up, as between two heartbeats, leaves nothing behind and may be asked for again."""

    async def main() -> list[int]:
        follower = feed.follow(0)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(follower), 0.001)
            assert bells(feed) == {}
        publish(feed, 2)
        return [(await anext(follower)).number, (await anext(follower)).number]

    assert asyncio.run(main()) == [1, 2]


def test_a_follower_that_is_dropped_leaves_nothing(feed: Feed) -> None:
    """Breaking off, or cancelling the task, leaves no task, no waiter and no wake-up behind."""
    publish(feed, 2)

    async def main() -> None:
        assert numbers(await take(feed, 1)) == [1]
        task = asyncio.create_task(take(feed, 9))
        await until_hanging(feed, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bells(feed) == {}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_closing_ends_every_follower(feed: Feed) -> None:
    """A follower gets what is still there, then its loop ends; one that begins later ends as well."""

    async def everything() -> list[int]:
        return [entry.number async for entry in feed.follow(0)]

    async def main() -> list[list[int]]:
        waiting = asyncio.create_task(everything())
        await until_hanging(feed, 1)
        publish(feed, 2)
        feed.close()
        return [await waiting, await everything()]

    assert asyncio.run(main()) == [[1, 2], [1, 2]]
    assert asyncio.run(everything()) == [1, 2]


def test_a_closed_loop_is_no_trouble(feed: Feed) -> None:
    """Publishing to a follower whose loop is closed neither raises nor keeps the loop."""
    loop = asyncio.new_event_loop()
    # Not a task, which would complain that it was never awaited: the loop is closed under the follower's feet.
    reading = take(feed, 1)
    loop.call_soon(reading.send, None)
    loop.run_until_complete(asyncio.sleep(0))
    assert hanging(feed) == 1
    loop.close()
    publish(feed, 1)

    assert feed.last == 1
    assert bells(feed) == {}
    reading.close()


def nobody(feed: Feed) -> None:
    """Read nothing."""


def somebody(feed: Feed) -> None:
    """Read the last 20 entries."""
    feed.since(feed.last - 20)


@pytest.mark.parametrize("read", [nobody, somebody])
def test_memory_does_not_grow_with_events(read: Callable[[Feed], object]) -> None:
    """After ten times its size a feed takes no more memory than after twice."""
    feed = Feed(size=500)
    error = ValueError("x" * 1000)

    def events(count: int) -> None:
        for at in range(count):
            emit("RetryScheduled", "x", attempt=at, delay=0.5 + at, error=error)
            read(feed)

    tracemalloc.start()
    try:
        events(1000)
        before = tracemalloc.get_traced_memory()[0]
        events(4000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        feed.close()
    assert grown < 20_000


FORK = """
import asyncio, os, threading
from holdfast.infrastructure.telemetry.feed import Feed

feed = Feed()
feed.publish("Told", "parent", {})

async def main():
    follower = asyncio.ensure_future(anext(feed.follow(1)))
    while not feed._bells:
        await asyncio.sleep(0)
    held, done = threading.Event(), threading.Event()

    def hold():
        with feed._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        os._exit(0 if feed.publish("Told", "child", {}).number == 2 and not feed._bells else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.set()
    thread.join()
    assert not follower.done()
    feed.publish("Told", "parent", {})
    assert (await follower).name == "parent"
    return code

code = asyncio.run(main())
feed.close()
raise SystemExit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_a_feed_of_its_own() -> None:
    """A child forked while a thread holds the lock publishes, and wakes nobody of its parent."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
