"""Each template opens its red cell where it is meant to, and nowhere else."""

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from onnx_fusion.fusion.grow import plan as plan_graph
from onnx_fusion.fusion.target import Target
from onnx_fusion.fusion.template import NAMES, TEMPLATES
from onnx_fusion.graph.load import load
from onnx_fusion.lower import Lowering
from onnx_fusion.passes.pipeline import prepare
from onnx_fusion.passes.sizes import usual_extents

WEIGHTS = {
    "w3": (64, 64, 3, 3), "w1": (64, 64, 1, 1), "wd": (64, 1, 3, 3), "wr": (16, 64, 1, 1),
    "we": (64, 16, 1, 1), "wide": (256, 256), "thin": (256, 64), "back": (64, 256), "g": (256,),
    "square": (64, 64), "even": (96, 96),
}  # fmt: skip


def planned(body, inputs, result, templates=NAMES - {"small", "chain"}, sized=False):
    text = f'<ir_version: 8, opset_import: ["" : 20]>\ng ({inputs}) => ({result}) {{\n{body}\n}}'
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name in sorted({name for node in model.graph.node for name in node.input} & set(WEIGHTS)):
        data = random.standard_normal(WEIGHTS[name], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    onnx.checker.check_model(model)
    graph = prepare(load(model))
    target = Target(
        Lowering(graph, lambda made: None).refusal,
        templates=templates,
        extents=usual_extents(graph) if sized else (),
    )
    made = plan_graph(graph, target)
    return [(r.template, " ".join(n.op_type for n in r.nodes)) for r in made.regions]


IMAGE = "float[1, 64, 56, 56] x"
ROWS = "float[128, 256] x"
HEADS = "float[12, 128, 64] q, float[12, 128, 64] k, float[12, 128, 64] v"
SCORES = "t = Transpose<perm = [0, 2, 1]>(k)\n s = MatMul(q, t)\n m = Add(s, mask)\n"


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked):
    inputs = HEADS + ", float[1, 128, 128] mask" if masked else HEADS
    scores = SCORES if masked else SCORES.replace("Add(s, mask)", "Relu(s)")
    body = scores + " p = Softmax(m)\n y = MatMul(p, v)"
    (one,) = planned(body, inputs, "float[12, 128, 64] y")
    assert one[0] == "attention"
    assert one[1].startswith("Transpose MatMul") and one[1].endswith("Softmax MatMul")


def test_scores_that_others_read_leave_the_region_too():
    body = SCORES.replace("Add(s, mask)", "Relu(s)") + " p = Softmax(m)\n y = MatMul(p, v)"
    made = planned(body, HEADS, "float[12, 128, 64] y, float[12, 128, 128] p")
    assert [name for name, _ in made] == ["attention"]


def test_softmax_of_a_layer_is_no_attention():
    body = "s = MatMul(x, wide)\n p = Softmax(s)\n y = MatMul(p, wide)"
    assert {name for name, _ in planned(body, ROWS, "float[128, 256] y")} == {None}


def test_pooling_joins_the_convolution_before_it():
    pool = "MaxPool<kernel_shape = [2, 2], strides = [2, 2]>"
    body = f"c = Conv<pads = [1, 1, 1, 1]>(x, w3)\n r = Relu(c)\n y = {pool}(r)"
    assert planned(body, IMAGE, "float[1, 64, 28, 28] y") == [("pooling", "Conv Relu MaxPool")]


def test_pooling_that_reads_something_else_as_well_stays():
    pool = "MaxPool<kernel_shape = [2, 2], strides = [2, 2]>"
    body = f"c = Conv<pads = [1, 1, 1, 1]>(x, w3)\n r = Exp(x)\n y = {pool}(r)\n z = Relu(c)"
    made = planned(body, IMAGE, "float[1, 64, 28, 28] y, float[1, 64, 56, 56] z")
    assert {name for name, _ in made} == {None}


def test_depthwise_joins_the_pointwise_convolution_after_it():
    body = "d = Conv<group = 64, pads = [1, 1, 1, 1]>(x, wd)\n r = Relu(d)\n y = Conv(r, w1)"
    assert planned(body, IMAGE, "float[1, 64, 56, 56] y") == [("images", "Conv Relu Conv")]


WIDEN = "e = Conv(x, w1)\n c = Relu(e)\n d = Conv<group = 64, pads = [1, 1, 1, 1]>(c, wd)\n"


def test_expanding_joins_the_depthwise_convolution_and_what_follows():
    made = planned(WIDEN + "r = Relu(d)\n y = Conv(r, w1)", IMAGE, "float[1, 64, 56, 56] y")
    assert made == [("images", "Conv Relu Conv Relu Conv")]
    made = planned(WIDEN + "y = Relu(d)", IMAGE, "float[1, 64, 56, 56] y")
    assert made == [("images", "Conv Relu Conv Relu")]


