"""What only DynamoDB has: requests that are counted, limits of size, throttling, lost answers, many clocks."""

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any

import pytest

from backend.tests.integration._moto import answer, client, hooked
from backend.tests.integration.jobs._homes import DynamoHome
from backend.tests.integration.jobs._ledger import made, outcome, ref, step, worker
from holdfast.infrastructure.store.dynamodb import (
    DynamoStateStore,
    TooLargeError,
    UnsupportedError,
    create_table,
    open_dynamodb,
)
from holdfast.infrastructure.store.state import (
    JobState,
    LeaseLostError,
    NewJob,
    NewStep,
    NotFoundError,
    OutboxState,
    StateStore,
    StepState,
    StoreUnavailableError,
    SubmissionError,
    TenantNotFoundError,
)
from holdfast.testing.clock import VirtualClock

LARGE = 900_000
THROTTLED = b'{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", "message": "slow"}'


@pytest.fixture
def place(aws_address: str) -> Iterator[DynamoHome]:
    """Give an empty table, and a bucket beside it."""
    made_ = DynamoHome(aws_address)
    yield made_
    made_.close()


@pytest.fixture
def table(aws_address: str) -> str:
    """Give the name of an empty table."""
    name = f"own-{next(NUMBERS)}"
    create_table(name, client=client("dynamodb", aws_address))
    return name


NUMBERS = count()


@pytest.fixture
def requests(aws_address: str) -> Iterator[Counter[str]]:
    """Count the requests of this test's client, by operation."""
    told: Counter[str] = Counter()

    def tell(model: Any, **_: Any) -> None:
        told[model.name] += 1

    with hooked(client("dynamodb", aws_address), "before-call.dynamodb", tell):
        yield told


@pytest.fixture
def store(aws_address: str, table: str, virtual_clock: VirtualClock) -> DynamoStateStore:
    """Give an empty store on the virtual clock, whose requests can be heard, and which has no bucket."""
    return DynamoStateStore(table, client=client("dynamodb", aws_address), clock=virtual_clock)


@pytest.fixture
def hear(aws_address: str) -> Callable[..., Any]:
    """Give a function that lets another hear an event of the client."""
    return partial(hooked, client("dynamodb", aws_address))


def live(store: StateStore) -> None:
    """Do everything that a store can do, once."""
    store.create_batch("batch")
    store.create_job(
        NewJob(id="job", handler="ship", batch="batch", dedup_key="key", write_back=True, step_timeout=60.0),
        [step("a"), step("b", "a"), step("c")],
    )
    store.register(worker("w1"), 60.0)
    refs = [ref(one) for one in store.claim("w1", 10)]
    store.advance("w1", begin=refs[:1])
    store.advance("w1", [outcome(refs[0], result=b"1")])
    store.release("w1", refs[1:])
    store.settle_outbox([*store.outbox("job", states=[OutboxState.PENDING])])
    store.sweep()
    store.recover()
    lock = store.acquire("lock", "w1", 5.0)
    assert lock is not None
    store.mark_dirty("lock")
    store.clear_dirty(lock)
    store.unlock(lock)
    store.note("job", "seen", {})
    store.retire("w1")
    for look in (store.jobs, store.next_due, store.owing, store.workers):
        look()
    store.jobs(batch="batch", states=[JobState.PENDING])
    store.events("job")
    store.step("job", "a")
    store.wait(0.0)
    store.cancel_batch("batch")
    store.delete_job("job")


def test_nothing_is_ever_scanned(store: DynamoStateStore, requests: Counter[str]) -> None:
    """Whatever is done, what is wanted is asked for by its key."""
    live(store)
    assert requests["Scan"] == 0
    assert set(requests) == {
        *("GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"),
        "TransactWriteItems",
    }


