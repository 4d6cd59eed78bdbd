"""ConvTranspose, Resize, Upsample and the modes of Pad against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from ops_run import build, by_machine, compare, fuse, run

node = onnx.helper.make_node


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


TRANSPOSED = [
    ((1, 3, 5), (3, 4, 2), {"strides": [2]}),
    ((2, 3, 5), (3, 4, 3), {"strides": [2], "pads": [1, 1], "output_padding": [1]}),
    ((2, 3, 5), (3, 4, 4), {"strides": [2], "pads": [1, 1]}),
    ((1, 3, 4, 5), (3, 4, 2, 2), {"strides": [2, 2]}),
    ((2, 3, 4, 5), (3, 4, 3, 3), {"strides": [2, 2]}),
    ((2, 3, 4, 5), (3, 4, 3, 3), {"strides": [1, 2], "pads": [1, 0, 0, 1]}),
    ((1, 4, 4, 5), (4, 3, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 2}),
    ((1, 4, 4, 5), (4, 1, 5, 3), {"strides": [3, 2], "group": 4, "output_padding": [2, 1]}),
    ((1, 2, 4, 5), (2, 3, 3, 3), {"dilations": [2, 2], "pads": [1, 2, 1, 2]}),
    ((1, 2, 4, 5), (2, 3, 1, 1), {"strides": [3, 2]}),
    ((1, 2, 4, 5), (2, 3, 2, 2), {"strides": [3, 3], "output_padding": [2, 1]}),
    ((1, 2, 4, 5), (2, 3, 4, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 2, 4, 5), (2, 3, 4, 4), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((1, 2, 4, 5), (2, 3, 3, 3), {"strides": [2, 2], "auto_pad": "VALID"}),
    ((1, 2, 3, 4, 5), (2, 3, 2, 3, 2), {"strides": [2, 1, 2]}),
    ((0, 2, 4, 5), (2, 3, 2, 2), {"strides": [2, 2]}),
    ((2, 3, 1, 1), (3, 4, 4, 4), {}),
    ((1, 3, 1, 5), (3, 4, 3, 3), {"strides": [2, 2], "pads": [1, 1, 0, 1]}),
    ((1, 4, 1, 1), (4, 3, 4, 4), {"group": 2, "dilations": [1, 2], "pads": [2, 1, 1, 0]}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "weights", "attributes"), TRANSPOSED)
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution(
    shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict, bias: bool
) -> None:
    x, extra = floats(*shape), {}
    if bias:
        extra = {"b": floats(weights[1] * attributes.get("group", 1), seed=2)}
    constants = {"w": floats(*weights, seed=1)} | extra
    nodes = [
        node("ConvTranspose", ["x", *constants], ["a"], **attributes),
        node("Relu", ["a"], ["y"]),
    ]
    compare(build(nodes, {"x": x}, constants), {"x": x}, atol=1e-5, regions=1)


READERS = [
    node("Pad", ["a", "pads"], ["y"]),
    node("MaxPool", ["a"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    node("AveragePool", ["a"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    node("Conv", ["a", "v"], ["y"], pads=[1, 1, 1, 1]),
]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.op_type)
@pytest.mark.parametrize("stride", [2, 3])
def test_what_is_cut_off_is_not_read_by_windows(reader: onnx.NodeProto, stride: int) -> None:
    """Phases of a stride of 3 are stored whole, borders too; windows see zeros there."""
    attributes = {"strides": [stride, stride], "pads": [1, 1, 1, 1]}
    nodes = [node("ConvTranspose", ["x", "w"], ["a"], **attributes), reader]
    constants = {"w": floats(2, 1, 5, 4), "v": floats(2, 1, 3, 3)}
    constants["pads"] = np.array([0, 0, 1, 2, 0, 0, 2, 1])
    constants = {name: a for name, a in constants.items() if name in (*reader.input, "w")}
    x = floats(1, 2, 6, 5)
    compare(build(nodes, {"x": x}, constants), {"x": x}, atol=1e-5)


def test_no_tap_of_a_transposed_convolution_meets_an_inserted_zero() -> None:
    """Its sum runs over channels and, of 4 x 4 taps at stride 2, over 2 x 2."""
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])]
    model = build(nodes, {"x": floats(1, 3, 4, 6)}, {"w": floats(3, 5, 4, 4)})
    program = fuse(model).lowered[0].program
    (stage,) = [line for line in program.splitlines() if line.startswith("stage")]
    extents = sorted(int(part.split(":")[1]) for part in stage.removeprefix("stage ").split(","))
    assert extents == [2, 2, 2, 2, 3, 4, 5, 6]


def test_infinities_meet_no_tap_behind_the_kernel() -> None:
    x = floats(1, 2, 3, 3)
    x[0, 0, 1, 1] = np.inf
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])]
    model = build(nodes, {"x": x}, {"w": np.abs(floats(2, 3, 3, 3))})
    compare(model, {"x": x}, atol=1e-5)


def test_transposed_convolution_of_unknown_extents() -> None:
    for strides, pads, size in (([2, 2], [0, 0, 0, 0], 2), ([2, 1], [1, 0, 0, 1], 3)):
        nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=strides, pads=pads)]
        model = build(
            nodes, {"x": floats(1, 2, 3, 4)}, {"w": floats(2, 3, size, size)},
            symbols={"x": ["n", 2, "h", "w"]},
        )  # fmt: skip
        runs = [{"x": floats(*shape)} for shape in ((2, 2, 3, 4), (1, 2, 1, 1), (1, 2, 7, 2))]
        compare(model, *runs, atol=1e-5)


def resize(
    x: np.ndarray, *, opset: int = 19, symbols: dict | None = None, **given
) -> onnx.ModelProto:
    """Return a model of Neg and Resize; `given` are its constant inputs and attributes."""
    constants = {
        name: np.asarray(given.pop(name), dtype)
        for name, dtype in (("scales", np.float32), ("sizes", np.int64))
        if name in given
    }
    to_size = "sizes" in constants
    inputs = ["a", "roi", *(["", "sizes"] if to_size else ["scales"])]
    constants["roi"] = np.zeros(0, np.float32)
    nodes = [node("Neg", ["x"], ["a"]), node("Resize", inputs, ["y"], **given)]
    return build(nodes, {"x": x}, constants, opset=opset, symbols=symbols)


MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest_elements(mode: str, rounding: str) -> None:
    """By whole numbers up, where phases round alike, and down; other maps are not linear."""
    alike = (mode, rounding) in {
        ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    }  # fmt: skip
    for size, extent in itertools.product((1, 2, 3, 5, 8), (1, 2, 3, 4, 6, 10, 15, 16)):
        x = floats(2, size, 3)
        model = resize(
            x, sizes=[2, extent, 6], coordinate_transformation_mode=mode, nearest_mode=rounding
        )
        fused = fuse(model)
        if "Resize" in fused.op_types():
            compare(model, {"x": x})
        else:
            told = str(fused.reasons)
            assert "not linear" in told or "differently" in told
            assert extent % size or not alike


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "sizes",
    [[8, 10], [12, 5], [4, 20], [4, 5], [16, 15], [6, 5], [2, 10], [7, 3], [3, 13], [1, 1], [9, 1]],
)
def test_linear_elements(mode: str, sizes: list[int]) -> None:
    x = floats(2, 3, 4, 5)
    model = resize(x, sizes=[2, 3, *sizes], mode="linear", coordinate_transformation_mode=mode)
    compare(model, {"x": x}, atol=1e-5, regions=1)


@pytest.mark.parametrize("mode", MODES)
def test_linear_elements_of_a_line_and_of_one_pixel(mode: str) -> None:
    for shape, sizes in (((3, 40), (3, 61)), ((1, 2, 1, 1), (1, 2, 3, 5)), ((2, 3, 9), (2, 3, 4))):
        model = resize(
            floats(*shape), sizes=sizes, mode="linear", coordinate_transformation_mode=mode
        )
        compare(model, {"x": floats(*shape)}, atol=1e-5, regions=1)


@pytest.mark.parametrize("size", [(25, 31), (7, 40), (30, 9), (33, 66)])
@pytest.mark.parametrize("mode", ["half_pixel", "align_corners"])
def test_linear_elements_between_convolutions(mode: str, size: tuple[int, int]) -> None:
    """Channels-last, and with what is added, joined and multiplied behind."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Resize", ["b", "", "", "sizes"], ["c"], mode="linear",
             coordinate_transformation_mode=mode),
        node("Add", ["c", "z"], ["d"]),
        node("Concat", ["d", "c"], ["e"], axis=1),
        node("Conv", ["e", "v"], ["y"]),
    ]  # fmt: skip
    x, z = floats(1, 8, 11, 20), floats(1, 24, *size)
    constants = {
        "w": floats(24, 8, 3, 3, seed=1),
        "v": floats(8, 48, 1, 1, seed=2),
        "sizes": np.array([1, 24, *size]),
    }
    model = build(nodes, {"x": x, "z": z}, constants)
    compare(model, {"x": x, "z": z}, atol=2e-4)


