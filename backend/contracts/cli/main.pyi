"""The `holdfast` command: serve, status, explain, config, presets, breakers, bench, jobs, runs, lab; exit codes."""

from collections.abc import Sequence

def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 fine, 1 found wanting, 2 wrong use, 3 not reachable, 4 not allowed.

    Of jobs also 5: a person has to say yes, 6: not ended yet, 130 and 143: stopped by a signal.
    """
