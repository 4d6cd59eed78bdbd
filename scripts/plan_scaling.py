"""Time planning on transformers of 1k to 16k nodes, and fit how it grows.

python scripts/plan_scaling.py [--nodes N ...] [--policy default|all] [--profile]

Each model repeats one block of 50 operators as exporters write it (decomposed LayerNorm and GELU,
Reshape and Transpose around attention) with its own tiny weights. Seconds are the least of --repeat
runs, from the model in memory to the optimized model in memory; a step's share is its own time,
without what it calls of other steps. The exponent is the slope of log seconds over log nodes.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion import api
from onnx_fusion.cli import show
from onnx_fusion.passes import pipeline

HIDDEN, HEADS, SEQUENCE = 32, 2, 2048
STEPS = {
    "load": [(api, "load")],
    "view": [(pipeline, "view")],
    "infer": [(pipeline, "infer")],
    "fold": [(pipeline, "fold")],
    "rewrite": [(api, "prepare")],
    "plan": [(api, "plan_graph"), (api, "choose")],
    "lower": [(api.Lowering, "lower"), (api.Lowering, "refusal")],
    "emit": [(api, "emit"), (api, "to_proto")],
}
"""Each step's functions, where they are called from. What `prepare` does itself is rewriting."""


class Writer:
    """A graph while it is written: nodes with numbered names, and seeded weights."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return its output's name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n_{name}", **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Add a random weight and return its name."""
        return self.constant(self.random.standard_normal(shape, np.float32) / HIDDEN)

    def constant(self, array: np.ndarray) -> str:
        """Add an initializer and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name


def write_norm(w: Writer, x: str) -> str:
    """Write LayerNorm as the TorchScript exporter does below opset 17: 9 nodes."""
    centred = w.add("Sub", x, w.add("ReduceMean", x, axes=[-1]))
    square = w.add("Pow", centred, w.constant(np.float32(2)))
    variance = w.add("ReduceMean", square, axes=[-1])
    root = w.add("Sqrt", w.add("Add", variance, w.constant(np.float32(1e-5))))
    scaled = w.add("Mul", w.add("Div", centred, root), w.weight(HIDDEN))
    return w.add("Add", scaled, w.weight(HIDDEN))


def write_linear(w: Writer, x: str, width: int, out: int) -> str:
    """Write MatMul and Add."""
    return w.add("Add", w.weight(out), w.add("MatMul", x, w.weight(width, out)))


def write_block(w: Writer, x: str, mask: str) -> str:
    """Write one transformer block: 50 nodes."""
    normed = write_norm(w, x)
    parts = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        shape = w.constant(np.array([1, SEQUENCE, HEADS, HIDDEN // HEADS]))
        heads = w.add("Reshape", write_linear(w, normed, HIDDEN, HIDDEN), shape)
        parts.append(w.add("Transpose", heads, perm=order))
    scores = w.add("Div", w.add("MatMul", parts[0], parts[1]), w.constant(np.float32(4)))
    weights = w.add("Softmax", w.add("Add", scores, mask), axis=-1)
    joined = w.add("Transpose", w.add("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    flat = w.add("Reshape", joined, w.constant(np.array([1, SEQUENCE, HIDDEN])))
    x = w.add("Add", write_linear(w, flat, HIDDEN, HIDDEN), x)
    wide = write_linear(w, write_norm(w, x), HIDDEN, 2 * HIDDEN)
    erf = w.add("Erf", w.add("Div", wide, w.constant(np.float32(math.sqrt(2)))))
    gate = w.add("Mul", wide, w.add("Add", erf, w.constant(np.float32(1))))
    halved = w.add("Mul", gate, w.constant(np.float32(0.5)))
    return w.add("Add", write_linear(w, halved, 2 * HIDDEN, HIDDEN), x)


def transformer(nodes: int) -> onnx.ModelProto:
    """Return a transformer of about `nodes` nodes, at least one block."""
    w = Writer()
    x = "x"
    while x == "x" or len(w.nodes) + 25 < nodes:
        x = write_block(w, x, "mask")
    result = w.nodes[-1]
    result.output[0] = "y"
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        w.nodes,
        "transformer",
        [
            helper.make_tensor_value_info("x", kind, [1, SEQUENCE, HIDDEN]),
            helper.make_tensor_value_info("mask", kind, [1, 1, 1, SEQUENCE]),
        ],
        [helper.make_tensor_value_info("y", kind, [1, SEQUENCE, HIDDEN])],
        w.weights,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


class Clock:
    """The own time of named steps: inside a step, what other steps take is theirs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = [0.0]

    def wrap(self, step: str, function: Callable) -> Callable:
        """Return the function, timed."""

        def timed(*args: object, **options: object) -> object:
            start = time.perf_counter()
            self.inner.append(0.0)
            try:
                return function(*args, **options)
            finally:
                took = time.perf_counter() - start
                own = took - self.inner.pop()
                self.seconds[step] = self.seconds.get(step, 0.0) + own
                self.inner[-1] += took

        return timed


def time_steps(model: onnx.ModelProto, policy: str) -> tuple[float, dict[str, float]]:
    """Return the seconds of one run, and each step's own."""
    clock = Clock()
    kept = []
    for step, places in STEPS.items():
        for module, name in places:
            kept.append((module, name, getattr(module, name)))
            setattr(module, name, clock.wrap(step, getattr(module, name)))
    try:
        gc.collect()
        start = time.perf_counter()
        api.optimize(model, policy=policy)
        return time.perf_counter() - start, clock.seconds
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def fit(nodes: list[int], seconds: list[float]) -> float:
    """Return the exponent of growth: the slope of log seconds over log nodes."""
    return float(np.polyfit(np.log(nodes), np.log(seconds), 1)[0])


def main() -> None:
    """Print a row for each size, and the exponent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [1000, 2000, 4000, 8000, 16000]
    parser.add_argument("--nodes", nargs="+", type=int, default=sizes, metavar="N")
    parser.add_argument("--policy", choices=api.POLICIES, default="all")
    parser.add_argument("--repeat", type=int, default=2, metavar="N", help="take the best of N")
    parser.add_argument(
        "--profile", action="store_true", help="show where the last size's time goes"
    )
    args = parser.parse_args()
    api.optimize(transformer(50), policy=args.policy)
    counts, totals, rows = [], [], []
    for size in args.nodes:
        model = transformer(size)
        runs = [time_steps(model, args.policy) for _ in range(args.repeat)]
        total, steps = min(runs, key=lambda run: run[0])
        counts.append(len(model.graph.node))
        totals.append(total)
        shares = (f"{steps.get(step, 0.0) / total:.0%}" for step in STEPS)
        rows.append((str(counts[-1]), f"{total:.2f}", f"{1e3 * total / counts[-1]:.2f}", *shares))
    show.table(("nodes", "s", "ms/node", *STEPS), rows, left=0)
    if len(counts) > 1:
        print(f"seconds grow as nodes^{fit(counts, totals):.2f}")
    if args.profile:
        import cProfile
        import pstats

        with cProfile.Profile() as profile:
            api.optimize(model, policy=args.policy)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
