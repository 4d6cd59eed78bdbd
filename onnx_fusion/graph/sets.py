"""Disjoint sets of values."""

from __future__ import annotations

from onnx_fusion.graph.model import Value


class Sets:
    """Sets that every value is in one of, alone at first (Tarjan: union by halving paths)."""

    def __init__(self) -> None:
        self._parent: dict[Value, Value] = {}

    def find(self, value: Value) -> Value:
        """Return the value that stands for the set."""
        parent = self._parent
        while (above := parent.get(value, value)) is not value:
            parent[value] = parent.get(above, above)
            value = parent[value]
        return value

    def join(self, first: Value, second: Value) -> None:
        """Make one set of two; what stood for the first one's stands for both."""
        self._parent[self.find(second)] = self.find(first)
