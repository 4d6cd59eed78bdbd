"""Contractions and windows against ONNX Runtime: every attribute, broadcasting, symbols."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from ops_run import build, compare, fuse

node = onnx.helper.make_node


def floats(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape), np.float32)


MATMULS = [
    ((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (1, 6, 4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)), ((1, 4), (4, 1)), ((3, 1), (1, 5)), ((0, 4), (4, 5)), ((3, 0), (0, 5)),
    ((2, 0, 4), (4, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), MATMULS)
@pytest.mark.parametrize("constant", [True, False])
def test_matmul(left: tuple[int, ...], right: tuple[int, ...], constant: bool) -> None:
    """Batches broadcast, vectors on either side, inner extents of 0 and 1."""
    a, b = floats(left), floats(right, 1)
    given, constants = ({"a": a}, {"b": b}) if constant else ({"a": a, "b": b}, {})
    compare(build([node("MatMul", ["a", "b"], ["y"])], given, constants), given)


BIASES = [None, (3, 5), (5,), (1, 5), (3, 1), (1,), (), (1, 1)]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("trans_a", "trans_b"), itertools.product((0, 1), repeat=2))
def test_gemm(bias: tuple[int, ...] | None, trans_a: int, trans_b: int) -> None:
    """Transposed operands, alpha and beta, a C that broadcasts."""
    inputs = {
        "a": floats((4, 3) if trans_a else (3, 4)),
        "b": floats((5, 4) if trans_b else (4, 5)),
    }
    if bias is not None:
        inputs["c"] = floats(bias, 2)
    for alpha, beta in [(1.0, 1.0), (0.5, 2.0), (-1.0, 0.0)]:
        one = node(
            "Gemm", list(inputs), ["y"], transA=trans_a, transB=trans_b, alpha=alpha, beta=beta
        )
        compare(build([one], inputs), inputs)


CONVOLUTIONS = [
    ((1, 3, 8), (4, 3, 3), {}),
    ((2, 3, 8), (4, 3, 3), {"pads": [1, 2], "strides": [2]}),
    ((2, 4, 7, 9), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 7, 9), (6, 4, 3, 2), {"pads": [0, 1, 2, 3], "strides": [2, 3], "dilations": [2, 1]}),
    ((1, 4, 6, 6), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    ((1, 4, 6, 6), (8, 1, 3, 3), {"group": 4}),
    ((1, 6, 6, 6), (4, 3, 1, 1), {"group": 2}),
    ((1, 3, 5, 6, 7), (2, 3, 2, 3, 2), {"strides": [1, 2, 1], "pads": [0, 1, 0, 1, 1, 1]}),
    ((1, 3, 6, 7), (2, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 3, 6, 7), (2, 3, 2, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ((1, 3, 6, 7), (2, 3, 2, 4), {"auto_pad": "SAME_LOWER"}),
    ((1, 3, 6, 7), (2, 3, 3, 3), {"auto_pad": "VALID", "strides": [2, 1]}),
    ((0, 3, 6, 6), (2, 3, 3, 3), {}),
    ((1, 1, 4, 4), (1, 1, 1, 1), {"pads": [1, 1, 1, 1]}),
    ((1, 1, 1, 1), (2, 1, 3, 3), {"pads": [1, 1, 1, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "weights", "attributes"), CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("constant", [True, False])
def test_conv(
    shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict, bias: bool, constant: bool
) -> None:
    """1-D to 3-D, groups, strides, dilations, uneven pads, auto_pad, an empty batch."""
    x = floats(shape)
    rest = {"w": floats(weights, 1)} | ({"b": floats(weights[:1], 2)} if bias else {})
    one = node("Conv", ["x", *rest], ["y"], **attributes)
    model = build([one], {"x": x}, rest) if constant else build([one], {"x": x, **rest})
    compare(model, {"x": x, **rest}, atol=1e-5)


POOLS = [
    ((1, 2, 8), {"kernel_shape": [3]}), ((2, 2, 7, 9), {"kernel_shape": [2, 3], "strides": [2, 2]}),
    ((2, 2, 7, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((1, 2, 7, 9), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]}),
    ((1, 2, 7, 9), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((1, 2, 6, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1,
     "pads": [1, 1, 1, 1]}),
    ((1, 2, 5, 5), {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1,
     "pads": [1, 1, 1, 1]}),
    ((1, 1, 5, 6, 7), {"kernel_shape": [2, 2, 3], "strides": [1, 2, 2],
     "pads": [0, 1, 1, 0, 1, 1]}),
    ((1, 2, 6, 7), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 2, 6, 7), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((1, 2, 6, 7), {"kernel_shape": [3, 2], "auto_pad": "VALID"}),
    ((1, 2, 6, 7), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "VALID",
     "ceil_mode": 1}),
    ((1, 2, 6, 7), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER",
     "ceil_mode": 1}),
    ((1, 2, 9, 9), {"kernel_shape": [3, 3], "dilations": [2, 2]}),
    ((1, 2, 9, 9), {"kernel_shape": [3, 2], "dilations": [2, 3], "strides": [2, 2],
     "pads": [2, 1, 1, 1]}),
    ((1, 2, 10, 9), {"kernel_shape": [3, 3], "dilations": [2, 2], "strides": [2, 3],
     "ceil_mode": 1}),
    ((0, 2, 6, 6), {"kernel_shape": [2, 2]}),
    ((1, 2, 4, 4), {"kernel_shape": [1, 1], "strides": [2, 2]}),
    ((1, 2, 4, 4), {"kernel_shape": [4, 4]}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "attributes"), POOLS)
def test_max_pool(shape: tuple[int, ...], attributes: dict) -> None:
    """Padding never wins, whatever the sign."""
    x = floats(shape) - 10
    compare(build([node("MaxPool", ["x"], ["y"], **attributes)], {"x": x}, opset=12), {"x": x})


@pytest.mark.parametrize(("shape", "attributes"), POOLS)
@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("opset", [11, 19, 22])
def test_average_pool(shape: tuple[int, ...], attributes: dict, include: int, opset: int) -> None:
    """The divisor counts taps inside, with the padding or without, never what hangs over."""
    if "dilations" in attributes and opset < 19:
        return
    x = floats(shape)
    one = node("AveragePool", ["x"], ["y"], count_include_pad=include, **attributes)
    compare(build([one], {"x": x}, opset=opset), {"x": x})


SYMBOLIC = [
    ("Conv", ["x", "w"], {"pads": [1, 1, 1, 1]}),
    ("Conv", ["x", "w"], {"strides": [2, 2], "dilations": [1, 2]}),
    ("MaxPool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ("AveragePool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("AveragePool", ["x"], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
]


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), SYMBOLIC)
def test_windows_of_any_size(op_type: str, inputs: list[str], attributes: dict) -> None:
    """Batch, height and width as symbols, at two sizes."""
    weights = {"w": floats((4, 3, 3, 3), 1)} if "w" in inputs else {}
    model = build(
        [node(op_type, inputs, ["y"], **attributes)], {"x": floats((1, 3, 8, 8))}, weights,
        symbols={"x": ["n", 3, "h", "w"]}, opset=22,
    )  # fmt: skip
    compare(model, {"x": floats((2, 3, 7, 6))}, {"x": floats((1, 3, 12, 9))}, atol=1e-5)


@pytest.mark.parametrize("trans", [0, 1])
def test_contractions_of_any_size(trans: int) -> None:
    """Rows, batches and inner extents as symbols."""
    b = floats((5, 4) if trans else (4, 5), 1)
    gemm = build([node("Gemm", ["x", "b"], ["y"], transB=trans)], {"x": floats((3, 4))}, {"b": b},
                 symbols={"x": ["m", 4]})  # fmt: skip
    compare(gemm, {"x": floats((3, 4))}, {"x": floats((1, 4))}, {"x": floats((0, 4))})
    matmul = build(
        [node("MatMul", ["a", "b"], ["y"])], {"a": floats((1, 1, 1)), "b": floats((1, 1, 1))},
        symbols={"a": ["n", "m", "k"], "b": ["n", "k", "q"]},
    )  # fmt: skip
    compare(
        matmul,
        {"a": floats((2, 3, 4)), "b": floats((2, 4, 5))},
        {"a": floats((1, 3, 2)), "b": floats((1, 2, 1))},
        {"a": floats((2, 3, 0)), "b": floats((2, 0, 5))},
    )


def test_indices_of_a_maximum_are_left_alone() -> None:
    x = floats((1, 2, 4, 4))
    one = node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])
    fused = fuse(build([one], {"x": x}, outputs=("y", "i")))
    assert list(fused.reasons.values()) == ["MaxPool with indices"]
