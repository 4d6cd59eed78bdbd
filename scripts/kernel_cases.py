"""The programs that scripts/bench_kernels.py times, each with the ONNX operators it stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass(frozen=True)
class Case:
    """A program with its inputs, and the ONNX nodes that compute the same from `x`.

    `flops` are those of the direct algorithm; `moved` the bytes that must be read and written;
    `loop` is the body of a loop over `v` in C that does the same.
    """

    name: str
    text: str
    inputs: list[np.ndarray]
    constant: tuple[int, ...]
    model: onnx.ModelProto
    feed: np.ndarray
    flops: float
    moved: float = 0.0
    loop: str = ""


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
    moved = 4.0 * (m * k + k * n + m * n)
    model = model_of(nodes, x, weights)
    return Case(name, text, [x, w, b], (1, 2), model, x, 2.0 * m * k * n, moved)


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
    moved = 4.0 * (x.size + w.size + o * out * out)
    return Case(name, text, [own, w, b], (1, 2), model_of(nodes, x, weights), x, flops, moved)


def chain(size: int, rng: np.random.Generator) -> Case:
    """Return the case of ten cheap element-wise operators in a row."""
    x = rng.standard_normal(size, dtype=np.float32)
    steps = ("add", "mul", "max", "sub", "abs", "min", "neg", "add", "max", "mul")
    names = {"abs": "Abs", "neg": "Neg"}
    code = {"add": "v + {}", "mul": "v * {}", "max": "v > {0} ? v : {0}", "sub": "v - {}",
            "abs": "__builtin_fabsf(v)", "min": "v < {0} ? v : {0}", "neg": "-v"}  # fmt: skip
    loop = ""
    lines, nodes, weights = ["%0 = load x0 (i)"], [], {}
    value, number, name = 0, 1, "x"
    for k, step in enumerate(steps):
        result = "y" if k == len(steps) - 1 else f"v{k}"
        reads = [name]
        loop += f"v = {code[step].format(f'{0.25 * (k + 1)}f')}; "
        if step in names:
            lines.append(f"%{number} = {step} %{value}")
        else:
            literal = 0.25 * (k + 1)
            lines += [
                f"%{number} = const f32 {literal}",
                f"%{number + 1} = {step} %{value} %{number}",
            ]
            number += 1
            weights[f"c{k}"] = np.float32(literal)
            reads.append(f"c{k}")
        nodes.append(helper.make_node(names.get(step, step.capitalize()), reads, [result]))
        value, number, name = number, number + 1, result
    text = (
        f"tile_program 1\ninput x0 f32[{size}] row\noutput y0 f32[{size}] row\nstage i: {size}\n"
        + "\n".join(lines) + f"\nstore y0 (i) %{value}\n"
    )  # fmt: skip
    model = model_of(nodes, x, {k: np.array(v) for k, v in weights.items()})
    flops = 1.0 * len(steps) * size
    return Case(f"chain {size}", text, [x], (), model, x, flops, 8.0 * size, loop)


def softmax(rows: int, length: int, rng: np.random.Generator) -> Case:
    """Return the case of a softmax over each row."""
    x = rng.standard_normal((rows, length), dtype=np.float32)
    text = (
        f"tile_program 1\ninput x0 f32[{rows}, {length}] row\noutput y0 f32[{rows}, {length}] row\n"
        f"stage i: {rows}, j: {length}\n%0 = load x0 (i, j)\n%1 = reduce_max %0 over j\n"
        "%2 = sub %0 %1\n%3 = exp %2\n%4 = reduce_sum %3 over j\n%5 = div %3 %4\n"
        "store y0 (i, j) %5\n"
    )
    model = model_of([helper.make_node("Softmax", ["x"], ["y"])], x, {})
    return Case(f"softmax {rows}x{length}", text, [x], (), model, x, 5.0 * x.size, 8.0 * x.size)


def layer_norm(rows: int, length: int, rng: np.random.Generator) -> Case:
    """Return the case of a layer normalization of each row."""
    x, scale, bias = (
        rng.standard_normal(s, dtype=np.float32) for s in ((rows, length), (length,), (length,))
    )
    text = (
        f"tile_program 1\ninput x0 f32[{rows}, {length}] row\ninput x1 f32[{length}] row\n"
        f"input x2 f32[{length}] row\noutput y0 f32[{rows}, {length}] row\n"
        f"stage i: {rows}, j: {length}\n%0 = load x0 (i, j)\n%1 = reduce_sum %0 over j\n"
        f"%2 = const f32 {length}\n%3 = div %1 %2\n%4 = sub %0 %3\n%5 = mul %4 %4\n"
        "%6 = reduce_sum %5 over j\n%7 = div %6 %2\n%8 = const f32 1e-05\n%9 = add %7 %8\n"
        "%10 = sqrt %9\n%11 = div %4 %10\n%12 = load x1 (j)\n%13 = mul %11 %12\n"
        "%14 = load x2 (j)\n%15 = add %13 %14\nstore y0 (i, j) %15\n"
    )
    nodes = [helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], epsilon=1e-5)]
    model = model_of(nodes, x, {"s": scale, "b": bias})
    name = f"layernorm {rows}x{length}"
    return Case(name, text, [x, scale, bias], (1, 2), model, x, 8.0 * x.size, 8.0 * x.size)


def cases(plain: bool) -> Iterator[Case]:
    """Yield products as BERT has them, LeNet-5's layers, ResNet-50's and MobileNet's kinds, and
    what is bound by memory."""
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
    for size in (10_000, 1_000_000):
        yield chain(size, rng)
    # The last of each is 128 MiB in and out, which no cache holds.
    for rows, length in ((1536, 128), (384, 384), (128, 50257), (65536, 512)):
        yield softmax(rows, length, rng)
    for rows, length in ((128, 768), (3136, 96), (1024, 1024), (32768, 1024)):
        yield layer_norm(rows, length, rng)
