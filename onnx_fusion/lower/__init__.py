"""Region -> tile program."""

from onnx_fusion.lower.region import Lowered, lower

__all__ = ["Lowered", "lower"]
