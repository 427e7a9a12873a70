"""Service and resilience and upstream: what the users of the reference service see while its model fails."""

import time

import pytest

from backend.tests.integration.resilience._text_service import INTERNAL, OPERATIONS, TextService

QUESTION = "what did we see on the rock"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_answered_by_one_request(
    text_service: TextService, new_text: str, operation: str
) -> None:
    """While the model is well an answer takes one request, and is not degraded."""
    before = text_service.count(operation)
    answer = text_service.ask(operation, new_text, QUESTION).json()
    assert (operation, False) == (answer["operation"], answer["degraded"])
    assert answer["result"]
    assert text_service.count(operation) - before == 1


@pytest.mark.parametrize(("operation", "requests"), [("summarize", 1), ("qa", 1), ("sentiment", 2)])
def test_kept_answers_cost_no_request(
    text_service: TextService, new_text: str, operation: str, requests: int
) -> None:
    """The same question again is answered by the cache, where the operation has one."""
    before = text_service.count(operation)
    first, second = (text_service.ask(operation, new_text, QUESTION).json() for _ in range(2))
    assert first == second
    assert requests == text_service.count(operation) - before


def test_a_failure_that_passes_is_not_seen(text_service: TextService, new_text: str) -> None:
    """One failed request is retried: the user gets the model's answer."""
    before = text_service.count("summarize")
    text_service.fail(status=503, times=1)
    answer = text_service.ask("summarize", new_text).json()
    assert (
        answer["result"],
        answer["degraded"],
    ) == ("The sea is calm. It was a good day.", False)
    assert text_service.count("summarize") - before == 2


def test_degraded_answers_are_marked_and_not_kept(text_service: TextService, new_text: str) -> None:
    """While the model fails the fallback answers, marked; afterwards the model is asked again."""
    before = text_service.count("summarize")
    text_service.fail(status=503)
    worse = text_service.ask("summarize", new_text).json()
    assert (worse["result"], worse["degraded"]) == ("The sea is calm.", True)
    assert text_service.count("summarize") - before == 2
    text_service.fail()
    better = text_service.ask("summarize", new_text).json()
    assert (better["result"], better["degraded"]) == ("The sea is calm. It was a good day.", False)
    assert text_service.count("summarize") - before == 3


def test_a_fallback_may_be_a_value(text_service: TextService, new_text: str) -> None:
    """An operation with a plain fallback answers with it, marked."""
    text_service.fail(status=500)
    answer = text_service.ask("sentiment", new_text).json()
    assert (answer["result"], answer["degraded"]) == ("neutral", True)


def test_without_a_fallback_the_user_is_told(text_service: TextService, new_text: str) -> None:
    """An operation without a fallback answers 502 while the model fails, as problem+json without internals."""
    text_service.fail(status=503)
    answer = text_service.ask("qa", new_text, QUESTION)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "application/problem+json")
    assert answer.json()["detail"] == "The model failed to answer qa."


def test_an_open_circuit_spares_the_model(text_service: TextService, new_text: str) -> None:
    """After four failures in a row the circuit is open: 503 with Retry-After at once, and no request."""
    text_service.fail(status=503)
    statuses = [text_service.ask("qa", new_text, QUESTION).status_code for _ in range(2)]
    assert (statuses, text_service.state("qa")) == ([502, 502], "open")
    before = text_service.count("qa")
    refused = text_service.ask("qa", new_text, QUESTION)
    assert (refused.status_code, text_service.count("qa") - before) == (503, 0)
    assert 1 <= int(refused.headers["retry-after"]) <= 12


def test_a_permanent_error_is_not_retried(text_service: TextService, new_text: str) -> None:
    """An error that would not pass costs one request and does not count against the model."""
    text_service.fail(status=400)
    before = text_service.count("qa")
    assert text_service.ask("qa", new_text, QUESTION).status_code == 502
    assert (text_service.count("qa") - before, text_service.state("qa")) == (1, "closed")


def test_added_latency_is_measured(text_service: TextService, new_text: str) -> None:
    """The durations that the service publishes hold the model's time and little else."""

    def measured() -> tuple[float, float]:
        lines = text_service.service.get(f"{INTERNAL}/metrics").text.splitlines()
        found = {
            line.rpartition(" ")[0].partition("{")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("holdfast_call_duration_seconds_") and 'operation="questions"' in line
        }
        return found["holdfast_call_duration_seconds_count"], found["holdfast_call_duration_seconds_sum"]

    text_service.ask("questions", new_text)
    calls, seconds = measured()
    text_service.fail(delay=0.2, times=3)
    began = time.monotonic()
    for _ in range(3):
        text_service.ask("questions", new_text)
    seen = time.monotonic() - began
    more, longer = measured()
    assert more - calls == 3
    assert 0.6 <= longer - seconds <= seen
