"""What emit writes, run by plain ONNX Runtime: without the native library the functions compute."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from emit_models import chain, floats, graph_of, kinds, lower, make, pick, same, whole
from onnx import helper, numpy_helper

from onnx_fusion.emit import emit
from onnx_fusion.emit.naming import number
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.graph.weights import Weight


def fuse(proto: onnx.ModelProto, *regions: str, **options) -> onnx.ModelProto:
    """Emit with one region for each text of node names; check validity and results."""
    model = load(proto)
    graph = graph_of(model)
    fused = [lower(f"r{k}", pick(graph, *names.split())) for k, names in enumerate(regions)]
    return same(proto, emit(model, graph, fused, **options))


def body(proto: onnx.ModelProto, k: int = 0) -> list[str]:
    """The function's nodes as text."""
    return [f"{' '.join(node.output)} = {node.op_type} {' '.join(node.input)}".rstrip()
            for node in proto.functions[k].node]


def test_nothing_fused_changes_nothing():
    proto = chain(ir=4)
    model = load(proto)
    emitted = emit(model, graph_of(model), [])
    assert whole(emitted) == proto
    assert emitted.proto is not model.proto


def test_a_single_node():
    after = fuse(chain(), "relu")
    assert kinds(after) == ["Add", "FusedRegion_0", "Exp", "Neg"]
    fused = after.graph.node[1]
    assert (fused.domain, fused.name, list(fused.input), list(fused.output)) == (
        "onnx_fusion", "r0", ["a"], ["b"])
    assert helper.get_node_attr_value(fused, "program") == b"tile_program 1\n# r0"
    assert after.ir_version == 8
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [
        ("", 17), ("onnx_fusion", 1)]
    function = after.functions[0]
    assert (function.domain, function.name) == ("onnx_fusion", "FusedRegion_0")
    assert not function.overload
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", 17)]
    assert body(after) == ["o0 = Relu i0"]


def test_a_chain_with_a_weight_as_input():
    after = fuse(chain(), "add relu exp")
    assert kinds(after) == ["FusedRegion_0", "Neg"]
    assert list(after.graph.node[0].input) == ["x", "w"]
    assert body(after) == ["v0 = Add i0 i1", "v1 = Relu v0", "o0 = Exp v1"]
    info = {value.name: value.type.tensor_type for value in after.graph.value_info}
    assert [dim.dim_param or dim.dim_value for dim in info["c"].shape.dim] == ["N", 4]


def test_a_whole_model_is_one_node():
    after = fuse(chain(), "add relu exp neg")
    assert kinds(after) == ["FusedRegion_0"]
    assert not after.graph.value_info


def test_two_outputs_one_read_inside_too():
    proto = make([("relu", "Relu", "x", "a", {}), ("exp", "Exp", "a", "b", {}),
                  ("neg", "Neg", "a", "c", {}), ("out", "Add", "b c", "y", {})],
                 [("x", [2, 3])], [("y", [2, 3])])
    after = fuse(proto, "relu exp")
    assert list(after.graph.node[0].output) == ["a", "b"]
    assert body(after) == ["o0 = Relu i0", "o1 = Exp o0"]


def test_a_residual_round_an_unfused_node():
    proto = make([("relu", "Relu", "x", "a", {}), ("mm", "MatMul", "a w", "m", {}),
                  ("add", "Add", "m a", "s", {}), ("tanh", "Tanh", "s", "y", {})],
                 [("x", [3, 3])], [("y", [3, 3])], [("w", floats(3, 3))])
    after = fuse(proto, "add tanh")
    assert kinds(after) == ["Relu", "MatMul", "FusedRegion_0"]
    assert list(after.graph.node[2].input) == ["m", "a"]


def test_a_fused_node_waits_for_inputs_made_after_its_first_node():
    proto = make([("relu", "Relu", "x", "a", {}), ("exp", "Exp", "a", "e", {}),
                  ("neg", "Neg", "x", "n", {}), ("abs", "Abs", "n", "m", {}),
                  ("add", "Add", "e m", "y", {})],
                 [("x", [2])], [("y", [2])])
    after = fuse(proto, "relu exp add", "abs")
    assert [node.name for node in after.graph.node] == ["neg", "r1", "r0"]


