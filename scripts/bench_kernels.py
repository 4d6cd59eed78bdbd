"""Time the native contraction kernels against ONNX Runtime's operators, interleaved, medians.

python scripts/bench_kernels.py [PATTERN ...] [--threads N] [--rounds N] [--plain]

Each line is one MatMul or Conv with bias and ReLU (--plain: without), its weights constant: own
GFLOP/s, both times, and how many times faster the own kernel is. Patterns select names.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import native_lib  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Case:
    """A program with its inputs, and the ONNX nodes that compute the same from `x`."""

    name: str
    text: str
    inputs: list[np.ndarray]
    constant: tuple[int, ...]
    model: onnx.ModelProto
    feed: np.ndarray
    flops: float


def model_of(
    nodes: list[onnx.NodeProto], feed: np.ndarray, weights: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """Return a model of `nodes` from x to y."""
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, feed.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def epilogue(plain: bool, bias: str) -> str:
    """Return what follows %2 up to the stored value, which is %6 or %2."""
    lines = (f"%3 = load x2 ({bias})", "%4 = add %2 %3", "%5 = const f32 0", "%6 = max %4 %5")
    return "" if plain else "".join(line + "\n" for line in lines)


def matmul(m: int, k: int, n: int, plain: bool, rng: np.random.Generator) -> Case:
    """Return the case of an m x k by k x n product."""
    x, w, b = (rng.standard_normal(s, dtype=np.float32) for s in ((m, k), (k, n), (n,)))
    text = (
        f"tile_program 1\ninput x0 f32[{m}, {k}] row\ninput x1 f32[{k}, {n}] row\n"
        f"input x2 f32[{n}] row\noutput y0 f32[{m}, {n}] row\nstage i: {m}, j: {n}, k: {k}\n"
        "%0 = load x0 (i, k)\n%1 = load x1 (k, j)\n%2 = dot %0 %1 over k\n"
        f"{epilogue(plain, 'j')}store y0 (i, j) %{2 if plain else 6}\n"
    )
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y" if plain else "p"])]
    if not plain:
        nodes.append(helper.make_node("Add", ["p", "b"], ["q"]))
        nodes.append(helper.make_node("Relu", ["q"], ["y"]))
    weights = {"w": w} if plain else {"w": w, "b": b}
    name = f"matmul {m}x{k}x{n}"
    return Case(name, text, [x, w, b], (1, 2), model_of(nodes, x, weights), x, 2.0 * m * k * n)


def conv(
    c: int, size: int, o: int, kernel: int, stride: int, groups: int, layout: str, plain: bool,
    rng: np.random.Generator,
) -> Case:  # fmt: skip
    """Return the case of a 2-D convolution, padded by half its kernel; `layout` is row or last."""
    pad = 0 if c in (1, 6) else kernel // 2  # LeNet-5 has none
    out = (size + 2 * pad - kernel) // stride + 1
    depth = c // groups
    shapes = ((1, c, size, size), (o, depth, kernel, kernel), (o,))
    x, w, b = (rng.standard_normal(s, dtype=np.float32) for s in shapes)
    order = "row" if layout == "row" else "order(0, 2, 3, 1)"
    at = ", ".join(
        f"{stride} * {a} + {t}" + (f" - {pad}" if pad else "") for a, t in (("p", "r"), ("q", "s"))
    )
    channel, filters, letters = "c", "o", f"o: {o}, p: {out}, q: {out}, c: {c}"
    if groups > 1:
        channel, filters = f"{depth} * g + c", f"{o // groups} * g + o"
        letters = f"g: {groups}, o: {o // groups}, p: {out}, q: {out}, c: {depth}"
    text = (
        f"tile_program 1\ninput x0 f32[1, {c}, {size}, {size}] {order}\n"
        f"input x1 f32[{o}, {depth}, {kernel}, {kernel}] row\ninput x2 f32[{o}] row\n"
        f"output y0 f32[1, {o}, {out}, {out}] {order}\n"
        f"stage {letters}, r: {kernel}, s: {kernel}\n"
        f"%0 = load x0 (0, {channel}, {at}){' else 0' if pad else ''}\n"
        f"%1 = load x1 ({filters}, c, r, s)\n%2 = dot %0 %1 over c, r, s\n"
        f"{epilogue(plain, filters)}store y0 (0, {filters}, p, q) %{2 if plain else 6}\n"
    )
    attributes = {"pads": [pad] * 4, "strides": [stride] * 2, "group": groups}
    names = ["x", "w"] if plain else ["x", "w", "b"]
    nodes = [helper.make_node("Conv", names, ["y" if plain else "p"], **attributes)]
    if not plain:
        nodes.append(helper.make_node("Relu", ["p"], ["y"]))
    weights = {"w": w} if plain else {"w": w, "b": b}
    own = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if layout == "last" else x
    name = f"conv{kernel}x{kernel}s{stride} {c}-{o}@{size} g{groups} {layout}"
    flops = 2.0 * o * out * out * depth * kernel * kernel
    return Case(name, text, [own, w, b], (1, 2), model_of(nodes, x, weights), x, flops)


def cases(plain: bool) -> Iterator[Case]:
    """Yield products as BERT has them, LeNet-5's layers, ResNet-50's and MobileNet's kinds."""
    rng = np.random.default_rng(0)
    for m, k, n in (
        (128, 768, 768), (128, 768, 3072), (128, 3072, 768), (8, 768, 768), (1, 768, 768),
        (1, 768, 3072), (1, 400, 120), (1, 120, 84), (1, 84, 10), (64, 64, 64),
    ):  # fmt: skip
        yield matmul(m, k, n, plain, rng)
    yield conv(1, 28, 6, 5, 1, 1, "row", plain, rng)
    yield conv(6, 14, 16, 5, 1, 1, "row", plain, rng)
    for layout in ("row", "last"):
        for c, size, o, kernel, stride in (
            (3, 224, 64, 7, 2), (64, 56, 64, 1, 1), (64, 56, 64, 3, 1), (64, 56, 256, 1, 1),
            (256, 56, 64, 1, 1), (128, 56, 128, 3, 2), (128, 28, 128, 3, 1), (256, 56, 512, 1, 2),
            (1024, 14, 256, 1, 1), (256, 14, 256, 3, 1), (512, 7, 512, 3, 1), (2048, 7, 512, 1, 1),
        ):  # fmt: skip
            yield conv(c, size, o, kernel, stride, 1, layout, plain, rng)
        for c, size, kernel, stride in (
            (144, 56, 3, 1), (576, 14, 3, 1), (96, 112, 3, 2), (96, 56, 7, 1), (240, 28, 5, 1),
        ):  # fmt: skip
            yield conv(c, size, c, kernel, stride, c, layout, plain, rng)