def test_a_stem_joins_what_reads_its_image_but_not_two_convolutions_alike():
    stem = "e = Conv<pads = [1, 1, 1, 1]>(x, w3)\n c = Relu(e)\n"
    tail = "d = Conv<group = 64, pads = [1, 1, 1, 1]>(c, wd)\n f = Conv(d, w1)\n y = Conv(f, w1)"
    made = planned(stem + tail, IMAGE, "float[1, 64, 56, 56] y")
    assert ("images", "Conv Relu Conv Conv") in made and len(made) == 2


def test_expanding_for_two_readers_stays():
    result = "float[1, 64, 56, 56] y, float[1, 64, 56, 56] z"
    made = planned(WIDEN + "y = Relu(d)\n z = Conv<pads = [1, 1, 1, 1]>(c, w3)", IMAGE, result)
    assert {name for name, _ in made} == {None}


def test_depthwise_before_a_larger_convolution_stays():
    body = "d = Conv<group = 64, pads = [1, 1, 1, 1]>(x, wd)\n y = Conv<pads = [1, 1, 1, 1]>(d, w3)"
    assert len(planned(body, IMAGE, "float[1, 64, 56, 56] y")) == 2


def test_squeeze_and_excite_is_one_region():
    body = (
        "m = GlobalAveragePool(x)\n a = Conv(m, wr)\n r = Relu(a)\n b = Conv(r, we)\n"
        "s = Sigmoid(b)\n y = Mul(x, s)"
    )
    made = planned(body, IMAGE, "float[1, 64, 56, 56] y")
    assert made == [("excite", "GlobalAveragePool Conv Relu Conv Sigmoid Mul")]


EXCITE = (
    "m = GlobalAveragePool(x)\n a = Conv(m, wr)\n r = Relu(a)\n b = Conv(r, we)\n"
    "s = Sigmoid(b)\n e = Mul(x, s)\n"
)


def test_the_1x1_convolution_behind_takes_the_gate():
    made = planned(EXCITE + "y = Conv(e, w1)", IMAGE, "float[1, 64, 56, 56] y")
    assert made == [("excite", "GlobalAveragePool Conv Relu Conv Sigmoid Mul Conv")]


@pytest.mark.parametrize(
    "shape,result,body",
    [
        ("1, 64, 7, 7", "1, 64, 7, 7", "y = Conv(e, w1)"),
        ("2, 64, 56, 56", "2, 64, 56, 56", "y = Conv(e, w1)"),
        ("1, 64, 56, 56", "1, 64, 56, 56", "y = Conv<pads = [1, 1, 1, 1]>(e, w3)"),
    ],
)
def test_the_gate_stays_where_the_weights_are_larger_or_not_alike(shape, result, body):
    made = planned(EXCITE + body, f"float[{shape}] x", f"float[{result}] y")
    assert ("excite", "GlobalAveragePool Conv Relu Conv Sigmoid Mul") in made


def test_a_mean_that_is_no_vector_of_channels_is_no_squeeze():
    body = "m = ReduceMean<keepdims = 1>(x, axes)\n y = Conv(m, w1)"
    text = "axes = Constant<value_ints = [3]>()\n" + body
    assert {name for name, _ in planned(text, IMAGE, "float[1, 64, 56, 1] y")} == {None}


def test_row_normalization_joins_the_contraction_before_it():
    body = "a = MatMul(x, wide)\n b = Add(a, x)\n y = LayerNormalization(b, g)"
    made = planned(body, ROWS, "float[128, 256] y")
    assert made == [("norm", "MatMul Add LayerNormalization")]


def test_row_normalization_joins_its_only_reader():
    body = "n = LayerNormalization(x, g)\n y = MatMul(n, wide)"
    assert planned(body, ROWS, "float[128, 256] y") == [("norm", "LayerNormalization MatMul")]


def test_row_normalization_with_two_readers_stays():
    body = "n = LayerNormalization(x, g)\n y = MatMul(n, wide)\n z = MatMul(n, thin)"
    made = planned(body, ROWS, "float[128, 256] y, float[128, 64] z")
    assert {name for name, _ in made} == {None}


def test_two_layers_that_fit_the_cache_are_one_region():
    body = "a = MatMul(x, thin)\n b = Relu(a)\n y = MatMul(b, back)"
    assert planned(body, ROWS, "float[128, 256] y") == [("mlp", "MatMul Relu MatMul")]


def test_two_layers_beyond_the_cache_stay_apart():
    body = "a = MatMul(x, wide)\n b = Relu(a)\n y = MatMul(b, wide)"
    made = planned(body, "float[4096, 256] x", "float[4096, 256] y")
    assert [name for name, _ in made] == [None, None]


def test_what_a_template_made_is_left_by_the_others():
    body = "n = LayerNormalization(x, g)\n a = MatMul(n, thin)\n b = Relu(a)\n y = MatMul(b, back)"
    made = planned(body, ROWS, "float[128, 256] y")
    assert made == [("norm", "LayerNormalization MatMul Relu"), (None, "MatMul")]