def test_linear_elements_far_from_the_first_are_exact() -> None:
    """float32 positions are off by 1e-4 there; against float64."""
    x = np.arange(3000, dtype=np.float32).reshape(1, 3000)
    fused = fuse(resize(x, sizes=[1, 4999], mode="linear"))
    (made,) = run(fused, {"x": x}, by_machine)
    at = ((np.arange(4999) + 0.5) * 3000 / 4999 - 0.5).clip(0, 2999)
    np.testing.assert_allclose(made[0], -at, atol=3e-4)


@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 4, 3], [1, 1, 1, 5], [1, 1, 1, 1]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [11, 19])
def test_scales(scales: list[float], mode: str, opset: int) -> None:
    x = floats(1, 2, 10, 5)
    model = resize(x, scales=scales, mode=mode, opset=opset,
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    compare(model, {"x": x}, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 4, 3])
@pytest.mark.parametrize("mode", ["asymmetric", "half_pixel"])
@pytest.mark.parametrize("kind", ["nearest", "linear"])
def test_resize_of_unknown_extents(scale: int, mode: str, kind: str) -> None:
    x = floats(1, 2, 3, 4)
    model = resize(
        x, scales=[1, 1, scale, scale], coordinate_transformation_mode=mode, mode=kind,
        nearest_mode="floor" if mode == "asymmetric" else "round_prefer_floor",
        symbols={"x": ["n", 2, "h", "w"]},
    )  # fmt: skip
    if (scale, mode, kind) == (3, "half_pixel", "nearest"):  # f32 may round far from 0
        assert "unknown extent" in str(fuse(model).reasons)
        return
    compare(model, {"x": x}, {"x": floats(2, 2, 1, 7)}, {"x": floats(1, 2, 9, 2)}, atol=1e-5)


