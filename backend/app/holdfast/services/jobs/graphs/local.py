"""Everything a run needs, on one machine: a target of subprocesses, code in a folder, comments in files, a timer."""

from __future__ import annotations

import heapq
import io
import json
import logging
import os
import re
import signal
import subprocess
import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.randomness import current_random
from holdfast.infrastructure.store.state import NotFoundError, StepState
from holdfast.services.jobs import _process
from holdfast.services.jobs.graphs import _archive, _results
from holdfast.services.jobs.graphs.ports import first_start
from holdfast.services.jobs.graphs.secrets import SecretsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from holdfast.infrastructure.store.blob import BlobStore
    from holdfast.services.jobs.graphs.ports import Comment, ResultListener, Work
    from holdfast.services.jobs.graphs.secrets import Secrets

_log = logging.getLogger("holdfast.jobs")
# `ulimit` says no to what is above a hard limit: then nothing runs. The pipe ends with the process that holds its other
# end, however that dies: then all that was started is killed.
_LIMITED = (
    "exec 3<&0 </dev/null; (read -r _ <&3; kill -9 0) >/dev/null 2>&1 & exec 3<&-; "
    'ulimit -t "$1" && ulimit -v "$2" && ulimit -c 0 && exec /bin/sh -ec "$3"'
)
# Bytes; less of a secret tells nothing.
_LEAST = 2
_DIED = "the process that ran it died, perhaps in the middle of it"
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


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
        memory: int = 4_294_967_296,
        log_limit: int = 1_048_576,
        secrets: Secrets | None = None,
    ) -> None:
        self._secrets = secrets
        self._blobs, self._listener = blobs, listener
        self._concurrency = concurrency
        self._limits = str(cpu), str(memory // 1024)
        self._log_limit = log_limit
        self._pool = ThreadPoolExecutor(concurrency, "holdfast-order")
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes] | None] = {}
        self._cancelled: dict[str, str] = {}
        self._draining = False

    @property
    def running(self) -> int:
        """How many orders run here."""
        return len(self._running)

    def has(self, work: Work) -> bool:
        """Return whether an order runs here."""
        return _name(work) in self._running

    def drain(self) -> None:
        """Start nothing more: there is no room from now on."""
        self._draining = True

    def dispatch(self, work: Work) -> bool:
        """Start an order in a thread; False if as many as may be run."""
        with self._lock:
            if _name(work) in self._running:
                return True
            if self._draining or len(self._running) >= self._concurrency:
                return False
            self._running[_name(work)] = None
        self._pool.submit(self._run, work)
        return True

    def cancel(self, work: Work) -> None:
        """Kill an order that runs here."""
        with self._lock:
            if _name(work) not in self._running:
                return
            self._cancelled.setdefault(_name(work), "it was cancelled")
            process = self._running[_name(work)]
        if process is not None:
            _kill(process)

    def close(self, *, cancel: bool = False) -> None:
        """Wait for orders that run, or kill them with `cancel`."""
        self.drain()
        if cancel:
            self.kill()
        self._pool.shutdown(wait=True)

    def kill(self) -> None:
        """Kill all that runs here; it says so."""
        with self._lock:
            for name in self._running:
                self._cancelled.setdefault(name, "it was killed, as what ran it had to stop")
            running = list(self._running.values())
        for process in running:
            if process is not None:
                _kill(process)

    def _run(self, work: Work) -> None:
        try:
            if not first_start(self._blobs, work, _myself()):
                self._mourn(work)
                return
            result, output = self._execute(work)
            self._blobs.put(work.log, output)
            self._blobs.put(work.result, result)
        except Exception:
            _log.exception("order %s of run %s could not say how it ended", work.order, work.run)
        finally:
            with self._lock:
                del self._running[_name(work)]
                self._cancelled.pop(_name(work), None)
            self._listener.stored(work.result)

    def _mourn(self, work: Work) -> None:
        """Fail an order that was started by a process of this host that is not there any more."""
        try:
            kind, pid, born, host, _ = self._blobs.get(work.started).decode().split(" ")
        except (NotFoundError, ValueError):
            return
        if kind == "local" and host == _process.host() and born != _process.born(int(pid)):
            self._blobs.put(work.result, _results.write(StepState.FAILED, error=_DIED))

    def _execute(self, work: Work) -> tuple[bytes, bytes]:
        """Return result and output of an order."""
        try:
            with tempfile.TemporaryDirectory(prefix="holdfast-") as folder, tempfile.TemporaryFile() as log:
                order = _unpack(self._blobs.get(work.archive), Path(folder))
                hidden = self._opened(Path(folder))
                result = self._in_folder(work, order, {**order["environment"], **hidden}, Path(folder), log)
                return result, _start_of(log, self._log_limit, hidden)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, SecretsError) as error:
            return _results.write(StepState.FAILED, error=f"it could not be started: {error}"), b""

    def _opened(self, folder: Path) -> dict[str, str]:
        """Return the secrets of an order; they do not stay in its folder."""
        place = folder / _archive.SECRETS
        if not place.is_file():
            return {}
        sealed = place.read_bytes()
        place.unlink()
        if self._secrets is None:
            raise SecretsError(
                "it has secrets, and this target has no key; give it `secrets`, or the command --age-identity"
            )
        return self._secrets.open(sealed)

    def _in_folder(
        self,
        work: Work,
        order: Mapping[str, Any],
        environment: Mapping[str, str],
        folder: Path,
        log: IO[bytes],
    ) -> bytes:
        deadline = current_clock().monotonic() + work.timeout
        for number, command in enumerate(order["commands"], 1):
            code = self._command(work, (command, environment), folder / "code", log, deadline)
            if _name(work) in self._cancelled:
                return _results.write(StepState.FAILED, error=self._cancelled[_name(work)])
            if code is None:
                error = f"command {number} was killed after {work.timeout:g} s"
                return _results.write(StepState.TIMED_OUT, error=error)
            if code != 0:
                error = f"command {number} ended with {_said(code)}"
                return _results.write(StepState.FAILED, error=error, exit_code=code)
        return _results.write(StepState.SUCCEEDED, exit_code=0)

    def _command(
        self,
        work: Work,
        what: tuple[str, Mapping[str, str]],
        folder: Path,
        log: IO[bytes],
        deadline: float,
    ) -> int | None:
        """Return the exit code of a command, negative for a signal; None if time ran out."""
        left = deadline - current_clock().monotonic()
        if left <= 0:
            return None
        command, environment = what
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        process = _start([*self._limits, command], folder, {**passed, **environment}, log)
        with self._lock:
            self._running[_name(work)] = process
            cancelled = _name(work) in self._cancelled
        if cancelled:
            _kill(process)
        try:
            return process.wait(left)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # What it left in the background too.
            _kill(process)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            with self._lock:
                self._running[_name(work)] = None


