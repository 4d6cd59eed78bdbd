"""Rows of reductions, softmax and normalizations: work along the rows of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx_fusion.dtypes import DType
from onnx_fusion.ops.elementwise import EXPENSIVE, F, N, need
from onnx_fusion.ops.index import letters_in
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.movement import product, reshape
from onnx_fusion.ops.row import Row, Site, axis_of, broadcast, ints, like, pointwise
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref

Shape = tuple[ex.Expr, ...]


def row_axes(
    stage: Stage,
    tensor: Tensor,
    index: Sequence[Index | None],
    axes: Sequence[int],
    shape: Shape,
) -> tuple[tuple[Index, ...], tuple[str, ...]]:
    """Return an index that runs along `axes`, and the letters to reduce over.

    Where `index` itself runs over the whole axis its letters are taken, so that a softmax reads,
    reduces and writes a row over one letter.
    """
    full = list(index)
    fixed = letters_in(tuple(e for k, e in enumerate(index) if k not in axes))
    letters: list[str] = []
    for axis in axes:
        entry, extent = index[axis], shape[axis]
        used = fixed | set(letters)
        if isinstance(entry, ex.Expr) and entry.letters() and stage.covers((entry,), (extent,)):
            names = entry.letters()
            if not names & used:
                full[axis] = entry
                letters.extend(sorted(names))
                continue
        full[axis], names = stage.axis((tensor.serial, axis), extent, frozenset(used))
        letters.extend(names)
    return tuple(full), tuple(letters)


def count(stage: Stage, shape: Shape, axes: Sequence[int], dtype: DType) -> Ref:
    """Write the number of elements along `axes` as a number of `dtype`; at least 1.

    ONNX Runtime gives 0 for the mean of nothing.
    """
    total = ex.maximum(product(tuple(shape[a] for a in axes)), 1)
    known = ex.as_int(total)
    if known is not None:
        return stage.const(dtype, known)
    return stage.cast(dtype, stage.index(total))


def reduced(
    x: Tensor, axes: Sequence[int], keepdims: bool, finish: Callable[[Stage, Callable], Ref]
) -> Tensor:
    """Return a reduction of `x`.

    `finish(stage, reduce)` writes it; `reduce(op, write)` reduces `write(a)`, of an element, over
    the row.
    """
    kept = tuple(ex.const(1) if k in axes else e for k, e in enumerate(x.shape))
    shape = kept if keepdims else tuple(e for k, e in enumerate(x.shape) if k not in axes)

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        left = iter(index)
        at = [None if k in axes else next(left) for k in range(x.rank)]
        if keepdims:
            at = [None if k in axes else e for k, e in enumerate(index)]
        full, letters = row_axes(stage, tensor, at, axes, x.shape)
        before = stage.choices
        element = stage.operand(x, full)
        if stage.choices > before and x not in stage.stored:
            raise NeedsTemp(x)  # rows are read several times
        return finish(stage, lambda op, write: stage.reduce(tensor, op, write(element), letters, x))

    tensor = Tensor(x.dtype, shape, read, x.steps + 1)
    return tensor


def reduction_axes(site: Site, rank: int) -> list[int] | None:
    """Return the reduced axes, all of them if none is given, None for "reduce nothing"."""
    axes = ints(site.node, "axes", 1)
    if not axes:
        return None if site.attr("noop_with_empty_axes", 0) else list(range(rank))
    if any(not -rank <= a < rank for a in axes):
        raise Refused(f"axes {axes} are outside rank {rank}")
    return sorted({a % rank for a in axes})


def reduction(op_type: str, finish: Callable, allowed: tuple = N, flops: float = 1.0) -> Row:
    """Return the row of a Reduce operator; `finish(stage, reduce, size)` writes the result."""

    def lower(site: Site) -> list[Tensor | None]:
        x = site.x(0)
        need(x, allowed)
        axes = reduction_axes(site, x.rank)
        if axes is None:
            axes = []
            if op_type not in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceProd"):
                raise Refused("a reduction over no axis")
        return [
            reduced(
                x, axes, bool(site.attr("keepdims", 1)),
                lambda s, r: finish(s, r, lambda: count(s, x.shape, axes, x.dtype)),
            )
        ]  # fmt: skip

    return Row(op_type, MappingType.MANY_TO_MANY, lower, flops=flops, role=Role.REDUCTION)


def same(a: Ref) -> Ref:
    return a


def log_sum_exp(s: Stage, reduce: Callable, size: Callable) -> Ref:
    """Write log(sum(exp(a))), shifted by the largest a so that exp does not overflow."""
    top = reduce("reduce_max", same)
    finite = s.apply("not", s.apply("is_inf", top))
    shift = s.apply("where", finite, top, like(s, top, 0))
    total = reduce("reduce_sum", lambda a: s.apply("exp", s.apply("sub", a, shift)))
    return s.apply("add", s.apply("log", total), shift)


def lower_softmax(site: Site) -> list[Tensor | None]:
    """Return Softmax or LogSoftmax; below opset 13 over all axes from `axis` on."""
    x = site.x(0)
    need(x, F)
    if x.rank == 0:
        raise Refused("rank 0")
    coerced = site.opset < 13
    axis = axis_of(site, x.rank, 1 if coerced else -1)
    axes = list(range(axis, x.rank)) if coerced else [axis]
    return [softmax(x, axes, site.node.op_type == "LogSoftmax")]


def softmax(x: Tensor, axes: Sequence[int], is_log: bool = False) -> Tensor:
    """Return the softmax of x along `axes`, or its logarithm."""

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        full, letters = row_axes(stage, tensor, index, axes, x.shape)
        along = stage.operand(x, full)
        top = stage.reduce(tensor, "reduce_max", along, letters, x)
        grown = stage.apply("exp", stage.apply("sub", along, top))
        total = stage.reduce(tensor, "reduce_sum", grown, letters, x)
        here = stage.apply("sub", x.at(stage, index), top)
        if is_log:
            return stage.apply("sub", here, stage.apply("log", total))
        return stage.apply("div", stage.apply("exp", here), total)

    tensor = Tensor(x.dtype, x.shape, read, x.steps + 4)
    return tensor


def average(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the mean along `axes`, which stay."""
    return reduced(x, axes, True, lambda s, r: mean(s, r, lambda: count(s, x.shape, axes, x.dtype)))


