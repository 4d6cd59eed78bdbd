"""The custom op's CUDA side inside ONNX Runtime, with stand-ins for the driver and the compiler."""

from __future__ import annotations

import concurrent.futures
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cuda_fake import cuda_session
from op_models import FLOAT, GATHER, INT64, affine_model, fused, model

from onnx_fusion.errors import LibraryError, ModelError
from onnx_fusion.runtime.library import get_library_path
from onnx_fusion.runtime.machine import make_ptx
from onnx_fusion.runtime.session import CUDA, CUDA_PROVIDER, session

TWO_STAGES = """tile_program 1
input x0 f32[M, 40] row
temp t0 f32[M] row
output y0 f32[M, 40] row
stage i: M, j: 40
%0 = load x0 (i, j)
%1 = reduce_sum %0 over j
store t0 (i) %1
stage i: M, j: 40
%0 = load x0 (i, j)
%1 = load t0 (i)
%2 = add %0 %1
store y0 (i, j) %2
"""
SIZED = """tile_program 1
input x0 f32[M] row
input x1 i64[1] row as (K)
output y0 f32[M, K] row
stage i: M, j: K
%0 = load x0 (i)
store y0 (i, j) %0
"""
rng = np.random.default_rng(11)


def run_affine(made, rows, columns):
    x, w = rng.standard_normal((rows, columns)), rng.standard_normal(columns)
    x, w = x.astype(np.float32), w.astype(np.float32)
    y, z = made.run(None, {"x": x, "w": w})
    assert np.array_equal(y, x * w)
    assert np.array_equal(z, (x * w).T.astype(np.int64))


def two_stages(dims=("M", 40)):
    text = TWO_STAGES.replace("[M, 40]", f"[{dims[0]}, 40]").replace("M", str(dims[0]))
    return model([fused(["x"], ["y"], text)], {"x": (FLOAT, dims)}, {"y": (FLOAT, None)})


def run_two(made, rows):
    x = rng.standard_normal((rows, 40)).astype(np.float32)
    np.testing.assert_allclose(
        made.run(None, {"x": x})[0], x + x.sum(1, keepdims=True), rtol=1e-5, atol=1e-5
    )


def test_shapes_of_a_run_are_planned_once_and_compiled_by_class(fake):
    made = cuda_session(affine_model())
    for rows, columns in ((5, 7), (3, 9), (5, 7), (1, 1), (0, 4)):
        run_affine(made, rows, columns)
    before = fake.compiled(), fake.calls("load")
    for rows, columns in ((9, 11), (5, 7), (3, 9), (33, 65)):
        run_affine(made, rows, columns)
    assert (fake.compiled(), fake.calls("load")) == before


def test_known_shapes_are_compiled_when_the_session_is_made(fake):
    before = fake.calls("load")
    made = cuda_session(two_stages((6, 40)))
    loaded = fake.calls("load")
    assert loaded > before
    run_two(made, 6)
    assert fake.calls("load") == loaded


def test_equal_kernels_are_loaded_once_while_a_session_lives(fake):
    first = cuda_session(two_stages((8, 40)))
    loaded, unloaded = fake.calls("load"), fake.calls("unload")
    second = cuda_session(two_stages((8, 40)))
    assert fake.calls("load") == loaded
    del first
    run_two(second, 8)
    assert fake.calls("unload") == unloaded
    del second
    assert fake.calls("unload") > unloaded


def cache_of(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNX_FUSION_CACHE", str(tmp_path))
    return tmp_path / "cuda"


def test_compiled_kernels_are_kept_on_disk(fake, monkeypatch, tmp_path):
    folder = cache_of(monkeypatch, tmp_path)
    cuda_session(two_stages((10, 40)))
    compiled = fake.compiled()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert files and all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files)
    run_two(cuda_session(two_stages((10, 40))), 10)
    assert fake.compiled() == compiled
    monkeypatch.setenv("FAKE_CUDA_ARCH", "80")
    cuda_session(two_stages((10, 40)))
    assert fake.compiled() > compiled


