"""Models of hand-written fused nodes, each with what runs in plain ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

AFFINE = """tile_program 1
input x0 f32[M, K] row
input x1 f32[K] row
output y0 f32[M, K] row
output y1 i64[K, M] row
stage i: M, j: K
%0 = load x0 (i, j)
%1 = load x1 (j)
%2 = mul %0 %1
store y0 (i, j) %2
%3 = cast i64 %2
store y1 (j, i) %3
"""
GATHER = """tile_program 1
input x0 f32[V, 4] row
input x1 i64[S] row
output y0 f32[S, 4] row
stage i: S, j: 4
%0 = load x1 (i)
%1 = load x0 (%0, j)
store y0 (i, j) %1
"""
DENSE = """tile_program 1
input x0 f32[M, 64] row
input x1 f32[64, 48] row
input x2 f32[48] row
output y0 f32[M, 48] row
stage i: M, j: 48, k: 64
%0 = load x0 (i, k)
%1 = load x1 (k, j)
%2 = dot %0 %1 over k
%3 = load x2 (j)
%4 = add %2 %3
%5 = const f32 0
%6 = max %4 %5
store y0 (i, j) %6
"""
ROWS = """tile_program 1
input x0 f32[M, K] row
output y0 f32[M, K] row
stage i: M, j: K
%0 = load x0 (i, j)
%1 = reduce_max %0 over j
%2 = sub %0 %1
%3 = exp %2
%4 = reduce_sum %3 over j
%5 = div %3 %4
store y0 (i, j) %5
"""
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def fused(inputs: list[str], outputs: list[str], program: str, k: int = 0) -> NodeProto:
    """Return a fused node named after its first output."""
    return helper.make_node(
        f"FusedRegion_{k}",
        inputs,
        outputs,
        name=f"region_{outputs[0]}",
        domain="onnx_fusion",
        program=program,
    )


def function(k: int, inputs: list[str], outputs: list[str], nodes: list[NodeProto]):
    """Return the portable function of the fused nodes with number `k`."""
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_function("onnx_fusion", f"FusedRegion_{k}", inputs, outputs, nodes, opsets)


def model(nodes, inputs, outputs, weights=None, functions=(), values=()) -> onnx.ModelProto:
    """Return a model of opset 17; inputs and outputs are {name: (element type, dims)}."""

    def infos(table):
        return [helper.make_tensor_value_info(n, t, dims) for n, (t, dims) in table.items()]

    initializers = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(
        nodes, "hand_written", infos(inputs), infos(outputs), initializers, value_info=list(values)
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx_fusion", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def affine_model(dims=("M", "K")) -> onnx.ModelProto:
    """Return AFFINE with both inputs given at run time and its function."""
    body = [
        helper.make_node("Mul", ["a", "b"], ["y"]),
        helper.make_node("Transpose", ["y"], ["t"]),
        helper.make_node("Cast", ["t"], ["z"], to=INT64),
    ]
    return model(
        [fused(["x", "w"], ["y", "z"], AFFINE)],
        {"x": (FLOAT, dims), "w": (FLOAT, dims[1:])},
        {"y": (FLOAT, None), "z": (INT64, None)},
        functions=[function(0, ["a", "b"], ["y", "z"], body)],
    )


def dense_model(w: np.ndarray, b: np.ndarray) -> onnx.ModelProto:
    """Return DENSE with constant weights, and its function."""
    body = [
        helper.make_node("MatMul", ["a", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return model(
        [fused(["x", "w", "b"], ["y"], DENSE)],
        {"x": (FLOAT, ("M", 64))},
        {"y": (FLOAT, ("M", 48))},
        weights={"w": w, "b": b},
        functions=[function(0, ["a", "w", "b"], ["y"], body)],
    )
