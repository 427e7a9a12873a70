"""What a channel accepts as settings, names and requests."""

from __future__ import annotations

from holdfast.infrastructure.resilience._frozen import Faults
from holdfast.infrastructure.resilience.errors import _Shown

_LONGEST = 1e9  # seconds, 31 years
_LONGEST_NAME = 128
_SHORTEST_SECRET = 16
_HIDDEN = _Shown("…")


def is_a(value: object, kind: type) -> bool:
    """Return whether a value is of a kind, whatever type checkers think."""
    return isinstance(value, kind)


def is_name(value: object) -> bool:
    """Return whether a value can be the name of a peer, and stand in a header."""
    text = value if isinstance(value, str) else ""
    return 0 < len(text) <= _LONGEST_NAME and text.isascii() and text.isprintable() and " " not in text


def check_name(faults: Faults, path: str, name: object) -> None:
    """Note a fault unless `name` can be a peer's."""
    remedy = f"give 1 to {_LONGEST_NAME} printable ASCII characters without blanks"
    faults.check(is_name(name), path, name, "is no name", remedy)


def check_url(faults: Faults, url: object) -> None:
    """Note a fault unless `url` is an address of a channel, without a password, which errors would show."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        fine = parts.scheme in {"ws", "wss"} and parts.hostname and not parts.username and not parts.fragment
    except ValueError:
        fine = False
    faults.check(fine, "url", url, "is no address of a channel", 'give one such as "wss://hub.test:8765"')


def check_server(authenticate: object, secret: object) -> None:
    """Raise ConfigurationError, which does not show the secret, unless both are fine."""
    faults = Faults("ChannelServer")
    fine = callable(authenticate)
    faults.check(fine, "authenticate", authenticate, "is not callable", "give a function of peer and token")
    long = secret is None or (isinstance(secret, bytes) and len(secret) >= _SHORTEST_SECRET)
    remedy = f"give {_SHORTEST_SECRET} bytes or more, or None"
    faults.check(long, "secret", _HIDDEN, "is no secret", remedy)
    faults.finish()


def check_token(token: object) -> None:
    """Raise ConfigurationError, which does not show the token, unless it can stand in a header."""
    fine = (
        isinstance(token, str)
        and token != ""
        and token.isascii()
        and token.isprintable()
        and " " not in token
    )
    faults = Faults("ChannelPeer")
    faults.check(fine, "token", _HIDDEN, "is no token", "give printable ASCII without blanks")
    faults.finish()


def check_request(peer: object, action: object, timeout: object, key: object) -> None:
    """Raise ConfigurationError unless all can be part of a request."""
    faults = Faults("request")
    check_name(faults, "peer", peer)
    fine = isinstance(action, str) and action != ""
    faults.check(fine, "action", action, "is no name of an action", "give a str")
    faults.number("timeout", timeout, 0, _LONGEST, above=True, optional=True)
    fine = key is None or (isinstance(key, str) and key != "")
    faults.check(fine, "idempotency_key", key, "is no key", "give a str that is not empty, or None")
    faults.finish()
