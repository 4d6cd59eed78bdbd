"""Channels in other orders: no shuffle is left where there may be none, and the results stay ONNX
Runtime's."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.graph.load import load
from onnx_fusion.passes.channel_classes import Classes
from onnx_fusion.passes.pipeline import prepare
from onnx_fusion.runtime.library import get_library_path

CONV = "Conv<kernel_shape=[1,1]>"
SHUFFLE = """{0}_five = Reshape({0}, five_{2})
    {0}_turned = Transpose<perm=[0,2,1,3,4]>({0}_five)
    {1} = Reshape({0}_turned, four_{2})"""


def model(body, weights, *, batch="N", channels=8, outputs="y", opset=17, ints=()):
    """Return the model of a text: x in, constants by shape or value, SHUFFLEs of 2 by 4 and 2 by
    8."""
    rng = np.random.default_rng(7)
    shapes = {
        "five_8": [0, 2, 4, 6, 5],
        "four_8": [0, 8, 6, 5],
        "five_16": [0, 2, 8, 6, 5],
        "four_16": [0, 16, 6, 5],
    }
    made = ", ".join(f"float[] {name}" for name in outputs.split())
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
        f"g (float[{batch}, {channels}, 6, 5] x) => ({made}) {{ {body} }}"
    )
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (shapes | dict(ints)).items()
    )
    for name, given in weights.items():
        array = np.float32(rng.standard_normal(given) if isinstance(given, tuple) else given)
        proto.graph.initializer.append(numpy_helper.from_array(np.array(array), name))
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for k, node in enumerate(proto.graph.node):
        node.name = f"n{k}"
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    for old, new in zip(proto.graph.output, inferred.graph.output, strict=True):
        old.CopyFrom(new)
    return proto


UNIT = {
    "w0": (8, 8, 1, 1),
    "w1": (8, 8, 1, 1),
    "b1": (8,),
    "d": (8, 1, 3, 3),
    "e": (8,),
    "w2": (8, 8, 1, 1),
}
PAIR = {"w1": (8, 8, 1, 1), "w2": (4, 8, 1, 1)}
DEPTHWISE = "Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8>"
SPLIT = "{1}, {2} = Split<axis=1>({0})"
BLOCKS = f"""p = {CONV}(x, w0)
    q0 = {CONV}(p, w1, b1) q1 = Relu(q0) q2 = {DEPTHWISE}(q1, d, e) q = {CONV}(q2, w2)
    c0 = Concat<axis=1>(p, q) {SHUFFLE.format("c0", "c1", 16)} {SPLIT.format("c1", "l1", "r1")}
    s0 = {CONV}(r1, w1) s1 = Relu(s0) s2 = {DEPTHWISE}(s1, d) s = {CONV}(s2, w2)
    c2 = Concat<axis=1>(l1, s) {SHUFFLE.format("c2", "c3", 16)} {SPLIT.format("c3", "l2", "r2")}
    t0 = {CONV}(r2, w1) t = {CONV}(t0, w2) """
BETWEEN = f"a = {CONV}(x, w1) {SHUFFLE.format('a', 'b', 8)} y = {CONV}(b, w2)"
CASES = {
    "between convolutions": (BETWEEN, PAIR, {}),
    "of a batch of one": (BETWEEN, PAIR, {"batch": 1}),
    "before the output": (f"a = {CONV}(x, w1) {SHUFFLE.format('a', 'y', 8)}", PAIR, {}),
    "of the input": (f"{SHUFFLE.format('x', 'b', 8)} y = {CONV}(b, w2)", PAIR, {}),
    "by way of what passes channels on": (
        f"""a = {CONV}(x, w1) b = HardSwish(a) c = BatchNormalization(b, s, t, m, v) d = Mul(c, k)
        e = MaxPool<kernel_shape=[2,2]>(d) f = Mul(e, e)
        g = Reshape(f, five) h = Transpose<perm=[0,2,1,3,4]>(g) i = Reshape(h, four)
        j = PRelu(i, k) l = Resize<mode="nearest">(j, , scales) n = InstanceNormalization(l, s, t)
        o = GlobalAveragePool(n) p = Flatten(o) y = Gemm<transB=1>(p, w3)""",
        {"w1": (8, 8, 1, 1), "s": (8,), "t": (8,), "m": (8,), "v": [2] * 8, "k": (8, 1, 1),
         "w3": (3, 8), "scales": [1, 1, 2, 2]},
        {"ints": [("five", [0, 2, 4, 5, 4]), ("four", [0, 8, 5, 4])]}),
    "with the channels' weights": (
        f"""a = {CONV}(x, w1) m = GlobalAveragePool(a) n = {CONV}(m, w2) o = Relu(n)
        q = {CONV}(o, w3) s = Sigmoid(q) b = Mul(a, s)
        {SHUFFLE.format("b", "c", 8)} y = {CONV}(c, w2)""",
        {**PAIR, "w3": (8, 4, 1, 1)}, {}),
    "by an activation that the model spells out": (
        f"""a = {CONV}(x, w1) b = Add(a, three) c = Clip(b, low, high) d = Mul(a, c)
        e = Div(d, high) {SHUFFLE.format("e", "f", 8)} y = {CONV}(f, w2)""",
        {**PAIR, "three": 3, "low": 0, "high": 6}, {}),
    "by a list of channels": (
        f"a = {CONV}(x, w1) b = Gather<axis=1>(a, order) y = {CONV}(b, w2)", PAIR,
        {"ints": [("order", [3, 1, 7, 5, 0, 2, 4, -2])]}),
    "of joined halves": (BLOCKS + f"c4 = Concat<axis=1>(l2, t) y = {CONV}(c4, w5)",
                         {**UNIT, "w5": (4, 16, 1, 1)}, {}),
    "with another output": (BLOCKS + f"c4 = Concat<axis=1>(l2, t) z = {CONV}(c4, w5) y = Tanh(q)",
                            {**UNIT, "w5": (4, 16, 1, 1)}, {"outputs": "y z"}),
    "sliced": (
        f"""a = {CONV}(x, w1) {SHUFFLE.format("a", "b", 8)} c = Slice(b, i0, i4, i1)
        d = Slice(b, i4, i8, i1) e = {CONV}(c, w3) f = {CONV}(d, w3) y = Add(e, f)""",
        {"w1": (8, 8, 1, 1), "w3": (4, 4, 1, 1)}, {"ints": [(f"i{k}", [k]) for k in (0, 1, 4, 8)]}),
    "taken apart by the leading axis": (
        f"""a = {CONV}(x, w1) b = Reshape(a, b0) c = Transpose<perm=[1,0,2]>(b) d = Reshape(c, d0)
        e = Gather(d, zero) f = Gather(d, one) g = {CONV}(e, w3) h = {CONV}(f, w3) y = Add(g, h)""",
        {"w1": (8, 8, 1, 1), "w3": (4, 4, 1, 1)},
        {"batch": 1,
         "ints": [("b0", [4, 2, 30]), ("d0", [2, -1, 4, 6, 5]), ("zero", 0), ("one", 1)]}),
    "of pixels flattened": (
        f"""a = {CONV}(x, w1) b = Reshape(a, b0) c = Transpose<perm=[0,2,1,3]>(b)
        d = Reshape(c, four_8) y = {CONV}(d, w2)""", PAIR, {"ints": [("b0", [0, 4, 2, 30])]}),
    "between transposed convolutions": (
        f"a = ConvTranspose(x, w1) {SHUFFLE.format('a', 'b', 8)} y = ConvTranspose(b, w3)",
        {"w1": (8, 8, 1, 1), "w3": (8, 2, 2, 2)}, {}),
}  # fmt: skip
STAY = {
    "in front of groups": (
        f"a = Conv<group=2>(x, w3) {SHUFFLE.format('a', 'b', 8)} y = Conv<group=2>(b, w3)",
        {"w3": (8, 4, 1, 1)}),
    "from input to output": (f"a = Relu(x) {SHUFFLE.format('a', 'y', 8)}", {}),
    "added to what it shuffles": (
        f"a = {CONV}(x, w1) {SHUFFLE.format('a', 'b', 8)} c = Add(a, b) y = {CONV}(c, w2)", PAIR),
    "and a channel taken out": (
        f"""a = {CONV}(x, w1) {SHUFFLE.format('a', 'b', 8)} c = Gather<axis=1>(b, one)
        d = Concat<axis=1>(c, c) e = Unsqueeze(d, ones) f = Concat<axis=1>(e, e) g = {CONV}(f, w3)
        z = Relu(g) y = {CONV}(b, w2)""",
        {**PAIR, "w3": (2, 2, 1, 1)}, {"outputs": "y z", "ints": [("one", 1), ("ones", [1])]}),
    "a softmax over channels": (
        f"a = Softmax<axis=1>(x) {SHUFFLE.format('a', 'b', 8)} y = Softmax<axis=1>(b)", {}),
}  # fmt: skip


def built(case):
    body, weights, more = (*case, {})[:3]
    return model(body, weights, **more)


def kinds(proto, **options):
    return {node.op_type for node in prepare(load(proto), **options).nodes}


def run(proto, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=providers
    ).run(None, {"x": x})


def check(proto, made):
    """Fail if the optimized model gives something else, with the library or without."""
    onnx.checker.check_model(made)
    dims = [d.dim_value or 3 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(dims).astype(np.float32)
    want = run(proto, x)
    results = [run(made, x)]
    if get_library_path():
        results.append(onnx_fusion.session(made).run(None, {"x": x}))
    for got in results:
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("name", CASES)
def test_no_shuffle_is_left(name):
    proto = built(CASES[name])
    assert not kinds(proto) & {"Transpose", "Gather"}
    check(proto, api.optimize(proto, policy="all"))


@pytest.mark.parametrize("name", STAY)
def test_a_shuffle_stays(name):
    proto = built(STAY[name])
    assert "Transpose" in kinds(proto)
    assert not prepare(load(proto)).restated
    check(proto, api.optimize(proto, policy="all"))


def test_an_output_alone_is_brought_into_order():
    proto = built((BLOCKS + "y = Concat<axis=1>(l2, t)", UNIT))
    assert [node.op_type for node in prepare(load(proto)).nodes].count("Gather") == 1
    assert "Transpose" not in kinds(proto)
    check(proto, api.optimize(proto, policy="all"))
    for kind in ("Conv", "Concat", "Gather", "Slice"):
        check(proto, api.optimize(proto, policy="all", skip=[kind]))


def test_exact_arithmetic_and_the_rule_left_out_keep_the_shuffle():
    proto = built(CASES["between convolutions"])
    assert "Transpose" in kinds(proto, strict=True)
    assert "Transpose" in kinds(proto, disabled=["channel-order"])
    assert "channel-order" in {rule.name for rule in api.list_rules()}


@pytest.mark.parametrize(
    "name",
    [
        "of joined halves",
        "with another output",
        "before the output",
        "by an activation that the model spells out",
        "with the channels' weights",
    ],
)
def test_each_operator_left_unfused(name):
    proto = built(CASES[name])
    for kind in sorted({node.op_type for node in proto.graph.node} | {"Slice"}):
        check(proto, api.optimize(proto, policy="all", skip=[kind]))
    for node in proto.graph.node:
        check(proto, api.optimize(proto, policy="all", skip=[node.name]))


def test_some_regions_of_many():
    proto = built(CASES["of joined halves"])
    for count in range(6):
        check(proto, api.optimize(proto, policy="all", max_regions=count))


def test_nothing_fused_leaves_no_trace():
    proto = built(CASES["of joined halves"])
    assert api.optimize(proto, policy="all", max_regions=0) == proto


def test_weights_for_others_are_not_moved():
    """A weight that two convolutions share is permuted for the one behind the shuffle only."""
    body = f"a = {CONV}(x, w1) {SHUFFLE.format('a', 'b', 8)} c = {CONV}(b, w1) y = {CONV}(c, w1)"
    proto = model(body, PAIR)
    assert "Transpose" not in kinds(proto)
    check(proto, api.optimize(proto, policy="all"))


def test_pieces_are_as_long_as_the_model_allows():
    """Each channel of a chain of halves is joined once, in runs that grow shorter by half."""
    graph = prepare(load(built(CASES["of joined halves"])))
    joins = [node for node in graph.nodes if node.op_type == "Concat"]
    assert [len(node.inputs) for node in joins] == [2, 3, 4]
    assert [[v.shape[1] for v in node.inputs] for node in joins[:2]] == [[4, 4], [2, 2, 4]]


@pytest.mark.parametrize("seed", [*range(12), 102, 188])
def test_random_networks_of_halves(seed):
    """Random joins, shuffles and cuts between convolutions, with readers of all of them."""
    rng = np.random.default_rng(seed)
    body, weights, values = [], {}, [("x", 8)]

    def conv(source, channels, out):
        name = f"v{len(weights)}"
        weights[f"k{name}"] = (out, channels, 1, 1)
        body.append(f"{name} = {CONV}({source}, k{name})")
        return name, out

    values += [conv("x", 8, 16) for _ in range(3)]
    for step in range(8):
        kind = rng.integers(5)
        source, channels = values[rng.integers(len(values))]
        if kind == 0:
            values.append(conv(source, channels, int(rng.choice([8, 16]))))
        elif kind == 1:
            body.append(f"u{step} = Relu({source})")
            values.append((f"u{step}", channels))
        elif kind == 2 and channels in (8, 16) and source != "x":
            copy = f"s{step}"
            body.append(f"{copy} = Identity({source})")
            body.append(SHUFFLE.format(copy, f"t{step}", channels))
            values.append((f"t{step}", channels))
        elif kind == 3 and channels == 16:
            body.append(SPLIT.format(source, f"l{step}", f"r{step}"))
            values += [(f"l{step}", 8), (f"r{step}", 8)]
        else:
            other, more = values[rng.integers(len(values))]
            if channels == more:
                body.append(f"a{step} = Add({source}, {other})")
                values.append((f"a{step}", channels))
            elif channels + more <= 32:
                body.append(f"j{step} = Concat<axis=1>({source}, {other})")
                values.append((f"j{step}", channels + more))
    ends = [conv(source, channels, 4)[0] for source, channels in values[-4:]]
    body.append(f"y = Sum({', '.join(ends)})")
    proto = model("\n".join(body), weights)
    check(proto, api.optimize(proto, policy="all"))
    check(proto, api.optimize(proto, policy="all", skip=["Relu", "Add"]))


def classes_of(text):
    head = '<ir_version: 8, opset_import: ["" : 17]> '
    graph = prepare(load(onnx.parser.parse_model(head + text)))
    return graph, Classes(graph, [])


def test_a_computed_weight_does_not_join_what_a_convolution_reads_and_writes():
    graph, classes = classes_of(
        """g (float[2, 8, 5] x, float[1, 8, 3] w) => (float[a, b, c] y) {
        p = Relu(x) k = Relu(w) q = Conv(p, k) y = Relu(q) }"""
    )
    p, q = (graph.values[name] for name in "pq")
    assert classes.find(p) != classes.find(q)
    assert [classes.order(value).size for value in (p, q)] == [8, 1]


def test_columns_of_a_product_that_are_not_known():
    classes_of(
        """g (float[M, K] a, float[K, N] b) => (float[P, Q] y) {
        c = Relu(a) d = Relu(b) e = MatMul(c, d) y = Relu(e) }"""
    )
