"""The custom op inside ONNX Runtime: hand-written fused nodes against NumPy."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from op_models import (
    AFFINE,
    DENSE,
    FLOAT,
    GATHER,
    INT64,
    ROWS,
    affine_model,
    dense_model,
    function,
    fused,
    model,
)

from onnx_fusion.errors import ModelError
from onnx_fusion.runtime.session import session

rng = np.random.default_rng(7)


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (64, 257), (0, 4), (4, 0)])
def test_outputs_of_two_types(shape, library):
    x = (rng.standard_normal(shape) * 9).astype(np.float32)
    w = rng.standard_normal(shape[1]).astype(np.float32)
    y, z = session(affine_model(), library=library).run(None, {"x": x, "w": w})
    assert np.array_equal(y, x * w)
    assert z.dtype == np.int64 and np.array_equal(z, np.trunc(x * w).T)


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_constant_weights(library, threads):
    w, b = (rng.standard_normal(s).astype(np.float32) for s in [(64, 48), 48])
    made = session(dense_model(w, b), library=library, threads=threads)
    for rows in (1, 7, 200, 1):
        x = rng.standard_normal((rows, 64)).astype(np.float32)
        exact = np.maximum(x.astype(np.float64) @ w + b, 0)
        np.testing.assert_allclose(made.run(None, {"x": x})[0], exact, rtol=1e-4, atol=1e-4)


def kept_model(schedule: str, weights=None) -> onnx.ModelProto:
    """Return DENSE with weights that are inputs too, and this schedule."""
    node = fused(["x", "w", "b"], ["y"], DENSE)
    node.attribute.append(helper.make_attribute("schedule", schedule))
    body = [
        helper.make_node("MatMul", ["a", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    return model(
        [node],
        {"x": (FLOAT, ("M", 64)), "w": (FLOAT, (64, 48)), "b": (FLOAT, (48,))},
        {"y": (FLOAT, ("M", 48))},
        weights=weights,
        functions=[function(0, ["a", "w", "b"], ["y"], body)],
    )


@pytest.mark.parametrize(
    "schedule", ["kept=1,2", "other=3;kept=2,1;", "kept=9,1,0,", "kept=", "kept=x"]
)
@pytest.mark.parametrize("library", [True, False])
def test_weights_that_are_kept_may_still_change(schedule, library):
    first, second = (
        [rng.standard_normal(s).astype(np.float32) for s in [(64, 48), 48]] for _ in range(2)
    )
    made = session(kept_model(schedule, dict(zip("wb", first, strict=True))), library=library)
    x = rng.standard_normal((9, 64)).astype(np.float32)

    def want(w, b):
        return np.maximum(x.astype(np.float64) @ w + b, 0)

    for k in range(30):
        feeds, (w, b) = {"x": x}, first
        if k in (3, 7, 8) or k > 12 and k % 2:
            w, b = second
            feeds |= {"w": w, "b": b}
        (y,) = made.run(None, feeds)
        np.testing.assert_allclose(y, want(w, b), rtol=1e-5, atol=1e-5)
    feeds = {"x": x, "w": first[0].copy(), "b": first[1]}
    for k in range(3):
        feeds["w"][5, 7] += k
        np.testing.assert_allclose(
            made.run(None, feeds)[0], want(feeds["w"], feeds["b"]), rtol=1e-5, atol=1e-5
        )


def test_threads_meet_at_the_first_run_with_kept_weights():
    w, b = (rng.standard_normal(s).astype(np.float32) for s in [(64, 48), 48])
    x = rng.standard_normal((5, 64)).astype(np.float32)
    for _ in range(5):
        made = session(kept_model("kept=1,2", {"w": w, "b": b}))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _, run=made.run: run(None, {"x": x})[0], range(16)))
        for y in found:
            np.testing.assert_allclose(y, np.maximum(x @ w + b, 0), rtol=1e-4, atol=1e-5)


def test_an_initializer_that_may_be_overridden_is_not_constant():
    w, b = (rng.standard_normal(s).astype(np.float32) for s in [(64, 48), 48])
    made = dense_model(w, b)
    made.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [64, 48]))
    run = session(made).run
    x = rng.standard_normal((5, 64)).astype(np.float32)
    for other in (w, -w, w * 2):
        exact = np.maximum(x.astype(np.float64) @ other + b, 0)
        np.testing.assert_allclose(run(None, {"x": x, "w": other})[0], exact, rtol=1e-4, atol=1e-4)


def test_shapes_are_inferred_as_far_as_inputs_are_known():
    def shapes(dims):
        return [value.shape for value in session(affine_model(dims)).get_outputs()]

    assert shapes((3, 5)) == [[3, 5], [5, 3]]
    assert shapes(("batch", 5)) == [["batch", 5], [5, "batch"]]
    (m, k), transposed = shapes((None, None))
    assert isinstance(m, str) and isinstance(k, str) and m != k and transposed == [k, m]


def test_unknown_extents_do_not_share_a_symbol():
    program = AFFINE.replace("[M, K] row\noutput y1", "[M, K] row\noutput y1")
    made = affine_model((None, None))
    made.graph.node[0].attribute[0].s = program.encode()
    made.graph.node.append(fused(["x2", "w2"], ["y2", "z2"], program))
    for name, rank in (("x2", 2), ("w2", 1)):
        made.graph.input.append(helper.make_tensor_value_info(name, FLOAT, [None] * rank))
    made.graph.output.append(helper.make_tensor_value_info("y2", FLOAT, None))
    first, _, second = (value.shape for value in session(made).get_outputs())
    assert not set(first) & set(second)


@pytest.mark.parametrize("library", [True, False])
def test_inside_the_branches_of_if(library):
    w = rng.standard_normal(6).astype(np.float32)

    def branch(name, weight, k):
        nodes = [
            helper.make_node("Identity", ["x"], [f"{name}_in"]),
            fused([f"{name}_in", weight], [f"{name}_y", f"{name}_z"], AFFINE, k),
        ]
        out = helper.make_tensor_value_info(f"{name}_y", FLOAT, ["M", 6])
        values = [helper.make_tensor_value_info(f"{name}_z", INT64, [6, "M"])]
        return helper.make_graph(nodes, name, [], [out], value_info=values)

    body = list(affine_model().functions[0].node)
    made = model(
        [
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                then_branch=branch("yes", "w", 0),
                else_branch=branch("no", "w2", 1),
            )
        ],
        {"c": (TensorProto.BOOL, ()), "x": (FLOAT, ("M", 6))},
        {"y": (FLOAT, ("M", 6))},
        weights={"w": w, "w2": -w},
        functions=[function(k, ["a", "b"], ["y", "z"], body) for k in (0, 1)],
    )
    run = session(made, library=library).run
    x = rng.standard_normal((3, 6)).astype(np.float32)
    for condition, weight in ((True, w), (False, -w)):
        (y,) = run(None, {"c": np.array(condition), "x": x})
        assert np.array_equal(y, x * weight)


def test_a_shape_that_contradicts_the_program_is_an_error_with_the_nodes_name():
    made = session(affine_model((None, None)))
    x, w = np.zeros((2, 3), np.float32), np.zeros(4, np.float32)
    with pytest.raises(Exception, match=r"node 'region_y' \(FusedRegion_0\): .*x1.*4.*3"):
        made.run(None, {"x": x, "w": w})
    assert made.run(None, {"x": x, "w": w[:3]})[0].shape == (2, 3)


def test_gather_out_of_range_is_an_error_with_the_nodes_name():
    made = session(
        model(
            [fused(["x", "i"], ["y"], GATHER)],
            {"x": (FLOAT, ("V", 4)), "i": (INT64, ("S",))},
            {"y": (FLOAT, ("S", 4))},
        )
    )
    x = rng.standard_normal((5, 4)).astype(np.float32)
    good = np.array([4, 0, 2], np.int64)
    for bad in (5, -1, 2**40, -(2**62)):
        with pytest.raises(Exception, match=r"node 'region_y' \(FusedRegion_0\): "):
            made.run(None, {"x": x, "i": np.array([0, bad, 1], np.int64)})
        assert np.array_equal(made.run(None, {"x": x, "i": good})[0], x[good])


BAD = [
    ("", r"line 1: "),
    ("tile_program 2\n", r"tile_program|tile program"),
    ("tile_program 1\0\n", r"line 1: "),
    (AFFINE.replace("mul %0 %1", "mul %0 %9"), r"line 9: "),
    (AFFINE.replace("store y1 (j, i) %3\n", ""), r"y1"),
    (AFFINE.replace("input x1 f32[K] row\n", "").replace("load x1 (j)", "const f32 1"), "2 inputs"),
    (AFFINE.replace("input x1 f32[K]", "input x1 f64[K]").replace("mul %0 %1", "mul %0 %0"), "f64"),
    ("tile_program 1\n" + "dim A = " + "(" * 3000 + "1" + ")" * 3000 + "\n", r"line 2: "),
]


@pytest.mark.parametrize(("program", "message"), BAD)
def test_a_bad_program_is_an_error_at_session_creation(program, message):
    made = model(
        [fused(["x", "w"], ["y", "z"], program)],
        {"x": (FLOAT, (2, 3)), "w": (FLOAT, (3,))},
        {"y": (FLOAT, (2, 3)), "z": (INT64, (3, 2))},
    )
    with pytest.raises(ModelError, match=r"node 'region_y' \(FusedRegion_0\): ") as caught:
        session(made)
    assert caught.match(message)


def test_a_node_without_a_program_is_an_error():
    made = affine_model((2, 3))
    del made.graph.node[0].attribute[:]
    made.graph.output[0].type.tensor_type.shape.dim.add()
    with pytest.raises(ModelError, match="program"):
        session(made)


def test_attributes_not_known_are_ignored():
    made = affine_model((2, 3))
    made.graph.node[0].attribute.extend(
        [helper.make_attribute("schedule", "colour=green"), helper.make_attribute("later", 1)]
    )
    x, w = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    assert np.array_equal(session(made).run(None, {"x": x, "w": w})[0], x * w)


def test_threads_sessions_and_shapes_at_once():
    w, b = (rng.standard_normal(s).astype(np.float32) for s in [(64, 48), 48])
    rows = model(
        [fused(["x"], ["y"], ROWS)], {"x": (FLOAT, ("M", "K"))}, {"y": (FLOAT, ("M", "K"))}
    )
    dense = [session(dense_model(w, b), threads=n) for n in (1, 2, 3)]
    soft = [session(rows, threads=n) for n in (1, 2)]

    def work(seed: int) -> None:
        own = np.random.default_rng(seed)
        for i in range(60):
            x = own.standard_normal((int(own.integers(0, 90)), 64)).astype(np.float32)
            exact = np.maximum(x.astype(np.float64) @ w + b, 0)
            got = dense[(seed + i) % 3].run(None, {"x": x})[0]
            np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)
            x = own.standard_normal(own.integers(1, 90, 2)).astype(np.float32)
            exact = np.exp(x.astype(np.float64))
            exact /= exact.sum(1, keepdims=True)
            got = soft[(seed + i) % 2].run(None, {"x": x})[0]
            np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, seed) for seed in range(6)]:
            done.result()


LATE = """
import os, sys, time
import numpy as np, onnx, onnxruntime
from onnx_fusion.runtime.session import session

