"""The default policy: what it takes, what it leaves, and that it says why."""

from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from onnx_fusion.api import plan
from onnx_fusion.fusion import policy

MODELS = Path(__file__).parents[1] / "models"
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def reasons(made):
    return " | ".join(refusal.reason for refusal in made.refusals)


def chain(extent):
    lines = "\n".join(
        f"v{k} = {op}(v{k - 1}, v{k - 1})"
        for k, op in enumerate(["Add", "Mul", "Sub", "Max"] * 2, 1)
    )
    return onnx.parser.parse_model(
        HEAD + f"g (float[{extent}] v0) => (float[{extent}] v8) {{\n{lines}\n}}"
    )


def test_a_chain_that_nobody_else_fuses_is_taken():
    made = plan(chain(1 << 20))
    (region,) = made.regions
    assert len(region.nodes) >= 7


@pytest.mark.parametrize("shape", ["N", "N, 64", "N, 3, H, W"])
def test_a_chain_with_symbols_is_taken_if_it_pays_at_usual_sizes(shape):
    """It gains at the usual, the small and the large size: nothing depends on a guess."""
    made = plan(chain(shape))
    (region,) = made.regions
    assert len(region.nodes) >= 7


def test_what_takes_no_size_that_is_tried_is_left():
    """Only images of five lines fit, which nobody guesses."""
    lines = "\n".join(f"v{k} = {op}(v{k - 1})" for k, op in enumerate(["Sin", "Cos"] * 3, 1))
    model = onnx.parser.parse_model(
        HEAD
        + f"""g (float[N, 64, H, W] x) => (float[a, b, c] v6) {{
          p = AveragePool <kernel_shape = [5, 1]> (x)
          t = Constant <value_ints = [2]> ()  v0 = Squeeze(p, t)  {lines} }}"""
    )
    made = plan(model)
    assert plan(model, policy="all").regions and not made.regions
    assert "known only at run time" in reasons(made)


def test_a_stretch_that_loses_at_a_small_or_large_size_is_left(monkeypatch):
    """With symbols the reason says for which size."""
    real = policy.Judge.compare

    def compare(judge, stretch, twin):
        ours, theirs = real(judge, stretch, twin)
        return (1.1 * theirs if twin is judge.twins[-1] else ours), theirs

    monkeypatch.setattr(policy.Judge, "compare", compare)
    made = plan(chain("N, 64"))
    assert not made.regions
    assert "(taken below 102%) where 'v8' is 1x64" in reasons(made)


def test_a_tiny_model_is_taken_whole():
    made = plan(MODELS / "lenet5.onnx")
    assert len(made.regions) == 1
    assert not made.opaque


def test_a_stretch_in_one_layout_is_left_whole():
    body = "\n".join(
        f"c{k} = Conv <pads = [1, 1, 1, 1]> (r{k - 1}, w)\n r{k} = Relu(c{k})" for k in range(1, 4)
    )
    model = onnx.parser.parse_model(
        HEAD
        + "g (float[1, 64, 56, 56] r0, float[64, 64, 3, 3] w) => (float[1, 64, 56, 56] r3) {\n"
        + f"{body}\n}}"
    )
    made = plan(model)
    assert not made.regions
    assert "expected" in reasons(made) and "in ONNX Runtime" in reasons(made)
    assert plan(model, policy="all").regions


@pytest.mark.parametrize(("kernel", "strict"), [(3, False), (3, True), (1, False)])
def test_fewer_operations_pay_where_the_kernels_may_use_them(kernel, strict):
    """Winograd takes 3x3 convolutions of constants, and changes roundings."""
    pad = kernel // 2
    body = "\n".join(
        f"c{k} = Conv <pads = [{pad}, {pad}, {pad}, {pad}]> (r{k - 1}, w)\n r{k} = Relu(c{k})"
        for k in range(1, 4)
    )
    shape = "float[1, 64, 56, 56]"
    model = onnx.parser.parse_model(HEAD + f"g ({shape} r0) => ({shape} r3) {{\n{body}\n}}")
    weights = np.ones((64, 64, kernel, kernel), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    assert bool(plan(model, strict=strict).regions) == (kernel == 3 and not strict)


def test_what_onnx_runtime_fuses_across_the_border_is_left():
    """A Relu costs it nothing at the end of a convolution, and two reorders if the rest is
    taken."""
    body = """c = Conv (x, w)  a = LeakyRelu(c)  r = Relu(a)
              d = Conv (r, w)  b = LeakyRelu(d)  s = Relu(b)  e = Conv (s, w)"""
    model = onnx.parser.parse_model(
        HEAD + f"g (float[1, 64, 28, 28] x) => (float[1, 64, 28, 28] e) {{ {body} }}"
    )
    weights = np.ones((64, 64, 1, 1), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    assert not plan(model, skip={"Relu"}).regions
    assert "together with Relu, which no region covers" in reasons(plan(model, skip={"Relu"}))


def test_moving_data_alone_is_left():
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[64, 128, 32] x) => (float[32, 128, 64] z) {
          y = Transpose <perm = [2, 1, 0]> (x)
          z = Identity(y)
        }"""
    )
    made = plan(model)
    assert not made.regions
    assert "only moves data" in reasons(made)


def test_too_small_a_gain_is_left():
    lines = "\n".join(f"m{k + 1} = MatMul(m{k}, w)" for k in range(8))
    model = onnx.parser.parse_model(
        HEAD
        + "g (float[512, 1024] m0, float[1024, 1024] w) => (float[512, 1024] m8, float[64] q) "
        + "<float[64] p = {" + ", ".join(["1.0"] * 64) + "}> {\n"
        + f"{lines}\n a = Cos(p)\n b = Mul(a, a)\n c = Sub(b, a)\n q = Mul(c, c)\n}}"
    )  # fmt: skip
    made = plan(model)
    assert not made.regions


@pytest.mark.parametrize("name", ["lenet5", "tiny_attention", "tiny_depthwise"])
def test_default_takes_no_more_than_all(name):
    path = MODELS / f"{name}.onnx"
    few = {n.name for region in plan(path).regions for n in region.nodes}
    many = {n.name for region in plan(path, policy="all").regions for n in region.nodes}
    assert few <= many


def test_what_onnx_runtime_runs_on_integers_is_left():
    """A product between the marks of a quantised model has a kernel on 8-bit integers there."""
    model = onnx.parser.parse_model(
        HEAD
        + """g (uint8[64, 256] x, int8[256, 256] w, float s, uint8 z, int8 n)
          => (uint8[64, 256] y) {
          a = DequantizeLinear(x, s, z)
          b = DequantizeLinear(w, s, n)
          c = MatMul(a, b)
          y = QuantizeLinear(c, s, z)
        }"""
    )
    assert not plan(model).regions
    assert "MatMul on 8-bit integers" in reasons(plan(model))
    assert plan(model, policy="all").regions
