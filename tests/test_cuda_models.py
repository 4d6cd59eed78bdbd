"""Whole models planned for CUDA: end to end through the stand-ins, and what the plan leaves
outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cuda_fake import cuda_session
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion import api
from onnx_fusion.cli.main import main
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.runtime.session import session

MODELS = Path(__file__).parents[1] / "models"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
rng = np.random.default_rng(5)


def fused_nodes(proto):
    return [node for node in proto.graph.node if node.domain == "onnx_fusion"]


def feed_of(made, batch=2, length=5):
    sizes = {0: batch, 1: length}
    feed = {}
    for value in made.get_inputs():
        shape = [d if isinstance(d, int) else sizes[k] for k, d in enumerate(value.shape)]
        if "int64" in value.type:
            feed[value.name] = rng.integers(0, 2 if "mask" in value.name else 50, shape)
        else:
            feed[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feed


@pytest.mark.parametrize(
    ("name", "device"), [("lenet5", "cuda"), ("lenet5", "both"), ("tiny_attention", "cuda")]
)
def test_models_run_on_the_device(fake, name, device):
    path = MODELS / f"{name}.onnx"
    proto = api.optimize(path, policy="all", device=device)
    assert len(fused_nodes(proto)) == len(proto.graph.node)
    made = cuda_session(proto)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    launched = []
    for feed in (feed_of(plain), feed_of(plain, 3, 19)):
        before = fake.calls("launch")
        got, want = made.run(None, feed), plain.run(None, feed)
        launched.append(fake.calls("launch") - before)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)
    # Of 19 positions each layer's attention is one launch, of 5 it is three.
    assert launched[0] - launched[1] == (4 if name == "tiny_attention" else 0) < launched[1]
    if device == "both":
        for g, w in zip(session(proto).run(None, feed), want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def test_a_model_with_ptx_runs_without_a_compiler(fake, monkeypatch):
    path = MODELS / "lenet5.onnx"
    proto = api.optimize(path, policy="all", device="cuda", embed_ptx=True)
    attributes = {a.name for node in fused_nodes(proto) for a in node.attribute}
    assert attributes == {"program", "ptx"}
    monkeypatch.setenv("ONNX_FUSION_NVRTC", "/nowhere/libnvrtc.so")
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = feed_of(plain)
    np.testing.assert_allclose(
        cuda_session(proto, trust_ptx=True).run(None, feed)[0], plain.run(None, feed)[0],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(  # and on the CPU as if it were not there
        session(proto).run(None, feed)[0], plain.run(None, feed)[0], rtol=1e-4, atol=1e-5
    )


def half_model():
    """Return a convolution, a product and a softmax in float16; one inner value leaves, one is
    cast."""
    code = TensorProto.FLOAT16
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)) / 3,
        "b": rng.standard_normal(8),
        "m": rng.standard_normal((36, 24)) / 5,
        "two": np.array(2.0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "flat"], ["f"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "m"], ["p"]),
        helper.make_node("Mul", ["p", "two"], ["q"]),
        helper.make_node("Softmax", ["q"], ["y"], axis=-1),
        helper.make_node("Cast", ["f"], ["z"], to=FLOAT),
    ]
    graph = helper.make_graph(
        nodes, "half",
        [helper.make_tensor_value_info("x", code, [2, 3, 12, 12])],
        [helper.make_tensor_value_info("y", code, None),
         helper.make_tensor_value_info("f", code, None),
         helper.make_tensor_value_info("z", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a, np.float16), n) for n, a in weights.items()]
        + [numpy_helper.from_array(np.array([2, 8, 36]), "flat")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_half_types_are_computed_in_float32(fake):
    model = half_model()
    assert not api.plan(model, policy="all").regions  # float16 is left to ONNX Runtime on the CPU
    proto = api.optimize(model, policy="all", device="both")
    assert len(fused_nodes(proto)) == len(proto.graph.node) == 1
    x = rng.standard_normal((2, 3, 12, 12)).astype(np.float16)
    plain = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, {"x": x})
    for made in (cuda_session(proto), session(proto), session(proto, library=False)):
        got = made.run(None, {"x": x})
        assert [g.dtype for g in got] == [np.float16, np.float16, np.float32]
        assert np.array_equal(got[1].astype(np.float32), got[2])  # inside they see what leaves
        for g, w in zip(got, plain, strict=True):
            np.testing.assert_allclose(g.astype(float), w.astype(float), rtol=4e-3, atol=4e-3)


def test_a_half_that_only_moves_is_not_converted(fake):
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    relu = helper.make_node("Relu", ["y"], ["z"])
    code = TensorProto.BFLOAT16
    graph = helper.make_graph(
        [node, relu], "moved", [helper.make_tensor_value_info("x", code, [4, 6])],
        [helper.make_tensor_value_info(n, code, [6, 4]) for n in "yz"],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (one,) = api.plan_programs(model, policy="all", device="cuda").lowered
    lines = one.program.split("\n")
    assert (
        sum("cast f32" in line for line in lines) == sum("cast bf16" in line for line in lines) == 1
    )


def sized_by_data():
    """Return Exp(Relu(x)) in the shape that arithmetic on an input says."""
    nodes = [
        helper.make_node("Mul", ["n", "one"], ["m"], name="mul"),
        helper.make_node("Max", ["m", "one"], ["k"], name="max"),
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Exp", ["r"], ["e"], name="exp"),
        helper.make_node("Reshape", ["e", "k"], ["y"], name="reshape"),
    ]
    graph = helper.make_graph(
        nodes, "sized",
        [helper.make_tensor_value_info("x", FLOAT, [4, 6]),
         helper.make_tensor_value_info("n", INT64, [2])],
        [helper.make_tensor_value_info("y", FLOAT, ["A", "B"])],
        [numpy_helper.from_array(np.array([1, 2]), "one")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_feeds_shapes_stays_outside():
    on_cpu = api.plan(sized_by_data(), policy="all")
    assert any("Mul" in [n.op_type for n in r.nodes] for r in on_cpu.regions)
    for device in ("cuda", "both"):
        plan = api.plan(sized_by_data(), policy="all", device=device)
        fused = {n.op_type for region in plan.regions for n in region.nodes}
        assert {"Relu", "Exp"} <= fused and not {"Mul", "Max"} & fused
        reasons = [r.reason for r in plan.refusals if r.producer == "mul"]
        assert reasons == ["Mul: its result is an extent for Reshape, which is read on the host"]


def test_devices_differ_by_numbers(fake):
    path = MODELS / "lenet5.onnx"
    counts = {d: len(api.plan(path, device=d).regions) for d in ("cpu", "cuda", "both")}
    assert counts["cuda"] == 1  # launches are what it takes
    assert counts["both"] <= counts["cuda"]
    with pytest.raises(OnnxFusionError, match="device 'gpu' is not one of cpu, cuda, both"):
        api.plan(path, device="gpu")


def test_command_line(fake, tmp_path, capsys):
    target = tmp_path / "out.onnx"
    source = str(MODELS / "lenet5.onnx")
    assert main(["optimize", source, str(target), "--target", "both", "--policy", "all",
                 "--embed-ptx", "--verify"]) == 0  # fmt: skip
    assert "verified" in capsys.readouterr().out
    assert all(any(a.name == "ptx" for a in n.attribute) for n in fused_nodes(onnx.load(target)))
    assert main(["optimize", source, str(tmp_path / "no"), "--target", "cuda", "--tune"]) == 1
    assert "--tune measures on the CPU" in capsys.readouterr().err
    assert main(["explain", source, "--target", "cuda", "--policy", "all"]) == 0
