"""The ten rules that DNNFusion prints (PLDI 2021, Table 4), with what each needs to be true.

The table's first distributive rule, A.C + A.B, is printed as (A + B).C; it is A.(B + C).
Floats: each changes rounding, and may give a finite number where a product overflowed before, or
the other way round. Integers: sums and products wrap alike on both sides, so what is made of those
only is exact.
"""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.passes.rewrite.engine import COMMUTE
from onnx_fusion.passes.rewrite.model import (
    FLOATS,
    Exactness,
    Proposal,
    Rule,
    Scene,
    array_of,
    elements,
    make,
)
from onnx_fusion.passes.rewrite.pattern import Found, rule

_UNSIGNED = (DType.U8, DType.U16, DType.U32, DType.U64)


def _is_sum(name: str):
    """Return the condition that a value is a sum along axes."""
    def holds(found: Found) -> bool:
        producer = found[name].producer
        return producer is not None and producer.op_type == "ReduceSum" and not producer.domain
    return holds


def _sum_of_shift(node: Node, scene: Scene) -> Proposal | None:
    """ReduceSum(BitShift(A, k)): left shifts only, which are products modulo a power of two."""
    value = node.inputs[0]
    shift = value.producer if value is not None else None
    if shift is None or shift.op_type != "BitShift" or shift.domain:
        return None
    if shift.attrs.get("direction") != "LEFT" or value.dtype not in _UNSIGNED:
        return None
    by = array_of(shift.inputs[1])
    if by is None or by.size != 1 or int(by.reshape(-1)[0]) >= 8 * value.dtype.size:
        return None
    if shift.inputs[0].shape != value.shape or value.shape is None or len(by.shape):
        return None
    return _swap(node, shift, [shift.inputs[1]], scene)


def _product_of_exp(node: Node, scene: Scene) -> Proposal | None:
    """ReduceProd(Exp(A)): the product overflows or underflows on the way, the sum does not."""
    value = node.inputs[0]
    exp = value.producer if value is not None else None
    if exp is None or exp.op_type != "Exp" or exp.domain or value.dtype not in FLOATS:
        return None
    if scene.opset >= 13 and "axes" not in node.attrs and len(node.inputs) == 1:
        return _swap(node, exp, [], scene, "ReduceSum")
    if scene.opset >= 18 or scene.opset < 13:
        return _swap(node, exp, [], scene, "ReduceSum")
    return None


def _swap(reduction: Node, inner: Node, more: list[Value], scene: Scene,
          op_type: str = "") -> Proposal | None:
    """Return the reduction done first, and what it reduced then."""
    output = reduction.outputs[0]
    old = (inner, reduction)
    if output is None or output.shape is None or not scene.is_closed(old, (output,)):
        return None
    if elements(output) > elements(inner.outputs[0]):
        return None
    middle = Value("", output.dtype, output.shape)
    first = make(op_type or reduction.op_type, [inner.inputs[0], *reduction.inputs[1:]], middle,
                 reduction.attrs, reduction.name)
    return Proposal(old, [first, make(inner.op_type, [middle, *more], output, inner.attrs,
                                      inner.name)])


RULES = [
    rule("recip-product", "Mul(Reciprocal(a), Reciprocal(Mul(a, b)))",
         "Mul(Mul(Reciprocal(a), Reciprocal(a)), Reciprocal(b))",
         "1/A . 1/(A.B) is (1/A)^2 . 1/B: A is read once"),
    rule("sqrt-product", "Mul(Mul(a, Sqrt(p)), Mul(Sqrt(p), c))", "Mul(Mul(a, c), p)",
         "(A.sqrt B).(sqrt B.C) is A.B.C if no element of B is negative (it was NaN there)"),
    rule("abs-product", "Mul(Mul(Abs(a), b), Abs(c))", "Mul(Abs(Mul(a, c)), b)",
         "|A|.B.|C| is |A.C|.B; not on integers, where A.C may wrap to another sign",
         dtypes=FLOATS),
    rule("sum-product", "Mul(Mul(a, s), Mul(s, c))", "Mul(Mul(a, c), Mul(s, s))",
         "(A.sum B).(sum B.C) is A.C.(sum B)^2: the square is of the smaller size",
         exactness=Exactness.INTEGERS, when=_is_sum("s")),
    rule("distribute", "Add(Mul(a, c), Mul(a, b))", "Mul(a, Add(b, c))",
         "A.C + A.B is A.(B + C)", exactness=Exactness.INTEGERS),
    rule("distribute-one", "Add(a, Mul(a, b))", "Mul(a, Add(b, 1))",
         "A + A.B is A.(B + 1): A is read once", exactness=Exactness.INTEGERS),
    rule("square-minus-product", "Sub(Mul(s, s), Mul(s, c))", "Mul(s, Sub(s, c))",
         "(A + B)^2 - (A + B).C is (A + B).(A + B - C)", exactness=Exactness.INTEGERS),
    Rule(COMMUTE, frozenset(), Exactness.EXACT,
         "A.B is B.A: every rule tries the operands of commutative operators in both orders",
         lambda node, scene: None),
    Rule("sum-of-shift", frozenset(("ReduceSum",)), Exactness.EXACT,
         "the sum of A << k is (the sum of A) << k, modulo the type's range; unsigned, k constant",
         _sum_of_shift),
    Rule("product-of-exp", frozenset(("ReduceProd",)), Exactness.ROUNDING,
         "the product of exp A is exp of the sum of A", _product_of_exp),
]
