"""The errors: one tree, facts, messages, and what becomes of them in another process."""

import copy
import importlib
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

from holdfast.infrastructure.resilience.errors import (
    BulkheadFullError,
    CallRejectedError,
    ChannelError,
    CircuitOpenError,
    CommandFailed,
    ConcurrencyLimitedError,
    ConfigurationError,
    Fault,
    HoldfastError,
    HttpFailed,
    PeerBusy,
    PeerDisconnected,
    PeerNotConnected,
    PeerRefused,
    RateLimitedError,
    ReplyTimeout,
    RetryBudgetExhausted,
    ThrottledError,
    TimeoutExceeded,
)
from holdfast.infrastructure.resilience.states import CircuitState

Faults: Any = vars(importlib.import_module("holdfast.infrastructure.resilience._frozen"))["Faults"]

FAULT = Fault("attempts", 0, "is out of range", "give a whole number from 1 to 20")
WAIT = Fault("wait", -1, "is out of range", "give a number from 0")

ERRORS: list[HoldfastError] = [
    HoldfastError("broken"),
    ConfigurationError("Retry", (FAULT, WAIT)),
    CallRejectedError("limiter", 0.25),
    CallRejectedError("limiter"),
    CircuitOpenError("payments"),
    CircuitOpenError("payments", 4.97, CircuitState.HALF_OPEN),
    RetryBudgetExhausted("payments"),
    BulkheadFullError("payments"),
    RateLimitedError("payments", 0.5),
    ConcurrencyLimitedError("payments"),
    ThrottledError("payments"),
    TimeoutExceeded(2.5),
    TimeoutExceeded(2.5, "checkout"),
    ChannelError("printer", "ship"),
    PeerNotConnected("printer", "ship"),
    PeerNotConnected("printer", "ship", may_have_run=True),
    PeerDisconnected("printer", "ship"),
    PeerDisconnected("printer", "ship", may_have_run=False),
    ReplyTimeout("printer", "ship", 60.0),
    PeerBusy("printer", "ship"),
    CommandFailed("printer", "ship", "failed", "no paper"),
    CommandFailed("printer", "ship", "unknown_action", "no such action"),
    PeerRefused("printer", "401 Unauthorized"),
    HttpFailed("POST", "https://labels.test/", 503, "busy", retry_after=3.0),
]
NAMES = [repr(error) for error in ERRORS]


