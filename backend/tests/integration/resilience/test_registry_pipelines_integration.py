"""Seam: functions decorated by a name × the registry that says what the name means, and changes it."""

import contextlib
import gc
import json
import weakref
from typing import Any

import httpx
import pytest

from backend.tests.integration.resilience._driver import Driver
from backend.tests.integration.resilience._make import Make
from backend.tests.integration.resilience._race import race
from holdfast.infrastructure.resilience.circuit_breaker import CircuitBreakers, breaker_of
from holdfast.infrastructure.resilience.errors import CircuitOpenError, ConfigurationError, TimeoutExceeded
from holdfast.infrastructure.resilience.events import RetryGaveUp
from holdfast.infrastructure.resilience.pipeline import Pipeline, explain
from holdfast.infrastructure.resilience.policy import Policy
from holdfast.infrastructure.resilience.rate_limit import RateLimits
from holdfast.infrastructure.resilience.registry import (
    Registry,
    Resilient,
    recommended,
    registry,
    resilient,
)
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.transport.http import httpx_transport
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Script, fail, hang, succeed
from holdfast.testing.recorder import EventRecorder


def test_a_name_may_be_given_its_meaning_later(driver: Driver, make: Make, names: Registry) -> None:
    """Functions are decorated first, the name is defined afterwards, the call finds it."""
    script = Script(fail())
    call = driver.decorate(names.resilient("payments"), script)
    names.define("payments", make.retry(4))
    driver.outcomes(1, call)
    assert script.calls == 4


def test_a_change_holds_from_the_next_call_on(driver: Driver, make: Make, names: Registry) -> None:
    """Nothing is decorated again: the same functions make as many attempts as the name now says."""
    scripts = [Script(fail()), Script(fail())]
    calls = [driver.decorate(names.resilient("payments"), script) for script in scripts]
    counts: list[list[int]] = []
    for attempts in (2, 5, 1):
        names.define("payments", make.retry(attempts))
        before = [script.calls for script in scripts]
        for call in calls:
            driver.outcomes(2, call)
        counts.append([script.calls - was for script, was in zip(scripts, before, strict=True)])
    assert counts == [[4, 4], [10, 10], [2, 2]]


def test_a_call_that_runs_goes_on_as_it_began(driver: Driver, make: Make, names: Registry) -> None:
    """A change in the middle of a call's backoff does not give it more attempts, nor less."""
    script = Script(fail())
    names.define("payments", make.retry(3))
    call = driver.decorate(names.resilient("payments"), script)

    async def change() -> None:
        await driver.sleep(0.5)
        names.define("payments", make.retry(9))

    driver.together(driver.after(0.0, call), change)
    assert script.calls == 3


def test_a_policy_that_is_given_again_keeps_its_state(driver: Driver, make: Make, names: Registry) -> None:
    """A new meaning with the same breaker finds it open; with a new breaker it begins closed."""
    breaker, script = make.breaker(2), Script(fail())
    names.define("payments", breaker)
    call = driver.decorate(names.resilient("payments"), script)
    driver.outcomes(2, call)
    names.define("payments", make.retry(2), breaker)
    assert isinstance(driver.outcomes(1, call)[0], CircuitOpenError)
    names.define("payments", make.retry(2), make.breaker(9))
    driver.outcomes(1, call)
    assert script.calls == 4


def test_all_functions_of_a_name_share_its_state(driver: Driver, make: Make, names: Registry) -> None:
    """The breaker that one function opened refuses the other one's calls."""
    names.define("payments", make.breaker(2))
    failing, fine = Script(fail()), Script(succeed())
    driver.outcomes(2, driver.decorate(names.resilient("payments"), failing))
    (refused,) = driver.outcomes(1, driver.decorate(names.resilient("payments"), fine))
    assert isinstance(refused, CircuitOpenError)
    assert fine.calls == 0


def test_without_a_definition_the_recommended_pipeline_holds(driver: Driver, names: Registry) -> None:
    """Three attempts on a budget of the name, a breaker of the name, ten seconds an attempt, thirty in all."""
    script = Script(fail())
    call = driver.decorate(names.resilient("payments"), script)
    driver.outcomes(1, call)
    told = explain(call)
    assert (script.calls, breaker_of(call).name) == (3, "payments")
    assert (told.attempts, told.duration, told.warnings) == (3, 30.0, ())


def test_the_recommended_pipeline_ends_what_hangs(virtual_clock: VirtualClock, names: Registry) -> None:
    """A coroutine that hangs in every attempt ends after thirty seconds."""
    call = names.resilient("payments")(Script(hang()).coroutine_function())
    with pytest.raises(TimeoutExceeded):
        virtual_clock.run(call())
    assert virtual_clock.elapsed == 30.0


@pytest.mark.parametrize(
    ("kind", "attempts", "duration"),
    [
        ("general", 3, 30.0),
        ("interactive", 3, 5.0),
        ("batch", 8, 300.0),
        ("sharded", 3, 30.0),
        ("idempotent-read", 6, 30.0),
    ],
)
def test_each_kind_has_its_pipeline(kind: str, attempts: float, duration: float) -> None:
    """What is recommended for a kind of use bounds attempts and time as it says, in an order without warnings."""
    told = recommended("payments", kind, key=len if kind == "sharded" else None).explain()
    assert (told.attempts, told.duration, told.warnings) == (attempts, duration, ())


