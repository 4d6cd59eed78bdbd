"""Which values become channels-last, and that models mean the same with the library and without."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.emit import emit
from onnx_fusion.fusion.template import NAMES
from onnx_fusion.graph.save import to_proto
from onnx_fusion.program import interpret, parse_program

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
LAST = (0, 2, 3, 1)
CONV = "Conv <pads = [1, 1, 1, 1]>"


def build(inputs: str, outputs: str, body: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A graph from text, with random initializers of these shapes."""
    model = onnx.parser.parse_model(f"{HEAD}g ({inputs}) => ({outputs}) {{\n{body}\n}}")
    rng = np.random.default_rng(3)
    for name, shape in weights.items():
        array = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def layouts(model: onnx.ModelProto, *rules: str, **options: object) -> dict[str, tuple[int, ...]]:
    """The layouts of values that cross between regions, after both sides were seen to agree.

    No template merges regions, and these rules are disabled too.
    """
    found: dict[str, tuple[int, ...]] = {}
    planned = api.plan_programs(model, policy="all", disabled=(*NAMES, *rules), **options)
    for one in planned.lowered:
        program = parse_program(one.program)
        tensors = (*program.inputs, *program.outputs)
        for value, tensor in zip((*one.inputs, *one.outputs), tensors, strict=True):
            assert tensor.order == one.layouts.get(value)
            if value.weight is None:
                assert found.setdefault(value.name, tensor.order) == tensor.order
    return {name: order for name, order in found.items() if order is not None}


def same(model: onnx.ModelProto, dims: dict[str, int] | None = None, **options: object
         ) -> onnx.ModelProto:
    """The fused model, after it gave the original's results with the library and without."""
    rng = np.random.default_rng(5)
    feeds = {}
    initial = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        if info.name not in initial:
            shape = [d.dim_value or (dims or {})[d.dim_param]
                     for d in info.type.tensor_type.shape.dim]
            feeds[info.name] = rng.standard_normal(shape).astype(np.float32)
    plain = onnxruntime.InferenceSession(model.SerializeToString(),
                                         providers=["CPUExecutionProvider"])
    wanted = plain.run(None, feeds)
    made = api.optimize(model, policy="all", disabled=NAMES, **options)
    onnx.checker.check_model(made, full_check=options.get("fallback", True))
    for library in (True, False) if options.get("fallback", True) else (True,):
        got = onnx_fusion.session(made, library=library).run(None, feeds)
        for one, other in zip(wanted, got, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5 * np.ptp(one))
    return made


def residual(channels: int = 16, extent: str = "13, 11") -> onnx.ModelProto:
    return build(
        f"float[2, 3, {extent}] x", f"float[2, {channels}, {extent}] y",
        f"""a = {CONV} (x, w0)  b = Relu(a)
        c = {CONV} (b, w1)  d = Relu(c)
        e = {CONV} (d, w2)  f = Add(e, b)  g = Relu(f)
        h = {CONV} (g, w3)  y = Sigmoid(h)""",
        w0=(channels, 3, 3, 3), **{f"w{k}": (channels, channels, 3, 3) for k in (1, 2, 3)},
    )  # fmt: skip


def test_between_convolutions_channels_are_last():
    """The graph's input and output stay rows."""
    assert layouts(residual()) == {"b": LAST, "d": LAST, "g": LAST}
    assert layouts(residual(), "layout") == {}
    same(residual())


def test_few_channels_stay_rows():
    assert layouts(residual(channels=4)) == {}


@pytest.mark.parametrize(
    "rank, order", [(3, (0, 2, 1)), (4, (0, 2, 3, 1)), (5, (0, 2, 3, 4, 1))]
)
def test_one_to_three_axes_of_space(rank, order):
    space = ", ".join(["9"] * (rank - 2))
    ones = ", ".join(["1"] * (2 * (rank - 2)))
    taps = (3,) * (rank - 2)
    model = build(
        f"float[1, 3, {space}] x", f"float[1, 16, {space}] y",
        f"a = Conv <pads = [{ones}]> (x, w0)  b = Relu(a)  y = Conv <pads = [{ones}]> (b, w1)",
        w0=(16, 3, *taps), w1=(16, 16, *taps),
    )  # fmt: skip
    assert layouts(model) == {"b": order}
    same(model)


def test_symbols_pass_through():
    """Batch and space are known at run time only; the names of dims move with them."""
    model = residual(extent="H, W")
    assert layouts(model) == {"b": LAST, "d": LAST, "g": LAST}
    made = same(model, {"H": 7, "W": 10})
    (info,) = (v for v in made.graph.value_info if v.name == "b_channels_last")
    dims = info.type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in dims] == [2, "H", "W", 16]


