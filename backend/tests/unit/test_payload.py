"""Payloads come back as they were given, or are refused with the place of what cannot."""

import enum
import json
import pickle
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from holdfast.infrastructure.store.payload import PayloadError, decode, digest, encode

BERLIN = ZoneInfo("Europe/Berlin")


class Colour(enum.StrEnum):
    RED = "red"


class Text(str):
    __slots__ = ()


def label(value: Any) -> str:
    return "long" if value == 10**5000 else ascii(value)


def there_and_back(value: Any) -> Any:
    return decode(encode(value))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**30),
        10**5000,
        0.1,
        -0.0,
        float("inf"),
        "ä \x00 \n \ud800 \U0001f600",
        [],
        {},
        (),
        (1, [2, (3,)]),
        Decimal("1.10"),
        Decimal("-0E+3"),
        Decimal("Infinity"),
        date(2026, 2, 28),
        datetime(2026, 2, 28, 1, 2, 3, 4),  # noqa: DTZ001  # naive on purpose
        datetime(2026, 2, 28, tzinfo=UTC),
        datetime(2026, 2, 28, tzinfo=timezone(-timedelta(hours=3, minutes=30, microseconds=1))),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
        time(1, 2, 3, 4),
        time(1, 2, tzinfo=UTC),
        timedelta(-1, 2, 3),
        b"\x00\xff",
        UUID("12345678-1234-5678-1234-567812345678"),
        {"$decimal": "1.10"},
        {"$": 1, "$$": 2, "$$$tuple": [3], "plain": {"$date": None}},
    ],
    ids=label,
)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """What is decoded is equal, of the same type, and shown the same."""
    back = there_and_back({"a": [value]})["a"][0]
    assert (back, type(back)) == (value, type(value))
    if value != 10**5000:
        assert repr(back) == repr(value)


def test_a_fold_and_a_zone_come_back() -> None:
    """The second 02:30 of the night in which clocks go back stays the second, in its zone."""
    back = there_and_back(datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN))
    assert (back.fold, back.tzinfo) == (1, BERLIN)


def test_nan_comes_back() -> None:
    """NaN is no number and equal to nothing, but it is stored all the same."""
    back = there_and_back([float("nan"), Decimal("NaN"), Decimal("sNaN123")])
    assert [repr(item) for item in back] == ["nan", "Decimal('NaN')", "Decimal('sNaN123')"]


def test_what_is_stored_is_json() -> None:
    """Other programs can read it: compact JSON, in UTF-8 where the text allows, in the order of the keys."""
    assert encode({"b": "ä", "a": [1, Decimal("2.50")]}) == '{"b":"ä","a":[1,{"$decimal":"2.50"}]}'.encode()
    assert json.loads(encode("\ud800")) == "\ud800"


def test_text_is_decoded_as_bytes_are() -> None:
    """A column of text holds it as well as one of bytes."""
    assert decode(encode((1,)).decode()) == (1,)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"price": 1j}, "payload.price: 1j (complex) would not come back as it is; give None, bool"),
        ({"a": [0, {"b c": {1}}]}, "payload.a[1]['b c']: {1} (set) would not"),
        ({"a": {1: 2}}, "payload.a: has the key 1, which is no text; give a dict with keys of text"),
        ({"a": {Text("b"): 2}}, "payload.a: has the key 'b', which is no text"),
        ((1, Text("x")), "payload[1]: 'x' (Text) would not come back as it is; give a plain str"),
        (
            [Colour.RED],
            "payload[0]: <Colour.RED: 'red'> (Colour) would not come back as it is; give a plain str",
        ),
        ({"at": time(1, tzinfo=timezone(timedelta(0), "X"))}, "payload.at: has the time zone"),
        ({"at": datetime(2026, 1, 1, tzinfo=ZoneInfo.no_cache("UTC"))}, "payload.at: has the time zone"),
        (bytearray(1), "payload: bytearray(b'\\x00') (bytearray) would not"),
    ],
    ids=repr,
)
def test_what_cannot_come_back_is_refused(value: Any, said: str) -> None:
    """The error names the place, the value and what to give instead; a digest is refused alike."""
    with pytest.raises(PayloadError) as caught:
        encode(value)
    assert str(caught.value).startswith(said)
    with pytest.raises(PayloadError) as again:
        digest(value)
    assert str(again.value) == str(caught.value)


def test_what_contains_itself_is_refused() -> None:
    """A list inside itself is found by its depth, not by the end of the stack."""
    inside: list[Any] = []
    inside.append(inside)
    with pytest.raises(PayloadError, match="nested deeper than 100"):
        encode(inside)


def test_the_name_of_what_is_stored_begins_the_path() -> None:
    """A result is not called a payload."""
    with pytest.raises(PayloadError, match=r"^result\.label: "):
        encode({"label": object()}, name="result")


def test_the_error_tells_its_parts_and_travels() -> None:
    """Path, problem and remedy can be read apart, also in another process."""
    with pytest.raises(PayloadError) as caught:
        encode({"a": Text("x")})
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.path, error.remedy) == ("payload.a", "give a plain str")
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        '{"$new":1}',
        '{"$date":"x"}',
        '{"$date":1}',
        '{"$decimal":"x"}',
        '{"$timedelta":["x"]}',
    ],
)
def test_what_nobody_encoded_is_refused(data: bytes | str) -> None:
    """Broken or newer bytes are one kind of error."""
    with pytest.raises(PayloadError, match="cannot be read"):
        decode(data)


def test_deep_bytes_are_refused() -> None:
    """Bytes that nest beyond Python's stack are the same kind of error."""
    deep = sys.getrecursionlimit() * 10
    with pytest.raises(PayloadError, match="cannot be read"):
        decode(b"[" * deep + b"]" * deep)


def test_a_digest_ignores_the_order_of_keys() -> None:
    """Equal dicts have equal digests, also deep inside; lists in another order do not."""
    assert digest({"a": 1, "b": [{"c": 1, "d": 2}]}) == digest({"b": [{"d": 2, "c": 1}], "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def test_a_digest_is_the_same_in_every_version() -> None:
    """Approvals are bound to digests that were stored: the canonical form does not change."""
    value = {"b": "ä", "a": [1, Decimal("2.50"), date(2026, 1, 2), (None, True)]}
    assert digest(value) == "8a4b7d87f07a02156fbd52f51e79b2b913cfd05410ab4e8eed69cd9aed94db0e"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (1, Decimal(1)),
        (Decimal("1.0"), Decimal("1.00")),
        ([1], (1,)),
        ("2026-01-02", date(2026, 1, 2)),
        ({"$date": "2026-01-02"}, date(2026, 1, 2)),
    ],
    ids=repr,
)
def test_a_digest_tells_types_apart(one: Any, other: Any) -> None:
    """What would be handed to a handler differently has another digest."""
    assert digest(one) != digest(other)
