"""What only DynamoDB has: requests that are counted, limits of size, throttling, lost answers, many clocks."""

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from backend.tests.integration._moto import answer, client
from backend.tests.integration.jobs._homes import DynamoHome
from backend.tests.integration.jobs._ledger import made, outcome, ref, step, worker
from holdfast.infrastructure.store.dynamodb import (
    DynamoStateStore,
    TooLargeError,
    UnsupportedError,
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


def live(dynamo_store: StateStore) -> None:
    """Do everything that a store can do, once."""
    dynamo_store.create_batch("batch")
    dynamo_store.create_job(
        NewJob(id="job", handler="ship", batch="batch", dedup_key="key", write_back=True, step_timeout=60.0),
        [step("a"), step("b", "a"), step("c")],
    )
    dynamo_store.register(worker("w1"), 60.0)
    refs = [ref(one) for one in dynamo_store.claim("w1", 10)]
    dynamo_store.advance("w1", begin=refs[:1])
    dynamo_store.advance("w1", [outcome(refs[0], result=b"1")])
    dynamo_store.release("w1", refs[1:])
    dynamo_store.settle_outbox([*dynamo_store.outbox("job", states=[OutboxState.PENDING])])
    dynamo_store.sweep()
    dynamo_store.recover()
    lock = dynamo_store.acquire("lock", "w1", 5.0)
    assert lock is not None
    dynamo_store.mark_dirty("lock")
    dynamo_store.clear_dirty(lock)
    dynamo_store.unlock(lock)
    dynamo_store.note("job", "seen", {})
    dynamo_store.retire("w1")
    for look in (dynamo_store.jobs, dynamo_store.next_due, dynamo_store.owing, dynamo_store.workers):
        look()
    dynamo_store.jobs(batch="batch", states=[JobState.PENDING])
    dynamo_store.events("job")
    dynamo_store.step("job", "a")
    dynamo_store.wait(0.0)
    dynamo_store.cancel_batch("batch")
    dynamo_store.delete_job("job")


def test_nothing_is_ever_scanned(dynamo_store: DynamoStateStore, dynamo_requests: Counter[str]) -> None:
    """Whatever is done, what is wanted is asked for by its key."""
    live(dynamo_store)
    assert dynamo_requests["Scan"] == 0
    assert set(dynamo_requests) == {
        *("GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"),
        "TransactWriteItems",
    }


def test_every_read_is_consistent(dynamo_store: DynamoStateStore, dynamo_hear: Callable[..., Any]) -> None:
    """A reader sees what was committed before it asked."""
    asked: list[Any] = []

    def tell(params: dict[str, Any], model: Any, **_: Any) -> None:
        if model.name in {"GetItem", "Query"}:
            asked.append(params["ConsistentRead"])
        if model.name == "BatchGetItem":
            asked.extend(one["ConsistentRead"] for one in params["RequestItems"].values())

    with dynamo_hear("provide-client-params.dynamodb", tell):
        live(dynamo_store)
    assert len(asked) > 20
    assert all(asked)


def test_a_tenant_has_only_keys_of_its_own(
    dynamo_store: DynamoStateStore, aws_address: str, dynamo_table: str
) -> None:
    """All that a store writes begins with its tenant's name; the same ids of another are others."""
    live(dynamo_store)
    other = DynamoStateStore(dynamo_table, "other", client=client("dynamodb", aws_address))
    with pytest.raises(NotFoundError):
        other.job("job")
    live(other)
    raw = client("dynamodb", aws_address).scan(TableName=dynamo_table)["Items"]
    owners = Counter(item["p"]["S"].partition("/")[0] for item in raw)
    assert set(owners) == {"default", "other"}
    assert owners["default"] == owners["other"]


def test_a_tenant_is_created_on_purpose(dynamo_place: DynamoHome) -> None:
    """One that was never created is an error, by its name."""
    with pytest.raises(TenantNotFoundError, match="acme"):
        open_dynamodb(dynamo_place.url, tenant="acme")
    open_dynamodb(dynamo_place.url, tenant="acme", create=True).close()
    assert open_dynamodb(dynamo_place.url, tenant="acme").tenant == "acme"


@pytest.mark.parametrize(
    "url", ["dynamodb:", "dynamodb://", "sqlite:///x", "dynamodb://t?wrong=1", "dynamodb://t?frugal=1"]
)
def test_an_address_that_says_nothing_is_refused(url: str) -> None:
    """With what it may say."""
    with pytest.raises(ValueError, match=r"names no table|a table takes"):
        open_dynamodb(url)


def test_what_is_large_lies_in_the_bucket(dynamo_place: DynamoHome) -> None:
    """Payload, result, error and history larger than an item come back equal, also from another process."""
    large = bytes(range(256)) * (LARGE // 256)
    said = "ä€" * (LARGE // 2)
    dynamo_store = dynamo_place.open()
    dynamo_store.create_job(NewJob(id="job", handler="ship", write_back=True), [step("a"), step("b")])
    dynamo_store.create_job(NewJob(id="big", handler="ship"), [NewStep(key="a", payload=large)])
    dynamo_store.register(worker("w1"), 60.0)
    first, second = dynamo_store.claim("w1", 2, job="job")
    dynamo_store.advance("w1", begin=[ref(first), ref(second)])
    dynamo_store.advance(
        "w1", [outcome(ref(first), result=large), outcome(ref(second), StepState.PENDING, error=said)]
    )
    for seen in (dynamo_store, dynamo_place.open()):
        assert seen.step("big", "a").payload == large
        assert seen.step("job", "a").result == large
        assert [one.result for one in seen.outbox("job")] == [large]
        assert seen.step("job", "b").error == said
        assert seen.step("job", "b").history[0].error == said
        [retried] = [one for one in seen.events("job") if one.state == "pending" and one.positions]
        assert retried.data["error"] == [said]


def test_what_is_large_is_refused_without_a_bucket(dynamo_store: DynamoStateStore) -> None:
    """By its size, before anything has changed."""
    noise = b"".join(str(one).encode() for one in range(LARGE // 5))
    with pytest.raises(TooLargeError, match="bytes are more than DynamoDB takes"):
        dynamo_store.create_job(NewJob(id="job", handler="ship"), [NewStep(key="a", payload=noise)])
    assert dynamo_store.jobs() == []
    dynamo_store.create_job(NewJob(id="job", handler="ship"), made(1))
    dynamo_store.register(worker("w1"), 60.0)
    [claimed] = dynamo_store.claim("w1", 1)
    before = dynamo_store.job("job")
    with pytest.raises(TooLargeError):
        dynamo_store.advance("w1", [outcome(ref(claimed), result=noise)])
    assert dynamo_store.job("job") == before
    assert dynamo_store.advance("w1", [outcome(ref(claimed), result=b"1")]).ended


def test_numbers_come_back_as_they_were(dynamo_place: DynamoHome) -> None:
    """Decimals in settings, previews and notes are exact; times are the floats that they were."""
    exact = {"price": Decimal("0.10"), "most": Decimal("1E+100"), "share": 0.1, "count": 10**40}
    dynamo_store = dynamo_place.open()
    job, _ = dynamo_store.create_job(NewJob(id="job", handler="ship", ready=False, settings=exact), made(1))
    dynamo_store.preview_job("job", "digest", exact)
    dynamo_store.note("job", "seen", exact)
    again = dynamo_place.open()
    assert again.job("job").new.settings == exact
    assert again.job("job").preview == exact
    assert again.events("job")[-1].data == exact
    assert again.job("job").created_at == job.created_at


def test_a_job_has_ten_thousand_steps_at_most(
    dynamo_store: DynamoStateStore, dynamo_requests: Counter[str]
) -> None:
    """So many are cancelled in one transaction; one more is refused whole, with the remedy."""
    with pytest.raises(SubmissionError, match="10000 steps at most; split it, or take PostgreSQL"):
        dynamo_store.create_job(NewJob(id="job", handler="ship"), made(10_001))
    dynamo_store.create_job(NewJob(id="job", handler="ship"), made(10_000))
    dynamo_store.register(worker("w1"), 60.0)
    dynamo_store.claim("w1", 3)
    dynamo_requests.clear()
    assert dynamo_store.change_job("job", JobState.CANCELLED).counts.cancelled == 9_997
    assert dynamo_requests == {"TransactWriteItems": 1}


def test_a_change_is_one_request(dynamo_store: DynamoStateStore, dynamo_requests: Counter[str]) -> None:
    """Of whoever made the last one: what it knows is trusted, and checked as it writes."""
    dynamo_store.create_job(NewJob(id="job", handler="ship"), made(50))
    dynamo_store.register(worker("w1"), 60.0)
    refs = [ref(one) for one in dynamo_store.claim("w1", 50, job="job")]
    dynamo_requests.clear()
    dynamo_store.advance("w1", begin=refs)
    dynamo_store.advance("w1", [outcome(one) for one in refs])
    assert dynamo_requests == {"TransactWriteItems": 2}


def test_who_knows_less_reads_anew(aws_address: str, dynamo_table: str) -> None:
    """Two who take turns never act on what the other has changed."""
    one, two = (DynamoStateStore(dynamo_table, client=client("dynamodb", aws_address)) for _ in range(2))
    one.create_job(NewJob(id="job", handler="ship"), made(6))
    for each in (one, two):
        each.register(worker(f"w{id(each)}"), 60.0)
    claimed = [each.claim(f"w{id(each)}", 1)[0].position for each in (one, two, two, one, one, two)]
    assert claimed == [0, 1, 2, 3, 4, 5]


def test_a_bound_on_all_jobs_is_refused(dynamo_store: DynamoStateStore) -> None:
    """As an error that says what to do: it would not be kept. No bound is none."""
    with pytest.raises(UnsupportedError, match="bound each job, or take PostgreSQL"):
        dynamo_store.set_concurrency(2)
    with pytest.raises(ValueError, match="0"):
        dynamo_store.set_concurrency(0)
    dynamo_store.set_concurrency(None)
    assert dynamo_store.concurrency() is None


def test_throttling_is_waited_out(
    dynamo_store: DynamoStateStore, dynamo_hear: Callable[..., Any], virtual_clock: VirtualClock
) -> None:
    """By our own retry; the change is made once."""
    dynamo_store.create_job(NewJob(id="job", handler="ship"), made(1))
    refusals = iter([True, True])
    began = virtual_clock.elapsed

    def refuse(request: Any, **_: Any) -> Any:
        return answer(request, 400, THROTTLED) if next(refusals, False) else None

    with dynamo_hear("before-send.dynamodb.TransactWriteItems", refuse):
        dynamo_store.note("job", "seen", {})
    assert [one.state for one in dynamo_store.events("job")] == ["pending", "seen"]
    assert virtual_clock.elapsed > began


def test_lasting_throttling_ends_with_the_budget(
    dynamo_store: DynamoStateStore, dynamo_hear: Callable[..., Any]
) -> None:
    """Each call gives up with an error of ours; together they send little more than once each."""
    sent = count()

    def refuse(request: Any, **_: Any) -> Any:
        next(sent)
        return answer(request, 400, THROTTLED)

    with dynamo_hear("before-send.dynamodb.GetItem", refuse):
        for _ in range(300):
            with pytest.raises(StoreUnavailableError, match=r"table 'own-.*ProvisionedThroughputExceeded"):
                dynamo_store.job("job")
    assert next(sent) < 300 + 110


def test_a_lost_answer_changes_nothing(
    dynamo_store: DynamoStateStore, dynamo_hear: Callable[..., Any]
) -> None:
    """A commit whose answer was lost is asked for again, and counts once."""
    dynamo_store.create_job(NewJob(id="job", handler="ship"), made(4))
    dynamo_store.register(worker("w1"), 60.0)
    lose = iter([True])

    def lost(**_: Any) -> None:
        if next(lose, False):
            raise ConnectionError("lost")

    with dynamo_hear("after-call.dynamodb.TransactWriteItems", lost):
        assert [one.position for one in dynamo_store.claim("w1", 2, job="job")] == [0, 1]
    assert [one.positions for one in dynamo_store.events("job") if one.kind == "step"] == [(0, 1)]


def test_a_crash_before_the_commit_leaves_nothing_to_see(
    dynamo_store: DynamoStateStore, dynamo_hear: Callable[..., Any], aws_address: str, dynamo_table: str
) -> None:
    """What was written before it is nobody's: the next one submits under the same names."""
    steps = [NewStep(key=f"s{one}", payload=str(one).encode() * 500) for one in range(5)]

    def die(**_: Any) -> None:
        raise KeyboardInterrupt

    with dynamo_hear("before-call.dynamodb.TransactWriteItems", die), pytest.raises(KeyboardInterrupt):
        dynamo_store.create_job(NewJob(id="job", handler="ship", dedup_key="key"), steps)
    after = DynamoStateStore(dynamo_table, client=client("dynamodb", aws_address))
    assert after.jobs() == []
    record, new = after.create_job(NewJob(id="job", handler="ship", dedup_key="key"), steps)
    assert (new, record.counts.total) == (True, 5)
    assert [one.payload for one in after.steps("job")] == [one.payload for one in steps]


def test_who_was_recovered_is_refused_whatever_its_clock_says(aws_address: str, dynamo_table: str) -> None:
    """A machine whose clock is behind cannot go on with a lease that another has ended."""
    behind, ahead = VirtualClock(), VirtualClock()
    ahead.advance(100)
    slow, fast = (
        DynamoStateStore(dynamo_table, client=client("dynamodb", aws_address), clock=clock)
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
