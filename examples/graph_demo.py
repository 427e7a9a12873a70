"""A small build graph with an order that fails and one that hangs; the process that runs it is killed half-way.

Nine orders: fetch, then lint, three tests and a slow packaging side by side, then publishing and a report. The program
submits them, a process of its own executes them with `holdfast runs serve` and is killed with SIGKILL while `package`
runs; another process goes on; what failed is mended and done again. The comment that people see is one file, which is
printed each time it has changed. At the end every order's own book is compared with what the store says.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import holdfast
from holdfast.infrastructure.store.sql import open_store
from holdfast.services.jobs.graphs import Runs, RunService, RunView

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = str(Path(holdfast.__file__).parents[1])
# What each order does first: it writes a line into a book that no store knows of.
NOTE = 'echo "$NAME" >> "$BOOK"; '


def order(name: str, command: str, *after: str, **settings: Any) -> dict[str, Any]:
    """Return an order."""
    return {
        "name": name,
        "commands": [NOTE + command],
        "timeout": 20,
        "depends_on": list(after),
        **settings,
    }


def graph(folder: Path) -> dict[str, Any]:
    """Return the request: `test-slow` hangs, `lint` fails and need not succeed, `package` waits for a gate."""
    orders = [
        order("fetch", "cat app.txt"),
        order("lint", "echo 'line 3 is too long'; exit 1", "fetch", must_succeed=False),
        order("test-unit", "echo 24 passed", "fetch"),
        order("test-api", "echo 11 passed", "fetch"),
        order("test-slow", f"test -e {folder}/mended || sleep 600", "fetch", timeout=2),
        order(
            "package", f"until test -e {folder}/gate; do sleep 0.05; done; echo packed", "test-unit", "lint"
        ),
        order("sign", "echo signed", "package"),
        order("publish", "echo published", "sign", "test-api", "test-slow"),
        order("report", "echo all told", "test-unit", "test-api", "lint"),
    ]
    for one in orders:
        one["environment"] = {"NAME": one["name"], "BOOK": str(folder / "book")}
    return {
        "user": "ann",
        "label": "build",
        "repository": "app",
        "search_tag": "build of app",
        "orders": orders,
    }


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command, as anybody would."""
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast", "runs", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": HERE, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def heard(process: subprocess.Popen[str], said: str = "") -> None:
    """Print what a process says, to its end or until it has said something."""
    assert process.stdout is not None
    for line in process.stdout:
        print(f"    {line.rstrip()}")
        if said and said in line:
            return


def wait_for(true: Callable[[], object]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)


def comment(service: RunService, when: str) -> None:
    """Print the comment as it is now."""
    path = service.comments.path("build of app")
    others = sum(1 for _ in path.parent.iterdir()) - 1
    print(f"\nThe comment {when} ({path.name}, {others} others):")
    lines = path.read_text(encoding="utf-8").splitlines()
    print("".join(f"    {line}\n" for line in lines if line and not line.startswith(("<!--", "|---"))))


def states(view: RunView) -> dict[str, str]:
    """Return the state of each order."""
    return {one.name: one.state.value for one in view.orders}


def play(folder: Path) -> list[str]:
    """Do it all; return what is not as it should be."""
    (folder / "app").mkdir()
    (folder / "app" / "app.txt").write_text("an application\n", encoding="utf-8")
    (folder / "graph.json").write_text(json.dumps(graph(folder)), encoding="utf-8")
    with (
        open_store(f"sqlite:///{folder}/holdfast.db") as store,
        RunService(store, folder / "holdfast-runs", code=folder) as service,
    ):
        first = service.runs.submit((folder / "graph.json").read_bytes(), delivery_id="push-1")
        again = service.runs.submit((folder / "graph.json").read_bytes(), delivery_id="push-1")
        print(
            f"Submitted as {first.run_id}; the same delivery again is the same run: {again.run_id == first.run_id}"
        )
        comment(service, "at first")
        kill_in_the_middle(folder, service.runs, first.run_id)
        print("\nAnother process goes on with what is left:")
        (folder / "gate").touch()
        heard(second := command(folder, "serve"))
        second.wait()
        ended = service.runs.status(first.run_id)
        comment(service, "at the end of the run")
        print("What failed is mended, and done again with what fell with it; nothing else is:")
        (folder / "mended").touch()
        heard(third := command(folder, "retry", first.run_id, "--serve"))
        third.wait()
        last = service.runs.status(service.runs.find(limit=1)[0].run_id)
        comment(service, "at the end of the second run")
        return verdict(folder, first.run_id == again.run_id, ended, last)


def kill_in_the_middle(folder: Path, runs: Runs, run: str) -> None:
    """Let a process execute orders, and kill it while one runs."""
    print("A process executes it, and is killed while `package` runs:")
    process = command(folder, "serve")
    heard(process, "package: running")
    wait_for(lambda: "package" in (folder / "book").read_text(encoding="utf-8").split())
    wait_for(lambda: states(runs.status(run))["report"] == "succeeded")
    process.send_signal(signal.SIGKILL)
    heard(process)
    process.wait()
    print(f"    killed by signal {-process.returncode}")


def verdict(folder: Path, one_run: bool, first: RunView, last: RunView) -> list[str]:  # noqa: FBT001
    """Compare what the orders wrote down themselves with what the store says; print it; return what is wrong."""
    book = Counter((folder / "book").read_text(encoding="utf-8").split())
    found, retried = states(first), states(last)
    print(f"{'order':<11} {'first run':<11} {'second run':<11} {'really started':>14}")
    for name, state in found.items():
        print(f"{name:<11} {state:<11} {retried.get(name, '–'):<11} {book[name]:>14}")
    good = {"fetch", "test-unit", "test-api", "report"}
    checks = {
        "the same delivery is one run": one_run,
        "what succeeded was started once": all(book[one] == 1 for one in good),
        "the killed order was failed, not repeated": found["package"] == "failed" and book["package"] == 2,
        "the hanging one has timed out or was killed": found["test-slow"] in {"timed_out", "failed"},
        "what waited for them fell": {found["sign"], found["publish"]} == {"failed"},
        "a failure that may be holds nothing up": found["lint"] == "failed"
        and found["report"] == "succeeded",
        "the second run did the rest": retried["publish"] == "succeeded" and last.status == "succeeded",
        "it repeated nothing that had succeeded": not good & retried.keys(),
    }
    print()
    for said, true in checks.items():
        print(f"  {'yes' if true else 'NO '}  {said}")
    return [said for said, true in checks.items() if not true]


def main() -> int:
    """Play in a folder that is removed; return 1 if something was not as it should be."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-graph-"))
    try:
        wrong = play(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"\n{'as it should be' if not wrong else 'NOT as it should be'}, in {time.monotonic() - began:.1f} s"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