def measure(case: Case, threads: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of the own kernel and of ONNX Runtime, values checked."""
    kernel = native_lib.Kernel(case.text, case.inputs, case.constant)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    session = ort.InferenceSession(
        case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("x", case.feed)
    binding.bind_output("y")
    (expected,) = session.run(None, {"x": case.feed})
    (actual,) = kernel.run(kernel.kept, threads)
    if actual.ndim == 4 and actual.shape != expected.shape:
        actual = actual.transpose(0, 3, 1, 2)
    error = float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))
    if error > 1e-5:
        raise SystemExit(f"{case.name}: relative error {error:.1e}")
    repeats = max(1, int(2e8 / case.flops))
    own, other = [], []
    for _ in range(rounds):
        kernel.run(kernel.kept, threads, repeats)
        own.append(kernel.seconds)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            best = min(best, time.perf_counter() - start)
        other.append(best)
    return statistics.median(own), statistics.median(other)


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="such as '*3x3*last'")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--plain", action="store_true", help="no bias and ReLU")
    args = parser.parse_args()
    print(f"{native_lib.isa()}, {args.threads} thread(s)")
    ratios = []
    for case in cases(args.plain):
        if args.patterns and not any(fnmatch.fnmatch(case.name, p) for p in args.patterns):
            continue
        own, other = measure(case, args.threads, args.rounds)
        ratios.append(other / own)
        print(
            f"{case.name:34s} {case.flops / own / 1e9:7.1f} GFLOP/s {own * 1e6:10.1f} us"
            f" {other * 1e6:10.1f} us of ONNX Runtime  x{other / own:.2f}",
            flush=True,
        )
    if ratios:
        print(f"geometric mean x{statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
