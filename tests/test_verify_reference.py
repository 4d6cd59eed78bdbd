"""The float64 truth against ONNX Runtime in float32: operators restated, and models widened."""

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator

from onnx_fusion.runtime.inputs import make_inputs
from onnx_fusion.runtime.reference import NoReference, evaluate, widen, widen_inputs
from onnx_fusion.runtime.reference_ops import RESTATED

MODELS = sorted((Path(__file__).resolve().parent.parent / "models").glob("*.onnx"))
RNG = np.random.default_rng(5)


def onnx_runtime(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return what plain ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def check(node: onnx.NodeProto, opset: int, **inputs: np.ndarray) -> None:
    """Compare one node, restated and widened, with ONNX Runtime."""
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in inputs.items()
    ]
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in node.output]
    graph = helper.make_graph([node], "g", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    wanted = onnx_runtime(model, inputs)
    session = ReferenceEvaluator(widen(model), new_ops=list(RESTATED))
    got = session.run(None, widen_inputs(inputs))
    for one, other in zip(wanted, got, strict=True):
        assert other.dtype == (np.float64 if one.dtype == np.float32 else one.dtype)
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def draw(*shape: int) -> np.ndarray:
    """Return random float32 numbers."""
    return RNG.standard_normal(shape, np.float32)


CONV = list(
    itertools.product((1, 2, 4), (1, 2), (1, 2), ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
)


@pytest.mark.parametrize(("groups", "stride", "dilation", "auto_pad"), CONV)
def test_conv(groups: int, stride: int, dilation: int, auto_pad: str) -> None:
    if auto_pad.startswith("SAME") and dilation > 1:
        dilation = 1
    options = {"auto_pad": auto_pad} if auto_pad != "NOTSET" else {"pads": [1, 0, 2, 1]}
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], group=groups, strides=[stride, 1],
        dilations=[1, dilation], **options,
    )  # fmt: skip
    check(node, 17, x=draw(2, 4, 9, 8), w=draw(8, 4 // groups, 3, 2), b=draw(8))


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_of_other_ranks(rank: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2] * rank)
    check(node, 17, x=draw(1, 2, *(7,) * rank), w=draw(3, 2, *(3,) * rank))


@pytest.mark.parametrize(
    ("groups", "stride", "extra"), [(1, 1, 0), (1, 2, 1), (2, 2, 0), (2, 3, 2)]
)
def test_conv_transpose(groups: int, stride: int, extra: int) -> None:
    node = helper.make_node(
        "ConvTranspose", ["x", "w", "b"], ["y"], group=groups, strides=[stride, 2],
        output_padding=[extra, 0], pads=[1, 0, 0, 1], dilations=[1, 2],
    )  # fmt: skip
    check(node, 17, x=draw(2, 4, 5, 4), w=draw(4, 3, 3, 2), b=draw(3 * groups))


POOL = list(itertools.product((1, 2), ("NOTSET", "SAME_UPPER", "SAME_LOWER"), (0, 1)))


@pytest.mark.parametrize(("stride", "auto_pad", "flag"), POOL)
def test_pooling(stride: int, auto_pad: str, flag: int) -> None:
    options = {"auto_pad": auto_pad} if auto_pad != "NOTSET" else {"pads": [1, 0, 0, 1]}
    common = {"kernel_shape": [3, 2], "strides": [stride, 1], **options}
    x = draw(2, 3, 8, 7)
    check(helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=flag, **common), 17, x=x)
    check(helper.make_node("MaxPool", ["x"], ["y"], **common), 12, x=x)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_resize(mode: str, coordinates: str) -> None:
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode=mode, coordinate_transformation_mode=coordinates
    )
    model_inputs = {"x": draw(1, 2, 5, 6), "s": np.array([1, 1, 2, 1.5], np.float32)}
    check(node, 17, **model_inputs)


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_normalization_is_inference(opset: int) -> None:
    node = helper.make_node("BatchNormalization", list("xsbmv"), ["y"], momentum=0.8)
    check(node, opset, x=draw(2, 3, 4), s=draw(3), b=draw(3), m=draw(3), v=np.abs(draw(3)) + 1)


def test_global_max_pool_of_any_rank() -> None:
    for shape in ((2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5)):
        check(helper.make_node("GlobalMaxPool", ["x"], ["y"]), 17, x=draw(*shape))


def test_gather_elements_of_any_extent() -> None:
    index = RNG.integers(-100, 100, (2, 7))
    check(
        helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1), 17, x=draw(2, 100), i=index
    )


WIDE = """<ir_version: 8, opset_import: ["" : 17]> g (float[3] x, bool c) => (float[3] y)
<float[1] w = {0.1}> {
  k = Constant<value_floats = [0.1, 0.2, 0.3]>()
  n = Constant<value_float = 0.7>()
  s = Shape(x)
  z = ConstantOfShape(s)
  i = Cast<to = 7>(x)
  f = Cast<to = 1>(i)
  t = If(c) <then_branch = th () => (float[3] p) <float[1] v = {0.3}> { p = Add(k, v) },
             else_branch = el () => (float[3] q) { q = Identity(k) }>
  a = Sum(x, k, n, z, f, t, w)
  y = Exp(a)
}"""


