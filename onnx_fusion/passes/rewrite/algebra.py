"""Rules of arithmetic: neutral elements, inverses, powers, chains of constants."""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node
from onnx_fusion.passes.rewrite.model import (
    FLOATS,
    INTEGERS,
    Exactness,
    Proposal,
    Rule,
    Scene,
    make,
)
from onnx_fusion.passes.rewrite.pattern import alias, rule

EXACT, ON_INTEGERS, ROUNDING = Exactness.EXACT, Exactness.INTEGERS, Exactness.ROUNDING
_BOOL = (DType.BOOL,)
_SIGNED = (*FLOATS, DType.I8, DType.I16, DType.I32, DType.I64)

NEUTRAL = [
    rule("times-one", "Mul(x, 1)", "x", "x . 1 is x", exactness=EXACT),
    rule("over-one", "Div(x, 1)", "x", "x / 1 is x", exactness=EXACT),
    rule("plus-zero", "Add(x, 0)", "x", "x + 0 is x, but for the sign of zero",
         exactness=ON_INTEGERS),
    rule("minus-zero", "Sub(x, 0)", "x", "x - 0 is x, of -0.0 too", exactness=EXACT),
    rule("power-one", "Pow(x, 1)", "x", "x ^ 1 is x", exactness=EXACT, dtypes=FLOATS),
    rule("negate-twice", "Neg(Neg(x))", "x", "-(-x) is x, of the smallest integer too",
         exactness=EXACT),
    rule("not-twice", "Not(Not(x))", "x", "not not x is x", exactness=EXACT, dtypes=_BOOL),
    rule("and-same", "And(x, x)", "x", "x and x is x", exactness=EXACT, dtypes=_BOOL),
    rule("or-same", "Or(x, x)", "x", "x or x is x", exactness=EXACT, dtypes=_BOOL),
    rule("max-same", "Max(x, x)", "x", "max(x, x) is x", exactness=EXACT),
    rule("min-same", "Min(x, x)", "x", "min(x, x) is x", exactness=EXACT),
    rule("abs-negative", "Abs(Neg(x))", "Abs(x)", "|-x| is |x|, of the smallest integer too",
         exactness=EXACT, dtypes=_SIGNED),
    rule("abs-twice", "Abs(Abs(x))", "Abs(x)", "||x|| is |x|", exactness=EXACT, dtypes=_SIGNED),
    rule("relu-twice", "Relu(Relu(x))", "Relu(x)", "relu(relu(x)) is relu(x)", exactness=EXACT,
         dtypes=FLOATS),
    rule("minus-negative", "Sub(x, Neg(y))", "Add(x, y)", "x - (-y) is x + y", exactness=EXACT),
    rule("plus-negative", "Add(x, Neg(y))", "Sub(x, y)", "x + (-y) is x - y", exactness=EXACT),
    rule("negative-product", "Mul(Neg(x), Neg(y))", "Mul(x, y)", "(-x).(-y) is x.y",
         exactness=EXACT),
    rule("negative-quotient", "Div(Neg(x), Neg(y))", "Div(x, y)",
         "(-x) / (-y) is x / y; floats only: the smallest integer over -1 wraps",
         exactness=EXACT, dtypes=FLOATS),
    rule("negative-constant", "Mul(Neg(x), k)", "Mul(x, Neg(k))", "(-x).k is x.(-k)",
         exactness=EXACT),
    rule("constant-negative", "Neg(Mul(x, k))", "Mul(x, Neg(k))", "-(x.k) is x.(-k)",
         exactness=EXACT),
    rule("negative-difference", "Neg(Sub(x, y))", "Sub(y, x)",
         "-(x - y) is y - x, but for the sign of zero", exactness=ON_INTEGERS),
    rule("where-not", "Where(Not(c), x, y)", "Where(c, y, x)",
         "a condition turned round swaps the branches", exactness=EXACT),
    rule("where-same", "Where(c, x, x)", "x", "both branches are the same", exactness=EXACT),
    rule("clip", "Min(Max(x, k), kk)", "Clip(x, k, kk)",
         "min(max(x, low), high) is one Clip", dtypes=FLOATS, since=11,
         when=lambda found: found["k"].shape == found["kk"].shape == ()),
]

