"""Where the native library is, and the CUDA compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from onnx_fusion.errors import LibraryError

NAME = "libonnx_fusion.so"
VARIABLE = "ONNX_FUSION_LIBRARY"


def get_library_path() -> str:
    """Return the native library's path, for `SessionOptions.register_custom_ops_library`.

    The environment variable ONNX_FUSION_LIBRARY names another file, for developers.
    Raises LibraryError if there is no such file.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise LibraryError(f"{named}: no such file; {VARIABLE} must name a built {NAME}")
        return str(Path(named).resolve())
    beside = Path(__file__).resolve().parents[1] / NAME
    for path in (beside, *_installed()):
        if path.is_file():
            return str(path)
    raise LibraryError(f"{beside}: no such file; build it with 'pip install .' in the project")


def _installed() -> list[Path]:
    # In an editable install, and a checkout on sys.path, the Python files are elsewhere.
    try:
        files = importlib.metadata.files("onnx_fusion") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve() for file in files if file.name == NAME]


_NVRTC = ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12")


def find_nvrtc() -> str | None:
    """Return the path of NVRTC in an installed package of NVIDIA's, None if there is none.

    The library looks in the usual places of the system itself, and first for ONNX_FUSION_NVRTC.
    """
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in _NVRTC:
            path = Path(folder) / name
            if path.is_file():
                return str(path)
    return None
