"""Windows that slide over a tensor's spatial axes, and what is under their taps."""

from __future__ import annotations

import dataclasses

from onnx_fusion.ops.row import Site
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref

Shape = tuple[ex.Expr, ...]
INLINE_STEPS = 2
"""A window reads each element several times; a prologue of more instructions is stored first."""


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


def is_long(x: Tensor) -> bool:
    """Return whether what reads each element of `x` several times had better find it in memory."""
    return not x.is_source and x.steps > INLINE_STEPS


def read_window(
    stage: Stage, x: Tensor, lead: tuple[Index, ...], at: tuple[ex.Expr, ...], window: Window,
    fill: float,
) -> Ref:  # fmt: skip
    """Write the element of `x` under a window's tap, `fill` outside."""
    if window.repeats and is_long(x) and x not in stage.stored:
        raise NeedsTemp(x)
    return stage.factor(x, lead + at, fill if window.padded else None)