@pytest.mark.parametrize("damage", ["short", "empty", "header", "key", "content", "image"])
def test_a_damaged_cache_entry_is_compiled_again(fake, monkeypatch, tmp_path, damage):
    folder = cache_of(monkeypatch, tmp_path)
    cuda_session(two_stages((12, 40)))
    compiled = fake.compiled()
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    whole = bytes(data)
    if damage in ("short", "empty"):
        data = data[: 0 if damage == "empty" else len(data) // 2]
    elif damage == "image":
        monkeypatch.setenv("FAKE_CUDA_ARCH", "100")  # a driver that does not take what is stored
    else:
        data[{"header": 3, "key": 60, "content": len(data) - 9}[damage]] ^= 0x40
    if damage != "image":
        file.write_bytes(data)
    run_two(cuda_session(two_stages((12, 40))), 12)
    assert fake.compiled() > compiled
    assert whole in [f.read_bytes() for f in folder.iterdir()]


def test_a_cache_that_others_can_write_is_not_used(fake, monkeypatch, tmp_path):
    folder = cache_of(monkeypatch, tmp_path)
    folder.mkdir()
    folder.chmod(0o777)
    for _ in range(2):
        before = fake.compiled()
        cuda_session(two_stages((14, 40)))
        assert fake.compiled() > before
    assert not list(folder.iterdir())


def test_several_sessions_and_threads(fake):
    sessions = [
        cuda_session(affine_model()),
        cuda_session(affine_model()),
        cuda_session(two_stages()),
    ]
    allocated = []

    def work(k):
        for rows in range(2, 9):
            if k % 3 == 2:
                run_two(sessions[2], rows)
            else:
                run_affine(sessions[k % 3], rows, 3 + (rows * k) % 5)
        allocated.append(k)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(allocated) == 6


def test_bound_inputs_and_outputs_at_any_address(fake):
    made = cuda_session(affine_model((6, 8)))
    memory = np.zeros(6 * 8 + 4, np.float32)
    for shift in (0, 1, 3):
        x = memory[shift : shift + 48].reshape(6, 8)
        x[:] = rng.standard_normal((6, 8))
        w = rng.standard_normal(8).astype(np.float32)
        y, z = np.empty((6, 8), np.float32), np.empty((8, 6), np.int64)
        binding = made.io_binding()
        for name, array in (("x", x), ("w", w)):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in (("y", y), ("z", z)):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        made.run_with_iobinding(binding)
        assert np.array_equal(y, x * w)
        assert np.array_equal(z, (x * w).T.astype(np.int64))


def test_an_index_out_of_range_is_told_by_a_later_run(fake):
    made = cuda_session(
        model(
            [fused(["x", "i"], ["y"], GATHER)],
            {"x": (FLOAT, ["V", 4]), "i": (INT64, ["S"])},
            {"y": (FLOAT, None)},
        )
    )
    x = rng.standard_normal((5, 4)).astype(np.float32)
    good, bad = np.array([4, 0, 2]), np.array([4, 0, 5])
    assert np.array_equal(made.run(None, {"x": x, "i": good})[0], x[good])
    made.run(None, {"x": x, "i": bad})
    with pytest.raises(
        Exception, match=r"node 'region_y'.*line \d+: in an earlier run, an index read"
    ):
        made.run(None, {"x": x, "i": good})
    assert np.array_equal(made.run(None, {"x": x, "i": good})[0], x[good])


def embedded(dims):
    made = affine_model(dims)
    text = made.graph.node[0].attribute[0].s.decode()
    known = [d if isinstance(d, int) else -1 for d in dims]
    ptx = make_ptx(text, [known, known[1:]])
    made.graph.node[0].attribute.add(name="ptx", type=3, s=ptx.encode())
    return made, ptx


@pytest.mark.parametrize("dims", [(6, 8), ("M", "K")])
def test_ptx_in_the_model_needs_no_compiler(fake, monkeypatch, dims):
    made, ptx = embedded(dims)
    assert ptx.count(".version 7.0\n") == ptx.count(".version") > 0
    assert ptx.count(".target compute_80\n") == ptx.count(".target")
    monkeypatch.setenv("ONNX_FUSION_NVRTC", "/nowhere/libnvrtc.so")
    before = fake.compiled(), fake.calls("jit")
    opened = cuda_session(made, trust_ptx=True)
    shapes = [(6, 8)] if dims == (6, 8) else [(64, 64), (61, 61), (128, 128)]
    for shape in shapes:
        run_affine(opened, *shape)
    assert fake.compiled() == before[0] and fake.calls("jit") > before[1]


@pytest.mark.parametrize("dims", [(61, 61), ("M", "K")])
def test_ptx_in_the_model_runs_only_if_it_is_trusted(fake, tmp_path, monkeypatch, dims):
    """PTX that does something else than the program: it is not what an untrusting session runs."""
    monkeypatch.setenv("ONNX_FUSION_CACHE", str(tmp_path))
    made, ptx = embedded(dims)
    other = ptx.replace("mul_f32(", "add_f32(").replace(" * ", " + 7 * ")
    assert other != ptx
    made.graph.node[0].attribute[1].s = other.encode()
    before = fake.calls("jit")
    run_affine(cuda_session(made), 61, 61)
    assert fake.calls("jit") == before
    with pytest.raises(AssertionError):
        run_affine(cuda_session(made, trust_ptx=True), 61, 61)
    run_affine(cuda_session(made, cuda_ptx="0"), 61, 61)
    assert fake.calls("jit") > before
    if dims == (61, 61):  # what the cache has needs no compiler
        monkeypatch.setenv("ONNX_FUSION_CACHE", str(tmp_path / "empty"))
    expected = (
        r"node 'region_y' \(FusedRegion_0\): there is no NVRTC .* the PTX in the model, .* is not "
        r"trusted; install onnx-fusion\[cuda\], or allow it: .*trust_ptx=True.*'onnx_fusion.cuda"
    )
    say(made, expected, fake, ONNX_FUSION_NVRTC="/nowhere/libnvrtc.so")


def test_options_that_do_not_trust_are_not_reused_by_who_does(fake):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(CUDA_PROVIDER, "CPUExecutionProvider")
    session(affine_model((6, 8)), options=options)
    with pytest.raises(LibraryError, match="made without trust_ptx; use new ones"):
        session(affine_model((6, 8)), options=options, trust_ptx=True)


def test_a_driver_older_than_the_ptx_is_named(fake, monkeypatch):
    made, _ = embedded((6, 8))
    monkeypatch.setenv("FAKE_CUDA_PTX", "65")
    monkeypatch.setenv("FAKE_CUDA_RELEASE", "10020")
    expected = r"node 'region_y' .*the driver knows CUDA 10.2, the kernels' PTX .* needs 11.0"
    # The driver is asked for its release once in a process.
    say(made, expected, fake, trust_ptx="True")


def say(made, expected, fake, trust_ptx="False", **variables):
    """Check what a new process says when it makes a session of the model."""
    text = made.SerializeToString()
    code = (
        f"import sys\nsys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
        "import onnx\nfrom cuda_fake import cuda_session\n"
        "made = onnx.ModelProto.FromString(sys.stdin.buffer.read())\n"
        f"cuda_session(made, trust_ptx={trust_ptx})\n"
    )
    env = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, env=env)
    last = done.stderr.decode().strip().split("\n")[-1]
    assert done.returncode == 1
    import re

    assert re.search(expected, last), last


