"""The clock of every policy that has none of its own, as hot paths read it; `use_clock` rebinds it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from holdfast.infrastructure.resilience.clock import Clock


class Ambient:
    """The common clock, and its `monotonic`, ready to be called."""

    __slots__ = ("clock", "monotonic")
    clock: Clock
    monotonic: Callable[[], float]


ambient = Ambient()

# The globals of generated code, which reads the clock as one global name (`_now`) and one call.
hot: dict[str, Any] = {}

# Whoever gets here first: the system's clock must be in place before anything is read.
import holdfast.infrastructure.resilience.clock  # noqa: E402, F401  # pyright: ignore[reportUnusedImport]