def stored(x: Tensor) -> Tensor:
    """Return `x` as a tensor that has a stage of its own."""

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if stage.root is not tensor:
            raise NeedsTemp(tensor)
        return x.at(stage, index, guard)

    tensor = Tensor(x.dtype, x.shape, read, x.steps)
    return tensor


def normalized(
    x: Tensor, axes: Sequence[int], epsilon: float, centred: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x - mean) / sqrt(var + epsilon) along `axes`, the mean, and 1 / sqrt(...).

    Not centred, the mean is left out (RMS normalization).
    """

    def spread_of(s: Stage, variance: Ref) -> Ref:
        return s.apply("sqrt", s.apply("add", variance, like(s, variance, epsilon)))

    def of(write: Callable, *operands: Tensor) -> Tensor:
        return pointwise(operands[0].shape, x.dtype, operands, write)

    means = average(x, axes)
    centre = of(lambda s, a, m: s.apply("sub", a, m), x, means) if centred else x
    variance = average(of(lambda s, a: s.apply("mul", a, a), centre), axes)
    spread = of(spread_of, variance)
    result = of(lambda s, a, b: s.apply("div", a, b), centre, spread)
    return result, means, of(lambda s, a: s.apply("div", like(s, a, 1), a), spread)


def affine(x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return x * scale + bias, both broadcast."""
    if scale is not None:
        x = pointwise(x.shape, x.dtype, (x, scale), lambda s, a, b: s.apply("mul", a, b))
    if bias is not None:
        x = pointwise(x.shape, x.dtype, (x, bias), lambda s, a, b: s.apply("add", a, b))
    return x


def lower_layer_norm(site: Site) -> list[Tensor | None]:
    """Return LayerNormalization, RMSNormalization or, as ONNX Runtime calls that before opset 23,
    SimplifiedLayerNormalization over the axes from `axis` on."""
    x = site.x(0)
    need(x, (DType.F32,))
    axes = list(range(axis_of(site, x.rank, -1), x.rank))
    centred = site.node.op_type == "LayerNormalization"
    if not centred and site.output_used(1):
        raise Refused("a normalization with statistics")
    parts = normalized(x, axes, float(site.attr("epsilon", 1e-5)), centred)
    outputs: list[Tensor | None] = [affine(parts[0], site.maybe(1), site.maybe(2))]
    if site.output_used(1) or site.output_used(2):
        outputs += [parts[1], parts[2]]
    return outputs


def per_channel(vector: Tensor, rank: int) -> Tensor:
    """Return a [C] tensor as [C, 1, ...] so that it broadcasts over axis 1 of rank `rank`."""
    return reshape(vector, vector.shape + (ex.const(1),) * (rank - 2))


