"""Plans of small graphs: what the paper leaves out, and what its notebook predecessor got wrong."""

from pathlib import Path

import onnx
import onnx.parser
import pytest

from onnx_fusion.fusion.grow import plan as plan_graph
from onnx_fusion.fusion.target import Target
from onnx_fusion.graph.load import load
from onnx_fusion.graph.names import all_names
from onnx_fusion.lower import lower
from onnx_fusion.ops.tensor import Refused
from onnx_fusion.passes.pipeline import prepare

MODELS = Path(__file__).parents[1] / "models"


def plan_of(model, skip=(), **limits):
    graph = prepare(load(model))

    def accept(region):
        try:
            lower(region, graph)
        except Refused as reason:
            return str(reason)
        return None

    return plan_graph(graph, Target(accept, **limits), skip), graph


def parsed(text):
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}_{node.op_type}"
    return model


def groups(made, graph):
    return [sorted(all_names(r.nodes, graph.model.proto)) for r in made.regions]


def region_with(made, graph, name):
    (found,) = [g for g in groups(made, graph) if name in g]
    return found


HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def diamond(middle):
    return parsed(
        HEAD
        + "g (float[4, 4] x) => (float[4, 4] y) {\n a = Relu(x)\n"
        + f" b = {middle}\n y = Add(a, b)\n}}"
    )


def test_lenet5_is_what_the_notebook_should_have_found():
    made, graph = plan_of(MODELS / "lenet5.onnx", templates=())
    by_type = [[n.op_type for n in r.nodes] for r in made.regions]
    assert by_type[0][0] == "Conv" and by_type[0][-1] == "Relu"
    names = groups(made, graph)
    assert [len(g) for g in names][:2] == [3, 1]
    for region in made.regions:
        kinds = [n.op_type for n in region.nodes]
        assert not ("Conv" in kinds and "MaxPool" in kinds)
        if "Gemm" in kinds and region is not made.regions[-1]:
            assert kinds == ["Gemm", "Relu"]


def test_small_neighbours_become_one_region_that_names_its_template():
    made, graph = plan_of(MODELS / "lenet5.onnx")
    (region,) = made.regions
    assert region.template == "small"
    assert len(all_names(region.nodes, graph.model.proto)) >= 14
    made, _ = plan_of(MODELS / "tiny_depthwise.onnx")
    (last,) = [r for r in made.regions if r.outputs[0].is_output]
    assert last.template == "small"


def test_templates_merge_only_what_stays_convex():
    for name in ("tiny_depthwise.onnx", "tiny_attention.onnx"):
        made, _ = plan_of(MODELS / name)
        of = {n: r for r in made.regions for n in r.nodes}
        for region in made.regions:
            members = set(region.nodes)
            stack = [c for n in region.nodes for v in n.outputs if v for c in v.consumers]
            seen = set()
            while stack:
                node = stack.pop()
                if node in members or node in seen:
                    continue
                seen.add(node)
                group = of[node].nodes if node in of else (node,)
                for member in group:
                    stack += [c for v in member.outputs if v for c in v.consumers]
            fed = {v.producer for n in region.nodes for v in n.inputs if v} - members - {None}
            assert not fed & seen, f"{region.name} waits for itself"


def test_no_path_leaves_a_region_and_comes_back():
    made, graph = plan_of(diamond("Softmax(a)"), skip={"Softmax"})
    region = region_with(made, graph, "n0_Relu")
    assert "n2_Add" not in region
    reasons = {(r.producer, r.consumer): r.reason for r in made.refusals}
    assert "leave the region and come back" in reasons["n0_Relu", "n2_Add"]


def test_a_diamond_without_a_stranger_is_one_region():
    made, graph = plan_of(diamond("Exp(a)"))
    assert groups(made, graph) == [["n0_Relu", "n1_Exp", "n2_Add"]]


def test_two_regions_never_wait_for_each_other():
    text = (
        HEAD
        + """
    g (float[4, 4] x, float[4, 4] z) => (float[4, 4] y, float[4, 4] w) {
      a = Relu(x)
      b = Exp(z)
      c = Det2(a)
      d = Det2(b)
      y = Add(b, c)
      w = Add(a, d)
    }
    """
    )
    model = parsed(text.replace("Det2", "Softmax"))
    made, graph = plan_of(model, skip={"Softmax"})
    of = {name: k for k, g in enumerate(groups(made, graph)) for name in g}
    waits = set()
    for node in model.graph.node:
        for other in model.graph.node:
            if set(node.output) & set(other.input):
                a, b = of.get(node.name, node.name), of.get(other.name, other.name)
                if a != b:
                    waits.add((a, b))
    while waits:
        free = {a for a, _ in waits} - {b for _, b in waits}
        assert free, f"regions wait for each other: {waits}"
        waits = {(a, b) for a, b in waits if a not in free}


