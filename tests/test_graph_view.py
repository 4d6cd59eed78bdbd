"""The view of a model: names, order, uses, constants."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import Value
from onnx_fusion.graph.view import irs_bytes, view


def parse(body, ir=8, opset=13):
    return onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{body}')


def test_nodes_have_unique_names_and_know_their_origin():
    proto = parse("g (float[N] x) => (float[N] z) "
                  "{ a = Relu(x)  b = Relu(a)  c = Neg(b)  z = Relu(c) }")
    proto.graph.node[1].name = "r"
    proto.graph.node[2].name = "Relu_0"
    proto.graph.node[3].name = "r"
    graph = view(load(proto))
    assert [node.name for node in graph.nodes] == ["Relu_0_", "r", "Relu_0", "r_3"]
    assert [node.origin for node in graph.nodes] == [{0}, {1}, {2}, {3}]
    assert [node.proto is model for node, model in
            zip(graph.nodes, graph.model.proto.graph.node, strict=True)] == [True] * 4


def test_unsorted_nodes_are_put_in_order():
    proto = parse("g (float[N] x) => (float[N] z) { a = Relu(x)  b = Neg(a)  z = Exp(b) }")
    nodes = [proto.graph.node[i] for i in (2, 0, 1)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    graph = view(load(proto))
    assert [node.op_type for node in graph.nodes] == ["Relu", "Neg", "Exp"]
    assert [node.origin for node in graph.nodes] == [{1}, {2}, {0}]


def test_uses_and_omitted_inputs():
    graph = view(load(parse(
        "g (float[N] x, float h) => (float[N] z, float[N] y) "
        '{ y = Clip(x, "", h)  s = Mul(y, y)  z = Add(s, y) }')))
    clip, mul, add = graph.nodes
    x, y = graph.values["x"], graph.values["y"]
    assert clip.inputs == [x, None, graph.values["h"]]
    assert y.producer is clip and y.consumers == [mul, add] and y.is_output
    assert not graph.values["s"].is_output
    assert graph.inputs == [x, graph.values["h"]] and x.shape == ("N",) and x.dtype is DType.F32
    assert graph.opsets == {"": 13}


@pytest.mark.parametrize("ir, constant", [(3, True), (8, False)])
def test_initializers_that_are_inputs(ir, constant):
    proto = parse("g (float[2] x, float[2] w) => (float[2] z) { z = Add(x, w) }", ir=ir)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, "f4"), "w"))
    graph = view(load(proto))
    assert (graph.values["w"].weight is not None) is constant
    assert [value.name for value in graph.inputs] == (["x"] if constant else ["x", "w"])
    assert graph.values["w"].shape == (2,)


def test_values_that_subgraphs_read():
    graph = view(load(parse("""g (bool c, float[2] x) => (float[2] z) {
        a = Relu(x)
        b = Neg(x)
        z = If (c) <then_branch = t () => (float[2] p) { p = Add(a, x) },
                    else_branch = e () => (float[2] q) { q = Exp(x) }>
    }""")))
    branch = graph.nodes[2]
    assert {value.name for value in branch.captures} == {"a", "x"}
    assert graph.values["a"].captured and branch in graph.values["a"].consumers
    assert not graph.values["b"].captured
    assert isinstance(branch.attrs["then_branch"], onnx.GraphProto)
    assert {"p", "q", "a"} <= graph.names


def test_an_inner_name_that_hides_an_outer_one_is_not_captured():
    graph = view(load(parse("""g (bool c, float[2] x) => (float[2] z) {
        a = Relu(x)
        z = If (c) <then_branch = t () => (float[2] p) { a = Neg(x)  p = Exp(a) },
                    else_branch = e () => (float[2] q) { q = Exp(x) }>
    }""")))
    assert {value.name for value in graph.nodes[1].captures} == {"x"}


def test_attributes_are_python_values():
    node = helper.make_node("Op", ["x"], ["y"], domain="d", i=1, f=0.5, s="text", ints=[1, 2],
                            floats=[0.5], strings=["a", "b"],
                            t=numpy_helper.from_array(np.arange(3)))
    node.attribute.add(name="b", type=onnx.AttributeProto.STRING, s=b"\xff\x00")
    proto = helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]), ir_version=8,
        opset_imports=[helper.make_opsetid("d", 1)])
    attrs = view(load(proto)).nodes[0].attrs
    assert np.array_equal(attrs.pop("t"), [0, 1, 2])
    assert attrs == {"i": 1, "f": 0.5, "s": "text", "ints": [1, 2], "floats": [0.5],
                     "strings": ["a", "b"], "b": "\udcff\x00"}


def test_irs_bytes():
    assert irs_bytes(Value("v", DType.F32, (2, 3))) == 24
    assert irs_bytes(Value("v", DType.F16, ("N", 3, "H"))) == 2 * 3 * 128
    assert irs_bytes(Value("v", DType.F32, ())) == 4
    assert irs_bytes(Value("v", None, (2,))) == irs_bytes(Value("v", DType.F32)) == 0


def test_made_up_names_are_new_everywhere():
    graph = view(load(parse("""g (bool c, float[2] x) => (float[2] z) {
        z = If (c) <then_branch = t () => (float[2] k) { k = Neg(x) },
                    else_branch = e () => (float[2] q) { q = Exp(x) }> }""")))
    assert edit.fresh_name(graph, "k") == "k_1"
    assert edit.fresh_name(graph, "k") == "k_2"
    assert edit.fresh_name(graph, "new") == "new"


def test_removing_and_replacing_keep_uses_right():
    graph = view(load(parse("g (float[N] x) => (float[N] z) { a = Relu(x) b = Neg(a) z = Exp(b)}")))
    relu, neg, exp = graph.nodes
    new = view(load(parse("g (float[N] x) => (float[N] b) { b = Abs(x) }"))).nodes[0]
    new.inputs, new.outputs = [graph.values["x"]], [graph.values["b"]]
    edit.replace(graph, [relu, neg], new)
    edit.prune(graph)
    assert graph.nodes == [new, exp]
    assert graph.values.keys() == {"x", "b", "z"}
    assert graph.values["x"].consumers == [new] and graph.values["b"].producer is new
