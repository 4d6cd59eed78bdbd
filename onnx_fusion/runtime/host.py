"""The machine and the versions that a measured latency holds for."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import os
import platform
from pathlib import Path

import onnxruntime

import onnx_fusion
from onnx_fusion.errors import LibraryError
from onnx_fusion.runtime.library import get_library_path

CPUINFO = Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """CPU model, the ISA that the native library chose, and the versions of ONNX Runtime and of the
    library (with a hash of its file: a library built anew has other kernels)."""

    cpu: str
    isa: str
    ort: str
    library: str


@functools.cache
def this_host() -> Host:
    """Return the machine this runs on. Raises LibraryError if there is no native library."""
    path = get_library_path()
    try:
        name = ctypes.CDLL(path).onnx_fusion_isa
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path}: cannot be loaded: {error}; reinstall onnx_fusion") from None
    name.restype = ctypes.c_char_p
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
    library = f"{onnx_fusion.__version__}+{digest}"
    return Host(cpu_model(CPUINFO), name().decode(), onnxruntime.__version__, library)


def cpu_model(cpuinfo: Path) -> str:
    """Return the CPU's name with family, model and stepping: virtual machines hide the name."""
    try:
        lines = cpuinfo.read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    fields = dict(tuple(map(str.strip, line.partition(":")[::2])) for line in lines)
    numbers = [fields[key] for key in ("cpu family", "model", "stepping") if key in fields]
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} {'/'.join(numbers)}".strip()


def cores() -> int:
    """Return how many threads ONNX Runtime uses inside an operator unless told otherwise."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
