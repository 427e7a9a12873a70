"""Retry budgets: what is deposited, what fades, what a retry costs, to the token."""

import copy
import gc
import math
import pickle
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.infrastructure.resilience.budget import RetryBudget
from holdfast.infrastructure.resilience.clock import use_clock
from holdfast.infrastructure.resilience.errors import ConfigurationError, RetryBudgetExhausted
from holdfast.testing import VirtualClock

pytestmark = pytest.mark.usefixtures("virtual_clock")


def kinds() -> list[RetryBudget]:
    return [RetryBudget("ratio"), RetryBudget.aws("aws"), RetryBudget.grpc("grpc")]


def deposit(budget: RetryBudget, times: int) -> None:
    for _ in range(times):
        budget.deposit()


def granted(budget: RetryBudget, *, throttled: bool = False, most: int = 1000) -> int:
    """Withdraw until the budget refuses, `most` times; return how often it granted."""
    return next((times for times in range(most) if not budget.try_withdraw(throttled=throttled)), most)


def test_the_defaults_are_pinned() -> None:
    """A tenth of the first attempts, ten retries a second, ten seconds: whoever changes that changes this test."""
    budget = RetryBudget()

    assert (budget.name, budget.share, budget.tokens) == (None, 0.1, 10)


@pytest.mark.parametrize(("attempts", "retries"), [(9, 0), (10, 1), (39, 3), (40, 4), (1000, 100)])
def test_ten_first_attempts_buy_one_retry(attempts: int, retries: int) -> None:
    """At one instant n first attempts buy exactly n // 10 retries, looked at once or after each of them."""
    together, singly = (RetryBudget(min_per_second=0) for _ in range(2))
    deposit(together, attempts)
    for _ in range(attempts):
        singly.deposit()
        assert singly.tokens >= 0

    assert (granted(together), granted(singly)) == (retries, retries)


def test_generated_code_counts_by_adding_to_one_slot() -> None:
    """The compiled path adds 1 to `_pending` where `deposit` would be called, and every other operation sees it."""
    budget = RetryBudget(min_per_second=0)
    for _ in range(25):
        exec("budget._pending += 1", {"budget": budget})

    assert budget.tokens == 2.5
    assert granted(budget) == 2


@pytest.mark.parametrize(
    ("rate", "at_once", "after_a_second"),
    [(10, 10, 10), (2.5, 2, 2), (1.5, 1, 1), (1, 1, 1), (0.25, 1, 0), (0, 0, 0)],
)
def test_the_floor_is_a_bucket_of_one_second(
    virtual_clock: VirtualClock, rate: float, at_once: int, after_a_second: int
) -> None:
    """`min_per_second` retries are granted at once, then as many each second; one at least fits, none if it is 0."""
    budget = RetryBudget(min_per_second=rate)

    first = granted(budget)
    virtual_clock.advance(1)

    assert (first, granted(budget)) == (at_once, after_a_second)


def test_the_floor_does_not_pile_up(virtual_clock: VirtualClock) -> None:
    """An hour without retries leaves one second's worth, not an hour's: the floor expires."""
    budget = RetryBudget(min_per_second=5)
    virtual_clock.advance(3600)

    assert granted(budget) == 5


def test_a_slow_floor_grants_one_retry_in_its_time(virtual_clock: VirtualClock) -> None:
    """One retry in four seconds means: refused at 3.9 s, granted at 4."""
    budget = RetryBudget(min_per_second=0.25)
    budget.withdraw()

    virtual_clock.advance(3.9)
    early = budget.try_withdraw()
    virtual_clock.advance(0.1)

    assert (early, budget.try_withdraw()) == (False, True)


def test_a_retry_takes_from_the_floor_first(virtual_clock: VirtualClock) -> None:
    """What would expire is spent first: after one retry, and the second that fills the floor, nothing is missing."""
    budget = RetryBudget(min_per_second=1, ttl=1000)
    deposit(budget, 50)
    budget.withdraw()
    assert budget.tokens == 5

    virtual_clock.advance(1)

    assert budget.tokens == pytest.approx(1 + 5 * math.exp(-1 / 1000))


def test_floor_and_deposits_add_up() -> None:
    """Half a token of each is one retry: it is granted whenever `tokens` is at least 1."""
    budget = RetryBudget(min_per_second=1.5)
    deposit(budget, 5)

    assert budget.tokens == 2
    assert granted(budget) == 2
    assert budget.tokens == 0


def test_a_refused_retry_costs_nothing() -> None:
    """What is there stays when it is not enough."""
    budget = RetryBudget(min_per_second=0)
    deposit(budget, 5)

    assert granted(budget) == 0
    assert budget.tokens == 0.5


