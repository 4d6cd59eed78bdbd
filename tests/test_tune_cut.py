"""What a stretch is as a model of its own."""

import onnx.parser
import pytest

from onnx_fusion import api
from onnx_fusion.tune import measure
from onnx_fusion.tune.run import Tuning

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
FLAT = """g (float[64, 32, 16] x) => (float[64, 512] y)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] rest = {-1}> {
  a = Sin(x)
  shape = Shape(a)
  batch = Slice(shape, zero, one)
  target = Concat <axis = 0> (batch, rest)
  wave = Cos(a)
  y = Reshape(wave, target)
}"""


def test_a_shape_of_a_value_inside_does_not_end_the_cut(tmp_path, monkeypatch):
    """The Shape is folded, so only the original has it: both sides still begin at x."""
    path = tmp_path / "flat.onnx"
    onnx.save(onnx.parser.parse_model(HEAD + FLAT), path)
    seen = []

    def race(self, theirs, ours, threads):
        seen.append((theirs.cut.given, ours.cut.given))
        raise measure.Unfit("only looked at")

    monkeypatch.setattr(measure.Measurer, "race", race)
    api.optimize_file(path, tmp_path / "out.onnx", tuning=Tuning(True, (1,), 5.0, shipped={}))
    assert seen
    assert all(sides == (("x",), ("x",)) for sides in seen)


@pytest.mark.parametrize(
    "version,threads,least,most",
    [("1.32.0", 1, 0, 0), ("1.32.0", 2, measure.SPIN_SECONDS, 0.05), ("1.27.1", 4, 0.008, 0.05),
     ("1.26.0", 2, 0.1, 1), ("1.19.2", 2, 0.1, 1)],
)  # fmt: skip
def test_a_pause_outlasts_the_other_sides_spinning(monkeypatch, version, threads, least, most):
    monkeypatch.setattr(measure.onnxruntime, "__version__", version)
    assert least <= measure.pause_for(threads) <= most