class FolderCode:
    """Code in a folder: locations are paths below `root`, of folders or files, links refused.

    `most`: bytes that one location may have.
    """

    def __init__(self, root: str | Path, *, most: int = 268_435_456) -> None:
        self._root = Path(root).resolve()
        self._most = most

    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Return content and mode of each file by its path. ValueError."""
        pure = PurePosixPath(location)
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError("it does not lie below the folder of code; give a path relative to that")
        start = self._root / pure
        if not start.exists():
            raise ValueError("there is no such folder or file")
        paths = [start] if start.is_file() else sorted(start.rglob("*"))
        found: dict[str, tuple[bytes, int]] = {}
        left = self._most
        for path in paths:
            if path.is_symlink() or not path.resolve().is_relative_to(self._root):
                raise ValueError(f"{path.relative_to(self._root)} is a link; give the file itself")
            if path.is_file():
                status = path.stat()
                left -= status.st_size
                if left < 0:
                    raise ValueError(f"it has more than {self._most} bytes; give less")
                base = start.parent if start.is_file() else start
                found[path.relative_to(base).as_posix()] = (path.read_bytes(), status.st_mode & 0o777)
        return found


class FileNotifier:
    """Comments as files of a folder, one for each tag, replaced in place: `path` says where."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def path(self, tag: str) -> Path:
        """Return the file of a tag."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", tag)[:60].strip(".-")
        return self._folder / f"{plain}-{sha256(tag.encode()).hexdigest()[:8]}.md"

    def tell(self, comment: Comment) -> None:
        """Write a comment, or replace the one with the same tag."""
        _replace(self.path(comment.tag), comment.body)


class CommentFile:
    """The comment of the run that was told of last, in one file, replaced in place."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def tell(self, comment: Comment) -> None:
        """Write a comment over what was there."""
        _replace(self._path, comment.body)


