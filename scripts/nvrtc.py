"""NVRTC of the PyPI package nvidia-cuda-nvrtc by ctypes: texts to cubins, without GPU or driver."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
import re
import time
from pathlib import Path

ARCHES = (75, 80, 86, 89, 90, 100, 120)
"""The architectures that every kernel is compiled for."""


class CompileError(Exception):
    """NVRTC's log of a text that does not compile."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What the assembler says of one entry."""

    registers: int
    spills: int  # bytes stored and loaded
    stack: int  # bytes of local memory that are not spills


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled text."""

    cubin: bytes
    kernels: dict[str, Kernel]
    seconds: float


@functools.cache
def find_library() -> Path | None:
    """Return NVRTC's library of the installed package, or None where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = sorted(Path(folder).glob("*/lib/libnvrtc.so.*"))
        if found:
            return found[-1]
    return None


@functools.cache
def load() -> ctypes.CDLL:
    path = find_library()
    if path is None:
        raise CompileError("nvidia-cuda-nvrtc is not installed")
    # NVRTC looks for its other half by name only.
    for other in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(other), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def compile_text(text: str, arch: int, kind: str = "cubin") -> Module:
    """Return a text compiled for compute capability arch / 10 (kind "ptx": its PTX instead)."""
    library, program = load(), ctypes.c_void_p()
    start = time.perf_counter()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    target = f"--gpu-architecture={'sm' if kind == 'cubin' else 'compute'}_{arch}"
    options = [target.encode(), b"--ptxas-options=-v", b"--std=c++17"]
    failed = library.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    seconds = time.perf_counter() - start
    log = _get(library, program, "nvrtcGetProgramLog", "nvrtcGetProgramLogSize").decode()
    if failed:
        library.nvrtcDestroyProgram(ctypes.byref(program))
        raise CompileError(log)
    name = "CUBIN" if kind == "cubin" else "PTX"
    code = _get(library, program, f"nvrtcGet{name}", f"nvrtcGet{name}Size")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return Module(code, _kernels(log), seconds)


def _get(library: ctypes.CDLL, program: ctypes.c_void_p, get: str, size: str) -> bytes:
    count = ctypes.c_size_t()
    getattr(library, size)(program, ctypes.byref(count))
    buffer = ctypes.create_string_buffer(count.value)
    getattr(library, get)(program, buffer)
    return buffer.raw[: count.value].rstrip(b"\0") if "Log" in get else buffer.raw[: count.value]


def _kernels(log: str) -> dict[str, Kernel]:
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        entry = part[: part.index("'")]
        stack, stores, loads = (
            int(n) for n in re.search(
                r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
            ).groups()
        )  # fmt: skip
        registers = int(re.search(r"Used (\d+) registers", part).group(1))
        found[entry] = Kernel(registers, stores + loads, stack)
    return found
