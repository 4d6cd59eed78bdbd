"""The functions that stand in for fused nodes: the region's operators, and what those need."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from emit_models import body, chain, floats, fuse, graph_of, kinds, lower, make, pick, same
from onnx import helper, numpy_helper

from onnx_fusion.emit import emit, refusal
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.graph.view import view
from onnx_fusion.graph.weights import Weight
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.infer import infer


def test_omitted_inputs_stay_omitted_in_the_body():
    proto = make([("clip", "Clip", "x  hi", "a", {}), ("neg", "Neg", "a", "y", {})],
                 [("x", [5])], [("y", [5])], [("hi", np.float32(0.25))])
    proto.graph.node[0].input[:] = ["x", "", "hi"]
    after = fuse(proto, "clip neg")
    assert list(after.graph.node[0].input) == ["x", "hi"]
    assert list(after.functions[0].node[0].input) == ["i0", "", "i1"]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
def test_baked_constants_become_nodes_of_the_body(opset):
    proto = make([("shape", "Constant", "", "shape", {"value": numpy_helper.from_array(
                      np.array([2, 6], np.int64))}),
                  ("reshape", "Reshape", "x shape", "a", {}), ("mul", "Mul", "a two", "y", {})],
                 [("x", [3, 4])], [("y", [2, 6])], [("two", np.float32(2))], opset=opset)
    model = load(proto)
    graph = graph_of(model)
    graph.values["shape"].weight = Weight.of(np.array([2, 6], np.int64))
    fused = lower("r", pick(graph, "reshape", "mul"), baked=("shape", "two"))
    after = same(proto, emit(model, graph, [fused]))
    assert kinds(after) == ["FusedRegion_0"]
    assert list(after.graph.node[0].input) == ["x"]
    assert not after.graph.initializer
    if opset >= 9:
        want = ["v0 = Constant", "v1 = Constant", "v2 = Reshape i0 v0", "o0 = Mul v2 v1"]
    else:
        want = ["v0 = Constant", "v1 = Cast v0", "v2 = Constant", "v3 = Reshape i0 v1",
                "o0 = Mul v3 v2"]
    assert body(after) == want


def test_a_constant_that_an_input_holds_in_another_shape_is_taken_from_it():
    """A pass gave the region a scale of rank 1; the primitives read the one of rank 3."""
    proto = make([("mul", "Mul", "x g", "y", {})], [("x", [2, 2, 2000])], [("y", [2, 2, 2000])],
                 [("g", floats(1, 1, 2000))])
    model = load(proto)
    graph = graph_of(model)
    x, y, g = (graph.values[name] for name in "xyg")
    flat = Value("flat", g.dtype, (2000,), Weight.of(g.weight.array().reshape(2000)))
    node = Node("Mul", "", "mul", [x, flat], [y], {}, frozenset((0,)),
                parts=(graph.nodes[0],), body_is_parts=True)
    after = same(proto, emit(model, graph, [lower("r", [node])]))
    assert body(after) == ["v0 = Constant", "v1 = Reshape i1 v0", "o0 = Mul i0 v1"]
    assert [tensor.name for tensor in after.graph.initializer] == ["flat"]


def attribute(numbers: list[int], dtype: np.dtype | type = np.int64) -> dict:
    """The attributes of a Constant node."""
    return {"value": numpy_helper.from_array(np.array(numbers, dtype))}


def shaped(kind: int, opset: int = 13) -> onnx.ModelProto:
    """x [N, 12] becomes [N, 3, 4] by a shape computed in int32 or int64."""
    shape = attribute([3, 4], helper.tensor_dtype_to_np_dtype(kind))
    zero = attribute([0])
    return make([("shape", "Shape", "x", "s", {}), ("zero", "Constant", "", "zero", zero),
                 ("n", "Gather", "s zero", "n", {}), ("cast", "Cast", "n", "m", {"to": kind}),
                 ("rest", "Constant", "", "rest", shape),
                 ("cat", "Concat", "m rest", "c", {"axis": 0}),
                 ("long", "Cast", "c", "t", {"to": 7}),
                 ("relu", "Relu", "x", "r", {}), ("reshape", "Reshape", "r t", "p", {}),
                 ("exp", "Exp", "p", "y", {})], [("x", ["N", 12])], [("y", ["N", 3, 4])],
                opset=opset)


@pytest.mark.parametrize("opset", [7, 9, 13, 18])
@pytest.mark.parametrize("given", ["t", "c"])
def test_a_shape_that_the_program_does_not_read_is_made_of_extents(opset, given):
    proto = shaped(6 if given == "c" else 7, opset)
    model = load(proto)
    graph = fold(infer(view(model)))
    names = "relu reshape exp" if given == "t" else "long relu reshape exp"
    fused = lower("r", pick(graph, *names.split()), baked=(given,))
    assert [value.name for value in fused.inputs] == ["x"]
    after = same(proto, emit(model, graph, [fused]))
    assert kinds(after) == ["FusedRegion_0"]
    assert "Shape" in [node.op_type for node in after.functions[0].node]


def test_extents_come_from_several_inputs_and_axes():
    proto = make([("sx", "Shape", "x", "sx", {}), ("sz", "Shape", "z", "sz", {}),
                  ("zero", "Constant", "", "zero", attribute([0])),
                  ("last", "Constant", "", "last", attribute([1])),
                  ("n", "Gather", "sx zero", "n", {}), ("m", "Gather", "sz last", "m", {}),
                  ("cat", "Concat", "n last m", "t", {"axis": 0}),
                  ("mm", "MatMul", "x z", "p", {}), ("reshape", "Reshape", "p t", "y", {})],
                 [("x", ["N", 4]), ("z", [4, "M"])], [("y", ["N", 1, "M"])])
    model = load(proto)
    graph = fold(infer(view(model)))
    fused = lower("r", pick(graph, "mm", "reshape"), baked=("t",))
    feeds = {"x": floats(2, 4), "z": floats(4, 5)}
    after = same(proto, emit(model, graph, [fused]), feeds)
    assert list(after.graph.node[0].input) == ["x", "z"]
    assert [node.op_type for node in after.functions[0].node].count("Shape") == 2


def test_an_extent_may_be_a_scalar_of_int32():
    proto = make([("shape", "Shape", "x", "s", {}), ("zero", "Constant", "", "zero", {
                      "value": numpy_helper.from_array(np.array(0, np.int64))}),
                  ("n", "Gather", "s zero", "n", {}), ("int", "Cast", "n", "i", {"to": 6}),
                  ("more", "Add", "i k", "d", {}), ("float", "Cast", "d", "f", {"to": 1}),
                  ("sum", "ReduceSum", "x", "t", {"keepdims": 0}), ("div", "Div", "t f", "y", {})],
                 [("x", ["N", 3])], [("y", [])], [("k", np.int32(2))], opset=11)
    model = load(proto)
    graph = fold(infer(view(model)))
    fused = lower("r", pick(graph, "more", "float", "sum", "div"), baked=("i",))
    after = same(proto, emit(model, graph, [fused]))
    assert kinds(after) == ["FusedRegion_0"]
    assert "Gather" in [node.op_type for node in after.functions[0].node]


def test_a_constant_output_of_a_node_that_stays_in_the_body_is_its_own():
    proto = make([("split", "Split", "x", "a b", {"axis": 0}), ("add", "Add", "a b", "y", {})],
                 [("x", [4])], [("y", [2])])
    model = load(proto)
    graph = graph_of(model)
    graph.values["a"].weight = Weight.of(np.zeros(2, np.float32))
    after = same(proto, emit(model, graph, [lower("r", pick(graph, "split", "add"))]))
    assert body(after) == ["v0 v1 = Split i0", "o0 = Add v0 v1"]


def test_shape_arithmetic_that_is_more_than_picking_extents_is_computed_again():
    """The shape [2 N, 6] is no list of extents; its operators end at x, which the region has."""
    proto = make([("shape", "Shape", "x", "s", {}),
                  ("zero", "Constant", "", "zero", attribute([0])),
                  ("n", "Gather", "s zero", "n", {}),
                  ("two", "Constant", "", "two", attribute([2])),
                  ("mul", "Mul", "n two", "m", {}), ("six", "Constant", "", "six", attribute([6])),
                  ("cat", "Concat", "m six", "t", {"axis": 0}),
                  ("reshape", "Reshape", "x t", "p", {}), ("exp", "Exp", "p", "y", {})],
                 [("x", ["N", 12])], [("y", ["M", 6])])
    model = load(proto)
    graph = fold(infer(view(model)))
    fused = lower("r", pick(graph, "reshape", "exp"), baked=("t",))
    after = same(proto, emit(model, graph, [fused]))
    assert kinds(after) == ["FusedRegion_0"]
    assert {"Mul", "Gather"} <= {node.op_type for node in after.functions[0].node}


def test_a_reason_instead_of_an_error():
    model = load(chain())
    graph = graph_of(model)
    whole_region = lower("r", pick(graph, "relu"))
    assert refusal(whole_region, graph.opsets) is None
    lacking = dataclasses.replace(whole_region, inputs=())
    assert refusal(lacking, graph.opsets) == (
        "reads 'a', which is neither an input nor computed inside")


def test_a_large_baked_constant_is_an_error():
    proto = make([("mul", "Mul", "x w", "y", {})], [("x", [1025])], [("y", [1025])],
                 [("w", floats(1025))])
    model = load(proto)
    graph = graph_of(model)
    fused = lower("r", pick(graph, "mul"), baked=("w",))
    with pytest.raises(OnnxFusionError, match="region 'r': constant 'w' of 4100 bytes .* 4096"):
        emit(model, graph, [fused])


def test_a_normalization_folded_into_a_convolution():
    """The pass's Conv, with weights of its own, is written; the statistics go with the original."""
    weights = {"w": floats(4, 3, 3, 3), "scale": floats(4), "bias": floats(4), "mean": floats(4),
               "var": np.abs(floats(4)) + 1}
    proto = make([("conv", "Conv", "x w", "c", {"pads": [1, 1, 1, 1]}),
                  ("bn", "BatchNormalization", "c scale bias mean var", "n", {}),
                  ("relu", "Relu", "n", "y", {})],
                 [("x", ["N", 3, 8, 8])], [("y", ["N", 4, 8, 8])], weights.items())
    model = load(proto)
    graph = graph_of(model)
    conv, bn, relu = graph.nodes
    factor = weights["scale"] / np.sqrt(weights["var"] + np.float32(1e-5))
    kernel = Value("w_folded", weight=Weight.of(weights["w"] * factor[:, None, None, None]))
    offset = Value("b_folded", weight=Weight.of(weights["bias"] - weights["mean"] * factor))
    folded = Node("Conv", "", "conv", [conv.inputs[0], kernel, offset], [bn.outputs[0]],
                  dict(conv.attrs), conv.origin | bn.origin, parts=(conv, bn))
    bn.outputs[0].producer = folded
    graph.nodes[:2] = [folded]
    fused = lower("r", [folded, relu])
    after = same(proto, emit(model, graph, [fused]))
    assert kinds(after) == ["FusedRegion_0"]
    assert list(after.graph.node[0].input) == ["x", "w_folded", "b_folded"]
    assert body(after) == ["v0 = Conv i0 i1 i2", "o0 = Relu v0"]
    assert {tensor.name for tensor in after.graph.initializer} == {"w_folded", "b_folded"}


