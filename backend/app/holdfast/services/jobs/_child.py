"""The program of a worker process: it is told what to do on its first line of input, and stops when that ends."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.services.jobs.handlers import Call

_UNUSABLE = 3


def main() -> None:
    """Work until told to stop, by a signal or because the parent is gone."""
    told: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = told["path"]
    from holdfast.infrastructure.store.state import StoreUnavailableError

    # What it says of connections that break, the errors of the store say too.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    code = 0
    try:
        _work(told)
    except StoreUnavailableError as error:
        # The next process is started in a moment: a traceback of each would tell nobody more.
        logging.getLogger("holdfast.jobs").error("%s", error)  # noqa: TRY400
        code = _UNUSABLE
    _leave(code)


def _work(told: dict[str, Any]) -> None:
    from holdfast.services.jobs._imports import imported
    from holdfast.services.jobs._process import leaving_when_stuck
    from holdfast.services.jobs.executors import TicketWorker, open_executor
    from holdfast.services.jobs.handlers import Handlers
    from holdfast.services.jobs.jobs import open_jobs
    from holdfast.services.jobs.worker import Worker

    handlers = Handlers(told["handlers"], imports=told["imports"])
    notifier = imported(told["notifier"]) if told["notifier"] else None
    with open_jobs(told["url"], handlers, tenant=told["tenant"]) as jobs:
        worker: Any
        if told["executor"] == "local":
            worker = Worker(jobs.store, handlers, notifier=notifier, **told["settings"])
        else:
            ways = {name: told[name] for name in ("tenant", "broker", "queue")}
            executor = open_executor(told["executor"], told["url"], **ways)
            worker = TicketWorker(jobs.store, handlers, executor, notifier=notifier, **told["settings"])
        threading.Thread(target=_follow, args=(worker,), daemon=True).start()
        with leaving_when_stuck(worker, _say_so):
            worker.run()


def _say_so(calls: Sequence[Call]) -> None:
    from holdfast.services.jobs._calls import why_left

    logging.getLogger("holdfast.jobs").error("%s", why_left(calls))


def _follow(worker: Any) -> None:
    """Stop when the parent's end of the pipe is closed."""
    # Not `sys.stdin`: a thread that waits in it when the interpreter ends is a fatal error.
    while os.read(0, 4096):
        pass
    worker.stop()


def _leave(code: int) -> None:
    """End, at once if threads that wait for a store would keep the process alive."""
    for thread in threading.enumerate():
        if not thread.daemon and thread.name.startswith("holdfast-"):
            thread.join(0.2)
            if thread.is_alive():
                os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
