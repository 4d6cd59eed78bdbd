"""Element-wise rows against ONNX Runtime: special values, every type, broadcasting, constants."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from ops_run import fuse, pin, run

from onnx_fusion.ops import activation, elementwise
from onnx_fusion.ops.row import Row
from onnx_fusion.ops.table import TABLE

NEWEST_OPSET = 26
SPECIAL = [
    np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 88.0, -88.0, 104.0, -104.0,
    20.0, -20.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 1e-3, -1e-3, 0.3,
    -0.7, 6.0, -6.0, 1e6, -1e6, 3.7, -3.7,
]  # fmt: skip
WHOLE = [0, 1, -1, 2, -2, 3, -3, 5, -7, 100, -100, 2**31 - 1, -(2**31) + 1]
TYPES = (np.float32, np.float64, np.int32, np.int64, np.bool_)
ATTRIBUTES = {
    "Mod": [{"fmod": 1}, {}],
    "Gelu": [{}, {"approximate": "tanh"}],
    "IsInf": [{}, {"detect_positive": 0}, {"detect_negative": 0}],
    "LeakyRelu": [{}, {"alpha": 0.3}],
    "Elu": [{}, {"alpha": 2.0}],
    "Celu": [{}, {"alpha": 2.0}],
    "Selu": [{}, {"alpha": 2.0, "gamma": 3.0}],
    "HardSigmoid": [{}, {"alpha": 0.5, "beta": 0.6}],
    "ThresholdedRelu": [{}, {"alpha": 2.0}],
    "Shrink": [{}, {"bias": 0.5, "lambd": 1.5}],
}
ELSEWHERE = {"BatchNormalization", "Cast", "CastLike", "Clip", "Where", "PRelu", "Swish"}
"""Tested below, or not run by this ONNX Runtime (Swish has backend cases)."""
REFUSED = {"Shrink": "i"}
"""Kinds of types that a row leaves to ONNX Runtime."""
PLAIN = [r for r in (*elementwise.ROWS, *activation.ROWS) if r.op_type not in ELSEWHERE]
ABSOLUTE = 1e-6
"""Of what is near zero only because large terms cancel, about this much is noise on either side."""


def model_of(op_type: str, arrays: list[np.ndarray], **attributes) -> onnx.ModelProto:
    """Return a model of one node whose inputs x0, x1, ... have the arrays' types and shapes."""
    names = [f"x{k}" for k in range(len(arrays))]
    node = onnx.helper.make_node(op_type, names, ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for name, a in zip(names, arrays, strict=True)
    ]
    graph = onnx.helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="y")])
    opset = onnx.helper.make_opsetid("", NEWEST_OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def plain(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return what ONNX Runtime computes, None if it does not know the operator on these types."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = {i.name for i in session.get_inputs()}
        return session.run(None, {k: a for k, a in feeds.items() if k in names})[0]
    except Exception as error:  # ONNX Runtime has no common class of what it raises here
        known = ("NOT_IMPLEMENTED", "INVALID_GRAPH", "fmod attribute must be true")
        assert any(word in str(error) for word in known), error
        return None


def check(model: onnx.ModelProto, arrays: list[np.ndarray], tolerance: float) -> bool:
    """Compare with ONNX Runtime; return whether there was anything to compare with."""
    feeds = {f"x{k}": a for k, a in enumerate(arrays)}
    wanted = plain(model, feeds)
    if wanted is None:
        return False
    fused = fuse(model)
    assert fused.plan.regions, f"refused: {fused.reasons}"
    (actual,) = run(fused, feeds)
    assert actual.dtype == wanted.dtype
    assert actual.shape == wanted.shape
    if actual.dtype.kind == "f":
        np.testing.assert_allclose(actual, wanted, tolerance, ABSOLUTE, equal_nan=True)
    else:
        np.testing.assert_array_equal(actual, wanted)
    return True


def special(dtype: type) -> np.ndarray:
    """Return values at which an implementation may differ."""
    if dtype is np.bool_:
        return np.array([False, True])
    return np.array(SPECIAL if np.dtype(dtype).kind == "f" else WHOLE, dtype)


def arity(row: Row) -> int:
    """Return how many inputs to test the operator with."""
    schema = onnx.defs.get_schema(row.op_type, NEWEST_OPSET)
    return 3 if schema.max_input > 10 else schema.max_input


@pytest.mark.parametrize("row", PLAIN, ids=lambda r: r.op_type)
def test_special_values(row: Row) -> None:
    """NaN, infinities, signed zero, denormals, halves, overflow, for all types ONNX Runtime has."""
    compared = 0
    for dtype in TYPES:
        if np.dtype(dtype).kind in REFUSED.get(row.op_type, ""):
            continue
        base = special(dtype)
        others = [base, base[::2]]
        if row.op_type in ("Div", "Mod") and base.dtype.kind == "i":
            others = [base[base != 0]] * 2
        shaped = [base[:, None, None], others[0][None, :, None], others[1][None, None, :]]
        arrays = [np.ascontiguousarray(a) for a in shaped[: arity(row)]]
        for attributes in ATTRIBUTES.get(row.op_type, [{}]):
            model = model_of(row.op_type, arrays, **attributes)
            compared += check(model, arrays, row.tolerance)
    assert compared


@pytest.mark.parametrize("row", PLAIN, ids=lambda r: r.op_type)
def test_inside_the_domain(row: Row, seed: int = 7) -> None:
    """Ordinary values, shapes that broadcast, rank 0, no elements, constants on either side."""
    random = np.random.default_rng(seed)
    compared = 0
    for dtype in TYPES:
        if np.dtype(dtype).kind in REFUSED.get(row.op_type, ""):
            continue
        for shapes in [
            [(3, 4), (3, 4), (3, 4)], [(2, 1, 5), (4, 1), (5,)], [(), (), ()],
            [(0, 3), (1, 3), (1, 1)], [(4,), (), (2, 4)],
        ]:  # fmt: skip
            arrays = [draw(random, row, dtype, shape) for shape in shapes[: arity(row)]]
            model = model_of(row.op_type, arrays, **ATTRIBUTES.get(row.op_type, [{}])[0])
            compared += check(model, arrays, row.tolerance)
            for k in range(len(arrays) if len(arrays) > 1 else 0):
                pinned = pin(model, {f"x{k}": arrays[k]})
                compared += check(pinned, arrays, row.tolerance)
    assert compared


def draw(random: np.random.Generator, row: Row, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Return random values of the row's sample interval; integers are positive."""
    if dtype is np.bool_:
        return np.asarray(random.integers(0, 2, shape), dtype)
    low, high = row.sample
    if np.dtype(dtype).kind == "i":
        return np.asarray(random.integers(1, max(int(high), 2), shape, endpoint=True), dtype)
    return np.asarray(random.uniform(low, high, shape), dtype)


@pytest.mark.parametrize("opset", [7, 9, 12])
@pytest.mark.parametrize("op_type", ["Add", "Relu", "PRelu", "Clip", "Max", "Pow", "Sum"])
def test_old_opsets(op_type: str, opset: int) -> None:
    """Operators whose attributes or types changed, at the versions before."""
    row = TABLE["", op_type]
    random = np.random.default_rng(3)
    count = 1 if op_type in ("Relu", "Clip") else 2
    arrays = [draw(random, row, np.float32, (3, 4)) for _ in range(count)]
    attributes = {"min": 0.5, "max": 2.0} if op_type == "Clip" and opset < 11 else {}
    model = model_of(op_type, arrays, **attributes)
    model.opset_import[0].version = opset
    assert check(model, arrays, row.tolerance)


@pytest.mark.parametrize("dtype", TYPES[:4])
@pytest.mark.parametrize(
    "bounds", [(-1.5, 2.0), (2.0, -1.5), (None, 2.0), (-1.5, None), (None, None)]
)
@pytest.mark.parametrize("constant", [True, False])
def test_clip(dtype: type, bounds: tuple[float | None, float | None], constant: bool) -> None:
    """Bounds that are missing, in the wrong order, constant or not; NaN stays."""
    given = [None if b is None else np.array(b).astype(dtype) for b in bounds]
    arrays = [special(dtype), *(b for b in given if b is not None)]
    model = model_of("Clip", arrays)
    names = iter(f"x{k}" for k in range(1, 3))
    del model.graph.node[0].input[1:]
    model.graph.node[0].input.extend("" if b is None else next(names) for b in given)
    if constant:
        model = pin(model, {f"x{k}": a for k, a in enumerate(arrays) if k})
    assert check(model, arrays, 0.0)


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", [*TYPES, np.int8, np.uint8, np.int16, np.uint16])
def test_cast(source: type, target: type) -> None:
    """Values that fit, as C converts them; booleans are 0 and 1."""
    base = special(source)
    if base.dtype.kind == "f" and np.dtype(target).kind in "iu":
        base = np.array([0.0, -0.0, 0.3, 0.99, 1.5, 2.5, 100.9, 126.2], source)
    if base.dtype.kind == "i" and np.dtype(target).itemsize < base.dtype.itemsize:
        base = np.array([0, 1, 2, 100, 127], source)
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    assert check(model_of("Cast", [base], to=code), [base], 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint8])
@pytest.mark.parametrize(
    "shapes", [((3, 1), (1, 4), (3, 4)), ((2, 3, 1), (1, 4), ()), ((), (5,), (1,))]
)
def test_where(dtype: type, shapes: tuple[tuple[int, ...], ...]) -> None:
    """All three inputs broadcast; NaN in the branch not taken does not matter."""
    random = np.random.default_rng(5)
    cond, a, b = (random.integers(0, 2, s) for s in shapes)
    arrays = [np.asarray(cond, bool), np.asarray(a, dtype), np.asarray(b * 3, dtype)]
    assert check(model_of("Where", arrays), arrays, 0.0)


@pytest.mark.parametrize("slope", [(3, 4), (4,), (1, 1), (1,), ()])
def test_prelu(slope: tuple[int, ...]) -> None:
    """The slope broadcasts to the input."""
    random = np.random.default_rng(5)
    arrays = [np.asarray(random.normal(size=s), np.float32) for s in ((2, 3, 4), slope)]
    assert check(model_of("PRelu", arrays), arrays, 1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 7), (4, 3), (0, 3, 2)])
