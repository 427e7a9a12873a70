"""Runs × secrets and git: encrypted by the real programs, read by who executes, shown nowhere; code as committed."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.tests.integration.orchestration._programs import KINDS, git, recipient
from backend.tests.integration.orchestration._yard import Yard, order, request, wait_until
from holdfast.infrastructure.store.blob import MemoryBlobStore
from holdfast.infrastructure.store.memory import MemoryStateStore
from holdfast.infrastructure.store.sql import open_store
from holdfast.services.jobs.graphs import RequestRefusedError, RunService
from holdfast.services.jobs.graphs.git import GitCode
from holdfast.services.jobs.graphs.local import LocalTarget
from holdfast.services.jobs.graphs.secrets import AgeSecrets, Secrets, SecretsError

SECRET = "hush-hush-4711"


@contextmanager
def service(folder: Path, secrets: Secrets | None) -> Generator[RunService]:
    """Give runs of a folder."""
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "run.sh").write_text("echo ran\n", encoding="utf-8")
    with (
        open_store(f"sqlite:///{folder}/runs.db") as store,
        RunService(store, folder / "runs", code=folder, secrets=secrets, every=0.1) as made,
    ):
        yield made


def test_an_order_is_given_its_secrets_and_nobody_else(sealed: Secrets, tmp_path: Path) -> None:
    """As variables; neither archive, database, comment nor output has them."""
    command = 'test "${#TOKEN}" = 14; echo "it is $TOKEN"; ls ..'
    one = order("a", commands=[command], secrets={"TOKEN": SECRET})
    with service(tmp_path, sealed) as runs:
        run = runs.runs.submit(request(one)).run_id
        runs.serve()
        assert runs.runs.status(run).status == "succeeded"
        assert runs.runs.log(run, "a") == b"it is ***\ncode\norder.json\n"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_output_that_ends_within_a_secret_shows_none_of_it(sealed: Secrets, tmp_path: Path) -> None:
    """Cut at its limit, or as the order was killed: of any secret; secrets that overlap are hidden as one."""
    yard = Yard(MemoryStateStore(), MemoryBlobStore(), tmp_path)
    target = LocalTarget(yard.blobs, yard.ears, log_limit=20, secrets=sealed)
    runs = yard.again(targets={"local": target}, secrets=sealed)
    secrets = {"TOKEN": SECRET, "OTHER": "zebra-0815", "NEXT": "0815-stripes"}
    said = {
        'printf "0123456789$TOKEN"': "0123456789***\n… 4 more bytes were dropped\n",
        'printf "0123$TOKEN$OTHER"': "0123******\n… 8 more bytes were dropped\n",
        'printf "0123456789ABCDEFGHI$TOKEN"': "0123456789ABCDEFGHIh\n… 13 more bytes were dropped\n",
        "printf hush-hush; kill -9 $$": "***",
        'printf "[zebra-0815-stripes]"': "[***]",
    }
    orders = [order(f"o{one}", commands=[command], secrets=secrets) for one, command in enumerate(said)]
    for first in (orders[:3], orders[3:]):
        run = runs.submit(request(*first)).run_id
        runs.evaluate(run)
        wait_until(lambda: not target.running)
        for one in first:
            expected = said[one["commands"][0]]
            assert runs.log(run, one["name"]).decode() == expected, one
    target.close()


def test_who_has_another_key_reads_nothing(sealed: Secrets, tmp_path: Path) -> None:
    """The order fails and says why."""
    with service(tmp_path, sealed) as runs:
        run = runs.runs.submit(request(order("a", secrets={"A": "bc"}), order("b"))).run_id
    (tmp_path / "key").unlink()
    recipient(tmp_path)
    with service(tmp_path, sealed) as runs:
        runs.serve()
        a, b = runs.runs.status(run).orders
        assert (a.state, b.state) == ("failed", "succeeded")
        assert "ended with exit code" in a.error


def test_secrets_without_a_key_are_refused_or_fail(tmp_path: Path) -> None:
    """At the submission where nobody encrypts; when it is executed where nobody reads."""
    with (
        service(tmp_path, None) as runs,
        pytest.raises(RequestRefusedError, match="order 'a' has secrets, and nothing here encrypts them"),
    ):
        runs.runs.submit(request(order("a", secrets={"A": "b"})))
    with pytest.raises(SecretsError, match="there is no key file None"):
        AgeSecrets(["age1x"]).open(b"")
    with pytest.raises(SecretsError, match="give recipients such as"):
        AgeSecrets(["-o/etc/passwd"]).seal({})


@pytest.mark.parametrize("program", sorted(KINDS))
def test_a_program_that_is_missing_is_named(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how to get it; nothing is stored."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with service(tmp_path, KINDS[program](["age1x"])) as runs:
        with pytest.raises(SecretsError, match=f"the program {program} is not installed; .*https://"):
            runs.runs.submit(request(order("a", secrets={"A": "b"})))
        assert runs.runs.find() == []


def test_code_is_what_was_committed(repository: Path) -> None:
    """At a branch, a tag or a commit, all of it or a folder, with its modes."""
    code = GitCode(repository)
    assert code.files("app@v1") == {"run.sh": (b"echo one\n", 0o755), "deep/data": (b"\0\1", 0o644)}
    assert code.files("app@main")["run.sh"][0] == b"echo two\n"
    assert code.files(f"app@{git(repository / 'app', 'rev-parse', 'HEAD~1')}") == code.files("app@v1")
    assert code.files("app@main:deep") == {"data": (b"\0\1", 0o644)}


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("app", "it names no commit"),
        ("app@", "it names no commit"),
        ("app@--output=x", "it names no commit"),
        ("app@v1..main", "it names no commit"),
        ("app@v2", "there is no such commit"),
        ("app@main:nowhere", "git does not give it"),
        ("app@main:../x", "does not lie below"),
        ("../app@main", "does not lie below"),
        ("/app@main", "does not lie below"),
        ("other@main", "there is no such repository"),
    ],
)
def test_a_wrong_location_is_a_fault(repository: Path, location: str, said: str) -> None:
    """It says what is wrong."""
    with pytest.raises(ValueError, match=said):
        GitCode(repository).files(location)


def test_links_and_too_much_are_refused(repository: Path) -> None:
    """A link could lead anywhere."""
    with pytest.raises(ValueError, match="more than 5 bytes"):
        GitCode(repository, most=5).files("app@main")
    (repository / "app" / "link").symlink_to("/etc/passwd")
    git(repository / "app", "add", "link")
    git(repository / "app", "commit", "-qm", "link")
    with pytest.raises(ValueError, match="link is a link"):
        GitCode(repository).files("app@main")


def test_a_run_has_its_code_from_git(repository: Path, tmp_path: Path) -> None:
    """As it was when it was submitted."""
    with (
        open_store(f"sqlite:///{tmp_path}/runs.db") as store,
        RunService(store, tmp_path / "runs", code=GitCode(repository), every=0.1) as runs,
    ):
        orders = [
            order("a", commands=["./run.sh"], code="app@v1"),
            order("b", commands=["./run.sh"], code="app@main"),
        ]
        run = runs.runs.submit(request(*orders)).run_id
        runs.serve()
        assert [runs.runs.log(run, name) for name in "ab"] == [b"one\n", b"two\n"]


def test_git_that_is_missing_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to get it."""
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(ValueError, match="git is not installed; on Debian: apt-get install git"):
        GitCode(repository).files("app@main")
