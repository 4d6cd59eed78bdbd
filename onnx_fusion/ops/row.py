"""What the project knows of an operator: one row of the table, and how rows read a node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.ops.mapping import CONTRACTIONS, MappingType, Role
from onnx_fusion.ops.product import Product
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import ANY, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program.model import Ref


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """One node as a row's lowering sees it: its inputs as tensors, attributes, opset.

    `given` holds the output shapes that inference knows (None where it does not), as expressions
    over the region's dims.
    """

    node: Node
    inputs: tuple[Tensor | None, ...]
    opset: int
    given: tuple[tuple[ex.Expr, ...] | None, ...]

    def x(self, position: int) -> Tensor:
        """Return an input that must be there."""
        tensor = self.maybe(position)
        if tensor is None:
            raise Refused(f"input {position} is missing")
        return tensor

    def maybe(self, position: int) -> Tensor | None:
        """Return an input, or None if it is omitted."""
        return self.inputs[position] if position < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value."""
        return self.node.attrs.get(name, default)

    def constant(self, position: int) -> np.ndarray | None:
        """Return an input's data if it is present and constant; refuse if it is not constant."""
        return constant(self.node, position)

    def output_used(self, position: int) -> bool:
        """Return whether the node has this output."""
        outputs = self.node.outputs
        return position < len(outputs) and outputs[position] is not None


def constant(node: Node, position: int) -> np.ndarray | None:
    """Return a constant input's data, None if omitted; refuse if it is known only at run time."""
    if position >= len(node.inputs) or node.inputs[position] is None:
        return None
    value = node.inputs[position]
    if value.weight is None:
        raise Refused(f"input {position} ({value.name}) is not constant")
    return value.weight.array()


def ints(node: Node, attribute: str, position: int) -> list[int] | None:
    """Return a list of integers given by an attribute in old opsets and by an input in new ones."""
    if attribute in node.attrs:
        found = node.attrs[attribute]
        return [
            int(v) for v in (found if isinstance(found, (list, tuple, np.ndarray)) else [found])
        ]
    data = constant(node, position)
    return None if data is None else [int(v) for v in np.atleast_1d(data).reshape(-1)]


Lowering = Callable[[Site], list[Tensor | None]]
Mapping = MappingType | Callable[[Node], MappingType]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One operator.

    `mapping` is its mapping type, or the function of the node that gives it. `lower` returns one
    tensor per output. `reason` says why the operator is opaque. `flops` estimates floating-point
    operations per output element for the cost model. `role` is what a many-to-many operator does.
    `product` is a contraction's shape, None where it is not known.
    `stated` are attributes, with their defaults, that ONNX Runtime misses in a function. `extents`
    are the inputs that say the result's shape, and nothing of its elements.
    Tests draw inputs from the interval `sample` and accept there a relative error of `tolerance`
    against ONNX Runtime.
    """

    op_type: str
    mapping: Mapping
    lower: Lowering | None = None
    domain: str = ""
    reason: str = ""
    flops: float | Callable[[Node], float] = 1.0
    role: Role | Callable[[Node], Role] | None = None
    product: Callable[[Node], Product | None] | None = None
    stated: tuple[tuple[str, Any], ...] = ()
    extents: tuple[int, ...] = ()
    sample: tuple[float, float] = (-4.0, 4.0)
    tolerance: float = 1e-5

    def mapping_of(self, node: Node) -> MappingType:
        """Return the node's mapping type."""
        return self.mapping if isinstance(self.mapping, MappingType) else self.mapping(node)

    def role_of(self, node: Node) -> Role | None:
        """Return the node's role, None if it has none."""
        return self.role(node) if callable(self.role) else self.role

    def is_contraction(self, node: Node) -> bool:
        """Return whether most of the node's time goes into multiply-adds."""
        return self.role_of(node) in CONTRACTIONS

    def product_of(self, node: Node) -> Product | None:
        """Return the shape of the contraction that the node is, None if there is none or it is not
        known."""
        return self.product(node) if self.product is not None else None

    def flops_of(self, node: Node) -> float:
        """Return the node's floating-point operations per output element."""
        return self.flops(node) if callable(self.flops) else self.flops


