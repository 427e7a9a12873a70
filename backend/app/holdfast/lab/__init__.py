"""The lab: what would this policy do in an outage? Real policies, in virtual time, against a simulated dependency."""

from __future__ import annotations

from holdfast.lab.cost import Cost, cost
from holdfast.lab.experiment import Comparison, Run, compare, escape_load, run
from holdfast.lab.measures import Interval, Measures
from holdfast.lab.report import html, table
from holdfast.lab.scenarios import Scenario, Server, Trouble, load_scenarios, scenarios
from holdfast.lab.subjects import Subject, subject, subjects
from holdfast.lab.tuning import Trial, Tuning, tune
from holdfast.lab.world import World

__all__ = [
    "Comparison",
    "Cost",
    "Interval",
    "Measures",
    "Run",
    "Scenario",
    "Server",
    "Subject",
    "Trial",
    "Trouble",
    "Tuning",
    "World",
    "compare",
    "cost",
    "escape_load",
    "html",
    "load_scenarios",
    "run",
    "scenarios",
    "subject",
    "subjects",
    "table",
    "tune",
]
