"""Single operators for scripts/fuzz.py: each function adds one, with random attributes."""

from __future__ import annotations

import numpy as np
from fuzz_graphs import EXTENTS, Grower, Rejected
from onnx import helper

UNARY = (
    "Abs Neg Relu Sigmoid Tanh Exp Log Sqrt Reciprocal Floor Ceil Sign Erf Softplus Softsign Sin"
    " Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Round Elu Selu LeakyRelu HardSigmoid"
    " ThresholdedRelu Celu HardSwish Mish Gelu Identity Dropout IsNaN IsInf Not BitwiseNot"
)
BINARY = (
    "Add Add Add Sub Mul Mul Mul Div Pow Max Min Sum Mean PRelu Less Greater LessOrEqual"
    " GreaterOrEqual Equal And Or Xor Mod BitwiseAnd BitwiseOr BitwiseXor"
)
REDUCE = (
    "ReduceSum ReduceMax ReduceMin ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceSumSquare"
    " ReduceLogSum ReduceLogSumExp ArgMax ArgMin"
)
TYPES = (np.float32, np.float32, np.float64, np.float16, np.int64, np.int32, np.bool_, np.uint8,
         np.int8)  # fmt: skip


def unary(g: Grower) -> None:
    op_type = g.pick(UNARY.split())
    kinds = {"Not": "b", "BitwiseNot": "iu", "Neg": "fi", "Abs": "fiu", "Sign": "fi"}
    more = {}
    if op_type in ("Elu", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Celu") and g.chance(0.5):
        more["alpha"] = g.pick([0.1, 0.5, 1.5])
    if op_type == "Gelu":
        more["approximate"] = g.pick(["none", "tanh"])
    g.add(op_type, [g.value(kinds.get(op_type, "f"))], **more)


def binary(g: Grower) -> None:
    op_type = g.pick(BINARY.split())
    logic = {"And": "b", "Or": "b", "Xor": "b", "Mod": "iu", "BitwiseAnd": "iu",
             "BitwiseOr": "iu", "BitwiseXor": "iu", "PRelu": "f", "Mean": "f"}  # fmt: skip
    x = g.value(logic.get(op_type, "fffi"))
    y = g.like(x)
    if op_type == "Mod" and g.chance(0.3):
        g.add(op_type, [x, y], fmod=1)
        return
    if op_type in ("Mod", "Div") and g.of(y).dtype.kind in "iu" and not np.all(g.of(y)):
        raise Rejected("integer division by zero ends the process")
    if op_type == "PRelu" and np.broadcast_shapes(g.of(x).shape, g.of(y).shape) != g.of(x).shape:
        raise Rejected("a slope larger than what it slopes")
    if op_type in ("Sum", "Mean", "Max", "Min") and g.chance(0.3):
        g.add(op_type, [x, y, g.like(x)])
        return
    g.add(op_type, [x, y] if op_type == "PRelu" or g.chance(0.5) else [y, x])


def where(g: Grower) -> None:
    test = g.value("b")
    fitting = [n for n, a in g.values.items() if a.dtype.kind == "f" and n not in g.constants]
    x = g.pick(fitting)
    y = g.like(x)
    g.add("Where", [test, x, y] if g.chance(0.5) else [test, y, x])


def cast(g: Grower) -> None:
    x = g.value("fiub")
    dtype = np.dtype(g.pick(TYPES))
    if g.of(x).dtype.kind == "f" and dtype.kind in "iu":
        with np.errstate(invalid="ignore"):
            if not np.all(np.isfinite(g.of(x))) or np.abs(g.of(x)).max(initial=0) > 100:
                raise Rejected("undefined")
            if dtype.kind == "u" and (g.of(x) < 0).any():
                raise Rejected("undefined")
    g.add("Cast", [x], to=helper.np_dtype_to_tensor_dtype(dtype))


def clip(g: Grower) -> None:
    x = g.value("fi")
    low, high = (np.asarray(v, g.of(x).dtype) for v in sorted(g.random.integers(-3, 4, 2)))
    if g.opset < 11:
        g.add("Clip", [x], min=float(low), max=float(high))
    else:
        kind = g.number(0, 3)
        names = [g.constant(low) if kind != 1 else "", g.constant(high) if kind != 2 else ""]
        g.add("Clip", [x, *names])


def reshape(g: Grower) -> None:
    x = g.value("fiub")
    left, target = g.of(x).size, []
    for _ in range(g.number(0, 3)):
        factor = g.pick([d for d in range(1, min(left, 64) + 1) if left % d == 0] or [1])
        target.append(factor)
        left //= factor
    target.append(left)
    g.random.shuffle(target)
    if g.chance(0.4):
        target[g.number(0, len(target) - 1)] = -1
    if g.chance(0.2) and g.of(x).ndim:
        g.add("Flatten", [x], axis=g.number(0, g.of(x).ndim))
    else:
        g.add("Reshape", [x, g.ints(*(int(v) for v in target))])


def transpose(g: Grower) -> None:
    x = g.value("fiub", 1)
    g.add("Transpose", [x], perm=[int(p) for p in g.random.permutation(g.of(x).ndim)])


def slices(g: Grower) -> None:
    x = g.value("fib", 1)
    rank = g.of(x).ndim
    axes = [int(a) for a in g.random.permutation(rank)[: g.number(1, rank)]]
    starts = [g.number(-9, 9) for _ in axes]
    ends = [g.pick([g.number(-9, 20), 2**31 - 1, 2**62, -(2**40)]) for _ in axes]
    steps = [g.pick([1, 1, 1, 2, -1, -2, 3]) for _ in axes]
    if g.opset < 10:
        g.add("Slice", [x], axes=axes, starts=starts, ends=[min(e, 2**31) for e in ends])
    else:
        g.add("Slice", [x, *(g.ints(*v) for v in (starts, ends, axes, steps))])


def split(g: Grower) -> None:
    x = g.value("fi", 1)
    axis = g.number(0, g.of(x).ndim - 1)
    extent = g.of(x).shape[axis]
    first = g.number(0, extent)
    sizes = [first, extent - first]
    if g.opset < 13:
        g.add("Split", [x], 2, axis=axis, split=sizes)
    elif g.opset >= 18 and g.chance(0.3):
        g.add("Split", [x], 2, axis=axis, num_outputs=2)
    else:
        g.add("Split", [x, g.ints(*sizes)], 2, axis=axis)


def concat(g: Grower) -> None:
    x = g.value("fi", 1)
    a = g.of(x)
    axis = g.number(0, a.ndim - 1)
    fitting = [
        n for n, b in g.values.items()
        if b.dtype == a.dtype and b.ndim == a.ndim
        and all(k == axis or b.shape[k] == a.shape[k] for k in range(a.ndim))
    ]  # fmt: skip
    names = [x] + [g.pick(fitting) for _ in range(g.number(1, 2))]
    g.random.shuffle(names)
    g.add("Concat", names, axis=g.pick([axis, axis - a.ndim]))


def pad(g: Grower) -> None:
    x = g.value("fi", 1, 5)
    a = g.of(x)
    mode = g.pick(["constant", "constant", "reflect", "edge", "wrap"])
    if mode != "constant" and not a.size:
        raise Rejected("no elements to pad with")
    least = -1 if mode == "constant" else 0
    pads = [g.number(least, 2) if g.chance(0.5) else 0 for _ in range(2 * a.ndim)]
    if g.opset < 11:
        g.add("Pad", [x], mode=mode, pads=pads, value=0.5)
        return
    more = [g.constant(np.asarray(g.pick([0, 1, -2]), a.dtype))] if mode == "constant" else []
    g.add("Pad", [x, g.ints(*pads), *more], mode=mode)


def gather(g: Grower) -> None:
    x = g.value("fi", 1, size=1)
    a = g.of(x)
    axis = g.number(0, a.ndim - 1)
    low, shape = -a.shape[axis], g.shape(g.number(0, 2))
    if np.prod(shape) * a.size // max(a.shape[axis], 1) > 40_000:
        raise Rejected("too large")
    places = np.asarray(g.random.integers(low, a.shape[axis], shape), np.int64)
    kind = g.number(0, 2)
    if kind < 2:
        where = g.constant(places) if g.chance(0.6) else g.given(places)
        g.add("Gather", [x, where], axis=axis)
    else:
        places = np.asarray(g.random.integers(low, a.shape[axis], a.shape), np.int64)
        g.add("GatherElements", [x, g.given(places)], axis=axis)


def stretch(g: Grower) -> None:
    x = g.value("fib")
    shape = g.of(x).shape
    target = [g.pick(EXTENTS) if d == 1 else g.pick([d, 1]) for d in shape]
    if g.chance(0.5):
        target = [g.number(1, 3), *target] if g.chance(0.3) else target
        g.add("Expand", [x, g.ints(*target)])
    else:
        g.add("Tile", [x, g.ints(*(g.number(1, 3) for _ in shape))])


def axes(g: Grower) -> None:
    x = g.value("fib")
    shape = g.of(x).shape
    ones = [k for k, d in enumerate(shape) if d == 1]
    if ones and g.chance(0.5):
        chosen, op_type = [g.pick(ones)], "Squeeze"
    else:
        chosen, op_type = [g.number(-len(shape) - 1, len(shape))], "Unsqueeze"
    if g.opset < 13:
        g.add(op_type, [x], axes=chosen)
    else:
        g.add(op_type, [x, g.ints(*chosen)])


def reduce(g: Grower) -> None:
    op_type = g.pick(REDUCE.split())
    x = g.value("ffffi")
    g.need_numbers(x)
    rank = g.of(x).ndim
    if op_type.startswith("Arg"):
        more = {"select_last_index": 1} if g.opset >= 12 and g.chance(0.3) else {}
        g.add(op_type, [x], axis=g.number(-rank, rank - 1), keepdims=g.number(0, 1), **more)
        return
    chosen = [int(k) for k in g.random.permutation(rank)[: g.number(0, rank)]]
    chosen = [k - rank if g.chance(0.4) else k for k in chosen]
    keep = g.number(0, 1)
    if g.opset >= 18 or (op_type == "ReduceSum" and g.opset >= 13):
        empty = {"noop_with_empty_axes": 1} if g.chance(0.2) else {}
        g.add(op_type, [x, g.ints(*chosen)] if g.chance(0.8) else [x], keepdims=keep, **empty)
    else:
        g.add(op_type, [x], keepdims=keep, **({"axes": chosen} if chosen else {}))


def rows(g: Grower) -> None:
    x = g.value("f", 1)
    g.need_numbers(x)
    rank = g.of(x).ndim
    g.add(g.pick(["Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum"]), [x],
          axis=g.number(-rank, rank - 1)) if g.chance(0.8) else cumsum(g, x)  # fmt: skip


def cumsum(g: Grower, x: str) -> None:
    axis = g.constant(np.asarray(g.number(-g.of(x).ndim, g.of(x).ndim - 1), np.int64))
    g.add("CumSum", [x, axis], exclusive=g.number(0, 1), reverse=g.number(0, 1))


def top(g: Grower) -> None:
    x = g.value("f", 1)
    g.need_numbers(x)
    axis = g.number(0, g.of(x).ndim - 1)
    count = g.number(1, max(g.of(x).shape[axis], 1))
    if g.opset >= 10:
        g.add("TopK", [x, g.ints(count)], 2, axis=axis)
    else:
        g.add("TopK", [x], 2, axis=axis, k=count)


def matmul(g: Grower) -> None:
    x = g.value("f", 1, 5)
    a = g.of(x)
    shape = (a.shape[-1], g.pick(EXTENTS))
    if a.ndim > 2 and g.chance(0.4):
        shape = tuple(d if g.chance(0.7) else 1 for d in a.shape[:-2]) + shape
    fitting = [n for n, b in g.values.items()
               if b.ndim >= 2 and b.dtype == a.dtype and b.shape[-2] == a.shape[-1]]  # fmt: skip
    w = g.pick(fitting) if fitting and g.chance(0.3) else g.operand(shape, a.dtype)
    if a.ndim == 2 and g.chance(0.4):
        b = g.of(w)
        flip = g.chance(0.5)
        if flip:
            w = g.operand(b.shape[::-1], a.dtype)
        columns = g.of(w).shape[0 if flip else 1]
        c = [g.operand(g.pick([(columns,), (1,), (a.shape[0], 1), ()]), a.dtype)]
        g.add("Gemm", [x, w, *(c if g.chance(0.8) or g.opset < 11 else [])], transB=int(flip),
              alpha=g.pick([1.0, 0.5, -2.0]), beta=g.pick([1.0, 0.0, 0.5]))  # fmt: skip
    else:
        g.add("MatMul", [x, w])


def convolve(g: Grower) -> None:
    x = g.value("f", 3, 5)
    a = g.of(x)
    channels, spatial = a.shape[1], a.ndim - 2
    kernel = [g.pick([1, 1, 2, 3, 3, 3, 5]) for _ in range(spatial)]
    groups = g.pick([1, 1, channels, g.pick([d for d in (1, 2, 3, 4) if channels % d == 0])])
    attributes = {"group": groups}
    if g.chance(0.7):
        attributes["strides"] = [g.pick([1, 1, 2, 3])] * spatial
    if g.chance(0.3):
        attributes["dilations"] = [g.pick([1, 2])] * spatial
    if g.chance(0.3):
        attributes["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    else:
        attributes["pads"] = [g.number(0, 2) for _ in range(2 * spatial)]
    per = g.pick([1, 1, 2, 4, 8])
    out = per * groups
    if g.chance(0.2):
        w = g.operand((channels, g.pick([1, 3, 8]), *kernel), a.dtype)
        attributes["group"] = 1
        if g.chance(0.4):
            attributes["output_padding"] = [g.number(0, 1)] * spatial
        g.add("ConvTranspose", [x, w], **attributes)
        return
    w = g.operand((out, channels // groups, *kernel), a.dtype, 0.9)
    bias = [g.operand((out,), a.dtype, 0.9)] if g.chance(0.6) else []
    g.add("Conv", [x, w, *bias], **attributes)


def pool(g: Grower) -> None:
    x = g.value("f", 3, 5)
    g.need_numbers(x)
    spatial = g.of(x).ndim - 2
    kind = g.pick(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"])
    if kind.startswith("Global"):
        g.add(kind, [x])
        return
    more = {"kernel_shape": [g.pick([1, 2, 3, 5]) for _ in range(spatial)]}
    if g.chance(0.7):
        more["strides"] = [g.pick([1, 2, 3])] * spatial
    if g.chance(0.3):
        more["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif g.chance(0.7):
        more["pads"] = [g.number(0, 1) for _ in range(2 * spatial)]
    if g.opset >= 10 and kind != "LpPool" and g.chance(0.4):
        more["ceil_mode"] = 1
    if kind == "AveragePool" and g.chance(0.5):
        more["count_include_pad"] = 1
    if kind == "MaxPool" and g.opset >= 10 and g.chance(0.2):
        more["dilations"] = [2] * spatial
    if "auto_pad" not in more:
        pads, apart = more.get("pads", [0] * 2 * spatial), more.get("dilations", [1] * spatial)
        for k, extent in enumerate(g.of(x).shape[2:]):
            room = extent + pads[k] + pads[k + spatial]
            if room <= (more["kernel_shape"][k] - 1) * apart[k]:
                raise Rejected("a window larger than what it slides over")
    g.add(kind, [x], 2 if kind == "MaxPool" and g.chance(0.15) else 1, **more)


def normalize(g: Grower) -> None:
    x = g.value("f", 2)
    a = g.of(x)
    kind = g.pick(["BatchNormalization", "InstanceNormalization", "LayerNormalization", "LRN",
                   "GroupNormalization", "RMSNormalization"])  # fmt: skip
    if kind in ("LayerNormalization", "RMSNormalization"):
        axis = g.number(-a.ndim, a.ndim - 1)
        extents = a.shape[axis:] if axis >= 0 else a.shape[a.ndim + axis :]
        more = [g.operand(extents, a.dtype)] if kind == "LayerNormalization" else []
        g.add(kind, [x, g.operand(extents, a.dtype), *more], axis=axis)
    elif kind == "LRN":
        g.add(kind, [x], size=g.pick([1, 3, 5]))
    else:
        c = (a.shape[1],)
        names = [g.operand(c, a.dtype), g.operand(c, a.dtype)]
        if kind == "BatchNormalization":
            names += [g.operand(c, a.dtype), g.constant(np.abs(g.data(c, a.dtype)) + 0.1)]
        more = {"num_groups": g.pick([1, 2, 4])} if kind == "GroupNormalization" else {}
        g.add(kind, [x, *names], **more)


def resize(g: Grower) -> None:
    x = g.value("f", 3, 5)
    rank = g.of(x).ndim
    mode = g.pick(["nearest", "linear", "cubic"])
    if mode != "nearest" and not np.isfinite(g.of(x)).all():
        raise Rejected("a neighbour of weight 0, which may be left out, makes a NaN")
    scales = [1.0, 1.0] + [g.pick([0.5, 1.0, 2.0, 1.5, 3.0]) for _ in range(rank - 2)]
    if g.opset < 11:
        scales = g.constant(np.array(scales, np.float32))
        g.add("Upsample" if g.opset < 10 else "Resize", [x, scales], mode=mode)
        return
    how = g.pick(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    more = {"nearest_mode": g.pick(["round_prefer_floor", "floor", "ceil"])}
    g.add("Resize", [x, "", g.constant(np.array(scales, np.float32))], mode=mode,
          coordinate_transformation_mode=how, **more)  # fmt: skip


def blocks_of_space(g: Grower) -> None:
    x = g.value("f", 4, 4)
    if g.chance(0.5):
        mode = {"mode": g.pick(["DCR", "CRD"])} if g.opset >= 11 else {}
        g.add("DepthToSpace", [x], blocksize=2, **mode)
    else:
        g.add("SpaceToDepth", [x], blocksize=2)


def einsum(g: Grower) -> None:
    x = g.value("f", 2, 4)
    shape = g.of(x).shape
    letters = "abcd"[: len(shape)]
    other = g.pick([letters[-1] + "z", letters, letters[:-1] + "z", letters[0]])
    sizes = dict(zip(letters, shape, strict=True)) | {"z": g.pick([1, 3, 8])}
    w = g.operand(tuple(sizes[c] for c in other), g.of(x).dtype)
    every = [c for c in dict.fromkeys(letters + other) if g.chance(0.7)]
    g.random.shuffle(every)
    g.add("Einsum", [x, w], equation=f"{letters},{other}->{''.join(every)}")


def scatter(g: Grower) -> None:
    x = g.value("f", 1, 4, size=2)
    shape = g.of(x).shape
    if g.chance(0.5):
        count = min(3, shape[0])
        places = g.random.permutation(shape[0])[:count].reshape(count, 1)
        g.add("ScatterND", [x, g.constant(np.array(places, np.int64)),
                            g.operand((count, *shape[1:]), g.of(x).dtype)])  # fmt: skip
    else:
        places = np.asarray(g.random.integers(0, shape[0], (1, *shape[1:])), np.int64)
        g.add("ScatterElements", [x, g.constant(places), g.operand(places.shape, g.of(x).dtype)])


def triangle(g: Grower) -> None:
    g.add("Trilu", [g.value("f", 2)], upper=g.number(0, 1))


STEPS = (
    unary, unary, unary, binary, binary, binary, binary, where, cast, clip, reshape, reshape,
    transpose, transpose, slices, split, concat, concat, pad, gather, stretch, axes, axes, reduce,
    reduce, rows, top, matmul, matmul, convolve, convolve, convolve, pool, normalize, resize,
    blocks_of_space, einsum, scatter, triangle,
)  # fmt: skip
