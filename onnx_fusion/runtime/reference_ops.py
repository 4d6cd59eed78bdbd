"""Operators restated for the float64 truth: where onnx.reference is slow, or not what ONNX says.

Windows are sums of NumPy array slices instead of loops over elements; each falls back to the
original where it does not cover the attributes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from onnx.reference.ops.op_average_pool import AveragePool_19 as SlowAveragePool
from onnx.reference.ops.op_batch_normalization import BatchNormalization_14 as SlowBatchNorm
from onnx.reference.ops.op_conv import Conv as SlowConv
from onnx.reference.ops.op_conv_transpose import ConvTranspose as SlowConvTranspose
from onnx.reference.ops.op_gather_elements import GatherElements as SlowGatherElements
from onnx.reference.ops.op_global_max_pool import GlobalMaxPool as SlowGlobalMaxPool
from onnx.reference.ops.op_max_pool import MaxPool as SlowMaxPool
from onnx.reference.ops.op_resize import Resize as SlowResize

from onnx_fusion.runtime import reference_detect


class Window:
    """The window of a convolution or pooling over the spatial dims of `shape` (ONNX, Conv)."""

    def __init__(self, shape: Sequence[int], kernel, pads, strides, dilations, auto_pad) -> None:
        rank = len(shape)
        self.kernel = tuple(kernel)
        self.strides = tuple(strides or (1,) * rank)
        self.dilations = tuple(dilations or (1,) * rank)
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        self.before = list(pads[:rank]) if pads else [0] * rank
        self.after = list(pads[rank:]) if pads else [0] * rank
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            for axis, (size, step) in enumerate(zip(shape, self.strides, strict=True)):
                total = max(0, (-(-size // step) - 1) * step + reach[axis] - size)
                small, large = total // 2, total - total // 2
                upper = auto_pad == "SAME_UPPER"
                self.before[axis], self.after[axis] = (small, large) if upper else (large, small)
        elif auto_pad == "VALID":
            self.before = self.after = [0] * rank
        self.out = tuple(
            (size + b + a - r) // step + 1
            for size, b, a, r, step in zip(
                shape, self.before, self.after, reach, self.strides, strict=True
            )
        )

    def pad(self, array: np.ndarray, fill: float) -> np.ndarray:
        """Return the array with its spatial dims padded."""
        width = [(0, 0), (0, 0), *zip(self.before, self.after, strict=True)]
        return np.pad(array, width, constant_values=fill)

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Yield each kernel position, and the slices of the padded input that it meets."""
        for at in itertools.product(*(range(k) for k in self.kernel)):
            yield (
                at,
                tuple(
                    slice(k * d, k * d + (n - 1) * s + 1, s)
                    for k, d, n, s in zip(at, self.dilations, self.out, self.strides, strict=True)
                ),
            )


class Conv(SlowConv):
    """Convolution: one matrix product for each image, of what its windows see."""

    def _run(
        self,
        X,
        W,
        B=None,
        auto_pad=None,
        dilations=None,
        group=None,
        kernel_shape=None,
        pads=None,
        strides=None,
    ):
        groups = group or 1
        window = Window(X.shape[2:], W.shape[2:], pads, strides, dilations, auto_pad)
        padded = window.pad(X, 0)
        batch, made = X.shape[0], W.shape[0] // groups
        taps, count = list(window.taps()), int(np.prod(window.out))
        # NumPy multiplies matrices by BLAS only where they lie in one piece.
        weight = np.ascontiguousarray(np.moveaxis(W.reshape(*W.shape[:2], -1), 1, 2))
        weight = weight.reshape(groups, made, -1)
        total = np.empty((batch, groups, made, count), X.dtype)
        rows = np.empty((groups, len(taps), W.shape[1], *window.out), X.dtype)
        for image, result in zip(padded, total, strict=True):
            image = image.reshape(groups, W.shape[1], *image.shape[1:])
            for k, (_, where) in enumerate(taps):
                rows[:, k] = image[(slice(None), slice(None), *where)]
            np.matmul(weight, rows.reshape(groups, -1, count), out=result)
        total = total.reshape(batch, W.shape[0], *window.out)
        if B is not None:
            total += B.reshape(-1, *(1,) * len(window.out))
        return (total,)


class ConvTranspose(SlowConvTranspose):
    """Transposed convolution: each kernel position adds one matrix product to a strided slice."""

    def _run(
        self,
        X,
        W,
        B=None,
        auto_pad=None,
        dilations=None,
        group=None,
        kernel_shape=None,
        output_padding=None,
        output_shape=None,
        pads=None,
        strides=None,
    ):
        if output_shape or auto_pad not in (None, "NOTSET"):
            return super()._run(
                X,
                W,
                B,
                auto_pad=auto_pad,
                dilations=dilations,
                group=group,
                kernel_shape=kernel_shape,
                output_padding=output_padding,
                output_shape=output_shape,
                pads=pads,
                strides=strides,
            )
        rank, groups = X.ndim - 2, group or 1
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        pads, extra = pads or [0] * (2 * rank), output_padding or [0] * rank
        full = [
            (size - 1) * s + (k - 1) * d + 1 + e
            for size, s, k, d, e in zip(
                X.shape[2:], strides, W.shape[2:], dilations, extra, strict=True
            )
        ]
        batch, taken, made = X.shape[0], X.shape[1] // groups, W.shape[1]
        weight = W.reshape(groups, taken, made, *W.shape[2:])
        rows = X.reshape(batch, groups, taken, -1)
        total = np.zeros((batch, groups * made, *full), X.dtype)
        for at in itertools.product(*(range(k) for k in W.shape[2:])):
            tap = weight[(slice(None), slice(None), slice(None), *at)].swapaxes(1, 2)
            part = np.matmul(np.ascontiguousarray(tap), rows).reshape(
                batch, groups * made, *X.shape[2:]
            )
            where = tuple(
                slice(k * d, k * d + (n - 1) * s + 1, s)
                for k, d, n, s in zip(at, dilations, X.shape[2:], strides, strict=True)
            )
            total[(slice(None), slice(None), *where)] += part
        crop = tuple(slice(pads[i], full[i] - pads[i + rank]) for i in range(rank))
        total = total[(slice(None), slice(None), *crop)]
        if B is not None:
            total = total + B.reshape(-1, *(1,) * rank)
        return (total,)