class NeedsTwo(Exception):
    """It pickles, but what it pickles to cannot be called: the usual mistake of exception classes."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def travelled(error: HoldfastError, protocol: int = pickle.HIGHEST_PROTOCOL) -> HoldfastError:
    there: HoldfastError = pickle.loads(pickle.dumps(error, protocol))
    return there


def caused(error: HoldfastError, cause: BaseException) -> HoldfastError:
    try:
        raise error from cause
    except HoldfastError as caught:
        return caught


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (HoldfastError, (Exception,)),
        (ConfigurationError, (HoldfastError, ValueError)),
        (CallRejectedError, (HoldfastError,)),
        (CircuitOpenError, (CallRejectedError,)),
        (RetryBudgetExhausted, (CallRejectedError,)),
        (BulkheadFullError, (CallRejectedError,)),
        (RateLimitedError, (CallRejectedError,)),
        (ConcurrencyLimitedError, (CallRejectedError,)),
        (ThrottledError, (CallRejectedError,)),
        (TimeoutExceeded, (HoldfastError, TimeoutError)),
        (ChannelError, (HoldfastError,)),
        (PeerNotConnected, (ChannelError, ConnectionError)),
        (PeerDisconnected, (ChannelError, ConnectionError)),
        (ReplyTimeout, (ChannelError, TimeoutError)),
        (PeerBusy, (ChannelError,)),
        (CommandFailed, (ChannelError,)),
        (PeerRefused, (HoldfastError,)),
        (HttpFailed, (HoldfastError,)),
    ],
)
def test_the_errors_are_one_tree(kind: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    """Whoever catches HoldfastError catches all of them; each is also what the standard library would raise."""
    assert issubclass(kind, HoldfastError)
    assert all(issubclass(kind, base) for base in bases)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_every_error_survives_pickling(error: HoldfastError, protocol: int) -> None:
    """Type, facts, message and notes are the same on the other side, in every protocol."""
    noted = copy.copy(error)
    noted.add_note("holdfast: gave up after 3 attempts")

    there = travelled(noted, protocol)

    assert type(there) is type(error)
    assert there.args == error.args
    assert str(there) == str(error)
    assert vars(there) == vars(noted)
    assert there.__notes__ == ["holdfast: gave up after 3 attempts"]


@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_the_cause_travels_with_the_error(error: HoldfastError) -> None:
    """The whole chain of causes is there on the other side, with notes; plain exceptions would lose it."""
    root = ConnectionError("reset by peer")
    root.add_note("while reading")
    middle = caused(TimeoutExceeded(1.0), root)

    there = travelled(caused(copy.copy(error), middle))

    assert isinstance(there.__cause__, TimeoutExceeded)
    assert isinstance(there.__cause__.__cause__, ConnectionError)
    assert there.__cause__.__cause__.args == ("reset by peer",)
    assert there.__cause__.__cause__.__notes__ == ["while reading"]


@pytest.mark.parametrize(
    ("cause", "note"),
    [
        (RuntimeError("held", threading.Lock()), "caused by RuntimeError: ('held', <unlocked"),
        (NeedsTwo("a", "b"), f"caused by {NeedsTwo.__module__}.NeedsTwo: a and b"),
    ],
)
def test_a_cause_that_cannot_travel_becomes_a_note(cause: Exception, note: str) -> None:
    """Where the cause cannot be pickled, or not be rebuilt, the error still arrives and says what the cause was."""
    error = caused(TimeoutExceeded(1.0), cause)

    there = travelled(error)

    assert there.__cause__ is None
    assert len(there.__notes__) == 1
    assert there.__notes__[0].startswith(note)
    assert not hasattr(error, "__notes__")


def test_an_error_without_a_cause_has_none_after_pickling() -> None:
    """Nothing is invented: no cause, no notes."""
    there = travelled(CircuitOpenError("payments"))

    assert there.__cause__ is None
    assert not hasattr(there, "__notes__")


def test_an_error_that_is_its_own_cause_can_be_pickled() -> None:
    """`raise error from error` is legal, and must not make pickling endless."""
    error = CircuitOpenError("payments")
    error.__cause__ = error

    assert travelled(error).args == ("payments",)


def test_attributes_that_users_add_are_pickled() -> None:
    """What somebody hangs on an error for their own use arrives."""
    error: Any = CircuitOpenError("payments")
    error.request_id = "r-1"

    there: Any = travelled(error)

    assert there.request_id == "r-1"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConfigurationError("Retry", (FAULT,)),
            "Retry: attempts = 0 is out of range; give a whole number from 1 to 20",
        ),
        (
            ConfigurationError("Retry", (FAULT, WAIT)),
            (
                "Retry: 2 faults\n"
                "  attempts = 0 is out of range; give a whole number from 1 to 20\n"
                "  wait = -1 is out of range; give a number from 0"
            ),
        ),
        (CallRejectedError("limiter"), "policy 'limiter' refused the call"),
        (CallRejectedError("limiter", 0.25), "policy 'limiter' refused the call; try again in 0.25 s"),
        (CircuitOpenError("payments"), "circuit breaker 'payments' is open"),
        (CircuitOpenError("payments", 4.9712), "circuit breaker 'payments' is open; try again in 4.97 s"),
        (CircuitOpenError("payments", 3599.6), "circuit breaker 'payments' is open; try again in 3600 s"),
        (
            CircuitOpenError("payments", 0.0, CircuitState.HALF_OPEN),
            "circuit breaker 'payments' is half-open; try again in 0 s",
        ),
        (
            CircuitOpenError("payments", None, CircuitState.ISOLATED),
            "circuit breaker 'payments' is isolated",
        ),
        (RetryBudgetExhausted("payments"), "retry budget 'payments' has no token for another attempt"),
        (RateLimitedError("search", 0.25), "rate limit 'search' has no permit left; try again in 0.25 s"),
        (
            RateLimitedError("search", 0.75, True),
            "rate limit 'search' cannot be asked: its store does not answer; try again in 0.75 s",
        ),
        (TimeoutExceeded(2.5), "timeout exceeded: no result within 2.5 s"),
        (TimeoutExceeded(2, "checkout"), "timeout of 'checkout' exceeded: no result within 2 s"),
        (ChannelError("a", "ship"), "peer 'a' brought no result of 'ship'; it may have run"),
        (PeerNotConnected("a", "ship"), "peer 'a' is not connected: 'ship' was not sent; it has not run"),
        (
            PeerNotConnected("a", "ship", may_have_run=True),
            "peer 'a' is not connected: 'ship' was not sent now, but was earlier; it may have run",
        ),
        (
            PeerDisconnected("a", "ship", may_have_run=False),
            "peer 'a' disconnected before it answered 'ship'; it has not run",
        ),
        (ReplyTimeout("a", "ship", 60), "peer 'a' did not answer 'ship' within 60 s; it may have run"),
        (PeerBusy("a", "ship"), "peer 'a' is busy and did not begin 'ship'; it has not run"),
        (
            CommandFailed("a", "ship", "unknown_action", "none such"),
            "peer 'a' failed at 'ship' (unknown_action): none such; it has not run",
        ),
        (PeerRefused("a", "401 Unauthorized"), "the server refused peer 'a': 401 Unauthorized"),
        (HttpFailed("PUT", "http://a.test/", 404, "gone"), "PUT http://a.test/ answered 404: gone"),
    ],
)
def test_messages_say_who_what_and_how_long(error: Exception, message: str) -> None:
    """A message names the policy, what it did, and in seconds when to come back if that is known."""
    assert str(error) == message


def test_errors_carry_their_facts() -> None:
    """Facts are attributes, never to be parsed from the message."""
    opened = CircuitOpenError("payments", 1.5, CircuitState.HALF_OPEN)
    timed_out = TimeoutExceeded(3, "checkout")
    wrong = ConfigurationError("Retry", (FAULT, WAIT))

    assert (opened.name, opened.retry_after, opened.state) == ("payments", 1.5, CircuitState.HALF_OPEN)
    assert (timed_out.seconds, timed_out.name) == (3.0, "checkout")
    assert (wrong.subject, wrong.faults) == ("Retry", (FAULT, WAIT))


def test_facts_that_are_left_out_have_defaults() -> None:
    """A rejection knows no time to come back unless told, a breaker that refuses is open, a timeout has no name."""
    opened = CircuitOpenError("payments")

    assert (opened.retry_after, opened.state) == (None, CircuitState.OPEN)
    assert TimeoutExceeded(1).name is None


def test_a_timeout_is_no_error_number() -> None:
    """A timeout of 2 s is not errno 2, 'no such file', as OSError's constructor would have it."""
    error = TimeoutExceeded(2, "checkout")

    assert (error.errno, error.strerror, error.filename) == (None, None, None)
    assert travelled(error).args == (2, "checkout")


