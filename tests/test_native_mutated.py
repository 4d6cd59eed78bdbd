"""Programs of optimized models, changed at random, do no harm and mean what the interpreter says.

scripts/fuzz_programs.py goes on for as long as one likes; scripts/sanitize.sh runs this, too.
"""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from onnx_fusion.emit.naming import DOMAIN
from onnx_fusion.runtime.session import session

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_programs.py"


def test_changed_programs():
    command = [sys.executable, SCRIPT, "--first", "5", "--count", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 5, done.stdout


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_last_line_needs_no_end(end):
    """Shapes are inferred from the text, whose last character was lost."""
    text = "tile_program 1\ninput x f32[N] row\noutput y f32[N] row\n"
    text += "stage i: N\n%0 = load x (i)\nstore y (i) %0"
    node = helper.make_node(
        "FusedRegion", ["x"], ["y"], domain="onnx_fusion", program=text + end
    )  # fmt: skip
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    graph = helper.make_graph([node], "one", [value], [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    made = session(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    assert [(value.type, value.shape) for value in made.get_outputs()] == [("tensor(float)", [2])]
