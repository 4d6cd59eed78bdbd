"""Movement rows against ONNX Runtime: every type, odd bounds, symbols; loads and stores alone."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from ops_run import build, compare, fuse, run

from onnx_fusion.errors import ProgramError
from onnx_fusion.ops.pieces import slice_box
from onnx_fusion.program import Load, Store, parse_program

node = onnx.helper.make_node
TYPES = [
    np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64,
    np.uint64, np.bool_,
]  # fmt: skip


def counted(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """Return distinct numbers from 1 on, as far as the type has them."""
    return (np.arange(np.prod(shape, dtype=int)) + 1).reshape(shape).astype(dtype)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


I = ints  # noqa: E741
HUGE = 2**63 - 1
MOVES = [
    ("Reshape", (2, 3, 4), {}, [I(6, 4)]), ("Reshape", (2, 3, 4), {}, [I(0, -1)]),
    ("Reshape", (2, 3, 4), {}, [I(4, 3, 2)]), ("Reshape", (2, 3, 4), {}, [I(-1)]),
    ("Reshape", (6, 10), {}, [I(4, 15)]), ("Reshape", (0, 3), {"allowzero": 1}, [I(3, 0)]),
    ("Reshape", (1,), {}, [np.zeros(0, np.int64)]), ("Reshape", (), {}, [I(1, 1)]),
    ("Reshape", (2, 0, 3), {"allowzero": 1}, [I(3, 5, 0)]),
    ("DepthToSpace", (2, 4, 2, 0), {"blocksize": 2}, []), ("Squeeze", (3, 1, 0, 3), {}, [I(1)]),
    ("Tile", (2, 0), {}, [I(2, 2)]), ("Tile", (2, 3), {}, [I(0, 1)]),
    ("Flatten", (2, 3, 4), {}, []), ("Flatten", (2, 3, 4), {"axis": 0}, []),
    ("Flatten", (2, 3, 4), {"axis": -1}, []), ("Flatten", (2, 3, 4), {"axis": 3}, []),
    ("Flatten", (5,), {}, []), ("Flatten", (), {"axis": 0}, []), ("Flatten", (0, 3), {}, []),
    ("Squeeze", (1, 3, 1, 4), {}, []), ("Squeeze", (1, 3, 1, 4), {}, [I(-2)]),
    ("Squeeze", (1, 1), {}, [I(0, 1)]), ("Unsqueeze", (3, 4), {}, [I(0, -1)]),
    ("Unsqueeze", (3, 4), {}, [I(2, 1)]), ("Unsqueeze", (), {}, [I(0)]),
    ("Transpose", (2, 3, 4), {}, []), ("Transpose", (2, 3, 4), {"perm": [1, 2, 0]}, []),
    ("Transpose", (), {}, []), ("Transpose", (2, 0, 4), {"perm": [2, 0, 1]}, []),
    ("Slice", (6, 5), {}, [I(1, 0), I(4, 3)]), ("Slice", (6, 5), {}, [I(-3), I(HUGE), I(0)]),
    ("Slice", (6, 5), {}, [I(-100), I(-1), I(-1)]),
    ("Slice", (6, 5), {}, [I(5), I(0), I(0), I(-2)]),
    ("Slice", (6, 5), {}, [I(-1), I(-HUGE - 1), I(1), I(-1)]),
    ("Slice", (6,), {}, [I(4), I(2), I(0)]), ("Slice", (6,), {}, [I(100), I(-100), I(0), I(-4)]),
    ("Slice", (6, 5), {}, [I(0, 1), I(6, 5), I(1, 0), I(2, 4)]),
    ("Slice", (1,), {}, [I(-3), I(-5), I(0), I(-1)]),
    ("Slice", (4,), {}, [I(-9), I(-9), I(0), I(-1)]),
    ("Slice", (6,), {}, [I(1), I(HUGE), I(0), I(9)]),
    ("Slice", (6,), {}, [I(4), I(-7), I(0), I(-9)]), ("Slice", (6,), {}, [I(2), I(2), I(0)]),
    ("Slice", (0, 5), {}, [I(0), I(3), I(0)]),
    ("Slice", (6, 5), {}, [np.array([k], np.int32) for k in (1, 9, 1)]),
    ("Concat", (2, 3), {"axis": 1}, [counted((2, 4)) + 50]),
    ("Concat", (2, 3), {"axis": -2}, [counted((1, 3)) + 50]),
    ("Concat", (2, 0), {"axis": 1}, [counted((2, 4)), counted((2, 0)), counted((2, 1))]),
    ("Concat", (2, 3), {"axis": 0}, []), ("Expand", (3, 1), {}, [I(2, 3, 4)]),
    ("Expand", (3, 1), {}, [I(1, 1)]), ("Expand", (), {}, [I(2, 2)]),
    ("Expand", (3, 4), {}, [I(4)]), ("Expand", (1, 4), {}, [I(0, 4)]),
    ("Tile", (2, 3), {}, [I(2, 3)]), ("Tile", (2, 1), {}, [I(1, 3)]),
    ("Tile", (2, 3), {}, [I(1, 1)]), ("Pad", (2, 3), {}, [I(1, 0, 2, 3)]),
    ("Pad", (2, 3), {}, [I(0, 2, 0, 1), np.float32(7)]), ("Pad", (4, 5), {}, [I(-1, 2, 1, -3)]),
    ("Pad", (4, 5), {}, [I(2, 1), np.float32(-1), I(-1)]),
    ("DepthToSpace", (1, 8, 2, 3), {"blocksize": 2}, []),
    ("DepthToSpace", (2, 12, 2, 3), {"blocksize": 2, "mode": "CRD"}, []),
    ("SpaceToDepth", (2, 3, 4, 6), {"blocksize": 2}, []), ("Identity", (2, 3), {}, []),
    ("Dropout", (2, 3), {}, []), ("Gather", (5, 3), {}, [I(0, -1, 2, 2)]),
    ("Gather", (5, 3), {"axis": 1}, [np.array([[0], [-3]])]),
    ("Gather", (5, 3), {"axis": -1}, [np.array(-1)]),
    ("Gather", (5, 3), {}, [np.array([4], np.int32)]),
    ("Gather", (5, 3), {}, [np.zeros((0, 2), np.int64)]), ("Split", (7, 3), {"axis": 0}, [I(2, 5)]),
    ("Split", (7, 3), {"axis": 0}, [I(3, 0, 4)]),
    ("Split", (7, 3), {"axis": 0, "num_outputs": 3}, []),
    ("Split", (2, 6), {"axis": -1, "num_outputs": 3}, []),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "shape", "attributes", "rest"), MOVES)
def test_move(op_type: str, shape: tuple[int, ...], attributes: dict, rest: list) -> None:
    """The node alone, with constants in place, becomes nothing but loads and stores."""
    x = counted(shape)
    inputs, constants = ["x"], {}
    for k, value in enumerate(rest):
        if op_type == "Pad" and k == 1:
            value = np.asarray(value)
        inputs.append(f"c{k}")
        constants[f"c{k}"] = value
    outputs = ["y"]
    if op_type == "Split":
        count = attributes.get("num_outputs") or len(rest[0])
        outputs = [f"y{k}" for k in range(count)]
    model = build(
        [node(op_type, inputs, outputs, **attributes)], {"x": x}, constants, outputs=outputs
    )
    fused = compare(model, {"x": x}, rtol=0, atol=0)
    if op_type in ("Concat", "Gather") or (op_type == "Pad" and not x.size):
        return
    (one,) = fused.lowered
    for stage in parse_program(one.program).stages:
        assert all(isinstance(line, Load | Store) for line in stage.body), one.program


@pytest.mark.parametrize("dtype", TYPES)
def test_types(dtype: type) -> None:
    """Elements of every type move, but those of 16 bits that programs do not compute with."""
    x = counted((2, 4, 3), dtype)
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[2, 0, 1]),
        node("Reshape", ["a", "s"], ["b"]),
        node("Slice", ["b", "one", "big", "one"], ["c"]),
        node("Concat", ["b", "c"], ["d"], axis=1),
        node("Gather", ["d", "i"], ["y"], axis=1),
    ]
    constants = {"s": I(3, 8), "one": I(1), "big": I(HUGE), "i": I(0, -1, 3)}
    compare(build(nodes, {"x": x}, constants), {"x": x})


@pytest.mark.parametrize("dtype", [np.float16])
def test_16_bits_pass(dtype: type) -> None:
    x = counted((2, 3), dtype)
    assert not fuse(build([node("Transpose", ["x"], ["y"])], {"x": x})).plan.regions


def test_the_index_of_a_gather_may_be_data() -> None:
    """Indices from an input, of both types, negative ones too; and what gathers from a gather."""
    x, i, j = counted((5, 3, 4)), np.array([[0, -1], [4, -5]]), np.array([1, 0, -1], np.int32)
    nodes = [node("Gather", ["x", "i"], ["a"]), node("Gather", ["a", "j"], ["y"], axis=-1)]
    feeds = {"x": x, "i": i, "j": j}
    compare(build(nodes, feeds), feeds)


def test_old_forms() -> None:
    """Axes, bounds, sizes and pads as attributes, as opsets 7 to 9 have them."""
    x = counted((4, 1, 6))
    forms = [
        ("Squeeze", {"axes": [1]}), ("Unsqueeze", {"axes": [0, 2]}), ("Dropout", {"ratio": 0.3}),
        ("Slice", {"starts": [1, -5], "ends": [3, 2147483647], "axes": [0, 2]}),
        ("Slice", {"starts": [1], "ends": [3]}), ("Split", {"axis": 2, "split": [2, 4]}),
        ("Pad", {"pads": [0, 1, 0, 2, 0, 1], "value": 3.0}), ("Split", {"axis": 0}),
    ]  # fmt: skip
    for op_type, attributes in forms:
        outputs = ["y", "z"] if op_type == "Split" else ["y"]
        one = node(op_type, ["x"], outputs, **attributes)
        compare(build([one], {"x": x}, outputs=outputs, opset=9), {"x": x})


def test_the_mask_of_dropout_is_true() -> None:
    x = counted((2, 3))
    one = node("Dropout", ["x", "r"], ["y", "m"])
    model = build([one], {"x": x}, {"r": np.array(0.4, np.float32)}, outputs=("y", "m"), opset=13)
    compare(model, {"x": x})


SYMBOLIC = [
    ("Reshape", ["n", "s", 12], {}, [I(0, 0, 3, 4)]), ("Reshape", ["n", "s", 12], {}, [I(-1, 12)]),
    ("Reshape", ["n", "s", 12], {}, [I(0, -1)]), ("Reshape", ["n", 4, 12], {}, [I(-1, 2, 24)]),
    ("Flatten", ["n", "s", 12], {}, []), ("Flatten", ["n", "s", 12], {"axis": 2}, []),
    ("Unsqueeze", ["n", "s", 12], {}, [I(1)]), ("Squeeze", ["n", 1, "s"], {}, [I(1)]),
    ("Transpose", ["n", "s", 12], {"perm": [2, 0, 1]}, []),
    ("Slice", ["n", "s", 12], {}, [I(2), I(9), I(2), I(3)]),
    ("Slice", ["n", "s", 12], {}, [I(0), I(HUGE), I(1)]),
    ("Slice", ["n", "s", 12], {}, [I(1), I(HUGE), I(1)]),
    ("Slice", ["n", "s", 12], {}, [I(0), I(-1), I(1)]),
    ("Slice", ["n", "s", 12], {}, [I(-2), I(HUGE), I(1), I(2)]),
    ("Slice", ["n", "s", 12], {}, [I(1), I(2), I(1)]), ("Expand", ["n", 1, 12], {}, [I(1, 5, 1)]),
    ("Tile", ["n", 3, 12], {}, [I(1, 2, 1)]), ("Tile", ["n", 1, 12], {}, [I(1, 4, 1)]),
    ("Tile", ["n", 3, 12], {}, [I(2, 1, 1)]), ("Pad", ["n", "s", 12], {}, [I(0, 1, 0, 0, 2, 3)]),
    ("Concat", ["n", "s", 12], {"axis": 2}, ["x"]), ("Concat", ["n", "s", 12], {"axis": 1}, ["x"]),
    ("Gather", ["n", "s", 12], {"axis": 2}, [I(0, -1)]),
    ("Gather", ["n", "s", 12], {"axis": 1}, [I(0)]),
    ("Gather", ["n", "s", 12], {"axis": 1}, [np.array(-1)]),
    ("Gather", ["n", "s", 12], {"axis": 1}, [I(-1, 0)]),
    ("DepthToSpace", ["n", 8, "s", "s"], {"blocksize": 2}, []),
    ("SpaceToDepth", ["n", 8, 4, 6], {"blocksize": 2}, []), ("Identity", ["n", "s", 12], {}, []),
    ("Split", ["n", "s", 12], {"axis": 2, "num_outputs": 2}, []),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "shape", "attributes", "rest"), SYMBOLIC)
def test_symbols(op_type: str, shape: list, attributes: dict, rest: list) -> None:
    """One program for every batch and length, 0 too (where ONNX Runtime can infer a -1)."""
    constants = {f"c{k}": v for k, v in enumerate(rest) if not isinstance(v, str)}
    inputs = ["x", *(v if isinstance(v, str) else f"c{k}" for k, v in enumerate(rest))]
    outputs = ["y", "z"] if op_type == "Split" else ["y"]
    runs = []
    none = [] if op_type == "Reshape" and {0, -1} <= set(rest[0].tolist()) else [(0, 3)]
    for n, s in [(2, 3), (1, 1), (3, 7), *none]:
        sizes = {"n": n, "s": s}
        runs.append({"x": counted(tuple(sizes.get(d, d) for d in shape))})
    model = build([node(op_type, inputs, outputs, **attributes)], runs[0], constants,
                  outputs=outputs, symbols={"x": shape})  # fmt: skip
    compare(model, *runs, rtol=0, atol=0)


def test_every_slice() -> None:
    """All bounds and steps around an axis of 0, 1 and 4 elements, by ONNX Runtime."""
    for size in (0, 1, 4):
        x = counted((size,))
        for start, end, step in itertools.product((-9, -5, -4, -1, 0, 1, 3, 4, 9), repeat=3):
            if step:
                begin, count = slice_box(start, end, step, size)
                mine = [x[begin + step * k] for k in range(count)]
                assert mine == onnx_slice(x, start, end, step).tolist(), (size, start, end, step)


@functools.cache
def slicer() -> onnxruntime.InferenceSession:
    given = {"x": counted((4,)), "s": I(1), "e": I(1), "t": I(1)}
    model = build(
        [node("Slice", ["x", "s", "e", "a", "t"], ["y"])], given, {"a": I(0)}, symbols={"x": ["n"]}
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def onnx_slice(x: np.ndarray, start: int, end: int, step: int) -> np.ndarray:
    """Return what ONNX Runtime's Slice gives."""
    return slicer().run(None, {"x": x, "s": I(start), "e": I(end), "t": I(step)})[0]


