"""For each rewrite rule: models it changes, and models like them that it must leave alone.

Inputs are what a body reads and nobody writes: x, y, ... of shape [N, M] unless said otherwise, b
and d are conditions. `#2` is a scalar constant, `#[M]` a random one of that shape, `#[M]+` a
positive one; N, M, K are drawn anew for each test. What a body writes last goes on to an Identity,
which is the model's output.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    fires: tuple[str, ...]
    stays: tuple[str, ...]
    dtype: str = "float"
    opset: int = 20
    shapes: tuple[tuple[str, str], ...] = ()
    positive: bool = False


def case(fires, stays, **options):
    fires, stays = ((texts,) if isinstance(texts, str) else tuple(texts)
                    for texts in (fires, stays))
    options["shapes"] = tuple(options.pop("shapes", {}).items())
    return Case(fires, stays, **options)


def gelu(inner):
    return [f"{inner} g = Add(e, #1) h = Mul(x, g) z = Mul(h, #0.5)",
            f"{inner} g = Add(#1, e) h = Mul(#0.5, x) z = Mul(g, h)",
            f"{inner} g = Add(e, #1) h = Mul(g, #0.5) z = Mul(x, h)"]


def shared(text, value="p"):
    """The same with a second reader of an inner value."""
    return f"{text} q_ = Tanh({value}) q = Sum(q_, z)"


DIVIDED = "Div(x, #1.4142135)"
ERF = f"d1 = {DIVIDED} e = Erf(d1)"
TANH = ("c3 = Pow(x, #3) k = Mul(c3, #0.044715) s = Add(x, k) t = Mul(s, #0.79788456) e = Tanh(t)")
SIX = "s = Add(x, #3) c = Clip(s, #0, #6)"
IMAGE = {"x": "N, 4, 9, 8"}
SCALE = "n = BatchNormalization <epsilon = 0.0> (x, #[4], #[4], #[4]=0, #[4]=1)"
TRAINED = ("n, m, v = BatchNormalization <epsilon = 0.0, training_mode = 1> "
           "(x, #[4], #[4], #[4]=0, #[4]=1)")
SAME = "Conv <pads = [1, 1, 1, 1]> (x, #[4, 4, 3, 3], #[4])"
DEPTHWISE = "Conv <group = 4, pads = [1, 1, 1, 1]> (x, #[4, 1, 3, 3])"

CASES: dict[str, Case] = {
    "recip-product": case("r = Reciprocal(x) m = Mul(x, y) s = Reciprocal(m) z = Mul(r, s)",
                          ["r = Reciprocal(w) m = Mul(x, y) s = Reciprocal(m) z = Mul(r, s)",
                           "r = Reciprocal(x) p = Mul(x, y) s = Reciprocal(p) m = Mul(r, s) "
                           "q = Tanh(p) z = Sum(q, m)"]),
    "sqrt-product": case("e = Exp(y) s = Sqrt(e) l = Mul(x, s) r = Mul(s, w) z = Mul(l, r)",
                         "s = Sqrt(y) l = Mul(x, s) r = Mul(s, w) z = Mul(l, r)"),
    "abs-product": case("a = Abs(x) l = Mul(a, y) c = Abs(w) z = Mul(l, c)",
                        ["a = Abs(x) l = Mul(a, y) z = Mul(l, w)",
                         "p = Abs(x) l = Mul(p, y) c = Abs(w) m = Mul(l, c) q = Tanh(p) "
                         "z = Sum(m, q)"]),
    "sum-product": case("s = ReduceSum <keepdims = 1> (y, #i[-1]) l = Mul(x, s) r = Mul(s, w) "
                        "z = Mul(l, r)",
                        ["l = Mul(x, y) r = Mul(y, w) z = Mul(l, r)",
                         "s = ReduceMax <keepdims = 1> (y, #i[-1]) l = Mul(x, s) r = Mul(s, w) "
                         "z = Mul(l, r)"]),
    "distribute": case(["l = Mul(x, y) r = Mul(x, w) z = Add(l, r)",
                        "l = Mul(y, x) r = Mul(x, w) z = Add(r, l)"],
                       ["l = Mul(x, y) r = Mul(w, v) z = Add(l, r)",
                        "p = Mul(x, y) r = Mul(x, w) m = Add(p, r) q = Tanh(p) z = Sum(m, q)"]),
    "distribute-one": case("p = Mul(x, y) z = Add(x, p)", "p = Mul(x, y) z = Add(w, p)"),
    "square-minus-product": case("s = Add(x, y) p = Mul(s, s) r = Mul(s, w) z = Sub(p, r)",
                                 "s = Add(x, y) p = Mul(s, s) r = Mul(x, w) z = Sub(p, r)"),
    "product-of-exp": case("e = Exp(x) z = ReduceProd <keepdims = 1> (e, #i[-1])",
                           ["e = Tanh(x) z = ReduceProd <keepdims = 1> (e, #i[-1])",
                            "p = Exp(x) m = ReduceProd <keepdims = 1> (p, #i[-1]) q = Tanh(p) "
                            "z = Sum(m, q)"]),
    "share": case(["a = Tanh(x) p = Tanh(x) z = Sub(a, p)", "a = Add(x, y) p = Add(y, x) "
                   "z = Div(a, p)", "a = Add(x, #2) p = Add(x, #2) z = Div(a, p)"],
                  ["a = Tanh(x) p = Tanh(y) z = Sub(a, p)", "a = Sub(x, y) p = Sub(y, x) "
                   "z = Div(a, p)", "a = LeakyRelu <alpha = 0.1> (x) p = LeakyRelu <alpha = 0.2> "
                   "(x) z = Sub(a, p)"]),
    "unread": case("a = Tanh(x) z = Neg(x)", "a = Tanh(x) z = Neg(a)"),
    "copy": case("a = Identity(x) z = Neg(a)", "z = Tanh(x)"),
    "cast-same": case("a = Cast <to = 1> (x) z = Neg(a)", "a = Cast <to = 11> (x) z = Neg(a)"),
    "cast-chain": case(["a = Cast <to = 11> (x) e = Cast <to = 1> (a) z = Neg(e)",
                        "a = Cast <to = 11> (x) z = Cast <to = 10> (a)"],
                       ["a = Cast <to = 10> (x) e = Cast <to = 1> (a) z = Neg(e)",
                        "a = Cast <to = 6> (x) e = Cast <to = 11> (a) z = Neg(e)"]),
    "single": case("a = Max(x) z = Neg(a)", "a = Max(x, y) z = Neg(a)"),
    "times-one": case(["a = Mul(x, #1) z = Neg(a)", "a = Mul(#1, x) z = Neg(a)"],
                      ["a = Mul(x, #1.5) z = Neg(a)", "a = Mul(x, #[3, 1, 1]=1) z = Neg(a)"]),
    "over-one": case("a = Div(x, #1) z = Neg(a)", "a = Div(#1, x) z = Neg(a)"),
    "plus-zero": case("a = Add(x, #0) z = Neg(a)", "a = Add(x, #1) z = Neg(a)"),
    "minus-zero": case("a = Sub(x, #0) z = Neg(a)",
                       ["a = Sub(#0, x) z = Neg(a)", "a = Sub(x, #-0.0) z = Neg(a)"]),
    "power-one": case("a = Pow(x, #1) z = Neg(a)", "a = Pow(x, #2) z = Neg(a)"),
    "negate-twice": case("a = Neg(x) e = Neg(a) z = Tanh(e)", "a = Neg(x) z = Tanh(a)"),
    "not-twice": case("a = Not(b) e = Not(a) z = And(e, d)", "a = Not(b) z = And(a, d)"),
    "and-same": case("a = And(b, b) z = Not(a)", "a = And(b, d) z = Not(a)"),
    "or-same": case("a = Or(b, b) z = Not(a)", "a = Or(b, d) z = Not(a)"),
    "max-same": case("a = Max(x, x) z = Neg(a)", "a = Max(x, y) z = Neg(a)"),
    "min-same": case("a = Min(x, x) z = Neg(a)", "a = Min(x, y) z = Neg(a)"),
    "abs-negative": case("a = Neg(x) z = Abs(a)",
                         ["a = Tanh(x) z = Abs(a)", "p = Neg(x) m = Abs(p) z = Sum(m, p)"]),
    "abs-twice": case("a = Abs(x) z = Abs(a)", "a = Neg(x) z = Abs(a)"),
    "relu-twice": case("a = Relu(x) z = Relu(a)", "a = Neg(x) z = Relu(a)"),
    "minus-negative": case("a = Neg(y) z = Sub(x, a)", "a = Neg(y) z = Sub(a, x)"),
    "plus-negative": case("a = Neg(y) z = Add(a, x)", "a = Abs(y) z = Add(a, x)"),
    "negative-product": case("a = Neg(x) c = Neg(y) z = Mul(a, c)", "a = Neg(x) z = Mul(a, y)"),
    "negative-quotient": case("a = Neg(x) c = Neg(y) z = Div(a, c)", "a = Neg(x) z = Div(a, y)"),
    "negative-constant": case("a = Neg(x) z = Mul(a, #[M])", "a = Neg(x) z = Mul(a, y)"),
    "constant-negative": case("a = Mul(x, #[M]) z = Neg(a)", "a = Mul(x, y) z = Neg(a)"),
    "negative-difference": case("a = Sub(x, y) z = Neg(a)", "a = Add(x, y) z = Neg(a)"),
    "where-not": case("a = Not(b) z = Where(a, x, y)",
                      ["z = Where(b, x, y)", "p = Not(b) m = Where(p, x, y) w = Where(p, m, x) "
                       "z = Sum(w, m)"]),
    "where-same": case("a = Where(b, x, x) z = Neg(a)",
                       ["a = Where(b, x, y) z = Neg(a)", "a = Where(d, s, s) z = Neg(a)"]),
    "clip": case(["m = Max(x, #-1) z = Min(m, #1)", "m = Max(x, #2) z = Min(#1, m)"],
                 ["m = Max(x, #[M]) z = Min(m, #1)", "m = Max(x, y) z = Min(m, #1)"]),
    "power-two": case("z = Pow(x, #2)", ["z = Pow(x, #2.5)", "z = Pow(x, y)"]),
    "power-three": case("z = Pow(x, #3)", "z = Pow(x, #4)"),
    "power-half": case("e = Exp(x) z = Pow(e, #0.5)", "z = Pow(x, #0.5)"),
    "power-minus-one": case("z = Pow(x, #-1)", "z = Pow(x, #-1.5)"),
    "power-minus-half": case("e = Exp(x) z = Pow(e, #-0.5)", "z = Pow(x, #-0.5)"),
    "power-minus-two": case("z = Pow(x, #-2)", "z = Pow(x, #-3)"),
    "sqrt-square": case("m = Mul(x, x) z = Sqrt(m)", "m = Mul(x, y) z = Sqrt(m)", positive=True),
    "square-sqrt": case("e = Exp(x) s = Sqrt(e) m = Mul(s, s) z = Neg(m)",
                        "s = Sqrt(x) m = Mul(s, s) z = Neg(m)", positive=True),
    "recip-twice": case("r = Reciprocal(x) s = Reciprocal(r) z = Neg(s)",
                        "r = Reciprocal(x) s = Neg(r) z = Neg(s)"),
    "recip-times": case("r = Reciprocal(y) z = Mul(x, r)", "r = Neg(y) z = Mul(x, r)"),
    "over-recip": case("r = Reciprocal(y) z = Div(x, r)", "r = Reciprocal(y) z = Div(r, x)"),
    "one-over-times": case("r = Div(#1, y) z = Mul(x, r)", "r = Div(#2, y) z = Mul(x, r)"),
    "log-exp": case("e = Exp(x) l = Log(e) z = Neg(l)", "e = Tanh(x) l = Log(e) z = Neg(l)",
                    positive=True),
    "exp-log": case("a = Abs(x) l = Log(a) e = Exp(l) z = Neg(e)",
                    "l = Log(x) e = Exp(l) z = Neg(e)", positive=True),
    "exp-product": case("a = Exp(x) c = Exp(y) z = Mul(a, c)", "a = Exp(x) z = Mul(a, y)"),
    "exp-quotient": case("a = Exp(x) c = Exp(y) z = Div(a, c)", "a = Exp(x) z = Div(a, y)"),
    "log-sum": case("e = Exp(x) f = Abs(y) a = Log(e) c = Log(f) z = Add(a, c)",
                    "e = Exp(x) a = Log(e) c = Log(y) z = Add(a, c)", positive=True),
    "add-add": case(["a = Add(x, #2) z = Add(a, #[M])", "a = Add(#[M], x) z = Add(#3, a)"],
                    ["a = Add(x, #2) z = Add(a, y)", "a = Add(x, #[2, 1, M]) z = Add(a, #[N, 1])",
                     "a = Add(x, #3e38) z = Add(a, #3e38)"]),
    "mul-mul": case("a = Mul(x, #2.5) z = Mul(#[M], a)",
                    ["a = Mul(x, #2.5) z = Mul(y, a)", "a = Mul(x, #1e-30) z = Mul(a, #1e-30)"]),
    "sub-add": case("a = Sub(x, #2) z = Add(a, #[M])", "a = Sub(x, #2) z = Add(a, y)"),
    "add-sub": case("a = Add(x, #2) z = Sub(a, #[M])", "a = Add(x, #2) z = Sub(#1, a)"),
    "sub-sub": case("a = Sub(x, #2) z = Sub(a, #[M])", "a = Sub(#2, x) z = Sub(a, #1)"),
    "from-add": case("a = Sub(#2, x) z = Add(a, #[M])", "a = Sub(#2, x) z = Add(a, y)"),
    "from-from": case("a = Sub(#2, x) z = Sub(#3, a)", "a = Sub(y, x) z = Sub(#3, a)"),
    "from-add-constant": case("a = Add(#2, x) z = Sub(#3, a)", "a = Add(y, x) z = Sub(#3, a)"),
    "div-mul": case("a = Div(x, #[M]+) z = Mul(a, #3)", "a = Div(#3, x) z = Mul(a, #3)"),
    "mul-div": case("a = Mul(x, #3) z = Div(a, #[M]+)", ["a = Mul(x, #3) z = Div(#2, a)",
                                                          "a = Mul(x, #3) z = Div(a, #0)"]),
    "div-div": case("a = Div(x, #3) z = Div(a, #[M]+)", "a = Div(x, #3) z = Div(#2, a)"),
    "scale-affine": case("a = Mul(x, #3) c = Add(a, #[M]) z = Mul(c, #0.3)",
                         "a = Mul(x, #3) c = Add(a, y) z = Mul(c, #0.3)"),
    "scale-shift": case("a = Add(x, #2) c = Add(y, #[M]) z = Add(a, c)",
                        "a = Add(x, #2) z = Add(a, y)"),
    "scale-scale": case("a = Mul(x, #2) c = Mul(y, #[M]) z = Mul(a, c)",
                        "a = Mul(x, #2) z = Mul(a, y)"),
    "distribute-minus": case("l = Mul(x, y) r = Mul(w, x) z = Sub(l, r)",
                             "l = Mul(x, y) r = Mul(w, v) z = Sub(l, r)"),
    "one-minus": case("p = Mul(x, y) z = Sub(x, p)", "p = Mul(x, y) z = Sub(p, x)"),
    "common-divisor": case("l = Div(x, w) r = Div(y, w) z = Add(l, r)",
                           "l = Div(x, w) r = Div(w, y) z = Add(l, r)"),
    "gelu": case([*gelu(ERF), *gelu(ERF.replace(DIVIDED, "Mul(x, #0.70710678)"))],
                 [gelu(ERF.replace("1.4142135", "1.5"))[0],
                  f"{ERF} g = Add(e, #1) h = Mul(y, g) z = Mul(h, #0.5)",
                  gelu(ERF)[0] + " q = Sum(z, e)"]),
    "gelu-tanh": case([*gelu(TANH), gelu(TANH.replace("Pow(x, #3)", "Mul(x2, x)").replace(
        "c3 =", "x2 = Mul(x, x) c3 =", 1))[0]],
        gelu(TANH.replace("0.044715", "0.05"))[0]),
    "quick-gelu": case("m = Mul(x, #1.702) s = Sigmoid(m) z = Mul(x, s)",
                       "m = Mul(x, #1.7) s = Sigmoid(m) z = Mul(x, s)", opset=24),
    "hard-swish": case([f"{SIX} h = Div(c, #6) z = Mul(x, h)",
                        f"{SIX} h = Mul(x, c) z = Div(h, #6)",
                        f"{SIX} h = Mul(c, #0.16666667) z = Mul(h, x)",
                        f"{SIX} h = Mul(x, #0.16666667) z = Mul(h, c)"],
                       [f"{SIX} h = Div(c, #5) z = Mul(x, h)", f"{SIX} h = Div(c, #6) "
                        "z = Mul(y, h)"]),
    "hard-sigmoid": case([f"{SIX} z = Div(c, #6)", f"{SIX} z = Mul(c, #0.16666667)"],
                         f"{SIX} z = Div(c, #3)"),
    "softplus": case("e = Exp(x) a = Add(e, #1) z = Log(a)",
                     "e = Exp(x) a = Add(e, #2) z = Log(a)"),
    "mish": case("s = Softplus(x) t = Tanh(s) z = Mul(t, x)",
                 "s = Softplus(x) t = Tanh(s) z = Mul(t, y)"),
    "sigmoid": case(["n = Neg(x) e = Exp(n) a = Add(e, #1) z = Reciprocal(a)",
                     "n = Neg(x) e = Exp(n) a = Add(#1, e) z = Div(#1, a)"],
                    "n = Neg(x) e = Exp(n) a = Add(e, #1) z = Div(#2, a)"),
    "softsign": case("a = Abs(x) s = Add(a, #1) z = Div(x, s)",
                     "a = Abs(x) s = Add(a, #1) z = Div(y, s)"),
    "relu-clip": case("r = Relu(x) z = Clip(r, #0, #6)", "r = Relu(x) z = Clip(r, #-1, #6)"),
    "move-nothing": case(["r = Reshape(x, #i[N, M]) z = Neg(r)",
                          "r = Expand(x, #i[N, M]) z = Neg(r)",
                          "r = Slice(x, #i[0], #i[99], #i[1]) z = Neg(r)",
                          "r = Tile(x, #i[1, 1]) z = Neg(r)",
                          "r = Transpose <perm = [1, 0, 2]> (u) z = Neg(r)",
                          "r = Pad(x, #i[0, 0, 0, 0]) z = Neg(r)"],
                         ["r = Slice(x, #i[-1], #i[-99], #i[1], #i[-1]) z = Neg(r)",
                          "r = Transpose <perm = [1, 0]> (t) z = Neg(r)",
                          "r = Pad(x, #i[1, 0, -1, 0]) z = Neg(r)",
                          "r = Reshape(x, #i[M, 1, N]) z = Neg(r)"],
                         shapes={"u": "1, 1, M", "t": "3, 3"}),
    "reshapes": case(["r = Reshape(v, #i[M, -1]) z = Reshape(r, #i[-1, M])",
                      "r = Flatten(v) z = Unsqueeze(r, #i[0])",
                      "r = Unsqueeze(x, #i[1]) s = Squeeze(r, #i[1]) z = Neg(s)"],
                     ["p = Reshape(v, #i[M, -1]) m = Reshape(p, #i[-1, M]) q = Tanh(p) "
                      "w2 = Tanh(m) s1 = ReduceSum <keepdims = 0> (q) "
                      "s2 = ReduceSum <keepdims = 0> (w2) z = Add(s1, s2)",
                      "r = Reshape(v, #i[M, -1]) z = Neg(r)"]),
    "transposes": case(["a = Transpose <perm = [2, 0, 1]> (v) z = Transpose <perm = [0, 2, 1]> (a)",
                        "a = Transpose <perm = [2, 0, 1]> (v) c = Transpose <perm = [1, 2, 0]> (a) "
                        "z = Neg(c)"],
                       "a = Transpose <perm = [2, 0, 1]> (v) z = Neg(a)"),
    "expanded": case(["e = Expand(r, #i[N, M]) z = Add(x, e)",
                      "e = Expand(r, #i[N, M]) z = Where(b, e, x)",
                      "e = Expand(r, #i[N, M]) z = PRelu(x, e)"],
                     ["e = Expand(r, #i[N, M]) z = Add(r, e)",
                      "e = Expand(r, #i[N, M]) z = PRelu(e, x)",
                      "p = Expand(r, #i[N, M]) m = Add(x, p) z = Sum(m, p)"]),
    "transposed-gemm": case(["t = Transpose(g) z = Gemm(t, h)",
                             "t = Transpose(h) z = Gemm <transA = 1, alpha = 0.5> (g, t, #[4])"],
                            "z = Gemm <transA = 1> (g, h)", shapes={"g": "4, 4", "h": "4, 4"}),
    "concat-of-split": case("p, q = Split <axis = 1, num_outputs = 2> (f) c = Concat <axis = 1> "
                            "(p, q) z = Neg(c)",
                            ["p, q = Split <axis = 1, num_outputs = 2> (f) c = Concat <axis = 1> "
                             "(q, p) z = Neg(c)",
                             "p, q = Split <axis = 1, num_outputs = 2> (f) c = Concat <axis = 0> "
                             "(p, q) z = Neg(c)"], shapes={"f": "N, 6"}),
    "split-of-concat": case("c = Concat <axis = 0> (x, y) p, q = Split <axis = 0> (c, #i[N, N]) "
                            "n = Neg(p) z = Sub(n, q)",
                            "c = Concat <axis = 0> (f, g) p, q = Split <axis = 0> (c, #i[2, 5]) "
                            "z = Concat <axis = 0> (q, p)", shapes={"f": "3, M", "g": "4, M"}),
    "slice-of-concat": case("c = Concat <axis = 0> (x, y) p = Slice(c, #i[N], #i[99], #i[0]) "
                            "z = Neg(p)",
                            "c = Concat <axis = 0> (f, g) p = Slice(c, #i[2], #i[99], #i[0]) "
                            "z = Neg(p)", shapes={"f": "3, M", "g": "4, M"}),
    "slice-of-slice": case("p = Slice(f, #i[1], #i[6], #i[0]) z = Slice(p, #i[-3], #i[-1], #i[0])",
                           ["p = Slice(f, #i[1], #i[6], #i[0]) z = Slice(p, #i[0], #i[1], #i[1])",
                            "p = Slice(f, #i[1], #i[6], #i[0]) "
                            "z = Slice(p, #i[0], #i[9], #i[0], #i[2])"],
                           shapes={"f": "7, 3"}),
    "concats": case("c = Concat <axis = 1> (x, y) z = Concat <axis = -1> (w, c, x)",
                    "c = Concat <axis = 0> (x, y) e = Concat <axis = 0> (w, w) "
                    "z = Concat <axis = 1> (c, e)"),
    "squeezed-reduction": case("m = ReduceMean <keepdims = 1> (v, #i[1]) z = Squeeze(m, #i[-2])",
                               "m = ReduceMean <keepdims = 1> (v, #i[1, 0]) z = Squeeze(m, #i[1])"),
    "after-conv": case(["c = Conv <pads = [1, 1, 1, 1]> (x, #[6, 4, 3, 3], #[6]) "
                        "z = Mul(c, #[1, 6, 1, 1]+)",
                        "c = Conv <group = 2> (x, #[6, 2, 3, 3]) z = Add(#[6, 1, 1], c)",
                        "c = Conv (x, #[6, 4, 1, 1]) m = Mul(c, #2) z = Add(m, #[6, 1, 1])"],
                       ["c = Conv (x, #[6, 4, 2, 2]) z = Mul(c, #[7])",
                        "c = Conv (x, #[6, 4, 2, 2]) z = Mul(c, #1e-12)",
                        "p = Conv (x, #[6, 4, 2, 2]) m = Mul(p, #2) z = Sum(p, m)"],
                       shapes=IMAGE),
    "after-gemm": case(["g1 = Gemm (x, #[M, 5], #[5]) z = Mul(g1, #[5]+)",
                        "g1 = Gemm <transB = 1> (x, #[5, M]) z = Add(g1, #[5])"],
                       ["g1 = Gemm (x, #[M, 5], #[N, 5]) z = Mul(g1, #[5]+)",
                        "g1 = Gemm (x, #[M, 5]) z = Mul(g1, y)"], shapes={"y": "N, 5"}),
    "after-matmul": case("m = MatMul(v, #[M, 5]) z = Mul(m, #[5]+)",
                         ["m = MatMul(v, #[M, 5]) z = Mul(m, #[2, N, 5]+)",
                          "m = MatMul(x, y) z = Mul(m, #2)"], shapes={"y": "M, 4"}),
    "before-matmul": case("m = Mul(v, #[M]+) z = MatMul(m, #[M, 5])",
                          ["m = Mul(v, #[1, N, 1]+) z = MatMul(m, #[M, 5])",
                           "m = Mul(v, #[M]+) z = MatMul(m, y)"], shapes={"y": "M, 4"}),
    "scaled-pair": case("a = Mul(x, #0.5) c = Mul(#0.25, y) z = MatMul(a, c)",
                        ["a = Mul(x, #[M]) c = Mul(#0.25, y) z = MatMul(a, c)",
                         "a = Mul(x, #0.5) z = MatMul(a, y)",
                         "p = Mul(x, #0.5) c = Mul(#0.25, y) m = MatMul(p, c) s = ReduceSum(p) "
                         "z = Add(m, s)"], shapes={"y": "M, 4"}),
    "norm-to-linear": case("n = LayerNormalization <axis = -1> (v, #[M]+, #[M]) "
                           "m = MatMul(n, #[M, 5]) z = Add(#[5], m)",
                           ["n = LayerNormalization <axis = -1> (v, #[M]+, #[M]) "
                            "m = MatMul(n, #[M, 5]) s = ReduceSum(n) a = Add(m, #[5]) "
                            "z = Add(a, s)",
                            "n = LayerNormalization <axis = -1> (v, #[M]+, #[M]) "
                            "m = MatMul(n, #[M, 5]) z = Add(m, #[N, 1])"]),
    "before-conv": case("m = Mul(x, #[4, 1, 1]+) z = Conv <pads = [1, 1, 1, 1]> "
                        "(m, #[6, 4, 3, 3], #[6])",
                        "m = Mul(x, #[4, 1, 1]+) z = Conv <group = 2> (m, #[6, 2, 3, 3])",
                        shapes=IMAGE),
    "sum-convs": case([f"a = {SAME} c = Conv (x, #[4, 4, 1, 1]) z = Add(a, c)",
                       f"a = {SAME} c = Conv (x, #[4, 4, 1, 1], #[4]) z = Sub(c, a)",
                       f"a = {DEPTHWISE} c = {DEPTHWISE} z = Sub(a, c)",
                       "a = Conv <strides = [2, 2], dilations = [2, 2], pads = [2, 2, 2, 2]> "
                       "(x, #[6, 4, 3, 3]) c = Conv <strides = [2, 2]> (x, #[6, 4, 1, 1]) "
                       "z = Add(a, c)",
                       "a = Conv <pads = [2, 0, 1, 3]> (x, #[6, 4, 4, 3]) "
                       "c = Conv <pads = [1, 0, 0, 2]> (x, #[6, 4, 2, 2]) z = Add(a, c)"],
                      [f"a = {SAME} c = Conv (y, #[4, 4, 1, 1]) z = Add(a, c)",
                       f"p = {SAME} c = Conv (x, #[4, 4, 1, 1]) s = Add(p, c) q = Tanh(p) "
                       "z = Sum(q, s)",
                       f"a = {SAME} c = {DEPTHWISE} z = Add(a, c)",
                       f"a = {SAME} c = Conv <group = 2> (x, #[4, 2, 1, 1]) z = Add(a, c)",
                       "a = Conv <pads = [1, 1, 1, 1]> (x, #[4, 4, 3, 3]) "
                       "c = Conv <pads = [0, 0, 2, 2]> (x, #[4, 4, 3, 3]) z = Add(a, c)",
                       f"a = {SAME} c = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> "
                       "(x, #[4, 4, 3, 3]) z = Add(a, c)",
                       "a = Conv <strides = [9, 8]> (x, #[4, 4, 9, 8]) c = Conv "
                       "(x, #[4, 4, 9, 8]) z = Add(a, c)",
                       f"a = {SAME} c = Conv <auto_pad = \"SAME_UPPER\"> (x, #[4, 4, 3, 3]) "
                       "z = Add(a, c)", f"a = {SAME} z = Add(a, a)"],
                      shapes={**IMAGE, "y": IMAGE["x"]}),
    "conv-and-scale": case([f"a = {SAME} {SCALE} z = Add(n, a)",
                            f"a = {SAME} {SCALE} z = Sub(n, a)",
                            f"a = {DEPTHWISE} {SCALE} z = Sub(a, n)",
                            f"a = Conv <group = 2> (x, #[4, 2, 1, 1]) {SCALE} z = Add(a, n)"],
                           ["a = Conv <pads = [1, 1, 1, 1]> "
                            f"(y, #[4, 4, 3, 3]) {SCALE} z = Add(a, n)",
                            f"a = Conv <pads = [2, 2, 2, 2], dilations = [4, 4]> "
                            f"(x, #[4, 4, 2, 2]) {SCALE} z = Add(a, n)",
                            f"a = {SAME} {SCALE.replace('=0', '')} z = Add(n, a)",
                            f"a = {SAME} {TRAINED} z = Add(n, a)"],
                           shapes={**IMAGE, "y": IMAGE["x"]}),
    "depthwise-and-input": case([f"a = {DEPTHWISE} z = Add(x, a)",
                                 f"a = {DEPTHWISE} z = Sub(x, a)"],
                                [f"a = {SAME} z = Add(x, a)", f"a = {DEPTHWISE} z = Add(a, y)",
                                 f"p = {DEPTHWISE} s = Add(p, x) q = Tanh(p) z = Sum(q, s)"],
                                shapes={**IMAGE, "y": IMAGE["x"]}),
    "norm-after-conv": case([f"a = {SAME} {SCALE.replace('x', 'a')} z = Relu(n)",
                             f"a = {DEPTHWISE} {SCALE.replace('x', 'a')} z = Relu(n)"],
                            [f"p = {SAME} {SCALE.replace('x', 'p')} q = Tanh(p) z = Sum(n, q)",
                             f"a = {SAME} {SCALE.replace('x', 'a').replace('=0', '')} z = Relu(n)",
                             f"a = {SAME} {TRAINED.replace('x', 'a')} z = Relu(n)"],
                            shapes=IMAGE),
    "pad-into-window": case(["p = Pad(x, #i[0, 0, 1, 2, 0, 0, 2, 1]) z = Conv (p, #[6, 4, 3, 3])",
                             "p = Pad(x, #i[0, 0, 1, 1, 0, 0, 1, 1]) z = AveragePool "
                             "<kernel_shape = [3, 3]> (p)"],
                            ["p = Pad <mode = \"reflect\"> (x, #i[0, 0, 1, 2, 0, 0, 2, 1]) "
                             "z = Conv (p, #[6, 4, 3, 3])",
                             "p = Pad(x, #i[0, 0, 1, 2, 0, 0, 2, 1], #1) "
                             "z = Conv (p, #[6, 4, 3, 3])",
                             "p = Pad(x, #i[0, 1, 1, 2, 0, 1, 2, 1]) z = Conv (p, #[6, 6, 3, 3])",
                             "p = Pad(x, #i[0, 0, 1, 1, 0, 0, 1, 1]) z = MaxPool "
                             "<kernel_shape = [3, 3]> (p)"], shapes=IMAGE),
}

INTEGERS = (
    "sum-product", "distribute", "distribute-one", "square-minus-product", "plus-zero",
    "add-add", "mul-mul", "sub-add", "add-sub", "sub-sub", "from-add", "from-from",
    "from-add-constant", "scale-shift", "scale-scale", "distribute-minus", "one-minus",
    "negative-difference", "negate-twice", "minus-negative", "plus-negative",
    "negative-product", "negative-constant", "constant-negative", "abs-negative", "abs-twice",
    "times-one", "over-one", "minus-zero", "max-same", "min-same")
"""Rules that are exact on integers, and fire there too."""
