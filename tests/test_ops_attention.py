"""Attention, rotation, Einsum, running sums and rounding to 8 bits against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from ops_run import build, compare, fuse, run

node = onnx.helper.make_node


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("mask", [None, "float", "bool"])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(heads: tuple[int, int], mask: str | None, causal: int) -> None:
    """Tokens differ from keys, value columns from those of keys; heads are shared or not."""
    many, few = heads
    keys = 5 if causal else 7
    given = {
        "q": floats(2, 5, many * 8), "k": floats(2, keys, few * 8, seed=1),
        "v": floats(2, keys, few * 6, seed=2),
    }  # fmt: skip
    if mask == "float":
        given["m"] = floats(5, keys, seed=3)
    elif mask == "bool":
        given["m"] = np.random.default_rng(4).random((2, 1, 5, keys)) < 0.7
        given["m"][..., 0] = True
    one = node(
        "Attention", list(given), ["y"], is_causal=causal, q_num_heads=many, kv_num_heads=few
    )
    compare(build([one], given, opset=23), given, atol=1e-5, regions=1)


def test_attention_with_a_cache() -> None:
    given = {
        "q": floats(2, 3, 1, 8), "k": floats(2, 3, 1, 8, seed=1), "v": floats(2, 3, 1, 8, seed=2),
        "past_k": floats(2, 3, 6, 8, seed=3), "past_v": floats(2, 3, 6, 8, seed=4),
    }  # fmt: skip
    inputs = ["q", "k", "v", "", "past_k", "past_v"]
    nodes = [node("Attention", inputs, ["y", "now_k", "now_v"], is_causal=1)]
    model = build(nodes, given, outputs=("y", "now_k", "now_v"), opset=23)
    compare(model, given, atol=1e-5, regions=1)


def test_a_row_without_a_key_gets_nothing() -> None:
    """ONNX Attention: its weights are 0, not those of a softmax of nothing."""
    given = {name: floats(1, 2, 4, 8, seed=k) for k, name in enumerate("qkv")}
    given["m"] = np.ones((4, 4), bool)
    given["m"][2] = False
    model = build([node("Attention", list(given), ["y"])], given, opset=23)
    found = run(fuse(model), given)[0]
    assert (found[:, :, 2] == 0).all()
    assert np.isfinite(found).all()


def microsoft(
    op_type: str, given: dict, constants: dict, shape: list, **attributes
) -> onnx.ModelProto:
    """Return a model of one operator of ONNX Runtime, whose type ONNX does not infer."""
    inputs = attributes.pop("inputs", [*given, *constants])
    one = node(op_type, inputs, ["a"], domain="com.microsoft", **attributes)
    info = onnx.helper.make_tensor_value_info
    code = onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [one, node("Neg", ["a"], ["y"])], "one",
        [info(name, code(array.dtype), array.shape) for name, array in given.items()],
        [info("y", 1, shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_packed_attention(causal: int, masked: bool) -> None:
    given = {"x": floats(2, 5, 12)}
    constants = {"w": floats(12, 48, seed=1), "b": floats(48, seed=2)}
    if masked:
        given["m"] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    inputs = ["x", "w", "b", *(["m"] if masked else [])]
    model = microsoft(
        "Attention", given, constants, [2, 5, 16], inputs=inputs, num_heads=4, unidirectional=causal
    )
    compare(model, given, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scores", [False, True])
def test_attention_of_many_heads(bias: bool, scores: bool) -> None:
    given = {
        "q": floats(2, 5, 16), "k": floats(2, 7, 16, seed=1), "v": floats(2, 7, 16, seed=2),
    }  # fmt: skip
    constants = {"b": floats(48, seed=3)} if bias else {}
    if scores:
        given["s"] = floats(1, 4, 5, 7, seed=4)
    inputs = ["q", "k", "v", "b" if bias else "", "", "s" if scores else ""]
    while not inputs[-1]:
        inputs.pop()
    model = microsoft(
        "MultiHeadAttention", given, constants, [2, 5, 16], inputs=inputs, num_heads=4
    )
    compare(model, given, atol=1e-5)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("span", [0, 4])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("rank", [3, 4])
def test_rotation(interleaved: int, span: int, positions: bool, rank: int) -> None:
    half = (span or 8) // 2
    x = floats(2, 5, 24) if rank == 3 else floats(2, 3, 5, 8)
    caches = (50, half) if positions else (2, 5, half)
    given = {"x": x, "cos": floats(*caches, seed=1), "sin": floats(*caches, seed=2)}
    if positions:
        given["p"] = np.random.default_rng(3).integers(0, 50, (2, 5))
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": span, "num_heads": 3}
    one = node("RotaryEmbedding", list(given), ["y"], **attributes)
    compare(build([one], given, opset=23), given, regions=1)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("offset", [False, True])
def test_rotation_of_onnx_runtime(interleaved: int, offset: bool) -> None:
    """Its positions are one for each token, or the first token's."""
    positions = np.array([3]) if offset else np.random.default_rng(3).integers(0, 50, (2, 5))
    given = {"x": floats(2, 5, 24), "p": positions}
    constants = {"cos": floats(50, 4, seed=1), "sin": floats(50, 4, seed=2)}
    model = microsoft("RotaryEmbedding", given, constants, [2, 5, 24], interleaved=interleaved)
    compare(model, given)