def test_every_read_is_consistent(store: DynamoStateStore, hear: Callable[..., Any]) -> None:
    """A reader sees what was committed before it asked."""
    asked: list[Any] = []

    def tell(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name in {"GetItem", "Query"}:
            asked.append(params["ConsistentRead"])
        if model.name == "BatchGetItem":
            asked.extend(one["ConsistentRead"] for one in params["RequestItems"].values())

    with hear("provide-client-params.dynamodb", tell):
        live(store)
    assert len(asked) > 20
    assert all(asked)


def test_a_tenant_has_only_keys_of_its_own(store: DynamoStateStore, aws_address: str, table: str) -> None:
    """All that a store writes begins with its tenant's name; the same ids of another are others."""
    live(store)
    other = DynamoStateStore(table, "other", client=client("dynamodb", aws_address))
    with pytest.raises(NotFoundError):
        other.job("job")
    live(other)
    raw = client("dynamodb", aws_address).scan(TableName=table)["Items"]
    owners = Counter(item["p"]["S"].partition("/")[0] for item in raw)
    assert set(owners) == {"default", "other"}
    assert owners["default"] == owners["other"]


def test_a_tenant_is_created_on_purpose(place: DynamoHome) -> None:
    """One that was never created is an error, by its name."""
    with pytest.raises(TenantNotFoundError, match="acme"):
        open_dynamodb(place.url, tenant="acme")
    open_dynamodb(place.url, tenant="acme", create=True).close()
    assert open_dynamodb(place.url, tenant="acme").tenant == "acme"


@pytest.mark.parametrize(
    "url", ["dynamodb:", "dynamodb://", "sqlite:///x", "dynamodb://t?wrong=1", "dynamodb://t?frugal=1"]
)
def test_an_address_that_says_nothing_is_refused(url: str) -> None:
    """With what it may say."""
    with pytest.raises(ValueError, match=r"names no table|a table takes"):
        open_dynamodb(url)


def test_what_is_large_lies_in_the_bucket(place: DynamoHome) -> None:
    """Payload, result, error and history larger than an item come back equal, also from another process."""
    large = bytes(range(256)) * (LARGE // 256)
    said = "ä€" * (LARGE // 2)
    store = place.open()
    store.create_job(NewJob(id="job", handler="ship", write_back=True), [step("a"), step("b")])
    store.create_job(NewJob(id="big", handler="ship"), [NewStep(key="a", payload=large)])
    store.register(worker("w1"), 60.0)
    first, second = store.claim("w1", 2, job="job")
    store.advance("w1", begin=[ref(first), ref(second)])
    store.advance(
        "w1", [outcome(ref(first), result=large), outcome(ref(second), StepState.PENDING, error=said)]
    )
    for seen in (store, place.open()):
        assert seen.step("big", "a").payload == large
        assert seen.step("job", "a").result == large
        assert [one.result for one in seen.outbox("job")] == [large]
        assert seen.step("job", "b").error == said
        assert seen.step("job", "b").history[0].error == said
        [retried] = [one for one in seen.events("job") if one.state == "pending" and one.positions]
        assert retried.data["error"] == [said]


def test_what_is_large_is_refused_without_a_bucket(store: DynamoStateStore) -> None:
    """By its size, before anything has changed."""
    noise = b"".join(str(one).encode() for one in range(LARGE // 5))
    with pytest.raises(TooLargeError, match="bytes are more than DynamoDB takes"):
        store.create_job(NewJob(id="job", handler="ship"), [NewStep(key="a", payload=noise)])
    assert store.jobs() == []
    store.create_job(NewJob(id="job", handler="ship"), made(1))
    store.register(worker("w1"), 60.0)
    [claimed] = store.claim("w1", 1)
    before = store.job("job")
    with pytest.raises(TooLargeError):
        store.advance("w1", [outcome(ref(claimed), result=noise)])
    assert store.job("job") == before
    assert store.advance("w1", [outcome(ref(claimed), result=b"1")]).ended


def test_numbers_come_back_as_they_were(place: DynamoHome) -> None:
    """Decimals in settings, previews and notes are exact; times are the floats that they were."""
    exact = {"price": Decimal("0.10"), "most": Decimal("1E+100"), "share": 0.1, "count": 10**40}
    store = place.open()
    job, _ = store.create_job(NewJob(id="job", handler="ship", ready=False, settings=exact), made(1))
    store.preview_job("job", "digest", exact)
    store.note("job", "seen", exact)
    again = place.open()
    assert again.job("job").new.settings == exact
    assert again.job("job").preview == exact
    assert again.events("job")[-1].data == exact
    assert again.job("job").created_at == job.created_at


def test_a_job_has_ten_thousand_steps_at_most(store: DynamoStateStore, requests: Counter[str]) -> None:
    """So many are cancelled in one transaction; one more is refused whole, with the remedy."""
    with pytest.raises(SubmissionError, match="10000 steps at most; split it, or take PostgreSQL"):
        store.create_job(NewJob(id="job", handler="ship"), made(10_001))
    store.create_job(NewJob(id="job", handler="ship"), made(10_000))
    store.register(worker("w1"), 60.0)
    store.claim("w1", 3)
    requests.clear()
    assert store.change_job("job", JobState.CANCELLED).counts.cancelled == 9_997
    assert requests == {"TransactWriteItems": 1}


def test_a_change_is_one_request(store: DynamoStateStore, requests: Counter[str]) -> None:
    """Of whoever made the last one: what it knows is trusted, and checked as it writes."""
    store.create_job(NewJob(id="job", handler="ship"), made(50))
    store.register(worker("w1"), 60.0)
    refs = [ref(one) for one in store.claim("w1", 50, job="job")]
    requests.clear()
    store.advance("w1", begin=refs)
    store.advance("w1", [outcome(one) for one in refs])
    assert requests == {"TransactWriteItems": 2}


def test_who_knows_less_reads_anew(aws_address: str, table: str) -> None:
    """Two who take turns never act on what the other has changed."""
    one, two = (DynamoStateStore(table, client=client("dynamodb", aws_address)) for _ in range(2))
    one.create_job(NewJob(id="job", handler="ship"), made(6))
    for store in (one, two):
        store.register(worker(f"w{id(store)}"), 60.0)
    claimed = [store.claim(f"w{id(store)}", 1)[0].position for store in (one, two, two, one, one, two)]
    assert claimed == [0, 1, 2, 3, 4, 5]


def test_a_bound_on_all_jobs_is_refused(store: DynamoStateStore) -> None:
    """As an error that says what to do: it would not be kept. No bound is none."""
    with pytest.raises(UnsupportedError, match="bound each job, or take PostgreSQL"):
        store.set_concurrency(2)
    with pytest.raises(ValueError, match="0"):
        store.set_concurrency(0)
    store.set_concurrency(None)
    assert store.concurrency() is None


def test_throttling_is_waited_out(
    store: DynamoStateStore, hear: Callable[..., Any], virtual_clock: VirtualClock
) -> None:
    """By our own retry; the change is made once."""
    store.create_job(NewJob(id="job", handler="ship"), made(1))
    refusals = iter([True, True])
    began = virtual_clock.elapsed

    def refuse(request: Any, **_: Any) -> Any:
        return answer(request, 400, THROTTLED) if next(refusals, False) else None

    with hear("before-send.dynamodb.TransactWriteItems", refuse):
        store.note("job", "seen", {})
    assert [one.state for one in store.events("job")] == ["pending", "seen"]
    assert virtual_clock.elapsed > began


def test_lasting_throttling_ends_with_the_budget(store: DynamoStateStore, hear: Callable[..., Any]) -> None:
    """Each call gives up with an error of ours; together they send little more than once each."""
    sent = count()

    def refuse(request: Any, **_: Any) -> Any:
        next(sent)
        return answer(request, 400, THROTTLED)

    with hear("before-send.dynamodb.GetItem", refuse):
        for _ in range(300):
            with pytest.raises(StoreUnavailableError, match=r"table 'own-.*ProvisionedThroughputExceeded"):
                store.job("job")
    assert next(sent) < 300 + 110


def test_a_lost_answer_changes_nothing(store: DynamoStateStore, hear: Callable[..., Any]) -> None:
    """A commit whose answer was lost is asked for again, and counts once."""
    store.create_job(NewJob(id="job", handler="ship"), made(4))
    store.register(worker("w1"), 60.0)
    lose = iter([True])

    def lost(**_: Any) -> None:
        if next(lose, False):
            raise ConnectionError("lost")

    with hear("after-call.dynamodb.TransactWriteItems", lost):
        assert [one.position for one in store.claim("w1", 2, job="job")] == [0, 1]
    assert [one.positions for one in store.events("job") if one.kind == "step"] == [(0, 1)]


def test_a_crash_before_the_commit_leaves_nothing_to_see(
    store: DynamoStateStore, hear: Callable[..., Any], aws_address: str, table: str
) -> None:
    """What was written before it is nobody's: the next one submits under the same names."""
    steps = [NewStep(key=f"s{one}", payload=str(one).encode() * 500) for one in range(5)]

    def die(**_: Any) -> None:
        raise KeyboardInterrupt

    with hear("before-call.dynamodb.TransactWriteItems", die), pytest.raises(KeyboardInterrupt):
        store.create_job(NewJob(id="job", handler="ship", dedup_key="key"), steps)
    after = DynamoStateStore(table, client=client("dynamodb", aws_address))
    assert after.jobs() == []
    record, new = after.create_job(NewJob(id="job", handler="ship", dedup_key="key"), steps)
    assert (new, record.counts.total) == (True, 5)
    assert [one.payload for one in after.steps("job")] == [one.payload for one in steps]


def test_who_was_recovered_is_refused_whatever_its_clock_says(aws_address: str, table: str) -> None:
    """A machine whose clock is behind cannot go on with a lease that another has ended."""
    behind, ahead = VirtualClock(), VirtualClock()
    ahead.advance(100)
    slow, fast = (
        DynamoStateStore(table, client=client("dynamodb", aws_address), clock=clock)
        for clock in (behind, ahead)
    )
    slow.create_job(NewJob(id="job", handler="ship"), made(4))
    slow.register(worker("w1"), 50.0)
    _, claimed = slow.claim("w1", 2)
    # By portions, so that the lease is still there, and ended.
    assert fast.recover(limit=1).workers == ()
    for act in (
        lambda: slow.claim("w1", 1),
        lambda: slow.renew("w1", 50.0),
        lambda: slow.advance("w1", begin=[ref(claimed)]),
    ):
        with pytest.raises(LeaseLostError):
            act()
    assert fast.recover().workers == ("w1",)
    assert fast.job("job").counts.pending == 4
