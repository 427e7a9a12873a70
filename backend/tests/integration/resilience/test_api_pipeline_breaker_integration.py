"""API × pipeline × breaker × upstream: what operators see and do over HTTP is what happens to calls."""

import threading

import pytest

from backend.tests.integration._server import HEALTHY, RESET, respond
from backend.tests.integration.resilience._shop import FAILURES, OPERATE, READ, Shop

DOWN = respond(503, b"down")


def trip(shop: Shop) -> None:
    """Let the bank fail until the circuit opens: a call of three attempts, and two attempts of the next."""
    shop.bank.play(otherwise=DOWN)
    assert [shop.pay().status_code for _ in range(2)] == [200, 503]


def test_a_healthy_service_is_shown_as_one(shop: Shop) -> None:
    """While all goes well the API says so, and counts just what the upstream was asked."""
    assert [shop.pay().json()["bank"] for _ in range(3)] == ["ok"] * 3
    assert shop.name not in shop.look("/health")["open"]
    detail = shop.detail()
    assert ("closed", None, [shop.name]) == (detail["state"], detail["retry_after"], detail["operations"])
    assert (
        shop.metrics()["holdfast_calls_total", "success"],
        shop.metrics()["holdfast_attempts_total", ""],
        shop.bank.requests,
    ) == (3.0, 3.0, 3)


def test_a_real_outage_is_seen_as_it_happens(shop: Shop) -> None:
    """The circuit opens at the fifth failure, in the middle of a call, and health, list, detail and events say so."""
    trip(shop)
    assert shop.bank.requests == FAILURES
    assert shop.api("GET", "/health", None).json()["status"] == "degraded"
    assert shop.name in shop.look("/health")["open"]
    for views in (shop.look("/circuit-breakers", limit=200)["items"], shop.look("/snapshot")["breakers"]):
        assert [one["state"] for one in views if one["name"] == shop.name] == ["open"]
    detail = shop.detail()
    assert detail["timeline"][-1]["state"] == "open"
    assert 0 < detail["retry_after"] <= 30
    kinds = [one.kind for one in shop.operations.feed.since(0) if one.name == shop.name]
    assert "CircuitOpened" in kinds


def test_retries_respect_an_open_circuit(shop: Shop) -> None:
    """Once open, no attempt of any call reaches the upstream; customers are told when to come back."""
    trip(shop)
    refused = [shop.pay() for _ in range(4)]
    assert shop.bank.requests == FAILURES
    assert [one.status_code for one in refused] == [503] * 4
    assert all(25 <= int(one.headers["retry-after"]) <= 30 for one in refused)
    assert all(shop.name not in one.text for one in refused)
    assert shop.detail()["rejected"] == 5


def test_metrics_match_what_the_upstream_counted(shop: Shop) -> None:
    """Through an outage and a recovery, calls, attempts, retries and refusals are those that the upstream saw."""
    shop.bank.play(HEALTHY, DOWN, RESET, HEALTHY, otherwise=DOWN)
    answers = [shop.pay().status_code for _ in range(6)]
    shop.bank.play(otherwise=HEALTHY)
    assert shop.operate("reset").status_code == 200
    answers += [shop.pay().status_code for _ in range(2)]
    assert answers == [200, 200, 200, 503, 503, 503, 200, 200]
    # One; two that failed and one; three that failed; two that failed, of which the second opened the circuit; two.
    assert shop.bank.requests == 1 + 3 + 3 + 2 + 0 + 0 + 2
    found = shop.metrics()
    outcomes = {
        name: found["holdfast_calls_total", name] for name in ("success", "failure", "rejected", "cancelled")
    }
    assert outcomes == {"success": 4, "failure": 1, "rejected": 3, "cancelled": 0}
    # The third attempt of the fourth call, and the first of the fifth and sixth, were refused by the breaker.
    refused = 3
    assert shop.bank.requests == found["holdfast_attempts_total", ""] - refused
    assert (
        found["holdfast_circuit_breaker_transitions_total", "open"],
        found["holdfast_circuit_breaker_state", "closed"],
    ) == (1.0, 1.0)
    retries = {"1": 3.0, "2": 3.0}
    assert retries == {ordinal: found["holdfast_retries_total", ordinal] for ordinal in retries}


def test_isolation_over_http_stops_every_call(shop: Shop) -> None:
    """An isolated breaker lets nothing through until it is released as often; the audit trail knows who and why."""
    assert shop.operate("isolate", reason="the bank moves house").json()["state"] == "isolated"
    assert shop.operate("isolate").json()["state"] == "isolated"
    assert [shop.pay().status_code for _ in range(2)] == [503, 503]
    assert shop.bank.requests == 0
    assert shop.operate("release").json()["state"] == "isolated"
    assert shop.pay().status_code == 503
    assert shop.operate("release").json()["state"] == "closed"
    assert shop.pay().json()["bank"] == "ok"
    assert shop.bank.requests == 1
    trail = shop.look("/config/audit")["items"]
    assert [one["action"] for one in trail] == ["release", "release", "isolate", "isolate"]
    assert {"on-call"} == {one["actor"] for one in trail}
    assert trail[-1]["reason"] == "the bank moves house"
    assert (
        trail[-1]["before"][shop.name]["state"],
        trail[-1]["after"][shop.name]["state"],
    ) == ("closed", "isolated")


def test_a_reset_over_http_closes_at_once(shop: Shop) -> None:
    """After a reset calls go through at once, and it takes as many failures as ever to open the circuit again."""
    trip(shop)
    assert tuple(shop.operate("reset").json()[name] for name in ("state", "rejected")) == ("closed", 0)
    trip(shop)
    assert shop.bank.requests == 2 * FAILURES
    assert shop.detail()["state"] == "open"


@pytest.mark.parametrize(("action", "state"), [("shadow", "shadow"), ("disable", "disabled")])
def test_a_breaker_that_refuses_nothing(shop: Shop, action: str, state: str) -> None:
    """In shadow or disabled, a breaker lets every attempt through, however many fail, until it is reset."""
    assert state == shop.operate(action).json()["state"]
    shop.bank.play(otherwise=DOWN)
    assert [shop.pay().status_code for _ in range(4)] == [200] * 4
    assert shop.bank.requests == 12
    assert state == shop.detail()["state"]
    assert shop.operate("reset").json()["state"] == "closed"


def test_only_the_right_key_operates(shop: Shop) -> None:
    """Neither a stranger nor a reading key changes what happens to calls."""
    for key, status in ((None, 401), (READ + "x", 401), (READ, 403)):
        assert status == shop.api("POST", f"/circuit-breakers/{shop.name}/isolate", key, json={}).status_code
    assert shop.pay().json()["bank"] == "ok"
    assert shop.look("/config/audit")["items"] == []
    assert shop.api("POST", f"/circuit-breakers/{shop.name}/isolate", OPERATE, json={}).status_code == 200


def test_the_api_answers_while_calls_hang(shop: Shop) -> None:
    """While every call waits for the upstream, the API still answers, and shows what runs."""
    shop.bank.play(otherwise=respond(after=1.0))
    customers = [threading.Thread(target=shop.pay) for _ in range(3)]
    for one in customers:
        one.start()
    try:
        assert shop.bank.wait_for_requests(3)
        assert shop.metrics()["holdfast_calls_running", ""] == 3.0
        assert shop.detail()["state"] == "closed"
    finally:
        for one in customers:
            one.join()
