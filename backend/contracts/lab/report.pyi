"""Tables for people, and a self-contained HTML page with plots."""

from holdfast.lab.experiment import Comparison, Run

def table(result: Run | Comparison) -> str:
    """Return the measures as a Markdown table, a column per policy: mean and 95 % interval over the seeds."""

def html(result: Run | Comparison) -> str:
    """Return a page that needs nothing else: verdicts, the table, and plots of the first seed, second by second."""