cpus = sorted(os.sched_getaffinity(0))[:2]
os.sched_setaffinity(0, cpus)
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
before = set(os.listdir("/proc/self/task"))
made = session(onnx.load_from_string(sys.stdin.buffer.read()), threads=2, options=options)
(worker,) = (int(task) for task in set(os.listdir("/proc/self/task")) - before)
x = np.ones((1 << 17, 64), np.float32)

# It gets next to nothing of the CPU on which the other thread runs.
policy = os.sched_getscheduler(worker)
os.sched_setscheduler(worker, os.SCHED_IDLE, os.sched_param(0))
for task in (0, worker):
    os.sched_setaffinity(task, cpus[:1])
for _ in range(4200):
    made.run(None, {"x": x[:64]})
for task in (0, worker):
    os.sched_setaffinity(task, cpus)
try:
    os.sched_setscheduler(worker, policy, os.sched_param(0))
except PermissionError:
    pass

def spent():
    with open(f"/proc/self/task/{worker}/schedstat") as file:
        return int(file.read().split()[0])

alone = len(cpus) == 1
end = time.monotonic() + (2 if alone else 30)
while time.monotonic() < end:
    start, had = time.monotonic(), spent()
    for _ in range(10):
        made.run(None, {"x": x})
    if spent() - had > 0.1e9 * (time.monotonic() - start):
        sys.exit("two threads share a CPU" if alone else 0)