def test_deposits_fade(virtual_clock: VirtualClock) -> None:
    """After `ttl` seconds 1/e of the tokens is left, after five times that less than 1 %."""
    budget = RetryBudget(min_per_second=0, ttl=10)
    deposit(budget, 1000)
    assert budget.tokens == 100

    virtual_clock.advance(10)
    assert budget.tokens == pytest.approx(100 / math.e)
    virtual_clock.advance(40)
    assert budget.tokens == pytest.approx(100 * math.exp(-5))


def test_looking_changes_nothing(virtual_clock: VirtualClock) -> None:
    """Whoever watches `tokens` every 10 ms finds in the end what one look would have found."""
    watched, alone = (RetryBudget(min_per_second=0.5, ttl=3) for _ in range(2))
    for budget in (watched, alone):
        deposit(budget, 1000)
        assert budget.tokens == 101
        assert granted(budget) == 101

    for _ in range(500):
        virtual_clock.advance(0.01)
        assert watched.tokens >= 0

    assert watched.tokens == pytest.approx(alone.tokens)


@pytest.mark.parametrize("every", [0.01, 1.0, 30.0])
def test_a_steady_rate_is_worth_ttl_seconds_of_it(virtual_clock: VirtualClock, every: float) -> None:
    """At 100 first attempts a second there are ratio * 100 * ttl tokens, however often somebody looks."""
    budget = RetryBudget(min_per_second=0, ratio=0.2, ttl=5)
    for _ in range(int(120 / every)):
        virtual_clock.advance(every)
        deposit(budget, round(100 * every))
        assert budget.tokens <= 0.2 * 100 * 5 * (1 + every)

    assert budget.tokens == pytest.approx(0.2 * 100 * 5, rel=0.01)


def test_a_burst_after_a_pause_counts_as_if_spread_over_the_pause(virtual_clock: VirtualClock) -> None:
    """First attempts are counted without a clock: when they came is not known, and they count for less, never more."""
    budget = RetryBudget(min_per_second=0, ttl=10)
    virtual_clock.advance(1000)
    deposit(budget, 1000)

    assert budget.tokens == pytest.approx(100 * 10 / 1000)


def test_wall_clock_backwards_a_budget_does_not_read_it(virtual_clock: VirtualClock) -> None:
    """A step of the wall clock neither fills nor empties it; peers' breakers stay open an hour longer."""
    budget = RetryBudget(min_per_second=1)
    deposit(budget, 100)
    before = budget.tokens

    for hour in (3600, -7200):
        virtual_clock.step_wall_clock(hour)
        assert budget.tokens == before


def test_a_clock_that_is_replaced_by_an_earlier_one_starts_anew() -> None:
    """Time that goes back fades nothing and refills nothing; from then on the new clock counts."""
    budget = RetryBudget(min_per_second=1, ttl=10)
    deposit(budget, 100)
    assert granted(budget) == 11

    with use_clock(VirtualClock(start=0)) as earlier:
        assert isinstance(earlier, VirtualClock)
        assert granted(budget) == 0
        earlier.advance(1)
        assert granted(budget) == 1


def test_a_budget_may_have_a_clock_of_its_own(virtual_clock: VirtualClock) -> None:
    """With a clock of its own the common one does not matter."""
    own = VirtualClock()
    budget = RetryBudget(min_per_second=1, clock=own)
    assert granted(budget) == 1

    virtual_clock.advance(10)
    assert granted(budget) == 0
    own.advance(1)
    assert granted(budget) == 1


def test_aws_starts_full_and_charges_14_or_5() -> None:
    """500 tokens are 35 retries; the 10 left are two more after throttling."""
    budget = RetryBudget.aws()

    assert budget.tokens == 500
    assert granted(budget) == 35
    assert budget.tokens == 10
    assert granted(budget, throttled=True) == 2
    assert budget.tokens == 0


@pytest.mark.parametrize(("throttled", "price"), [(False, 14), (True, 5)])
def test_aws_gives_the_price_back(throttled: bool, price: int) -> None:  # noqa: FBT001
    """A retry that succeeded, or was never made, costs nothing in the end."""
    budget = RetryBudget.aws(tokens=100)
    budget.withdraw(throttled=throttled)
    assert budget.tokens == 100 - price

    budget.refund(throttled=throttled)

    assert budget.tokens == 100


def test_aws_wins_one_for_each_success_up_to_its_size() -> None:
    """A plain success adds 1; neither successes nor refunds exceed what the budget started with."""
    budget = RetryBudget.aws(tokens=30)
    budget.withdraw()
    deposit(budget, 13)
    assert budget.tokens == 29

    deposit(budget, 5)
    assert budget.tokens == 30
    budget.refund()
    assert budget.tokens == 30


