"""Says which unknown extents are equal, where onnx.shape_inference gives each its own symbol.

    x[N, 64, H, W] -- Conv 3x3, pad 1 --> [N, 64, a, b] --+
                   \\- Conv 1x1 --------> [N, 64, c, d] --+-- Add --> [N, 64, e, f]

Both convolutions keep H and W, so a = c = e = H: rules (passes/extent_rules.py) compute an output's
extents from the inputs'.
"""

from __future__ import annotations

from typing import Any

from onnx_fusion.graph.model import MADE_UP, Dim, Node
from onnx_fusion.passes.extent_rules import broadcast_shapes, product_of
from onnx_fusion.passes.windows import Extent, Shape


class Extents:
    """Sets of extents known to be equal; each set has one name, an int or a declared symbol if it
    has one."""

    def __init__(self) -> None:
        self._same: dict[str, Dim] = {}
        self._keys: dict[tuple[Any, ...], str] = {}
        self._least: dict[str, Dim] = {}
        self._factors: dict[str, tuple[Dim, ...]] = {}

    def count(self) -> int:
        """Return how many equalities are known; it only grows."""
        return len(self._same)

    def find(self, dim: Dim) -> Dim:
        """Return the name of the set that `dim` is in."""
        while isinstance(dim, str) and dim in self._same:
            dim = self._same[dim]
        return dim

    def products(self) -> dict[str, tuple[Dim, ...]]:
        """Return the extents known to be products, with their factors; no extent is its own factor.

        Two extents found to be equal later may have been a product and its factor: the others are
        1.
        """
        found: dict[str, tuple[Dim, ...]] = {}
        for key, made in self._keys.items():
            if key[0] != "product" or key[2] != 1:
                continue
            dim, factors = self.find(made), tuple(map(self.find, (key[1], *key[3:])))
            left = list(factors)
            while left and left[-1] != dim:
                left += found.get(left.pop(), ())
            if not left:
                found[dim] = factors
        return found

    def shape(self, shape: Shape) -> Shape:
        """Return `shape` with every extent by its set's name."""
        return tuple(self.find(dim) for dim in shape)

    def learn(self, dim: Dim, extent: Extent) -> None:
        """Take up that `dim` equals `extent`, if it is made up: other symbols keep their names."""
        dim = self.find(dim)
        if not isinstance(dim, str) or not dim.startswith(MADE_UP) or extent is None:
            return
        if isinstance(extent, tuple) and extent[0] == "product":
            extent = self.reduced(extent)
        if isinstance(extent, tuple):
            if extent[0] == "min":
                self._least[dim] = extent[1]
            if extent[0] == "product" and extent[2] == 1:
                self._factors[dim] = (extent[1], *extent[3:])
            extent = self._keys.setdefault(extent, dim)
        extent = self.find(extent)
        if extent != dim:
            self._same[dim] = extent

    def reduced(self, product: tuple[Any, ...]) -> Extent:
        """Return a product with its own factors for those that are products."""
        _, known, divisor, *symbols = product
        factors = [
            f for dim in symbols for f in self._factors.get(self.find(dim), (self.find(dim),))
        ]
        return product_of([known, *factors], divisor)

    def agree(self, node: Node) -> None:
        """Take up what must hold for the node to run at all.

        The inner extents of MatMul are equal, and those of Concat but along its axis. min(n, k),
        k > 1, is n where it is broadcast against n: it is 1 only if n is.
        """
        if node.domain or any(value is None or value.shape is None for value in node.inputs):
            return
        shapes = [self.shape(value.shape) for value in node.inputs]
        if node.op_type == "Concat" and len({len(shape) for shape in shapes}) == 1:
            axis = node.attrs.get("axis", 1) % max(len(shapes[0]), 1)
            for dims in zip(*(s[:axis] + s[axis + 1 :] for s in shapes), strict=True):
                for dim in dims[1:]:
                    self.learn(dims[0], dim)
                    self.learn(dim, dims[0])
        if node.op_type == "MatMul" and all(shapes):
            inner = (shapes[0][-1], shapes[1][-2 if len(shapes[1]) > 1 else -1])
            self.learn(*inner)
            self.learn(*reversed(inner))
        shapes = [self.shape(shape) for shape in broadcast_shapes(node)]
        for axis in range(-max(map(len, shapes), default=0), 0):
            dims = [shape[axis] for shape in shapes if len(shape) >= -axis]
            for dim in dims:
                least = self.find(self._least.get(dim, dim))
                if least != dim and least in dims:
                    self.learn(dim, least)
