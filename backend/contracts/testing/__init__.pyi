"""The test kit: a virtual clock, scripted faults, a recorder of events, and the contract gate."""

from holdfast.testing.clock import VirtualClock as VirtualClock
from holdfast.testing.faults import Script as Script
from holdfast.testing.faults import Step as Step
from holdfast.testing.faults import fail as fail
from holdfast.testing.faults import hang as hang
from holdfast.testing.faults import succeed as succeed
from holdfast.testing.recorder import EventRecorder as EventRecorder
from holdfast.testing.waiting import no_wait as no_wait

__all__ = ["EventRecorder", "Script", "Step", "VirtualClock", "fail", "hang", "no_wait", "succeed"]
