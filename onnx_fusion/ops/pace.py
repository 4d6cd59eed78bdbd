"""How fast operators run on a CPU, here and in ONNX Runtime: one core, float32.

Medians over the nodes of the zoo's models and over single operators, Zen 4 with AVX-512, ONNX
Runtime 1.32; kernels for AVX2 take 1.0 to 1.1 of the time there, of some functions 1.4. What
decides is the ratio of the two sides.
"""

from __future__ import annotations

import math

from onnx_fusion.graph.model import Node
from onnx_fusion.ops.product import Kind, Product

PEAK = 111e9
"""Operations per second of a large matrix product, on both sides."""
DEEP = 576
"""Products summed, from which kernels here go by blocks of the sum (cpu/contract_blocks.cc)."""
ELEMENTS: dict[str, tuple[float, float]] = {
    # Functions of an element.
    "Exp": (0.1, 0.1), "Log": (0.35, 1.6), "Sqrt": (0.1, 0.3), "Erf": (0.18, 0.45),
    "Sigmoid": (0.17, 0.14), "Tanh": (0.16, 0.2), "Softplus": (0.3, 10.9), "Mish": (0.25, 11.4),
    "Elu": (0.25, 1.7), "Selu": (0.3, 1.7), "Celu": (0.35, 10.0), "Softsign": (0.1, 0.12),
    "HardSwish": (0.08, 0.2), "HardSigmoid": (0.04, 0.05), "Gelu": (0.26, 0.53),
    "BiasGelu": (0.26, 0.53), "FastGelu": (0.26, 0.55), "QuickGelu": (0.18, 0.18),
    "Swish": (0.18, 0.18),
    "Sin": (0.45, 1.75), "Cos": (0.45, 1.75), "Sign": (0.02, 0.9), "Pow": (4.2, 4.1),
    "Atan": (0.45, 0.85), "Asin": (0.35, 1.0), "Acos": (0.33, 0.8), "Tan": (13.0, 13.0),
    "Sinh": (22.0, 22.0), "Cosh": (10.0, 10.0), "Asinh": (24.0, 24.0), "Acosh": (10.0, 10.0),
    "Atanh": (21.0, 21.0), "Mod": (13.0, 5.5), "PRelu": (0.2, 0.6), "Where": (0.04, 1.6),
    "Div": (0.04, 0.07), "Reciprocal": (0.02, 0.12), "Floor": (0.02, 0.17), "Ceil": (0.02, 0.17),
    "Round": (0.03, 0.1), "LeakyRelu": (0.04, 0.06), "And": (0.02, 0.5), "Or": (0.02, 0.5),
    "BatchNormalization": (0.03, 0.03), "Identity": (0.0, 0.0),
    # Rows; of an input's element. LpPool: for each tap.
    "Softmax": (0.12, 0.2), "LogSoftmax": (0.15, 0.25), "LayerNormalization": (0.08, 0.45),
    "RMSNormalization": (0.1, 0.5), "SimplifiedLayerNormalization": (0.1, 0.5),
    "InstanceNormalization": (0.25, 0.2),
    "GroupNormalization": (0.25, 0.2), "SkipLayerNormalization": (0.12, 4.8),
    "SkipSimplifiedLayerNormalization": (0.12, 0.5), "MeanVarianceNormalization": (0.15, 0.6),
    "CumSum": (30.0, 3.0), "LRN": (0.8, 1.0), "LpPool": (0.1, 1.0),
    # What moves elements: what it takes beyond reading and writing.
    "Transpose": (0.08, 0.3), "Concat": (0.2, 0.05), "Split": (0.0, 0.14), "Slice": (0.0, 0.05),
    "Gather": (0.1, 0.03), "Pad": (0.02, 0.1), "Expand": (0.02, 0.35), "Tile": (0.02, 0.35),
    "DepthToSpace": (0.25, 1.6), "SpaceToDepth": (0.28, 0.16), "GatherElements": (1.9, 0.7),
    "GatherND": (0.7, 0.5), "Trilu": (0.1, 0.02), "QuantizeLinear": (0.1, 0.03),
    "DequantizeLinear": (0.1, 0.03), "nearest": (0.15, 0.55), "doubled": (0.14, 0.11),
    "linear": (0.68, 0.72), "aligned": (0.5, 0.7), "fractions": (0.6, 1.4),
}  # fmt: skip
"""Nanoseconds per element beyond memory's, (here, ONNX Runtime), by op_type."""
JOINED = frozenset(("Concat",))
"""Operators that join pieces along `axis`."""
INTERLEAVED = 20.0
"""Nanoseconds per element here, where neighbours in memory come from different pieces."""
OTHER = (0.02, 0.03)
"""The same for an operator that is a few instructions."""
BLOCK = 8
"""Channels that ONNX Runtime fills up to with zeros (16 with AVX-512)."""
NARROW = 16
"""Groups of fewer channels do not fill a vector, on neither side."""
SHARED = {2: 0.38, 4: 0.47, 8: 0.66}
"""Here groups of so many channels share one, and with windows 3 wide it is shuffled while it is
multiplied, with these shares of PEAK (between AVX2's and AVX-512's)."""
COPY = 25e9
"""Bytes per second at which it writes the windows of an image down for a matrix product."""
STREAM = (28e9, 20e9)
"""Bytes per second at which weights that are used once are read, (here, ONNX Runtime)."""
FAR = 4e6
"""Bytes of weights from which Winograd's, four times as many, come from memory at every run."""