def broadcast(shapes: Iterable[tuple[ex.Expr, ...]], doubtful: bool = False) -> tuple[ex.Expr, ...]:
    """Return the shape these broadcast to (ONNX, multidirectional).

    Two unknown extents that may differ are refused, or, if they may be `doubtful`, equal or 1: an
    expression that is an error where they are neither. Then `align` with the result.
    """
    shapes = list(shapes)
    rank = max(len(s) for s in shapes)
    result = []
    for axis in range(rank):
        extent = ex.const(1)
        for shape in shapes:
            position = axis - rank + len(shape)
            if position < 0 or ex.as_int(shape[position]) == 1:
                continue
            if ex.as_int(extent) == 1:
                extent = shape[position]
            elif extent != shape[position]:
                pair = (extent, shape[position])
                # Such an extent is long, and one made of two of them longer than a program may
                # have.
                if not doubtful or any(ex.as_int(e) is not None or "max(" in str(e) for e in pair):
                    raise Refused(f"cannot tell whether {pair[0]} and {pair[1]} broadcast")
                extent = _either(*pair)
        result.append(extent)
    return tuple(result)


def _either(a: ex.Expr, b: ex.Expr) -> ex.Expr:
    """Return the larger of extents that are equal or one of them 1; else it divides by 0."""
    differ = ex.minimum(1, ex.maximum(a - b, b - a))
    neither = ex.maximum(0, ex.minimum(1, ex.minimum(a, b) - 1))
    nothing = ex.minimum(1, ex.minimum(a, b))
    return ex.maximum(a, b) * nothing // ex.minimum(1, 2 - differ - neither)


def align(index: tuple, shape: tuple[ex.Expr, ...], whole: tuple[ex.Expr, ...] = ()) -> tuple:
    """Return the index into an operand of `shape` that broadcasts to where `index` points, in a
    result of the shape `whole` if extents may be doubtful."""
    tail = index[len(index) - len(shape) :]
    wide = whole[len(whole) - len(shape) :] if whole else shape
    return tuple(
        ex.const(0) if ex.as_int(s) == 1 else i if s == w else ex.minimum(i, s - 1)
        for i, s, w in zip(tail, shape, wide, strict=True)
    )


def pointwise(
    shape: tuple[ex.Expr, ...],
    dtype: DType,
    operands: tuple[Tensor, ...],
    write: Callable,
    steps: int = 1,
) -> Tensor:
    """Return the tensor whose element is `write(stage, *elements of operands)`.

    What a contraction gave is stored before it is broadcast: work per channel is not done per
    pixel.
    """

    def fits(axis: int) -> bool:
        """Return whether every operand has this axis of the result, or certainly 1."""
        extents = [t.shape[axis - len(shape)] for t in operands if len(shape) - axis <= t.rank]
        return all(ex.as_int(e) == 1 or e == shape[axis] for e in extents)

    def read(stage, index, guard):
        if guard is not None and guard != ANY:
            raise NeedsTemp(tensor)
        if not all(isinstance(i, ex.Expr) or fits(k) for k, i in enumerate(index)):
            raise NeedsTemp(tensor)
        refs = [t.at(stage, align(index, t.shape, shape), guard) for t in operands]
        letters = frozenset().union(*map(stage.letters_of, refs))
        for operand, ref in zip(operands, refs, strict=True):
            if stage.contracted(ref) and stage.letters_of(ref) < letters:
                raise NeedsTemp(operand)
        return write(stage, *refs)

    tensor = Tensor(dtype, shape, read, steps + sum(t.steps for t in operands))
    return tensor


def like(s: Stage, a: Ref, value: float) -> Ref:
    """Write `value` as a literal of a's type."""
    return s.const(s.type_of(a), value)


def axis_of(site: Site, rank: int, default: int = -1, name: str = "axis") -> int:
    """Return an axis attribute as a number in [0, rank)."""
    axis = int(site.attr(name, default))
    if not -rank <= axis < max(rank, 1):
        raise Refused(f"{name} {axis} is outside [{-rank}, {rank - 1}]")
    return axis % rank if rank else 0
