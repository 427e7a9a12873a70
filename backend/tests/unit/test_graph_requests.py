"""Requests to run orders: what is read, and that every fault is told at once."""

import json
import pickle
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.services.jobs.graphs.delivery import Delivery, read_delivery
from holdfast.services.jobs.graphs.request import Order, RequestRefusedError, RunRequest, parse_request

BUILD: dict[str, Any] = {"name": "build", "commands": ["make"], "timeout": 60}
REQUEST: dict[str, Any] = {"user": "ann", "label": "ci", "repository": "github.com/x/y", "orders": [BUILD]}


def faults(document: object, **settings: Any) -> tuple[str, ...]:
    with pytest.raises(RequestRefusedError) as refused:
        parse_request(document, **settings)
    assert refused.value.status == 400
    return refused.value.faults


def order_faults(**changes: Any) -> tuple[str, ...]:
    return faults({**REQUEST, "orders": [{**BUILD, **changes}]})


def test_a_small_request() -> None:
    """What is not given has its default; addresses outlive the longest order by five minutes."""
    assert parse_request(REQUEST) == RunRequest(
        orders=(Order(name="build", commands=("make",), timeout=60.0),),
        user="ann",
        label="ci",
        repository="github.com/x/y",
        presign_expiry=360.0,
        job_timeout=3600.0,
    )


def test_a_full_request() -> None:
    """Each field is read as it is given; a dependency that is named twice counts once."""
    order = {
        "name": "test",
        "commands": ["a", "a"],
        "timeout": 1.5,
        "code": "src",
        "depends_on": ["build", "build"],
        "must_succeed": False,
        "target": "ssm",
        "environment": {"A": "ä"},
    }
    document = {
        **REQUEST,
        "orders": [BUILD, order],
        "token_location": "env:TOKEN",
        "pull_request": 7,
        "issue": 8,
        "search_tag": "tag",
        "presign_expiry": 360,
        "job_timeout": 5,
        "run_id": "run-1",
        "trace_id": "abc",
    }
    request = parse_request(document, targets=("local", "ssm"))
    assert request.orders[1] == Order(
        name="test",
        commands=("a", "a"),
        timeout=1.5,
        code="src",
        depends_on=("build",),
        must_succeed=False,
        target="ssm",
        environment={"A": "ä"},
    )
    assert (request.token_location, request.pull_request, request.issue) == ("env:TOKEN", 7, 8)
    assert (request.search_tag, request.presign_expiry, request.job_timeout) == ("tag", 360.0, 5.0)
    assert (request.run_id, request.trace_id) == ("run-1", "abc")


@pytest.mark.parametrize("orders", [None, [], "build", {}])
def test_a_request_has_orders(orders: object) -> None:
    """A run without orders is none."""
    assert faults({**REQUEST, "orders": orders}) == ("there are no orders; give at least one in 'orders'",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"commands": []}, "'commands' is an empty list; give a list of texts, at least one"),
        ({"commands": None}, "'commands' is missing; give a list of texts, at least one"),
        ({"commands": "make"}, "'commands' is text; give a list of texts, at least one"),
        ({"commands": ["make", " "]}, "'commands' has an entry that is empty or no text; drop it"),
        ({"commands": ["a\0b"]}, "'commands' has an entry that is empty or no text; drop it"),
        ({"timeout": 0}, "'timeout' is 0; give seconds above 0, 8.64e+06 at most"),
        ({"timeout": -1}, "'timeout' is -1; give seconds above 0, 8.64e+06 at most"),
        ({"timeout": None}, "'timeout' is missing; give seconds above 0"),
        ({"timeout": float("nan")}, "'timeout' is a number; give seconds above 0"),
        ({"timeout": True}, "'timeout' is true or false; give seconds above 0"),
        ({"target": "moon"}, "target 'moon' is unknown; give one of: local"),
        ({"must_succeed": 1}, "'must_succeed' is 1; give true or false"),
        ({"environment": {"A B": "1"}}, "'environment' names 'A B'; give letters, digits and '_'"),
        ({"environment": {"A": 1}}, "'environment' gives A a number; give text without zero bytes"),
        ({"environment": [1]}, "'environment' is a list; give an object of texts"),
        ({"depends_on": [1]}, "'depends_on' has an entry that is empty or no text; drop it"),
        ({"colour": {}}, "field 'colour' is unknown; drop it"),
    ],
)
def test_a_fault_of_an_order(changes: dict[str, Any], said: str) -> None:
    """Each is told with the order's name."""
    assert order_faults(**changes) == (f"order 'build': {said}",)


@pytest.mark.parametrize("name", ["-a", "a/b", "a" * 101, "ä"])
def test_the_name_of_an_order_is_plain(name: str) -> None:
    """It may stand in a file name and in a comment."""
    assert len(order_faults(name=name)) == 1
    assert "the first a letter or digit" in order_faults(name=name)[0]


def test_an_order_has_code() -> None:
    """Its own, or that of the run's repository."""
    without = {key: value for key, value in REQUEST.items() if key != "repository"}
    said = "order 'build' has no code source; give it 'code', or the request a 'repository'"
    assert faults(without) == (said,)
    assert parse_request({**without, "orders": [{**BUILD, "code": "src"}]}).orders[0].code == "src"


