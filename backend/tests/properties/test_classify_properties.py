"""Classification is total: whatever an error is and carries, there is a verdict, and nothing is raised."""

import importlib
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.infrastructure.resilience.classify import (
    PERMANENT,
    THROTTLED,
    TRANSIENT,
    Classifier,
    Verdict,
    classify,
    parse_retry_after,
    retry_after,
)

YEAR = 31_536_000

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TABLE: dict[str, dict[str, Any]] = vars(importlib.import_module(classify.__module__))["_NAMES"]
PACKAGES = sorted(TABLE)
NAMES = sorted({name for names in TABLE.values() for name in names})
ATTRIBUTES = (
    "response",
    "status_code",
    "status",
    "headers",
    "retry_after",
    "errno",
    "reason",
    "orig",
    "sqlstate",
    "pgcode",
)
BASES = (
    Exception,
    OSError,
    ConnectionError,
    TimeoutError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    StopIteration,
    ExceptionGroup,
)


class Hostile:
    """An attribute of which everything raises."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __bool__(self) -> bool:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise ZeroDivisionError


class Holder:
    """An answer with attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


numbers = (
    st.integers() | st.floats() | st.sampled_from(list(HTTPStatus)) | st.integers(100, 599) | st.booleans()
)
header_values = st.text() | st.integers(-10, 10**6).map(str) | numbers | st.none() | st.binary()
headers = st.dictionaries(st.sampled_from(("Retry-After", "retry-after", "Date")), header_values)
simple = numbers | st.text() | st.none() | st.binary() | headers | st.builds(Hostile) | st.builds(list[Any])
botocore = st.fixed_dictionaries(
    {},
    optional={
        "ResponseMetadata": simple
        | st.dictionaries(st.sampled_from(("HTTPStatusCode", "HTTPHeaders")), simple)
    },
)
answers = st.builds(Holder, status_code=simple, status=simple, headers=simple | headers)
values = simple | botocore | answers | st.builds(ValueError) | st.builds(ConnectionError)


def make(
    base: type[Exception], package: Any, name: str, raising: set[str], attributes: dict[str, Any]
) -> Exception:
    def fail(error: Exception) -> Any:
        raise RuntimeError("not set")

    body: dict[str, Any] = {"__module__": package, **{one: property(fail) for one in raising}}
    kind: type[Exception] = type(name, (base,), body)
    error = kind("many", [ValueError()]) if issubclass(kind, ExceptionGroup) else kind("text")
    for attribute in attributes.keys() - raising:
        try:
            setattr(error, attribute, attributes[attribute])
        except (AttributeError, TypeError):
            continue
    return error


errors = st.builds(
    make,
    st.sampled_from(BASES),
    st.sampled_from([*PACKAGES, "mine", "mine.deep", "", 5, None]),
    st.sampled_from([*NAMES, "Other"]),
    st.sets(st.sampled_from(ATTRIBUTES), max_size=3),
    st.dictionaries(st.sampled_from(ATTRIBUTES), values),
)


@relaxed
@given(errors)
def test_every_error_gets_a_verdict(error: Exception) -> None:
    """Any type with any attributes: a Verdict, the same one when asked again, and never an exception."""
    verdict = classify(error)

    assert isinstance(verdict, Verdict)
    assert classify(error) is verdict


@relaxed
@given(errors)
def test_every_error_has_a_hint_or_none(error: Exception) -> None:
    """Any type with any attributes: seconds from 0 to a year, or None, and never an exception."""
    hint = retry_after(error)

    assert hint is None or 0 <= hint <= YEAR


@relaxed
@given(errors, st.sampled_from((TRANSIENT, PERMANENT, THROTTLED)))
def test_a_throttled_verdict_comes_with_its_hint(error: Exception, listed: Verdict) -> None:
    """THROTTLED means that `retry_after` knows when; only who lists a status as THROTTLED promises that himself."""
    policy = Classifier(transient=(type(error),)) if listed is TRANSIENT else Classifier()

    for verdict in (classify(error), policy.classify(error)):
        assert (verdict is THROTTLED) <= (retry_after(error) is not None)


@relaxed
@given(errors)
def test_programming_errors_stay_whatever_they_carry(error: Exception) -> None:
    """TypeError and KeyError are never transient, under any name and with any status."""
    if isinstance(error, (TypeError, LookupError)):
        assert classify(error) is PERMANENT


@pytest.mark.parametrize("base", [BaseException, KeyboardInterrupt, SystemExit, GeneratorExit])
@relaxed
@given(name=st.sampled_from(NAMES), package=st.sampled_from(PACKAGES))
def test_what_is_no_exception_is_permanent(base: type[BaseException], name: str, package: str) -> None:
    """Cancellation and exits are permanent under any name, and no predicate hears of them."""
    asked: list[BaseException] = []

    def predicate(error: Exception) -> Verdict:
        asked.append(error)
        return TRANSIENT

    error = type(name, (base,), {"__module__": package, "status_code": 503})()

    assert classify(error) is PERMANENT
    assert Classifier(predicates=(predicate,)).classify(error) is PERMANENT
    assert asked == []


@relaxed
@given(st.text() | st.from_regex(r"[-+]?[0-9., :A-Za-z]{0,40}"), st.floats() | st.none())
def test_any_text_is_parsed_or_ignored(text: str, now: float | None) -> None:
    """Arbitrary text at an arbitrary time: seconds from 0 to a year, or None, and never an exception."""
    seconds = parse_retry_after(text, now=now)

    assert seconds is None or 0 <= seconds <= YEAR


@relaxed
@given(st.integers(0, 10**30), st.sampled_from(("", " ", "\t", "000")))
def test_whole_seconds_are_read_as_they_are(seconds: int, around: str) -> None:
    """Delta seconds are exact up to a year, and a year beyond it; leading zeros and blanks do not matter."""
    left = around if around == "000" else around * 2

    assert parse_retry_after(f"{left}{seconds}{around.strip('0')}") == min(seconds, YEAR)


def imf(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def rfc850(moment: datetime) -> str:
    return f"{moment:%A, %d-%b-%y %H:%M:%S} GMT"


def asctime(moment: datetime) -> str:
    return f"{moment:%a %b} {moment.day:2d} {moment:%H:%M:%S %Y}"


@pytest.mark.parametrize("form", [imf, rfc850, asctime])
@relaxed
@given(st.integers(-1_000_000, 3_000_000), st.integers(1_000_000_000, 3_000_000_000))
def test_all_three_forms_of_an_http_date_are_read(
    form: Callable[[datetime], str], ahead: int, now: int
) -> None:
    """RFC 9110, 5.6.7: IMF-fixdate, RFC 850 and asctime are UTC; the hint is exact, and None for the past."""
    value = form(datetime.fromtimestamp(now + ahead, UTC))

    assert parse_retry_after(value, now=now) == (ahead if ahead >= 0 else None)