def test_batch_normalization(shape: tuple[int, ...]) -> None:
    """Inference on any rank, with statistics that are constant or not."""
    random = np.random.default_rng(5)
    arrays = [random.normal(size=shape).astype(np.float32)]
    arrays += [random.uniform(0.5, 2.0, 3).astype(np.float32) for _ in range(4)]
    model = model_of("BatchNormalization", arrays, epsilon=1e-3)
    assert check(model, arrays, 1e-5)
    assert check(pin(model, {f"x{k}": arrays[k] for k in range(1, 5)}), arrays, 1e-5)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0, 1.0, 0.0, -0.5, 4.0])
@pytest.mark.parametrize("dtype", TYPES[:4])
@pytest.mark.parametrize("power", [np.float32, np.int64])
def test_pow_by_a_constant(exponent: float, dtype: type, power: type) -> None:
    """Cheap exponents are written as other instructions, and must not be told apart."""
    base = special(dtype)
    if base.dtype.kind == "i":
        base = np.array([1, 2, 3, 7, 30], dtype)
    if power is np.int64 and exponent != int(exponent):
        exponent = 2.0
    arrays = [base, np.array([exponent], power)]
    model = model_of("Pow", arrays)
    assert check(pin(model, {"x1": arrays[1]}), arrays, 1e-5)
    assert check(model, arrays, 1e-5)