def lower_instance_norm(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    need(x, (DType.F32,))
    if x.rank < 3:
        raise Refused("no spatial axes")
    out = normalized(x, list(range(2, x.rank)), float(site.attr("epsilon", 1e-5)))[0]
    return [affine(out, per_channel(site.x(1), x.rank), per_channel(site.x(2), x.rank))]


def lower_group_norm(site: Site) -> list[Tensor | None]:
    """Return GroupNormalization; scale and bias per group in opset 18, per channel from 21 on and
    where `recognize` made it.

    Where channels are innermost, a group is a few elements of each pixel, and a channel a column of
    an image: so mean and variance of a group are put together from those of its channels (Chan,
    Golub and LeVeque 1983), and a factor and a shift are stored for each channel.
    """
    x, scale, bias = site.x(0), site.x(1), site.x(2)
    need(x, (DType.F32,))
    groups = int(site.attr("num_groups"))
    channels = ex.as_int(x.shape[1])
    if channels is None or channels % groups:
        raise Refused("channels are not known to be a multiple of num_groups")
    each = (ex.const(groups), ex.const(channels // groups))
    shared = site.opset < 21 and not site.node.body_is_parts
    scale, bias = (reshape(t, (each[0], ex.const(1)) if shared else each) for t in (scale, bias))
    epsilon = float(site.attr("epsilon", 1e-5))

    def of(write: Callable, *operands: Tensor) -> Tensor:
        return pointwise(broadcast([t.shape for t in operands]), x.dtype, operands, write)

    def off(s: Stage, a: Ref, m: Ref) -> Ref:
        apart = s.apply("sub", a, m)
        return s.apply("mul", apart, apart)

    def root_of(s: Stage, variance: Ref) -> Ref:
        return s.apply("sqrt", s.apply("add", variance, like(s, variance, epsilon)))

    def grouped(t: Tensor) -> Tensor:
        return reshape(t, x.shape[:1] + each)

    def per_channel_of(t: Tensor) -> Tensor:
        wide = of(lambda s, a, b: a, t, grouped(means))
        return stored(reshape(wide, means.shape))

    inside = list(range(2, x.rank))
    means = stored(average(x, inside))
    spreads = stored(average(of(off, x, means), inside))
    mean = stored(average(grouped(means), [2]))
    between = of(off, grouped(means), mean)
    variance = average(of(lambda s, a, b: s.apply("add", a, b), grouped(spreads), between), [2])
    factor = of(lambda s, a, b: s.apply("div", a, b), scale, stored(of(root_of, variance)))
    shift = of(lambda s, b, m, f: s.apply("sub", b, s.apply("mul", m, f)), bias, mean, factor)
    return [affine(x, per_channel_of(factor), per_channel_of(shift))]


def lower_global_pool(site: Site) -> list[Tensor | None]:
    x = site.x(0)
    need(x, (DType.F32,))
    axes = list(range(2, x.rank))
    if site.node.op_type == "GlobalMaxPool":
        return [reduced(x, axes, True, lambda s, r: r("reduce_max", same))]
    return [average(x, axes)]


def mean(s: Stage, reduce: Callable, size: Callable) -> Ref:
    return s.apply("div", reduce("reduce_sum", same), size())


def plain(op: str) -> Callable:
    return lambda s, reduce, size: reduce(op, same)


def sum_of(s: Stage, reduce: Callable, op: str) -> Ref:
    """Write the sum of |a| or of a * a."""
    return reduce("reduce_sum", lambda a: s.apply(op, a) if op == "abs" else s.apply(op, a, a))


M = MappingType.MANY_TO_MANY
ROWS = [
    reduction("ReduceSum", plain("reduce_sum")), reduction("ReduceMax", plain("reduce_max")),
    reduction("ReduceMin", plain("reduce_min")), reduction("ReduceProd", plain("reduce_prod")),
    reduction("ReduceMean", mean), reduction("ReduceL1", lambda s, r, n: sum_of(s, r, "abs")),
    reduction("ReduceL2", lambda s, r, n: s.apply("sqrt", sum_of(s, r, "mul")), F),
    reduction("ReduceSumSquare", lambda s, r, n: sum_of(s, r, "mul")),
    reduction("ReduceLogSum", lambda s, r, n: s.apply("log", r("reduce_sum", same)), F),
    reduction("ReduceLogSumExp", log_sum_exp, F, EXPENSIVE),
    Row("Softmax", M, lower_softmax, flops=2 * EXPENSIVE, role=Role.SOFTMAX),
    Row("LogSoftmax", M, lower_softmax, flops=2 * EXPENSIVE, role=Role.NORM),
    Row("LayerNormalization", M, lower_layer_norm, flops=6.0, role=Role.NORM),
    Row("RMSNormalization", M, lower_layer_norm, flops=4.0, role=Role.NORM),
    Row("SimplifiedLayerNormalization", M, lower_layer_norm, flops=4.0, role=Role.NORM),
    Row("InstanceNormalization", M, lower_instance_norm, flops=6.0, role=Role.NORM),
    Row("GroupNormalization", M, lower_group_norm, flops=6.0, role=Role.NORM),
    Row("GlobalAveragePool", M, lower_global_pool, role=Role.REDUCTION),
    Row("GlobalMaxPool", M, lower_global_pool, role=Role.REDUCTION),
]  # fmt: skip
