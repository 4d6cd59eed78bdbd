"""Rows of contractions and windows: MatMul, Gemm, Conv, and pooling."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.elementwise import need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.movement import transpose
from onnx_fusion.ops.product import of_matrices, of_windows
from onnx_fusion.ops.row import Row, Site, align, broadcast, like, pointwise
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref

Shape = tuple[ex.Expr, ...]
INLINE_STEPS = 2
"""A window reads each element several times; a prologue of more instructions is stored first."""


def lower_matmul(site: Site) -> list[Tensor | None]:
    return [matmul(site.x(0), site.x(1))]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b as NumPy means it."""
    need(a, (DType.F32,))
    need(b, (DType.F32,))
    if a.rank == 0 or b.rank == 0:
        raise Refused("an operand of rank 0")
    inner = a.shape[-1]
    if inner != b.shape[-2 if b.rank > 1 else 0]:
        raise Refused("the inner extents are not known to be equal")
    batch = broadcast([a.shape[:-2], b.shape[:-2]])
    rows = a.shape[-2:-1] if a.rank > 1 else ()
    cols = b.shape[-1:] if b.rank > 1 else ()

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        k, letters = stage.axis((tensor.serial, 0), inner)
        lead = index[: len(batch)]
        i = index[len(batch) : len(batch) + len(rows)]
        j = index[len(batch) + len(rows) :]
        left = stage.factor(a, align(lead, a.shape[:-2]) + i + (k,))
        right = stage.factor(b, align(lead, b.shape[:-2]) + ((k,) + j if b.rank > 1 else (k,)))
        return stage.dot(tensor, left, right, letters)

    tensor = Tensor(DType.F32, batch + rows + cols, read, 1)
    return tensor


