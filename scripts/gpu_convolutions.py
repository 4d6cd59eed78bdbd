"""Convolutions that cuDNN is good at, as models have them: images with channels last, filters as
ONNX has them, a bias and what may follow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from gpu_kernels import Kernel, one_stage

torch.backends.cudnn.allow_tf32 = False  # of references and of what is compared


@dataclasses.dataclass(frozen=True)
class Window:
    """Images, channels, extent, filters, taps, step; a depthwise one has no filters."""

    n: int
    c: int
    h: int
    k: int
    r: int
    step: int = 1

    def out(self) -> int:
        return (self.h + 2 * (self.r // 2) - self.r) // self.step + 1


LARGE = (
    Window(32, 64, 56, 64, 3), Window(32, 256, 14, 256, 3), Window(1, 256, 14, 256, 3),
    Window(32, 128, 56, 128, 3, 2), Window(32, 256, 56, 512, 1, 2), Window(32, 144, 56, 0, 3),
)  # fmt: skip
SMALL = (Window(1, 32, 12, 32, 3), Window(16, 64, 12, 0, 3))


def convolutions(small: bool) -> Iterator[Kernel]:
    """Yield them; `small` ones for a try without a GPU."""
    for window in SMALL if small else LARGE:
        for dtype in ("f16", "f32"):
            for rest in ("bias + relu", "bias + residual + relu"):
                yield convolution(window, dtype, rest)


def convolution(s: Window, dtype: str, rest: str) -> Kernel:
    """Return one; dims are written in the order they lie in memory."""
    made, size, pad = s.k or s.c, s.out(), s.r // 2
    place = "(n, p, q, o)"
    seen = f"{s.step} * p + r - {pad}, {s.step} * q + s - {pad}"
    body = [f"a = load x0 (n, {seen}, {'c' if s.k else 'o'}) else 0",
            f"b = load x1 (o, {'c' if s.k else '0'}, r, s)",
            f"d = dot $a $b over {'c, ' if s.k else ''}r, s", "e = load x2 (o)",
            "f = add $d $e"]  # fmt: skip
    if "residual" in rest:
        body += [f"g = load x3 {place}", "f = add $f $g"]
    body += ["z = const f32 0", "m = max $f $z", f"store = {place} $m"]
    letters = f"n: {s.n}, p: {size}, q: {size}, o: {made}, "
    letters += (f"c: {s.c}, " if s.k else "") + f"r: {s.r}, s: {s.r}"
    depth = s.c if s.k else 1
    result = (s.n, size, size, made)
    shapes = [(s.n, s.h, s.h, s.c), (made, depth, s.r, s.r), (made,), result]

    def convolve(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        groups = 1 if s.k else s.c
        return torch.nn.functional.conv2d(x, w, None, s.step, pad, 1, groups)

    def same(x, w, b, r) -> torch.Tensor:
        found = convolve(x.permute(0, 3, 1, 2), w).permute(0, 2, 3, 1) + b
        return torch.relu(found + r if "residual" in rest else found)

    def bare(inputs: list[torch.Tensor]) -> Callable[[], object]:
        torch.backends.cudnn.benchmark = True
        images = inputs[0].permute(0, 3, 1, 2)
        filters = inputs[1].contiguous(memory_format=torch.channels_last)
        return functools.partial(convolve, images, filters)

    kind = f"{s.r}x{s.r}" + (f" / {s.step}" if s.step > 1 else "")
    name = f"convolution {s.n}x{s.h}x{s.h} {s.c}-{s.k or 'depthwise'} {kind} {dtype} {rest}"
    text = one_stage(dtype, shapes, result, letters, body)
    flops = 2.0 * s.n * size * size * made * depth * s.r * s.r
    return Kernel(name, "anchor", text, shapes, result, same, dtype, flops, bare, images=(0, 3))
