"""Asking the native library which tile programs it runs, and for their kernels as PTX."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

from onnx_fusion.errors import LibraryError, OnnxFusionError
from onnx_fusion.runtime.library import find_nvrtc, get_library_path

_ERROR_BYTES = 512
DEVICES = {"cpu": ("cpu",), "cuda": ("cuda",), "both": ("cpu", "cuda")}
"""What a model can be planned for, and where its programs must run then."""
_CHECKS = {"cpu": "onnx_fusion_check", "cuda": "onnx_fusion_cuda_check"}


def refusal(program: str, device: str = "cpu") -> str | None:
    """Return None if the native library runs this tile program on `device`, else its reason.

    Raises LibraryError if the library is missing or cannot be loaded, or if ONNX_FUSION_ISA names
    no instruction set of this machine.
    """
    text = program.encode()
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    check = _functions(get_library_path())
    for kind in DEVICES[device]:
        if check[kind](text, len(text), error, _ERROR_BYTES) != 0:
            return error.value.decode(errors="replace")
    return None


def make_ptx(program: str, shapes: Sequence[Sequence[int]]) -> str:
    """Return the program's kernels as PTX, for inputs of these physical shapes (-1: not known).

    Raises LibraryError without the library, OnnxFusionError without NVRTC or if it compiles
    nothing.
    """
    functions = _functions(get_library_path())
    text, dims = program.encode(), [dim for shape in shapes for dim in shape]
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    made = functions["ptx"](
        text, len(text), (ctypes.c_int64 * max(len(dims), 1))(*dims),
        (find_nvrtc() or "").encode(), error, _ERROR_BYTES,
    )  # fmt: skip
    if not made:
        raise OnnxFusionError(f"no PTX is made: {error.value.decode(errors='replace')}")
    try:
        return ctypes.string_at(made).decode()
    finally:
        functions["free"](made)


@functools.cache
def _functions(path: str) -> dict[str, ctypes._CFuncPtr]:
    try:
        library = ctypes.CDLL(path)
        found = {kind: getattr(library, name) for kind, name in _CHECKS.items()}
        found |= {"ptx": library.onnx_fusion_ptx, "free": library.onnx_fusion_ptx_free}
        isa_error = library.onnx_fusion_isa_error
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path}: cannot be loaded: {error}; reinstall onnx_fusion") from None
    isa_error.restype = ctypes.c_char_p
    if wrong := isa_error():
        raise LibraryError(wrong.decode(errors="replace"))
    for kind in _CHECKS:
        found[kind].argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
        found[kind].restype = ctypes.c_int
    found["ptx"].argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int64), ctypes.c_char_p,
        ctypes.c_char_p, ctypes.c_size_t,
    ]  # fmt: skip
    found["ptx"].restype = ctypes.c_void_p
    found["free"].argtypes = [ctypes.c_void_p]
    found["free"].restype = None
    return found