@pytest.mark.parametrize(
    ("kind", "key", "path"), [("nothing", None, "kind"), ("sharded", None, "key"), ("general", len, "key")]
)
def test_what_fits_no_kind_is_refused(kind: str, key: Any, path: str) -> None:
    """A kind that does not exist, shards without a key and a key without shards are faults."""
    with pytest.raises(ConfigurationError) as caught:
        recommended("payments", kind, key=key)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_one_dead_shard_is_its_own_trouble(virtual_clock: VirtualClock) -> None:
    """With a breaker for each shard, the dead one's calls are refused and the others' are made."""

    def ask(shard: str) -> str:
        if shard == "dead":
            raise ConnectionError
        return shard

    def shard_of(shard: str) -> str:
        return shard

    call = recommended("shop", "sharded", key=shard_of)(ask)
    for _ in range(20):
        with contextlib.suppress(ConnectionError, CircuitOpenError):
            call("dead")
    with pytest.raises(CircuitOpenError):
        call("dead")
    assert call("alive") == "alive"
    assert virtual_clock.elapsed < 20


def test_events_carry_the_name(
    driver: Driver, make: Make, names: Registry, event_recorder: EventRecorder
) -> None:
    """What the name's policies do is told under the name, not the function's."""
    names.define("payments", make.retry(2, name=None))
    driver.outcomes(1, driver.decorate(names.resilient("payments"), Script(fail())))
    assert [event.name for event in event_recorder.of(RetryGaveUp)] == ["payments"]


def test_names_stack_with_other_policies(driver: Driver, make: Make, names: Registry) -> None:
    """Policies above and below a name are in force, whatever the name comes to mean."""
    names.define("payments", make.retry(2))
    script, breaker = Script(fail()), make.breaker(50)
    call = make.breaker(50)(names.resilient("payments")(breaker(driver.function(script))))
    driver.outcomes(1, call)
    names.define("payments", make.retry(3))
    driver.outcomes(1, call)
    assert (script.calls, breaker.counts.failures) == (5, 5)


def test_names_of_functions_that_call_each_other(driver: Driver, make: Make, names: Registry) -> None:
    """A name's pipeline is a named one: of two that are nested only the outer one retries."""
    script = Script(fail())
    for name in ("web", "db"):
        names.define(name, make.retry(3))
    inner = driver.decorate(names.resilient("db"), script)

    async def page() -> Any:
        return await driver.ask(inner)

    driver.outcomes(1, driver.decorate(names.resilient("web"), page))
    assert script.calls == 3


def test_a_bad_definition_changes_nothing(driver: Driver, make: Make, names: Registry) -> None:
    """What is no policy, nothing at all, a name inside a name, an unsafe order with `strict`: each is refused whole."""
    names.define("payments", make.retry(2))
    bad: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
        (TypeError, r"RateLimits needs .* give key=", (Retry(2), RateLimits(1))),
        (TypeError, "is not a policy", (Retry(2), "Retry(3)")),
        (TypeError, "at least one policy", ()),
        (TypeError, "cannot be made of names", (names.resilient("other"),)),
        (ConfigurationError, "retry inside retry", (Retry(2), Retry(3), Timeout(1.0))),
    ]
    for kind, said, policies in bad:
        with pytest.raises(kind, match=said):
            names.define("payments", *policies, strict=True)
    script = Script(fail())
    driver.outcomes(1, driver.decorate(names.resilient("payments"), script))
    assert script.calls == 2


def test_strict_lists_every_warning(names: Registry) -> None:
    """All that `explain()` warns of is in one error, each with what to do."""
    unsafe = Pipeline(Timeout(1.0), Retry(2), Retry(3), Timeout(5.0))
    with pytest.raises(ConfigurationError) as caught:
        names.define("payments", unsafe, strict=True)
    warnings = unsafe.explain().warnings
    assert [f"{fault.problem}; {fault.remedy}" for fault in caught.value.faults][:1] == list(warnings)[:1]
    assert len(caught.value.faults) == len(warnings) > 1
    assert "payments" not in names


@pytest.mark.parametrize("name", ["", 5, None])
def test_a_name_is_text(names: Registry, name: Any) -> None:
    """What is no name is refused where it is written."""
    with pytest.raises(ConfigurationError, match="is no name"):
        names.resilient(name)
    with pytest.raises(ConfigurationError, match="is no name"):
        names.define(name, Retry())


def test_unknown_names_list_the_known_ones(names: Registry) -> None:
    """Who asks for a name that nobody defined is told which there are; asking defines nothing."""
    with pytest.raises(LookupError, match="known: none yet"):
        names.get("payments")
    names.define("search", Retry())
    names.define("payments", Retry())
    with pytest.raises(LookupError, match="no pipeline is called 'paymnts'; known: 'payments', 'search'"):
        names.get("paymnts")
    assert (list(names), len(names), "paymnts" in names) == (["payments", "search"], 2, False)