def test_every_float32_is_widened_also_in_bodies() -> None:
    model = parser.parse_model(WIDE)
    inputs = {"x": draw(3), "c": np.array(True)}
    values = evaluate(model, inputs, ["y", "t", "z"])
    assert {array.dtype for array in values.values()} == {np.dtype(np.float64)}
    x = inputs["x"].astype(np.float64)
    k, w, v, n = np.float32([0.1, 0.2, 0.3]), np.float32(0.1), np.float32(0.3), np.float32(0.7)
    total = x + k.astype(float) + float(n) + np.trunc(x) + (k.astype(float) + float(v)) + float(w)
    np.testing.assert_allclose(values["y"], np.exp(total), rtol=1e-14)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models(path: Path) -> None:
    model = onnx.load(path)
    inputs = make_inputs(model)
    names = [value.name for value in model.graph.output]
    truth = evaluate(model, inputs, names)
    for name, plain in zip(names, onnx_runtime(model, inputs), strict=True):
        assert truth[name].dtype == np.float64
        np.testing.assert_allclose(plain, truth[name], rtol=1e-4, atol=1e-5)


def test_what_the_reference_does_not_know_is_told() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "far.away" : 1]> g (float[3] x) =>
        (float[3] y) { y = far.away.Strange(x) }"""
    with pytest.raises(NoReference, match="^the float64 reference cannot run the model: .*Strange"):
        evaluate(parser.parse_model(text), {"x": draw(3)}, ["y"])


ROI = itertools.product((0, 3), ("half_pixel", "output_half_pixel"), ("avg", "max"))


@pytest.mark.parametrize(("samples", "mode", "kind"), ROI)
def test_roi_align(samples: int, mode: str, kind: str) -> None:
    if kind == "max" and not samples:
        samples = 1
    node = helper.make_node(
        "RoiAlign", ["x", "boxes", "images"], ["y"], mode=kind, output_height=3, output_width=4,
        sampling_ratio=samples, spatial_scale=0.5, coordinate_transformation_mode=mode,
    )  # fmt: skip
    boxes = np.array(
        [[1, 2, 9, 12], [-7, -3, 3, 4], [8, 9, 40, 30], [3, 3, 3.2, 3.4], [0, 0, 16, 14]],
        np.float32,
    )
    images = np.array([0, 1, 1, 0, 1], np.int64)
    check(node, 16, x=draw(2, 3, 7, 8), boxes=boxes, images=images)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
def test_scatter_elements(reduction: str) -> None:
    node = helper.make_node(
        "ScatterElements", ["x", "i", "u"], ["y"], axis=-1, reduction=reduction
    )
    places = np.stack([RNG.permutation(6)[:4] for _ in range(15)]).reshape(3, 5, 4) - 6
    if reduction != "none":
        places = RNG.integers(-6, 6, (3, 5, 4))
    check(node, 18, x=draw(4, 5, 6), i=places.astype(np.int64), u=draw(3, 5, 4))


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_non_max_suppression(centred: int, threshold: float | None) -> None:
    boxes = RNG.uniform(0, 1, (2, 40, 4)).astype(np.float32)
    boxes[:, 5] = boxes[:, 6]
    scores = RNG.uniform(0, 1, (2, 3, 40)).astype(np.float32)
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2, 40, 4] b, float[2, 3, 40] s)
        => (int64[n, 3] y) <int64[1] m = {{7}}, float[1] o = {{0.4}}, float[1] t = {{0.3}}> {{
        y = NonMaxSuppression <center_point_box = {centred}>
            (b, s, m, o{", t" if threshold else ""}) }}"""
    model = parser.parse_model(text)
    feeds = {"b": boxes, "s": scores}
    (wanted,) = onnx_runtime(model, feeds)
    assert wanted.size
    np.testing.assert_array_equal(evaluate(model, feeds, ["y"])["y"], wanted)


def test_only_what_is_asked_for_is_computed() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "far.away" : 1]> g (float[3] x, bool c) =>
        (float[3] y, float[3] z) { s = far.away.Strange(x)  e = Exp(x)
        y = If (c) <then_branch = a () => (float[3] p) { p = Neg(e) },
                    else_branch = b () => (float[3] o) { o = Abs(e) }>  z = Add(s, y) }"""
    x = draw(3)
    truth = evaluate(parser.parse_model(text), {"x": x, "c": np.array(True)}, ["y", "e"])
    np.testing.assert_allclose(truth["y"], -np.exp(x.astype(np.float64)))
    np.testing.assert_allclose(truth["e"], np.exp(x.astype(np.float64)))
