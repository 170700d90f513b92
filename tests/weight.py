"""The memory of a connection: the size of all objects reachable from it, without settings, types and modules."""

from __future__ import annotations

import gc
import sys
from types import FunctionType, ModuleType
from typing import Any

from mailauth import Machine

_EVERYWHERE = (type, ModuleType, FunctionType)


class Scales:
    """Measures how much the memory of *machine* grows.  Objects reachable from *others* are not counted."""

    def __init__(self, machine: Machine[Any], *others: object) -> None:
        self._machine = machine
        self._others = _reached(list(others), {})
        self._rest = self._all()

    def weigh(self) -> int:
        """Return the growth in bytes since this object was created."""
        return self._all() - self._rest

    def _all(self) -> int:
        return sum(sys.getsizeof(thing) for thing in _reached([self._machine], self._others).values())


def _reached(roots: list[object], seen: dict[int, object]) -> dict[int, object]:
    found: dict[int, object] = {}
    waiting = roots
    while waiting:
        thing = waiting.pop()
        if id(thing) not in seen and id(thing) not in found and not isinstance(thing, _EVERYWHERE):
            found[id(thing)] = thing
            waiting += gc.get_referents(thing)
    return found
