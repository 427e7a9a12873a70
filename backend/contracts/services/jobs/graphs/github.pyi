"""Comments on pull requests and issues, over an API like GitHub's: one for each tag, updated in place."""

from collections.abc import Callable
from types import TracebackType

import httpx

from holdfast.infrastructure.resilience.policy import Policy
from holdfast.services.jobs.graphs.ports import Comment

class GitHubNotifier:
    """Tell of runs in comments on their pull requests or issues; runs without a number are told of to nobody.

    `token` gives the token for a run's `token_location`: it should know those that you allow, and no others; nothing
    raised by it is caught. `policy` is around every request, by default 20 s in all and three attempts of 5 s, which
    wait as long as the server asks them to if that is in time. A comment is found by its first line, on all pages, and
    changed in place; one that may have been written, as the answer was lost, is looked for before it is written again.
    Safe to share between threads. Close it.
    """

    def __init__(
        self,
        token: Callable[[str], str],
        *,
        url: str = "https://api.github.com",
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
