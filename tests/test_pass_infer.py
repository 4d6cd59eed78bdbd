"""Inferred shapes against runs of ONNX Runtime: no wrong extent, no wrong equality."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from graph_rebuild import rebuild
from onnx import helper

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ModelError
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import MADE_UP
from onnx_fusion.graph.view import view
from onnx_fusion.passes import contradiction
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.infer import infer


def parse(body, opset=13, imports=""):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}{imports}]>\n{body}')


def inferred(proto):
    """Return the graph with shapes, after constants are values (rules read those)."""
    return infer(fold(infer(view(load(proto)))))


def measure(graph, feeds):
    """Return the shape of every value in a run."""
    proto = rebuild(graph, expand=True)
    listed = {info.name for info in proto.graph.output}
    for node in proto.graph.node:
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output
                                  if name and name not in listed)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_outputs()]
    shapes = {name: array.shape for name, array in
              zip(names, session.run(names, feeds), strict=True)}
    return shapes | {name: array.shape for name, array in feeds.items()}


def agree(graph, feeds):
    """Fail if an inferred extent is not the measured one, or a symbol stands for two extents."""
    bound = {}
    for name, shape in measure(graph, feeds).items():
        value = graph.values[name]
        if value.shape is None:
            continue
        assert len(value.shape) == len(shape), value
        for dim, extent in zip(value.shape, shape, strict=True):
            assert (dim if isinstance(dim, int) else bound.setdefault(dim, extent)) == extent, value


def weights(proto, **arrays):
    for name, shape in arrays.items():
        array = np.random.default_rng(0).standard_normal(shape).astype("f4")
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


RESIDUAL = """g (float[N, 3, H, W] x) => (float[A, B, C, D] z) {
    a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w3)
    b = Conv <strides = [2, 2]> (x, w1)
    s = Add(a, b)
    r = Relu(s)
    c = Conv <auto_pad = "SAME_UPPER"> (r, v3)
    p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c)
    z = Add(p, r)
}"""


def test_both_ways_around_a_residual_have_equal_extents():
    graph = inferred(weights(parse(RESIDUAL), w3=(4, 3, 3, 3), w1=(4, 3, 1, 1), v3=(4, 4, 3, 3)))
    shapes = {graph.values[name].shape for name in "absrcpz"}
    assert len(shapes) == 1
    (shape,) = shapes
    assert shape[:2] == ("N", 4) and shape[2].startswith(MADE_UP) and shape[3].startswith(MADE_UP)
    assert shape[2] != shape[3]
    for size in ((1, 3, 8, 9), (2, 3, 7, 12)):
        agree(graph, {"x": np.ones(size, "f4")})


def test_a_convolution_that_keeps_the_size_keeps_the_symbols():
    graph = inferred(weights(parse("""g (float[N, 3, H, W] x) => (float[A, B, C, D] z) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        z = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (a, v)
    }"""), w=(4, 3, 3, 3), v=(5, 4, 3, 3)))
    assert graph.values["z"].shape == ("N", 5, "H", "W")


def test_extents_through_integer_arithmetic():
    graph = inferred(parse("""g (float[B, S, 768] x) => (float[E, F, G, H] z) {
        shape = Shape(x)
        zero = Constant <value = int64 {0}> ()   one = Constant <value = int64 {1}> ()
        at = Constant <value = int64[1] {0}> ()
        b = Gather(shape, zero)   s = Gather(shape, one)
        b1 = Unsqueeze(b, at)     s1 = Unsqueeze(s, at)
        heads = Constant <value = int64[2] {12, 64}> ()
        target = Concat <axis = 0> (b1, s1, heads)
        r = Reshape(x, target)
        t = Transpose <perm = [0, 2, 1, 3]> (r)
        three = Constant <value = int64[3] {0, 0, -1}> ()
        flat = Reshape(r, three)
        z = Relu(t)
    }"""))
    assert graph.values["r"].shape == ("B", "S", 12, 64)
    assert graph.values["z"].shape == ("B", 12, "S", 64)
    assert graph.values["flat"].shape == ("B", "S", 768)
    agree(graph, {"x": np.ones((2, 5, 768), "f4")})


@pytest.mark.parametrize("opset, unsqueeze", [(11, "<axes = [0]> (b)"), (13, "(b, at)")])
def test_a_reshape_to_a_rank_that_only_its_target_tells(opset, unsqueeze):
    graph = inferred(parse(f"""g (float[B, C, P, Q] x) => (float[E, F, G] z) {{
        shape = Shape(x)
        zero = Constant <value = int64 {{0}}> ()
        at = Constant <value = int64[1] {{0}}> ()
        b = Gather(shape, zero)
        b1 = Unsqueeze{unsqueeze}
        rest = Constant <value = int64[2] {{5, -1}}> ()
        target = Concat <axis = 0> (b1, rest)
        r = Reshape(x, target)
        z = Relu(r)
    }}""", opset=opset))
    shape = graph.values["z"].shape
    assert shape[:2] == ("B", 5) and shape[2].startswith(MADE_UP)
    agree(graph, {"x": np.ones((2, 5, 3, 4), "f4")})


def test_broadcasting_different_symbols_stays_unknown():
    graph = inferred(parse("g (float[N, A] x, float[N, B] y) => (float[C, D] z) { z = Add(x, y) }"))
    assert graph.values["z"].shape[0] == "N"
    assert graph.values["z"].shape[1] not in ("A", "B")
    for width in (1, 4):
        agree(graph, {"x": np.ones((3, 4), "f4"), "y": np.ones((3, width), "f4")})


def test_unknown_dimensions_of_inputs_are_not_taken_to_be_equal():
    proto = parse("g (float[?, ?] x, float[?, ?] y) => (float[C, D] z) { z = Add(x, y) }")
    graph = inferred(proto)
    dims = [*graph.values["x"].shape, *graph.values["y"].shape, *graph.values["z"].shape]
    assert len(set(dims)) == 6


@pytest.mark.parametrize("name", ["?", "unk__0", "?x.0"])
def test_names_that_tools_give_to_the_unknown_say_nothing(name):
    proto = parse("g (float[A, A] x, float[A] y) => (float[C, D] z) { z = Add(x, y) }")
    for info in proto.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            dim.dim_param = name
    graph = inferred(proto)
    assert len({*graph.values["x"].shape, *graph.values["y"].shape}) == 3


def test_declarations_behind_dynamic_inputs_are_not_believed():
    proto = weights(parse("""g (float[N, 3, H, W] x) => (float[1, 4, 7, 7] z)
        <float[1, 4, 7, 7] a> { a = Conv(x, w)  z = Relu(a) }"""), w=(4, 3, 3, 3))
    graph = inferred(proto)
    assert graph.values["z"].shape[0] == "N"
    agree(graph, {"x": np.ones((2, 3, 12, 12), "f4")})


def test_an_output_may_misuse_the_name_of_an_input_dimension():
    proto = weights(parse("""g (float[N, 3, H, W] x) => (float[N, 4, H, W] z)
        { z = Conv(x, w) }"""), w=(4, 3, 3, 3))
    graph = inferred(proto)
    assert graph.values["z"].shape[2] != "H"
    agree(graph, {"x": np.ones((2, 3, 12, 12), "f4")})


def test_operators_onnx_does_not_know_have_what_the_model_says():
    proto = parse("""g (float[2, 3] x) => (float[2, 3] z) <float[2, 3] a>
        { a = my.Op(x)  z = Relu(a) }""", imports=', "my" : 1')
    assert inferred(proto).values["a"].shape == (2, 3)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    graph = inferred(proto)
    assert graph.values["a"].dtype is DType.F32 and len(graph.values["z"].shape) == 2
    del proto.graph.value_info[:]
    graph = inferred(proto)
    assert graph.values["a"].shape is None and graph.values["z"].dtype is DType.F32


def test_a_contradiction_names_the_node():
    proto = weights(parse("""g (float[2, 3] x) => (float[C, D] z) {
        a = Relu(x)  z = MatMul(a, w) }"""), w=(4, 5))
    proto.graph.node[1].name = "mm"
    with pytest.raises(ModelError) as error:
        inferred(proto)
    assert str(error.value) == ("the model: node 'mm' (MatMul, opset 13): incompatible dimensions "
                                "for matrix multiplication; its inputs have the shapes "
                                "[2, 3], [4, 5]")


def test_what_onnx_alone_complains_about_is_no_error():
    proto = parse("""g (float[2, 3] x) => (float[2, 4] z) { z = Relu(x) }""")
    assert inferred(proto).values["z"].shape == (2, 3)


def test_empty_scales_beside_computed_sizes_are_no_error():
    proto = parse("""
        g (float[N, 4, H, W] x, int64[4] s, bool c) => (float[A, B, C, D] z, float[E, F] y) {
        none = Constant <value = float[0] {}> ()  z = Resize <mode = "nearest"> (x, none, none, s)
        y = If (c) <then_branch = one () => (float[E, F] p) <float[] q> { q = Relu(x)  p = Neg(q) },
                    else_branch = two () => (float[E, F] r) { r = Neg(x) }> }""")
    assert len(inferred(proto).values["z"].shape) == 4


def test_equal_nodes_are_looked_at_once_in_a_model_that_onnx_complains_about(monkeypatch):
    """swin_v2_t with a free batch asked onnx 30000 times, two thirds of the time to plan it."""
    chain = "  ".join(f"r{k + 1} = Relu(r{k})  s{k} = Constant <value_ints = [{k // 10 + 1}]> ()  "
                      f"c{k} = Tile(a, s{k})" for k in range(30))
    proto = parse(f"""
        g (float[N, 4, H, W] x, float[5] a, bool c) => (float[A, B, C, D] r30, float[E, F] y) {{
        r0 = Neg(x)  {chain}
        y = If (c) <then_branch = one () => (float[E, F] p) <float[] q> {{
                      q = Relu(x)  p = Neg(q) }},
                    else_branch = two () => (float[E, F] r) {{ r = Neg(x) }}> }}""")
    shown, infer_shapes = [], contradiction.infer_shapes

    def count(alone, **options):
        shown.append([node.op_type for node in alone.graph.node])
        return infer_shapes(alone, **options)

    monkeypatch.setattr(contradiction, "infer_shapes", count)
    monkeypatch.setattr(contradiction, "_ACCEPTED", set())
    assert inferred(proto).values["r30"].dtype is DType.F32
    assert sum(kinds == ["Constant", "Tile"] for kinds in shown) == 3  # another constant each
    assert sum("Relu" in kinds for kinds in shown) == 1


def test_sequences_and_optionals_have_no_type():
    graph = inferred(parse("""g (float[N, 4] x) => (float[A, B] z) {
        s = SplitToSequence <axis = 0> (x)  i = Constant <value = int64 {0}> ()
        z = SequenceAt(s, i) }"""))
    assert graph.values["s"].dtype is None and graph.values["s"].shape is None


def random_network(draw):
    """Return a model of window operators with drawn attributes, and sizes it can take."""
    nodes, name, channels = [], "x", 3
    for i in range(draw.integers(2, 5)):
        kernel = [int(draw.integers(1, 4)), int(draw.integers(1, 4))]
        attrs = {"strides": draw.integers(1, 3, 2).tolist()}
        kind = draw.choice(["Conv", "MaxPool", "AveragePool", "ConvTranspose"])
        if draw.random() < 0.3:
            # ONNX Runtime refuses the negative pads of a stride that is larger than the kernel.
            attrs["strides"] = np.minimum(attrs["strides"], kernel).tolist()
            attrs["auto_pad"] = str(draw.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        elif kind in ("Conv", "ConvTranspose"):
            attrs["pads"] = draw.integers(0, 2, 4).tolist()
        if kind in ("Conv", "MaxPool") and "auto_pad" not in attrs:
            attrs["dilations"] = draw.integers(1, 3, 2).tolist()
        inputs = [name]
        if kind == "Conv" or kind == "ConvTranspose":
            inputs.append(f"w{i}")
            nodes.append((f"w{i}", (3, 3, *kernel)))
        else:
            attrs["kernel_shape"] = kernel
            attrs["ceil_mode"] = int(draw.integers(0, 2))
            if "auto_pad" not in attrs:
                attrs["pads"] = [int(draw.integers(0, k)) for k in kernel * 2]
        nodes.append(helper.make_node(kind, inputs, [f"v{i}"], **attrs))
        name = f"v{i}"
    arrays = [node for node in nodes if isinstance(node, tuple)]
    nodes = [node for node in nodes if not isinstance(node, tuple)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", channels, "H", "W"])],
        [helper.make_tensor_value_info(name, 1, None)])
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return weights(proto, **dict(arrays))


@pytest.mark.parametrize("seed", range(40))
def test_random_windows(seed):
    graph = inferred(random_network(np.random.default_rng(seed)))
    for size in ((1, 3, 24, 31), (2, 3, 33, 26)):
        agree(graph, {"x": np.ones(size, "f4")})


MOVEMENT = {
    "Concat": "c = Concat <axis = 2> (x, x)  z = Neg(c)",
    "Pad": "p = Constant <value = int64[8] {0, 0, 1, 2, 0, 0, 1, -1}> ()  z = Pad(x, p)",
    "Slice": """s = Constant <value = int64[2] {1, 0}> ()
        e = Constant <value = int64[2] {-1, 2}> ()
        a = Constant <value = int64[2] {2, 3}> ()  z = Slice(x, s, e, a)""",
    "whole Slice": """s = Constant <value = int64[1] {0}> ()
        e = Constant <value = int64[1] {9223372036854775807}> ()
        a = Constant <value = int64[1] {2}> ()  z = Slice(x, s, e, a)""",
    "Flatten": "z = Flatten <axis = 2> (x)",
    "Resize": """r = Constant <value = float[0] {}> ()
        f = Constant <value = float[4] {1.0, 1.0, 2.0, 0.5}> ()  z = Resize(x, r, f)""",
    "Reshape": "t = Constant <value = int64[3] {0, 0, -1}> ()  z = Reshape(x, t)",
    "Reshape of all": "t = Constant <value = int64[1] {-1}> ()  z = Reshape(x, t)",
    "Expand": "s = Shape(x)  k = Constant <value = float {1.0}> ()  z = Expand(k, s)",
    "ConstantOfShape": "s = Shape(x)  z = ConstantOfShape(s)",
}


@pytest.mark.parametrize("name", MOVEMENT)
def test_movement(name):
    graph = inferred(parse("g (float[N, 4, H, W] x) => (float z) {" + MOVEMENT[name] + "}"))
    del graph.model.proto.graph.output[0].type.tensor_type.shape.dim[:]
    graph.model.proto.graph.output[0].ClearField("type")
    assert graph.values["z"].shape is not None
    for size in ((1, 4, 6, 8), (3, 4, 7, 9), (2, 4, 2, 2)):
        agree(graph, {"x": np.ones(size, "f4")})
    if name in ("Expand", "ConstantOfShape", "whole Slice"):
        assert graph.values["z"].shape == ("N", 4, "H", "W")


@pytest.mark.parametrize("node", [
    "y = Unsqueeze <axes = [-1]> (x)", "y = Unsqueeze <axes = [-1, 1]> (x)",
    "y = Squeeze <axes = [-2]> (x)",
])  # fmt: skip
def test_axes_from_the_end_in_old_opsets(node):
    """ONNX gained these with opset 11; exporters wrote them before, and ONNX Runtime takes them."""
    graph = inferred(parse(f"g (float[2, 3, 1, N] x) => (float y) {{ {node} }}", opset=9))
    assert graph.values["y"].shape is not None
    agree(graph, {"x": np.ones((2, 3, 1, 4), "f4")})


@pytest.mark.parametrize("end", [2**31 - 1, 2**63 - 1, 2**40, -(2**63)])
@pytest.mark.parametrize("step", [1, -1, -2])
def test_slices_to_no_end(end, step):
    """ONNX Runtime steps back to the first element where the end is the largest integer."""
    graph = inferred(parse(f"""g (float[2, 5] x) => (float y)
        <int64[2] start = {{1, 0}}, int64[2] end = {{{end}, 2}}, int64[2] axis = {{1, 0}},
         int64[2] step = {{{step}, 1}}> {{ y = Slice (x, start, end, axis, step) }}"""))
    assert graph.values["y"].shape is not None
    agree(graph, {"x": np.ones((2, 5), "f4")})


@pytest.mark.parametrize("opset", [10, 11, 13])
@pytest.mark.parametrize("dims", ["1, 3, 8, 7", "N, 3, H, 7", "?, ?, ?, ?"])
def test_every_second_line(dims, opset):
    """onnx has unknown extents stay what they are in opset 10: no Slice seemed to change them."""
    graph = inferred(parse(f"""g (float[{dims}] x) => (float z)
        <int64[1] one = {{1}}, int64[1] end = {{2147483647}}, int64[1] h = {{2}},
         int64[1] w = {{3}}, int64[1] step = {{2}}> {{
        y = Slice (x, one, end, h, step)
        z = Slice (y, one, end, w, step) }}""", opset=opset))
    for height in (1, 2, 7, 8) if "1" not in dims else (8,):
        agree(graph, {"x": np.ones((1, 3, height, 7), "f4")})
    if "?" not in dims:
        assert graph.values["z"].shape[3] == 3


@pytest.mark.parametrize("opset", [9, 10, 11])
def test_a_part_of_an_unknown_extent(opset):
    old = "Slice <starts = [1], ends = [2], axes = [1]> (x)"
    slice_ = old if opset < 10 else "Slice (x, a, b, a)"
    graph = inferred(parse(f"""g (float[N, W] x) => (float y)
        <int64[1] a = {{1}}, int64[1] b = {{2}}> {{ y = {slice_} }}""", opset=opset))
    for width in (1, 2, 5):
        agree(graph, {"x": np.ones((3, width), "f4")})


@pytest.mark.parametrize("batch, known", [("N", False), ("4", True)])
def test_declarations_of_models_made_dynamic_by_hand(batch, known):
    """What the model says of an operator that onnx does not know may be left from a fixed batch."""
    graph = inferred(parse(f"""g (float[{batch}, 3] x) => (float y) <float[4, 3] c> {{
        c = my.Strange (x)
        y = Relu (c) }}""", imports=', "my": 1'))
    for name in "cy":
        assert len(graph.values[name].shape) == 2
        assert (graph.values[name].shape == (4, 3)) is known


@pytest.mark.parametrize("step", [1, -1])
def test_slices_of_nothing(step):
    """onnx ends the process on one that steps back."""
    graph = inferred(parse(f"""g (float[2, 0, N] x) => (float y)
        <int64[1] start = {{-1}}, int64[1] end = {{-9}}, int64[1] axis = {{1}},
         int64[1] step = {{{step}}}> {{ y = Slice (x, start, end, axis, step) }}"""))
    assert graph.values["y"].shape == (2, 0, "N")
    agree(graph, {"x": np.ones((2, 0, 3), "f4")})
