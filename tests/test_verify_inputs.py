"""Random inputs that models can digest."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.load import load
from onnx_fusion.runtime.inputs import make_inputs, npz_beside, read_inputs


def model(body: str, signature: str, **weights: np.ndarray) -> onnx.ModelProto:
    """Return a model from the text of its nodes."""
    made = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {body} }}'
    )
    for name, array in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return made


def test_the_same_seed_gives_the_same_arrays() -> None:
    made = model("y = Relu(x)", "(float[3,4] x) => (float[3,4] y)")
    one, two, three = make_inputs(made), make_inputs(made), make_inputs(made, seed=1)
    assert np.array_equal(one["x"], two["x"])
    assert not np.array_equal(one["x"], three["x"])
    assert one["x"].dtype == np.float32


@pytest.mark.parametrize("between", ["j = Identity(i)", "k = Cast<to=7>(i) j = Unsqueeze(k, a)"])
def test_indices_stay_below_the_extent_they_index(between: str) -> None:
    made = model(
        f"{between} y = Gather(w, j)",
        "(int64[n] i) => (float[m,k,l] y)",
        w=np.zeros((5, 2), np.float32),
        a=np.array([0], np.int64),
    )
    drawn = make_inputs(made, dims={"n": 1000})["i"]
    assert drawn.shape == (1000,)
    assert set(drawn) == set(range(5))


def test_the_axis_of_gather_counts() -> None:
    made = model("y = Gather<axis=1>(w, i)", "(int32[99] i) => (float[m,k] y)", w=np.zeros((9, 3)))
    assert make_inputs(made)["i"].max() == 2


def test_a_number_compared_with_a_constant_is_that_constant() -> None:
    made = model("y = Equal(rate, c)", "(int64 rate) => (bool y)", c=np.array(16000, np.int64))
    assert make_inputs(made)["rate"] == 16000


def test_numbers_may_be_compared_with_constants_whose_data_stayed_in_the_file() -> None:
    made = model("y = Equal(x, c)", "(int64[1,1] x) => (bool[1,257] y)", c=np.arange(257)[None])
    assert make_inputs(load(made).proto)["x"].shape == (1, 1)


def test_other_integers_are_a_mask_that_leaves_something() -> None:
    made = model("y = Cast<to=1>(m)", "(int64[4,50] m) => (float[4,50] y)")
    drawn = make_inputs(made)["m"]
    assert set(drawn.ravel()) == {0, 1}
    assert (drawn[:, 0] == 1).all()


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ("[n,c,h,w]", (1, 6, 64, 64)),
        ("[n,c,h,8]", (1, 6, 64, 8)),
        ("[7,c,s,s]", (7, 6, 64, 64)),
    ],
)
def test_images_have_the_channels_that_the_convolution_wants(declared: str, shape: tuple) -> None:
    made = model(
        "y = Conv<group=2>(x, w)",
        f"(float{declared} x) => (float[n,o,p,q] y)",
        w=np.zeros((4, 3, 3, 3), np.float32),
    )
    assert make_inputs(made)["x"].shape == shape


def test_one_symbol_is_one_extent() -> None:
    made = model("y = MatMul(a, b)", "(float[r,s] a, float[s,t] b) => (float[r,t] y)")
    drawn = make_inputs(made, dims={"s": 5})
    assert drawn["a"].shape == (1, 5)
    assert drawn["b"].shape == (5, 16)


def test_other_types() -> None:
    made = model(
        "y = Cast<to=1>(b) z = Cast<to=1>(h)",
        "(bool[9] b, float16[3] h, double[2] d, uint8[2] u) => (float[9] y, float[3] z)",
    )
    kinds = {name: array.dtype.name for name, array in make_inputs(made).items()}
    assert kinds == {"b": "bool", "h": "float16", "d": "float64", "u": "uint8"}


def test_initializers_are_not_asked_for() -> None:
    made = model(
        "y = Add(x, w)", "(float[2] x, float[2] w) => (float[2] y)", w=np.zeros(2, np.float32)
    )
    assert list(make_inputs(made)) == ["x"]


def test_sequences_are_refused() -> None:
    made = model("y = SequenceAt(s, i)", "(seq(float[n]) s, int64 i) => (float[n] y)")
    with pytest.raises(OnnxFusionError) as error:
        make_inputs(made)
    assert str(error.value) == "input 's' is sequence_type; only tensors can be given"


def test_arrays_are_found_under_either_name(tmp_path: Path) -> None:
    made = model("y = Add(a, b)", "(float[2] a, float[n] b) => (float[2] y)")
    path = tmp_path / "net.npz"
    arrays = {"in_a": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}
    np.savez(path, **arrays, out_0=np.zeros(9))
    found = read_inputs(path, made)
    assert {name: array.tolist() for name, array in found.items()} == {"a": [1, 1], "b": [0, 0]}
    assert npz_beside(tmp_path / "net.ts17.onnx") == path
    assert npz_beside(tmp_path / "other.onnx") is None