def test_addresses_outlive_the_longest_order() -> None:
    """By 300 seconds at least: an order must be able to say how it ended."""
    said = "presign_expiry 359 s is shorter than the longest timeout + 300 s; give 360 at least"
    assert faults({**REQUEST, "presign_expiry": 359}) == (said,)
    assert parse_request({**REQUEST, "presign_expiry": 360}).presign_expiry == 360.0


def test_names_are_known_and_unique_and_nobody_waits_for_himself() -> None:
    """Unknown and duplicate names and cycles are told together, each cycle with its members."""
    orders = [
        {**BUILD, "name": "a", "depends_on": ["b", "z"]},
        {**BUILD, "name": "b", "depends_on": ["a"]},
        {**BUILD, "name": "c", "depends_on": ["c"]},
        {**BUILD, "name": "b"},
    ]
    found = faults({**REQUEST, "orders": orders})
    assert found[:2] == (
        "order 'b' is there twice; give each a name of its own",
        "order 'a' depends on 'z', which is not in this run",
    )
    assert len(found) == 4
    assert all("wait for each other" in one for one in found[2:])


def test_all_faults_are_told_at_once() -> None:
    """Of the request, of each order, and of the graph."""
    orders = [3, {"name": "a", "commands": [], "timeout": 0, "target": "moon", "depends_on": ["z"]}]
    found = faults({"user": "a:b", "orders": orders, "issue": 0, "presign_expiry": 1, "colour": "red"})
    assert len(found) == 11
    assert [one for one in found if "order 1 is a number" in one]
    assert [one for one in found if one.startswith("'label' is missing")]


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_request_is_an_object(document: object) -> None:
    """All else is refused."""
    assert len(faults(document)) == 1


def test_too_many_orders_are_refused() -> None:
    """Ten thousand are enough."""
    assert faults({**REQUEST, "orders": [BUILD] * 10_001}) == ("there are 10001 orders; give 10000 at most",)


def test_a_refusal_can_be_pickled() -> None:
    """Status and faults come along."""
    error = pickle.loads(pickle.dumps(RequestRefusedError(400, ["one", "two"])))
    assert (error.status, error.faults) == (400, ("one", "two"))
    assert str(error) == "no run was started:\n  one\n  two"


def by_gateway(method: str) -> dict[str, Any]:
    return {"httpMethod": method}


def by_function(method: str) -> dict[str, Any]:
    return {"requestContext": {"http": {"method": method}}}


TEXT = json.dumps(REQUEST)
PACKED = b64encode(TEXT.encode()).decode()
SNS = {"Type": "Notification", "MessageId": "m-1", "Message": PACKED}
FORMS: dict[str, tuple[Any, str | None]] = {
    "object": (REQUEST, None),
    "json": (TEXT, None),
    "bytes": (TEXT.encode(), None),
    "base64": (PACKED, None),
    "base64 in lines": (f"{PACKED[:20]}\n{PACKED[20:]}\n", None),
    "webhook": ({"httpMethod": "POST", "headers": {"X-GitHub-Delivery": "g-1"}, "body": TEXT}, "g-1"),
    "webhook, packed": (
        {"requestContext": {"http": {"method": "POST"}}, "body": PACKED, "isBase64Encoded": True},
        None,
    ),
    "webhook, packed twice": (
        {"httpMethod": "POST", "body": b64encode(PACKED.encode()).decode(), "isBase64Encoded": True},
        None,
    ),
    "sns over http": (json.dumps(SNS), "m-1"),
    "sns event": ({"Records": [{"Sns": {"MessageId": "m-2", "Message": TEXT}}]}, "m-2"),
    "sns in a webhook": ({"httpMethod": "POST", "headers": None, "body": json.dumps(SNS)}, "m-1"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_delivery_says_the_same_in_every_form(form: str) -> None:
    """With the id that its sender gave it."""
    body, known = FORMS[form]
    assert read_delivery(body) == Delivery(document=REQUEST, id=known)
    assert read_delivery(body, delivery_id="own").id == "own"


@pytest.mark.parametrize("method", ["GET", "put"])
@pytest.mark.parametrize("event", [by_gateway, by_function])
def test_another_method_is_not_allowed(event: Callable[[str], dict[str, Any]], method: str) -> None:
    """Only POST starts a run."""
    with pytest.raises(RequestRefusedError, match="is not allowed; use POST") as refused:
        read_delivery(event(method))
    assert refused.value.status == 405


UNREADABLE: list[Any] = [
    "",
    "not json",
    b"\xff\xfe",
    "[1]",
    "3",
    None,
    [REQUEST],
    "[" * 100_000,
    {"httpMethod": "POST", "body": None},
    {"httpMethod": "POST", "body": "§", "isBase64Encoded": True},
    {"Records": []},
    {"Records": [{"s3": {}}]},
    {"Records": [{"Sns": {}}]},
]


@pytest.mark.parametrize("body", UNREADABLE)
def test_what_cannot_be_read_is_refused(body: object) -> None:
    """With 400 and one sentence."""
    with pytest.raises(RequestRefusedError) as refused:
        read_delivery(body)
    assert refused.value.status == 400
    assert len(refused.value.faults) == 1
