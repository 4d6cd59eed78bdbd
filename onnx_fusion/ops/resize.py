"""Rows of Resize and Upsample: positions between elements, as exact fractions of index arithmetic.

An output position i lies at (p * i + q) / d of the input axis. The nearest element is a rounded
quotient; a linear one weighs two neighbours by the remainder. Where the scale is a whole number s,
i // s and i % s become letters of their own.
"""

from __future__ import annotations

import dataclasses
import fractions
import math
from collections.abc import Sequence

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.ops.elementwise import need
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.movement import MOVABLE, given, moved, number
from onnx_fusion.ops.row import Row, Site, constant
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.ops.window import is_long
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Cond, Ref

LARGEST = 1 << 16
"""An axis of at most so many positions is compared with ONNX Runtime's arithmetic one by one."""
PROBE = 1024
"""What stands for an unknown extent there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One resized axis: its extents, and its scale as a fraction and as ONNX Runtime has it."""

    size: ex.Expr
    extent: ex.Expr
    up: int
    down: int
    scale: np.float32

    def place(self, mode: str) -> tuple[int, int, int]:
        """Return p, q and d: position i is at (p * i + q) / d (ONNX Resize)."""
        up, down, out = self.up, self.down, ex.as_int(self.extent)
        if mode == "asymmetric":
            return down, 0, up
        if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out is not None and out > 1):
            return 2 * down, down - up, 2 * up
        if mode == "pytorch_half_pixel" and out == 1:
            return 0, 0, 1
        size = ex.as_int(self.size)
        if mode == "align_corners" and out is not None and size is not None:
            if out * down != size * up:
                # ONNX counts with the extent before it is rounded, ONNX Runtime after.
                raise Refused("Resize with corners aligned to a fraction of an element")
            return (size - 1, 0, out - 1) if out > 1 else (0, 0, 1)
        raise Refused(f"Resize with coordinates {mode}")

    def positions(self, mode: str) -> np.ndarray:
        """Return the positions as ONNX Runtime computes them, in f32."""
        half = np.float32(0.5)
        at = np.arange(ex.as_int(self.extent), dtype=np.float32)
        size, out = ex.as_int(self.size), ex.as_int(self.extent)
        if mode == "align_corners":
            if out == 1:
                return at * 0
            return at * np.float32(size - 1) / np.float32(out - 1)
        if mode == "asymmetric":
            return at / self.scale
        if mode == "pytorch_half_pixel" and out == 1:
            return at * 0
        return (at + half) / self.scale - half


def axes_of(site: Site, x: Tensor) -> dict[int, Axis]:
    """Return the axes whose positions change; scales are constants, sizes too or known
    otherwise."""
    first = 1 if site.node.op_type == "Upsample" or site.opset < 11 else 2
    scales = site.attr("scales")
    if scales is None:
        scales = constant(site.node, first)
    sizes = None if site.node.op_type == "Upsample" else sizes_of(site)
    axes = [int(a) % x.rank for a in site.attr("axes") or range(x.rank)]
    to_size = bool(sizes)
    asked = sizes if to_size else scales
    if asked is None or len(asked) != len(axes):
        raise Refused("neither scales nor sizes for its axes")
    if to_size and site.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("Resize that keeps the aspect ratio")
    found = {}
    for axis, wanted in zip(axes, asked, strict=True):
        size = x.shape[axis]
        made = from_size(size, wanted) if to_size else from_scale(size, np.float32(wanted))
        if made is not None:
            found[axis] = made
    return found


def sizes_of(site: Site) -> list[ex.Expr]:
    """Return the extents that input 3 asks for, one for each of its axes, empty if there is none.

    Of a tensor computed at run time they are those that inference found.
    """
    value = site.node.inputs[3] if len(site.node.inputs) > 3 else None
    if value is None:
        return []
    if value.weight is not None:
        return [ex.const(int(size)) for size in value.weight.array().reshape(-1)]
    shape = given(site)
    return [shape[int(a) % len(shape)] for a in site.attr("axes") or range(len(shape))]


def from_size(size: ex.Expr, wanted: ex.Expr) -> Axis | None:
    """Return an axis that gets this extent, None if it has it already."""
    if size == wanted:
        return None
    known, extent = ex.as_int(size), ex.as_int(wanted)
    if not known or not extent:
        raise Refused("Resize of an empty axis, or one of unknown extent, to a size")
    ratio = fractions.Fraction(extent, known)
    scale = np.float32(extent) / np.float32(known)
    return Axis(size, ex.const(extent), ratio.numerator, ratio.denominator, scale)