def test_without_a_compiler_or_ptx_the_session_says_what_to_install(fake):
    for made in (affine_model((4, 4)), affine_model()):
        say(
            made, r"node 'region_y' .*NVRTC cannot be loaded.*install onnx-fusion\[cuda\]", fake,
            ONNX_FUSION_NVRTC="/nowhere/libnvrtc.so",
        )  # fmt: skip


def test_without_a_driver_cuda_is_an_error_and_the_cpu_as_before(fake, monkeypatch):
    say(
        affine_model(), r"the CUDA driver cannot be loaded", fake, ONNX_FUSION_LIBCUDA="/nowhere.so"
    )
    monkeypatch.setenv("ONNX_FUSION_LIBCUDA", "/nowhere.so")
    run_affine(session(affine_model()), 4, 5)


def test_a_driver_does_not_disturb_the_cpu(fake):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())  # both kinds of kernels
    launched = fake.calls("launch")
    run_affine(
        onnxruntime.InferenceSession(
            affine_model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        ), 4, 5,
    )  # fmt: skip
    assert fake.calls("launch") == launched


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"FAKE_CUDA_ARCH": "70"},
            "the device is sm_70, and NVRTC 13.5 compiles for sm_75 to sm_120",
        ),
        (
            {"FAKE_CUDA_THREADS": "8"},
            r"needs blocks of \d+ x \d+ x \d+ threads, the device takes 8",
        ),
        ({"FAKE_CUDA_GRID": "0"}, r"needs a grid of .* blocks, the device .* 0"),
        ({"FAKE_NVRTC_FAILS": "1"}, "does not compile: kernel.cu.3.: error: identifier .nothing."),
    ],
)
def test_what_a_device_cannot_do_is_said_with_the_numbers(fake, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ModelError, match=r"node 'region_y' \(FusedRegion_0\): [^\n]*" + expected
    ) as e:
        cuda_session(affine_model((6, 9)))
    assert "\n" not in str(e.value)
    if "FAKE_NVRTC_FAILS" in variables:
        path = Path(str(e.value).rsplit(" in ", 1)[1])
        text = path.read_text()
        assert "__global__" in text and "1 error detected" in text


