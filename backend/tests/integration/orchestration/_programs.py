"""The programs age, sops and git, as tests use them."""

import os
import subprocess
import sysconfig
from pathlib import Path

from holdfast.services.jobs.graphs.secrets import AgeSecrets, SopsSecrets

KINDS: dict[str, type[AgeSecrets] | type[SopsSecrets]] = {"age": AgeSecrets, "sops": SopsSecrets}


def path() -> str:
    """Return where programs are: first beside this Python, where SOPS comes as a package."""
    return os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))


def recipient(folder: Path) -> str:
    """Make a key; return for whom to encrypt."""
    said = subprocess.run(
        ["age-keygen", "-o", str(folder / "key")], capture_output=True, text=True, check=True
    )
    return said.stderr.partition("Public key: ")[2].strip()


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, without settings of this machine."""
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
