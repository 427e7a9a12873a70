"""Everything a run needs, on one machine: a target of subprocesses, code in a folder, comments in files, a timer."""

from pathlib import Path

from holdfast.infrastructure.store.blob import BlobStore
from holdfast.services.jobs.graphs.ports import Comment, ResultListener, Work
from holdfast.services.jobs.graphs.secrets import Secrets

class LocalTarget:
    """Execute orders as subprocesses, `concurrency` at once, each in a folder of its own that is removed afterwards.

    Of this process's environment only PATH, HOME, LANG, LC_ALL, TZ and TMPDIR are passed on. Limits of each command:
    `cpu` seconds, `memory` bytes of addresses; of an order's output the first `log_limit` bytes are kept, with stars in
    place of its secrets, which `secrets` reads. At its timeout an order's process group is killed, and when this
    process dies, which fails an order that is dispatched again. Close it to wait for what runs.
    """

    def __init__(
        self,
        blobs: BlobStore,
        listener: ResultListener,
        *,
        concurrency: int = 4,
        cpu: int = 3600,
        memory: int = 4294967296,
        log_limit: int = 1048576,
        secrets: Secrets | None = None,
    ) -> None: ...
    @property
    def running(self) -> int:
        """How many orders run here."""

    def has(self, work: Work) -> bool:
        """Return whether an order runs here."""

    def drain(self) -> None:
        """Start nothing more: there is no room from now on."""

    def dispatch(self, work: Work) -> bool:
        """Start an order in a thread; False if as many as may be run."""

    def cancel(self, work: Work) -> None:
        """Kill an order that runs here."""

    def close(self, *, cancel: bool = False) -> None:
        """Wait for orders that run, or kill them with `cancel`."""

    def kill(self) -> None:
        """Kill all that runs here; it says so."""

class FolderCode:
    """Code in a folder: locations are paths below `root`, of folders or files, links refused.

    `most`: bytes that one location may have.
    """

    def __init__(self, root: str | Path, *, most: int = 268435456) -> None: ...
    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Return content and mode of each file by its path. ValueError."""

class FileNotifier:
    """Comments as files of a folder, one for each tag, replaced in place: `path` says where."""

    def __init__(self, folder: str | Path) -> None: ...
    def path(self, tag: str) -> Path:
        """Return the file of a tag."""

    def tell(self, comment: Comment) -> None:
        """Write a comment, or replace the one with the same tag."""

class CommentFile:
    """The comment of the run that was told of last, in one file, replaced in place."""

    def __init__(self, path: str | Path) -> None: ...
    def tell(self, comment: Comment) -> None:
        """Write a comment over what was there."""

class DueTimer:
    """A timer of this process; what it forgets with it, `Runs.tick` finds again. Threads may share it."""

    def __init__(self) -> None: ...
    def watch(self, run: str, number: int, at: float) -> None:
        """Remember to call."""

    def next_at(self) -> float | None:
        """Return when the next call is due, None if there is none."""

    def due(self, now: float) -> list[tuple[str, int]]:
        """Return, and forget, the runs and numbers whose time has come, the earliest first."""
