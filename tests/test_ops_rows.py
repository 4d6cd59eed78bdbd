"""Reductions, softmax, normalizations against ONNX Runtime: axes, opsets, special values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from ops_run import build, compare, fuse

node = onnx.helper.make_node
REDUCTIONS = [
    "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
]  # fmt: skip
ONLY_FLOATS = {"ReduceL2", "ReduceLogSum", "ReduceLogSumExp"}


def floats(shape: tuple[int, ...], seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def data(op_type: str, dtype: type) -> np.ndarray:
    """Return a [3, 4, 5] array with rows of infinities, of zeros, and a NaN.

    ONNX Runtime's maxima overlook a NaN on some axes and not on others, so they get none.
    """
    if np.dtype(dtype).kind == "i":
        low, high = (1, 2) if op_type == "ReduceProd" else (-9, 10)
        return np.random.default_rng(1).integers(low, high, (3, 4, 5)).astype(dtype)
    x = floats((3, 4, 5), 1, dtype) * 2
    x[0, 1, 2], x[1, 2, 3], x[2, :, 4] = np.inf, -np.inf, -np.inf
    x[1, 0, :], x[1, 1, :], x[0, 2] = 0, -0.0, 100
    if op_type not in ("ReduceMax", "ReduceMin", "ReduceLogSumExp"):
        x[2, 0, 0] = np.nan
    return np.abs(x) if op_type == "ReduceLogSum" else x


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_reduction(op_type: str, dtype: type) -> None:
    """Any axes, kept or not, before and after opset 18 (axes as an attribute, as an input)."""
    if op_type in ONLY_FLOATS and np.dtype(dtype).kind == "i":
        return
    x = data(op_type, dtype)
    for opset in (11, 18, 26):
        is_input = opset >= 18 or (op_type == "ReduceSum" and opset >= 13)
        for axes, keep in [(None, 1), ([1], 0), ([0, 2], 1), ([-1], 1), ([0, 1, 2], 0), ([], 1)]:
            attributes, constants = {"keepdims": keep}, {}
            if axes is not None and is_input:
                constants["axes"] = np.array(axes, np.int64)
            elif axes:
                attributes["axes"] = axes
            one = node(op_type, ["x", *constants], ["y"], **attributes)
            compare(build([one], {"x": x}, constants, opset=opset), {"x": x}, rtol=1e-4)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize(("shape", "axes"), [((0, 3), 0), ((2, 0, 3), 1), ((0, 3), 1), ((), None)])
def test_reduction_of_little(op_type: str, shape: tuple[int, ...], axes: int | None) -> None:
    """Nothing to reduce, no rows, rank 0."""
    x = np.full(shape, 2.0, np.float32)
    constants = {} if axes is None else {"axes": np.array([axes], np.int64)}
    for keep in (0, 1):
        one = node(op_type, ["x", *constants], ["y"], keepdims=keep)
        compare(build([one], {"x": x}, constants), {"x": x})


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMax", "ReduceMean"])
def test_reduction_over_no_axis(op_type: str) -> None:
    """noop_with_empty_axes leaves the input as it is."""
    x = floats((2, 3))
    for inputs in (["x"], ["x", "axes"]):
        one = node(op_type, inputs, ["y"], noop_with_empty_axes=1)
        constants = {"axes": np.zeros(0, np.int64)} if len(inputs) > 1 else {}
        compare(build([one], {"x": x}, constants), {"x": x})


def test_what_versions_disagree_on_is_left_alone() -> None:
    """ReduceL1 over no axis is |x| or x, by the version of ONNX Runtime."""
    x = floats((2, 3))
    fused = fuse(build([node("ReduceL1", ["x"], ["y"], noop_with_empty_axes=1)], {"x": x}))
    assert list(fused.reasons.values()) == ["a reduction over no axis"]


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("opset", [7, 11, 13, 26])
def test_softmax(op_type: str, axis: int | None, opset: int) -> None:
    """One axis from opset 13 on, all axes from `axis` on before; rows with -inf, inf and NaN."""
    x = floats((3, 4, 5)) * 5
    x[0, 0, 1], x[0, 1, :], x[1, 1, 1], x[1, 2, 2] = -np.inf, -np.inf, np.inf, np.nan
    x[2] = 200
    attributes = {} if axis is None else {"axis": axis}
    if opset == 7 and axis == -1:
        return
    one = node(op_type, ["x"], ["y"], **attributes)
    compare(build([one], {"x": x}, opset=opset), {"x": x})


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (1,), (2, 1)])
def test_softmax_of_little(op_type: str, shape: tuple[int, ...]) -> None:
    """Empty rows, no rows, rows of one."""
    x = np.ones(shape, np.float32)
    compare(build([node(op_type, ["x"], ["y"])], {"x": x}), {"x": x})


@pytest.mark.parametrize("axis", [-1, 1, 0, -2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_layer_normalization(axis: int, bias: bool, more: int) -> None:
    """Any axis, without a bias, with the mean and the inverse deviation as outputs."""
    x = floats((2, 3, 4, 5))
    shape = x.shape[axis:] if axis >= 0 else x.shape[axis % 4 :]
    inputs = {"x": x, "s": floats(shape, 1)} | ({"b": floats(shape, 2)} if bias else {})
    outputs = ["y", "mean", "inv"][: 1 + more]
    one = node("LayerNormalization", list(inputs), outputs, axis=axis, epsilon=1e-3)
    compare(build([one], inputs, outputs=outputs, opset=17), inputs, rtol=1e-4)


@pytest.mark.parametrize("scale", [(5,), (4, 5), (1,), (4, 1)])
def test_layer_normalization_broadcasts_its_scale(scale: tuple[int, ...]) -> None:
    x = floats((2, 4, 5))
    inputs = {"x": x, "s": floats(scale, 1)}
    if scale in ((5,), (1,)):
        one = node("LayerNormalization", ["x", "s"], ["y"])
    else:
        one = node("LayerNormalization", ["x", "s"], ["y"], axis=1)
    model = build([one], inputs, opset=17)
    try:
        compare(model, inputs, rtol=1e-4)
    except Exception as error:  # ONNX Runtime has no common class of what it raises here
        assert "Size of X.shape()" in str(error) or "scale" in str(error).lower(), error


def test_rms_normalization() -> None:
    x = floats((2, 3, 5))
    for axis in (-1, 1):
        inputs = {"x": x, "s": floats(x.shape[axis:], 1)}
        one = node("RMSNormalization", list(inputs), ["y"], axis=axis, epsilon=1e-3)
        compare(build([one], inputs, opset=23), inputs, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 3, 3), (1, 4, 2, 2, 2), (0, 4, 3)])
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    inputs = {"x": floats(shape), "s": floats((4,), 1), "b": floats((4,), 2)}
    one = node("InstanceNormalization", list(inputs), ["y"], epsilon=1e-3)
    compare(build([one], inputs, opset=22), inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_normalization(opset: int, groups: int) -> None:
    """Scale and bias per group in opset 18, per channel from 21 on."""
    size = groups if opset == 18 else 6
    inputs = {"x": floats((2, 6, 3, 3)), "s": floats((size,), 1), "b": floats((size,), 2)}
    one = node("GroupNormalization", list(inputs), ["y"], num_groups=groups, epsilon=1e-3)
    compare(build([one], inputs, opset=opset), inputs, rtol=1e-4, atol=1e-5)


def test_group_normalization_of_channels_far_apart() -> None:
    """The variance of a group is that within its channels and that between them."""
    x = floats((2, 6, 3, 3)) + np.arange(6, dtype=np.float32)[:, None, None] * 50 + 1000
    inputs = {"x": x, "s": floats((6,), 1), "b": floats((6,), 2)}
    one = node("GroupNormalization", list(inputs), ["y"], num_groups=2, epsilon=1e-3)
    compare(build([one], inputs, opset=21), inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 7), (1, 2, 3, 2, 2)])
def test_global_pool(op_type: str, shape: tuple[int, ...]) -> None:
    x = floats(shape)
    compare(build([node(op_type, ["x"], ["y"])], {"x": x}), {"x": x})


ROW_OPERATORS = {
    "Softmax": (["x"], {}),
    "LogSoftmax": (["x"], {"axis": 1}),
    "LayerNormalization": (["x", "s", "b"], {}),
    "RMSNormalization": (["x", "s"], {}),
    "ReduceMean": (["x", "axes"], {}),
    "ReduceMax": (["x", "axes"], {"keepdims": 0}),
    "ReduceL2": (["x", "axes"], {}),
    "GlobalAveragePool": (["x"], {}),
    "InstanceNormalization": (["x", "c", "c"], {}),
}


@pytest.mark.parametrize("op_type", ROW_OPERATORS)
@pytest.mark.parametrize("shape", [["n", "c", "w"], ["n", "c", 5], [2, "c", "w"]])
def test_symbols(op_type: str, shape: list[int | str]) -> None:
    """One program for all shapes, run at three."""
    inputs, attributes = ROW_OPERATORS[op_type]
    model = build(
        [node(op_type, inputs, ["y"], **attributes)],
        {name: np.zeros((1,) * (3 if name == "x" else 1), np.float32)
         for name in dict.fromkeys(inputs) if name != "axes"},
        {"axes": np.array([1], np.int64)} if "axes" in inputs else {},
        symbols={"x": shape, "s": ["w" if shape[2] == "w" else 5], "b": shape[2:], "c": ["c"]},
        opset=23,
    )  # fmt: skip
    runs = []
    for n, c, w in [(2, 3, 5), (2, 1, 5), (2, 4, 1 if shape[2] == "w" else 5)]:
        given = {"x": floats((n, c, w), n), "s": floats((w,)), "b": floats((w,)), "c": floats((c,))}
        runs.append({name: given[name] for name in inputs if name != "axes"})
    compare(model, *runs, rtol=1e-4)
