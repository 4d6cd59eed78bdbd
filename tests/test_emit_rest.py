"""What is not fused comes out of emit as it went in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from emit_models import chain, floats, fuse, graph_of, kinds, lower, make, pick, same, whole
from onnx import TensorProto, helper, numpy_helper

import onnx_fusion
from onnx_fusion.emit import emit
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.graph.weights import Weight


def rich() -> onnx.ModelProto:
    """A model with everything that a graph library may lose."""
    proto = chain(ir=10, producer_name="maker", producer_version="1.2", domain="org.x",
                  model_version=7, doc_string="model doc")
    helper.set_model_props(proto, {"author": "someone"})
    graph = proto.graph
    graph.doc_string = "graph doc"
    graph.metadata_props.add(key="g", value="1")
    graph.input[0].doc_string = "input doc"
    graph.output[0].type.denotation = "TENSOR"
    for node in graph.node:
        node.doc_string = f"doc of {node.name}"
        node.metadata_props.add(key="k", value=node.name)
    for name in "abc":
        graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]))
        graph.value_info[-1].doc_string = f"doc of {name}"
    graph.initializer[0].doc_string = "a weight"
    for name in "ab":
        annotation = graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "scale"))
    graph.initializer.append(numpy_helper.from_array(floats(3), "never_read"))
    proto.opset_import.append(helper.make_opsetid("local", 2))
    proto.functions.append(helper.make_function(
        "local", "Twice", ["p"], ["q"], [helper.make_node("Add", ["p", "p"], ["q"])],
        [helper.make_opsetid("", 17)], doc_string="function doc"))
    graph.node.append(helper.make_node("Twice", ["x"], ["unused"], "dead", domain="local"))
    return proto


def test_metadata_and_everything_untouched_is_kept():
    proto = rich()
    after = fuse(proto, "relu exp")
    want = onnx.ModelProto()
    want.CopyFrom(proto)
    del want.graph.node[:]
    want.graph.node.extend([proto.graph.node[0], after.graph.node[1], proto.graph.node[3],
                            proto.graph.node[4]])
    want.functions.append(after.functions[-1])
    want.opset_import.append(helper.make_opsetid("onnx_fusion", 1))
    del want.graph.value_info[1]
    del want.graph.quantization_annotation[1]
    assert after.graph.node[1].op_type == "FusedRegion_0"
    assert after == want


def test_function_bodies_carry_no_names_or_documentation():
    function = fuse(rich(), "relu exp").functions[-1]
    for node in function.node:
        assert not node.name and not node.doc_string and not node.metadata_props


def test_without_fallback_there_are_no_functions_and_the_ir_version_stays():
    proto = chain(ir=7)
    model = load(proto)
    graph = graph_of(model)
    fused = [lower("a", pick(graph, "relu")), lower("b", pick(graph, "exp"))]
    after = whole(emit(model, graph, fused, fallback=False))
    assert kinds(after) == ["Add", "FusedRegion", "FusedRegion", "Neg"]
    assert after.ir_version == 7
    assert not after.functions
    onnx.checker.check_model(after)


@pytest.mark.parametrize("ir", [4, 7, 8, 9, 10])
def test_the_ir_version_is_raised_to_that_of_functions_only(ir):
    assert fuse(chain(ir=ir), "relu").ir_version == max(ir, 8)


def old() -> onnx.ModelProto:
    """An IR 3 model: its initializers are graph inputs."""
    proto = chain(ir=3, opset=8)
    proto.graph.initializer.append(numpy_helper.from_array(floats(4), "bias"))
    proto.graph.node.append(helper.make_node("Sub", ["y", "bias"], ["z"], "sub"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4]))
    for name in ("w", "bias"):
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]))
    return proto


def test_raised_from_ir_3_initializers_are_inputs_no_more():
    after = fuse(old(), "add relu")
    assert after.ir_version == 8
    assert [value.name for value in after.graph.input] == ["x"]
    assert [tensor.name for tensor in after.graph.initializer] == ["w", "bias"]


def test_in_ir_3_without_fallback_folded_constants_are_inputs_too():
    proto = old()
    proto.graph.node[0].input[1] = "w2"
    proto.graph.node.insert(0, helper.make_node("Neg", ["w"], ["w2"], "fold"))
    model = load(proto)
    graph = graph_of(model)
    graph.values["w2"].weight = graph.values["w"].weight
    emitted = emit(model, graph, [lower("r", pick(graph, "add"))], fallback=False)
    after = whole(emitted)
    assert after.ir_version == 3
    assert [value.name for value in after.graph.input] == ["x", "bias", "w2"]
    assert [tensor.name for tensor in after.graph.initializer] == ["bias", "w2"]
    onnx.checker.check_model(after)


def test_defaults_of_inputs_stay_even_if_only_removed_nodes_read_them():
    """In IR 4 and later such an initializer is the default of an input that would be required."""
    proto = make([("shape", "Shape", "w", "s", {}), ("add", "Add", "x v", "a", {}),
                  ("reshape", "Reshape", "a s", "y", {})],
                 [("x", [6]), ("v", [6]), ("w", [2, 3])], [("y", [2, 3])],
                 [("v", floats(6)), ("w", floats(2, 3))])
    model = load(proto)
    graph = graph_of(model)
    graph.values["s"].weight = Weight.of(np.array([2, 3]))
    fused = lower("r", pick(graph, "add", "reshape"), baked=("s",))
    after = same(proto, emit(model, graph, [fused]))
    assert kinds(after) == ["FusedRegion_0"]
    assert list(after.graph.input) == list(proto.graph.input)
    assert list(after.graph.initializer) == list(proto.graph.initializer)


def conditional() -> onnx.ModelProto:
    """The branches of an If read an inner value and weights of the graph around them."""
    def branch(name: str, kind: str, right: str) -> onnx.GraphProto:
        node = helper.make_node(kind, ["b", right], [f"{name}_y"], name)
        return helper.make_graph([node], name, [], [
            helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N", 4])])

    proto = chain()
    proto.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    proto.graph.initializer.append(numpy_helper.from_array(floats(4), "u"))
    proto.graph.node.append(helper.make_node("If", ["flag"], ["z"], "if",
                                             then_branch=branch("then", "Add", "u"),
                                             else_branch=branch("else", "Sub", "w")))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4]))
    return proto


def test_a_value_that_a_subgraph_captures_leaves_the_region():
    proto = conditional()
    after = fuse(proto, "add relu exp")
    assert kinds(after) == ["FusedRegion_0", "Neg", "If"]
    assert list(after.graph.node[0].output) == ["b", "c"]
    assert {tensor.name for tensor in after.graph.initializer} == {"w", "u"}
    assert after.graph.node[2] == proto.graph.node[4]


def test_shape_arithmetic_that_only_fed_fused_nodes_goes():
    proto = make([("shape", "Shape", "x", "s", {}), ("relu", "Relu", "x", "r", {}),
                  ("flat", "Flatten", "r", "f", {}), ("back", "Reshape", "f s", "b", {}),
                  ("neg", "Neg", "b", "y", {})], [("x", [2, 3, 4])], [("y", [2, 3, 4])])
    model = load(proto)
    graph = graph_of(model)
    graph.values["s"].weight = Weight.of(np.array([2, 3, 4]))
    fused = lower("r", pick(graph, "flat", "back", "neg"), baked=("s",))
    after = same(proto, emit(model, graph, [fused]))
    assert kinds(after) == ["Relu", "FusedRegion_0"]


def test_what_annotations_refer_to_stays():
    proto = make([("mul", "Mul", "x s", "m", {}), ("neg", "Neg", "m", "y", {})],
                 [("x", [3])], [("y", [3])], [("s", np.float32(0.5))])
    annotation = proto.graph.quantization_annotation.add(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    model = load(proto)
    graph = graph_of(model)
    after = same(proto, emit(model, graph, [lower("r", pick(graph, "mul", "neg"), baked=("s",))]))
    assert list(after.graph.initializer) == list(proto.graph.initializer)
    assert list(after.graph.quantization_annotation) == [annotation]


def test_dead_nodes_stay_and_keep_what_they_read():
    proto = chain()
    proto.graph.node.append(helper.make_node("Tanh", ["b"], ["nowhere"], "dead"))
    model = load(proto)
    graph = graph_of(model)
    after = same(proto, emit(model, graph, [lower("r", pick(graph, "relu", "exp"))]))
    assert kinds(after) == ["Add", "FusedRegion_0", "Neg", "Tanh"]
    assert list(after.graph.node[1].output) == ["b", "c"]


def test_sparse_initializers_are_kept_or_go_like_dense_ones():
    def sparse(name: str) -> onnx.SparseTensorProto:
        values = numpy_helper.from_array(np.array([1.5], np.float32), name)
        return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([2]), name), [4])

    proto = chain()
    proto.graph.sparse_initializer.append(sparse("kept"))
    proto.graph.sparse_initializer.append(sparse("given"))
    proto.graph.node.insert(0, helper.make_node("Add", ["x", "kept"], ["x2"], "first"))
    proto.graph.node[1].input[0] = "x2"
    proto.graph.node[3].input[0] = "bg"
    proto.graph.node.insert(3, helper.make_node("Mul", ["b", "given"], ["bg"], "second"))
    model = load(proto)
    graph = graph_of(model)
    after = emit(model, graph, [lower("r", pick(graph, "relu", "second", "exp"))]).proto
    assert list(after.graph.sparse_initializer) == list(proto.graph.sparse_initializer)
    assert list(after.graph.node[2].input) == ["a", "given"]


def test_invented_symbols_become_unknown_dims_and_known_ones_stay():
    proto = make([("relu", "Relu", "x", "a", {}), ("nz", "NonZero", "a", "i", {}),
                  ("cast", "Cast", "i", "f", {"to": 1}), ("exp", "Exp", "f", "e", {}),
                  ("abs", "Abs", "e", "y", {})], [("x", ["N", 4])], [("y", [2, "K"])])
    model = load(proto)
    graph = graph_of(model)
    graph.values["e"].shape = (2, "unk__0")
    after = same(proto, emit(model, graph, [lower("p", pick(graph, "relu")),
                                            lower("q", pick(graph, "cast", "exp"))]))
    shapes = {value.name: [(dim.dim_param or None, dim.dim_value) for dim in
                           value.type.tensor_type.shape.dim] for value in after.graph.value_info}
    assert shapes == {"a": [("N", 0), (None, 4)], "e": [(None, 2), (None, 0)]}


def test_incomplete_value_info_of_a_fused_output_is_completed():
    proto = chain()
    proto.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, None))
    after = fuse(proto, "relu")
    assert [value.name for value in after.graph.value_info] == ["b"]
    assert len(after.graph.value_info[0].type.tensor_type.shape.dim) == 2


def test_a_fused_output_is_not_described_as_it_was_before_a_batch_became_free():
    """ONNX Runtime believes it of a node that is not ONNX's, and sizes an If's results by it."""
    proto = make([("relu", "Relu", "x", "y", {}), ("exp", "Exp", "y", "z", {})],
                 [("x", ["N", 4])], [("z", ["N", 4])])
    proto.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4]))
    after = onnx_fusion.optimize(proto, policy="all", only=("relu",), disabled=("small",))
    (told,) = after.graph.value_info
    assert [dim.dim_param or dim.dim_value for dim in told.type.tensor_type.shape.dim] == ["N", 4]


def test_graph_outputs_are_not_described_twice():
    proto = make([("relu", "Relu", "x", "y", {})], [("x", [3])], [("y", None)])
    model = load(proto)
    graph = graph_of(model)
    after = emit(model, graph, [lower("r", pick(graph, "relu"))]).proto
    assert not after.graph.value_info
    assert after.graph.output == proto.graph.output


def test_a_new_node_also_gives_the_values_it_shares_with_the_one_it_replaced():
    proto = make([("split", "Split", "x", "a b", {"axis": 0}), ("neg", "Neg", "a", "y", {}),
                  ("tanh", "Tanh", "b", "z", {})], [("x", [4])], [("y", [2]), ("z", [2])])
    model = load(proto)
    graph = graph_of(model)
    split, _, tanh = graph.nodes
    new = Value("b_new", split.outputs[1].dtype, (2,), consumers=[tanh])
    graph.nodes[0] = Node("Split", "", "new", split.inputs, [split.outputs[0], new],
                          {"axis": 0}, split.origin)
    tanh.inputs[0] = new
    after = same(proto, emit(model, graph, [lower("r", [tanh])]))
    assert kinds(after) == ["Split", "Neg", "FusedRegion_0"]
    assert list(after.graph.node[0].output) == ["a", "b_new"]


def test_a_value_that_a_pass_invented_is_computed_by_its_new_node():
    """Tanh(x + w) was rewritten to read a new value, Neg(x), made by a node that is not fused."""
    proto = make([("sub", "Sub", "w x", "d", {}), ("tanh", "Tanh", "d", "y", {})],
                 [("x", [4])], [("y", [4])], [("w", floats(4))])
    model = load(proto)
    graph = graph_of(model)
    x, w, d = (graph.values[name] for name in "xwd")
    new = Value("neg_x", d.dtype, d.shape)
    neg = Node("Neg", "", "neg", [x], [new], {}, frozenset((0,)))
    add = Node("Add", "", "add", [w, new], [d], {}, frozenset((0,)))
    new.producer, new.consumers = neg, [add]
    graph.nodes[:1] = [neg, add]
    after = same(proto, emit(model, graph, [lower("r", graph.nodes[1:])]))
    assert kinds(after) == ["Neg", "FusedRegion_0"]


def test_a_fused_output_keeps_its_name_where_a_copy_of_its_node_stays():
    """One output of the Split is given out; the other is read by a node that a pass dropped."""
    proto = make([("split", "Split", "x", "a b", {"axis": 0}), ("relu", "Relu", "a", "r", {}),
                  ("neg", "Neg", "r", "y", {}), ("dead", "Abs", "b", "nowhere", {})],
                 [("x", [4])], [("y", [2])])
    model = load(proto)
    graph = graph_of(model)
    graph.values["b"].consumers.clear()
    after = same(proto, emit(model, graph, [lower("r", pick(graph, "split"))]))
    assert kinds(after) == ["Split", "FusedRegion_0", "Relu", "Neg", "Abs"]
    assert list(after.graph.node[0].output) == ["a_unfused", "b"]


def test_onnx_can_inline_the_functions():
    flat = onnx.inliner.inline_local_functions(fuse(chain(), "add relu exp"))
    assert kinds(flat) == ["Add", "Relu", "Exp", "Neg"]


def test_initializers_that_are_inputs_are_named_in_the_schedule_and_can_be_replaced():
    """A kernel may keep what it packs of them, as long as they stay what they were."""
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal((24, 24, 3, 3)).astype("f4") / 9 for _ in range(3)]
    weights = {"w": arrays[0], "v": arrays[1]}
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "v"], ["y"], pads=[1, 1, 1, 1]),
        ],
        "g",
        [info("x", 1, [1, 24, 20, 20]), info("v", 1, [24, 24, 3, 3])],
        [info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    original = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    proto = onnx_fusion.optimize(original, policy="all")
    texts = [
        onnx.helper.get_node_attr_value(node, "schedule")
        for node in proto.graph.node
        if any(attribute.name == "schedule" for attribute in node.attribute)
    ]
    (reader,) = (node for node in proto.graph.node if "v" in node.input)
    assert texts == [f"kept={list(reader.input).index('v')}".encode()]
    plain = onnxruntime.InferenceSession(original.SerializeToString())
    made = onnx_fusion.session(proto)
    feeds = {"x": rng.standard_normal((1, 24, 20, 20)).astype("f4")}
    for more in ({}, {}, {"v": arrays[2]}, {}, {"v": weights["v"]}):
        (want,), (got,) = (one.run(None, feeds | more) for one in (plain, made))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["region_0", "region_0_1"])
def test_no_two_nodes_have_one_name(name):
    """ONNX Runtime refuses such a model."""
    other = "abs" if name == "region_0" else "region_0"
    chained = (("Relu", "x", "a", "relu"), ("Exp", "a", "y", "exp"), ("Softmax", "y", "b", name),
               ("Neg", "b", "z", "neg"), ("Abs", "z", "v", other))  # fmt: skip
    proto = helper.make_model(helper.make_graph([
        helper.make_node(kind, [given], [made], label) for kind, given, made, label in chained
    ], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 4])]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    after = onnx_fusion.optimize(proto, policy="all", only=("Relu", "Exp", "Neg"))
    names = [node.name for node in after.graph.node]
    assert len(names) == len(set(names)) and name in names
    x = {"x": floats(3, 4)}
    got = onnx_fusion.session(after).run(None, x)
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, x)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-5)


def test_a_node_made_anew_has_a_name_of_its_own():
    """The Shape that is written for the unfused ConstantOfShape is called as its value."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 4] x, int64[2] s) => (float[n, 4] y) {
          a = Reshape(x, s) b = Relu(a) z = Shape(x) c = Reshape(b, z)
          region_0 = Shape(c) d = ConstantOfShape(region_0) y = Add(d, c) }""")
    after = onnx_fusion.optimize(proto, policy="all")
    names = [node.name for node in after.graph.node if node.name]
    assert len(names) == len(set(names))
    got = onnx_fusion.session(after).run(None, {"x": floats(3, 4), "s": np.array([-1, 4])})
    assert got[0].shape == (3, 4)