RESIZED = frozenset(("Resize", "Upsample"))


def element(node: Node, named: str = "") -> tuple[float, float] | None:
    """Return the entry of ELEMENTS for a node, or for the operator `named` in its place, if there
    is one.

    An image resized takes what its mode does; ONNX Runtime has kernels for twice as many pixels,
    and for whole scales in its blocked layout.
    """
    if node.op_type not in RESIZED or named:
        return ELEMENTS.get(named or node.op_type)
    mode = node.attrs.get("mode", "nearest")
    shapes = [value and value.shape for value in (node.inputs[0], node.outputs[0])]
    coordinates = node.attrs.get("coordinate_transformation_mode", "asymmetric")
    if None in shapes:
        return ELEMENTS["linear" if mode != "nearest" else "nearest"]
    if mode != "nearest":
        pairs = zip(*shapes, strict=True)
        if any(isinstance(a, int) and isinstance(b, int) and a and b % a for a, b in pairs):
            return ELEMENTS["fractions"]
        return ELEMENTS["aligned" if coordinates == "align_corners" else "linear"]
    plain = coordinates == "asymmetric"
    doubled = len(shapes[0]) == 4 and all(
        isinstance(a, int) and isinstance(b, int) and 2 * a == b
        for a, b in zip(shapes[0][2:], shapes[1][2:], strict=True)
    )
    return ELEMENTS["doubled" if plain and doubled else "nearest"]


POOLED = frozenset(("MaxPool", "AveragePool"))


def pooled(node: Node, alone: bool, made: float) -> tuple[float, float] | None:
    """Return the seconds, (here, ONNX Runtime), of a pooling that makes so many elements; None for
    other operators.

    Here windows that overlap are joined row by row, then column by column; `alone`, in rows, each
    line of the result is set up anew.
    """
    taps = [int(extent) for extent in node.attrs.get("kernel_shape", ())]
    if node.op_type not in POOLED or not taps:
        return None
    here, there = 0.04 * sum(taps), 0.15 + 0.022 * math.prod(taps)
    steps = [int(step) for step in node.attrs.get("strides", ())]
    if alone and any(tap > step for tap, step in zip(taps, steps or [1] * len(taps), strict=True)):
        shape = node.outputs[0].shape
        width = shape[-1] if shape and isinstance(shape[-1], int) else 1
        here = 0.025 * sum(taps) + 0.005 * math.prod(taps) + 10.5 / max(width, 1)
    return here * 1e-9 * made, there * 1e-9 * made


def in_rows(product: Product) -> float:
    """Return the seconds that windows of these kinds take longer where images lie in rows."""
    if product.kind is Kind.DEPTHWISE:
        return (0.35 + 0.027 * product.taps) * 1e-9 * product.rows * product.count
    if product.kind is not Kind.TRANSPOSED:
        return 0.0
    return 3e-9 * math.prod(product.pixels) * product.columns / product.taps * product.count


def filled(product: Product, edge: float = 3.0) -> float:
    """Return the share of PEAK that a matrix product of this shape reaches; `edge` rows are
    lost."""
    rows = product.rows / (product.rows + edge)
    return rows * product.depth / (product.depth + 6) * product.columns / (product.columns + 4)


def run_here(product: Product, strict: bool = False) -> float:
    """Return the seconds this project's kernels take for a contraction; `strict` keeps to its
    sums."""
    stream = product.weight_bytes / STREAM[0]
    if product.kind is Kind.DEPTHWISE:
        return (0.14 + 0.0155 * product.taps) * 1e-9 * product.rows * product.count
    if product.kind is Kind.TRANSPOSED:
        few = (product.rows + 1.5) / product.rows
        return max(product.flops / PEAK * (few + 70 / product.depth), stream)
    share = filled(product, 1.5)
    if product.kind is Kind.WINDOW:
        if product.depth < 8 * product.taps:
            share *= product.depth / (product.depth + 12)
        elif len(product.window) > 2 and product.steps:
            share *= 0.75
        share = share if strict else max(share, winograd(product))
        if product.count > 1:
            share = grouped(product)
    done = 1.0 if strict else strassen(product)
    return max(product.flops * done * reached(product) / (PEAK * share), stream)


