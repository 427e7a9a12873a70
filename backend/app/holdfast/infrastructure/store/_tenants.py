"""What a tenant may be called, wherever it is kept: the name becomes part of a file's, a folder's or a schema's."""

from __future__ import annotations

import re

TENANT = r"[a-z0-9][a-z0-9_-]{0,47}"
"""What a tenant's name looks like."""


def checked_tenant(tenant: str) -> str:
    """Return a tenant's name. ValueError for one that could be another's, or lead elsewhere."""
    if not re.fullmatch(TENANT, tenant):
        raise ValueError(f"tenant {tenant!r}: give 1 to 48 of a-z, 0-9, - and _, the first a letter or digit")
    return tenant