sys.exit(0 if alone else "the second thread has nothing to do")
"""


def test_a_thread_that_could_not_run_at_first_is_given_work_later():
    """On a single CPU it never is: there, a second thread only takes turns with the first."""
    w, b = (rng.standard_normal(s).astype(np.float32) for s in [(64, 48), 48])
    data = dense_model(w, b).SerializeToString()
    done = subprocess.run(
        [sys.executable, "-c", LATE], input=data, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()


def test_io_binding_writes_into_the_callers_memory():
    w, b = (rng.standard_normal(s).astype(np.float32) for s in [(64, 48), 48])
    made = session(dense_model(w, b))
    x = rng.standard_normal((5, 64)).astype(np.float32)
    out = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((5, 48), np.float32))
    binding = made.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_ortvalue_output("y", out)
    made.run_with_iobinding(binding)
    exact = np.maximum(x.astype(np.float64) @ w + b, 0)
    np.testing.assert_allclose(out.numpy(), exact, rtol=1e-4, atol=1e-4)


def test_sessions_may_outlive_everything_at_exit():
    code = (
        "import sys, numpy as np, onnx\n"
        "from onnx_fusion.runtime.session import session\n"
        "keep = session(onnx.load_from_string(sys.stdin.buffer.read()), threads=2)\n"
        "keep.run(None, {'x': np.ones((2, 3), np.float32), 'w': np.ones(3, np.float32)})\n"
        "sys.keep = keep\n"
    )
    data = affine_model().SerializeToString()
    done = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, env=dict(os.environ)
    )
    assert (done.returncode, done.stderr) == (0, b"")
