"""Extents that onnx.shape_inference gets wrong, against runs of ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from test_pass_infer import agree, inferred, parse, weights

from onnx_fusion import optimize
from onnx_fusion.dtypes import DType
from onnx_fusion.runtime.session import session


@pytest.mark.parametrize("opset", [11, 17, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_no_window_starts_in_the_end_padding(op, opset):
    body = f"""g (float[1, 2, H, 5] x) => (float[A, B, C, D] z) {{
        y = {op} <kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1, pads = [1, 1, 1, 1]> (x)
        z = Relu(y) }}"""
    graph = inferred(parse(body, opset=opset))
    assert graph.values["z"].shape[3] == 2
    for height in (4, 5, 6, 7, 8):
        agree(graph, {"x": np.ones((1, 2, height, 5), "f4")})


@pytest.mark.parametrize("extent", ["W", "4"])
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_output_padding_of_a_transposed_convolution_is_cut_to_the_same_size(auto, extent):
    body = f"""g (float[1, 2, {extent}] x) => (float[A, B, C] z) {{
        y = ConvTranspose <auto_pad = "{auto}", strides = [2], output_padding = [1]> (x, w)
        z = Relu(y) }}"""
    agree(inferred(weights(parse(body), w=(2, 3, 2))), {"x": np.ones((1, 2, 4), "f4")})


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_a_dilated_pool_is_padded_less_than_to_the_same_size(op):
    body = f"""g (float[1, 1, 8] x) => (float[A, B, C] z) {{
        y = {op} <kernel_shape = [3], dilations = [2], auto_pad = "SAME_UPPER"> (x)
        z = Relu(y) }}"""
    agree(inferred(parse(body, opset=20)), {"x": np.arange(8, dtype="f4").reshape(1, 1, 8)})


@pytest.mark.parametrize("op, axes, shape", [
    ("Squeeze", [-2], (3, 1, 2)), ("Squeeze", [-1, 0], (1, 3, 1)), ("Unsqueeze", [-2], (3, 2)),
    ("Unsqueeze", [0, -1], (3, 2))])  # fmt: skip
def test_a_negative_axis_counts_from_the_end_in_early_opsets_too(op, axes, shape):
    dims = ", ".join(map(str, shape))
    graph = inferred(parse(f"""g (float[{dims}] x) => (float[] z) {{
        y = {op} <axes = {axes}> (x)  z = Relu(y) }}""", opset=9))
    agree(graph, {"x": np.ones(shape, "f4")})


def test_indices_of_a_pool_in_ceil_mode():
    graph = inferred(parse("""g (float[1, 2, 5, 5] x) => (float[A, B, C, D] z, int64[E, F, G, I] i)
        { z, i = MaxPool <kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1> (x) }"""))
    assert graph.values["i"].dtype is DType.I64
    assert graph.values["i"].shape == graph.values["z"].shape == (1, 2, 2, 2)
    agree(graph, {"x": np.ones((1, 2, 5, 5), "f4")})


SAME = 'ConvTranspose <auto_pad = "SAME_UPPER", strides = [2], output_padding = [1]> (v, w)'
WITHIN = {
    "a function": f"""g (float[1, 2, 4] x) => (float[A, B, C] z) {{
        y = own.Part(x, w)  z = Relu(y) }}
        <domain: "own", opset_import: ["" : 13]> Part (v, w) => (u) {{ u = {SAME} }}""",
    "a function in a function": f"""g (float[1, 2, 4] x) => (float[A, B, C] z) {{
        y = own.Whole(x, w)  z = Relu(y) }}
        <domain: "own", opset_import: ["" : 13, "own" : 1]>
        Whole (t, w) => (u) {{ v = Neg(t)  u = own.Part(v, w) }}
        <domain: "own", opset_import: ["" : 13]> Part (v, w) => (u) {{ u = {SAME} }}""",
    "a function that onnx complains about": f"""g (float[1, 2, 4] x) => (float[A, B, C] z) {{
        y = own.Part(x, w)  z = Relu(y) }}
        <domain: "own", opset_import: ["" : 13]> Part (v, w) => (u) {{
        c = {SAME}  s = Constant <value = int64[3] {{1, 3, 16}}> ()
        none = Constant <value = float[0] {{}}> ()
        u = Resize <mode = "nearest"> (c, none, none, s) }}""",
}


@pytest.mark.parametrize("where", WITHIN)
def test_what_a_function_misjudges_is_not_believed(where):
    proto = weights(parse(WITHIN[where], imports=', "own" : 1'), w=(2, 3, 2))
    feeds = {"x": np.ones((1, 2, 4), "f4")}
    (found,) = session(optimize(proto, policy="all")).run(None, feeds)
    (wanted,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(found, wanted, 1e-6)


def test_what_branches_misjudge_is_not_believed():
    """ONNX Runtime makes room for such a result itself, too much, where it knows the extents."""
    graph = inferred(weights(parse(f"""g (float[1, 2, 4] v, bool q) => (float[A, B, C] z) {{
        y = If (q) <then_branch = one () => (float[D, E, F] t) {{ t = {SAME} }},
                    else_branch = two () => (float[G, H, I] e) {{ n = {SAME} e = Neg(n) }}>
        z = Relu(y) }}"""), w=(2, 3, 2)))  # fmt: skip
    assert graph.values["y"].shape is None or graph.values["y"].shape[2] != 9
