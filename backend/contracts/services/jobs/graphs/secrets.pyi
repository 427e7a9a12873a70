"""Secrets of orders, encrypted by age or SOPS: their own programs, which have to be installed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from holdfast.services.jobs.errors import JobsError

class SecretsError(JobsError):
    """Secrets cannot be encrypted or read: which program is missing and how to get it, or what it said."""

class Secrets(Protocol):
    """Whoever encrypts the secrets of orders and reads them again; a process may be able to do one of both."""

    def seal(self, values: Mapping[str, str]) -> bytes:
        """Return variables, encrypted. SecretsError."""

    def open(self, sealed: bytes) -> dict[str, str]:
        """Return the variables that `seal` was given. SecretsError."""

class AgeSecrets:
    """Secrets encrypted with age: for `recipients` (`age1…` or SSH keys), read with the key in the file `identity`.

    Whoever submits needs recipients, whoever executes an identity. Nothing is written to a disk unencrypted.
    """

    def __init__(self, recipients: Sequence[str] = (), *, identity: str | Path | None = None) -> None: ...
    def seal(self, values: Mapping[str, str]) -> bytes:
        """Return variables, encrypted. SecretsError."""

    def open(self, sealed: bytes) -> dict[str, str]:
        """Return the variables that `seal` was given. SecretsError."""

    def check(self) -> None:
        """Raise SecretsError unless the program is installed and the key file, if one was given, is there."""

class SopsSecrets:
    """Secrets encrypted with SOPS for recipients of age, read with the key in the file `identity`."""

    def __init__(self, recipients: Sequence[str] = (), *, identity: str | Path | None = None) -> None: ...
    def seal(self, values: Mapping[str, str]) -> bytes:
        """Return variables, encrypted. SecretsError."""

    def open(self, sealed: bytes) -> dict[str, str]:
        """Return the variables that `seal` was given. SecretsError."""

    def check(self) -> None:
        """Raise SecretsError unless the program is installed and the key file, if one was given, is there."""
