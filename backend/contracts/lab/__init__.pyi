"""The lab: what would this policy do in an outage? Real policies, in virtual time, against a simulated dependency."""

from holdfast.lab.cost import Cost as Cost
from holdfast.lab.cost import cost as cost
from holdfast.lab.experiment import Comparison as Comparison
from holdfast.lab.experiment import Run as Run
from holdfast.lab.experiment import compare as compare
from holdfast.lab.experiment import escape_load as escape_load
from holdfast.lab.experiment import run as run
from holdfast.lab.measures import Interval as Interval
from holdfast.lab.measures import Measures as Measures
from holdfast.lab.report import html as html
from holdfast.lab.report import table as table
from holdfast.lab.scenarios import Scenario as Scenario
from holdfast.lab.scenarios import Server as Server
from holdfast.lab.scenarios import Trouble as Trouble
from holdfast.lab.scenarios import load_scenarios as load_scenarios
from holdfast.lab.scenarios import scenarios as scenarios
from holdfast.lab.subjects import Subject as Subject
from holdfast.lab.subjects import subject as subject
from holdfast.lab.subjects import subjects as subjects
from holdfast.lab.tuning import Trial as Trial
from holdfast.lab.tuning import Tuning as Tuning
from holdfast.lab.tuning import tune as tune
from holdfast.lab.world import World as World

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