def test_a_family_without_a_key_is_refused_where_functions_have_the_name(
    driver: Driver, make: Make, names: Registry
) -> None:
    """Only a transport knows what to tell breakers apart by: whichever comes second, definition or function, fails."""
    names.define("api", CircuitBreakers())
    with pytest.raises(TypeError, match=r"CircuitBreakers needs .* give key="):
        driver.decorate(names.resilient("api"), Script(succeed()))
    with pytest.raises(TypeError, match=r"CircuitBreakers needs .* give key="):
        names.resilient("api").call(len, "")
    names.define("api", make.retry(2))
    script = Script(fail())
    call = driver.decorate(names.resilient("api"), script)
    with pytest.raises(TypeError, match=r"CircuitBreakers needs .* give key="):
        names.define("api", make.retry(3), CircuitBreakers())
    driver.outcomes(1, call)
    assert script.calls == 2


def test_a_name_that_is_forgotten_begins_again(driver: Driver, make: Make, names: Registry) -> None:
    """After `discard` the recommended pipeline holds, with a breaker that knows nothing; discarding twice is fine."""
    script = Script(fail())
    names.define("payments", make.retry(2))
    call = driver.decorate(names.resilient("payments"), script)
    driver.outcomes(1, call)
    names.discard("payments")
    names.discard("payments")
    driver.outcomes(1, call)
    assert script.calls == 2 + 3


def test_registries_are_apart(driver: Driver, make: Make, names: Registry) -> None:
    """The same name means different things in different registries; the common one is behind `resilient`."""
    names.define("test of registries", make.retry(2))
    registry.define("test of registries", make.retry(4))
    counts: list[int] = []
    for policy in (names.resilient("test of registries"), resilient("test of registries")):
        script = Script(fail())
        driver.outcomes(1, driver.decorate(policy, script))
        counts.append(script.calls)
    registry.discard("test of registries")
    assert counts == [2, 4]


def test_a_registry_keeps_no_function_alive(make: Make, names: Registry) -> None:
    """A function that nobody has any more goes, though its name stays."""
    names.define("payments", make.retry(2))

    def work() -> str:
        return "ok"

    decorated = names.resilient("payments")(work)
    assert decorated() == "ok"
    gone = weakref.ref(work)
    del decorated, work
    gc.collect()
    assert gone() is None


def test_changes_and_calls_may_race(make: Make, names: Registry) -> None:
    """Eight threads call while one changes the meaning 200 times: every call works, and the last meaning wins."""
    names.define("payments", make.retry(2))

    @names.resilient("payments")
    def work() -> str:
        return "ok"

    def change() -> list[str]:
        for attempts in range(1, 201):
            names.define("payments", make.retry(1 + attempts % 5))
        return []

    def call() -> list[str]:
        return [work() for _ in range(400)]

    assert sorted(race(change, *[call] * 8)) == [[], *[["ok"] * 400] * 8]
    names.define("payments", make.retry(7))
    assert explain(work).attempts == 7


def test_a_transport_follows_its_name(names: Registry, make: Make) -> None:
    """Requests go through what the name means now: attempts, and the family of breakers per host."""
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.method)
        return httpx.Response(503)

    names.define("api", Retry(2, wait=0.0))
    transport = httpx_transport(names.resilient("api"), transport=httpx.MockTransport(answer))
    with httpx.Client(transport=transport) as client:
        client.get("http://service.test/")
        assert (len(sent), transport.breakers) == (2, None)
        names.define("api", Retry(4, wait=0.0), CircuitBreakers())
        client.get("http://service.test/")
        client.post("http://service.test/")
    assert sent == ["GET"] * 6 + ["POST"]
    assert transport.breakers is not None


def test_an_explanation_can_be_drawn_and_sent(names: Registry) -> None:
    """Text, facts and chart of one pipeline say the same: policies in order, figures, warnings."""
    told = names.define("payments", Timeout(9.0), Retry(2, name='say "hi"'), Timeout(4.0)).explain()
    facts = json.loads(json.dumps(told.as_dict()))
    assert (facts["attempts"], facts["duration"]) == (2.0, told.duration)
    lines = told.mermaid().splitlines()
    assert lines[0] == "flowchart TD"
    assert [line.split("[")[1][:9] for line in lines[1:6]] == [
        '"caller"]',
        '"Timeout(',
        '"Retry(at',
        '"Timeout(',
        '"the func',
    ]
    assert '"hi"' not in told.mermaid()
    assert str(told).splitlines()[4] in lines[-1]


def test_a_name_can_be_looked_at(names: Registry, make: Make) -> None:
    """A policy of a name shows its name, its pipeline and its explanation."""
    made = names.define("payments", make.retry(2), make.timeout(1.0))
    policy = names.resilient("payments")
    assert isinstance(policy, Policy)
    assert (repr(policy), policy.name, policy.pipeline) == ("resilient('payments')", "payments", made)
    assert policy.explain() == made.explain() == explain(policy)
    assert isinstance(policy, Resilient)