def from_scale(size: ex.Expr, scale: np.float32) -> Axis | None:
    """Return an axis that is scaled; None if it stays."""
    if scale == 1:
        return None
    if not 0 < scale < LARGEST:
        raise Refused(f"scale {scale}")
    ratio = fractions.Fraction(float(scale)).limit_denominator(1 << 10)
    if np.float32(ratio.numerator) / np.float32(ratio.denominator) != scale:
        raise Refused(f"scale {scale} is no small fraction")
    known = ex.as_int(size)
    if known is not None:
        extent = ex.const(int(np.float32(known) * scale))
    elif ratio.denominator & (ratio.denominator - 1) == 0:
        extent = ex.simplify(size * ratio.numerator // ratio.denominator, {})
    else:
        raise Refused(f"scale {scale} of an axis of unknown extent")
    return Axis(size, extent, ratio.numerator, ratio.denominator, scale)


def quotient(at: ex.Expr, p: int, q: int, d: int) -> tuple[ex.Expr, ex.Expr]:
    """Return (p * at + q) // d and the remainder; a whole scale divides `at`, which then splits."""
    if p and d % p == 0:
        step = d // p
        inner = at % step * p + q
        return at // step + inner // d, inner % d
    return (at * p + q) // d, (at * p + q) % d


ROUNDINGS = {
    "floor": np.floor,
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "ceil": np.ceil,
}


def nearest(axis: Axis, mode: str, rounding: str, at: ex.Expr) -> ex.Expr:
    """Return the input position nearest to output position `at`."""
    if rounding not in ROUNDINGS:
        raise Refused(f"Resize with nearest_mode {rounding}")
    p, q, d = axis.place(mode)
    if rounding == "round_prefer_floor":
        p, q, d = 2 * p, 2 * q + d - 1, 2 * d
    elif rounding == "round_prefer_ceil":
        p, q, d = 2 * p, 2 * q + d, 2 * d
    elif rounding == "ceil":
        q += d - 1
    common = math.gcd(p, d)
    p, q, d = p // common, q // common, d // common
    probe = axis
    if ex.as_int(axis.extent) is None:
        if axis.up % axis.down or axis.up & (axis.up - 1) and rounding != "floor":
            raise Refused("nearest elements by this scale on an axis of unknown extent")
        size = ex.const(PROBE)
        probe = dataclasses.replace(axis, size=size, extent=size * (axis.up // axis.down))
    elif ex.as_int(axis.extent) > LARGEST:
        raise Refused(f"an axis of {axis.extent}")
    last = ex.as_int(probe.size) - 1
    there = ROUNDINGS[rounding](probe.positions(mode)).clip(0, last).astype(np.int64)
    index = np.arange(len(there))
    if np.array_equal(index * axis.down // axis.up, there):
        return quotient(at, axis.down, 0, axis.up)[0]
    if not np.array_equal(((index * p + q) // d).clip(0, last), there):
        raise Refused("ONNX Runtime rounds positions of this scale differently")
    if d != 1:
        raise Refused("nearest elements at positions that are not linear")
    return ex.minimum(ex.maximum(quotient(at, p, q, d)[0], 0), axis.size - 1)


def lower_resize(site: Site) -> list[Tensor | None]:
    """Return Resize or Upsample to the nearest element, or linear along each axis."""
    x = site.x(0)
    if x.dtype not in MOVABLE:
        raise Refused(f"element type {x.dtype}")
    old = site.node.op_type == "Upsample" or site.opset < 11
    mode = site.attr("mode", "nearest")
    coordinates = "asymmetric" if old else site.attr("coordinate_transformation_mode", "half_pixel")
    if site.attr("antialias", 0):
        raise Refused("Resize with antialias")
    axes = axes_of(site, x)
    if mode == "nearest":
        rounding = "floor" if old else site.attr("nearest_mode", "round_prefer_floor")
        return [closest(x, axes, coordinates, rounding)]
    if mode not in ("linear", "bilinear"):
        raise Refused(f"Resize mode {mode}")
    need(x, (DType.F32,))
    if site.attr("exclude_outside", 0):
        raise Refused("Resize with exclude_outside")
    made = moved(x, x.shape, lambda s, i: i)
    # What shrinks does so first, what grows last: columns are dearer than rows.
    shrinking = [axis for axis in sorted(axes) if axes[axis].up < axes[axis].down]
    growing = [axis for axis in sorted(axes, reverse=True) if axis not in shrinking]
    for axis in (*shrinking, *growing):
        made = between(made, axis, axes[axis], coordinates, x)
    return [made]


def scaled_shape(x: Tensor, axes: dict[int, Axis]) -> tuple[ex.Expr, ...]:
    """Return the shape with the extents of the axes replaced."""
    return tuple(axes[k].extent if k in axes else e for k, e in enumerate(x.shape))


def closest(x: Tensor, axes: dict[int, Axis], mode: str, rounding: str) -> Tensor:
    """Return the tensor of nearest elements."""
    for axis in axes.values():
        nearest(axis, mode, rounding, ex.const(0))

    def index_of(stage: Stage, index: Sequence[Index]) -> tuple[Index, ...]:
        return tuple(
            stage.simplify(nearest(axes[k], mode, rounding, number(e, tensor))) if k in axes else e
            for k, e in enumerate(index)
        )

    tensor = moved(x, scaled_shape(x, axes), index_of)
    return tensor


def between(x: Tensor, k: int, axis: Axis, mode: str, source: Tensor) -> Tensor:
    """Return x, made of elements of `source`, interpolated along axis k.

    By a whole scale, with i = step * cell + phase, phases before `turn` lie between the cell before
    and this one, the others between this one and the next. Each piece's maps are linear.
    """
    p, q, d = axis.place(mode)
    if p == 0 or d % p or not -d < q <= 0:
        return weighed(x, k, axis, (p, q, d), source)
    step, turn = d // p, -(q // p)

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        if is_long(source) and source not in stage.stored:
            raise NeedsTemp(source)
        at = number(index[k], tensor)
        cell, phase = (stage.simplify(e) for e in (at // step, at % step))

        def there(offset: int, inside: Cond | None) -> Ref:
            guard = None if inside is None else ANY
            element = x.at(stage, (*index[:k], cell + offset, *index[k + 1 :]), guard)
            return element if inside is None else stage.select((inside,), element, here)

        def mix(a: Ref, b: Ref, rest: ex.Expr) -> Ref:
            share = stage.cast(DType.F32, stage.index(rest))
            share = stage.apply("div", share, stage.const(DType.F32, d))
            left = stage.apply("sub", stage.const(DType.F32, 1), share)
            return stage.apply("add", stage.apply("mul", a, left), stage.apply("mul", b, share))

        here = there(0, None)
        after = there(1, Cond(cell, "<", axis.size - 1))
        behind = mix(here, after, phase * p + q)
        if turn == 0:
            return behind
        before = there(-1, Cond(ex.const(0), "<", cell))
        ahead = mix(before, here, phase * p + (q + d))
        return stage.select((Cond(phase, "<", ex.const(turn)),), ahead, behind)

    tensor = Tensor(DType.F32, scaled_shape(x, {k: axis}), read, 2 * x.steps + 4)
    return tensor


def weighed(x: Tensor, k: int, axis: Axis, place: tuple[int, int, int], source: Tensor) -> Tensor:
    """Return x, made of elements of `source`, interpolated along axis k, with the places of both
    neighbours computed.

    It is stored by a stage of its own, and so is what is interpolated along another axis before:
    the kernel for two weighed neighbours does nothing else (cpu/mix.cc).
    """
    p, q, d = place
    if ex.as_int(axis.size) is None or ex.as_int(axis.extent) is None:
        raise Refused("linear elements by this scale on an axis of unknown extent")
    last = ex.as_int(axis.size) - 1

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        before = source if x.origin is source else x
        if not before.is_source and before not in stage.stored:
            raise NeedsTemp(before)
        if tensor is not stage.root and tensor not in stage.absorb and not stage.ranges:
            raise NeedsTemp(tensor)
        at = number(index[k], tensor) * p + q

        def there(place: ex.Expr) -> Ref:
            inside = ex.minimum(ex.maximum(place, 0), last)
            return x.at(stage, (*index[:k], stage.simplify(inside), *index[k + 1 :]))

        share = stage.cast(DType.F32, stage.index(at % d))
        share = stage.apply("mul", share, stage.const(DType.F32, 1 / d))
        left = stage.apply("sub", stage.const(DType.F32, 1), share)
        low = stage.apply("mul", there(at // d), left)
        return stage.apply("add", low, stage.apply("mul", there(at // d + 1), share))

    tensor = Tensor(DType.F32, scaled_shape(x, {k: axis}), read, x.steps + 8)
    return tensor


ROWS = [
    Row("Resize", MappingType.ONE_TO_MANY, lower_resize, flops=2.0, extents=(3,)),
    Row("Upsample", MappingType.ONE_TO_MANY, lower_resize, flops=2.0),
]
