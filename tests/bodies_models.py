"""Models with bodies, as text for onnx.parser, and one that is too deep for it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper

from onnx_fusion.graph import wire

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

BRANCHES = HEAD + """
main (bool c, float[N, 3] x) => (float[N, 3] y)
<float[3] w = {0.5, -1.0, 2.0}>
{
    e = Exp (x)
    [pick] y = If (c) <
        then_branch = plus () => (float[N, 3] p) <float[3] b = {1.0, 2.0, 3.0}> {
            [scale] s = Mul (e, w)
            [shift] t = Add (s, b)
            [cut] p = Relu (t)
        },
        else_branch = minus () => (float[N, 3] q) {
            [turn] n = Neg (e)
            [round] r = Tanh (n)
            [wide] q = Mul (r, w)
        }
    >
}
"""

NESTED = HEAD + """
main (bool c, bool d, float[2, 3] x) => (float[2, 3] y)
{
    [outer] y = If (c) <
        then_branch = a () => (float[2, 3] p) {
            e = Exp (x)
            [inner] p = If (d) <
                then_branch = aa () => (float[2, 3] pp) {
                    s = Mul (e, x)
                    pp = Tanh (s)
                },
                else_branch = ab () => (float[2, 3] pq) {
                    s2 = Sub (x, e)
                    pq = Sigmoid (s2)
                }
            >
        },
        else_branch = b () => (float[2, 3] q) {
            r = Neg (x)
            q = Relu (r)
        }
    >
}
"""

LOOP = HEAD + """
main (int64 m, bool c, float[2, 3] x, float[3] k) => (float[2, 3] y, float[R, 2, 3] all)
{
    [again] y, all = Loop (m, c, x) <
        body = step (int64 i, bool on, float[A, B] v) => (bool go, float[A, B] w, float[A, B] o) {
            go = Identity (on)
            s = Mul (v, k)
            t = Tanh (s)
            w = Add (t, x)
            n = Neg (w)
            o = Exp (n)
        }
    >
}
"""

GROWING = HEAD + """
main (int64 m, bool c, float[2, 3] x) => (float[L, 3] y)
{
    [again] y = Loop (m, c, x) <
        body = step (int64 i, bool on, float[2, 3] v) => (bool go, float[2, 3] w) {
            go = Identity (on)
            s = Mul (v, v)
            t = Tanh (s)
            w = Concat <axis = 0> (t, x)
        }
    >
}
"""

SCAN = HEAD + """
main (float[4] h, float[S, 4] x) => (float[4] last, float[S, 4] all)
{
    [along] last, all = Scan (h, x) <
        num_scan_inputs = 1,
        body = step (float[4] v, float[4] xi) => (float[4] w, float[4] o) {
            s = Add (v, xi)
            w = Tanh (s)
            n = Neg (w)
            o = Exp (n)
        }
    >
}
"""


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def feeds(model: onnx.ModelProto, **given: object) -> dict[str, np.ndarray]:
    """Return inputs: those given, else random floats; unknown extents are 2."""
    rng = np.random.default_rng(3)
    made = {}
    for info in model.graph.input:
        dims = [dim.dim_value or 2 for dim in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        value = given.get(info.name)
        made[info.name] = (rng.standard_normal(dims).astype(np.float32) if value is None
                           else np.array(value, dtype))
    return made


def nested_file(depth: int) -> bytes:
    """Return a serialized model with so many Ifs inside each other, however deep."""
    boolean = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    body = b""
    for level in range(depth, -1, -1):
        y = helper.make_tensor_value_info(f"y{level}", TensorProto.FLOAT, [2])
        if level == depth:
            nodes = [helper.make_node("Neg", ["x"], ["n"]),
                     helper.make_node("Exp", ["n"], [y.name])]
            graph = helper.make_graph(nodes, "innermost", [], [y]).SerializeToString()
        else:
            result = helper.make_tensor_value_info(f"e{level}", TensorProto.FLOAT, [2])
            negate = helper.make_node("Neg", ["x"], [result.name])
            other = helper.make_graph([negate], "other", [], [result])
            node = helper.make_node("If", ["c"], [y.name], else_branch=other).SerializeToString()
            then = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH)
            then = then.SerializeToString() + wire.head(6, len(body)) + body
            node += wire.head(5, len(then)) + then
            graph = wire.head(1, len(node)) + node
            inputs = [boolean, x] if level == 0 else []
            graph += onnx.GraphProto(name=f"g{level}", input=inputs, output=[y]).SerializeToString()
        body = graph
    model = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)])
    return model.SerializeToString() + wire.head(7, len(body)) + body
