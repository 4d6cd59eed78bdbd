"""Which CPUs sessions run on that are compared."""

import contextlib
import os
import threading
import time

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from onnx_fusion.runtime import place
from onnx_fusion.runtime.bench import bench

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[64, 64] x) => (float[64, 64] y) { y = MatMul(x, x) }"""


@pytest.fixture
def allowed():
    """What this process may use is as it was after the test."""
    before = os.sched_getaffinity(0)
    yield sorted(before)
    os.sched_setaffinity(0, before)


def affinities():
    """What each thread may use; one that ends meanwhile is none of them."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            found[thread] = os.sched_getaffinity(int(thread))
    return found


def test_one_thread_or_too_few_cpus_are_left_alone(allowed):
    assert place.choose(1) == () and place.choose(len(allowed) + 1) == ()
    os.sched_setaffinity(0, allowed[-1:])
    assert place.choose(2) == ()
    with place.held(()):
        assert os.sched_getaffinity(0) == {allowed[-1]}


def test_the_fastest_set_is_chosen(monkeypatch):
    """Of 0 to 3, where 1 and 3 share a core, and 0 is busy."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    times = {(0, 1): 3, (0, 2): 3, (0, 3): 3, (1, 2): 1, (1, 3): 2, (2, 3): 1.1}
    assert place.choose(2, times.__getitem__) == (1, 2)
    assert place.choose(4, lambda cpus: 1 / 0) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    "cpus,count", [(range(64), 2), ((3, 5, 8, 9, 11, 40, 41), 4), (range(9), 8)]
)
def test_sets_are_few_and_have_a_cpu_for_each_thread(cpus, count):
    sets = place.list_sets(cpus, count)
    assert 1 < len(sets) <= 9 and len(set(sets)) == len(sets)
    assert all(len(set(one)) == count and set(one) <= set(cpus) for one in sets)


def test_each_thread_has_its_cpu_and_gets_back_what_it_had(allowed):
    cpus = place.choose(2)
    if len(allowed) == 1:
        assert cpus == ()
        return
    assert len(set(cpus)) == 2 and set(cpus) <= set(allowed)
    before = affinities()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    place.assign(options, cpus)
    model = onnx.parser.parse_model(MODEL).SerializeToString()
    made = onnxruntime.InferenceSession(model, options)
    with place.held(cpus):
        assert os.sched_getaffinity(0) == {cpus[0]}
        x = np.eye(64, dtype=np.float32)
        np.testing.assert_array_equal(made.run(None, {"x": x})[0], x)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # the thread goes there by itself
            new = [where for t, where in affinities().items() if t not in before]
            if new == [{cpus[1]}]:
                break
        assert new == [{cpus[1]}]
    assert os.sched_getaffinity(0) == set(allowed)


def test_a_race_leaves_no_thread_where_it_held_it(allowed):
    model = onnx.parser.parse_model(MODEL)
    assert bench(model, model, 2, seconds=0.1).ratio > 0
    here = str(threading.get_native_id())
    assert affinities()[here] == set(allowed)