@pytest.mark.parametrize("error", [ReplyTimeout("a", "ship", 2), PeerDisconnected("a", "ship")], ids=repr)
def test_an_error_of_a_channel_is_no_error_number(error: OSError) -> None:
    """Peer and action are not an errno and a strerror, as OSError's constructor would have it."""
    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_rejections_take_their_facts_by_position() -> None:
    """The constructor of a rejection is C code, which knows no names."""
    make: Any = CircuitOpenError
    with pytest.raises(TypeError, match="no keyword arguments"):
        make(name="payments")


def test_faults_compare_by_content() -> None:
    """Two faults are equal if their four parts are; an unhashable value does not matter."""
    one, other = (Fault("on", [1], "is wrong", "mend it") for _ in range(2))

    assert one == other
    assert hash(one) == hash(other)
    assert one != Fault("on", [2], "is wrong", "mend it")
    assert one != "on"
    assert repr(one) == "Fault('on', [1], 'is wrong', 'mend it')"


def test_a_fault_with_a_value_that_cannot_be_pickled_still_travels() -> None:
    """A configuration error in a worker process says the same to its parent, whatever value was wrong."""
    lock = threading.Lock()
    error = ConfigurationError("Retry", (Fault("on", lock, "says nothing", "give a function"), FAULT))

    there = travelled(travelled(error))

    assert str(there) == str(error)
    assert isinstance(there, ConfigurationError)
    assert there.faults[1] == FAULT


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), float("inf"), float("-inf"), float("nan"), True, "1", None]
)
def test_a_number_of_a_configuration_is_finite(value: Any) -> None:
    """Infinity, NaN, and whole numbers that no float can hold are faults, also where a range has no ends."""
    faults = Faults("Retry")
    faults.number("deadline", value, float("-inf"))
    with pytest.raises(ConfigurationError) as caught:
        faults.finish()

    assert [fault.path for fault in caught.value.faults] == ["deadline"]
    assert caught.value.faults[0].value is value


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


JOIN = """
import pickle, sys
from holdfast.infrastructure.resilience import errors
from holdfast.infrastructure.resilience.errors import CircuitOpenError, CallRejectedError
from holdfast.infrastructure.resilience import _pybreaker as joining
join = joining.join
"""


def test_a_rejection_is_a_pybreaker_error_once_pybreaker_is_imported() -> None:
    """`except pybreaker.CircuitBreakerError` catches CircuitOpenError, its facts, message and pickle as before."""
    run(
        JOIN
        + """
assert join() is False
assert "pybreaker" not in sys.modules
import pybreaker
early = CircuitOpenError("made before", 1.0)
assert join() is True and join() is True
try:
    raise CircuitOpenError("payments", 2.0)
except pybreaker.CircuitBreakerError as error:
    assert isinstance(error, CallRejectedError)
    assert (error.name, error.retry_after, error.state.value) == ("payments", 2.0, "open")
    assert str(error) == "circuit breaker 'payments' is open; try again in 2 s"
    assert pickle.loads(pickle.dumps(error)).args == error.args
assert isinstance(early, pybreaker.CircuitBreakerError)
assert CircuitOpenError.__bases__.count(pybreaker.CircuitBreakerError) == 1
assert not issubclass(CallRejectedError, pybreaker.CircuitBreakerError)
"""
    )


def test_a_subclass_of_ours_follows_into_pybreakers_family() -> None:
    """A user's own subclass, made before pybreaker was imported, is caught too."""
    run(
        JOIN
        + """
class Ours(CircuitOpenError): pass
import pybreaker
join()
try:
    raise Ours("payments")
except pybreaker.CircuitBreakerError as error:
    assert error.name == "payments"
"""
    )


@pytest.mark.parametrize("module", ["None", "types.ModuleType('pybreaker')"])
def test_a_pybreaker_that_is_blocked_or_half_imported_is_left_alone(module: str) -> None:
    """Neither an import that somebody blocked nor one that another thread has not finished makes trouble."""
    run(
        JOIN
        + f"""
import types
sys.modules["pybreaker"] = {module}
before = CircuitOpenError.__bases__
assert join() is False
assert CircuitOpenError.__bases__ == before
"""
    )
