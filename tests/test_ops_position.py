"""Operators that find or look up positions, and p-norms, against ONNX Runtime in a chain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from ops_run import build, compare, fuse, plain, run, same

import onnx_fusion

node = onnx.helper.make_node


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32) * 2


def ties(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(5).integers(-2, 3, shape).astype(dtype)


def chain(
    op_type: str,
    x: np.ndarray,
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    symbols: Mapping[str, list[int | str]] | None = None,
    **attributes,
) -> onnx.ModelProto:
    """Return a model of Neg, the operator with these constants, and Neg again."""
    nodes = [
        node("Neg", ["x"], ["negated"]),
        node(op_type, ["negated", *(constants or {})], ["made"], **attributes),
        node("Neg", ["made"], ["y"]),
    ]
    return build(nodes, {"x": x}, constants, opset=opset, symbols=symbols)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
def test_position_of_extremes(op_type: str, axis: int, keepdims: int, last: int) -> None:
    """Of equal elements the first, or the last."""
    x = ties(3, 7, 5)
    model = chain(op_type, x, axis=axis, keepdims=keepdims, select_last_index=last, opset=13)
    compare(model, {"x": x}, regions=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_position_of_the_largest_of_each_type(dtype: type) -> None:
    x = ties(4, 9, dtype=dtype)
    x[0, 3] = np.iinfo(dtype).min + 1 if np.dtype(dtype).kind == "i" else -np.inf
    compare(chain("ArgMax", x, axis=1), {"x": x})


def test_position_on_an_axis_of_unknown_extent() -> None:
    x = floats(3, 6)
    model = chain("ArgMax", x, axis=1, keepdims=0, symbols={"x": ["n", "m"]})
    compare(model, {"x": x}, {"x": floats(2, 1)}, {"x": floats(1, 11)}, regions=1)


def test_position_in_a_row_of_nan_is_inside_it() -> None:
    """Whatever position it is, a Gather by it must not fail."""
    x = np.full((2, 4), np.nan, np.float32)
    found = run(fuse(chain("ArgMax", x, axis=1, keepdims=0)), {"x": x})[0]
    assert ((-found >= 0) & (-found < 4)).all()


def test_largest_of_nothing_is_refused() -> None:
    fused = fuse(chain("ArgMax", np.zeros((3, 0), np.float32), axis=1))
    assert "no element to choose from" in fused.reasons.values()


@pytest.mark.parametrize(("axis", "opset"), [(0, 13), (1, 13), (-1, 13), (2, 11)])
def test_hardmax(axis: int, opset: int) -> None:
    x = ties(3, 4, 5)
    compare(chain("Hardmax", x, axis=axis, opset=opset), {"x": x}, regions=1)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -2, 0, 1, 9])
def test_triangle(upper: int, k: int | None) -> None:
    """Its zeros stay, whatever is behind them: the next operator adds 1."""
    x = floats(2, 4, 6)
    x[0, 0] = np.inf
    constants = {} if k is None else {"k": np.array(k)}
    model = chain("Trilu", x, constants, upper=upper)
    compare(model, {"x": x}, regions=1)


def test_triangle_in_a_concat() -> None:
    """Where the other branch is taken, rows and columns lie outside."""
    x = floats(4, 4)
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("Trilu", ["a"], ["b"], upper=1),
        node("Concat", ["x", "b"], ["c"], axis=0),
        node("Abs", ["c"], ["y"]),
    ]
    compare(build(nodes, {"x": x}, opset=17), {"x": x}, regions=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32])
def test_one_hot(axis: int, dtype: type) -> None:
    """Negative indices count from the end, those outside mark nothing."""
    x = np.array([[0, 1, -1], [4, -4, 7]], dtype)
    depth = np.array([5], np.float32 if dtype is np.float32 else np.int64)
    constants = {"depth": depth, "values": np.array([0.5, 2], np.float32)}
    if dtype is np.int32:  # ONNX Runtime has no kernel for i32 indices
        found = run(fuse(chain("OneHot", x, constants, axis=axis)), {"x": x})[0]
        wide = x.astype(np.int64)
        wanted = run(fuse(chain("OneHot", wide, constants, axis=axis)), {"x": wide})[0]
        np.testing.assert_array_equal(found, wanted)
    else:
        compare(chain("OneHot", x, constants, axis=axis), {"x": x}, regions=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis: int) -> None:
    """Indices per element, negative ones too, in a box smaller than the data."""
    x, shape = floats(4, 4, 4), [3, 2, 4]
    shape[axis] = 6
    indices = np.random.default_rng(1).integers(-4, 4, shape)
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("GatherElements", ["a", "i"], ["b"], axis=axis),
        node("Abs", ["b"], ["y"]),
    ]
    given = {"x": x, "i": indices}
    compare(build(nodes, given, opset=17), given)
    compare(build(nodes, {"x": x}, {"i": indices}, opset=17), {"x": x})


def test_gather_elements_of_unknown_extents_is_refused() -> None:
    nodes = [node("GatherElements", ["x", "i"], ["y"], axis=1)]
    given = {"x": floats(3, 4), "i": np.zeros((2, 4), np.int64)}
    fused = fuse(build(nodes, given, symbols={"x": ["n", 4], "i": ["m", 4]}))
    assert any("lie inside axis 0" in reason for reason in fused.reasons.values())


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("p", [1, 2])
def test_rows_over_their_norms(axis: int, p: int) -> None:
    """A row of zeros stays one."""
    x = floats(3, 4, 5)
    x[1], x[:, 2], x[:, :, 3] = 0, 0, 0
    compare(chain("LpNormalization", x, axis=axis, p=p), {"x": x})


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms_of_images(p: int) -> None:
    x = floats(2, 3, 5, 4)
    compare(chain("GlobalLpPool", x, p=p), {"x": x})


@pytest.mark.parametrize("axes", [[0, 1, 2, 3], [0, 2, 3], [1, -1]])
def test_mean_and_variance(axes: list[int]) -> None:
    x = floats(2, 3, 5, 4) + 3
    compare(chain("MeanVarianceNormalization", x, axes=axes), {"x": x}, rtol=1e-4, atol=1e-5)


def test_mean_and_variance_without_axes_states_them() -> None:
    """ONNX Runtime does not infer it in a function without them; unfused it stays as it was."""
    x = floats(2, 3, 5, 4) + 3
    model = chain("MeanVarianceNormalization", x)
    compare(model, {"x": x}, rtol=1e-4, atol=1e-5)
    made = onnx_fusion.optimize(model, policy="all")
    (inner,) = [n for f in made.functions for n in f.node if n.op_type.startswith("MeanV")]
    assert list(inner.attribute[0].ints) == [0, 2, 3]
    for library in (True, False):
        found = onnx_fusion.session(made, library=library).run(None, {"x": x})[0]
        same(found, plain(model, {"x": x})[0], rtol=1e-4, atol=1e-5)
    left = onnx_fusion.optimize(model, policy="all", skip={"MeanVarianceNormalization"})
    (kept,) = [n for n in left.graph.node if n.op_type.startswith("MeanV")]
    assert not kept.attribute


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_neighbouring_channels(size: int) -> None:
    """Of an even number of channels one more lies behind than before (ONNX LRN)."""
    x = floats(2, 6, 3, 4)
    if size % 2:
        compare(chain("LRN", x, size=size, alpha=0.5, beta=0.6, bias=2.0), {"x": x})
    else:  # ONNX Runtime takes odd sizes only
        found = run(fuse(chain("LRN", x, size=size, alpha=0.5, beta=0.6, bias=2.0)), {"x": x})[0]
        padded = np.pad(np.square(x), [(0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)])
        total = sum(padded[:, k : k + 6] for k in range(size))
        np.testing.assert_allclose(found, x / (2 + 0.5 / size * total) ** 0.6, rtol=1e-5, atol=1e-6)