def strassen(product: Product) -> float:
    """Return the share of a large matrix product's time that is left with seven products of halves
    (cpu/contract_strassen.cc), 1 if it is run as it is."""
    least = min(product.rows, product.columns, product.depth)
    if product.kind is not Kind.MATRIX or not product.constant or least < 64:
        return 1.0
    share = 0.875 + 20 / product.columns + 24 / product.depth + 2 / product.rows
    return share if share < 0.946 else 1.0


def grouped(product: Product) -> float:
    """Return the share of PEAK for a window's products in groups (cpu/contract_group.cc, where it
    runs)."""
    columns, depth = product.columns, product.depth
    narrow, alike = columns < NARROW, depth == columns * product.taps
    if len(product.window) > 2 or depth == product.taps or not narrow and columns % NARROW:
        return filled(product, 1.5) * (0.036 * columns if narrow else columns / (columns + 4))
    if not narrow:
        share = columns / (columns + 2)
    elif alike and product.window[-1] == 3 and columns in SHARED:
        share = SHARED[columns]
    else:
        share = depth / (1.43 * depth + 36)
    return share * product.rows / (product.rows + 1.5) * (0.75 if product.steps else 1.0)


def reached(product: Product) -> float:
    """Return the share of a dilated window's products that are computed: tiles of rows that read
    nothing but padding are left out, ONNX Runtime's always, here where the depth is computed in
    blocks."""
    return min(1.0, 1.7 * product.inside) if product.depth > DEEP else 1.0


def winograd(product: Product) -> float:
    """Return operations of the sum for one that is done, times the share of PEAK: 0 if the kernels
    sum.

    Tiles are about 4 pixels wide (cpu/contract_winograd.cc); few tiles share the weights badly, and
    wait for weights that come from memory. Windows longer than 5 are cut to windows of 3 or 5. A
    window that moves by 2 has tiles if it is 3 x 3.
    """
    channels = product.depth / product.taps
    axes = [taps for taps in product.window if taps > 1][-2:]
    halved = product.halves and axes == [3, 3]
    if product.steps and not halved or not product.constant or product.count > 1 or not axes:
        return 0.0
    if min(channels, product.columns) < 8 or any(taps in (2, 4) for taps in axes):
        return 0.0
    whole = math.prod(math.ceil(taps / 3) * 3 / taps for taps in axes if taps != 5)
    five = all(taps == 5 for taps in axes)
    gain = (2.45, 2.2)[len(axes) == 1] if five else (3.6, 1.8)[len(axes) == 1] / whole
    gain = 1.6 if halved else gain
    tiles = product.rows / 4 ** len(axes)
    shared = tiles / (tiles + (2 if len(axes) == 2 else 20))
    shared *= 0.8 if product.weight_bytes > FAR and not halved else 1.0
    return gain * shared * channels / (channels + 6) * product.columns / (product.columns + 6)


def run_there(product: Product) -> float:
    """Return the seconds ONNX Runtime takes for a contraction.

    Images in two dimensions are blocked by channels: a window reads them in place, and few pixels
    share the weights badly. Others are copied window by window for a matrix product. Transposed, a
    product's columns are added to the result, and few rows leave most of its tiles empty.
    """
    stream = product.weight_bytes / STREAM[1]
    if product.kind is Kind.MATRIX:
        deep = 1 + (min(product.depth, 4096) / 10000) ** 2
        return max(product.flops / (PEAK * filled(product)) * deep, stream)
    if product.kind is Kind.TRANSPOSED:
        few = (product.rows + 10) / product.rows
        added = 42 if len(product.window) == 2 else 85
        return max(product.flops / PEAK * (few + added / product.depth), stream)
    pixels = math.prod(product.pixels)
    if len(product.window) != 2:
        share = pixels / (pixels + 21) * product.columns / (product.columns + 25)
        copied = 4 * product.rows * product.depth * product.count if product.taps > 1 else 0
        return product.flops / (PEAK * share) + copied / COPY
    if product.kind is Kind.DEPTHWISE:
        return (0.24 + 0.019 * product.taps) * 1e-9 * product.rows * product.count
    share = pixels / (pixels + 12) * product.depth / (product.depth + 8)
    if product.count > 1 and product.columns < NARROW:
        share *= 0.45 * product.columns / (product.columns + 2) * (0.65 if product.steps else 1.0)
    elif product.count > 1 and product.columns % NARROW:
        share *= 0.62
    else:
        share *= product.columns / (math.ceil(product.columns / BLOCK) * BLOCK)
    share *= 1.05 / min(1.0, 1.7 * product.inside)
    return max(product.flops / (PEAK * share), stream)
