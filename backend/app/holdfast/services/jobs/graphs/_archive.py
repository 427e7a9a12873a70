"""What an order executes, as one archive: the same order has the same bytes."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.services.jobs.graphs.request import Order

ORDER = "order.json"
CODE = "code/"
SECRETS = "secrets"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(order: Order, files: Mapping[str, tuple[bytes, int]], sealed: bytes = b"") -> bytes:
    """Return the archive: `order.json` with name, commands, timeout and environment, and the code below `code/`.

    `sealed`: its secrets, encrypted, as the file `secrets`.
    """
    said = {
        "name": order.name,
        "commands": list(order.commands),
        "timeout": order.timeout,
        "environment": dict(order.environment),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, ORDER, json.dumps(said, sort_keys=True).encode(), 0o644)
        if sealed:
            _add(archive, SECRETS, sealed, 0o600)
        for path, (data, mode) in sorted(files.items()):
            _add(archive, f"{CODE}{path}", data, mode)
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = (0o100000 | mode & 0o777) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)
