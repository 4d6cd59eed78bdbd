"""Rows of pooling over windows."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.elementwise import need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.norms import root, to_power
from onnx_fusion.ops.row import Row, Site, pointwise
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.ops.window import Window, read_window, window_of
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref


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
    if auto.startswith("SAME") and max(window.dilations) > 1:
        raise Refused("auto_pad with dilations, where ONNX Runtime pads less than ONNX says")
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


def pool_flops(node: Node) -> float:
    """Return one operation per tap."""
    return float(math.prod(int(k) for k in node.attrs.get("kernel_shape", [1])))


M = MappingType.MANY_TO_MANY
ROWS = [
    Row("MaxPool", M, lower_max_pool, flops=pool_flops, role=Role.POOL),
    Row("AveragePool", M, lower_average_pool, flops=pool_flops, role=Role.POOL),
    Row("LpPool", M, lower_lp_pool, flops=pool_flops, role=Role.POOL),
]
