"""Handlers: what can be one, under which name others find it, and what is said when it cannot be found."""

import asyncio
import sys
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import pytest

from holdfast import ConfigurationError, Retry
from holdfast.services.jobs import Call, Handler, HandlerNotFoundError, Handlers, handler
from holdfast.services.jobs.handlers import resolve


def plain(payload: Any) -> Any:
    return payload


async def plain_async(payload: Any, call: Call) -> Any:
    return payload, call.attempt


def nothing() -> None:
    pass


def three(a: Any, b: Any, c: Any) -> None:
    pass


class Carrier:
    def ship(self, payload: Any) -> Any:
        return "shipped", payload

    async def ship_later(self, payload: Any, call: Call) -> Any:
        return "later", payload, call.key


@handler("decorated", idempotent=True)
def decorated(payload: Any) -> Any:
    return payload


def test_a_handler_is_called_like_its_function() -> None:
    """Outside any job a handler does what its function does, whether or not it wants to know the call."""
    assert Handler(plain)(7) == 7
    assert asyncio.run(Handler(plain_async)(7)) == (7, 1)
    assert asyncio.run(Handler(plain_async)(7, Call(job="j", key="k", attempt=3))) == (7, 3)
    assert decorated(7) == 7


@pytest.mark.parametrize("policy", [None, Retry(attempts=2)], ids=["bare", "under a policy"])
def test_methods_and_partials_are_handlers_too(policy: Any) -> None:
    """Bound methods and partial functions, sync and async, can be handlers, also under a policy."""
    carrier = Carrier()

    assert Handler(carrier.ship, policy=policy)(7) == ("shipped", 7)
    call = Call(job="j", key="k")
    assert asyncio.run(Handler(carrier.ship_later, policy=policy)(7, call)) == ("later", 7, "k")
    assert Handler(partial(plain), name="p", policy=policy)(7) == 7


def test_a_second_parameter_with_a_default_is_no_call() -> None:
    """Only a parameter without a default, or one called `call`, gets the call."""

    def own(payload: Any, retries: int = 3) -> Any:
        return retries

    def named(payload: Any, call: Call | None = None) -> Any:
        return call is not None

    assert Handler(own)(7) == 3
    assert Handler(named)(7) is True


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"function": 7}, "is no function"),
    ({"function": Carrier}, "is no function"),
    ({"function": nothing}, "cannot be called"),
    ({"function": three}, "cannot be called"),
    ({"name": ""}, "is no name"),
    ({"policy": 7}, "is no policy"),
    ({"idempotent": "yes"}, "is not a bool"),
    ({"reconcile": 7}, "is not callable"),
    ({"validate": plain_async}, "is async"),
    ({"on": "all"}, "does not say which errors"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_what_is_no_handler_is_refused(wrong: dict[str, Any], said: str) -> None:
    """Each fault of a handler is named."""
    settings: dict[str, Any] = {"function": plain, **wrong}
    with pytest.raises(ConfigurationError, match=said):
        Handler(**settings)


def test_generators_are_refused() -> None:
    """A generator function would never run: it is refused, with what to do instead."""

    def rows(payload: Any) -> Any:
        yield payload

    with pytest.raises(ConfigurationError, match="is a generator"):
        Handler(rows)


def test_the_decorator_needs_its_parentheses() -> None:
    """`@handler` over a function says how to write it."""
    with pytest.raises(TypeError, match=r"@handler\(\) with parentheses over 'plain'"):
        handler(plain)  # type: ignore[arg-type]


def test_a_handler_is_known_by_where_it_is_defined() -> None:
    """Unless named, a handler is known by module and function, and can be imported by that."""

    def inner(payload: Any) -> Any:
        return payload

    assert Handler(plain).name == Handler(plain).reference == f"{__name__}:plain"
    assert (decorated.name, decorated.reference) == ("decorated", f"{__name__}:decorated")
    assert Handler(inner).reference == ""


def test_what_runs_as_a_program_is_known_by_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of `__main__` has the name under which another process imports it."""
    main = ModuleType("__main__")
    main.__file__ = "/srv/orders/app.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    function: Any = FunctionType(plain.__code__, globals(), "ship")
    function.__module__, function.__qualname__ = "__main__", "ship"
    main.__dict__["ship"] = function

    assert Handler(function).reference == "app:ship"
    assert resolve("app:ship").function is function


def test_references_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:attribute` gives the handler there, or makes one of the function there."""
    module = ModuleType("orders")
    module.__dict__.update(plain=plain, decorated=decorated, Carrier=Carrier, number=7)
    monkeypatch.setitem(sys.modules, "orders", module)

    assert resolve("orders:decorated") is decorated
    assert resolve("orders:plain").name == "orders:plain"
    assert resolve("orders:Carrier.ship").function is Carrier.ship


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("ship", 'give "module:function"'),
        (":ship", 'give "module:function"'),
        ("no_such_module:ship", "there is no module 'no_such_module'"),
        ("holdfast_broken:ship", "mend module 'holdfast_broken'"),
        ("json:ship", "has no 'ship'"),
        ("json:__name__", "is str, no function"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(reference: str, said: str, tmp_path: Any) -> None:
    """What is missing is told, and what to do: the form, the module, what the module fails with, the attribute."""
    (tmp_path / "holdfast_broken.py").write_text("1 / 0", encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(HandlerNotFoundError, match=said) as caught:
            resolve(reference)
    finally:
        sys.path.remove(str(tmp_path))
    assert caught.value.reference == reference


def test_handlers_are_found_by_name() -> None:
    """What was added is found; others are imported only if that is allowed."""
    known = Handlers([decorated, f"{__name__}:plain"])

    assert list(known) == ["decorated", f"{__name__}:plain"]
    assert known.find("decorated") is decorated
    assert known.find("other", f"{__name__}:decorated") is decorated
    with pytest.raises(HandlerNotFoundError, match="known: 'decorated'"):
        Handlers([decorated], imports=False).find("other", f"{__name__}:decorated")


def test_two_handlers_of_one_name_are_refused() -> None:
    """A name says which code a stored job runs: it cannot mean two things."""
    known = Handlers([decorated])

    assert known.add(decorated) is decorated
    with pytest.raises(ConfigurationError, match="a name of its own"):
        known.add(Handler(plain, name="decorated"))
