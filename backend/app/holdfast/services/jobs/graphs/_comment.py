"""What is told about a run, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.infrastructure.store.state import StepState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.infrastructure.store.state import StepRecord

_MOST = 100
_FIRST = {StepState.FAILED: 0, StepState.TIMED_OUT: 0, StepState.RUNNING: 1, StepState.SUCCEEDED: 3}


def body(settings: Mapping[str, object], run: str, status: str, steps: Sequence[StepRecord]) -> str:
    """Return the comment of a run: failures first, a hundred orders at most; its tag is in the first line."""
    shown = sorted(steps, key=lambda step: _FIRST.get(step.state, 2))[:_MOST]
    rows = "".join(f"| {step.key} | {step.state} | {_cell(step.error)} |\n" for step in shown)
    more = len(steps) - len(shown)
    return (
        f"<!-- {settings['tag']} -->\n**{settings['flow']}**: {status}\n\n"
        f"| order | state | |\n|---|---|---|\n{rows}"
        + (f"\nand {more} more\n" if more else "")
        + f"\nRun `{run}`\n"
    )


def _cell(text: str) -> str:
    return text[:200].replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("@", "@\u200b")
