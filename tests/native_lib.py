"""The native core by its plain C interface, for tests: check texts, run programs on arrays.

The instruction set is chosen when a process first uses the library, so the other ones run in
`server`s: child processes with ONNX_FUSION_ISA set, that run programs sent to them. An ISA of
another machine is that of ONNX_FUSION_NATIVE_RUNNER, a command that runs tests/native_runner.cc in
an emulator.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import multiprocessing
import os
import shlex
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.program import parse_program
from onnx_fusion.runtime.library import get_library_path

ISAS = ("base", "avx2", "avx512", "neon")
EMULATED = "emulated"
PAGE = 4096
_ERROR = 400


UPPER_HALVES = 1 << 2 | 1 << 6
"""Those of ymm0 to ymm15 and of zmm0 to zmm15: while they are in use, SSE code is slow."""
_XGETBV = bytes.fromhex("b901000000 0f01d0 c3")  # mov ecx, 1; xgetbv; ret


class _Array(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_uint64),
        ("dtype", ctypes.c_int32),
        ("constant", ctypes.c_int32),
    )


class NativeError(Exception):
    """What the library says is wrong with a program, or with its inputs."""


@functools.cache
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(get_library_path())
    lib.onnx_fusion_isa.restype = ctypes.c_char_p
    lib.onnx_fusion_version.restype = ctypes.c_char_p
    lib.onnx_fusion_create.restype = ctypes.c_void_p
    for name in ("destroy", "shapes", "run"):
        getattr(lib, f"onnx_fusion_{name}").argtypes = None
    return lib


def parts_in_use() -> int | None:
    """Return which parts of this thread's registers are in use, None on machines that do not
    say."""
    probe = _probe()
    return probe() if probe is not None else None


@functools.cache
def _probe() -> Callable[[], int] | None:
    try:
        if "xgetbv1" not in Path("/proc/cpuinfo").read_text().split():
            return None
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(_XGETBV)
    probe = ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    probe.page = page
    return probe


def isa() -> str:
    """Return the instruction set that this process uses."""
    return library().onnx_fusion_isa().decode()


def check(text: str) -> tuple[int, str]:
    """Return 0 and "" if the program runs, 1 or 2 and why if it is not valid or not runnable."""
    data = text.encode("latin-1", "replace")
    error = ctypes.create_string_buffer(_ERROR)
    code = library().onnx_fusion_check(data, ctypes.c_size_t(len(data)), error, _ERROR)
    return code, error.value.decode()


class Kernel:
    """A program in the native library; `constant` says which inputs keep their data."""

    def __init__(
        self, text: str, inputs: Sequence[np.ndarray] = (), constant: Sequence[int] = ()
    ) -> None:
        self.program = parse_program(text)
        self.kept = [np.ascontiguousarray(a) for a in inputs]
        error = ctypes.create_string_buffer(_ERROR)
        arrays = self.arrays(self.kept, constant)
        data = text.encode()
        self.handle = library().onnx_fusion_create(
            data, ctypes.c_size_t(len(data)), arrays, ctypes.c_uint64(len(inputs)), error,
            ctypes.c_size_t(_ERROR),
        )  # fmt: skip
        if not self.handle:
            raise NativeError(error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            library().onnx_fusion_destroy(ctypes.c_void_p(self.handle))

    def arrays(self, inputs: Sequence[np.ndarray], constant: Sequence[int] = ()) -> ctypes.Array:
        arrays = (_Array * max(len(inputs), 1))()
        for k, (a, t) in enumerate(zip(inputs, self.program.inputs, strict=False)):
            if not a.flags.c_contiguous:
                raise ValueError("inputs must be contiguous")
            dims = (ctypes.c_int64 * max(a.ndim, 1))(*a.shape)
            dtype = DType.BF16 if t.dtype is DType.BF16 else _onnx(a.dtype)
            arrays[k] = _Array(a.ctypes.data, dims, a.ndim, dtype.onnx, k in constant)
        return arrays

    def plans(self, inputs: Sequence[np.ndarray]) -> int:
        """Return how many kernels a run is: stages, less those that run together."""
        inputs = [np.require(a, requirements="C") for a in inputs]
        arrays, number = self.arrays(inputs), ctypes.c_uint64(len(inputs))
        return library().onnx_fusion_plans(ctypes.c_void_p(self.handle), arrays, number)

    def run(
        self,
        inputs: Sequence[np.ndarray],
        threads: int = 1,
        repeats: int = 1,
        align: bool = False,
    ) -> list[np.ndarray]:
        """Return the physical outputs; `seconds` then holds the fastest run's time.

        They begin where NumPy's memory does, or at a cache line as ONNX Runtime's tensors do.
        """
        inputs = [np.require(a, requirements="C") for a in inputs]
        arrays = self.arrays(inputs)
        count = len(self.program.outputs)
        error = ctypes.create_string_buffer(_ERROR)
        handle, number = ctypes.c_void_p(self.handle), ctypes.c_uint64(len(inputs))
        dims, ranks = (ctypes.c_int64 * (16 * count))(), (ctypes.c_uint64 * count)()
        size = ctypes.c_size_t(_ERROR)
        if library().onnx_fusion_shapes(handle, arrays, number, dims, ranks, error, size):
            raise NativeError(error.value.decode())
        outputs, guarded = [], []
        for k, t in enumerate(self.program.outputs):
            shape = tuple(dims[16 * k : 16 * k + ranks[k]])
            array, guard = _guarded(shape, t.dtype, align)
            outputs.append(array)
            guarded.append(guard)
        pointers = (ctypes.c_void_p * count)(*(a.ctypes.data for a in outputs))
        seconds = ctypes.c_double()
        if library().onnx_fusion_run(
            handle, arrays, number, pointers, threads, repeats, ctypes.byref(seconds), error, size
        ):
            raise NativeError(error.value.decode())
        if (parts_in_use() or 0) & UPPER_HALVES:
            raise NativeError("upper halves of registers are in use after the run")
        for guard in guarded:
            if not (guard[:64] == 0xA5).all() or not (guard[-64:] == 0xA5).all():
                raise NativeError("memory around an output was written")
        self.seconds = seconds.value
        return outputs


def run(
    text: str,
    inputs: Sequence[np.ndarray],
    threads: int = 1,
    constant: Sequence[int] = (),
    past_cache: int = -1,
    align: bool = False,
) -> list[np.ndarray]:
    """Return the outputs of a program run once; those of `past_cache` bytes and more are written
    past the caches, if that is not negative.

    Without `align` inputs are `fenced`.
    """
    library().onnx_fusion_set_past_cache(ctypes.c_int64(past_cache))
    if not align:
        inputs = [fenced(a) for a in inputs]
    try:
        kernel = Kernel(text, inputs if constant else (), constant)
        return kernel.run(inputs, threads, align=align)
    finally:
        library().onnx_fusion_set_past_cache(ctypes.c_int64(-1))


def _onnx(dtype: np.dtype) -> DType:
    return next(d for d in DType if d.numpy == dtype and d is not DType.BF16)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins at a page."""
    memory = np.empty(array.nbytes + PAGE, np.uint8)
    memory = memory[-memory.ctypes.data % PAGE :][: array.nbytes]
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def fenced(array: np.ndarray) -> np.ndarray:
    """Return a copy right in front of a page that is not there: reading on ends the process."""
    whole = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, whole + PAGE)
    page = np.frombuffer(memory, np.uint8)
    if _libc().mprotect(ctypes.c_void_p(page.ctypes.data + whole), ctypes.c_size_t(PAGE), 0):
        raise OSError("mprotect failed")
    copy = page[whole - array.nbytes : whole].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _guarded(
    shape: tuple[int, ...], dtype: DType, align: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return an array filled with rubbish, and the bytes it lies in with 64 more at each side.

    Aligned ones lie half a page from those of `aligned`: right behind them, modulo a page, loads
    wait for stores that they have nothing to do with.
    """
    count = int(np.prod(shape, dtype=np.int64)) * dtype.size
    memory = np.full(count + 128 + PAGE, 0xA5, np.uint8)
    first = (PAGE // 2 - 64 - memory.ctypes.data) % PAGE if align else 0
    memory = memory[first : first + count + 128]
    return memory[64 : 64 + count].view(dtype.numpy).reshape(shape), memory


class Server:
    """A child process that runs programs on another instruction set."""

    def __init__(self, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        before = os.environ.get("ONNX_FUSION_ISA")
        os.environ["ONNX_FUSION_ISA"] = name
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()  # so that a child that dies is an end of file here
        if before is None:
            del os.environ["ONNX_FUSION_ISA"]
        else:
            os.environ["ONNX_FUSION_ISA"] = before
        self.isa = self.receive()

    def receive(self):
        try:
            return self.pipe.recv()
        except EOFError:
            raise NativeError(f"the process for {self.name} died") from None

    def run(self, *args) -> list[np.ndarray]:
        """Return what `run` returns there, or raise what it raises."""
        self.pipe.send(args)
        result = self.receive()
        if isinstance(result, Exception):
            raise result
        return result


def _serve(pipe) -> None:
    pipe.send(isa())
    while True:
        try:
            args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(run(*args))
        except (NativeError, ValueError) as error:
            pipe.send(error)


class Emulated:
    """The process of tests/native_runner.cc in an emulator; it answers as a Server does."""

    def __init__(self, command: str) -> None:
        self.process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.isa = self.read_sized().decode()

    def run(
        self,
        text: str,
        inputs: Sequence[np.ndarray],
        threads: int = 1,
        constant: Sequence[int] = (),
        past_cache: int = -1,
        align: bool = False,
    ) -> list[np.ndarray]:
        """Return what `run` returns there, or raise what it raises; memory lies as it does."""
        del align
        program = parse_program(text)
        request = [_sized(text.encode()), struct.pack("=Q", len(inputs))]
        for k, (a, t) in enumerate(zip(inputs, program.inputs, strict=True)):
            dtype = DType.BF16 if t.dtype is DType.BF16 else _onnx(a.dtype)
            request += [
                struct.pack("=QQ", dtype.onnx, k in constant),
                _sized(struct.pack(f"={a.ndim}q", *a.shape), a.ndim),
                _sized(np.ascontiguousarray(a).tobytes()),
            ]
        sizes = [t.dtype.size for t in program.outputs]
        request += [
            struct.pack("=Qq", threads, past_cache),
            _sized(struct.pack(f"={len(sizes)}Q", *sizes), len(sizes)),
        ]
        self.process.stdin.write(b"".join(request))
        self.process.stdin.flush()
        message = self.read_sized()
        if message:
            raise NativeError(message.decode())
        outputs = []
        for t in program.outputs:
            shape = np.frombuffer(self.read_sized(8), np.int64)
            outputs.append(np.frombuffer(self.read_sized(), t.dtype.numpy).reshape(shape))
        return outputs

    def read_sized(self, width: int = 1) -> bytes:
        """Return what follows its length, which counts things of `width` bytes."""
        (count,) = struct.unpack("=Q", self.read(8))
        return self.read(count * width)

    def read(self, count: int) -> bytes:
        data = self.process.stdout.read(count)
        if len(data) != count:
            raise NativeError(f"the emulated process ended with {self.process.wait()}")
        return data


def _sized(data: bytes, count: int | None = None) -> bytes:
    return struct.pack("=Q", len(data) if count is None else count) + data


@functools.cache
def server(name: str) -> Server | Emulated:
    """Return the process for one instruction set, started once."""
    return emulated() if name == EMULATED else Server(name)


@functools.cache
def emulated() -> Emulated:
    """Return the process in the emulator, started once."""
    return Emulated(os.environ["ONNX_FUSION_NATIVE_RUNNER"])


@functools.cache
def isas() -> tuple[str, ...]:
    """Return the instruction sets that run here: this machine's, or only the emulator's."""
    if "ONNX_FUSION_NATIVE_RUNNER" in os.environ:
        return (EMULATED,)
    return tuple(name for name in ISAS if server(name).isa == name)