def lower_gemm(site: Site) -> list[Tensor | None]:
    """Return alpha * A' @ B' + beta * C."""
    a, b, c = site.x(0), site.x(1), site.maybe(2)
    if a.rank != 2 or b.rank != 2:
        raise Refused("operands that are not matrices")
    a = transpose(a, [1, 0]) if site.attr("transA", 0) else a
    b = transpose(b, [1, 0]) if site.attr("transB", 0) else b
    out = matmul(a, b)
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))

    def write(s: Stage, value: Ref, bias: Ref | None = None) -> Ref:
        if alpha != 1.0:
            value = s.apply("mul", value, like(s, value, alpha))
        if bias is None:
            return value
        if beta != 1.0:
            bias = s.apply("mul", bias, like(s, bias, beta))
        return s.apply("add", value, bias)

    operands = (out,) if c is None or beta == 0.0 else (out, c)
    return [pointwise(out.shape, DType.F32, operands, write)]


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: per spatial axis extent, stride, dilation, padding before and after."""

    extents: tuple[ex.Expr, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def span(self, axis: int) -> ex.Expr:
        """Return how far the window reaches along an axis."""
        return (self.extents[axis] - 1) * self.dilations[axis] + 1

    def outputs(self, spatial: Shape, ceil: bool = False) -> Shape:
        """Return the output extents (ONNX Conv and MaxPool: floor, or ceil under ceil_mode)."""
        result = []
        for k, extent in enumerate(spatial):
            room = extent + (self.before[k] + self.after[k]) - self.span(k)
            stride = self.strides[k]
            if not ceil:
                result.append(ex.simplify(room // stride, {}) + 1)
                continue
            known, size = ex.as_int(room), ex.as_int(extent)
            if known is None or size is None:
                raise Refused("ceil_mode on an axis of unknown extent")
            steps = -(-known // stride) + 1
            if (steps - 1) * stride >= size + self.before[k]:
                steps -= 1
            result.append(ex.const(steps))
        return tuple(result)

    def may_overhang(self, axis: int, extent: ex.Expr) -> bool:
        """Return whether the window may be longer than an axis of unknown extent above 0."""
        pads, span = self.before[axis] + self.after[axis], ex.as_int(self.span(axis))
        unknown = ex.as_int(extent) is None and span is not None
        return unknown and self.strides[axis] > 1 and pads + 1 < span

    def at(self, index: tuple[ex.Expr, ...], taps: tuple[ex.Expr, ...]) -> tuple[ex.Expr, ...]:
        """Return the input position of window taps at an output index."""
        return tuple(
            p * s + r * d - b
            for p, s, r, d, b in zip(
                index, self.strides, taps, self.dilations, self.before, strict=True
            )
        )

    def trimmed(self, spatial: Shape) -> tuple[Window, tuple[int, ...]]:
        """Return the window without the taps that are outside at every position (of a dilated
        window on a small image), and how many of them come first on each axis."""
        outputs, made, firsts = self.outputs(spatial), self, []
        for k, step in enumerate(self.dilations):
            known = [ex.as_int(e) for e in (self.extents[k], spatial[k], outputs[k])]
            first = last = 0
            if None not in known:
                taps, size, count = known
                reach = (count - 1) * self.strides[k] - self.before[k]
                while reach + first * step < 0 and step <= self.before[k] - first * step:
                    first += 1
                while (taps - 1 - last) * step - self.before[k] >= size and (
                    step <= self.after[k] - last * step
                ):
                    last += 1
                if first + last >= taps:
                    first = last = 0
            firsts.append(first)
            made = dataclasses.replace(
                made,
                extents=replace(made.extents, k, self.extents[k] - (first + last)),
                before=replace(made.before, k, self.before[k] - first * step),
                after=replace(made.after, k, self.after[k] - last * step),
            )
        return made, tuple(firsts)

    @property
    def padded(self) -> bool:
        return any(self.before) or any(self.after)

    @property
    def repeats(self) -> bool:
        """Return whether an input element is read by more than one output."""
        return any(ex.as_int(e) != 1 for e in self.extents)


def replace(values: tuple, k: int, value: object) -> tuple:
    """Return the values with another at place k."""
    return (*values[:k], value, *values[k + 1 :])


def window_of(site: Site, extents: tuple[ex.Expr, ...], spatial: Shape) -> Window:
    """Return the window that the attributes strides, dilations, pads and auto_pad describe."""
    rank = len(extents)
    if len(spatial) != rank:
        raise Refused(f"a window of {rank} axes on {len(spatial)} spatial ones")
    strides = tuple(int(v) for v in site.attr("strides") or [1] * rank)
    dilations = tuple(int(v) for v in site.attr("dilations") or [1] * rank)
    pads = [int(v) for v in site.attr("pads") or [0] * (2 * rank)]
    auto = site.attr("auto_pad", "NOTSET")
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        raise Refused("strides, dilations or pads of the wrong length")
    if min(strides, default=1) < 1 or min(dilations, default=1) < 1:
        raise Refused("a stride or dilation below 1")
    if auto == "VALID":
        pads = [0] * (2 * rank)
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        for k in range(rank):
            size, reach = ex.as_int(spatial[k]), ex.as_int((extents[k] - 1) * dilations[k] + 1)
            if size is None or reach is None:
                raise Refused("auto_pad on an axis of unknown extent")
            total = max((-(-size // strides[k]) - 1) * strides[k] + reach - size, 0)
            small, large = total // 2, total - total // 2
            first = small if auto == "SAME_UPPER" else large
            pads[k], pads[rank + k] = first, total - first
    if min(pads, default=0) < 0:
        raise Refused("negative pads")
    return Window(extents, strides, dilations, tuple(pads[:rank]), tuple(pads[rank:]))


def store_first(x: Tensor, window: Window) -> bool:
    """Return whether a window had better read `x` from memory."""
    return window.repeats and not x.is_source and x.steps > INLINE_STEPS


def read_window(
    stage: Stage, x: Tensor, lead: tuple[Index, ...], at: tuple[ex.Expr, ...], window: Window,
    fill: float,
) -> Ref:  # fmt: skip
    """Write the element of `x` under a window's tap, `fill` outside."""
    if store_first(x, window) and x not in stage.stored:
        raise NeedsTemp(x)
    return stage.factor(x, lead + at, fill if window.padded else None)


