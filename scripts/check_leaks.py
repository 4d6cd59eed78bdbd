"""Runs one session 1000 times with changing shapes, and fails if the process keeps growing.

Under LeakSanitizer (scripts/sanitize.sh) the report at exit names what was not freed.
"""

from __future__ import annotations

import gc
import resource
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_fusion.runtime.session import session

PROGRAM = """tile_program 1
input x0 f32[M, K] row
input x1 f32[K, 32] row
output y0 f32[M, 32] row
output y1 f32[M, 1] row
stage i: M, j: 32, k: K
%0 = load x0 (i, k)
%1 = load x1 (k, j)
%2 = dot %0 %1 over k
%3 = sigmoid %2
store y0 (i, j) %3
stage i: M, j: 32
%0 = load y0 (i, j)
%1 = reduce_max %0 over j
store y1 (i, 0) %1
"""


def build() -> onnx.ModelProto:
    """Return a contraction with a constant and a varying operand, and rows of its result."""
    nodes = [
        helper.make_node(
            "FusedRegion", ["x", w], [f"y{w}", f"z{w}"], domain="onnx_fusion", program=PROGRAM
        )
        for w in ("c", "w")
    ]
    graph = helper.make_graph(
        nodes,
        "leaks",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", 24]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [24, 32]),
        ],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
            for n in ("yc", "zc", "yw", "zw")
        ],
        [onnx.numpy_helper.from_array(np.ones((24, 32), np.float32), "c")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx_fusion", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def main() -> int:
    """Return 0 if the resident memory after 1000 runs is what it was after the first 200."""
    run = session(build(), threads=2).run
    rng = np.random.default_rng(0)
    shapes = rng.integers(0, 70, 1200)
    before = 0
    for i, rows in enumerate(shapes):
        if i == 200:
            gc.collect()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        x = rng.standard_normal((int(rows), 24)).astype(np.float32)
        run(None, {"x": x, "w": np.ones((24, 32), np.float32)})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"1000 runs: resident memory grew by {grown} KiB")
    return 0 if grown < 1024 or "--any-growth" in sys.argv else 1


if __name__ == "__main__":
    raise SystemExit(main())