SEEN = build(
    "float[1, 16, 8, 8] x, float[1, 1, 8, 8] t", "float[1, 16, 8, 8] b, float[1, 16, 8, 8] y",
    f"""a = {CONV} (x, w0)  b = Relu(a)
    c = {CONV} (b, w1)  d = Relu(c)
    e = {CONV} (d, w2)  f = Relu(e)
    g = {CONV} (f, w3)  h = Relu(g)
    k = ReduceMax <keepdims = 0> (t)  l = Cast <to = 9> (k)
    [left] m = Clip(d)
    n = If (l) <
        then_branch = p () => (float[1, 16, 8, 8] s) {{ s = Neg(f) }},
        else_branch = q () => (float[1, 16, 8, 8] r) {{ r = Abs(f) }}
    >
    y = Sum(h, m, n)""",
    **{f"w{k}": (16, 16, 3, 3) for k in range(4)},
)  # fmt: skip


def test_a_value_that_others_see_stays_a_row():
    """`b` is a graph output, `d` is read by an operator left alone, `f` by a body."""
    assert layouts(SEEN, skip=("left",)) == {}
    assert layouts(SEEN) == {"d": LAST, "m": LAST}
    same(SEEN)
    same(SEEN, skip=("left",))


def test_a_stretch_agrees():
    """`c` and `d` meet no window themselves, but operators that do their arithmetic with `b`."""
    model = build(
        "float[1, 3, 8, 8] x", "float[1, 16, 8, 8] y",
        f"""a = {CONV} (x, w0)  b = Softmax <axis = 1> (a)
        c = Softmax <axis = 2> (b)  d = Softmax <axis = 3> (c)  y = Softmax <axis = 1> (d)""",
        w0=(16, 3, 3, 3),
    )  # fmt: skip
    assert set(layouts(model).values()) == {LAST} and {"b", "c", "d"} <= layouts(model).keys()
    same(model)


def test_no_window_no_layout():
    model = build(
        "float[1, 16, 8, 8] x", "float[1, 16, 8, 8] y",
        "b = Softmax <axis = 1> (x)  c = Softmax <axis = 2> (b)  y = Softmax <axis = 3> (c)",
    )
    assert layouts(model) == {}


def test_what_a_matrix_product_reads_stays_a_row():
    model = build(
        "float[1, 3, 8, 8] x", "float[1, 16, 8, 4] y",
        f"a = {CONV} (x, w0)  b = Relu(a)  c = {CONV} (b, w1)  y = MatMul(c, m)",
        w0=(16, 3, 3, 3), w1=(16, 16, 3, 3), m=(8, 4),
    )  # fmt: skip
    assert layouts(model) == {"b": LAST}
    same(model)


def test_one_point_of_space_stays_a_row():
    """Squeeze and excite: the order in memory is the same, so nothing is renamed."""
    model = build(
        "float[1, 3, 40, 40] x", "float[1, 64, 40, 40] y",
        f"""a = {CONV} (x, w0)  b = Relu(a)
        s = GlobalAveragePool(b)  t = Conv(s, w1)  u = Relu(t)  v = Conv(u, w2)  w = Sigmoid(v)
        z = Mul(b, w)  y = {CONV} (z, w3)""",
        w0=(64, 3, 3, 3), w1=(8, 64, 1, 1), w2=(64, 8, 1, 1), w3=(64, 64, 3, 3),
    )  # fmt: skip
    assert {"b", "z"} <= layouts(model).keys() <= {"b", "z", "a"}
    same(model)


UNET = build(
    "float[1, 3, 20, 24] x", "float[1, 8, 20, 24] y",
    f"""a = {CONV} (x, w0)  b = Relu(a)
    c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    d = Conv <pads = [1, 1, 1, 1], group = 2> (c, w1)  e = HardSwish(d)
    z = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> ()
    f = Resize <mode = "linear"> (e, , z)
    g = Concat <axis = 1> (f, b)
    h = {CONV} (g, w2)  i = LeakyRelu(h)
    j = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (i)
    k, l = Split <axis = 1, num_outputs = 2> (j)
    m = Mul(k, l)
    n = Pad(m, p)
    y = Conv(n, w3)""",
    w0=(16, 3, 3, 3), w1=(16, 8, 3, 3), w2=(16, 32, 3, 3), w3=(8, 8, 3, 3),
)  # fmt: skip
UNET.opset_import[0].version = 18
UNET.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 1] * 2, np.int64), "p"))


def test_concat_split_pools_and_a_resize():
    found = layouts(UNET)
    assert {"b", "c", "g"} & found.keys() and set(found.values()) == {LAST}
    same(UNET)
    same(UNET, fallback=False)
    same(UNET, skip=("Resize", "Concat"))


