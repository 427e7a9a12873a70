"""Tables for people, and a self-contained HTML page with plots."""

from holdfast.lab.experiment import Comparison, Run
from holdfast.lab.tuning import Tuning

def table(result: Run | Comparison | Tuning) -> str:
    """Return a Markdown table: of the measures, a column per policy, mean and 95 % interval over the seeds.

    Of a tuning: the settings it began with, then its Pareto front, the smallest weighted sum of costs first.
    """

def html(result: Run | Comparison | Tuning) -> str:
    """Return a page that needs nothing else: verdicts, the table, and plots of the first seed, second by second.

    Of a tuning: its table, and every trial by the two costs that weigh most.
    """