def test_unknown_extents_to_a_size_are_refused() -> None:
    fused = fuse(resize(floats(1, 4), sizes=[1, 8], symbols={"x": [1, "n"]}))
    assert any("unknown extent" in reason for reason in fused.reasons.values())


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: str) -> None:
    x = floats(1, 2, 3, 4)
    nodes = [node("Neg", ["x"], ["a"]), node("Upsample", ["a", "s"], ["y"], mode=mode)]
    scales = np.array([1, 1, 2, 3], np.float32)
    compare(build(nodes, {"x": x}, {"s": scales}, opset=9), {"x": x})


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[0, 1, 0, 2], [1, 2, 2, 1], [0, 3, 0, 3], [2, 0, 0, 0]])
def test_padding_with_the_elements_themselves(mode: str, pads: list[int]) -> None:
    x = floats(3, 4)
    nodes = [node("Neg", ["x"], ["a"]), node("Pad", ["a", "p"], ["y"], mode=mode)]
    model = build(nodes, {"x": x}, {"p": np.array(pads)}, opset=19)
    compare(model, {"x": x}, regions=1)


@pytest.mark.parametrize("mode", ["reflect", "wrap"])
def test_padding_of_unknown_extents(mode: str) -> None:
    x = floats(3, 4)
    nodes = [node("Pad", ["x", "p"], ["y"], mode=mode)]
    model = build(nodes, {"x": x}, {"p": np.array([0, 2, 0, 1])}, opset=19, symbols={"x": [3, "n"]})
    compare(model, {"x": x}, {"x": floats(3, 3)}, {"x": floats(3, 50)})


