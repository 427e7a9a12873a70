"""Code from local git repositories, by the program git."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

_SECONDS = 60.0
_SHOWN = 300
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")
# What a repository says of itself runs nothing and changes nothing.
_PLAIN = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "tar.umask=0022")


class GitCode:
    """Code in repositories below `root`: locations are `PATH@REF` or `PATH@REF:FOLDER`; REF may be a commit.

    Only what is committed counts; links are refused. `most`: bytes that one location may have.
    """

    def __init__(self, root: str | Path, *, most: int = 268_435_456) -> None:
        self._root = Path(root).resolve()
        self._most = most

    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Return content and mode of each file by its path. ValueError, also when git is not installed."""
        path, at, rest = location.partition("@")
        ref, _, folder = rest.partition(":")
        if not at or not _REF.fullmatch(ref) or ".." in ref:
            raise ValueError("it names no commit; give PATH@REF, for example app@main, or app@main:folder")
        pure, below = PurePosixPath(path), PurePosixPath(folder)
        outside = any(one.is_absolute() or ".." in one.parts for one in (pure, below))
        place = (self._root / pure).resolve()
        if outside or not place.is_relative_to(self._root):
            raise ValueError("it does not lie below the folder of repositories; give a path relative to that")
        if not place.is_dir():
            raise ValueError("there is no such repository")
        commit = _git(place, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        named = commit.decode().strip() + (f":{below}" if folder else "")
        return self._read(_git(place, "archive", "--format=tar", named))

    def _read(self, archive: bytes) -> dict[str, tuple[bytes, int]]:
        found: dict[str, tuple[bytes, int]] = {}
        left = self._most
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for one in tar:
                if one.isdir():
                    continue
                if not one.isfile():
                    raise ValueError(f"{one.name} is a link; give the file itself")
                left -= one.size
                if left < 0:
                    raise ValueError(f"it has more than {self._most} bytes; give less")
                data = tar.extractfile(one)
                found[one.name] = (b"" if data is None else data.read(), one.mode & 0o777)
        return found


def _git(place: Path, *arguments: str) -> bytes:
    git = shutil.which("git")
    if git is None:
        raise ValueError("the program git is not installed; on Debian: apt-get install git")
    try:
        done = subprocess.run(  # noqa: S603  # a fixed program
            [git, *_PLAIN, "-C", str(place), *arguments], capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"git did not end within {_SECONDS:g} s") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:_SHOWN]
        raise ValueError(f"git does not give it: {said or 'there is no such commit'}")
    return done.stdout
