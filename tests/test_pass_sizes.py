"""Numbers for symbols: which sizes are usual, and what they make of inner extents."""

import onnx.parser
import pytest

from onnx_fusion.graph.load import load
from onnx_fusion.graph.view import view
from onnx_fusion.passes import sizes
from onnx_fusion.passes.infer import has_room
from onnx_fusion.passes.pipeline import prepare

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def graph_of(text):
    return prepare(load(onnx.parser.parse_model(HEAD + text)))


def test_batches_are_one_images_and_lengths_usual():
    graph = graph_of(
        """g (float[N, 3, H, W] x, int64[N, S] i, float[B, T] a, float[K] v) => (float[K] y) {
          y = Neg(v) }"""
    )
    found = sizes.usual_sizes(graph, sizes.Sizes(224, 128, 16000, 64))
    assert found == {"N": 1, "H": 224, "W": 224, "S": 128, "B": 1, "T": 16000, "K": 16000}


def test_inner_extents_follow_from_the_inputs():
    graph = graph_of(
        """g (float[N, 3, H, W] x) => (float[a, b, c] y) {
          p = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (x)
          s = Constant <value_ints = [0, 3, -1]> ()  y = Reshape(p, s) }"""
    )
    usual, small, large = sizes.usual_extents(graph)
    (last,) = [node for node in graph.nodes if node.op_type == "Reshape"]
    shapes = [
        tuple(found.get(d, d) for d in last.outputs[0].shape) for found in (usual, small, large)
    ]
    assert shapes == [(1, 3, 111 * 111), (1, 3, 47 * 47), (1, 3, 223 * 223)]


def test_a_model_without_symbols_needs_no_sizes():
    assert sizes.usual_extents(graph_of("g (float[2] x) => (float[2] y) { y = Neg(x) }")) == []


def test_what_only_the_run_knows_has_a_few_sizes():
    graph = graph_of("g (float[8] x) => (int64[1, k] y) { y = NonZero(x) }")
    (dim,) = {d for d in graph.nodes[0].outputs[0].shape if isinstance(d, str)}
    assert [found[dim] for found in sizes.usual_extents(graph)] == [64, 8, 512]


@pytest.mark.parametrize(("height", "taken"), [(48, 48), (32, 32)])
def test_a_model_that_takes_one_height_only_is_tried_with_odd_sizes(height, taken):
    """A recogniser of lines: the height must come down to 1, so that its axis can go."""
    graph = graph_of(
        f"""g (float[N, 3, H, W] x) => (float[a, b, c] y) {{
          p = AveragePool <kernel_shape = [{height}, 1]> (x)
          t = Constant <value_ints = [2]> ()  y = Squeeze(p, t) }}"""
    )
    found = sizes.usual_extents(graph)
    assert found and {extents["H"] for extents in found} == {taken}


def test_sizes_that_leave_windows_no_room_are_not_shown_to_onnx():
    """Its inference ends the process where a Slice follows: at 32 and 128 there is none for 300."""
    graph = graph_of(
        """g (float[B, 1, T] x) => (float[B, 1, k] y) {
          a = Constant <value_ints = [0]> () e = Constant <value_ints = [-1]> ()
          t = Constant <value_ints = [2]> ()
          c = MaxPool <kernel_shape = [300], strides = [2]> (x)  s = Slice(c, a, e, t)
          d = AveragePool <kernel_shape = [20]> (s)  r = Slice(d, a, e, t)  y = Relu(r) }"""
    )
    assert [extents["T"] for extents in sizes.usual_extents(graph)] == [384]


NO_ROOM = {
    "Conv": "c = Conv <dilations = [9, 9]> (x, w)",
    "MaxPool": "c = MaxPool <kernel_shape = [50, 50], pads = [6, 6, 6, 6], strides = [2, 2]> (x)",
    "Pad": "p = Constant <value_ints = [0, 0, -9, -9, 0, 0, -29, -29]> ()  c = Pad(x, p)",
    "ConvTranspose": "c = ConvTranspose <pads = [19, 19, 20, 20]> (x, w)",
}


@pytest.mark.parametrize("kind", NO_ROOM)
def test_an_extent_below_0_is_found_before_a_slice_is_shown(kind):
    """At 32 each of these leaves less than nothing; at 96 there is room."""
    proto = onnx.parser.parse_model(
        HEAD
        + f"""g (float[1, 3, H, W] x, float[3, 3, 5, 5] w) => (float[a, b, c, d] y) {{
          {NO_ROOM[kind]}
          a = Constant <value_ints = [0]> ()  e = Constant <value_ints = [-1]> ()
          t = Constant <value_ints = [2]> ()  s = Slice(c, a, e, t)  y = Neg(s) }}"""
    )
    for extent, room in ((32, False), (96, True)):
        graph = view(load(proto))
        graph.inputs[0].shape = (1, 3, extent, extent)
        assert has_room(graph) == room, extent


@pytest.mark.parametrize(("axes", "height"), [("N, C, D, H, W", 48), ("D, H, W, C", 96)])
def test_an_input_that_would_be_too_large_to_be_real_is_tried_at_less(axes, height):
    """Onnx lists every element that a Concat of one axis has."""
    graph = graph_of(
        f"""g (float[{axes}] x, float[1] v) => (float[K] y) {{
          s = Constant <value_ints = [-1]> ()  r = Reshape(x, s)  y = Concat <axis = 0> (r, v) }}"""
    )
    assert {found["H"] for found in sizes.usual_extents(graph)} == {height}