def test_equal_bodies_share_a_function_and_keep_their_programs():
    layers = []
    for k in range(3):
        layers += [(f"mul{k}", "Mul", f"x{k} w{k}", f"m{k}", {}),
                   (f"t{k}", "Tanh", f"m{k}", f"t{k}", {}),
                   (f"s{k}", "Softmax", f"t{k}", f"x{k + 1}", {"axis": -1})]
    layers[6] = ("mul2", "Sub", "x2 w2", "m2", {})
    weights = [(f"w{k}", floats(4)) for k in range(3)]
    proto = make(layers, [("x0", [2, 4])], [("x3", [2, 4])], weights)
    after = fuse(proto, "mul0 t0", "mul1 t1", "mul2 t2")
    fused = [node for node in after.graph.node if node.domain == "onnx_fusion"]
    assert [node.op_type for node in fused] == ["FusedRegion_0", "FusedRegion_0", "FusedRegion_1"]
    assert [function.name for function in after.functions] == ["FusedRegion_0", "FusedRegion_1"]
    assert len({helper.get_node_attr_value(node, "program") for node in fused}) == 3


def test_attributes_distinguish_bodies():
    proto = make([("a", "LeakyRelu", "x", "a", {"alpha": 0.1}), ("c", "Clip", "a", "c", {}),
                  ("b", "LeakyRelu", "c", "y", {"alpha": 0.2})], [("x", [5])], [("y", [5])])
    assert len(fuse(proto, "a", "b").functions) == 2