def test_a_recognised_row_stands_as_its_parts():
    """A pass made one LayerNormalization of primitives, an operator that opset 13 lacks."""
    proto = make([("mean", "ReduceMean", "x", "m", {"axes": [-1]}), ("sub", "Sub", "x m", "d", {}),
                  ("pow", "Pow", "d two", "q", {}), ("var", "ReduceMean", "q", "v", {"axes": [-1]}),
                  ("eps", "Add", "v e", "ve", {}), ("sqrt", "Sqrt", "ve", "s", {}),
                  ("div", "Div", "d s", "n", {}), ("mul", "Mul", "n g", "h", {}),
                  ("neg", "Neg", "h", "y", {})],
                 [("x", [4, 8])], [("y", [4, 8])],
                 [("two", np.float32(2)), ("e", np.float32(1e-5)), ("g", floats(8))], opset=13)
    model = load(proto)
    graph = graph_of(model)
    parts = tuple(graph.nodes[:8])
    norm = Node("LayerNormalization", "", "mean", [graph.values["x"], graph.values["g"]],
                [graph.values["h"]], {"axis": -1, "epsilon": 1e-5},
                frozenset(range(8)), parts=parts, body_is_parts=True)
    graph.nodes[:8] = [norm]
    after = same(proto, emit(model, graph, [lower("r", list(graph.nodes))]))
    assert kinds(after) == ["FusedRegion_0"]
    assert list(after.graph.node[0].input) == ["x", "g"]
    assert [node.op_type for node in after.functions[0].node] == [
        "Constant", "Constant", "ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div",
        "Mul", "Neg"]
