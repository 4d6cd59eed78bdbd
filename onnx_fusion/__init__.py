"""Operator fusion for ONNX models, planned by DNNFusion and run inside ONNX Runtime."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "optimize": "api",
    "optimize_file": "api",
    "plan": "api",
    "session": "runtime.session",
    "get_library_path": "runtime.library",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    # Loaded when first used: a server that only wants the library's path need not import onnx.
    if name not in _WHERE:
        raise AttributeError(f"module 'onnx_fusion' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"onnx_fusion.{_WHERE[name]}"), name)
