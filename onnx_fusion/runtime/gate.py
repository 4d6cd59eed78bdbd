"""The gate: when two arrays count as the same result, and how far apart they are.

fp32 passes if |d| <= 1e-3 |ref| + 1e-5 range for every element. What does not is judged against
float64, and passes if its error is at most twice that of plain ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

RELATIVE, OF_RANGE, SLACK = 1e-3, 1e-5, 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two results are equal; errors are absolute and over the reference's range."""

    passed: bool
    max_error: float = 0.0
    range_error: float = 0.0
    reason: str = ""


def is_float(value: Any) -> bool:
    """Return whether a result is an array of floats (f16, f32, f64, bf16)."""
    return isinstance(value, np.ndarray) and (
        value.dtype.kind == "f" or value.dtype.name in ("bfloat16",)
    )


def spread(array: np.ndarray) -> float:
    """Return the range of the finite elements; the magnitude if there is but one value."""
    finite = array[np.isfinite(array)]
    if not finite.size:
        return 0.0
    low, high = float(finite.min()), float(finite.max())
    return high - low or abs(high)


def magnitude(array: np.ndarray) -> np.ndarray:
    """Return absolute values, 0 for what is not finite."""
    return np.abs(np.where(np.isfinite(array), array, 0))


def tolerance(reference: np.ndarray) -> np.ndarray:
    """Return the difference allowed at each element of a float64 array.

    Where the type has fewer digits than the gate asks for (f16, bf16), see `compare`.
    """
    return RELATIVE * magnitude(reference) + OF_RANGE * spread(reference)


def compare(reference: Any, other: Any) -> Verdict:
    """Return the verdict of the fp32 gate; what is not float must be equal.

    f16 and bf16 are allowed four units in the last place. NaN and infinities must be at the same
    places, and the winner of the last axis must be the same wherever it leads by more than its
    tolerance. Sequences and maps are compared item by item.
    """
    if isinstance(reference, (list, dict)):
        return compare_items(reference, other)
    if reference is None or other is None:
        same = reference is None and other is None
        return Verdict(same, reason="" if same else "one has a value, the other has none")
    reference, other = np.asarray(reference), np.asarray(other)
    if reference.dtype != other.dtype:
        return Verdict(False, reason=f"type {other.dtype} instead of {reference.dtype}")
    if reference.shape != other.shape:
        shapes = f"{list(other.shape)} instead of {list(reference.shape)}"
        return Verdict(False, np.inf, np.inf, f"shape {shapes}")
    if not is_float(reference):
        return compare_exact(reference, other)
    digits = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(reference.dtype.name, 0.0)
    left, right = reference.astype(np.float64), other.astype(np.float64)
    allowed = np.maximum(tolerance(left), 4 * digits * magnitude(left))
    return compare_floats(left, right, allowed)


def compare_items(reference: list | dict, other: Any) -> Verdict:
    """Return the worst verdict over the items of a sequence or map."""
    if type(reference) is not type(other) or len(reference) != len(other):
        return Verdict(False, reason="another number or kind of items")
    if isinstance(reference, dict):
        if reference.keys() != other.keys():
            return Verdict(False, reason="other keys")
        pairs = [(reference[key], other[key]) for key in reference]
    else:
        pairs = list(zip(reference, other, strict=True))
    verdicts = [compare(left, right) for left, right in pairs]
    return min(verdicts, key=lambda v: (v.passed, -v.max_error), default=Verdict(True))


def compare_exact(reference: np.ndarray, other: np.ndarray) -> Verdict:
    """Return whether integers, booleans or strings are equal, and how many are not."""
    wrong = reference != other
    count = int(np.count_nonzero(wrong))
    if not count:
        return Verdict(True)
    if reference.dtype.kind in "OUS":
        error = np.inf
    else:
        apart = reference.astype(np.float64) - other.astype(np.float64)
        error = float(np.max(np.abs(apart)))
    return Verdict(False, error, error, f"{count} of {reference.size} elements differ")


def compare_floats(reference: np.ndarray, other: np.ndarray, allowed: np.ndarray) -> Verdict:
    """Return the verdict for float64 arrays of one shape, given the difference allowed."""
    finite = np.isfinite(reference)
    if not same_specials(reference, other):
        return Verdict(False, np.inf, np.inf, "NaN or infinity at other places")
    apart = np.abs(np.where(finite, other, 0) - np.where(finite, reference, 0))
    error = float(apart.max(initial=0.0))
    verdict = Verdict(True, error, over(error, spread(reference)))
    count = int(np.count_nonzero(apart > allowed))
    if count:
        reason = f"{count} of {reference.size} elements differ by more than the tolerance"
        return dataclasses.replace(verdict, passed=False, reason=reason)
    lost = lost_winners(reference, other, allowed)
    if lost:
        return dataclasses.replace(verdict, passed=False, reason=f"top-1 differs in {lost} rows")
    return verdict


def same_specials(reference: np.ndarray, other: np.ndarray) -> bool:
    """Return whether NaN, inf and -inf are at the same places."""
    finite = np.isfinite(reference)
    return bool(np.array_equal(finite, np.isfinite(other))) and bool(
        np.array_equal(reference[~finite], other[~finite], equal_nan=True)
    )


def over(error: float, extent: float) -> float:
    """Return error / range; 0 for no error at all."""
    return error / extent if extent else (np.inf if error else 0.0)


def lost_winners(reference: np.ndarray, other: np.ndarray, allowed: np.ndarray) -> int:
    """Return in how many rows of the last axis the top element changed although it led clearly."""
    if reference.ndim == 0 or reference.shape[-1] < 2 or not reference.size:
        return 0
    first = np.argmax(reference, axis=-1, keepdims=True)
    second = np.argmax(other, axis=-1, keepdims=True)
    top = np.take_along_axis(reference, first, -1)
    lead = top - np.take_along_axis(reference, second, -1)
    clear = lead > np.take_along_axis(allowed, first, -1)
    return int(np.count_nonzero(clear & (first != second) & np.isfinite(top)))


def judge(
    truth: np.ndarray, reference: np.ndarray, other: np.ndarray, resolution: float = 0.0
) -> Verdict:
    """Return the verdict against float64: at most twice the error of `reference`, plain ORT.

    An error below `resolution` (see margin.resolution) passes, too. The errors reported are those
    between `reference` and `other`, as in `compare`.
    """
    plain = compare(reference, other)
    if truth.shape != other.shape or other.shape != reference.shape:
        return plain
    left, right = reference.astype(np.float64), other.astype(np.float64)
    if not (same_specials(left, right) and same_specials(truth.astype(np.float64), right)):
        return dataclasses.replace(plain, passed=False)
    finite = np.isfinite(truth)
    theirs = float(np.abs(left - truth)[finite].max(initial=0.0))
    ours = float(np.abs(right - truth)[finite].max(initial=0.0))
    said = f"off float64 by {ours:.3g}, ONNX Runtime by {theirs:.3g}"
    passed = ours <= max(SLACK * theirs, resolution) or bool(
        (np.abs(right - truth)[finite] <= tolerance(truth)[finite]).all()
    )
    if passed:
        lost = lost_winners(truth, right, np.full(truth.shape, max(ours, theirs)))
        if lost:
            return dataclasses.replace(plain, passed=False, reason=f"top-1 differs in {lost} rows")
    return dataclasses.replace(plain, passed=passed, reason=said)