class MaxPool(SlowMaxPool):
    """Maximum over the window, without the indices."""

    def _run(
        self,
        x,
        auto_pad=None,
        ceil_mode=None,
        dilations=None,
        kernel_shape=None,
        pads=None,
        storage_order=None,
        strides=None,
    ):
        if ceil_mode or len(self.onnx_node.output) > 1 or x.dtype.kind != "f":
            return super()._run(
                x,
                auto_pad=auto_pad,
                ceil_mode=ceil_mode,
                dilations=dilations,
                kernel_shape=kernel_shape,
                pads=pads,
                storage_order=storage_order,
                strides=strides,
            )
        window = Window(x.shape[2:], kernel_shape, pads, strides, dilations, auto_pad)
        padded = window.pad(x, -np.inf)
        every = (padded[(slice(None), slice(None), *where)] for _, where in window.taps())
        total = next(every).copy()
        for part in every:
            np.maximum(total, part, out=total)
        return (total,)


class AveragePool(SlowAveragePool):
    """Mean over the window, padding counted only if asked for."""

    def _run(
        self,
        x,
        auto_pad=None,
        ceil_mode=None,
        dilations=None,
        kernel_shape=None,
        pads=None,
        strides=None,
        count_include_pad=None,
    ):
        if ceil_mode:
            return super()._run(
                x,
                auto_pad=auto_pad,
                ceil_mode=ceil_mode,
                dilations=dilations,
                kernel_shape=kernel_shape,
                pads=pads,
                strides=strides,
                count_include_pad=count_include_pad,
            )
        window = Window(x.shape[2:], kernel_shape, pads, strides, dilations, auto_pad)
        ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
        padded, counted = window.pad(x, 0), window.pad(ones, 1 if count_include_pad else 0)
        total = np.zeros((*x.shape[:2], *window.out), x.dtype)
        count = np.zeros((1, 1, *window.out), x.dtype)
        for _, where in window.taps():
            total += padded[(slice(None), slice(None), *where)]
            count += counted[(slice(None), slice(None), *where)]
        return (total / count,)


class Resize(SlowResize):
    """Interpolation is separable: one matrix for each axis, the original run on an identity."""

    def _run(self, X, roi=None, scales=None, sizes=None, **attributes):
        mode = attributes.get("coordinate_transformation_mode")
        policy = attributes.get("keep_aspect_ratio_policy") or "stretch"
        if mode == "tf_crop_and_resize" or attributes.get("axes") or policy != "stretch":
            return super()._run(X, roi, scales, sizes, **attributes)
        by_scale = scales is not None and len(scales) > 0
        result = X
        for axis, size in enumerate(X.shape):
            wanted = float(scales[axis]) if by_scale else int(sizes[axis])
            if wanted == (1.0 if by_scale else size):
                continue
            eye = np.eye(size, dtype=X.dtype)
            one = np.array([1.0, wanted], np.float32) if by_scale else None
            two = None if by_scale else np.array([size, wanted], np.int64)
            matrix = super()._run(eye, None, one, two, **attributes)[0]
            result = np.moveaxis(np.tensordot(result, matrix, axes=(axis, 0)), -1, axis)
        return (result,)


class BatchNormalization(SlowBatchNorm):
    """Inference below opset 14 too, where onnx.reference mixes in the batch's statistics."""

    def _run(self, x, scale, bias, mean, var, epsilon=None, momentum=None, training_mode=None):
        if training_mode:
            return super()._run(
                x,
                scale,
                bias,
                mean,
                var,
                epsilon=epsilon,
                momentum=momentum,
                training_mode=training_mode,
            )
        shape = (-1, *(1,) * (x.ndim - 2))
        factor = scale / np.sqrt(var + epsilon)
        return ((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape),)


class GlobalMaxPool(SlowGlobalMaxPool):
    """Any rank; onnx.reference is right for images only."""

    def _run(self, x):
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GatherElements(SlowGatherElements):
    """Any extent and shape; onnx.reference stops at 32 along the axis."""

    def _run(self, data, indices, axis=None):
        axis = axis or 0
        wrapped = np.where(indices < 0, indices + data.shape[axis], indices)
        where = list(np.indices(indices.shape, sparse=True))
        where[axis] = wrapped
        return (data[tuple(where)],)


RESTATED = (
    Conv,
    ConvTranspose,
    MaxPool,
    AveragePool,
    Resize,
    BatchNormalization,
    GlobalMaxPool,
    GatherElements,
    *reference_detect.RESTATED,
)