def test_temps_inside_a_region_too():
    """Small regions become one; what lies between their stages is channels-last if it is wide."""
    model = residual(channels=32, extent="5, 4")
    (one,) = api.plan_programs(model, policy="all").lowered
    temps = parse_program(one.program).temps
    assert len(temps) >= 3 and all(temp.order == LAST for temp in temps)
    x = np.random.default_rng(9).standard_normal((2, 3, 5, 4)).astype(np.float32)
    wanted, got = (
        onnx_fusion.session(m, library=True).run(None, {"x": x})[0]
        for m in (model, api.optimize(model, policy="all"))
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_what_is_pooled_lies_as_before():
    """A small result, of an image that is channels-last since it is large."""
    model = build(
        "float[1, 3, 24, 24] x", "float[1, 24, 9, 9] y",
        """a = Conv (x, w0)  b = Relu(a)
        c = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (b)
        y = Conv (c, w1)""",
        w0=(28, 3, 3, 3), w1=(24, 28, 3, 3),
    )  # fmt: skip
    (one,) = api.plan_programs(model, policy="all").lowered
    assert [temp.order for temp in parse_program(one.program).temps] == [LAST, LAST]


def test_programs_mean_the_same():
    """The interpreter, region by region, gives what ONNX Runtime gives for the original."""
    model = residual()
    x = np.random.default_rng(9).standard_normal((2, 3, 13, 11)).astype(np.float32)
    plain = onnxruntime.InferenceSession(model.SerializeToString(),
                                         providers=["CPUExecutionProvider"])
    known = {"x": x}
    for one in api.plan_programs(model, policy="all").lowered:
        given = [known.get(v.name) if v.weight is None else v.weight.array() for v in one.inputs]
        made = interpret(parse_program(one.program), given)
        for value, array in zip(one.outputs, made, strict=True):
            order = one.layouts.get(value, range(array.ndim))
            assert array.shape == tuple(value.shape[d] for d in order)
            known[value.name] = array
    np.testing.assert_allclose(known["y"], plain.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_some_regions_alone():
    """bisect writes a part of the regions: Transposes stand where the other side is missing."""
    model = residual()
    planned = api.plan_programs(model, policy="all", disabled=["small"])
    x = np.random.default_rng(9).standard_normal((2, 3, 13, 11)).astype(np.float32)
    plain = onnxruntime.InferenceSession(model.SerializeToString(),
                                         providers=["CPUExecutionProvider"])
    (wanted,) = plain.run(None, {"x": x})
    every = list(planned.lowered)
    for some in [[one] for one in every] + [[o for o in every if o is not one] for one in every]:
        made = emit(planned.model, planned.graph, some)
        proto = to_proto(made.proto, made.weights)
        onnx.checker.check_model(proto, full_check=True)
        count = sum(node.op_type == "Transpose" for node in proto.graph.node)
        assert count >= 1
        for library in (True, False):
            (got,) = onnx_fusion.session(proto, library=library).run(None, {"x": x})
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_known_names_keep_their_shapes():
    made = api.optimize(residual(), policy="all", disabled=["small"])
    before = onnx.shape_inference.infer_shapes(residual()).graph
    shapes = {v.name: v.type for v in (*before.value_info, *before.output)}
    described = {v.name: v.type for v in made.graph.value_info}
    assert {"b_channels_last", "d_channels_last", "g_channels_last"} <= described.keys()
    assert all(shapes[name] == described[name] for name in shapes.keys() & described.keys())
    taken = residual()
    taken.graph.node[2].output[0] = taken.graph.node[3].input[0] = "b_channels_last"
    names = {name for node in same(taken).graph.node for name in node.output}
    assert "b_channels_last_1" in names


def test_the_same_bytes_each_time():
    one, other = (api.optimize(UNET, policy="all") for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_the_functions_transposes_cancel(tmp_path):
    """Without the library ONNX Runtime is left with one or two, and its own reorders."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnx_fusion.session(api.optimize(residual(), policy="all"), library=False, options=options)
    left = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert left.count("Transpose") <= 2


def test_what_leads_to_a_value_lies_as_it_does():
    """The sum before the bias is stored on its own; nobody else names its order."""
    model = build(
        "float[1, 3, 40, 40] x", "float[1, 32, 40, 40] y",
        f"""a = {CONV} (x, w0, b0)  b = Sigmoid(a)  c = Neg(b)  d = Mul(a, c)
        e = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (d)  y = {CONV} (e, w1)""",
        w0=(32, 3, 3, 3), b0=(32, 1), w1=(32, 32, 3, 3),
    )  # fmt: skip
    model.graph.initializer[1].dims[:] = [32]
    for one in api.plan_programs(model, policy="all").lowered:
        assert all(temp.order == LAST for temp in parse_program(one.program).temps)
