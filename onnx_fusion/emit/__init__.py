"""Model and lowered regions to a model with fused nodes."""

from onnx_fusion.emit.build import Emitted, emit

__all__ = ["Emitted", "emit"]