EINSUMS = [
    ("ij,jk->ik", (3, 4), (4, 5)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("bhij,bjhd->bihd", (2, 3, 4, 6), (2, 6, 3, 5)),
    ("i,j->ij", (3,), (4,)), ("ij,ij->", (3, 4), (3, 4)), ("ijk,ij->k", (3, 4, 5), (3, 4)),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)), ("ab,bc", (3, 4), (4, 5)),
    ("bchw,hkc->bkhw", (2, 3, 4, 5), (4, 6, 3)), ("ij,k->i", (3, 4), (5,)),
    ("ij->ji", (3, 4), None), ("ijk->i", (3, 4, 5), None), ("ii->i", (4, 4), None),
    ("ij->", (3, 4), None), ("...ij->...ji", (2, 3, 4), None), ("ii", (4, 4), None),
    ("ij,ij->ij", (1, 3), (2, 3)), ("ij,jk->ik", (3, 1), (4, 5)),
    ("bij,bjk->bik", (1, 3, 4), (2, 4, 1)), ("...ij,...jk->...ik", (2, 1, 4), (1, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "left", "right"), EINSUMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_einsum(equation: str, left: tuple, right: tuple | None, dtype: type) -> None:
    given = {"a": floats(*left).astype(dtype)}
    if right is not None:
        given["b"] = floats(*right, seed=1).astype(dtype)
    nodes = [node("Einsum", list(given), ["c"], equation=equation), node("Neg", ["c"], ["y"])]
    compare(build(nodes, given, opset=17), given, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_running_sum(axis: int, exclusive: int, reverse: int, dtype: type) -> None:
    x = (floats(3, 3, 6) * 9).astype(dtype)
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("CumSum", ["a", "k"], ["b"], exclusive=exclusive, reverse=reverse),
        node("Abs", ["b"], ["y"]),
    ]
    compare(build(nodes, {"x": x}, {"k": np.array(axis)}, opset=17), {"x": x}, regions=1)


def test_counting_and_diagonals() -> None:
    x = floats(4, 6)
    nodes = [
        node("EyeLike", ["x"], ["e"], k=1),
        node("Range", ["zero", "six", "one"], ["r"]),
        node("Mul", ["x", "r"], ["a"]),
        node("Add", ["a", "e"], ["y"]),
    ]
    constants = {name: np.array(v, np.float32) for name, v in (("zero", 0), ("six", 6), ("one", 1))}
    compare(build(nodes, {"x": x}, constants, opset=17), {"x": x}, regions=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_rounding_to_integers_and_back(dtype: type, axis: int | None) -> None:
    """Halves go to even, what lies outside the range to its end; scales are per axis or one."""
    x = np.concatenate([np.linspace(-50, 50, 41), [0.25, 0.75, 1.25, -0.25, 1e9, -1e9, 1e-9]])
    x = np.tile(x.astype(np.float32), (3, 1)).reshape(4, 3, 12)
    count = 1 if axis is None else x.shape[axis]
    shape = () if axis is None else (count,)
    scale = (np.full(count, 0.5) * 2.0 ** np.arange(count)).astype(np.float32).reshape(shape)
    zero = (np.arange(count) * 3 + 5).astype(dtype).reshape(shape)
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        node("Mul", ["x", "one"], ["a"]),
        node("QuantizeLinear", ["a", "s", "z"], ["q"], **attributes),
        node("DequantizeLinear", ["q", "s", "z"], ["b"], **attributes),
        node("Abs", ["b"], ["y"]),
    ]
    constants = {"s": scale, "z": zero, "one": np.array(1, np.float32)}
    model = build(nodes, {"x": x}, constants, outputs=("y", "q"), opset=21)
    compare(model, {"x": x}, regions=1)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("ceil", [0, 1])
def test_pools_of_norms(p: int, ceil: int) -> None:
    x = floats(1, 2, 7, 8)
    one = node("LpPool", ["x"], ["y"], p=p, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0],
               ceil_mode=ceil)  # fmt: skip
    compare(build([one], {"x": x}, opset=18), {"x": x})
