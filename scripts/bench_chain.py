"""Time a chain of ten cheap element-wise operators, optimized, against plain ONNX Runtime.

python scripts/bench_chain.py [--size N] [--threads N] [--seconds S]

Each operator of the chain alone would read and write all its elements; fused, they stay in the
first-level cache. The default is a million floats on one thread, under both policies.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
from onnx import numpy_helper, parser

import onnx_fusion
from onnx_fusion.runtime.bench import bench
from onnx_fusion.runtime.surgery import fused_nodes
from onnx_fusion.runtime.verify import verify

CHAIN = """
  a = Add(x, c0)
  b = Mul(a, c1)
  c = Relu(b)
  d = Sub(c, c2)
  e = Abs(d)
  f = Min(e, c3)
  g = Neg(f)
  h = Add(g, x)
  i = Max(h, c2)
  y = Mul(i, c1)
"""
CONSTANTS = {"c0": 0.5, "c1": 1.25, "c2": 0.75, "c3": 3.0}


def chain(size: int) -> onnx.ModelProto:
    """Return the chain on `size` floats."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> chain (float[{size}] x) => '
        f"(float[{size}] y) {{ {CHAIN} }}"
    )
    for name, value in CONSTANTS.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    return model


def main() -> None:
    """Print a line for each policy."""
    parser_ = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser_.add_argument("--size", type=int, default=1_000_000, metavar="N", help="floats")
    parser_.add_argument("--threads", type=int, default=1, metavar="N")
    parser_.add_argument("--seconds", type=float, default=5.0, metavar="S")
    args = parser_.parse_args()
    model = chain(args.size)
    for policy in ("default", "all"):
        made = onnx_fusion.optimize(model, policy=policy)
        report = verify(model, made, threads=args.threads)
        result = bench(model, made, args.threads, seconds=args.seconds)
        print(
            f"policy {policy}: {len(fused_nodes(made))} regions, {len(model.graph.node)} nodes to "
            f"{len(made.graph.node)}, {1e3 * result.original.median:.3f} ms to "
            f"{1e3 * result.optimized.median:.3f} ms, ratio {result.ratio:.2f}, "
            f"{'verified' if report.passed else report.failure()}"
        )


if __name__ == "__main__":
    main()