def test_wrapping_goes_round_a_short_axis_more_than_once() -> None:
    x = floats(2, 4)
    nodes = [node("Pad", ["x", "p"], ["y"], mode="wrap")]
    model = build(nodes, {"x": x}, {"p": np.array([3, 0, 4, 1])}, opset=19, symbols={"x": ["n", 4]})
    compare(model, {"x": x}, {"x": floats(1, 4)}, {"x": floats(9, 4)})


def test_reflection_behind_a_convolution_window() -> None:
    """The window reads the padded signal, which is not stored."""
    x = floats(1, 1, 16)
    nodes = [
        node("Pad", ["x", "p"], ["a"], mode="reflect"),
        node("Conv", ["a", "w"], ["y"], strides=[2]),
    ]
    constants = {"p": np.array([0, 0, 2, 0, 0, 2]), "w": floats(3, 1, 4)}
    model = build(nodes, {"x": x}, constants, opset=19)
    compare(model, {"x": x}, atol=1e-5)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("constant", [True, False])
def test_gather_by_index_tuples(batch: int, constant: bool) -> None:
    """Negative positions count from the end."""
    x = floats(2, 3, 4)
    indices = np.array([[[0, 1], [-1, -2], [1, 0]], [[1, 2], [0, -1], [-2, 1]]], np.int64)
    nodes = [node("Neg", ["x"], ["a"]), node("GatherND", ["a", "i"], ["y"], batch_dims=batch)]
    given, constants = {"x": x, "i": indices}, {}
    if constant:
        given, constants = {"x": x}, {"i": indices}
    compare(build(nodes, given, constants, opset=17), {"x": x, "i": indices})


def test_what_a_product_reads_is_interpolated_before() -> None:
    """The template for small kernels joins all of this; the second product's operand is stored."""
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Resize", ["b", "", "scales"], ["c"], mode="linear"),
        node("Conv", ["c", "v"], ["y"]),
    ]
    x = floats(1, 8, 6, 5)
    weights = {"w": floats(16, 8, 1, 1, seed=1), "v": floats(8, 16, 1, 1, seed=2)}
    model = build(nodes, {"x": x}, {**weights, "scales": np.array([1, 1, 2, 2], np.float32)})
    for lowered in fuse(model).lowered:
        for stage in lowered.program.split("\nstage")[1:]:
            assert "dot" not in stage or "select" not in stage
    compare(model, {"x": x}, atol=1e-5)


def test_what_is_repeated_is_stored_finished() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Resize", ["b", "", "scales"], ["c"]),
        node("Add", ["c", "z"], ["y"]),
    ]
    x, z = floats(1, 8, 6, 5), floats(1, 16, 12, 10)
    scales = np.array([1, 1, 2, 2], np.float32)
    model = build(nodes, {"x": x, "z": z}, {"w": floats(16, 8, 1, 1, seed=1), "scales": scales})
    for lowered in fuse(model).lowered:
        for stage in lowered.program.split("\nstage")[1:]:
            assert ("dot" in stage) == ("max" in stage)
    compare(model, {"x": x, "z": z}, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_sizes_that_are_made_of_an_input_s_shape(mode: str) -> None:
    """As exported with a free batch: its extent beside numbers."""
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("Shape", ["a"], ["s"]),
        node("Slice", ["s", "zero", "two", "zero"], ["lead"]),
        node("Concat", ["lead", "target"], ["sizes"], axis=0),
        node("Resize", ["a", "", "", "sizes"], ["y"], mode=mode),
    ]
    constants = {
        "zero": np.array([0], np.int64),
        "two": np.array([2], np.int64),
        "target": np.array([12, 20], np.int64),
    }
    x = floats(2, 3, 6, 5)
    model = build(nodes, {"x": x}, constants, symbols={"x": ["batch", 3, 6, 5]})
    compare(model, {"x": x}, {"x": floats(1, 3, 6, 5)}, regions=1)