def lower_conv(site: Site) -> list[Tensor | None]:
    """Return Conv of any rank, with groups, strides, dilations and pads."""
    x, w, bias = site.x(0), site.x(1), site.maybe(2)
    need(x, (DType.F32,))
    need(w, (DType.F32,))
    if x.rank < 3 or w.rank != x.rank:
        raise Refused(f"an input of rank {x.rank} and weights of rank {w.rank}")
    window = window_of(site, w.shape[2:], x.shape[2:])
    groups = int(site.attr("group", 1))
    outputs, depth = w.shape[0], w.shape[1]
    if depth * groups != x.shape[1]:
        raise Refused("the channels of input and weights do not agree")
    known = ex.as_int(outputs)
    if groups != 1 and (known is None or known % groups):
        raise Refused("output channels are not a multiple of the groups")
    shape = (x.shape[0], outputs) + window.outputs(x.shape[2:])
    window, firsts = window.trimmed(x.shape[2:])

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None or any(isinstance(e, Ref) for e in index):
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        channel, inner = stage.axis((tensor.serial, 0), depth)
        taps, letters = [], list(inner)
        for axis, extent in enumerate(window.extents):
            tap, names = stage.axis((tensor.serial, 1 + axis), extent)
            taps.append(tap)
            letters += names
        source = channel
        if groups != 1:
            source = stage.simplify(index[1] // (known // groups)) * depth + channel
        at = window.at(index[2:], tuple(taps))
        left = read_window(stage, x, (index[0], source), at, window, 0.0)
        own = (tap + first for tap, first in zip(taps, firsts, strict=True))
        right = stage.factor(w, (index[1], channel, *own))
        return stage.dot(tensor, left, right, tuple(letters))

    tensor = Tensor(DType.F32, shape, read, 1)
    if bias is None:
        return [tensor]
    flat = Tensor(
        DType.F32, (ex.const(1), outputs) + (ex.const(1),) * (x.rank - 2),
        lambda s, i, g: bias.at(s, (i[1],), g), bias.steps,
    )  # fmt: skip
    add = lambda s, a, b: s.apply("add", a, b)  # noqa: E731
    return [pointwise(shape, DType.F32, (tensor, flat), add)]


def pooled(
    site: Site, op: str, fill: float, write: Callable[[Stage, Ref], Ref] | None = None
) -> tuple[Tensor, Window, Tensor]:
    """Return a reduction of the input's windows, the window, and the input.

    `write` makes of an element what is reduced.
    """
    x = site.x(0)
    need(x, (DType.F32,))
    kernel = tuple(ex.const(int(k)) for k in site.attr("kernel_shape"))
    window = window_of(site, kernel, x.shape[2:])
    auto = site.attr("auto_pad", "NOTSET")
    ceil = bool(site.attr("ceil_mode", 0)) and not auto.startswith("SAME")
    spatial = x.shape[2:]
    overhang = any(window.may_overhang(k, extent) for k, extent in enumerate(spatial))
    if overhang:
        # ONNX Runtime's division truncates: an axis shorter than the window has one output.
        least = [window.span(k) - window.before[k] - window.after[k] for k in range(len(spatial))]
        spatial = tuple(map(ex.maximum, spatial, least))
    outputs = window.outputs(spatial, ceil)
    for k, extent in enumerate(x.shape[2:]):
        if ceil:
            last = (ex.as_int(outputs[k]) - 1) * window.strides[k] + ex.as_int(window.span(k))
            overhang |= last > ex.as_int(extent) + window.before[k] + window.after[k]
    reach = dataclasses.replace(window, after=tuple(a + 1 for a in window.after))
    shape = x.shape[:2] + outputs

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None or any(isinstance(e, Ref) for e in index):
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        taps, letters = [], []
        for axis, extent in enumerate(window.extents):
            tap, names = stage.axis((tensor.serial, axis), extent)
            taps.append(tap)
            letters += names
        at = window.at(index[2:], tuple(taps))
        element = read_window(stage, x, index[:2], at, reach if overhang else window, fill)
        element = write(stage, element) if write else element
        return stage.reduce(tensor, op, element, tuple(letters), x)

    tensor = Tensor(DType.F32, shape, read, x.steps + 1)
    return tensor, window, x


def lower_max_pool(site: Site) -> list[Tensor | None]:
    if site.output_used(1):
        raise Refused("MaxPool with indices")
    return [pooled(site, "reduce_max", float("-inf"))[0]]


def lower_average_pool(site: Site) -> list[Tensor | None]:
    """Return AveragePool; without count_include_pad the divisor is the number of taps inside."""
    total, window, x = pooled(site, "reduce_sum", 0.0)
    include = bool(site.attr("count_include_pad", 0))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None or any(isinstance(e, Ref) for e in index):
            raise NeedsTemp(tensor)
        taps, counts = 1, []  # the product of those that are known, and the others
        for k, entry in enumerate(index[2:]):
            first = entry * window.strides[k] - window.before[k]
            step = window.dilations[k]
            past = x.shape[2 + k] - 1 + (window.after[k] if include else 0)
            last = ex.minimum(window.extents[k] - 1, (past - first) // step)
            start = ex.const(0) if include else ex.maximum(ex.const(0), -(first // step))
            count = stage.simplify(last - start + 1)
            known = ex.as_int(count)
            if known is None:
                counts.append(stage.cast(DType.F32, stage.index(count)))
            else:
                taps *= known
        if taps != 1 or not counts:
            counts.append(stage.const(DType.F32, taps))
        divisor = functools.reduce(lambda a, b: stage.apply("mul", a, b), counts)
        return stage.apply("div", total.at(stage, index), divisor)

    tensor = Tensor(DType.F32, total.shape, read, total.steps + 1)
    return [tensor]


def lower_lp_pool(site: Site) -> list[Tensor | None]:
    """Return LpPool: (sum |x| ** p) ** (1 / p) of each window."""
    p = int(site.attr("p", 2))
    if p < 1:
        raise Refused(f"LpPool with p={p}")
    total = pooled(site, "reduce_sum", 0.0, lambda s, a: to_power(s, a, p))[0]
    return [pointwise(total.shape, total.dtype, (total,), lambda s, a: root(s, a, p))]


def to_power(s: Stage, a: Ref, p: int) -> Ref:
    """Write |a| ** p."""
    if p == 2:
        return s.apply("mul", a, a)
    grown = s.apply("abs", a)
    return grown if p == 1 else s.apply("pow", grown, like(s, a, p))


def root(s: Stage, a: Ref, p: int) -> Ref:
    """Write a ** (1 / p)."""
    if p == 1:
        return a
    return s.apply("sqrt", a) if p == 2 else s.apply("pow", a, like(s, a, 1 / p))


def matmul_flops(node: Node) -> float:
    """Return two operations per multiplied pair; extents that are not known count as 128."""
    shape = node.inputs[0].shape or (128,)
    inner = shape[-2 if node.attrs.get("transA", 0) and len(shape) > 1 else -1]
    return 2.0 * (inner if isinstance(inner, int) else 128)


def conv_flops(node: Node) -> float:
    """Return two operations per tap and input channel of a group."""
    taps = [d if isinstance(d, int) else 1 for d in (node.inputs[1].shape or (1,))[1:]]
    return 2.0 * math.prod(taps)


def conv_role(node: Node) -> Role:
    """Return what kind of convolution it is; weights are [O, C / group, kernel...]."""
    weights = node.inputs[1].shape or ()
    if int(node.attrs.get("group", 1)) > 1 and len(weights) > 1 and weights[1] == 1:
        return Role.DEPTHWISE
    if len(weights) > 2 and all(d == 1 for d in weights[2:]):
        return Role.POINTWISE
    return Role.CONVOLUTION


def pool_flops(node: Node) -> float:
    """Return one operation per tap."""
    return float(math.prod(int(k) for k in node.attrs.get("kernel_shape", [1])))


M = MappingType.MANY_TO_MANY
ROWS = [
    Row("MatMul", M, lower_matmul, flops=matmul_flops, role=Role.PRODUCT, product=of_matrices),
    Row("Gemm", M, lower_gemm, flops=matmul_flops, role=Role.PRODUCT, product=of_matrices),
    Row("Conv", M, lower_conv, flops=conv_flops, role=conv_role, product=of_windows),
    Row("MaxPool", M, lower_max_pool, flops=pool_flops, role=Role.POOL),
    Row("AveragePool", M, lower_average_pool, flops=pool_flops, role=Role.POOL),
    Row("LpPool", M, lower_lp_pool, flops=pool_flops, role=Role.POOL),
]
