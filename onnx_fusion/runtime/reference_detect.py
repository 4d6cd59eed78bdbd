"""Operators of detectors restated for the float64 truth: onnx.reference runs them element by
element."""

from __future__ import annotations

import numpy as np
from onnx.reference.ops.op_non_max_suppression import NonMaxSuppression as SlowNonMaxSuppression
from onnx.reference.ops.op_roi_align import RoiAlign as SlowRoiAlign
from onnx.reference.ops.op_scatter_elements import ScatterElements as SlowScatterElements


class RoiAlign(SlowRoiAlign):
    """The mean of bilinear samples is separable: one matrix for the rows, one for the columns."""

    def _run(
        self,
        X,
        rois,
        batch_indices,
        coordinate_transformation_mode=None,
        mode=None,
        output_height=None,
        output_width=None,
        sampling_ratio=None,
        spatial_scale=None,
    ):
        if (mode or "avg").lower() != "avg":
            return super()._run(
                X,
                rois,
                batch_indices,
                coordinate_transformation_mode=coordinate_transformation_mode,
                mode=mode,
                output_height=output_height,
                output_width=output_width,
                sampling_ratio=sampling_ratio,
                spatial_scale=spatial_scale,
            )
        half = (coordinate_transformation_mode or "").lower() == "half_pixel"
        boxes = rois * spatial_scale - (0.5 if half else 0.0)
        made = np.zeros((len(rois), X.shape[1], output_height, output_width), X.dtype)
        for k, (box, image) in enumerate(zip(boxes, batch_indices.reshape(-1), strict=True)):
            least = -np.inf if half else 1.0
            rows = means(box[1], box[3], least, output_height, sampling_ratio, X.shape[2])
            columns = means(box[0], box[2], least, output_width, sampling_ratio, X.shape[3])
            made[k] = rows @ (X[image] @ columns.T)
        return (made,)


def means(start: float, end: float, least: float, bins: int, samples: int, size: int) -> np.ndarray:
    """Return the matrix that takes an axis of `size` pixels to the means of the box's bins."""
    step = max(end - start, least) / bins
    count = samples if samples > 0 else int(np.ceil(step))
    matrix = np.zeros((bins, size))
    if count <= 0:
        return matrix
    at = start + (np.arange(bins)[:, None] + (np.arange(count) + 0.5) / count) * step
    inside = (at >= -1.0) & (at <= size)
    at = np.clip(at, 0, size - 1)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    for pixel, share in ((low, 1 - (at - low)), (high, at - low)):
        for one in range(count):
            matrix[np.arange(bins), pixel[:, one]] += np.where(inside, share, 0)[:, one] / count
    return matrix


class ScatterElements(SlowScatterElements):
    """All updates at once; of several to one place NumPy, too, keeps the last."""

    def _run(self, data, indices, updates, axis=None, reduction=None):
        where = list(np.indices(indices.shape, sparse=True))
        axis = (axis or 0) % data.ndim
        where[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
        made = data.copy()
        if reduction in (None, "none"):
            made[tuple(where)] = updates
        else:
            reduce = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
            reduce[reduction].at(made, tuple(where), updates)
        return (made,)


class NonMaxSuppression(SlowNonMaxSuppression):
    """Each box that is taken leaves out all later ones that overlap it, at once."""

    def _run(
        self,
        boxes,
        scores,
        max_output_boxes_per_class=None,
        iou_threshold=None,
        score_threshold=None,
        center_point_box=None,
    ):
        most, overlap = (int(first(max_output_boxes_per_class)), first(iou_threshold))
        taken: list[tuple[int, int, int]] = []
        for image, kinds in enumerate(scores):
            low, high = corners(boxes[image], center_point_box)
            for kind, found in enumerate(kinds):
                order = np.argsort(-found, kind="stable")
                if score_threshold is not None and score_threshold.size:
                    order = order[found[order] > first(score_threshold)]
                count = 0
                while order.size and count < most:
                    best, order = order[0], order[1:]
                    taken.append((image, kind, int(best)))
                    count += 1
                    order = order[~meets(low, high, best, order, overlap)]
        return (np.array(taken, np.int64).reshape(-1, 3),)


def first(value: np.ndarray | None) -> float:
    """Return the one element of an optional input, 0 if it is left out."""
    return 0 if value is None or not value.size else value.reshape(-1)[0]


def corners(boxes: np.ndarray, centred: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper corners of boxes given by two corners, or by centre and size."""
    one, other = boxes[:, :2], boxes[:, 2:]
    if centred:
        return one - other / 2, one + other / 2
    return np.minimum(one, other), np.maximum(one, other)


def meets(
    low: np.ndarray, high: np.ndarray, one: int, others: np.ndarray, overlap: float
) -> np.ndarray:
    """Return which boxes share more than `overlap` of their union with one box."""
    sides = np.minimum(high[others], high[one]) - np.maximum(low[others], low[one])
    shared = sides.prod(-1)
    area, areas = (high[one] - low[one]).prod(), (high[others] - low[others]).prod(-1)
    union = area + areas - shared
    sound = (sides > 0).all(-1) & (area > 0) & (areas > 0) & (union > 0)
    return sound & (shared / np.where(sound, union, 1) > overlap)


RESTATED = (RoiAlign, ScatterElements, NonMaxSuppression)
