"""Code from local git repositories, by the program git."""

from pathlib import Path

class GitCode:
    """Code in repositories below `root`: locations are `PATH@REF` or `PATH@REF:FOLDER`; REF may be a commit.

    Only what is committed counts; links are refused. `most`: bytes that one location may have.
    """

    def __init__(self, root: str | Path, *, most: int = 268435456) -> None: ...
    def files(self, location: str) -> dict[str, tuple[bytes, int]]:
        """Return content and mode of each file by its path. ValueError, also when git is not installed."""