def test_more_bodies_than_registered_names_are_numbered_by_bytes_saved():
    count = 130
    proto = make([(f"n{k}", "LeakyRelu", f"x{k}", f"x{k + 1}", {"alpha": k / 1000})
                  for k in range(count)], [("x0", [3])], [(f"x{count}", [3])])
    model = load(proto)
    graph = graph_of(model)
    fused = [lower(f"r{k}", pick(graph, f"n{k}"), saved=k // 2) for k in range(count)]
    after = same(proto, emit(model, graph, fused))
    assert kinds(after)[-2:] == ["FusedRegion_0", "FusedRegion_1"]
    assert kinds(after)[:2] == ["FusedRegion_128", "FusedRegion_129"]


def test_up_to_the_registered_names_numbers_follow_appearance():
    bodies = [bytes([k]) for k in range(128)]
    assert number([*bodies, bodies[5]], [*range(129)]) == [*range(128), 5]


def test_bytes_saved_count_for_all_nodes_of_a_body():
    bodies = [bytes([k]) for k in range(129)] + [bytes([7])] * 3
    numbers = number(bodies, [10] * 128 + [19] + [5] * 3)
    assert numbers[7] == 0 and numbers[128] == 1 and numbers[0] == 2


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
    shape = ["c0 = Constant"] if opset >= 9 else ["c0_f64 = Constant", "c0 = Cast c0_f64"]
    assert body(after) == [*shape, "c1 = Constant", "v0 = Reshape i0 c0", "o0 = Mul v0 c1"]


def test_a_large_baked_constant_is_an_error():
    proto = make([("mul", "Mul", "x w", "y", {})], [("x", [1025])], [("y", [1025])],
                 [("w", floats(1025))])
    model = load(proto)
    graph = graph_of(model)
    fused = lower("r", pick(graph, "mul"), baked=("w",))
    with pytest.raises(OnnxFusionError, match="region 'r': constant 'w' of 4100 bytes .* 4096"):
        emit(model, graph, [fused])


def test_a_folded_constant_becomes_an_initializer_and_its_nodes_go():
    proto = make([("one", "Constant", "", "one", {"value": numpy_helper.from_array(np.float32(1))}),
                  ("sum", "Add", "one w", "sum", {}), ("mul", "Mul", "x sum", "m", {}),
                  ("neg", "Neg", "m", "y", {})],
                 [("x", [2, 3])], [("y", [2, 3])], [("w", floats(3))])
    model = load(proto)
    graph = graph_of(model)
    graph.values["sum"].weight = Weight.of(numpy_helper.to_array(proto.graph.initializer[0]) + 1)
    after = same(proto, emit(model, graph, [lower("r", pick(graph, "mul"))]))
    assert kinds(after) == ["FusedRegion_0", "Neg"]
    assert [tensor.name for tensor in after.graph.initializer] == ["sum"]


def test_a_folded_constant_that_is_an_output_stays_computed():
    proto = make([("sum", "Add", "w w", "sum", {}), ("mul", "Mul", "x sum", "y", {})],
                 [("x", [2, 3])], [("y", [2, 3]), ("sum", [3])], [("w", floats(3))])
    model = load(proto)
    graph = graph_of(model)
    graph.values["sum"].weight = Weight.of(2 * numpy_helper.to_array(proto.graph.initializer[0]))
    after = same(proto, emit(model, graph, [lower("r", pick(graph, "mul"))]))
    assert kinds(after) == ["Add", "FusedRegion_0"]


def test_a_constant_that_a_region_gives_out_is_no_initializer_too():
    proto = make([("sum", "Add", "w w", "sum", {}), ("mul", "Mul", "x sum", "m", {}),
                  ("cat", "Concat", "m sum", "c", {"axis": 0}), ("neg", "Neg", "sum", "n", {}),
                  ("add", "Add", "x n", "z", {})],
                 [("x", [3])], [("c", [6]), ("z", [3])], [("w", floats(3))])
    model = load(proto)
    graph = graph_of(model)
    graph.values["sum"].weight = Weight.of(2 * numpy_helper.to_array(proto.graph.initializer[0]))
    fused = [lower("a", pick(graph, "sum", "mul", "cat")), lower("b", pick(graph, "neg", "add"))]
    after = same(proto, emit(model, graph, fused))
    assert kinds(after) == ["FusedRegion_0", "FusedRegion_1"]
    assert [tensor.name for tensor in after.graph.initializer] == ["w"]


def test_a_folded_constant_beside_an_output_that_is_not():
    """The Split stays for its second output; its first gets another name."""
    proto = make([("split", "Split", "w", "a b", {"axis": 0}), ("mul", "Mul", "x a", "m", {}),
                  ("add", "Add", "m b", "y", {})], [("x", [2])], [("y", [2])], [("w", floats(4))])
    model = load(proto)
    graph = graph_of(model)
    graph.values["a"].weight = Weight.of(numpy_helper.to_array(proto.graph.initializer[0])[:2])
    after = same(proto, emit(model, graph, [lower("r", pick(graph, "mul"))]))
    assert kinds(after) == ["Split", "FusedRegion_0", "Add"]
    assert list(after.graph.node[0].output) == ["a_unfused", "b"]


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


def test_a_region_that_reads_what_it_is_not_given_is_an_error():
    model = load(chain())
    graph = graph_of(model)
    fused = dataclasses.replace(lower("r", pick(graph, "relu")), inputs=())
    with pytest.raises(OnnxFusionError, match="region 'r': reads 'a'"):
        emit(model, graph, [fused])


def test_a_region_that_is_not_convex_is_an_error():
    model = load(chain())
    graph = graph_of(model)
    with pytest.raises(OnnxFusionError, match="region 'r': not convex"):
        emit(model, graph, [lower("r", pick(graph, "add", "exp"))])


def test_the_same_input_gives_the_same_bytes():
    def bytes_of() -> bytes:
        model = load(proto)
        graph = graph_of(model)
        fused = [lower("a", pick(graph, "add", "relu")), lower("b", pick(graph, "exp"))]
        return whole(emit(model, graph, fused)).SerializeToString(deterministic=True)

    proto = chain()
    assert bytes_of() == bytes_of()
