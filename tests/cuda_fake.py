"""CUDA without a device: stand-ins for libcuda, NVRTC, cuBLASLt and cuDNN (emulator/fake_*.cc),
and sessions that use them.

Kernels run in the emulator that their own tests use, on host memory; the CPU execution provider
stands for the CUDA one.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import onnx
import onnxruntime
import pytest

from onnx_fusion.runtime.session import CUDA_PROVIDER, session

EMULATOR = Path(__file__).with_name("emulator")
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC"]
KERNEL_FLAGS = [*FLAGS, "-w", "-fvisibility=hidden"]


class Fake:
    """The stand-ins, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.driver = self.build("libfake_cuda.so", FLAGS, "fake_cuda.cc")
        self.nvrtc = self.build("libfake_nvrtc.so", FLAGS, "fake_nvrtc.cc")
        self.blas = self.build("libfake_cublaslt.so", FLAGS, "fake_cublaslt.cc")
        self.dnn = self.build("libfake_cudnn.so", FLAGS, "fake_cudnn.cc")
        self.build("emulator.h.gch", [*KERNEL_FLAGS, "-x", "c++-header"], "emulator.h")

    def build(self, name: str, flags: list[str], source: str) -> Path:
        """Return what g++ makes of a source; once for all processes of a test run."""
        made = self.folder / name
        if not made.exists():
            own = self.folder / f"{os.getpid()}-{name}"
            subprocess.run(["g++", *flags, str(EMULATOR / source), "-o", str(own)], check=True)
            os.replace(own, made)
        return made

    def env(self) -> dict[str, str]:
        """Return the environment in which the library uses the stand-ins."""
        flags = " ".join([*KERNEL_FLAGS, f"-I{self.folder}", f"-I{EMULATOR}"])
        return {
            "ONNX_FUSION_LIBCUDA": str(self.driver),
            "ONNX_FUSION_NVRTC": str(self.nvrtc),
            "ONNX_FUSION_CUBLASLT": "",
            "ONNX_FUSION_CUDNN": "",
            "ONNX_FUSION_COMPILERS": "0",
            "FAKE_CUDA_DIR": str(self.folder),
            "FAKE_CUDA_BUILD": f'g++ {flags} "$1" -o "$2"',
        }

    def calls(self, name: str) -> int:
        """Return how often the driver was asked for `name` in this process."""
        return ctypes.CDLL(str(self.driver)).fake_cuda_calls(name.encode())

    def compiled(self) -> int:
        """Return how many texts NVRTC compiled in this process."""
        return ctypes.c_int.in_dll(ctypes.CDLL(str(self.nvrtc)), "fake_nvrtc_compiled").value


@pytest.fixture(scope="session")
def fakes(tmp_path_factory):
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    folder = shared / "cuda_fakes"
    folder.mkdir(exist_ok=True)
    return Fake(folder)


@pytest.fixture
def fake(fakes, monkeypatch):
    """The stand-ins, used by all sessions of the test that ask for CUDA."""
    for name, value in fakes.env().items():
        monkeypatch.setenv(name, value)
    return fakes


def cuda_session(
    model: str | os.PathLike | onnx.ModelProto, *, trust_ptx: bool = False, **entries: str
) -> onnxruntime.InferenceSession:
    """Return a session whose fused nodes run their CUDA kernels; `entries` are session config
    entries of onnx_fusion."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(CUDA_PROVIDER, "CPUExecutionProvider")
    for name, value in entries.items():
        options.add_session_config_entry(f"onnx_fusion.{name}", value)
    return session(model, options=options, trust_ptx=trust_ptx)
