"""API keys: what is a key, where they come from, and that no secret is ever shown."""

import pickle

import pytest

from holdfast.api.internal.resilience.auth import ApiKey, ApiKeys
from holdfast.infrastructure.resilience.errors import ConfigurationError

SECRET = "a-secret-of-32-characters-or-more"
OTHER = "another-secret-of-many-characters"


def faults(error: pytest.ExceptionInfo[ConfigurationError]) -> list[str]:
    return [fault.path for fault in error.value.faults]


def test_a_key_matches_its_secret_only() -> None:
    """A key matches its secret, and nothing that only begins or ends like it."""
    key = ApiKey("ops", SECRET, "operate")
    assert [key.matches(one) for one in (SECRET, SECRET + "x", SECRET[:-1], "", "é" * 20)] == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_keys_of_the_environment() -> None:
    """Keys stand in one variable, separated by commas or lines; a secret may hold colons."""
    text = f"scraper:read:{SECRET}, ops:operate:{OTHER}:and:more\n\n,web-1:read:{OTHER}\n"
    keys = ApiKeys.from_environ({"HOLDFAST_API_KEYS": text})
    found = [keys.find(secret) for secret in (SECRET, f"{OTHER}:and:more", OTHER)]
    assert [f"{key.name}/{key.role}" for key in found if key] == ["scraper/read", "ops/operate", "web-1/read"]
    assert (len(keys), keys.find(""), keys.find("unknown")) == (3, None, None)


@pytest.mark.parametrize("environ", [{}, {"HOLDFAST_API_KEYS": ""}, {"HOLDFAST_API_KEYS": " ,\n, "}])
def test_no_keys_in_the_environment(environ: dict[str, str]) -> None:
    """Without the variable, or with nothing in it, there are no keys."""
    assert len(ApiKeys.from_environ(environ)) == 0


def test_the_environment_is_the_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no environment is given, the keys are those of the process."""
    monkeypatch.setenv("HOLDFAST_API_KEYS", f"ops:operate:{SECRET}")
    found = ApiKeys.from_environ().find(SECRET)
    assert found == ApiKey("ops", SECRET, "operate")


def test_every_fault_of_the_environment_is_reported() -> None:
    """All that is wrong is reported together, by place, and no part of any key is shown."""
    lines = [
        f"read:ops:{SECRET}",
        "ops:operate",
        "bad name!:root:short",
        f"a:read:{OTHER}",
        f"a:read:{OTHER}",
    ]
    with pytest.raises(ConfigurationError) as error:
        ApiKeys.from_environ({"HOLDFAST_API_KEYS": ",".join(lines)})
    assert faults(error) == [
        "keys[0].role",
        "keys[1]",
        "keys[2].name",
        "keys[2].role",
        "keys[2].secret",
        "keys[1].name",
        "keys[1].secret",
    ]
    said = str(error.value) + repr(error.value.faults)
    assert not [part for part in (SECRET, OTHER, "short", "root", "bad name!") if part in said]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (("", SECRET, "read"), ["name"]),
        (("x" * 65, SECRET, "read"), ["name"]),
        (("ops\n", SECRET, "read"), ["name"]),
        (("ops", "x" * 15, "read"), ["secret"]),
        (("ops", "x" * 513, "read"), ["secret"]),
        (("ops", "with a space in the middle", "read"), ["secret"]),
        (("ops", "with,a,comma,in,the,middle", "read"), ["secret"]),
        (("ops", "ünïcode-of-many-characters", "read"), ["secret"]),
        (("ops", SECRET, "admin"), ["role"]),
        ((None, None, None), ["name", "role", "secret"]),
    ],
)
def test_a_bad_key_is_refused(given: tuple[str, str, str], wrong: list[str]) -> None:
    """A key has a name for the audit trail, a secret that a header can carry, and one of two roles."""
    with pytest.raises(ConfigurationError) as error:
        ApiKey(*given)
    assert wrong == faults(error)


def test_names_and_secrets_are_unique() -> None:
    """Two keys share neither name nor secret: the audit trail would not know them apart."""
    with pytest.raises(ConfigurationError) as error:
        ApiKeys([ApiKey("a", SECRET), ApiKey("b", OTHER), ApiKey("a", SECRET)])
    assert faults(error) == ["keys[2].name", "keys[2].secret"]


def test_what_is_no_key_is_refused() -> None:
    """Secrets as text are no keys."""
    with pytest.raises(ConfigurationError) as error:
        ApiKeys([SECRET])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert faults(error) == ["keys[0]"]


def test_a_key_shows_no_secret() -> None:
    """Neither `repr` nor a pickle holds the secret."""
    key = ApiKey("ops", SECRET)
    shown = repr(key) + repr(ApiKeys([key])) + repr(pickle.dumps(key)) + repr(vars(ApiKeys([key])))
    assert SECRET not in shown
    assert pickle.loads(pickle.dumps(key)).matches(SECRET)


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding a key takes as many comparisons as there are keys, wherever it stands."""
    compared: list[bytes] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return a == b

    monkeypatch.setattr("hmac.compare_digest", compare)
    keys = ApiKeys([ApiKey(name, f"{SECRET}-{name}") for name in "abc"])
    for name in "abz":
        compared.clear()
        keys.find(f"{SECRET}-{name}")
        assert len(compared) == len(keys)
