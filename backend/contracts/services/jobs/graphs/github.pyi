"""Comments on pull requests and issues, over an API like GitHub's: one for each tag, updated in place."""

from collections.abc import Callable
from types import TracebackType

import httpx

from holdfast.infrastructure.resilience.policy import Policy
from holdfast.services.jobs.graphs.ports import Comment

class GitHubNotifier:
    """Tell of runs in comments on their pull requests or issues; runs without a number are told of to nobody.

    `token` gives the token for a run's `token_location`: it should know those that you allow, and no others; what it
    raises is not caught. `repository`, OWNER/NAME (else ValueError), replaces what runs name. `policy` is around every
    request, by default 20 s in all, three attempts of 5 s, and the wait that the server asks for. The comment is found
    by its first line and changed in place, also where an answer was lost. Threads may share it. Close it.
    """

    def __init__(
        self,
        token: Callable[[str], str],
        *,
        url: str = "https://api.github.com",
        repository: str = "",
        policy: Policy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None: ...
    def __enter__(self) -> GitHubNotifier:
        """Close it at the end of a `with` block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""

    def close(self) -> None:
        """Close its connections."""

    def tell(self, comment: Comment) -> None:
        """Write a comment, or replace the one with the same tag. HttpFailed, httpx's errors; ValueError."""