def test_aws_does_not_refill_with_time(virtual_clock: VirtualClock) -> None:
    """Only successes fill an aws budget."""
    budget = RetryBudget.aws(tokens=14)
    budget.withdraw()
    virtual_clock.advance(3600)

    assert budget.tokens == 0


def test_grpc_allows_retries_above_half() -> None:
    """From 10 tokens four failures leave retries allowed, the fifth, at exactly half, does not."""
    budget = RetryBudget.grpc()
    allowed: list[bool] = []
    for _ in range(6):
        allowed.append(budget.try_withdraw())
        budget.record_failure()

    assert allowed == [True, True, True, True, True, False]
    assert budget.tokens == 4


def test_grpc_wins_a_little_for_each_success() -> None:
    """At half, one success of 0.1 allows retries again, until the next failure; never more than it started with."""
    budget = RetryBudget.grpc(tokens=4, token_ratio=0.1)
    for _ in range(2):
        budget.record_failure()
    assert not budget.try_withdraw()

    budget.deposit()
    assert (budget.tokens, budget.try_withdraw()) == (2.1, True)
    budget.record_failure()
    assert not budget.try_withdraw()
    deposit(budget, 100)
    assert budget.tokens == 4


def test_grpc_does_not_fall_below_nothing() -> None:
    """However many failures, so many successes as half the tokens need bring retries back."""
    budget = RetryBudget.grpc(tokens=10, token_ratio=1)
    for _ in range(100):
        budget.record_failure()
    assert budget.tokens == 0

    deposit(budget, 6)

    assert budget.try_withdraw()


def test_grpc_retries_take_nothing_themselves() -> None:
    """Only outcomes move a grpc budget: neither a retry nor a refund does."""
    budget = RetryBudget.grpc()
    assert all(budget.try_withdraw(throttled=throttled) for throttled in (False, True))
    budget.refund()

    assert budget.tokens == 10


def test_only_grpc_minds_failures_and_only_aws_refunds() -> None:
    """What a kind does not mind changes nothing."""
    ratio, aws, _ = kinds()
    deposit(ratio, 5)
    for budget in (ratio, aws):
        budget.record_failure()
    ratio.refund()

    assert (ratio.tokens, aws.tokens) == (10.5, 500)


def test_what_a_deposit_counts_and_what_an_outage_is_granted() -> None:
    """A ratio counts first attempts and grants its share of them for ever; the others count successes, which end."""
    budgets = [*kinds(), RetryBudget(ratio=0.3)]

    assert [budget.counts_successes for budget in budgets] == [False, True, True, False]
    assert [budget.share for budget in budgets] == [0.1, 0, 0, 0.3]


def test_what_a_budget_can_hold() -> None:
    """A quota and a throttle hold what they begin with at most; a ratio holds what first attempts earn."""
    quota, throttle = RetryBudget.aws(tokens=50), RetryBudget.grpc(tokens=4, token_ratio=3.0)
    assert [one.capacity for one in (RetryBudget(), RetryBudget.aws(), RetryBudget.grpc())] == [None, 500, 10]
    for budget in (quota, throttle):
        for _ in range(100):
            budget.deposit()
    assert [(one.tokens, one.capacity) for one in (quota, throttle)] == [(50, 50), (4, 4)]


@pytest.mark.parametrize(
    ("at", "first", "later"),
    [(0, False, False), (1, True, False), (2, True, True)],
    ids=["ratio", "aws", "grpc"],
)
def test_which_successes_are_deposits(at: int, first: bool, later: bool) -> None:  # noqa: FBT001
    """A ratio pays for no success, aws for one without a retry (else it refunds), grpc for every success."""
    budget = kinds()[at]

    assert (budget.rewards(first=True), budget.rewards(first=False)) == (first, later)


def test_withdraw_raises_where_try_withdraw_says_no() -> None:
    """RetryBudgetExhausted carries the budget's name, or says that it is a retry budget."""
    named, nameless = RetryBudget("payments", min_per_second=0), RetryBudget(min_per_second=0)
    with pytest.raises(RetryBudgetExhausted) as caught:
        named.withdraw()
    with pytest.raises(RetryBudgetExhausted) as anonymous:
        nameless.withdraw()

    assert (caught.value.name, anonymous.value.name) == ("payments", "retry budget")
    deposit(named, 10)
    named.withdraw()


@pytest.mark.parametrize("at", range(3))
def test_reset_makes_it_as_new(virtual_clock: VirtualClock, at: int) -> None:
    """Tokens, floor and what was pending are forgotten."""
    budget, new = kinds()[at], kinds()[at]
    deposit(budget, 100)
    granted(budget, most=5)
    budget.record_failure()
    deposit(budget, 100)
    virtual_clock.advance(0.5)

    budget.reset()

    assert budget.tokens == new.tokens
    assert budget.name == new.name