class DueTimer:
    """A timer of this process; what it forgets with it, `Runs.tick` finds again. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[tuple[float, str, int]] = []

    def watch(self, run: str, number: int, at: float) -> None:
        """Remember to call."""
        with self._lock:
            heapq.heappush(self._heap, (at, run, number))

    def next_at(self) -> float | None:
        """Return when the next call is due, None if there is none."""
        with self._lock:
            return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[tuple[str, int]]:
        """Return, and forget, the runs and numbers whose time has come, the earliest first."""
        with self._lock:
            found: list[tuple[str, int]] = []
            while self._heap and self._heap[0][0] <= now:
                _, run, number = heapq.heappop(self._heap)
                found.append((run, number))
            return found


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _unpack(data: bytes, folder: Path) -> dict[str, Any]:
    """Write the code below `folder/code` and return the order."""
    (folder / "code").mkdir()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            path = folder / info.filename
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"the archive has {info.filename!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(info))
            path.chmod(info.external_attr >> 16 & 0o777 or 0o644)
    order: dict[str, Any] = json.loads((folder / _archive.ORDER).read_bytes())
    return order


def _start(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a command that dies with this process, in a group of its own."""
    return subprocess.Popen(  # noqa: S603  # commands are what an order is
        ["/bin/sh", "-c", _LIMITED, "sh", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _name(work: Work) -> str:
    return f"{work.run}/{work.number}"


def _myself() -> str:
    """Return what tells this process from all others of this host, later ones too, and this start from others of it."""
    pid = os.getpid()
    return f"local {pid} {_process.born(pid)} {_process.host()} {current_random().getrandbits(64):016x}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _start_of(log: IO[bytes], limit: int, hidden: Mapping[str, str]) -> bytes:
    size = log.seek(0, os.SEEK_END)
    log.seek(0)
    data = _hide(log.read(limit), [value.encode() for value in hidden.values()])
    return data if size <= limit else data + f"\n… {size - limit} more bytes were dropped\n".encode()


def _hide(output: bytes, secrets: Sequence[bytes]) -> bytes:
    """Return output with stars in place of secrets, and of the beginning of one at its end; single bytes are none."""
    spans = [span for secret in secrets if len(secret) >= _LEAST for span in _spans(output, secret)]
    parts: list[bytes] = []
    end = 0
    for first, last in sorted(spans):
        if first >= end:
            parts += [output[end:first], b"***"]
        end = max(end, last)
    return b"".join((*parts, output[end:]))


def _spans(output: bytes, secret: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a secret is, overlaps too, and where the output was cut within it."""
    at = output.find(secret)
    while at >= 0:
        yield at, at + len(secret)
        at = output.find(secret, at + 1)
    longest = min(len(secret) - 1, len(output))
    for length in range(longest, _LEAST - 1, -1):
        if output.endswith(secret[:length]):
            yield len(output) - length, len(output)
            return


def _said(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
