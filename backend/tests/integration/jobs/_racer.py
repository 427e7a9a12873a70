"""A process that takes part in races: told where and what on its input, a line each, it opens the store and waits."""

import json
import sys

from backend.tests.integration.jobs._homes import opened
from backend.tests.integration.jobs._races import TASKS


def say(line: str) -> None:
    """Answer whoever asked."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Take part until the input ends."""
    for line in sys.stdin:
        url, task, me, facts = json.loads(line)
        store = opened(url)
        say("ready")
        sys.stdin.readline()
        say(json.dumps(TASKS[task](store, me, *facts)))
        store.close()


if __name__ == "__main__":
    main()
