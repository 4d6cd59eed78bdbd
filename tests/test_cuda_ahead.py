"""Kernels compiled while a session is made, by processes of their own (native/cuda/ahead.h)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from op_models import FLOAT, fused, model

import onnx_fusion
from onnx_fusion.runtime.library import get_library_path

NATIVE = Path(onnx_fusion.__file__).parent / "native"
OPS = ("neg", "abs", "floor", "ceil", "round", "sign")
TEXT = """tile_program 1
input x0 f32[9, 33] row
output y0 f32[9, 33] row
stage i: 9, j: 33
%0 = load x0 (i, j)
%1 = {} %0
store y0 (i, j) %1
"""
RUN = """
import sys
sys.path[:0] = [sys.argv[1]]
import numpy as np, onnx
from cuda_fake import cuda_session
made = cuda_session(onnx.ModelProto.FromString(sys.stdin.buffer.read()))
np.save(sys.argv[2], made.run(None, {"x": np.load(sys.argv[3])})[0])
"""


@pytest.fixture
def library(tmp_path):
    """The library in a folder of its own, with the compiler's program beside it."""
    folder = tmp_path / "library"
    folder.mkdir()
    shutil.copy(get_library_path(), folder / "libonnx_fusion.so")
    program = folder / "onnx_fusion_compiler"
    source = NATIVE / "compiler" / "main.cc"
    subprocess.run(["g++", "-std=c++17", str(source), "-o", str(program), "-ldl"], check=True)
    return folder / "libonnx_fusion.so"


def chain():
    names = ["x", *(f"v{k}" for k in range(len(OPS)))]
    nodes = [
        fused([a], [b], TEXT.format(op)) for a, b, op in zip(names, names[1:], OPS, strict=False)
    ]
    return model(nodes, {"x": (FLOAT, (9, 33))}, {names[-1]: (FLOAT, None)})


def run(tmp_path, library, **variables):
    """Return a new process, what it computed, and which processes compiled."""
    x = np.random.default_rng(3).standard_normal((9, 33)).astype("f") * 5
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "y.npy").unlink(missing_ok=True)
    log = tmp_path / "compiled"
    log.write_text("")
    env = {
        **os.environ, "ONNX_FUSION_LIBRARY": str(library), "ONNX_FUSION_COMPILERS": "2",
        "ONNX_FUSION_CACHE": str(tmp_path / "cache"), "FAKE_NVRTC_LOG": str(log), **variables,
    }  # fmt: skip
    words = [str(Path(__file__).parent), str(tmp_path / "y.npy"), str(tmp_path / "x.npy")]
    done = subprocess.run([sys.executable, "-c", RUN, *words], input=chain().SerializeToString(),
                          capture_output=True, env=env)  # fmt: skip
    if done.returncode == 0:
        y = np.load(tmp_path / "y.npy")
        np.testing.assert_array_equal(y, np.sign(np.round(np.ceil(np.floor(np.abs(-x))))))
    return done, log.read_text().split()


def test_processes_compile_each_kernel_once(fake, tmp_path, library):
    done, compiled = run(tmp_path, library, FAKE_NVRTC_MS="150")
    assert done.returncode == 0, done.stderr.decode()
    assert len(compiled) == len(OPS)
    # The session's own process takes what no other has begun.
    assert 2 <= len(set(compiled)) <= 3
    done, compiled = run(tmp_path, library)
    assert (done.returncode, compiled) == (0, [])
    assert len(list((tmp_path / "cache" / "cuda").iterdir())) == len(OPS)


def test_none_need_help(fake, tmp_path, library):
    done, compiled = run(tmp_path, library, ONNX_FUSION_COMPILERS="0")
    assert (done.returncode, len(compiled), len(set(compiled))) == (0, len(OPS), 1)
    (library.parent / "onnx_fusion_compiler").unlink()
    shutil.rmtree(tmp_path / "cache")
    done, compiled = run(tmp_path, library)
    assert (done.returncode, len(compiled), len(set(compiled))) == (0, len(OPS), 1)


def test_a_compiler_that_dies_is_not_missed(fake, tmp_path, library):
    done, compiled = run(tmp_path, library, FAKE_NVRTC_DIES="1")
    assert done.returncode == 0, done.stderr.decode()
    assert len(compiled) >= len(OPS)


def test_what_does_not_compile_is_told_by_the_session(fake, tmp_path, library):
    done, _ = run(tmp_path, library, FAKE_NVRTC_FAILS="1")
    said = done.stderr.decode().strip().split("\n")[-1]
    assert done.returncode == 1
    assert "a generated kernel does not compile: kernel.cu(3): error" in said
    assert "the text and NVRTC's log are in" in said
