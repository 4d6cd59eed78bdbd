"""Asking the native library whether it runs a tile program."""

from __future__ import annotations

import ctypes
import functools

from onnx_fusion.errors import LibraryError
from onnx_fusion.runtime.library import get_library_path

_ERROR_BYTES = 512


def refusal(program: str) -> str | None:
    """Return None if the native library runs this tile program, else its reason.

    Raises LibraryError if the library is missing or cannot be loaded.
    """
    text = program.encode()
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    if _check(get_library_path())(text, len(text), error, _ERROR_BYTES) == 0:
        return None
    return error.value.decode(errors="replace")


@functools.cache
def _check(path: str) -> ctypes._CFuncPtr:
    try:
        check = ctypes.CDLL(path).onnx_fusion_check
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{path}: cannot be loaded: {error}; reinstall onnx_fusion") from None
    check.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    check.restype = ctypes.c_int
    return check
