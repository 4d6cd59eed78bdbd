"""The row of Einsum: its letters are index maps, and those of two operands a contraction."""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.elementwise import N, need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.row import Row, Site, align, broadcast
from onnx_fusion.ops.rows import reduced, same
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref

ELLIPSIS = "..."


def terms(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """Return each operand's axes by name, and the result's; an ellipsis' axes are named by number.

    Without an arrow the result has the ellipsis, then the letters that occur once, in alphabetical
    order (ONNX Einsum).
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    if len(operands) != len(ranks):
        raise Refused(f"an equation of {len(operands)} operands for {len(ranks)}")
    named = [expand(term, rank) for term, rank in zip(operands, ranks, strict=True)]
    widest = max((n for n in named), key=lambda n: sum(a.isdigit() for a in n))
    dots = [a for a in widest if a.isdigit()]
    if arrow:
        before, found, after = right.partition(ELLIPSIS)
        return named, [*before, *(dots if found else ()), *after]
    every = [a for n in named for a in n]
    return named, [*dots, *sorted(a for a in set(every) if every.count(a) == 1 and a.isalpha())]


def expand(term: str, rank: int) -> list[str]:
    """Return a term's axes; those of the ellipsis count from the last one, as they broadcast."""
    before, found, after = term.partition(ELLIPSIS)
    missing = rank - len(before) - len(after)
    if missing < 0 or not found and missing:
        raise Refused(f"term '{term}' for rank {rank}")
    return [*before, *(str(k) for k in range(missing - 1, -1, -1)), *after]


def lower_einsum(site: Site) -> list[Tensor | None]:
    """Return Einsum of one operand (a reduction) or two (a contraction)."""
    operands = [t for t in site.inputs if t is not None]
    for tensor in operands:
        need(tensor, N)
    dtype = operands[0].dtype
    if not 1 <= len(operands) <= 2:
        raise Refused(f"an equation of {len(operands)} operands")
    named, result = terms(str(site.attr("equation")), [t.rank for t in operands])
    extents: dict[str, ex.Expr] = {}
    for tensor, axes in zip(operands, named, strict=True):
        for name, extent in zip(axes, tensor.shape, strict=True):
            (extents[name],) = broadcast([(extents.get(name, extent),), (extent,)])
    if len(set(result)) != len(result) or not set(result) <= set(extents):
        raise Refused("a result with an axis twice, or one that no operand has")
    summed = [name for name in extents if name not in result]
    shape = tuple(extents[name] for name in result)
    if len(operands) == 1:
        return [one(operands[0], named[0], result, summed, extents)]

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(tensor)
        stage.check_affine(tensor, index)
        at, letters = dict(zip(result, index, strict=True)), []
        for k, name in enumerate(summed):
            at[name], names = stage.axis((tensor.serial, k), extents[name])
            letters += names
        a, b = (
            stage.factor(t, align(tuple(at[name] for name in axes), t.shape))
            for t, axes in zip(operands, named, strict=True)
        )
        if dtype is DType.F32:
            return stage.dot(tensor, a, b, tuple(letters))
        return stage.reduce(tensor, "reduce_sum", stage.apply("mul", a, b), tuple(letters), tensor)

    tensor = Tensor(dtype, shape, read, 1)
    return [tensor]


def one(
    x: Tensor, axes: list[str], result: list[str], summed: list[str], extents: dict[str, ex.Expr]
) -> Tensor:
    """Return one operand with axes summed, moved, or taken along a diagonal."""
    order = [*result, *summed]

    def read(stage: Stage, index: tuple[Index, ...], guard: Guard) -> Ref:
        if guard is not None:
            raise NeedsTemp(moved)
        at = dict(zip(order, index, strict=True))
        return x.at(stage, align(tuple(at[name] for name in axes), x.shape))

    moved = Tensor(x.dtype, tuple(extents[name] for name in order), read, x.steps)
    if not summed:
        return moved
    last = range(len(result), len(order))
    return reduced(moved, last, False, lambda s, reduce: reduce("reduce_sum", same))


def flops(node: Node) -> float:
    """Return two operations per multiplied pair; extents that are not known count as 64."""
    shapes = [v.shape for v in node.inputs if v is not None and v.shape is not None]
    try:
        named, result = terms(str(node.attrs.get("equation", "")), [len(s) for s in shapes])
    except (Refused, ValueError):
        return 2.0
    total = 2.0
    sizes = {a: d for n, s in zip(named, shapes, strict=True) for a, d in zip(n, s, strict=True)}
    for name, extent in sizes.items():
        if name not in result:
            total *= extent if isinstance(extent, int) else 64
    return total


ROWS = [Row("Einsum", MappingType.MANY_TO_MANY, lower_einsum, flops=flops, role=Role.PRODUCT)]
