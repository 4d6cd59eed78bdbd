"""What a function's body reads and is not given: constants, and shapes that arrive as data.

A tile program knows extents from its inputs' shapes, so a fused node needs no shape tensor. The
original operators do, and take it from the same place:

    Shape i0 --+                                     [N, 12, S, 64], where N and S
    12, 64 ----+-- Concat -- Gather -- Reshape       are extents of the input i0

Names made here stand for values of the function, are renamed before they are written, and contain a
character that no other name has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import helper

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.weights import Weight
from onnx_fusion.passes.elements import elements

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Dim, Value

ANY_CONSTANT_OPSET = 9
"""The first opset whose Constant may have any element type."""


def write_constants(
    graph: onnx.GraphProto, constants: Mapping[str, Weight], opsets: Mapping[str, int]
) -> None:
    """Put nodes that give these constants before all others."""
    opset = opsets.get("", ANY_CONSTANT_OPSET)
    nodes = [made for name, weight in constants.items()
             for made in constant_nodes(name, weight, opset)]  # fmt: skip
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def constant_nodes(name: str, weight: Weight, opset: int) -> list[onnx.NodeProto]:
    """Return the nodes that give a constant; opsets 7 and 8 allow floating-point ones only."""
    dtype = weight.dtype
    if opset < ANY_CONSTANT_OPSET and dtype is not None and dtype.numpy.kind != "f":
        array = weight.array()
        wide = array.astype(np.float64)
        if np.array_equal(wide.astype(object), array.astype(object)):
            tensor = onnx.numpy_helper.from_array(wide)
            return [helper.make_node("Constant", [], [f"{name}\0wide"], value=tensor),
                    helper.make_node("Cast", [f"{name}\0wide"], [name], to=dtype.onnx)]
    return [helper.make_node("Constant", [], [name], value=weight.tensor("", data=True))]


def reshape_nodes(name: str, weight: Weight, inputs: Sequence[Value], opset: int
                  ) -> list[onnx.NodeProto]:
    """Return nodes that give a constant by reshaping the input that holds the same bytes, if any.

    A pass may have made such an input of the constant: a row's scale of rank 1 from one of rank 3.
    """
    for value in inputs:
        twin = value.weight
        if twin is None or (twin.code, twin.nbytes) != (weight.code, weight.nbytes):
            continue
        if twin.raw() == weight.raw():
            shape = Weight.of(np.array(weight.shape, np.int64))
            return [*constant_nodes(f"{name}\0shape", shape, opset),
                    helper.make_node("Reshape", [value.name, f"{name}\0shape"], [name])]
    return []


def extent_nodes(value: Value, inputs: Sequence[Value], opset: int) -> list[onnx.NodeProto]:
    """Return nodes that give a shape tensor by the extents of `inputs`, if they have them all."""
    found = elements(value)
    if found is None:
        return []
    shape = () if value.shape == () else (len(found),)
    symbols = dict.fromkeys(dim for dim in found if not isinstance(dim, int))
    places: dict[Dim, tuple[Value, int]] = {}
    for given in inputs:
        for axis, dim in enumerate(given.shape or ()):
            places.setdefault(dim, (given, axis))
    if not symbols or any(dim not in places for dim in symbols):
        return []

    name, nodes, pool, index = value.name, [], [], {}
    length = 0
    for given in dict.fromkeys(places[dim][0] for dim in symbols):
        pool.append(f"{name}\0{len(pool)}")
        nodes.append(helper.make_node("Shape", [given.name], pool[-1:]))
        index.update((dim, length + axis) for dim, (source, axis) in places.items()
                     if source is given and dim in symbols)
        length += len(given.shape)
    numbers = list(dict.fromkeys(dim for dim in found if isinstance(dim, int)))
    if numbers:
        pool.append(f"{name}\0{len(pool)}")
        nodes += constant_nodes(pool[-1], Weight.of(np.array(numbers, np.int64)), opset)
        index.update((dim, length + k) for k, dim in enumerate(numbers))
    if len(pool) > 1:
        nodes.append(helper.make_node("Concat", pool, [f"{name}\0pool"], axis=0))
        pool = [f"{name}\0pool"]
    picks = Weight.of(np.array([index[dim] for dim in found], np.int64).reshape(shape))
    nodes += constant_nodes(f"{name}\0picks", picks, opset)
    narrow = value.dtype is not DType.I64
    result = f"{name}\0i64" if narrow else name
    nodes.append(helper.make_node("Gather", [*pool, f"{name}\0picks"], [result], axis=0))
    if narrow:
        nodes.append(helper.make_node("Cast", [result], [name], to=value.dtype.onnx))
    return nodes
