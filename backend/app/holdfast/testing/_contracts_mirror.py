"""The mirror check: every public module has its contract, every contract its module."""

from __future__ import annotations

from pathlib import Path

from holdfast.testing._contracts_tree import Drift, is_private, trees


def check_mirror(root: Path) -> list[Drift]:
    """Return public modules without a contract, and contracts without a module."""
    contracts, code = trees(root)
    bare = [name for name in code.paths if not is_private(name) and name not in contracts.paths]
    orphans = [name for name in contracts.paths if name not in code.paths]
    return [
        *(
            Drift(
                check="mirror",
                file=code.label(name),
                name=name,
                contract="there is none",
                code="a public module",
                remedy="write its contract, or give the module's name a leading underscore",
            )
            for name in bare
        ),
        *(
            Drift(
                check="mirror",
                file=contracts.label(name),
                name=name,
                contract="describes a module",
                code="there is none",
                remedy="write the module, or delete its contract",
            )
            for name in orphans
        ),
    ]
