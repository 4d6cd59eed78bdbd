"""The CUDA side without a GPU: plans from the native library, their texts run by the host emulator.

The texts of many plans are compiled together (`Machine.build`), each in a namespace of its own.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import cuda_call
import native_lib
import numpy as np

from onnx_fusion.program import parse_program
from onnx_fusion.program.bind import bind, logical_shape

HEADER = Path(__file__).parent / "emulator" / "emulator.h"
EDGE = 64
"""Bytes around each array that must stay as they are."""


@dataclasses.dataclass(frozen=True)
class Device:
    """What a plan is made for: the numbers of native/cuda/render.h."""

    arch: int = 80
    processors: int = 108
    tf32: bool = False
    aligned: bool = True
    shared_bytes: int = 99 << 10
    max_grid_x: int = 2**31 - 1
    wide: bool = False
    maker: int = 0
    """Of products and convolutions: 0 our kernels, 1 a library, 2 the same by parts."""
    cache_bytes: int = 40 << 20


class _Device(ctypes.Structure):
    _fields_ = (
        ("arch", ctypes.c_int32),
        ("processors", ctypes.c_int32),
        ("tf32", ctypes.c_int32),
        ("aligned", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int64),
        ("max_grid_x", ctypes.c_int64),
        ("wide", ctypes.c_int32),
        ("maker", ctypes.c_int32),
        ("cache_bytes", ctypes.c_int64),
    )


class CudaError(Exception):
    """Why there is no plan, or what went wrong while one ran."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One program's launches at some inputs' shapes."""

    text: str
    sources: tuple[dict, ...]
    launches: tuple[dict, ...]
    workspace: int
    may_fail: bool
    offers: tuple[list[int], ...] = ()

    def schedules(self) -> list[str]:
        """Return the launches' schedules: their entries' names without the hash."""
        return [
            "library" if "call" in x else self.sources[x["source"]]["entry"].rsplit("_", 1)[0]
            for x in self.launches
        ]


def plan(text: str, inputs: Sequence[np.ndarray], device: Device = Device()) -> Plan:
    """Return the plan of a program for these inputs, or raise CudaError with the reason."""
    library = native_lib.library()
    library.onnx_fusion_cuda_plan.restype = ctypes.c_void_p
    program = parse_program(text)
    arrays = (native_lib._Array * max(len(inputs), 1))()
    keep = []
    for k, (a, t) in enumerate(zip(inputs, program.inputs, strict=True)):
        a = np.require(a, requirements="C")
        dims = (ctypes.c_int64 * max(a.ndim, 1))(*a.shape)
        keep.append((a, dims))
        arrays[k] = native_lib._Array(a.ctypes.data, dims, a.ndim, t.dtype.onnx, 0)
    numbers = _Device(*dataclasses.astuple(device))
    failed = ctypes.c_int()
    data = text.encode()
    pointer = library.onnx_fusion_cuda_plan(
        data, ctypes.c_size_t(len(data)), arrays, ctypes.c_uint64(len(inputs)),
        ctypes.byref(numbers), ctypes.byref(failed),
    )  # fmt: skip
    result = ctypes.string_at(pointer).decode()
    library.onnx_fusion_cuda_free(ctypes.c_void_p(pointer))
    if failed.value:
        raise CudaError(result)
    found = json.loads(result)
    return Plan(
        text, tuple(found["sources"]), tuple(found["launches"]), found["workspace"],
        found["may_fail"], tuple(found["offers"]),
    )  # fmt: skip