POWERS = [
    rule("power-two", "Pow(x, 2)", "Mul(x, x)", "x ^ 2 is x.x", exactness=EXACT, dtypes=FLOATS),
    rule("power-three", "Pow(x, 3)", "Mul(Mul(x, x), x)", "x ^ 3 is x.x.x", dtypes=FLOATS),
    rule("power-half", "Pow(p, 0.5)", "Sqrt(p)",
         "x ^ 0.5 is sqrt x if x is not negative (of -inf and -0.0 they differ)"),
    rule("power-minus-one", "Pow(x, -1)", "Reciprocal(x)", "x ^ -1 is 1 / x"),
    rule("power-minus-half", "Pow(p, -0.5)", "Reciprocal(Sqrt(p))",
         "x ^ -0.5 is 1 / sqrt x if x is not negative"),
    rule("power-minus-two", "Pow(x, -2)", "Reciprocal(Mul(x, x))", "x ^ -2 is 1 / (x.x)"),
    rule("sqrt-square", "Sqrt(Mul(x, x))", "Abs(x)", "sqrt(x.x) is |x|; the square may overflow"),
    rule("square-sqrt", "Mul(Sqrt(p), Sqrt(p))", "p", "sqrt x . sqrt x is x if x is not negative"),
    rule("recip-twice", "Reciprocal(Reciprocal(x))", "x", "1 / (1 / x) is x"),
    rule("recip-times", "Mul(x, Reciprocal(y))", "Div(x, y)", "x . (1 / y) is x / y"),
    rule("over-recip", "Div(x, Reciprocal(y))", "Mul(x, y)", "x / (1 / y) is x.y"),
    rule("one-over-times", "Mul(x, Div(1, y))", "Div(x, y)", "x . (1 / y) is x / y"),
    rule("log-exp", "Log(Exp(x))", "x", "log(exp x) is x; exp may overflow"),
    rule("exp-log", "Exp(Log(p))", "p", "exp(log x) is x if x is not negative"),
    rule("exp-product", "Mul(Exp(x), Exp(y))", "Exp(Add(x, y))", "exp x . exp y is exp(x + y)"),
    rule("exp-quotient", "Div(Exp(x), Exp(y))", "Exp(Sub(x, y))", "exp x / exp y is exp(x - y)"),
    rule("log-sum", "Add(Log(p), Log(pp))", "Log(Mul(p, pp))",
         "log x + log y is log(x.y) if neither is negative"),
]

CHAINS = [
    rule("add-add", "Add(Add(x, k), kk)", "Add(x, Add(k, kk))", "constants added twice",
         exactness=ON_INTEGERS),
    rule("mul-mul", "Mul(Mul(x, k), kk)", "Mul(x, Mul(k, kk))", "constants multiplied twice",
         exactness=ON_INTEGERS),
    rule("sub-add", "Add(Sub(x, k), kk)", "Add(x, Sub(kk, k))", "subtracted, then added",
         exactness=ON_INTEGERS),
    rule("add-sub", "Sub(Add(x, k), kk)", "Add(x, Sub(k, kk))", "added, then subtracted",
         exactness=ON_INTEGERS),
    rule("sub-sub", "Sub(Sub(x, k), kk)", "Sub(x, Add(k, kk))", "subtracted twice",
         exactness=ON_INTEGERS),
    rule("from-add", "Add(Sub(k, x), kk)", "Sub(Add(k, kk), x)", "k - x, then added to",
         exactness=ON_INTEGERS),
    rule("from-from", "Sub(kk, Sub(k, x))", "Add(x, Sub(kk, k))", "k' - (k - x)",
         exactness=ON_INTEGERS),
    rule("from-add-constant", "Sub(kk, Add(x, k))", "Sub(Sub(kk, k), x)", "k' - (x + k)",
         exactness=ON_INTEGERS),
    rule("div-mul", "Mul(Div(x, k), kk)", "Mul(x, Div(kk, k))", "divided, then multiplied"),
    rule("mul-div", "Div(Mul(x, k), kk)", "Mul(x, Div(k, kk))", "multiplied, then divided"),
    rule("div-div", "Div(Div(x, k), kk)", "Div(x, Mul(k, kk))", "divided twice"),
    rule("scale-affine", "Mul(Add(Mul(x, k), b), kk)", "Add(Mul(x, Mul(k, kk)), Mul(b, kk))",
         "a scaled scale and bias", when=lambda found: found["b"].weight is not None),
    rule("scale-shift", "Add(Add(x, k), Add(y, kk))", "Add(Add(x, y), Add(k, kk))",
         "two constants met in a sum", exactness=ON_INTEGERS),
    rule("scale-scale", "Mul(Mul(x, k), Mul(y, kk))", "Mul(Mul(x, y), Mul(k, kk))",
         "two constants met in a product", exactness=ON_INTEGERS),
    rule("distribute-minus", "Sub(Mul(a, c), Mul(a, b))", "Mul(a, Sub(c, b))",
         "A.C - A.B is A.(C - B)", exactness=ON_INTEGERS),
    rule("one-minus", "Sub(a, Mul(a, b))", "Mul(a, Sub(1, b))", "A - A.B is A.(1 - B)",
         exactness=ON_INTEGERS),
    rule("common-divisor", "Add(Div(a, c), Div(b, c))", "Div(Add(a, b), c)",
         "A/C + B/C is (A + B)/C"),
]

