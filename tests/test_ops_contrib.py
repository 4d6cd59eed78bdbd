"""Rows of ONNX Runtime's own operators against ONNX Runtime, with types that inference finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from ops_run import compare, fuse

DOMAIN = "com.microsoft"
B, S, H = 2, 3, 8


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32) * 2


def model(
    op_type: str, arrays: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",), **attributes
) -> onnx.ModelProto:
    """Return a model that reads Neg of the operator's first input and gives Relu of its outputs."""
    names = list(arrays)
    made = [name for name in outputs if name]
    nodes = [
        onnx.helper.make_node("Neg", names[:1], ["negated"]),
        onnx.helper.make_node(
            op_type, ["negated", *names[1:]], list(outputs), domain=DOMAIN, **attributes
        ),
        *(onnx.helper.make_node("Relu", [name], [f"{name}_out"]) for name in made),
    ]
    graph = onnx.helper.make_graph(
        nodes, "one",
        [onnx.helper.make_tensor_value_info(n, 1, a.shape) for n, a in arrays.items() if a.size],
        [onnx.helper.make_tensor_value_info(f"{name}_out", 1, None) for name in made],
    )  # fmt: skip
    for position, name in enumerate(nodes[1].input):
        if position and arrays[name].size == 0:
            nodes[1].input[position] = graph.node[1].input[position] = ""
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(DOMAIN, 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


OMITTED = np.zeros(0, np.float32)
SKIP = {"x": floats(B, S, H), "skip": floats(B, S, H, seed=1), "gamma": floats(H)}
CASES = {
    "gelu": ("Gelu", {"x": floats(5, 7)}, ("y",), {}),
    "bias_gelu": ("BiasGelu", {"x": floats(B, S, H), "b": floats(H)}, ("y",), {}),
    "fast_gelu": ("FastGelu", {"x": floats(B, S, H)}, ("y",), {}),
    "fast_gelu_bias": ("FastGelu", {"x": floats(B, S, H), "b": floats(H)}, ("y",), {}),
    "quick_gelu": ("QuickGelu", {"x": floats(5, 7)}, ("y",), {}),
    "quick_gelu_alpha": ("QuickGelu", {"x": floats(5, 7)}, ("y",), {"alpha": 0.7}),
    "matmul": ("FusedMatMul", {"x": floats(3, 4), "w": floats(4, 5)}, ("y",), {"alpha": 0.25}),
    "matmul_a": ("FusedMatMul", {"x": floats(4, 3), "w": floats(4, 5)}, ("y",), {"transA": 1}),
    "matmul_b": (
        "FusedMatMul", {"x": floats(B, 6, S, 4), "w": floats(B, 6, 5, 4)}, ("y",),
        {"transB": 1, "alpha": 0.125},
    ),
    "matmul_ab": (
        "FusedMatMul", {"x": floats(B, 4, S), "w": floats(5, 4)}, ("y",),
        {"transA": 1, "transB": 1},
    ),
    "skip": ("SkipLayerNormalization", SKIP, ("y",), {"epsilon": 1e-5}),
    "skip_beta": ("SkipLayerNormalization", SKIP | {"beta": floats(H, seed=2)}, ("y",), {}),
    "skip_bias": (
        "SkipLayerNormalization",
        SKIP | {"beta": floats(H, seed=2), "bias": floats(H, seed=3)}, ("y", "", "", "sum"),
        {"epsilon": 1e-3},
    ),
    "skip_bias_alone": (
        "SkipLayerNormalization", SKIP | {"beta": OMITTED, "bias": floats(H, seed=3)}, ("y",), {},
    ),
    "skip_broadcast": (
        "SkipLayerNormalization", SKIP | {"skip": floats(1, S, H, seed=4)}, ("y",), {},
    ),
    "skip_rms": ("SkipSimplifiedLayerNormalization", SKIP, ("y", "", "", "sum"), {}),
    "skip_rms_bias": (
        "SkipSimplifiedLayerNormalization", SKIP | {"bias": floats(H, seed=3)}, ("y",),
        {"epsilon": 1e-5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_row(name: str) -> None:
    """The row gives what ONNX Runtime does, and neighbours know its type and shape."""
    op_type, arrays, outputs, attributes = CASES[name]
    feeds = {key: array for key, array in arrays.items() if array.size}
    fused = compare(model(op_type, arrays, outputs, **attributes), feeds, rtol=2e-5, atol=1e-5)
    assert {op_type, "Neg", "Relu"} == fused.op_types()
    for value in fused.graph.outputs:
        assert value.shape is not None and value.dtype is not None


@pytest.mark.parametrize(
    ("op_type", "arrays", "outputs", "attributes", "reason"),
    [
        ("FusedMatMul", {"x": floats(6, 2, 4), "w": floats(2, 4, 5)}, ("y",), {"transBatchA": 1},
         "moves a batch axis"),
        ("SkipLayerNormalization", SKIP, ("y", "mean"), {}, "with statistics"),
    ],
)  # fmt: skip
def test_refused(op_type, arrays, outputs, attributes, reason) -> None:
    fused = fuse(model(op_type, arrays, outputs, **attributes))
    assert any(reason in text for text in fused.reasons.values())
    assert op_type not in fused.op_types()


@pytest.mark.parametrize("shape,axis", [((B, S, H), -1), ((B, S, 4, H), 2)])
def test_simplified_layer_normalization(shape: tuple[int, ...], axis: int) -> None:
    """ONNX Runtime has it in ONNX's own domain, where no other tool knows it."""
    x, scale = floats(*shape), floats(*shape[axis:], seed=1)
    made = model("Simplified", {"x": x, "scale": scale}, epsilon=1e-5, axis=axis, stash_type=1)
    made.graph.node[1].op_type = "SimplifiedLayerNormalization"
    made.graph.node[1].domain = ""
    fused = compare(made, {"x": x, "scale": scale}, rtol=2e-5, atol=1e-5)
    assert {"SimplifiedLayerNormalization", "Neg", "Relu"} == fused.op_types()
    made.graph.node[1].output.append("inverse")
    assert any("statistics" in text for text in fuse(made).reasons.values())
