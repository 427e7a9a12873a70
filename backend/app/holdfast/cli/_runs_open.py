"""What the commands of `holdfast runs` are given of the world: keys of secrets, repositories of git, who is told."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._exit import Code, Stop
from holdfast.services.jobs.graphs.git import GitCode
from holdfast.services.jobs.graphs.local import CommentFile
from holdfast.services.jobs.graphs.secrets import AgeSecrets, SecretsError, SopsSecrets

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from holdfast.services.jobs.graphs.ports import RunNotifier
    from holdfast.services.jobs.graphs.secrets import Secrets

TOKEN = "GITHUB_TOKEN"  # noqa: S105  # a variable's name
API = "https://api.github.com"

Git = Annotated[
    bool,
    typer.Option("--git", help="Below --code are repositories of git; code is PATH@REF or PATH@REF:FOLDER."),
]
Recipients = Annotated[
    list[str] | None,
    typer.Option(
        "--age-recipient",
        envvar="HOLDFAST_AGE_RECIPIENT",
        metavar="age1…",
        help="Encrypt secrets of orders for this key of age; may be given more than once.",
    ),
]
Identity = Annotated[
    Path | None,
    typer.Option(
        "--age-identity",
        envvar="HOLDFAST_AGE_IDENTITY",
        metavar="FILE",
        help="Read secrets of orders with this key of age.",
    ),
]
Sops = Annotated[bool, typer.Option("--sops", help="Let SOPS encrypt and read secrets, in place of age.")]
Repository = Annotated[
    str,
    typer.Option(
        "--github-repository",
        envvar="HOLDFAST_GITHUB_REPOSITORY",
        metavar="OWNER/NAME",
        help=f"Tell of runs on their pull requests and issues there; the token is in {TOKEN}.",
    ),
]
Api = Annotated[
    str,
    typer.Option("--github-url", envvar="HOLDFAST_GITHUB_URL", metavar="URL", help="GitHub's API."),
]
CommentTo = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the comment of the run that was told of last in this file, too."),
]


def secrets(recipients: Sequence[str] | None, identity: Path | None, *, sops: bool) -> Secrets | None:
    """Return who encrypts and reads secrets; None if no key was named."""
    if not recipients and identity is None:
        if sops:
            raise Stop(
                Code.WRONG_USE, "--sops needs --age-recipient to encrypt secrets, --age-identity to read them"
            )
        return None
    made = (SopsSecrets if sops else AgeSecrets)(recipients or (), identity=identity)
    try:
        made.check()
    except SecretsError as error:
        raise Stop(Code.WRONG_USE, str(error)) from None
    return made


def code(folder: Path, *, git: bool) -> Any:
    """Return where code of orders comes from."""
    return GitCode(folder) if git else folder


@contextmanager
def telling(repository: str, url: str, file: Path | None) -> Generator[list[RunNotifier], None, None]:
    """Give who is told of runs besides the folder of comments."""
    with ExitStack() as opened:
        told: list[RunNotifier] = [] if file is None else [CommentFile(file)]
        if repository:
            from holdfast.services.jobs.graphs.github import GitHubNotifier

            token = os.environ.get(TOKEN, "")
            if not token:
                raise Stop(
                    Code.WRONG_USE, f"--github-repository needs a token: set the environment variable {TOKEN}"
                )
            try:
                github = GitHubNotifier(lambda _: token, url=url, repository=repository)
            except ValueError as error:
                raise Stop(Code.WRONG_USE, f"--github-repository: {error}") from None
            told.append(opened.enter_context(github))
        yield told
