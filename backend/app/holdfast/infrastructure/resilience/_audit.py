"""The audit trail: the last changes in memory, and all of them, up to a size, in a file of JSON lines."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from pathlib import Path

from holdfast.infrastructure.resilience._bus import log_once
from holdfast.infrastructure.resilience._frozen import is_dict, is_list
from holdfast.infrastructure.resilience.config import Fault, _shown
from holdfast.infrastructure.resilience.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from holdfast.infrastructure.resilience.live import Change

MOST_BYTES = 1_000_000
_ITEMS, _DEPTH, _LENGTH = 50, 4, 200


class Trail:
    """Numbered changes, oldest first. A file that is full is renamed to `….1`, in the place of the one before."""

    def __init__(
        self,
        size: int,
        path: str | Path | None,
        read: Callable[[Mapping[str, Any]], Change],
        *,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.lock = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=size)
        self._path = None if path is None else Path(path)
        self._most_bytes = most_bytes
        if self._path is not None:
            self._open(self._path, read)
        self._last = self._changes[-1].number if self._changes else 0
        _trails.add(self)

    def _open(self, path: Path, read: Callable[[Mapping[str, Any]], Change]) -> None:
        try:
            for one in (_older(path), path):
                self._changes.extend(_changes(one, read))
            os.close(_opened(path))
        except OSError as error:
            remedy = "a file in a folder that can be written"
            fault = Fault("audit_file", str(path), f"cannot be used: {error.strerror}", remedy)
            raise ConfigurationError("LiveConfiguration", (fault,)) from error

    def add(self, make: Callable[[int], Change]) -> Change:
        """Make a change of the next number and keep it."""
        with self.lock:
            self._last += 1
            change = make(self._last)
            self._changes.append(change)
            if self._path is not None:
                self._write(self._path, change)
        return change

    def _write(self, path: Path, change: Change) -> None:
        import json

        line = json.dumps(change.as_dict(), ensure_ascii=True, allow_nan=False).encode() + b"\n"
        try:
            _append(path, line, self._most_bytes)
        except OSError as error:  # what was changed stays changed; the trail goes on in memory
            log_once(f"the audit file {path}", error)

    def newest(self) -> Iterator[Change]:
        """Iterate over the changes, newest first."""
        with self.lock:
            changes = tuple(self._changes)
        return reversed(changes)


def _append(path: Path, line: bytes, most: int) -> None:
    file = _opened(path)
    try:
        size = os.fstat(file).st_size
        if size and size + len(line) > most:
            os.close(file)
            file = -1
            path.replace(_older(path))
            file = _opened(path)
            size = 0
        if size and _last_byte(file) != b"\n":
            line = b"\n" + line  # the last one who wrote was killed while doing so
        os.write(file, line)
    finally:
        if file >= 0:
            os.close(file)


def _last_byte(file: int) -> bytes:
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _changes(path: Path, read: Callable[[Mapping[str, Any]], Change]) -> Iterator[Change]:
    import json

    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield read(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # a line that was not written to its end


def plain(value: object, depth: int = 0) -> Any:
    """Return a value as bounded JSON-able facts: what is long is cut, what is deep is only named."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _shown(value[:_LENGTH])
    if isinstance(value, (int, float)):
        return Fault("", value, "", "").value
    if is_dict(value) and depth < _DEPTH:
        return {_shown(str(key)): plain(item, depth + 1) for key, item in list(value.items())[:_ITEMS]}
    if is_list(value) and depth < _DEPTH:
        return [plain(item, depth + 1) for item in value[:_ITEMS]]
    return _shown(value)


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], *, without: tuple[str, ...] = ()
) -> dict[str, tuple[object, object]]:
    """Return what differs between two nested facts, by path."""
    old, new = ({key: one[key] for key in one if key not in without} for one in (before, after))
    leaves, others = dict(_leaves(old, "")), dict(_leaves(new, ""))
    paths = sorted({*leaves, *others})
    return {
        path: (leaves.get(path), others.get(path)) for path in paths if leaves.get(path) != others.get(path)
    }


def _leaves(facts: Mapping[str, Any], path: str) -> Iterator[tuple[str, object]]:
    for key, value in facts.items():
        if is_dict(value):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


_trails: weakref.WeakSet[Trail] = weakref.WeakSet()


def _renew_locks() -> None:
    for trail in _trails:
        trail.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
