"""Fail unless enough of the policies' branches were taken: `branches.py REPORT`, from `coverage json`."""

import json
import sys
from pathlib import Path

GATED = "backend/app/holdfast/infrastructure/resilience/"
GATE = 95.0


def main(report: Path) -> str | None:
    """Print the share of branches taken; return what is wrong, if anything is."""
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    gated = {path: files[path]["summary"] for path in sorted(files) if path.startswith(GATED)}
    taken = sum(summary.get("covered_branches", 0) for summary in gated.values())
    total = sum(summary.get("num_branches", 0) for summary in gated.values())
    if total == 0:
        return f"no branch was measured below {GATED}: was the suite run with --cov=holdfast, from the root?"
    share = 100 * taken / total
    print(f"{GATED}: {taken} of {total} branches taken, {share:.2f} %; the gate is {GATE:g} %")
    if share >= GATE:
        return None
    missed = [
        f"  {path}: {missing} not taken" for path, s in gated.items() if (missing := s["missing_branches"])
    ]
    return "\n".join(["too few branches were taken:", *missed])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
