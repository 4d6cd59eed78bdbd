"""Half types inside a region: everything is computed as f32, and rounded where it leaves.

    x f16 --load-- widen --> rows see f32 ... --> narrow --store-- y f16
                                                    |
                             inner readers of y <-- widen, so that they see what others see
"""

from __future__ import annotations

from onnx_fusion.dtypes import HALVES, DType
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Guard, Tensor
from onnx_fusion.program import model as tp


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor of a half type as f32, any other as it is."""
    return _cast(tensor, DType.F32) if tensor.dtype in HALVES else tensor


def narrow(tensor: Tensor, dtype: DType) -> Tensor:
    """Return a tensor as `dtype`, itself if it is that."""
    return tensor if tensor.dtype is dtype else _cast(tensor, dtype)


def _cast(tensor: Tensor, dtype: DType) -> Tensor:
    def read(stage: Stage, index: tuple, guard: Guard) -> tp.Ref:
        return stage.cast(dtype, tensor.at(stage, index, guard))

    return Tensor(dtype, tensor.shape, read, tensor.steps + 1, tensor.is_source)
