"""Where the native library is."""

from __future__ import annotations

import importlib.metadata
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
