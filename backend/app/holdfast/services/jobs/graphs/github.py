"""Comments on pull requests and issues, over an API like GitHub's: one for each tag, updated in place."""

from __future__ import annotations

import re
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx

from holdfast.infrastructure.resilience.classify import Classifier, Verdict
from holdfast.infrastructure.resilience.clock import current_clock
from holdfast.infrastructure.resilience.errors import HttpFailed
from holdfast.infrastructure.resilience.pipeline import Pipeline
from holdfast.infrastructure.resilience.retry import Retry
from holdfast.infrastructure.resilience.timeout import Timeout
from holdfast.infrastructure.transport.http import httpx_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from holdfast.infrastructure.resilience.policy import Policy
    from holdfast.services.jobs.graphs.ports import Comment

_NAMED = re.compile(r"(?:^|[/:])([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9._-]+?)(?:[.]git)?/?$")
_REPEATABLE = frozenset({"GET", "PATCH"})
_MOST_PAGES = 100
_KNOWN = 1000
_SHOWN = 200


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
    ) -> None:
        self._token, self._repository = token, repository
        if repository:
            _place(repository)
        around = policy or Pipeline(Timeout(20), Retry(3, hint_cap=1.0), Timeout(5))
        self._client = httpx.Client(
            base_url=url.rstrip("/"),
            transport=httpx_transport(
                around,
                transport=_Limits(transport or httpx.HTTPTransport()),
                retry_methods=_REPEATABLE,
                buffer=True,
                propagate=False,
            ),
            headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
            # The policy says how long a request may take.
            timeout=600.0,
        )
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], int] = {}

    def __enter__(self) -> GitHubNotifier:
        """Close it at the end of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def tell(self, comment: Comment) -> None:
        """Write a comment, or replace the one with the same tag. HttpFailed, httpx's errors; ValueError."""
        number = comment.pull_request or comment.issue
        if number is None:
            return
        place = _place(self._repository or comment.repository)
        asked = _Asked(self._client, self._token(comment.token_location), place, number)
        _AGAIN.call(self._put, asked, comment)

    def _put(self, asked: _Asked, comment: Comment) -> None:
        """Change the comment that is there, or write one."""
        name = (f"{asked.place}/{asked.number}", comment.tag)
        with self._lock:
            known = self._known.get(name)
        if known is not None and asked.change(known, comment.body):
            return
        like = asked.find(comment.body.partition("\n")[0])
        number = next((one for one in like if asked.change(one, comment.body)), None) or asked.write(
            comment.body
        )
        with self._lock:
            self._known[name] = number
            while len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]


class _Asked:
    """The comments of one pull request or issue."""

    def __init__(self, client: httpx.Client, token: str, place: str, number: int) -> None:
        self._client, self.place, self.number = client, place, number
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def find(self, line: str) -> Iterator[int]:
        """Yield the ids of the comments that begin with a line, on all pages."""
        for one in self._all():
            if str(one.get("body", "")).partition("\n")[0].rstrip() == line:
                yield int(one["id"])

    def _all(self) -> Iterator[Mapping[str, Any]]:
        url, page = f"{self.place}/{self.number}/comments?per_page=100", 0
        while url and page < _MOST_PAGES:
            answer = self._send("GET", url)
            yield from answer.json()
            following = answer.links.get("next", {}).get("url", "")
            # The token goes nowhere else.
            same = httpx.URL(following).host == answer.request.url.host if following else False
            url, page = following if same else "", page + 1

    def change(self, comment: int, body: str) -> bool:
        """Replace a comment; False: it is not there, or not ours."""
        gone = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN, HTTPStatus.GONE)
        return self._send("PATCH", f"{self.place}/comments/{comment}", body, gone).is_success

    def write(self, body: str) -> int:
        """Write a comment; return its id."""
        return int(self._send("POST", f"{self.place}/{self.number}/comments", body).json()["id"])

    def _send(
        self, method: str, url: str, body: str | None = None, fine: tuple[int, ...] = ()
    ) -> httpx.Response:
        message = None if body is None else {"body": body}
        answer = self._client.request(method, url, json=message, headers=self._headers)
        if not answer.is_success and answer.status_code not in fine:
            said = " ".join(answer.text.split())[:_SHOWN]
            shown = str(answer.request.url.copy_with(userinfo=b"", query=None))
            raise HttpFailed(method, shown, answer.status_code, said)
        return answer


class _Limits(httpx.BaseTransport):
    """Says 429 where GitHub says 403 to who asks too often, with the seconds to wait."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        answer = self._transport.handle_request(request)
        if answer.status_code == HTTPStatus.FORBIDDEN:
            if answer.headers.get("x-ratelimit-remaining") == "0" and "retry-after" not in answer.headers:
                reset = answer.headers.get("x-ratelimit-reset", "")
                wait = int(reset) - current_clock().time() if reset.isdecimal() else 60.0
                answer.headers["Retry-After"] = str(max(1, round(wait)))
            if "retry-after" in answer.headers:
                answer.status_code = HTTPStatus.TOO_MANY_REQUESTS
        return answer

    def close(self) -> None:
        """Close the wrapped transport."""
        self._transport.close()


def _place(repository: str) -> str:
    found = _NAMED.search(repository)
    if found is None:
        raise ValueError(f"{repository!r} names no repository; give OWNER/NAME or its address")
    return f"/repos/{found[1]}/{found[2]}/issues"


def _lost(error: Exception) -> Verdict | None:
    """Return that a comment may have been written, or may be now."""
    if isinstance(error, httpx.TransportError):
        return Verdict.TRANSIENT
    return None


_AGAIN = Retry(3, on=Classifier(predicates=(_lost,)), wait=0.2)