@pytest.mark.parametrize("at", range(3))
def test_a_budget_is_neither_pickled_nor_copied(at: int) -> None:
    """A copy would be a second budget: the error says what to do."""
    budget = kinds()[at]
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="make one in each process"):
            duplicate(budget)


def test_a_budget_shows_its_name_and_tokens() -> None:
    """Its repr is for people: who it is and what is there."""
    assert repr(RetryBudget("payments")) == "<RetryBudget payments: 10 tokens>"
    assert repr(RetryBudget.aws()) == "<RetryBudget without a name: 500 tokens>"


@pytest.mark.parametrize(
    ("make", "settings", "paths"),
    [
        (RetryBudget, {"ratio": -0.1}, ["ratio"]),
        (RetryBudget, {"ratio": 11}, ["ratio"]),
        (RetryBudget, {"min_per_second": -1}, ["min_per_second"]),
        (RetryBudget, {"min_per_second": float("inf")}, ["min_per_second"]),
        (RetryBudget, {"ttl": 0}, ["ttl"]),
        (RetryBudget, {"ttl": float("nan")}, ["ttl"]),
        (RetryBudget, {"clock": "now"}, ["clock"]),
        (RetryBudget, {"name": 5}, ["name"]),
        (
            RetryBudget,
            {"name": 5, "ratio": "1", "min_per_second": None, "ttl": -1, "clock": 1},
            ["ratio", "min_per_second", "ttl", "clock", "name"],
        ),
        (RetryBudget.aws, {"tokens": 13.9}, ["tokens"]),
        (RetryBudget.aws, {"tokens": float("inf"), "name": 1}, ["tokens", "name"]),
        (RetryBudget.grpc, {"tokens": 0}, ["tokens"]),
        (
            RetryBudget.grpc,
            {"tokens": 1001, "token_ratio": 0, "name": b""},
            ["tokens", "token_ratio", "name"],
        ),
    ],
)
def test_every_fault_is_reported_at_once(make: Any, settings: dict[str, Any], paths: list[str]) -> None:
    """Settings out of range are one ConfigurationError that lists all of them."""
    with pytest.raises(ConfigurationError) as caught:
        make(**settings)

    assert [fault.path for fault in caught.value.faults] == paths


def run_together(*functions: Any) -> None:
    start = threading.Barrier(len(functions))

    def run(function: Any) -> None:
        start.wait()
        function()

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns a thousand times more often than usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("round_", range(6))
@pytest.mark.usefixtures("restless")
def test_threads_never_withdraw_more_than_there_is(round_: int) -> None:
    """Eight threads that race for 70,000 tokens get exactly the 5,000 retries that one would get, every time."""
    budget = RetryBudget.aws(tokens=70_000)
    grants: list[int] = []

    run_together(*[lambda: grants.append(granted(budget, most=10_000))] * 8)

    assert sum(grants) == 5000
    assert budget.tokens == 0


@pytest.mark.usefixtures("restless")
def test_threads_lose_no_deposit() -> None:
    """First attempts of eight threads are all counted, while a ninth absorbs them all the time."""
    budget = RetryBudget(ratio=1, min_per_second=0, ttl=86_400)

    def watch() -> None:
        for _ in range(2000):
            assert budget.tokens >= 0

    run_together(watch, *[lambda: deposit(budget, 5000)] * 8)

    assert budget.tokens == 40_000


FORK = """
import os, signal
from holdfast.infrastructure.resilience import budget as module
budget = module.RetryBudget("payments")
held = list(module._locks)
for lock in held:
    lock.acquire()
if os.fork() == 0:
    signal.alarm(20)
    os._exit(0 if budget.try_withdraw() else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
for lock in held:
    lock.release()
assert budget.try_withdraw()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_does_not_wait_for_locks_of_its_parent() -> None:
    """A fork at the moment when another thread holds a budget's lock leaves the child's budgets usable."""
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr


def used(at: int) -> RetryBudget:
    """Return a budget in which every number is an object of its own."""
    budget = kinds()[at]
    deposit(budget, 300)
    granted(budget, most=12)
    budget.record_failure()
    budget.refund()
    deposit(budget, 300)
    return budget


@pytest.mark.parametrize("at", range(3))
def test_a_budget_in_use_takes_200_bytes_at_most(at: int) -> None:
    """Everything that one more budget takes, after use: the object and its numbers; the settings are shared."""
    made: list[RetryBudget | None] = [used(at)] * 1000
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index in range(1000):
            made[index] = used(at)
        gc.collect()
        taken = (tracemalloc.get_traced_memory()[0] - before) / 1000
    finally:
        tracemalloc.stop()

    assert 80 < taken <= 200
