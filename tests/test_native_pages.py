"""Memory that is given back holds the same bytes when it is read again."""

import ctypes
import mmap
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from native_lib import library
from onnx import TensorProto, helper, numpy_helper

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.emit import write

PAGE = mmap.PAGESIZE
BYTES = 600 * PAGE + 100


def give_back(array: np.ndarray) -> int:
    lib = library()
    lib.onnx_fusion_give_back.restype = ctypes.c_uint64
    return lib.onnx_fusion_give_back(
        ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(array.nbytes)
    )


def resident(path: Path) -> int:
    """Return how many bytes of a mapped file are in this process."""
    sections = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M
    )
    return 1024 * sum(
        int(re.search(r"^Rss:\s+(\d+)", text, re.M)[1]) for text in sections if str(path) in text
    )


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(np.random.default_rng(0).bytes(BYTES))
    return path


def map_file(path: Path, access: int) -> np.ndarray:
    with open(path, "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=access), "u1")


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_pages_of_a_file_are_given_back(data, access):
    array = map_file(data, access)
    wanted = array.copy()
    assert resident(data) >= BYTES
    assert give_back(array[100:]) == 599 * PAGE
    assert resident(data) <= 4 * PAGE
    assert np.array_equal(array, wanted)
    assert give_back(array[: PAGE - 1]) == 0


def test_what_was_written_to_is_kept(data):
    array = map_file(data, mmap.ACCESS_COPY)
    wanted = array.copy()
    array.flags.writeable = True
    for page in (590, 30):
        array[page * PAGE] ^= 255
        wanted[page * PAGE] ^= 255
        assert give_back(array) == page * PAGE
        assert np.array_equal(array, wanted)


def test_memory_that_is_no_file_is_kept():
    array = np.frombuffer(mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE), "u1")
    array[:] = np.arange(BYTES) % 251
    wanted = array.copy()
    assert give_back(array) == 0
    assert np.array_equal(array, wanted)
    assert give_back(np.ones(10 * PAGE)) == 0


def chain(seed: int) -> onnx.ModelProto:
    """Return two products with Relus, 2 MiB of weights each."""
    rng = np.random.default_rng(seed)
    weights = [
        (rng.standard_normal(shape) / 32).astype("f4") for shape in ((512, 1024), (1024, 512))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 512])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("fixed", [True, False])
def test_a_session_gives_back_what_its_kernels_packed(tmp_path, monkeypatch, fixed):
    """Known shapes are packed for when the session is made, others at their first run."""
    monkeypatch.setattr(write, "LEAST_BYTES", 1 << 20)
    proto = chain(1)
    if fixed:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    summary = api.optimize_file(source, target, policy="all")
    assert summary.files == [str(target), str(target) + ".data"]
    x = np.random.default_rng(2).standard_normal((8, 512)).astype("f4")
    plain = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    fused = onnx_fusion.session(target, threads=1)
    for rows in (8,) if fixed else (8, 5, 1, 8):
        wanted = plain.run(None, {"x": x[:rows]})[0]
        np.testing.assert_allclose(
            fused.run(None, {"x": x[:rows]})[0], wanted, rtol=1e-4, atol=1e-5
        )
        assert resident(target.with_name("out.onnx.data")) <= 256 << 10
    portable = onnx_fusion.session(target, library=False)
    np.testing.assert_allclose(
        portable.run(None, {"x": x})[0], plain.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5
    )


def test_a_single_file_says_what_it_costs(tmp_path, monkeypatch):
    for module in (write, api):
        monkeypatch.setattr(module, "LEAST_BYTES", 1 << 20)
    onnx.save(chain(3), tmp_path / "in.onnx")
    summary = api.optimize_file(
        tmp_path / "in.onnx", tmp_path / "out.onnx", policy="all", single_file=True
    )
    assert summary.files == [str(tmp_path / "out.onnx")]
    assert summary.notes == [
        "in a single file 4 MiB of weights are in memory twice in every session"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]
    two = api.optimize_file(tmp_path / "in.onnx", tmp_path / "two.onnx", policy="all")
    assert not two.notes and len(two.files) == 2
    # Weights that came in a file of their own go into the model, too.
    onnx.save(chain(3), tmp_path / "ext.onnx", save_as_external_data=True, location="ext.bin")
    api.optimize_file(tmp_path / "ext.onnx", tmp_path / "one.onnx", policy="all", single_file=True)
    assert onnx.load(tmp_path / "one.onnx") == onnx.load(tmp_path / "out.onnx")
