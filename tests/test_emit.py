"""What emit writes, run by plain ONNX Runtime: without the native library the functions compute."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from emit_models import body, chain, floats, fuse, graph_of, kinds, lower, make, pick, same, whole
from onnx import helper, numpy_helper

from onnx_fusion.emit import emit
from onnx_fusion.emit.naming import number
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.load import load
from onnx_fusion.graph.weights import Weight


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


def test_regions_beyond_the_last_name_are_left_out():
    count = 1026
    proto = make([(f"n{k}", "LeakyRelu", f"x{k}", f"x{k + 1}", {"alpha": k / 1100})
                  for k in range(count)], [("x0", [3])], [(f"x{count}", [3])])
    model = load(proto)
    graph = graph_of(model)
    fused = [lower(f"r{k}", pick(graph, f"n{k}"), saved=k) for k in range(count)]
    emitted = emit(model, graph, fused)
    after = same(proto, emitted)
    assert [region.name for region in emitted.left_out] == ["r0", "r1"]
    assert kinds(after)[:3] == ["LeakyRelu", "LeakyRelu", "FusedRegion_1023"]
    assert len(after.functions) == 1024


def test_up_to_the_registered_names_numbers_follow_appearance():
    bodies = [bytes([k]) for k in range(128)]
    assert number([*bodies, bodies[5]], [*range(129)]) == [*range(128), 5]


def test_bytes_saved_count_for_all_nodes_of_a_body():
    bodies = [bytes([k]) for k in range(129)] + [bytes([7])] * 3
    numbers = number(bodies, [10] * 128 + [19] + [5] * 3)
    assert numbers[7] == 0 and numbers[128] == 1 and numbers[0] == 2


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
