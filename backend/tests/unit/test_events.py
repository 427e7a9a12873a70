"""Events, their subscribers, and what a subscriber cannot do."""

import copy
import dataclasses
import logging
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.infrastructure.resilience import events
from holdfast.infrastructure.resilience._bus import bus, callback_failed, emit
from holdfast.infrastructure.resilience.events import (
    BudgetExhausted,
    CallbackFailed,
    CircuitClosed,
    CircuitOverridden,
    Event,
    subscribe,
)
from holdfast.testing import EventRecorder, VirtualClock

KINDS = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)]


@pytest.fixture(autouse=True)
def no_subscriber_is_left() -> Iterator[None]:
    before = bus.entries
    yield
    assert bus.entries == before


def publish(*names: str) -> None:
    for name in names:
        emit("CircuitClosed", name)


def test_a_subscriber_gets_events_at_the_time_of_the_common_clock(virtual_clock: VirtualClock) -> None:
    """An event carries its policy's name, the moment and its facts."""
    with EventRecorder() as recorder:
        virtual_clock.advance(5)
        emit("CircuitOverridden", "db", state="isolated")

    assert recorder.events == (CircuitOverridden(name="db", at=1005.0, state="isolated"),)


def test_without_kinds_and_names_everything_comes() -> None:
    """A bare subscription gets every kind from every policy, in order."""
    seen: list[Event] = []

    with subscribe(seen.append):
        publish("a")
        emit("BudgetExhausted", "b", budget="shared")

    assert [(type(event), event.name) for event in seen] == [(CircuitClosed, "a"), (BudgetExhausted, "b")]


def test_kinds_select() -> None:
    """Only events of the given kinds come; `Event` itself means all."""
    seen: list[Event] = []

    with subscribe(seen.append, BudgetExhausted, CircuitOverridden), subscribe(seen.append, Event):
        publish("a")
        emit("BudgetExhausted", "b", budget="shared")

    assert [event.name for event in seen] == ["a", "b", "b"]


def test_names_select() -> None:
    """Only events of the policies with the given names come; an empty set lets none through."""
    seen: list[Event] = []
    nothing: list[Event] = []

    with (
        subscribe(seen.append, names=frozenset({"a", "c"})),
        subscribe(nothing.append, names=frozenset()),
    ):
        publish("a", "b", "c")

    assert [event.name for event in seen] == ["a", "c"]
    assert nothing == []


def test_kinds_and_names_select_together() -> None:
    """With both, an event must match both."""
    seen: list[BudgetExhausted] = []

    with subscribe(seen.append, BudgetExhausted, names=frozenset({"a"})):
        publish("a")
        emit("BudgetExhausted", "b", budget="shared")
        emit("BudgetExhausted", "a", budget="shared")

    assert [event.name for event in seen] == ["a"]


def test_a_closed_subscription_gets_nothing() -> None:
    """After `close` no event comes; closing twice does nothing."""
    seen: list[Event] = []
    subscription = subscribe(seen.append)

    publish("a")
    subscription.close()
    subscription.close()
    publish("b")

    assert [event.name for event in seen] == ["a"]


def test_each_subscription_is_its_own() -> None:
    """One subscriber may subscribe twice, and leaves one place at a time."""
    seen: list[Event] = []

    with subscribe(seen.append):
        with subscribe(seen.append):
            publish("a")
        publish("b")

    assert [event.name for event in seen] == ["a", "a", "b"]


def test_subscribers_are_called_in_order_and_in_the_thread_that_decides() -> None:
    """Who subscribed first is called first, where the event happened."""
    calls: list[tuple[int, int]] = []

    with (
        subscribe(lambda _: calls.append((1, threading.get_ident()))),
        subscribe(lambda _: calls.append((2, threading.get_ident()))),
    ):
        publish("a")

    assert calls == [(1, threading.get_ident()), (2, threading.get_ident())]


def test_a_subscriber_may_leave_while_it_is_called() -> None:
    """Closing a subscription inside a subscriber disturbs nobody."""
    seen: list[str] = []

    def leave(_: Event) -> None:
        seen.append("first")
        first.close()

    first = subscribe(leave)
    with subscribe(lambda _: seen.append("second")):
        publish("a", "b")

    assert seen == ["first", "second", "second"]


def test_a_subscriber_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its error reaches neither the call nor the other subscribers, and the log only the first time."""
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise ZeroDivisionError(event.name)

    with caplog.at_level(logging.ERROR, "holdfast"), subscribe(broken), subscribe(seen.append):
        publish("a", "b", "c")

    assert [event.name for event in seen] == ["a", "b", "c"]
    (record,) = caplog.records
    assert "the call's outcome is unchanged" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_an_interrupt_passes_through_a_subscriber() -> None:
    """What is not an Exception is nobody's to swallow."""

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with subscribe(interrupted), pytest.raises(KeyboardInterrupt):
        publish("a")


def test_a_callback_that_raises_is_an_event_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """A user's callback that fails is reported as an event every time, in the log once."""
    error = ValueError("no")

    with caplog.at_level(logging.ERROR, "holdfast"), EventRecorder() as recorder:
        callback_failed("db", "test_a_callback_that_raises", error)
        callback_failed("db", "test_a_callback_that_raises", error)

    assert [(event.callback, event.error) for event in recorder.of(CallbackFailed)] == [
        ("test_a_callback_that_raises", error)
    ] * 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_is_a_frozen_value(kind: type[Event]) -> None:
    """An event is keyword-only, frozen, slotted, comparable, and can be copied and pickled."""
    make: Any = kind
    facts = dict.fromkeys((field.name for field in dataclasses.fields(kind)), 1.0)
    event = make(**facts)

    assert pickle.loads(pickle.dumps(event)) == copy.copy(event) == event
    assert not hasattr(event, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.name = "other"
    with pytest.raises(TypeError):
        make(*facts.values())


def test_a_recorder_selects_by_kind_and_forgets() -> None:
    """A recorder gives all events, their kinds, those of one kind, and none after `clear`."""
    with EventRecorder() as recorder:
        publish("a")
        emit("BudgetExhausted", "b", budget="shared")
        assert recorder.kinds == ("CircuitClosed", "BudgetExhausted")
        assert [event.budget for event in recorder.of(BudgetExhausted)] == ["shared"]
        recorder.clear()
        publish("c")

    assert [event.name for event in recorder.events] == ["c"]


def test_a_recorder_records_only_inside_its_block() -> None:
    """Before and after its block a recorder hears nothing; what it heard stays."""
    recorder = EventRecorder(names=frozenset({"a"}))

    publish("a")
    with recorder:
        publish("a", "b")
    publish("a")

    assert [event.name for event in recorder.events] == ["a"]