class Machine:
    """Compiles texts for the host, and runs plans in emulated blocks and threads."""

    def __init__(self, folder: Path, flags: Sequence[str] = ("-O1",)) -> None:
        self.folder = folder
        self.flags = tuple(flags)
        self.entries: dict[str, ctypes._CFuncPtr] = {}

    def build(self, units: Iterable[tuple[str, str]], parts: int = 2) -> None:
        """Compile texts by entry, so that plans that use them can run."""
        new = [(e, u) for e, u in dict(units).items() if e not in self.entries]
        shares = [new[k::parts] for k in range(parts) if new[k::parts]]
        with concurrent.futures.ThreadPoolExecutor(parts) as pool:
            for library, share in zip(pool.map(self._compile, shares), shares, strict=True):
                for entry, _ in share:
                    run = getattr(library, f"run_{entry}")
                    run.restype = ctypes.c_char_p
                    self.entries[entry] = run

    def _compile(self, units: Sequence[tuple[str, str]]) -> ctypes.CDLL:
        text = f'#include "{HEADER}"\n'
        for k, (entry, unit) in enumerate(units):
            text += f"namespace u{k} {{\n{unit}}}\n"
            text += (
                f'extern "C" const char* run_{entry}(void** args, const unsigned* grid, '
                "const unsigned* block, unsigned shared, unsigned seed) {\n"
                f"  return emulator::launch(u{k}::{entry}, args, grid, block, shared, seed);\n}}\n"
            )
        stem = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        source, target = stem.with_suffix(".cc"), stem.with_suffix(".so")
        source.write_text(text)
        command = ["g++", "-std=c++17", "-shared", "-fPIC", "-w", "-fno-strict-aliasing",
                   "-ffp-contract=off", *self.flags, str(source), "-o", str(target)]  # fmt: skip
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(target))

    def run(self, plan: Plan, inputs: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
        """Return the physical outputs. Memory that nothing writes is 0xA5."""
        self.build((s["entry"], s["unit"]) for s in plan.sources)
        program = parse_program(plan.text)
        shapes = _output_shapes(program, inputs)
        memory = [_Memory(a.nbytes, a) for a in map(np.ascontiguousarray, inputs)]
        outputs = [
            _Memory(int(np.prod(shape, dtype=np.int64)) * t.dtype.size)
            for shape, t in zip(shapes, program.outputs, strict=True)
        ]
        workspace, failure = _Memory(plan.workspace), _Memory(4, np.zeros(1, np.int32))
        workspace.bytes[:] = 0xFF
        for number, launch in enumerate(plan.launches):
            values: list = []
            for kind, value in launch["arguments"]:
                if kind in ("int32", "int64"):
                    values.append((ctypes.c_int32 if kind == "int32" else ctypes.c_int64)(value))
                    continue
                at = {
                    "input": lambda v: memory[v].address,
                    "output": lambda v: outputs[v].address,
                    "workspace": lambda v: workspace.address + v,
                    "failure": lambda v: failure.address,
                }[kind](value)
                values.append(ctypes.c_void_p(at))
            if "call" in launch:
                cuda_call.run(launch["call"], [v.value for v in values])
                continue
            pointers = [ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values]
            args = (ctypes.c_void_p * max(len(values), 1))(*pointers)
            entry = self.entries[plan.sources[launch["source"]]["entry"]]
            error = entry(
                args, (ctypes.c_uint * 3)(*launch["grid"]), (ctypes.c_uint * 3)(*launch["block"]),
                launch["shared"], seed + number,
            )  # fmt: skip
            if error:
                raise CudaError(error.decode())
        for piece in (*memory, *outputs, workspace, failure):
            piece.check()
        line = int(failure.bytes.view(np.int32)[0])
        if line:
            raise CudaError(f"line {line}: an index read from a tensor is out of range")
        return [
            m.bytes.view(t.dtype.numpy).reshape(shape).copy()
            for m, t, shape in zip(outputs, program.outputs, shapes, strict=True)
        ]


class _Memory:
    """Bytes at a multiple of 256, with edges that show what writes beside them."""

    def __init__(self, size: int, content: np.ndarray | None = None) -> None:
        self.all = np.full(size + 2 * EDGE + 512, 0xA5, np.uint8)
        start = -(self.all.ctypes.data + EDGE) % 256 + EDGE
        self.bytes = self.all[start : start + size]
        self.before, self.after = self.all[:start], self.all[start + size :]
        self.address = self.all.ctypes.data + start
        if content is not None:
            self.bytes[:] = content.reshape(-1).view(np.uint8)

    def check(self) -> None:
        if not (self.before == 0xA5).all() or not (self.after == 0xA5).all():
            raise CudaError("memory around a tensor was written")


def _output_shapes(program, inputs: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    scalars = {
        k: [int(n) for n in inputs[k].reshape(-1)] for k, t in enumerate(program.inputs) if t.binds
    }
    dims = bind(program, [a.shape for a in inputs], scalars)
    return [t.physical(logical_shape(t, dims)) for t in program.outputs]


@functools.cache
def machine() -> Machine:
    """Return the machine that a process's tests share.

    $ONNX_FUSION_EMULATOR_FLAGS are its compiler's, for example `-O1 -fsanitize=address,undefined`.
    """
    folder = tempfile.TemporaryDirectory(prefix="onnx_fusion_cuda_")
    flags = os.environ.get("ONNX_FUSION_EMULATOR_FLAGS", "-O1")
    shared = Machine(Path(folder.name), flags.split())
    shared.cleanup = folder  # type: ignore[attr-defined]
    return shared
