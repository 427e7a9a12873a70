"""Payloads: whatever can be stored comes back, and a digest depends on nothing but the value."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any, TypeGuard

from hypothesis import given
from hypothesis import strategies as st

from holdfast.infrastructure.store.payload import decode, digest, encode

ZONES = st.sampled_from([None, dt.UTC, dt.timezone(dt.timedelta(hours=-3, seconds=1))]) | st.timezones()
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes(timezones=ZONES, allow_imaginary=False)
    | st.times()
    | st.timedeltas()
    | st.binary()
    | st.uuids()
)
KEYS = st.text() | st.sampled_from(["$date", "$$date", "$", "$tuple"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, (list, tuple))


def shape(value: Any) -> Any:
    """Return a value with the types of all its parts, and what equality does not see."""
    if is_dict(value):
        return [(key, shape(item)) for key, item in value.items()]
    if is_list(value):
        return type(value), [shape(item) for item in value]
    return type(value), repr(value), getattr(value, "fold", None)


def shuffled(value: Any) -> Any:
    if is_dict(value):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return type(value)(map(shuffled, value)) if is_list(value) else value


@given(VALUES)
def test_values_come_back(value: Any) -> None:
    """Equal, of the same types, dicts in the same order, Decimals with their zeros."""
    assert shape(decode(encode(value))) == shape(value)


@given(VALUES)
def test_what_is_stored_is_json(value: Any) -> None:
    """Any reader of JSON can read it."""
    json.loads(encode(value))


@given(VALUES)
def test_digests_ignore_the_order_of_keys(value: Any) -> None:
    """At every depth."""
    assert digest(shuffled(value)) == digest(value)


@given(VALUES, VALUES)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    """Equal digests mean equal values of equal types."""
    if digest(one) == digest(other):
        assert decode(encode(one)) == decode(encode(other))


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_money_is_exact(amount: Decimal) -> None:
    """A Decimal keeps its digits, its exponent and its sign."""
    assert decode(encode(amount)).as_tuple() == amount.as_tuple()
