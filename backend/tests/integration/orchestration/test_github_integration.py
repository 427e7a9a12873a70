"""Runs × comments: one comment a tag, found again on any page, updated in place, whatever the server answers."""

import logging
from dataclasses import replace

import pytest

from backend.tests.integration.orchestration._github import TOKENS, GitHub
from backend.tests.integration.orchestration._yard import Yard, order
from holdfast.infrastructure.resilience.errors import HttpFailed
from holdfast.services.jobs.graphs.github import GitHubNotifier
from holdfast.services.jobs.graphs.ports import Comment
from holdfast.testing import no_wait

PLACE = "/repos/ann/shop/issues/7/comments"
LIMITS: dict[str, list[tuple[int, dict[str, str]]]] = {
    "secondary limit": [(403, {"Retry-After": "2"})],
    "limit": [(403, {"X-RateLimit-Remaining": "0"})],
    "429 and 502": [(429, {"Retry-After": "1"}), (502, {})],
    "502 and 503": [(502, {}), (503, {})],
}
FIRST = Comment(
    run="r",
    tag="tag",
    body="<!-- tag -->\nfirst",
    repository="https://github.com/ann/shop.git",
    token_location="ci",
    pull_request=7,
)
SECOND = replace(FIRST, body="<!-- tag -->\nsecond")


def test_a_comment_is_written_once_and_updated_in_place(hub: GitHub, notifier: GitHubNotifier) -> None:
    """Also by another process, which knows nothing of it."""
    notifier.tell(FIRST)
    notifier.tell(SECOND)
    assert hub.bodies(PLACE) == [SECOND.body]
    assert hub.asked[-1] == "PATCH /repos/ann/shop/issues/comments/1"
    with GitHubNotifier(TOKENS.__getitem__, url=hub.url) as other:
        other.tell(FIRST)
    assert hub.bodies(PLACE) == [FIRST.body]


def test_it_is_found_on_the_last_page(hub: GitHub, notifier: GitHubNotifier) -> None:
    """Behind 250 comments of others, some of which mention the tag."""
    for one in range(249):
        hub.add(PLACE, f"I saw <!-- tag --> {one}")
    hub.add(PLACE, "<!-- tag -->x")
    mine = hub.add(PLACE, FIRST.body)
    notifier.tell(SECOND)
    assert hub.comments[mine]["body"] == SECOND.body
    assert len(hub.comments) == 251
    assert sum(one.startswith("GET") for one in hub.asked) == 3


def test_the_token_goes_to_no_other_host(hub: GitHub, notifier: GitHubNotifier) -> None:
    """A next page that lies elsewhere is not asked for."""
    for one in range(150):
        hub.add(PLACE, str(one))
    hub.next_elsewhere = True
    notifier.tell(FIRST)
    assert sum(one.startswith("GET") for one in hub.asked) == 1
    assert hub.bodies(PLACE)[-1] == FIRST.body


def test_another_tag_and_another_pull_request_are_others(hub: GitHub, notifier: GitHubNotifier) -> None:
    """Each has a comment of its own; an issue will do, and without a number nobody is told."""
    notifier.tell(FIRST)
    notifier.tell(replace(FIRST, tag="two", body="<!-- two -->\n"))
    notifier.tell(replace(FIRST, pull_request=None, issue=8))
    notifier.tell(replace(FIRST, pull_request=None))
    assert hub.bodies(PLACE) == [FIRST.body, "<!-- two -->\n"]
    assert hub.bodies(PLACE.replace("7", "8")) == [FIRST.body]


@pytest.mark.parametrize("answers", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("known", [False, True])
def test_who_is_told_to_wait_does_and_tries_again(
    hub: GitHub, notifier: GitHubNotifier, answers: list[tuple[int, dict[str, str]]], *, known: bool
) -> None:
    """While it is looked for, and while it is changed."""
    if known:
        notifier.tell(FIRST)
    hub.script.extend(answers)
    with no_wait():
        notifier.tell(SECOND)
    assert not hub.script
    assert hub.bodies(PLACE) == [SECOND.body]


@pytest.mark.parametrize("after", [502, 0], ids=["502", "no answer"])
def test_a_comment_whose_answer_was_lost_is_not_written_twice(
    hub: GitHub, notifier: GitHubNotifier, after: int
) -> None:
    """It is looked for again, and found."""
    hub.after.append(after)
    with no_wait():
        notifier.tell(FIRST)
    assert hub.bodies(PLACE) == [FIRST.body]


def test_a_comment_that_somebody_removed_is_written_again(hub: GitHub, notifier: GitHubNotifier) -> None:
    """Though it was known."""
    notifier.tell(FIRST)
    hub.comments.clear()
    notifier.tell(SECOND)
    assert hub.bodies(PLACE) == [SECOND.body]


def test_what_may_not_be_changed_is_left_alone(hub: GitHub, notifier: GitHubNotifier) -> None:
    """Somebody else's comment with the same first line."""
    hub.add(PLACE, FIRST.body, mine=False)
    notifier.tell(FIRST)
    with GitHubNotifier(TOKENS.__getitem__, url=hub.url) as other:
        other.tell(SECOND)
    assert hub.bodies(PLACE) == [FIRST.body, SECOND.body]


def test_a_failure_says_what_was_answered_and_no_token(hub: GitHub, notifier: GitHubNotifier) -> None:
    """401 is final; a repository that nobody can read, too."""
    with pytest.raises(HttpFailed, match="answered 401") as caught:
        notifier.tell(replace(FIRST, token_location="bad"))
    assert "wrong" not in str(caught.value)
    assert len(hub.asked) == 1
    with pytest.raises(ValueError, match="'shop' names no repository"):
        notifier.tell(replace(FIRST, repository="shop"))


def test_a_run_is_told_of_from_its_submission_to_its_end(
    yard: Yard, hub: GitHub, notifier: GitHubNotifier, caplog: pytest.LogCaptureFixture
) -> None:
    """In one comment; a server that is gone holds nothing up."""
    yard.runs = yard.again(notifier=notifier)
    about = {"pull_request": 7, "token_location": "ci", "search_tag": "tag", "repository": "code"}
    run = yard.submit(order("a"), **about)
    # Its repository is a folder, which is no fault of the run.
    assert "nobody could be told" in caplog.text
    yard.say(run, "a")
    assert yard.done(run)["status"] == "succeeded"
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        (yard.code / "ann").mkdir()
        (yard.code / "code").rename(yard.code / "ann" / "shop")
        run = yard.submit(order("a"), **{**about, "repository": "ann/shop"})
        [before] = hub.bodies(PLACE)
        yard.say(run, "a")
        [after] = hub.bodies(PLACE)
    assert ("**: pending" in before, "**: succeeded" in after, caplog.text) == (True, True, "")
