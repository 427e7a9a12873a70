"""The test kit: a virtual clock, scripted faults, a recorder of events, and the contract gate."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.testing.clock import VirtualClock
    from holdfast.testing.faults import Script, Step, fail, hang, succeed
    from holdfast.testing.recorder import EventRecorder
    from holdfast.testing.waiting import no_wait

__all__ = ["EventRecorder", "Script", "Step", "VirtualClock", "fail", "hang", "no_wait", "succeed"]

# Loaded when first asked for: pytest imports the plugin beside them before it does anything else.
_HOMES = {"EventRecorder": "recorder", "VirtualClock": "clock", "no_wait": "waiting"}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'faults')}"), name)
        globals()[name] = found
        return found
