"""A breaker's state as facts that survive a restart."""

from __future__ import annotations

from holdfast.infrastructure.resilience._breaker import CLOSED, HALF_OPEN, ISOLATED, OPEN, SHADOW, Change
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.states import CircuitState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from holdfast.infrastructure.resilience._breaker import Machine

_VERSION = 1
_WHOLE = ("rounds", "holds", "calls", "failures", "slow")
# What four bytes of a window's bucket hold, and seconds since 1970 until the year 2100.
_MOST = 4_102_444_800


def export(machine: Machine) -> dict[str, Any]:
    """Return the facts. A half-open breaker is exported as open and due: its probes belong to this process."""
    clock = machine.config.clock or current_clock()
    with machine.lock:
        machine.refresh()
        counts = machine.counts()
        wait = max(0.0, machine.until - machine.now()) if machine.mode is OPEN else 0.0
        return {
            "version": _VERSION,
            "state": machine.mode.value,
            "rounds": machine.rounds,
            "holds": machine.holds,
            "wait": wait,
            "calls": counts.calls,
            "failures": counts.failures,
            "slow": counts.slow,
            "at": clock.time(),
        }


def restore(machine: Machine, facts: Mapping[str, Any]) -> Change:
    """Put a machine into an exported state; return what is to be told."""
    state, numbers = _read(facts)
    clock = machine.config.clock or current_clock()
    passed = max(0.0, clock.time() - numbers["at"])
    with machine.lock:
        old, now = machine.mode, machine.now()
        machine.rounds = int(numbers["rounds"])
        left = max(0.0, min(numbers["wait"], machine.config.open_cap * 2) - passed)
        machine.take_over(OPEN if state is HALF_OPEN else state, now, now + left)
        if numbers["holds"]:
            machine.extra = int(numbers["holds"])
        if machine.window is not None and state in {CLOSED, SHADOW}:
            calls, failures = int(numbers["calls"]), int(numbers["failures"])
            slow = 0 if machine.watch is None else int(numbers["slow"])
            both = min(failures, slow)
            machine.window.add_successes(calls - max(failures, slow))
            machine.window.rotate(now)
            for failed, late in ((both, both), (failures - both, 0), (0, slow - both)):
                if failed or late:
                    machine.window.add(calls=max(failed, late), failures=failed, slow=late)
    return Change("CircuitOverridden", old, machine.mode, state=machine.mode.value)


def _read(facts: Any) -> tuple[CircuitState, dict[str, float]]:
    if not hasattr(facts, "get") or not hasattr(facts, "keys"):
        raise _malformed(f"{facts!r} is no mapping")
    if facts.get("version") != _VERSION:
        raise _malformed(f"version {facts.get('version')!r} is not {_VERSION}")
    try:
        state = CircuitState(facts["state"])
    except (KeyError, ValueError):
        known = ", ".join(one.value for one in CircuitState)
        raise _malformed(f"state {facts.get('state')!r} is none of {known}") from None
    numbers = {key: _number(facts, key) for key in (*_WHOLE, "wait", "at")}
    if max(numbers["failures"], numbers["slow"]) > numbers["calls"]:
        raise _malformed("there are more failures or slow calls than calls")
    if (numbers["holds"] > 0) is not (state is ISOLATED):
        raise _malformed(f"{numbers['holds']:g} holds do not go with state {state.value!r}")
    return state, numbers


def _number(facts: Mapping[str, Any], key: str) -> float:
    value = facts.get(key)
    kind = int if key in _WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value <= _MOST:
        raise _malformed(
            f"{key} = {value!r} is not a{' whole' if key in _WHOLE else ''} number from 0 to {_MOST}"
        )
    return value


def _malformed(what: str) -> ValueError:
    return ValueError(f"this is no state of a breaker: {what}; give what export_state() returned")
