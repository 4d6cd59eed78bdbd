"""What single kernels do on a device: every program of the tests, and rates beside copy and
torch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from gpu_device import Device, DeviceProgram

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

NEAR = {"f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2}
"""The error that a type's rounding allows."""
LIBRARIES = ("ONNX_FUSION_CUBLASLT", "ONNX_FUSION_CUDNN")
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass
class Kernel:
    """A program, its inputs' shapes, the same in torch, and by what it is judged: bytes or
    flops."""

    name: str
    kind: str
    text: str
    shapes: list[tuple[int, ...]]
    out: tuple[int, ...]
    same: Callable
    dtype: str
    flops: float = 0.0
    bare: Callable | None = None
    """Of an anchor: the anchor alone as torch's library makes it, ready to be called, by inputs."""
    images: tuple[int, ...] = ()
    """Inputs whose first image is enough to know the result's first."""

    def bytes(self) -> int:
        """Return what it must move."""
        elements = sum(math.prod(s) for s in (*self.shapes, self.out))
        return elements * TYPES[self.dtype].itemsize


def one_stage(dtype: str, inputs: list[tuple], out: tuple, letters: str, body: list[str]) -> str:
    """Return a program of one stage (see `_stage`)."""
    lines = [*_head(dtype, inputs, out), *_stage(dtype, letters, body)]
    return "\n".join(lines) + "\n"


def _head(dtype: str, inputs: list[tuple], out: tuple, temps: Sequence[tuple] = ()) -> list[str]:
    """Return a program's first lines."""
    kinds = [(f"input x{k} {dtype}", shape) for k, shape in enumerate(inputs)]
    kinds += [(f"temp t{k} f32", shape) for k, shape in enumerate(temps)]
    kinds += [(f"output y0 {dtype}", out)]
    return ["tile_program 1"] + [f"{k}[{', '.join(map(str, shape))}] row" for k, shape in kinds]


def _stage(dtype: str, letters: str, body: list[str]) -> list[str]:
    """Return a stage; `body` numbers values by name, loads of inputs and stores of the output
    convert halves."""
    lines = [f"stage {letters}"]
    names: dict[str, int] = {}
    count = 0

    def emit(line: str) -> int:
        nonlocal count
        lines.append(f"%{count} = {line}")
        count += 1
        return count - 1

    for line in body:
        target, _, rest = line.partition(" = ")
        for name in sorted(names, key=len, reverse=True):
            rest = rest.replace(f"${name}", f"%{names[name]}")
        if target == "store" and rest[0] == "t":
            lines.append(f"store {rest}")
        elif target == "store":
            if dtype != "f32":
                index, _, value = rest.rpartition(" ")
                rest = f"{index} %{emit(f'cast {dtype} {value}')}"
            lines.append(f"store y0 {rest}")
        else:
            names[target] = emit(rest)
            if rest.startswith("load x") and dtype != "f32":
                names[target] = emit(f"cast f32 %{names[target]}")
    return lines


def _attention(dtype: str, b: int, h: int, n: int, d: int) -> Kernel:
    """Return self-attention of `n` positions in `h` heads of `d`, with a mask of the positions."""
    shape, heads = (b, h, n, d), f"b: {b}, h: {h}, i: {n}"
    lines = _head(dtype, [shape] * 3 + [(b, n)], shape, [(b, h, n, n)] * 2)
    lines += _stage(dtype, f"{heads}, j: {n}, d: {d}", [
        "a = load x0 (b, h, i, d)", "c = load x1 (b, h, j, d)", "s = dot $a $c over d",
        f"n = const f32 {d**-0.5}", "t = mul $s $n", "m = load x3 (b, j)", "u = add $t $m",
        "store = t0 (b, h, i, j) $u"])  # fmt: skip
    lines += _stage(dtype, f"{heads}, j: {n}", [
        "a = load t0 (b, h, i, j)", "m = reduce_max $a over j", "c = sub $a $m", "e = exp $c",
        "s = reduce_sum $e over j", "w = div $e $s", "store = t1 (b, h, i, j) $w"])  # fmt: skip
    lines += _stage(dtype, f"{heads}, d: {d}, j: {n}", [
        "a = load t1 (b, h, i, j)", "c = load x2 (b, h, j, d)", "o = dot $a $c over j",
        "store = (b, h, i, d) $o"])  # fmt: skip

    def same(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mask = mask[:, None, None, :].expand(b, 1, n, n)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)

    return Kernel(
        f"attention {n}x{d} {dtype}", "attention", "\n".join(lines) + "\n",
        [shape] * 3 + [(b, n)], shape, same, dtype, 4.0 * b * h * n * n * d,
    )  # fmt: skip