@pytest.mark.parametrize("variable", [{"FAKE_CUDA_ARCH": "130"}, {"FAKE_CUDA_NO_CUBIN": "1"}])
def test_machine_code_that_the_driver_does_not_take_is_replaced_by_ptx(fake, monkeypatch, variable):
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    before = fake.calls("jit")
    run_two(cuda_session(two_stages((16, 40))), 16)
    assert fake.calls("jit") == before + 1


def test_a_program_that_reads_extents_is_refused(fake):
    made = model(
        [fused(["x", "n"], ["y"], SIZED)],
        {"x": (FLOAT, ["M"]), "n": (INT64, [1])},
        {"y": (FLOAT, None)},
    )
    with pytest.raises(ModelError, match="input 1 decides about shapes, so it is read on the host"):
        cuda_session(made)


def test_a_node_left_on_the_cpu_is_an_error_where_cuda_was_asked_for():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(CUDA, "1")
    options.register_custom_ops_library(get_library_path())
    with pytest.raises(
        Exception, match="ONNX Runtime runs it on the CPU, and this session wants CUDA"
    ):
        onnxruntime.InferenceSession(
            affine_model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def test_cuda_where_there_is_none_is_one_clear_error(monkeypatch):
    """By an onnxruntime without the provider, or with one that cannot be loaded without a
    driver."""
    monkeypatch.setenv("ONNX_FUSION_LIBCUDA", "/nowhere.so")
    with pytest.raises(
        (LibraryError, ModelError),
        match="has no CUDAExecutionProvider, only .*; install onnxruntime-gpu in its place"
        "|this session wants CUDA; the CUDA driver .* cannot be loaded here",
    ):
        session(affine_model(), providers=["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(LibraryError, match="onnxruntime-gpu"):
        session(affine_model(), providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    # ONNX Runtime's own session falls back, and the CPU's kernels run.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(get_library_path())
    with warnings.catch_warnings(action="ignore"):
        run_affine(
            onnxruntime.InferenceSession(
                affine_model().SerializeToString(), options,
                providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
            ), 4, 5,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["cuda", "cuda_ptx", "tf32", "cuda_blas", "cuda_dnn"])
def test_a_wrong_flag_is_refused(fake, name):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(f"onnx_fusion.{name}", "yes")
    with pytest.raises(Exception, match=f"'onnx_fusion.{name}' is 'yes'; it must be 0 or 1"):
        options.register_custom_ops_library(get_library_path())
