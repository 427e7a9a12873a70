"""Secrets of orders, encrypted by age or SOPS: their own programs, which have to be installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from holdfast.services.jobs.errors import JobsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SECONDS = 30.0
_SHOWN = 300
_REMEDIES = {
    "age": "on Debian: apt-get install age; elsewhere: https://github.com/FiloSottile/age",
    "sops": "see https://github.com/getsops/sops/releases",
}


class SecretsError(JobsError):
    """Secrets cannot be encrypted or read: which program is missing and how to get it, or what it said."""


class Secrets(Protocol):
    """Whoever encrypts the secrets of orders and reads them again; a process may be able to do one of both."""

    def seal(self, values: Mapping[str, str]) -> bytes:
        """Return variables, encrypted. SecretsError."""
        ...

    def open(self, sealed: bytes) -> dict[str, str]:
        """Return the variables that `seal` was given. SecretsError."""
        ...


class AgeSecrets:
    """Secrets encrypted with age: for `recipients` (`age1…` or SSH keys), read with the key in the file `identity`.

    Whoever submits needs recipients, whoever executes an identity. Nothing is written to a disk unencrypted.
    """

    def __init__(self, recipients: Sequence[str] = (), *, identity: str | Path | None = None) -> None:
        self._recipients = tuple(recipients)
        self._identity = None if identity is None else Path(identity)

    def seal(self, values: Mapping[str, str]) -> bytes:
        """Return variables, encrypted. SecretsError."""
        to = _needed(self._recipients)
        return _run("age", ["--encrypt", *(word for one in to for word in ("-r", one))], _text(values))

    def open(self, sealed: bytes) -> dict[str, str]:
        """Return the variables that `seal` was given. SecretsError."""
        identity = _found(self._identity)
        return _values(_run("age", ["--decrypt", "-i", str(identity)], sealed))

    def check(self) -> None:
        """Raise SecretsError unless the program is installed and the key file, if one was given, is there."""
        _check("age", self._identity)


class SopsSecrets:
    """Secrets encrypted with SOPS for recipients of age, read with the key in the file `identity`."""

    def __init__(self, recipients: Sequence[str] = (), *, identity: str | Path | None = None) -> None:
        self._recipients = tuple(recipients)
        self._identity = None if identity is None else Path(identity)

    def seal(self, values: Mapping[str, str]) -> bytes:
        """Return variables, encrypted. SecretsError."""
        to = ",".join(_needed(self._recipients))
        return _run("sops", ["--encrypt", "--age", to, *_JSON], _text(values))

    def open(self, sealed: bytes) -> dict[str, str]:
        """Return the variables that `seal` was given. SecretsError."""
        key = {"SOPS_AGE_KEY_FILE": str(_found(self._identity))}
        return _values(_run("sops", ["--decrypt", *_JSON], sealed, key))

    def check(self) -> None:
        """Raise SecretsError unless the program is installed and the key file, if one was given, is there."""
        _check("sops", self._identity)


_JSON = ("--input-type", "json", "--output-type", "json", "/dev/stdin")


def _needed(recipients: Sequence[str]) -> Sequence[str]:
    if not recipients or any(one.startswith("-") for one in recipients):
        raise SecretsError(
            f"secrets cannot be encrypted for {list(recipients)}: give recipients such as 'age1…'"
        )
    return recipients


def _found(identity: Path | None) -> Path:
    if identity is None or not identity.is_file():
        raise SecretsError(
            f"secrets cannot be read: there is no key file {identity}; age-keygen -o FILE makes one"
        )
    return identity


def _check(program: str, identity: Path | None) -> None:
    _path(program)
    if identity is not None:
        _found(identity)


def _path(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise SecretsError(f"the program {program} is not installed; {_REMEDIES[program]}")
    return path


def _run(
    program: str, arguments: Sequence[str], data: bytes, environment: Mapping[str, str] | None = None
) -> bytes:
    path = _path(program)
    try:
        done = subprocess.run(  # noqa: S603  # a fixed program
            [path, *arguments],
            input=data,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise SecretsError(f"{program} did not end within {_SECONDS:g} s") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:_SHOWN]
        raise SecretsError(f"{program} ended with exit code {done.returncode}: {said}")
    return done.stdout


def _text(values: Mapping[str, str]) -> bytes:
    return json.dumps(dict(values), sort_keys=True).encode()


def _values(data: bytes) -> dict[str, str]:
    try:
        found = json.loads(data)
        return {str(name): str(value) for name, value in found.items()}
    except (ValueError, AttributeError):
        raise SecretsError("what was decrypted is no object of texts") from None
