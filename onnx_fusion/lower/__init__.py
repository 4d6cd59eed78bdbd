"""Region -> tile program."""

from onnx_fusion.lower.region import Lowered, lower
from onnx_fusion.lower.reuse import Lowering

__all__ = ["Lowered", "Lowering", "lower"]