def test_a_slice_that_onnx_and_onnx_runtime_read_differently_is_left_alone() -> None:
    x = counted((4,))
    one = node("Slice", ["x", "s", "e", "a", "t"], ["y"])
    fused = fuse(build([one], {"x": x}, {"s": I(-1), "e": I(HUGE), "a": I(0), "t": I(-1)}))
    assert list(fused.reasons.values()) == ["a slice that steps back from its start to the end"]


def test_an_index_out_of_range_fails_the_run() -> None:
    """Also where the gathered value meets a Concat, which reads all its pieces everywhere."""
    x, i = counted((5, 3)), I(1, 7)
    gather = node("Gather", ["x", "i"], ["g"])
    for rest in ([node("Neg", ["g"], ["y"])], [node("Concat", ["g", "x"], ["y"], axis=0)]):
        model = build([gather, *rest], {"x": x, "i": i})
        compare(model, {"x": x, "i": I(1, -5)}, regions=1)
        with pytest.raises(ProgramError, match="out of range"):
            run(fuse(model), {"x": x, "i": i})


def test_shapes_that_arrive_at_run_time() -> None:
    """Reshape and Expand to the shape of another input."""
    x, z = counted((2, 3, 4)), counted((6, 4))
    nodes = [
        node("Shape", ["z"], ["s"]),
        node("Reshape", ["x", "s"], ["a"]),
        node("Add", ["a", "z"], ["y"]),
    ]
    model = build(nodes, {"x": x, "z": z}, symbols={"x": ["n", "m", 4], "z": ["k", 4]})
    fused = fuse(model)
    assert fused.plan.regions