def test_an_inner_value_that_is_an_output_leaves_the_region():
    model = parsed(
        HEAD + "g (float[4, 4] x) => (float[4, 4] a, float[4, 4] y) {\n a = Relu(x)\n y = Exp(a)\n}"
    )
    made, _ = plan_of(model)
    (region,) = made.regions
    assert [v.name for v in region.outputs] == ["a", "y"]


def test_a_value_captured_by_a_body_leaves_the_region():
    model = parsed(
        HEAD
        + """g (bool c, float[4] x) => (float[4] y) {
          a = Relu(x)
          b = Exp(a)
          i = If (c) <
            then_branch = t () => (float[4] o) { o = Neg(a) },
            else_branch = e () => (float[4] p) { p = Identity(a) }
          >
          y = Add(b, i)
        }"""
    )
    made, graph = plan_of(model)
    region = next(r for r in made.regions if r.nodes[0].op_type == "Relu")
    assert "a" in [v.name for v in region.outputs]
    assert "n3_Add" not in region_with(made, graph, "n0_Relu")


def test_no_node_is_in_two_regions_and_none_is_lost():
    for path in sorted(MODELS.glob("*.onnx")):
        made, graph = plan_of(path)
        members = [n for r in made.regions for n in r.nodes]
        assert len(members) == len(set(members))
        apart = sum(made.opaque.values())
        assert len(members) + apart == len(graph.nodes)


def test_every_pair_that_stays_apart_has_a_reason():
    made, graph = plan_of(MODELS / "tiny_attention.onnx")
    of = {n: r.name for r in made.regions for n in r.nodes}
    pairs = {
        (p, c)
        for p in graph.nodes
        for v in p.outputs
        if v is not None
        for c in v.consumers
        if of.get(p) is None or of.get(p) != of.get(c)
    }
    assert len(made.refusals) == len(pairs)
    assert all(r.reason for r in made.refusals)


def test_plans_are_deterministic():
    first, graph = plan_of(MODELS / "tiny_depthwise.onnx")
    second, other = plan_of(MODELS / "tiny_depthwise.onnx")
    assert groups(first, graph) == groups(second, other)
    assert [r.name for r in first.regions] == [r.name for r in second.regions]


@pytest.mark.parametrize("skip", ["Relu", "n0_Relu"])
def test_skip_names_nodes_and_operators(skip):
    made, graph = plan_of(diamond("Exp(a)"), skip={skip})
    assert not any("n0_Relu" in g for g in groups(made, graph))
    assert any(r.reason == "skipped by request" for r in made.refusals)


def test_a_limit_on_inputs_is_kept():
    lines = "\n".join(f"s{k} = Add(s{k - 1}, v{k})" for k in range(1, 9))
    inputs = ", ".join(f"float[8] v{k}" for k in range(1, 9))
    model = parsed(
        HEAD + f"g (float[8] x, {inputs}) => (float[8] s8) {{\n s0 = Relu(x)\n {lines}\n}}"
    )
    made, _ = plan_of(model, max_inputs=4)
    assert len(made.regions) > 1
    assert all(len(r.inputs) <= 4 for r in made.regions)


def test_a_chain_without_one_to_one_operators_gets_a_seed():
    model = parsed(
        HEAD
        + """g (float[6, 4] x) => (float[2, 3, 4] y) {
          s = Constant <value = int64[3] {2, 3, 4}> ()
          a = Transpose <perm = [1, 0]> (x)
          y = Reshape(a, s)
        }"""
    )
    made, _ = plan_of(model)
    (region,) = made.regions
    assert [n.op_type for n in region.nodes] == ["Transpose", "Reshape"]


def test_broadcast_of_an_activation_is_one_to_many_and_of_a_weight_is_not():
    text = (
        HEAD
        + """g (float[8, 4] x, float[4] v) => (float[8, 4] y, float[8, 4] z)
      <float[4] w = {1.0, 2.0, 3.0, 4.0}> {
      y = Add(x, v)
      z = Add(x, w)
    }"""
    )
    made, _ = plan_of(parsed(text))
    kinds = {r.nodes[0].outputs[0].name: r.mapping_type.value for r in made.regions}
    assert kinds == {"y": "one-to-many", "z": "one-to-one"}
