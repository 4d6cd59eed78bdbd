"""The counting rule of scripts/fusion_rate.py, and its bounds on models of this repository."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import fusion_rate  # noqa: E402

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def counted(text, **weights):
    model = onnx.parser.parse_model(HEAD + text)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    made = fusion_rate.count(model)
    return made.nodes, made.shape, made.contractions


def test_free_nodes_and_those_of_constants_do_not_count():
    text = """g (float[2, 3] x) => (float[2, 4] y) {
        c = Constant <value = float {2.0}> ()
        u = Mul(w, c)  v = Identity(u)  a = Dropout(x)  b = MatMul(a, v)  y = Relu(b) }"""
    assert counted(text, w=np.ones((3, 4), np.float32)) == (2, 0, 1)


def test_shape_arithmetic_is_apart():
    text = """g (float[N, 3] x) => (float[M] y) {
        s = Shape(x)  i = Identity(s)  h = Gather(i, zero)  t = Mul(h, three)
        r = Unsqueeze(t, axes)
        z = Relu(x)  y = Reshape(z, r) }"""
    weights = {"zero": np.int64(0), "three": np.int64(3), "axes": np.int64([0])}
    assert counted(text, **weights) == (2, 4, 0)


def test_bodies_count_with_what_is_constant_around_them():
    text = """g (bool c, float[3] x) => (float[3] y) {
        y = If (c) <
            then_branch = t () => (float[3] p) { k = Neg(w)  p = Add(x, k) },
            else_branch = e () => (float[3] q) { q = Mul(x, w) } > }"""
    assert counted(text, w=np.ones(3, np.float32)) == (3, 0, 0)


def test_an_initializer_that_can_be_overridden_is_no_constant():
    text = "g (float[3] x, float[3] w) => (float[3] y) { a = Neg(w)  y = Add(x, a) }"
    assert counted(text, w=np.ones(3, np.float32)) == (2, 0, 0)


@pytest.mark.parametrize("policy", ["all", "default"])
def test_lenet(policy):
    made = fusion_rate.rate(ROOT / "models" / "lenet5.onnx", policy)
    assert (made.before, made.contractions, made.paper) == (14, 5, None)
    assert 0 < made.after < made.runtime < made.before
    assert made.after <= made.bound
    assert made.irs_after < made.irs_before
    assert fusion_rate.cells(made)[0] == "lenet5"


def test_an_operator_nobody_fuses_is_opaque_and_a_pooling_alone_is_apart(tmp_path):
    text = """g (float[1, 2, 8, 8] x) => (float[1, 2, 4, 4] y, int64[4, N] z) {
        y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)  z = NonZero(x) }"""
    model = onnx.parser.parse_model(HEAD + text)
    onnx.save(model, tmp_path / "m.onnx")
    made = fusion_rate.rate(tmp_path / "m.onnx", "all")
    assert [name.split()[-1] for name in made.opaque] == ["(NonZero)"]
    assert [name.split()[-1] for name in made.apart] == ["(MaxPool)"]
    assert (made.before, made.after, made.bound) == (2, 2, 2)


def test_json_and_geomeans(capsys, monkeypatch):
    paths = [str(ROOT / "models" / f"{name}.onnx") for name in ("lenet5", "tiny_attention")]
    monkeypatch.setattr(sys, "argv", ["fusion_rate.py", *paths, "--json"])
    assert fusion_rate.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in told["models"]] == ["lenet5", "tiny_attention"]
    product = np.prod([one["before"] / one["after"] for one in told["models"]])
    assert told["geomeans"]["before / after"] == pytest.approx(product**0.5)
    assert told["geomeans"]["paper's IRS"] is None


def test_a_missing_model_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fusion_rate.py", "/nowhere/m.onnx"])
    assert fusion_rate.main() == 1
    assert "/nowhere/m.onnx" in capsys.readouterr().err.splitlines()[-1]
