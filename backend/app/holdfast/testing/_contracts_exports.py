"""Comparison of `__all__` between a contract and its code."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.testing._contracts_tree import Module
from holdfast.testing._contracts_values import Difference


def compare_exports(contract: Module, code: Module) -> Iterator[tuple[Module, Difference]]:
    """Yield what is wrong with the two lists of names, and where: both or none, equal, and sorted."""
    sides = {"contract": contract, "code": code}
    try:
        mine, its = (side.names_of_all() for side in sides.values())
    except ValueError as error:
        shown = f"`{error}` is not a list of names"
        yield contract, Difference("names", shown, shown, "write a literal list")
        return
    if mine is None or its is None:
        if mine is not its:
            said = ["there is no list" if names is None else "a list" for names in (mine, its)]
            yield contract, Difference("names", said[0], said[1], "write the same `__all__` on both sides")
        return
    if set(mine) != set(its):
        alone = [f"alone: {sorted(set(a) - set(b)) or 'none'}" for a, b in ((mine, its), (its, mine))]
        yield contract, Difference("names", alone[0], alone[1])
    for names, module in ((mine, contract), (its, code)):
        orders = _accepted_orders(names)
        if names not in orders:
            first = next(
                (name for name, due in zip(names, orders[0], strict=False) if name != due), names[-1]
            )
            shown = f"`{first}` is out of order, or there twice, in {module.label}"
            yield module, Difference("order", shown, shown, "sort `__all__`")


def _accepted_orders(names: list[str]) -> list[list[str]]:
    """Return the sorted orders without doubles: by character, or constants, then classes, then the rest."""
    distinct = sorted(set(names))
    return [
        distinct,
        sorted(distinct, key=lambda name: 0 if name.isupper() else 1 if name[:1].isupper() else 2),
    ]