@pytest.mark.parametrize("rows,products,regions", [(128, 3, 1), (1024, 3, 3), (256, 7, 3)])
def test_products_of_a_millisecond_together_are_one_region(rows, products, regions):
    lines = [f"t{i} = MatMul({f'r{i - 1}' if i else 'x'}, wide)\n" for i in range(products)]
    lines = [line + f"r{i} = Relu(t{i})" for i, line in enumerate(lines)]
    body = "\n".join(lines) + f"\ny = Exp(r{products - 1})"
    made = planned(body, f"float[{rows}, 256] x", f"float[{rows}, 256] y", {"chain"})
    assert len(made) == regions and sum(text.count("MatMul") for _, text in made) == products


def test_products_that_read_the_same_are_one_region():
    body = "a = MatMul(x, wide)\n b = MatMul(x, thin)"
    results = "float[128, 256] a, float[128, 64] b"
    assert planned(body, ROWS, results, {"chain"}) == [("chain", "MatMul MatMul")]
    assert len(planned(body, ROWS, results, set())) == 2


def test_an_attention_comes_first_in_its_chain():
    scores = SCORES.replace("(q, t)", "(a, t)").replace("Add(s, mask)", "Relu(s)")
    body = "a = MatMul(q, square)\n" + scores
    body += " p = Softmax(m)\n o = MatMul(p, v)\n y = MatMul(o, square)"
    heads = HEADS.replace("12, 128", "2, 128")
    made = planned(body, heads, "float[2, 128, 64] y", {"attention", "chain"})
    assert [text.split()[0] for _, text in made] == ["MatMul", "Transpose"]


def test_convolutions_make_no_chain():
    body = "a = Conv(x, wr)\n b = Relu(a)\n y = Conv(b, we)"
    made = planned(body, "float[1, 64, 7, 7] x", "float[1, 64, 7, 7] y", {"chain"})
    assert len(made) == 2


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_template_can_be_left_out(name):
    body = "n = LayerNormalization(x, g)\n a = MatMul(n, thin)\n b = Relu(a)\n y = MatMul(b, back)"
    made = planned(body, ROWS, "float[128, 256] y", NAMES - {name})
    assert name not in {template for template, _ in made}
    assert len({t.name for t in TEMPLATES}) == len(TEMPLATES)


CACHE = "float[12, 127, 64] past, float[12, 1, 256] x, float[12, 1, 64] q, float[12, 128, 64] v"
CACHED = "n = MatMul(x, thin)\n k = Concat<axis = 1>(past, n)\n"
TURNED = "t = Transpose<perm = [0, 2, 1]>(k)\n s = MatMul(q, t)\n"
ATTENDED = CACHED + TURNED + "p = Softmax(s)\n y = MatMul(p, v)"


def test_a_cache_is_turned_where_it_is_read():
    made = planned(ATTENDED, CACHE, "float[12, 1, 64] y, float[12, 128, 64] k")
    assert made == [(None, "MatMul Concat"), ("attention", "Transpose MatMul Softmax MatMul")]


def test_what_is_stored_turned_in_any_case_stays():
    results = "float[12, 1, 64] y, float[12, 128, 64] k, float[12, 64, 128] t"
    made = planned(ATTENDED, CACHE, results)
    assert made == [(None, "MatMul Concat Transpose"), ("attention", "MatMul Softmax MatMul")]


def test_what_is_stored_only_turned_stays():
    body = "k = MatMul(x, wide)\n t = Transpose<perm = [1, 0]>(k)\n y = MatMul(t, wide)"
    inputs = "float[256, 256] x"
    first = (None, "MatMul Transpose")
    apart = NAMES - {"small", "mlp", "chain"}
    assert planned(body, inputs, "float[256, 256] y", apart)[0] == first


def test_small_regions_of_symbols_are_those_of_the_sizes_met():
    body = """a = MatMul(x, even)
 b = Softmax(a)
 c = MatMul(b, even)
 d = Softmax(c)
 y = MatMul(d, even)"""
    free = (body, "float[N, L, 96] x", "float[N, L, 96] y")
    assert len(planned(*free)) == len(planned(*free, sized=True))
    assert len(planned(*free, NAMES - {"chain"}, sized=True)) < len(
        planned(*free, NAMES - {"chain"})
    )
    # Images of 64 channels would not stay in the cache at their usual size.
    body = """a = Conv(x, wr)
 b = Relu(a)
 c = MaxPool<kernel_shape = [3, 3]>(b)
 y = Conv(c, we)"""
    free = (body, "float[N, 64, H, W] x", "float[N, 64, P, Q] y")
    assert len(planned(*free, NAMES - {"chain"}, sized=True)) == len(
        planned(*free, NAMES - {"chain"})
    )