_WIDER: dict[DType, frozenset[DType]] = {
    DType.BOOL: frozenset((*INTEGERS, *FLOATS)),
    DType.U8: frozenset((DType.U16, DType.U32, DType.U64, DType.I16, DType.I32, DType.I64,
                         *FLOATS)),
    DType.I8: frozenset((DType.I16, DType.I32, DType.I64, *FLOATS)),
    DType.U16: frozenset((DType.U32, DType.U64, DType.I32, DType.I64, DType.F32, DType.F64)),
    DType.I16: frozenset((DType.I32, DType.I64, DType.F32, DType.F64)),
    DType.U32: frozenset((DType.U64, DType.I64, DType.F64)),
    DType.I32: frozenset((DType.I64, DType.F64)),
    DType.F16: frozenset((DType.F32, DType.F64)),
    DType.F32: frozenset((DType.F64,)),
}
"""Types that hold every number of a type."""
_COPIES = frozenset(("Identity", "Dropout"))


def _copy(node: Node, scene: Scene) -> Proposal | None:
    """Identity, and Dropout at inference, whose mask nobody reads."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and (training.weight is None or training.weight.array().any()):
        return None
    if any(v is not None and (v.consumers or v.is_output) for v in node.outputs[1:]):
        return None
    return alias((node,), node.outputs[0], node.inputs[0], scene)


def _same_cast(node: Node, scene: Scene) -> Proposal | None:
    return alias((node,), node.outputs[0], node.inputs[0], scene)


def _cast_chain(node: Node, scene: Scene) -> Proposal | None:
    """Cast(Cast(x)) where the first one loses nothing: one Cast, or none."""
    middle = node.inputs[0]
    first = middle.producer if middle is not None else None
    if first is None or first.op_type != "Cast" or first.domain or middle.weight is not None:
        return None
    x, output = first.inputs[0], node.outputs[0]
    if x is None or output is None or middle.dtype not in _WIDER.get(x.dtype, ()):
        return None
    if output.dtype is x.dtype:
        return alias((first, node), output, x, scene)
    if not scene.is_closed((first, node), (output,)):
        return None
    return Proposal((first, node), [make("Cast", [x], output, node.attrs, node.name)])


def _single(node: Node, scene: Scene) -> Proposal | None:
    """Sum, Mean, Max, Min or Concat of one value."""
    if len(node.inputs) != 1 or node.inputs[0] is None:
        return None
    return alias((node,), node.outputs[0], node.inputs[0], scene)


COPIES = [
    Rule("copy", _COPIES, EXACT, "Identity, and Dropout at inference, read through", _copy),
    Rule("cast-same", frozenset(("Cast",)), EXACT, "a Cast to the type it has", _same_cast),
    Rule("cast-chain", frozenset(("Cast",)), EXACT,
         "two Casts, the first to a type that holds every number", _cast_chain),
    Rule("single", frozenset(("Sum", "Mean", "Max", "Min", "Concat")), EXACT,
         "a sum, mean, maximum, minimum or Concat of one value", _single),
]

RULES = [*COPIES, *NEUTRAL, *POWERS, *CHAINS]
