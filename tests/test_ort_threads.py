"""Which work is divided between the threads of a session."""

import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion import api

SHARES = """
import os, sys, time
import numpy as np, onnx, onnxruntime
from onnx_fusion.runtime.session import session

alone = len(os.sched_getaffinity(0)) == 1
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
before = set(os.listdir("/proc/self/task"))
made = session(onnx.load_from_string(sys.stdin.buffer.read()), threads=2, options=options)
(worker,) = set(os.listdir("/proc/self/task")) - before
feeds = {i.name: np.ones(i.shape, np.float32) for i in made.get_inputs()}
for _ in range(512):
    made.run(None, feeds)

def spent(task):
    with open(f"/proc/self/task/{task}/schedstat") as file:
        return int(file.read().split()[0])

end = time.monotonic() + (1 if alone else 20)
while time.monotonic() < end:
    here, there = spent(os.getpid()), spent(worker)
    for _ in range(256):
        made.run(None, feeds)
    if spent(worker) - there > 0.1 * (spent(os.getpid()) - here):
        sys.exit(0)
sys.exit(0 if alone else "the second thread has nothing to do")
"""


def product():
    """A row times a matrix: little arithmetic, and 768 KB to read."""
    w = np.random.default_rng(0).standard_normal((256, 768)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    return nodes, {"x": (1, 256)}, {"y": (1, 768)}, {"w": w}


def attention():
    """One query for each of 12 heads, and keys and values of 384 KB each."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    inputs = {"q": (1, 12, 1, 64), "k": (1, 12, 64, 128), "v": (1, 12, 128, 64)}
    return nodes, inputs, {"y": (1, 12, 1, 64)}, {}


@pytest.mark.parametrize("model", [product, attention])
def test_what_takes_long_to_read_is_shared(model):
    nodes, inputs, outputs, weights = model()
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in s.items()]
        for s in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", *sides, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    fused = api.optimize(made, policy="all")
    assert [node.domain for node in fused.graph.node] == ["onnx_fusion"]
    done = subprocess.run(
        [sys.executable, "-c", SHARES], input=fused.SerializeToString(), capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
