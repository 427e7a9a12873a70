"""Several operations of one service over one upstream: the failure of one is not the failure of the others."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.tests.integration.resilience._text_service import FAILING, OPERATIONS, TextService

WELL = tuple(name for name in OPERATIONS if name != FAILING)


def test_only_the_failing_circuit_opens(failing_text_service: TextService) -> None:
    """An operation that fails opens its own circuit, no other's."""
    for name in WELL:
        failing_text_service.ask(name, "The sea is calm.")
    states = {
        one["name"]: one["state"] for one in failing_text_service.internal("/circuit-breakers")["items"]
    }
    assert {FAILING: "open", **dict.fromkeys(WELL, "closed")} == states


@pytest.mark.parametrize("operation", WELL)
def test_the_others_answer_as_ever(
    failing_text_service: TextService, operation: str, request: pytest.FixtureRequest
) -> None:
    """While one operation fails the others are answered by the model, at their first attempt."""
    before = failing_text_service.count(operation)
    answer = failing_text_service.ask(operation, f"The sea is calm. {request.node.name}.").json()
    assert (answer["degraded"], failing_text_service.count(operation) - before) == (False, 1)


def test_a_crowd_at_the_failing_one_delays_nobody(failing_text_service: TextService) -> None:
    """Fifty calls of the failing operation are refused without a request while the others go on."""
    before = failing_text_service.count(FAILING)
    with ThreadPoolExecutor(10) as pool:
        refused = [
            pool.submit(failing_text_service.ask, FAILING, f"Text {number}.", "who") for number in range(50)
        ]
        answers = [
            failing_text_service.ask("sentiment", f"A good day, number {number}.").json()
            for number in range(5)
        ]
    assert [one.result().status_code for one in refused] == [503] * 50
    assert [(one["result"], one["degraded"]) for one in answers] == [("positive", False)] * 5
    assert failing_text_service.count(FAILING) - before == 0


def test_usage_is_told_apart(failing_text_service: TextService) -> None:
    """Monitoring says of each operation what became of its own calls."""
    failing_text_service.ask("sentiment", "A fine day.")
    failing_text_service.service.get("/internal/resilience/metrics")
    lines = failing_text_service.service.get("/internal/resilience/metrics").text.splitlines()
    failed = {
        line.partition('operation="')[2].partition('"')[0]
        for line in lines
        if line.startswith("holdfast_calls_total{")
        and 'outcome="failure"' in line
        and not line.endswith(" 0.0")
    }
    assert {FAILING} == failed
