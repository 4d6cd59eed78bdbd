"""The estimate against what was measured: one thread, Zen 4 with AVX-512, ONNX Runtime 1.32."""

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from onnx_fusion.api import plan_programs
from onnx_fusion.fusion import cost
from onnx_fusion.graph.load import load
from onnx_fusion.ops import peer
from onnx_fusion.passes.pipeline import prepare

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
WITHIN = 1.5
"""A factor that no estimate is off by: what decides is a ratio of sums of many."""


def graph_of(signature, body, **weights):
    model = onnx.parser.parse_model(f"{HEAD}g {signature} {{ {body} }}")
    for name, shape in weights.items():
        array = np.full(shape, 0.01, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return prepare(load(model))


def conv(size, channels, kernel, filters, *, step=1, group=1, then=""):
    """Return a convolution's graph: `size` are extents in and out."""
    before, after = (f"{n},{n}" for n in size)
    pads = ",".join([str(kernel // 2)] * 4)
    return graph_of(
        f"(float[1,{channels},{before}] x) => (float[1,{filters},{after}] y)",
        f"c = Conv <pads = [{pads}], strides = [{step}, {step}], group = {group}> (x, w) "
        + (then or "y = Relu(c)"),
        w=(filters, channels // group, kernel, kernel),
    )


def transposed(kernel, pad):
    return graph_of(
        "(float[1,128,28,28] x) => (float[1,64,56,56] y)",
        f"y = ConvTranspose <strides = [2, 2], pads = [{pad}, {pad}, {pad}, {pad}]> (x, w)",
        w=(128, 64, kernel, kernel),
    )


def upward(size, channels, filters, kernel, sides=2):
    """Return a ConvTranspose that doubles each side of an image."""
    before, after = (",".join([str(n)] * sides) for n in (size, 2 * size))
    pads = ",".join([str(kernel // 2 - 1)] * 2 * sides)
    return graph_of(
        f"(float[1,{channels},{before}] x) => (float[1,{filters},{after}] y)",
        f"y = ConvTranspose <strides = [{','.join('2' * sides)}], pads = [{pads}]> (x, w)",
        w=(channels, filters, *[kernel] * sides),
    )


def pool(op, channels, size, kernel):
    image = f"float[1,{channels},{size},{size}]"
    pads = ",".join([str(kernel // 2)] * 4)
    attributes = f"kernel_shape = [{kernel}, {kernel}], pads = [{pads}]"
    return graph_of(f"({image} x) => ({image} y)", f"y = {op} <{attributes}> (x)")


def product(rows, depth, columns, then="y = Add(c, b)"):
    return graph_of(
        f"(float[{rows},{depth}] x) => (float[{rows},{columns}] y)",
        f"c = MatMul(x, w) {then}", w=(depth, columns), b=(columns,),
    )  # fmt: skip


def chain(op, shape="1,64,64,64"):
    return graph_of(f"(float[{shape}] x) => (float[{shape}] y)", f"y = {op}(x)")


NORM = "(float[1,128,768] x, float[1,128,768] z) => (float[1,128,768] y)"
MEASURED = {
    "3x3 64@56": (lambda: conv((56, 56), 64, 3, 64), 701, 2050),
    "3x3 128@28": (lambda: conv((28, 28), 128, 3, 128), 675, 2040),
    "3x3 256@14": (lambda: conv((14, 14), 256, 3, 256), 857, 2040),
    "3x3 512@7": (lambda: conv((7, 7), 512, 3, 512), 1230, 2450),
    "3x3 steps of 2": (lambda: conv((56, 28), 128, 3, 128, step=2), 2132, 2050),
    "1x1 256-64@80": (lambda: conv((80, 80), 256, 1, 64), 1990, 1900),
    "1x1 1152-192@7": (lambda: conv((7, 7), 1152, 1, 192), 207, 206),
    "3x3 dilated by 12": (
        lambda: graph_of(
            "(float[1,960,16,16] x) => (float[1,256,16,16] y)",
            "c = Conv <pads = [12,12,12,12], dilations = [12,12]> (x, w) y = Relu(c)",
            w=(256, 960, 3, 3),
        ), 4434, 3810,
    ),
    "stem 7x7": (lambda: conv((224, 112), 3, 7, 64, step=2), 2180, 2136),
    "depthwise 5x5 in rows": (lambda: conv((28, 28), 240, 5, 240, group=240), 273, 152),
    "depthwise 7x7 in rows": (lambda: conv((56, 56), 96, 7, 96, group=96), 780, 357),
    "ConvTranspose in rows": (lambda: transposed(2, 0), 1108, 527),
    "ConvTranspose 4x4 in rows": (lambda: transposed(4, 1), 2965, 2448),
    "MaxPool in rows": (lambda: pool("MaxPool", 832, 7, 3), 75, 23),
    "MaxPool of wide rows": (lambda: pool("MaxPool", 64, 56, 3), 87, 82),
    "AveragePool in rows": (lambda: pool("AveragePool", 512, 13, 5), 122, 76),
    "groups of 3": (lambda: conv((28, 28), 240, 3, 240, group=80), 250, 640),
    "groups of 4, 5x5": (lambda: conv((28, 28), 128, 5, 128, group=32), 330, 945),
    "groups of 4": (lambda: conv((56, 56), 128, 3, 128, group=32), 540, 1120),
    "groups of 8": (lambda: conv((28, 28), 256, 3, 256, group=32), 350, 805),
    "groups of 8, steps of 2": (lambda: conv((56, 28), 256, 3, 256, group=32, step=2), 640, 1370),
    "groups of 16": (lambda: conv((14, 14), 512, 3, 512, group=32), 280, 266),
    "groups of 24": (lambda: conv((28, 28), 240, 3, 240, group=10), 890, 1213),
    "groups of 32": (lambda: conv((7, 7), 1024, 3, 1024, group=32), 250, 254),
    "windows in 3 dimensions": (
        lambda: graph_of(
            "(float[1,512,2,7,7] x) => (float[1,512,2,7,7] y)",
            "c = Conv <pads = [1,1,1,1,1,1]> (x, w) y = Relu(c)", w=(512, 512, 3, 3, 3),
        ), 6791, 16330,
    ),
    "1x3072x768": (lambda: product(1, 3072, 768), 330, 411),
    "128x768x768": (lambda: product(128, 768, 768), 1377, 1364),
    "128x768x3072": (lambda: product(128, 768, 3072), 5010, 5607),
    "49x3072x768": (lambda: product(49, 3072, 768), 2200, 2450),
    "Sigmoid": (lambda: chain("Sigmoid"), 60, 76),
    "Softplus": (lambda: chain("Softplus"), 93, 2874),
    "Erf": (lambda: chain("Erf"), 71, 135),
    "LayerNormalization of a sum": (
        lambda: graph_of(
            NORM, "a = Add(x, z) y = LayerNormalization <axis = -1> (a, s, b)", s=(768,), b=(768,)
        ), 32, 481,
    ),
    "Softmax": (lambda: chain("Softmax", "12,128,128"), 50, 78),
    "LogSoftmax": (lambda: chain("LogSoftmax", "1536,128"), 56, 93),
}  # fmt: skip
"""Microseconds, (here, ONNX Runtime)."""


@pytest.mark.parametrize("name", MEASURED)
def test_estimates_are_near_what_was_measured(name):
    make, here, there = MEASURED[name]
    nodes = make().nodes
    ours, theirs = cost.kernel_seconds(nodes, cost.FUSED) * 1e6, cost.peer_seconds(nodes) * 1e6
    assert here / WITHIN < ours < here * WITHIN
    assert there / WITHIN < theirs < there * WITHIN


UPWARD = {
    "768-384@4, 4x4": (lambda: upward(4, 768, 384, 4), 1500, 2213),
    "384-192@4, 4x4": (lambda: upward(4, 384, 192, 4), 516, 680),
    "768-192@8, 4x4": (lambda: upward(8, 768, 192, 4), 2897, 3700),
    "128-64@6, 3 dimensions": (lambda: upward(6, 128, 64, 2, 3), None, 519),
    "64-32@12, 3 dimensions": (lambda: upward(12, 64, 32, 2, 3), None, 1457),
    "32-16@24, 3 dimensions": (lambda: upward(24, 32, 16, 2, 3), None, 3574),
}
"""Microseconds, (here, ONNX Runtime), between other convolutions, AVX2 at 0.88 of PEAK and scaled
to it."""


@pytest.mark.parametrize("name", UPWARD)
def test_transposed_windows_of_few_pixels_and_in_three_dimensions(name):
    make, here, there = UPWARD[name]
    (node,) = make().nodes
    both = (cost.FUSED, cost.ONNX_RUNTIME)
    ours, theirs = (cost.contraction_seconds(node, rates) * 1e6 for rates in both)
    assert here is None or here / 1.25 < ours < here * 1.25
    assert there / 1.25 < theirs < there * 1.25


EMPTY = {
    "no rows": lambda: product(0, 8, 4),
    "no depth": lambda: product(3, 0, 4),
    "no columns": lambda: product(3, 8, 0),
    "no pixels": lambda: conv((0, 0), 4, 1, 8),
    "no pixels in groups": lambda: conv((0, 0), 4, 1, 8, group=2),
    "no pixels by channel": lambda: conv((0, 0), 4, 1, 4, group=4),
    "no pixels to spread": lambda: upward(0, 4, 8, 4),
}


@pytest.mark.parametrize("rates", [cost.FUSED, cost.FUSED_STRICT, cost.ONNX_RUNTIME])
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_product_takes_no_time(name, rates):
    node = next(node for node in EMPTY[name]().nodes if cost.is_contraction(node))
    assert cost.contraction_seconds(node, rates) == 0.0


def test_strict_does_without_winograd_and_is_no_faster_anywhere():
    for make, _, _ in MEASURED.values():
        nodes = make().nodes
        assert cost.kernel_seconds(nodes, cost.FUSED_STRICT) >= cost.kernel_seconds(
            nodes, cost.FUSED
        )
    for size, step, gain in ((56, 1, 2), (112, 2, 1.2)):
        nodes = conv((size, 56), 64, 3, 64, step=step).nodes
        strict = cost.kernel_seconds(nodes, cost.FUSED_STRICT)
        assert strict > gain * cost.kernel_seconds(nodes, cost.FUSED)


def test_onnx_runtime_runs_what_the_model_says_not_what_a_pass_made_of_it():
    """Mish is one operator here; there it is a Softplus, which is slow, a Tanh and a Mul."""
    signature = "(float[1,64,64,64] x) => (float[1,64,64,64] y)"
    graph = graph_of(signature, "a = Softplus(x) b = Tanh(a) y = Mul(x, b)")
    (node,) = graph.nodes
    assert node.op_type == "Mish"
    assert [part.op_type for part in peer.apart([node])] == ["Softplus", "Tanh", "Mul"]
    assert cost.peer_seconds([node]) > 9 * cost.kernel_seconds([node], cost.FUSED)


BETWEEN = {
    "depthwise 5x5": (240, "c = Conv <group = 240, pads = [2, 2, 2, 2]> (b, k)", (240, 1, 5, 5)),
    "MaxPool": (240, "c = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b)", None),
    "ConvTranspose": (240, "c = ConvTranspose <strides = [2, 2]> (b, k)", (240, 240, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_windows_in_rows_take_longer_than_between_convolutions(name):
    """Which hand them channels-last; a window behind a Transpose reads rows, too."""
    channels, middle, weights = BETWEEN[name]
    size = 28 * (2 if name == "ConvTranspose" else 1)
    given = {"k": weights} if weights else {}
    image, made = f"float[1,{channels},28,28]", f"float[1,{channels},{size},{size}]"
    around = graph_of(
        f"({image} x) => ({made} y)", f"a = Conv (x, w) b = Relu(a) {middle} y = Conv(c, w)",
        w=(channels, channels, 1, 1), **given,
    )  # fmt: skip
    alone = graph_of(
        f"(float[1,28,28,{channels}] x) => ({made} y)",
        f"b = Transpose <perm = [0, 3, 1, 2]> (x) {middle} y = Identity(c)", **given,
    )  # fmt: skip
    inner, outer = around.nodes[2], next(n for n in alone.nodes if n.op_type != "Transpose")
    assert inner.op_type == outer.op_type
    near, far = cost.kernel_seconds([inner], cost.FUSED), cost.kernel_seconds([outer], cost.FUSED)
    assert far > 1.3 * near


def test_a_value_that_others_read_is_not_fused_away():
    """The convolution's result is written for Mul too, so its Sigmoid is a kernel by itself."""
    shared = conv((56, 56), 64, 1, 64, then="s = Sigmoid(c) y = Mul(c, s)").nodes
    alone = conv((56, 56), 64, 1, 64, then="y = Sigmoid(c)").nodes
    assert not peer.fuses(*shared[:2]) and peer.fuses(*alone)


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ("Pad (x, p)", "Conv (a, w)", {"w": (64, 64, 3, 3)}),
        ("Transpose <perm = [0, 1, 3, 2]> (x)", "MatMul (x, a)", {}),
    ],
)
def test_what_takes_in_the_node_before_still_takes_its_time(first, second, weights):
    """The padding and the transpose are gone, not the products."""
    graph = graph_of(
        "(float[1,64,56,56] x) => (float[N,C,H,W] y)",
        f"p = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> () a = {first} y = {second}",
        **weights,
    )
    before, product = peer.apart(graph.nodes)
    assert peer.fuses(before, product)
    assert cost.peer_seconds([before, product]) == cost.peer_seconds([product])


def test_only_constant_padding_is_taken_in():
    """Of zeros, as a convolution's own."""
    mirrored = graph_of(
        "(float[1,64,56,56] x) => (float[1,64,56,56] y)",
        "p = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> () "
        'a = Pad <mode = "reflect"> (x, p) y = Conv (a, w)', w=(64, 64, 3, 3),
    ).nodes  # fmt: skip
    assert not peer.fuses(*mirrored)
    assert cost.peer_seconds(mirrored) > cost.peer_seconds(mirrored[1:])


def test_what_leaves_the_blocked_layout_is_reordered():
    """Softplus has no kernel there: there and back costs what a copy does."""
    inside = conv((56, 56), 64, 1, 64, then="a = Relu(c) y = Conv(a, w)").nodes
    outside = conv((56, 56), 64, 1, 64, then="a = Softplus(c) y = Conv(a, w)").nodes
    assert len(peer.blocked(inside)) == 3 and len(peer.blocked(outside)) == 2
    apart = sum(cost.peer_seconds([node]) for node in outside)
    copied = 4 * 2 * 2 * 64 * 56 * 56 / cost.ONNX_RUNTIME.cached
    assert cost.peer_seconds(outside) == pytest.approx(apart + copied)


def test_bound_nodes_are_as_if_the_extents_had_been_numbers():
    signature = "(float[{0},3,{1},{1}] x) => (float[{0},8,{2},{2}] y)"
    body = "c = Conv(x, w) d = Relu(c) y = Add(d, d)"
    weights = {"w": (8, 3, 3, 3)}
    free = graph_of(signature.format("N", "H", "K"), body, **weights)
    fixed = graph_of(signature.format(2, 34, 32), body, **weights)
    symbols = {d for n in free.nodes for d in n.outputs[0].shape if isinstance(d, str)}
    twins = cost.bind(free.nodes, {d: 2 if d == "N" else 32 for d in symbols} | {"H": 34})
    nodes = [twins[node] for node in free.nodes]
    assert cost.kernel_seconds(nodes, cost.FUSED) == cost.kernel_seconds(fixed.nodes, cost.FUSED)
    assert cost.peer_seconds(nodes) == cost.peer_seconds(fixed.nodes)
    assert free.nodes[0].outputs[0].shape[0] == "N"


def test_fewer_rows_than_a_block_of_channels_cost_onnx_runtime_the_block():
    one, eight = (conv((56, 56), 64, 3, filters).nodes for filters in (1, 8))
    assert cost.peer_seconds(one) > 0.9 * cost.peer_seconds(eight)


def test_a_plan_of_a_small_model_is_estimated():
    """Every region of a model has an estimate, also for operators without a pace of their own."""
    signature = "(float[4,64] x) => (float[4,64] y)"
    model = onnx.parser.parse_model(
        f"{HEAD}g {signature} {{ a = Sin(x) b = Floor(a) c = Neg(b) y = Sub(c, x) }}"
    )
    planned = plan_programs(model, policy="all")
    assert all(0 < cost.kernel_seconds(r.nodes, cost.FUSED) < 1e-4 for r in planned.plan.regions)


@pytest.mark.parametrize(("perm", "dear"), [([0, 2, 1, 3, 4], True), ([0, 1, 3, 2, 4], False)])
def test_a_join_whose_parts_change_places_is_chosen_element_by_element(perm, dear):
    """A channel shuffle, beside windows being cut out."""
    graph = graph_of(
        "(float[1,58,28,28] x, float[1,58,28,28] z) => (float y)",
        f"""c = Concat <axis = 1> (x, z) s = Constant <value = int64[5] {{1, 2, 58, 28, 28}}> ()
        r = Reshape(c, s) t = Transpose <perm = {perm}> (r) y = Relu(t)""",
    )
    copied = 2 * 4 * 116 * 28 * 28 / cost.FUSED.cached
    assert (cost.kernel_seconds(graph.nodes, cost.FUSED) > 10 * copied) == dear
