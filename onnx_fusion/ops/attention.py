"""Rows of attention and of rotation by position: two contractions around a softmax, as stages.

Heads are axes of their own: what ONNX packs as [batch, tokens, heads * size] is split and turned by
index maps, so that no layout costs an instruction.
"""

from __future__ import annotations

import dataclasses

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.contraction import matmul
from onnx_fusion.ops.elementwise import need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.movement import moved, number, reshape, transpose
from onnx_fusion.ops.pieces import cut, joined
from onnx_fusion.ops.row import Row, Site, broadcast, like, pointwise
from onnx_fusion.ops.rows import reduced, same, softmax
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Cond, Ref

MICROSOFT = "com.microsoft"
SWAP = [0, 2, 1, 3]


@dataclasses.dataclass(frozen=True, slots=True)
class Masks:
    """What is added to the scores: biases that broadcast, and nothing behind `causal + row`."""

    biases: tuple[Tensor, ...] = ()
    causal: ex.Expr | None = None
    may_hide_all: bool = False
    """Whether a row may be left without any key: its weights are 0 then (ONNX Attention)."""


def heads(x: Tensor, count: int) -> Tensor:
    """Return [batch, tokens, count * size] as [batch, count, tokens, size]."""
    size = ex.simplify(x.shape[2] // max(count, 1), {})
    if count < 1 or size * count != x.shape[2]:
        raise Refused(f"{x.shape[2]} columns are not known to be {count} heads")
    return transpose(reshape(x, (x.shape[0], x.shape[1], ex.const(count), size)), SWAP)


def packed(x: Tensor) -> Tensor:
    """Return [batch, count, tokens, size] as [batch, tokens, count * size]."""
    wide = transpose(x, SWAP)
    return reshape(wide, (*wide.shape[:2], wide.shape[2] * wide.shape[3]))


def copied(x: Tensor) -> Tensor:
    """Return another tensor with the same elements."""
    return moved(x, x.shape, lambda s, i: i)


def repeated(x: Tensor, count: ex.Expr) -> Tensor:
    """Return keys or values with each head as often as `count` query heads share it."""
    if x.shape[1] == count:
        return x
    have, want = ex.as_int(x.shape[1]), ex.as_int(count)
    if not have or want is None or want % have:
        raise Refused(f"{count} query heads over {x.shape[1]} of keys")
    shape = (x.shape[0], count, *x.shape[2:])

    def index_of(stage: Stage, index: tuple[Index, ...]) -> tuple[Index, ...]:
        head = stage.simplify(number(index[1], tensor) // (want // have))
        return (index[0], head, *index[2:])

    tensor = moved(x, shape, index_of)
    return tensor


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, masks: Masks) -> Tensor:
    """Return softmax(scale * q @ k' + masks) @ v, all [batch, heads, tokens, size]."""
    for tensor in (q, k, v):
        need(tensor, (DType.F32,))
    size = ex.as_int(q.shape[3])
    if scale is None or scale == 0.0:
        if not size:
            raise Refused("heads of unknown size")
        scale = size**-0.5
    k, v = repeated(k, q.shape[1]), repeated(v, q.shape[1])
    scores = matmul(q, transpose(k, [0, 1, 3, 2]))
    shape = scores.shape
    if any(broadcast([shape, bias.shape]) != shape for bias in masks.biases):
        raise Refused("a mask larger than the scores")

    def weigh(s: Stage, a: Ref, *rest: Ref) -> Ref:
        a = s.apply("mul", a, like(s, a, scale))
        for one in rest:
            a = s.apply("add", a, one)
        return a

    weighed = pointwise(shape, DType.F32, (scores, *masks.biases), weigh)
    if masks.causal is not None:
        weighed = triangle(weighed, masks.causal)
    weights = softmax(weighed, [3])
    if masks.may_hide_all:
        top = reduced(weighed, [3], True, lambda s, reduce: reduce("reduce_max", same))
        weights = pointwise(shape, DType.F32, (weights, top), hide)
    return matmul(weights, v)


def hide(s: Stage, weight: Ref, top: Ref) -> Ref:
    """Write a weight, 0 where the largest score of its row is -inf."""
    nothing = s.apply("eq", top, like(s, top, float("-inf")))
    return s.apply("where", nothing, like(s, weight, 0), weight)


def triangle(x: Tensor, offset: ex.Expr) -> Tensor:
    """Return x with -inf where a key lies behind its query."""

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        line, column = (number(entry, tensor) for entry in index[-2:])
        seen = (Cond(column, "<=", line + offset),)
        return stage.select(seen, x.at(stage, index), stage.const(DType.F32, float("-inf")))

    tensor = Tensor(x.dtype, x.shape, read, x.steps + 1)
    return tensor


def as_bias(mask: Tensor, off: float) -> Tensor:
    """Return a mask as what is added to the scores: 0 where it is true, `off` elsewhere."""
    if mask.dtype is DType.F32:
        return mask

    def write(s: Stage, a: Ref) -> Ref:
        seen = s.cast(DType.BOOL, a)
        return s.apply("where", seen, s.const(DType.F32, 0), s.const(DType.F32, off))

    need(mask, (DType.BOOL, DType.I32))
    return pointwise(mask.shape, DType.F32, (mask,), write, 2)


def lower_attention(site: Site) -> list[Tensor | None]:
    """Return Attention (ONNX 23), with grouped heads, caches, a mask or none."""
    q, k, v = site.x(0), site.x(1), site.x(2)
    mask, past = site.maybe(3), (site.maybe(4), site.maybe(5))
    if site.maybe(6) is not None or site.attr("softcap", 0.0) or site.output_used(3):
        raise Refused("Attention with a soft cap, padded keys, or its scores as an output")
    if max(int(site.attr(f"{side}_window_size", -1)) for side in ("left", "right")) >= 0:
        raise Refused("Attention in a window")
    if site.attr("softmax_precision", 1) not in (0, 1):
        raise Refused("Attention with a softmax of another precision")
    flat = q.rank == 3
    if flat:
        count, few = int(site.attr("q_num_heads", 0)), int(site.attr("kv_num_heads", 0))
        q, k, v = heads(q, count), heads(k, few), heads(v, few)
    if {q.rank, k.rank, v.rank} != {4}:
        raise Refused("queries, keys or values that have no heads")
    offset: ex.Expr = ex.const(0)
    if past[0] is not None and past[1] is not None:
        offset = past[0].shape[2]
        k, v = joined([past[0], k], 2), joined([past[1], v], 2)
    biases = ()
    if mask is not None:
        if mask.rank == 0 or mask.shape[-1] != k.shape[2]:
            raise Refused("Attention with a mask of fewer columns than keys")
        biases = (as_bias(mask, float("-inf")),)
    causal = offset if site.attr("is_causal", 0) else None
    hides = mask is not None and mask.dtype is DType.BOOL
    y = attend(q, k, v, site.attr("scale"), Masks(biases, causal, hides))
    # What leaves is read once more, as no kernel stores an operand of a contraction on the way.
    present = [copied(t) if site.output_used(n) else None for n, t in ((1, k), (2, v))]
    return [packed(y) if flat else y, *present]


def lower_multi_head(site: Site) -> list[Tensor | None]:
    """Return MultiHeadAttention: queries, keys and values apart, [batch, tokens, columns] each."""
    q, k, v, bias = site.x(0), site.x(1), site.x(2), site.maybe(3)
    count = int(site.attr("num_heads"))
    if {q.rank, k.rank, v.rank} != {3} or any(
        site.maybe(n) is not None for n in range(6, 10)
    ) or any(site.output_used(n) for n in range(1, 4)):
        raise Refused("MultiHeadAttention with packed inputs or caches")
    if bias is not None:
        q, k, v = with_bias((q, k, v), bias)
    masks = microsoft_masks(site, site.maybe(4), site.maybe(5), q.shape[0], k.shape[1])
    y = attend(heads(q, count), heads(k, count), heads(v, count), site.attr("scale"), masks)
    return [packed(y)]


def with_bias(parts: tuple[Tensor, ...], bias: Tensor) -> list[Tensor]:
    """Return each part plus its piece of the bias."""
    found, start = [], ex.const(0)
    for part in parts:
        width = part.shape[-1]
        piece = cut(bias, {0: (start, 1)}, (width,))
        found.append(
            pointwise(part.shape, part.dtype, (part, piece), lambda s, a, b: s.apply("add", a, b))
        )
        start = start + width
    if start != bias.shape[0]:
        raise Refused("a bias of another length than queries, keys and values")
    return found


def microsoft_masks(
    site: Site, padding: Tensor | None, bias: Tensor | None, batch: ex.Expr, keys: ex.Expr
) -> Masks:
    """Return the masks of an attention of ONNX Runtime; of paddings only [batch, keys] is read."""
    biases = [] if bias is None else [bias]
    if padding is not None:
        if padding.rank != 2 or padding.shape != (batch, keys):
            raise Refused("a mask that is not one number for each key")
        off = as_bias(padding, float(site.attr("mask_filter_value", -10000.0)))
        one = ex.const(1)
        biases.append(reshape(off, (batch, one, one, keys)))
    return Masks(tuple(biases), ex.const(0) if site.attr("unidirectional", 0) else None)


def lower_packed(site: Site) -> list[Tensor | None]:
    """Return com.microsoft's Attention: a projection to queries, keys, values, then attention."""
    x, weights, bias = site.x(0), site.x(1), site.maybe(2)
    count = int(site.attr("num_heads"))
    if site.maybe(4) is not None or site.output_used(1) or site.attr("do_rotary", 0):
        raise Refused("Attention with a cache or rotation")
    if x.rank != 3 or weights.rank != 2:
        raise Refused("Attention of another rank")
    width = ex.as_int(weights.shape[1])
    sizes = [int(n) for n in site.attr("qkv_hidden_sizes") or []]
    if not sizes and width is not None and width % 3 == 0:
        sizes = [width // 3] * 3
    if len(sizes) != 3 or sum(sizes) != width:
        raise Refused("Attention whose projections have unknown sizes")
    made = matmul(x, weights)
    if bias is not None:
        made = pointwise(
            made.shape, made.dtype, (made, bias), lambda s, a, b: s.apply("add", a, b)
        )
    starts = (0, sizes[0], sizes[0] + sizes[1])
    q, k, v = (
        heads(cut(made, {2: (ex.const(at), 1)}, (*made.shape[:2], ex.const(size))), count)
        for at, size in zip(starts, sizes, strict=True)
    )
    masks = microsoft_masks(site, site.maybe(3), site.maybe(5), x.shape[0], x.shape[1])
    return [packed(attend(q, k, v, site.attr("scale"), masks))]


def rotated(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, span: int, interleaved: bool
) -> Tensor:
    """Return [batch, heads, tokens, size] with pairs of its first `span` columns rotated.

    Row positions[b, t] of the caches has the angles, or row [b, t] if there are no positions.
    """
    half = span // 2

    def angle(stage: Stage, cache: Tensor, index: tuple[Index, ...], column: ex.Expr) -> Ref:
        if positions is None:
            return cache.at(stage, (index[0], index[2], column))
        where = (index[0], index[2])
        if positions.rank == 1:
            first = stage.cast(DType.I64, positions.at(stage, (ex.const(0),)))
            return cache.at(
                stage, (stage.apply("add", first, stage.index(number(index[2], tensor))), column)
            )
        at = tuple(ex.const(0) if ex.as_int(e) == 1 else i
                   for i, e in zip(where, positions.shape, strict=True))  # fmt: skip
        return cache.at(stage, (positions.at(stage, at), column))

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        column = number(index[3], tensor)
        whole = ex.as_int(x.shape[3]) == span
        inside = column
        if interleaved:
            inside = column if whole else ex.minimum(column, ex.const(span - 1))
            pair, first = inside // 2, Cond(inside % 2, "<", ex.const(1))
            other = pair * 2 + (inside % 2 * -1 + 1)
        else:
            pair, first = inside % half, Cond(inside, "<", ex.const(half))
            other = pair + (inside // half * -1 + 1) * half
        pair, other = stage.simplify(pair), stage.simplify(other)
        here = x.at(stage, index)
        there = x.at(stage, (*index[:3], other), None if whole or interleaved else ANY)
        c, s = (angle(stage, cache, index, pair) for cache in (cos, sin))
        turned = stage.apply("mul", there, s)
        turned = stage.select((first,), stage.apply("neg", turned), turned)
        made = stage.apply("add", stage.apply("mul", here, c), turned)
        return made if whole else stage.select((Cond(column, "<", ex.const(span)),), made, here)

    tensor = Tensor(DType.F32, x.shape, read, 2 * x.steps + 6)
    return tensor


def lower_rotary(site: Site) -> list[Tensor | None]:
    """Return RotaryEmbedding (ONNX 23, and ONNX Runtime's with positions as second input)."""
    own = bool(site.node.domain)
    x, positions = site.x(0), site.maybe(1 if own else 3)
    cos, sin = (site.x(2), site.x(3)) if own else (site.x(1), site.x(2))
    for tensor in (x, cos, sin):
        need(tensor, (DType.F32,))
    if positions is not None:
        need(positions, (DType.I64,))
    if own and (site.attr("is_packed_batching", 0) or site.attr("scale", 1.0) != 1.0):
        raise Refused("RotaryEmbedding of a packed batch, or scaled")
    half = ex.as_int(cos.shape[-1])
    count, span = int(site.attr("num_heads", 0)), int(site.attr("rotary_embedding_dim", 0))
    flat = x.rank == 3
    if flat and not count and half and not span:
        columns = ex.as_int(x.shape[2])
        count = columns // (2 * half) if columns is not None else 0
    wide = heads(x, count) if flat else x
    size = ex.as_int(wide.shape[3]) if wide.rank == 4 else None
    span = span or size or 0
    if not half or size is None or span != 2 * half or span > size:
        raise Refused("columns that the caches' angles do not fit")
    if cos.rank != (3 if positions is None else 2) or sin.shape != cos.shape:
        raise Refused("caches that positions do not fit")
    if positions is not None and positions.rank not in (1, 2):
        raise Refused("positions that are not [batch, tokens]")
    if own and positions.rank == 1 and ex.as_int(positions.shape[0]) != 1:
        raise Refused("positions that are not [batch, tokens]")
    made = rotated(wide, cos, sin, positions, span, bool(site.attr("interleaved", 0)))
    return [packed(made) if flat else made]


def flops(node: Node) -> float:
    """Return four operations per pair of query and key; unknown extents count as 128."""
    shape = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    keys = shape[-2] if shape is not None and len(shape) > 2 else 128
    return 4.0 * (keys if isinstance(keys, int) else 128)


M = MappingType
ROWS = [
    Row("Attention", M.MANY_TO_MANY, lower_attention, flops=flops, role=Role.PRODUCT),
    Row("RotaryEmbedding", M.ONE_TO_MANY, lower_rotary, flops=4.0),
    Row("Attention", M.MANY_TO_MANY, lower_packed, MICROSOFT, flops=flops, role=Role.PRODUCT),
    Row("MultiHeadAttention", M.MANY_TO_MANY, lower_multi_head, MICROSOFT, flops=flops,
        role=Role.PRODUCT),
    Row("RotaryEmbedding", M.ONE_TO_MANY, lower_rotary, MICROSOFT, flops=4.0),
]  # fmt: skip
