"""A model whose weights stay in its file runs as the file does, read by ONNX Runtime, would."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from onnx_fusion.graph.load import load
from onnx_fusion.runtime import attach as module
from onnx_fusion.runtime.side import Side
from onnx_fusion.runtime.surgery import show

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[4, 64] x) => (float[4, 8] y) {
    a = MatMul(x, large)
    b = Add(a, small)
    half = Cast<to = 1>(brain)
    c = Mul(b, half)
    y = Reshape(c, shape)
}"""


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(TEXT)
    large = rng.standard_normal((64, 512), np.float32)
    bits = rng.integers(0x3F00, 0x4000, 512).astype(np.uint16)
    made.graph.initializer.extend((
        onnx.numpy_helper.from_array(large, "large"),
        onnx.numpy_helper.from_array(large[:1, :1], "small"),
        onnx.numpy_helper.from_array(np.array([4, -1], np.int64), "shape"),
        helper.make_tensor("brain", TensorProto.BFLOAT16, (512,), bits.tobytes(), raw=True),
    ))  # fmt: skip
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 512
    return made


@pytest.mark.parametrize("external", [False, True])
def test_results_are_those_of_the_file(model, tmp_path, external):
    path, names = tmp_path / "in.onnx", ["a", "half", "y"]
    onnx.save(model, path, save_as_external_data=external, location="w.bin", size_threshold=100)
    inputs = {"x": np.random.default_rng(1).standard_normal((4, 64), np.float32)}
    onnx.save(onnx.load(path), tmp_path / "one.onnx")
    plain = Side(tmp_path / "one.onnx", library=False, threads=1)
    wanted = plain.run(inputs, names, show(plain.proto, names))
    loaded = load(path)
    before = loaded.proto.SerializeToString()
    held = Side(path, library=False, threads=1, loaded=loaded)
    for model_or_copy in (show(held.proto, names), None):
        got = held.run(inputs, names if model_or_copy else ["y"], model_or_copy)
        for one, other in zip(got, wanted[-len(got) :], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    assert loaded.proto.SerializeToString() == before


def test_only_large_weights_of_numpys_types_stay_outside(model, tmp_path):
    class Options:
        def add_external_initializers(self, names, values):
            self.names = names

    onnx.save(model, tmp_path / "in.onnx")
    loaded, options = load(tmp_path / "in.onnx"), Options()
    made, kept = module.attach(loaded.proto, loaded.weights, options)
    assert options.names == ["large"] and len(kept) == 1
    assert not kept[0].flags.owndata and made.ByteSize() < 4096
