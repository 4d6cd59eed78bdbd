"""Model and lowered regions to a model with fused nodes."""

from onnx_fusion.emit.build import Emitted, NotConvexError, emit
from onnx_fusion.emit.function import refusal

__all__ = ["Emitted", "NotConvexError", "emit", "refusal"]
