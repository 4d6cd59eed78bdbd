"""The row of ConvTranspose, read the way round that sums: each output gathers its taps.

Output position p takes input q through tap r where p + before = stride * q + dilation * r. Only
every stride-th tap can: with a = (p + before) % stride, tap stride * t + a meets input position
(p + before) // stride - t. So the sum runs over t alone, no product is by an inserted zero, and
where the stride divides the output's extent p splits into two letters, one of which is the phase.
Where the maps of the phase would not be linear, the whole result is made, and cut afterwards. An
axis of one input is spread by its kernel alone: each output has one tap, whatever the stride.
"""

from __future__ import annotations

import dataclasses
import math

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.elementwise import need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.movement import number
from onnx_fusion.ops.product import of_transposed
from onnx_fusion.ops.row import Row, Site, like, pointwise
from onnx_fusion.ops.rows import per_channel
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.ops.window import is_long
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Cond, Ref


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """How a spatial axis is spread: kernel, stride, dilation, what is cut before, output extent."""

    kernel: int
    stride: int
    dilation: int
    before: int
    extent: ex.Expr
    inside: bool
    """Whether every tap of every output meets an input."""
    alone: bool = False
    """Whether there is one input, and every output has a tap."""

    @property
    def taps(self) -> int:
        """Return how many taps an output position sums at most."""
        return 1 if self.alone else -(-self.kernel // self.stride)

    @property
    def is_linear(self) -> bool:
        """Return whether the maps are linear once the output's axis is split into its phases."""
        if self.stride == 1 or self.alone:
            return True
        if self.dilation != 1:
            return False
        quotient = ex.simplify(self.extent // self.stride, {})
        whole = quotient * self.stride == self.extent
        return whole and (self.before == 0 or self.stride == 2)

    def uncut(self, size: ex.Expr) -> Spread:
        """Return the same without cuts, to a multiple of the stride."""
        past = ex.as_int(ex.simplify(self.extent + self.before - size * self.stride, {}))
        if past is None or self.dilation != 1:
            raise Refused("phases whose maps are not linear")
        extent = (size + -(-past // self.stride)) * self.stride
        return dataclasses.replace(self, before=0, extent=extent, inside=False)

    def meet(self, at: ex.Expr, tap: ex.Expr) -> tuple[ex.Expr, ex.Expr]:
        """Return the input position and the kernel position of an output's tap."""
        if self.alone:
            return tap, at + self.before
        if self.stride == 2 and self.dilation == 1 and self.before % 2:
            # (phase + 1) // 2 is the phase itself, (phase + 1) % 2 the other one.
            phase = at % 2
            return at // 2 + phase + self.before // 2 - tap, tap * 2 - phase + 1
        phase = at % self.stride + self.before
        cell = at // self.stride + phase // self.stride
        return cell - tap * self.dilation, tap * self.stride + phase % self.stride


def spreads(site: Site, x: Tensor, w: Tensor) -> list[Spread]:
    """Return how each spatial axis is spread (ONNX ConvTranspose)."""
    rank = x.rank - 2
    kernel = [ex.as_int(e) for e in w.shape[2:]]
    if None in kernel:
        raise Refused("a kernel of unknown extent")
    strides, dilations, extra = (
        [int(v) for v in site.attr(name) or [default] * rank]
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    pads = [int(v) for v in site.attr("pads") or [0] * (2 * rank)]
    if not len(strides) == len(dilations) == len(extra) == len(pads) // 2 == rank:
        raise Refused("strides, dilations or pads of the wrong length")
    if min(strides + dilations, default=1) < 1 or min(extra + pads, default=0) < 0:
        raise Refused("a stride or dilation below 1, or negative pads")
    found = []
    for k in range(rank):
        size, stride, dilation = x.shape[2 + k], strides[k], dilations[k]
        full = (size - 1) * stride + extra[k] + (kernel[k] - 1) * dilation + 1
        before, extent = padding(site, k, size * stride, full, (pads[k], pads[rank + k]))
        inside = kernel[k] <= stride and dilation == 1 and not before and extent == size * stride
        reach = ex.as_int(extent)
        alone = size == 1 and dilation == 1 and reach is not None and before + reach <= kernel[k]
        found.append(Spread(kernel[k], stride, dilation, before, extent, inside or alone, alone))
    return found


def padding(
    site: Site, axis: int, same: ex.Expr, full: ex.Expr, pads: tuple[int, int]
) -> tuple[int, ex.Expr]:
    """Return what is cut before, and the extent that is left of `full`.

    An odd number cut to a given size is refused: ONNX and ONNX Runtime differ in the larger side.
    """
    auto = site.attr("auto_pad", "NOTSET")
    sizes = site.attr("output_shape")
    if sizes is None and auto in ("NOTSET", "VALID"):
        pads = pads if auto == "NOTSET" else (0, 0)
        return pads[0], ex.simplify(full - (pads[0] + pads[1]), {})
    extent = same if sizes is None else ex.const(int(sizes[len(sizes) - site.x(0).rank + 2 + axis]))
    total = ex.as_int(ex.simplify(full - extent, {}))
    if total is None:
        raise Refused("an output of given size on an axis of unknown extent")
    if total > 0 and total % 2:
        raise Refused("an odd number of positions is cut to reach the output's size")
    return max(total, 0) // 2, extent


def lower_conv_transpose(site: Site) -> list[Tensor | None]:
    """Return ConvTranspose of any rank, with groups, strides, dilations, pads, output_padding."""
    x, w, bias = site.x(0), site.x(1), site.maybe(2)
    need(x, (DType.F32,))
    need(w, (DType.F32,))
    if x.rank < 3 or w.rank != x.rank:
        raise Refused(f"an input of rank {x.rank} and weights of rank {w.rank}")
    wanted = spreads(site, x, w)
    axes = [a if a.is_linear else a.uncut(x.shape[2 + k]) for k, a in enumerate(wanted)]
    groups, channels = int(site.attr("group", 1)), ex.as_int(x.shape[1])
    depth = ex.simplify(x.shape[1] // groups, {})
    if w.shape[0] != x.shape[1] or depth * groups != x.shape[1] or channels == 0:
        raise Refused("the channels of input, weights and groups do not agree")
    width = w.shape[1]
    shape = (x.shape[0], width * groups, *(a.extent for a in axes))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None or any(isinstance(e, Ref) for e in index):
            raise NeedsTemp(tensor)
        if is_long(x) and x not in stage.stored:
            raise NeedsTemp(x)
        stage.check_affine(tensor, index)
        channel, inner = stage.axis((tensor.serial, 0), depth)
        letters = list(inner)
        at, taps = [], []
        for k, axis in enumerate(axes):
            tap, names = stage.axis((tensor.serial, 1 + k), ex.const(axis.taps))
            letters += names
            here, there = axis.meet(index[2 + k], tap)
            at.append(stage.simplify(here))
            taps.append(stage.simplify(there))
        source, column = channel, index[1]
        if groups != 1:
            source = stage.simplify(index[1] // width) * depth + channel
            column = stage.simplify(index[1] % width)
        inside = None if all(axis.inside for axis in axes) else 0.0
        left = stage.factor(x, (index[0], source, *at), inside)
        ragged = [k for k, a in enumerate(axes) if a.kernel % a.stride and not a.alone]
        right = stage.factor(w, (source, column, *taps), 0.0 if ragged else None)
        if ragged:
            # The weight is 0 behind the kernel's end, and must not meet an infinity.
            conds = tuple(Cond(taps[k], "<", ex.const(axes[k].kernel)) for k in ragged)
            left = stage.select(conds, left, like(stage, left, 0))
        return stage.dot(tensor, left, right, tuple(letters))

    tensor = Tensor(DType.F32, shape, read, 1)
    made = tensor
    if axes != wanted:
        left = [w.before - a.before for w, a in zip(wanted, axes, strict=True)]
        made = cropped(tensor, left, [a.extent for a in wanted])
    shape = made.shape
    if bias is None:
        return [made]
    add = lambda s, a, b: s.apply("add", a, b)  # noqa: E731
    return [pointwise(shape, DType.F32, (made, per_channel(bias, x.rank)), add)]


def cropped(x: Tensor, before: list[int], extents: list[ex.Expr]) -> Tensor:
    """Return a box of the spatial axes of x, which is stored."""

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if x not in stage.stored:
            raise NeedsTemp(x)
        if guard not in (None, ANY):  # what is cut off lies outside, and is not the fill value
            raise NeedsTemp(made)
        at = (number(e, x) + b for e, b in zip(index[2:], before, strict=True))
        return x.at(stage, (*index[:2], *at), guard)

    made = Tensor(x.dtype, (*x.shape[:2], *extents), read)
    return made


def flops(node: Node) -> float:
    """Return two operations per input channel and per tap that meets an output position."""
    shape = node.inputs[1].shape or (128, 1)
    strides = node.attrs.get("strides") or [1] * len(shape)
    known = [d if isinstance(d, int) else 1 for d in shape]
    taps = [-(-k // int(s)) for k, s in zip(known[2:], strides, strict=False)]
    return 2.0 * known[0] / int(node.attrs.get("group", 1)) * math.prod(taps)


M = MappingType.MANY_TO_MANY
ROWS = [
    Row("ConvTranspose", M, lower_conv_transpose, flops=flops, role=Role.CONVOLUTION,
        product=of_transposed),
]  # fmt: skip