def kernels(small: bool) -> Iterator[Kernel]:
    """Yield the kernels that are timed; `small` ones for a try without a GPU."""
    big = 64 if small else 8192
    for dtype in ("f32", "f16"):
        n = (64, 64) if small else (8192, 8192 if dtype == "f32" else 16384)
        chain = ["a = load x0 (i, j)", "b = load x1 (j)", "c = mul $a $b", "d = sigmoid $c",
                 "e = mul $c $d", "store = (i, j) $e"]  # fmt: skip
        yield Kernel(
            f"pointwise {dtype}", "pointwise",
            one_stage(dtype, [n, n[1:]], n, f"i: {n[0]}, j: {n[1]}", chain),
            [n, n[1:]], n, lambda x, b: torch.nn.functional.silu(x * b), dtype,
        )  # fmt: skip
        for width in (96,) if small else (768, 4096, 8192):
            rows = (max(1, big * 4096 // width), width) if not small else (32, width)
            letters = f"i: {rows[0]}, j: {width}"
            soft = ["a = load x0 (i, j)", "m = reduce_max $a over j", "b = sub $a $m", "c = exp $b",
                    "s = reduce_sum $c over j", "d = div $c $s", "store = (i, j) $d"]  # fmt: skip
            yield Kernel(
                f"softmax {width} {dtype}", "rows", one_stage(dtype, [rows], rows, letters, soft),
                [rows], rows, lambda x: torch.softmax(x, -1), dtype,
            )  # fmt: skip
            norm = ["p = load x0 (i, j)", "q = load x1 (i, j)", "a = add $p $q",
                    "s = reduce_sum $a over j", f"n = const f32 {width}", "m = div $s $n",
                    "c = sub $a $m", "d = mul $c $c", "v = reduce_sum $d over j", "w = div $v $n",
                    "e = const f32 1e-05", "f = add $w $e", "r = sqrt $f", "g = div $c $r",
                    "h = load x2 (j)", "k = mul $g $h", "l = load x3 (j)", "o = add $k $l",
                    "store = (i, j) $o"]  # fmt: skip
            yield Kernel(
                f"layernorm {width} {dtype}", "rows",
                one_stage(dtype, [rows, rows, rows[1:], rows[1:]], rows, letters, norm),
                [rows, rows, rows[1:], rows[1:]], rows,
                lambda x, y, w, b: torch.nn.functional.layer_norm(x + y, w.shape, w, b), dtype,
            )  # fmt: skip
        for letter, size in (
            (("j", (1, 300000)), ("i", (4000, 33))) if small else
            (("j", (1, 1 << 27)), ("j", (32, 1 << 21)), ("i", (1 << 20, 64)))
        ):  # fmt: skip
            kept, axis = ("i", 1) if letter == "j" else ("j", 0)
            total = ["a = load x0 (i, j)", f"s = reduce_sum $a over {letter}",
                     f"store = ({kept}) $s"]  # fmt: skip
            yield Kernel(
                f"sum {size[0]}x{size[1]} over {letter} {dtype}", "rows",
                one_stage(dtype, [size], (size[1 - axis],), f"i: {size[0]}, j: {size[1]}", total),
                [size], (size[1 - axis],), functools.partial(torch.sum, dim=axis), dtype,
            )  # fmt: skip
        t = n[::-1]
        flip = ["a = load x0 (j, i)", "z = const f32 0", "b = max $a $z", "store = (i, j) $b"]
        yield Kernel(
            f"transpose {dtype}", "maps", one_stage(dtype, [n], t, f"i: {t[0]}, j: {t[1]}", flip),
            [n], t, lambda x: torch.relu(x.T).contiguous(), dtype,
        )  # fmt: skip
        half = (n[0], n[1] // 2)
        join = ["a = load x0 (i, j) else 0", f"b = load x1 (i, j - {half[1]}) else 0",
                f"c = select (j < {half[1]}) $a $b", "z = const f32 0", "d = max $c $z",
                "store = (i, j) $d"]  # fmt: skip
        yield Kernel(
            f"concat {dtype}", "maps",
            one_stage(dtype, [half, half], n, f"i: {n[0]}, j: {n[1]}", join), [half, half], n,
            lambda x, y: torch.relu(torch.cat([x, y], 1)), dtype,
        )  # fmt: skip
        m = 64 if small else 4096
        gelu = ["a = load x0 (i, k)", "b = load x1 (k, j)", "c = dot $a $b over k",
                "e = load x2 (j)", "f = add $c $e", "r = const f32 0.70710678",
                "g = mul $f $r", "h = erf $g", "o = const f32 1", "l = add $h $o",
                "p = mul $f $l", "q = const f32 0.5", "s = mul $p $q",
                "store = (i, j) $s"]  # fmt: skip
        yield Kernel(
            f"gemm {m} {dtype}", "gemm",
            one_stage(dtype, [(m, m), (m, m), (m,)], (m, m), f"i: {m}, j: {m}, k: {m}", gelu),
            [(m, m), (m, m), (m,)], (m, m),
            lambda x, w, b: torch.nn.functional.gelu(torch.addmm(b, x, w)), dtype, 2.0 * m**3,
        )  # fmt: skip
        for depth in (16,) if small else (64, 128):
            yield _attention(dtype, *((1, 2, 33) if small else (8, 12, 1024)), depth)


def anchors(small: bool) -> Iterator[Kernel]:
    """Yield products that cuBLASLt is good at, with what may follow them."""
    sizes = (
        ((72, 128, 128),) if small else ((4096, 4096, 4096), (2048, 1024, 4096), (128, 768, 3072))
    )
    functional = torch.nn.functional
    for m, k, n in sizes:
        rest: dict[str, tuple[list[str], Callable]] = {
            "bias": ([], lambda x, w, b, r: x @ w + b),
            "bias + residual": (["t = load x3 (i, j)", "s = add $s $t"],
                                lambda x, w, b, r: x @ w + b + r),
            "bias + gelu": (["r = const f32 0.70710678", "g = mul $s $r", "h = erf $g",
                             "o = const f32 1", "l = add $h $o", "p = mul $s $l",
                             "q = const f32 0.5", "s = mul $p $q"],
                            lambda x, w, b, r: functional.gelu(x @ w + b)),
        }  # fmt: skip
        for dtype in ("f16", "bf16"):
            for name, (more, same) in rest.items():
                start = ["a = load x0 (i, k)", "b = load x1 (k, j)", "c = dot $a $b over k",
                         "e = load x2 (j)", "s = add $c $e"]  # fmt: skip
                shapes = [(m, k), (k, n), (n,), (m, n)]
                yield Kernel(
                    f"anchor {m}x{k}x{n} {dtype} {name}", "anchor",
                    one_stage(dtype, shapes, (m, n), f"i: {m}, j: {n}, k: {k}",
                          [*start, *more, "store = (i, j) $s"]),
                    shapes, (m, n), same, dtype, 2.0 * m * n * k,
                    lambda x: functools.partial(torch.matmul, x[0], x[1]),
                )  # fmt: skip


def anchor_inputs(device: Device, one: Kernel) -> list[torch.Tensor]:
    """Return random inputs whose products are about 1."""
    generator = torch.Generator(device.name).manual_seed(1)
    inputs = [
        torch.randn(s, generator=generator, device=device.name).to(TYPES[one.dtype])
        for s in one.shapes
    ]
    inputs[1] *= (one.flops / 2 / math.prod(one.out)) ** -0.5
    return inputs


def anchor_error(one: Kernel, inputs: list[torch.Tensor], out: torch.Tensor) -> float:
    """Return the error against float64, of the first image if images are alike."""
    want = one.same(*((x[:1] if k in one.images else x).double() for k, x in enumerate(inputs)))
    got = out[:1] if one.images else out
    return ((got.double() - want).norm() / want.norm()).item()


def time_anchor(device: Device, one: Kernel) -> dict[str, float]:
    """Return seconds of a product or a convolution as the measurement chose it, by our kernel, and
    of torch's bare one; and the error."""
    inputs = anchor_inputs(device, one)
    out = torch.full(one.out, float("nan"), dtype=TYPES[one.dtype], device=device.name)
    with without_libraries():
        kernel = DeviceProgram(device, one.text, one.shapes)
        kernel.start(inputs, [out])
    made = DeviceProgram(device, one.text, one.shapes)
    made.start(inputs, [out])
    device.wait()
    return {
        "error": anchor_error(one, inputs, out),
        "own": device.seconds(lambda: made.start(inputs, [out])),
        "kernel": device.seconds(lambda: kernel.start(inputs, [out])),
        "bare": device.seconds(one.bare(inputs)),
    }


@contextlib.contextmanager
def without_libraries() -> Iterator[None]:
    """Do without cuBLASLt and cuDNN for programs that are made inside."""
    before = {name: os.environ.get(name) for name in LIBRARIES}
    os.environ.update(dict.fromkeys(LIBRARIES, ""))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def copy_rate(device: Device, small: bool) -> float:
    """Return how many bytes a second a copy reads and writes."""
    source = torch.empty(1 << (20 if small else 29), dtype=torch.uint8, device=device.name)
    target = torch.empty_like(source)
    return 2 * source.numel() / device.seconds(lambda: target.copy_(source))


def time_kernel(device: Device, one: Kernel, backend: str | None = None) -> dict[str, float]:
    """Return seconds of the kernel and of torch, and the error against torch in float32.

    With a `backend` of torch.compile it is what that makes (an Exception is whatever it raises).
    """
    generator = torch.Generator(device.name).manual_seed(1)
    dtype = TYPES[one.dtype]
    scale = one.shapes[0][-1] ** -0.5 if one.kind == "gemm" else 1.0
    inputs = [
        (torch.randn(s, generator=generator, device=device.name) * (scale if len(s) > 1 else 1)).to(
            dtype
        )
        for s in one.shapes
    ]
    out = torch.full(one.out, float("nan"), dtype=dtype, device=device.name)
    made = DeviceProgram(device, one.text, one.shapes)
    made.start(inputs, [out])
    device.wait()
    want = one.same(*(x.float() for x in inputs))
    error = ((out.float() - want).norm() / want.norm()).item()
    same = torch.compile(one.same, backend=backend) if backend else one.same
    same(*inputs)
    return {
        "error": error,
        "own": device.seconds(lambda: made.start(inputs, [out])),
        "torch": device.seconds(lambda: same(*inputs)),
    }
