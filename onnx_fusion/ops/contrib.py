"""Rows of ONNX Runtime's own operators (com.microsoft) that exporters and its optimizer emit.

Their meaning is that of ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.ops import activation
from onnx_fusion.ops.contraction import matmul, matmul_flops
from onnx_fusion.ops.elementwise import EXPENSIVE, mapping, need
from onnx_fusion.ops.mapping import MappingType, Role
from onnx_fusion.ops.movement import transpose
from onnx_fusion.ops.product import of_matrices
from onnx_fusion.ops.row import Row, Site, broadcast, like, pointwise
from onnx_fusion.ops.rows import affine, normalized
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Refused, Tensor
from onnx_fusion.program.model import Ref

DOMAIN = "com.microsoft"


def lower_gelu(site: Site) -> list[Tensor | None]:
    """Return Gelu, BiasGelu or FastGelu; the bias is added first."""
    tensors = tuple(t for t in site.inputs if t is not None)
    for tensor in tensors:
        need(tensor, (DType.F32,))
    write = activation.gelu_tanh if site.node.op_type == "FastGelu" else activation.gelu_erf

    def with_bias(s: Stage, a: Ref, b: Ref | None = None) -> Ref:
        return write(s, a if b is None else s.apply("add", a, b))

    return [pointwise(broadcast(t.shape for t in tensors), DType.F32, tensors, with_bias)]


def lower_quick_gelu(site: Site) -> list[Tensor | None]:
    """Return x * sigmoid(alpha * x)."""
    x, alpha = site.x(0), float(site.attr("alpha", 1.702))
    need(x, (DType.F32,))

    def write(s: Stage, a: Ref) -> Ref:
        return s.apply("mul", a, s.apply("sigmoid", s.apply("mul", a, like(s, a, alpha))))

    return [pointwise(x.shape, x.dtype, (x,), write)]


def lower_fused_matmul(site: Site) -> list[Tensor | None]:
    """Return alpha * A' @ B', where ' swaps the last two axes if transA or transB says so."""
    if site.attr("transBatchA", 0) or site.attr("transBatchB", 0):
        raise Refused("FusedMatMul that moves a batch axis")
    operands = []
    for position, name in enumerate(("transA", "transB")):
        tensor = site.x(position)
        if site.attr(name, 0):
            if tensor.rank < 2:
                raise Refused(f"{name} of a vector")
            axes = list(range(tensor.rank))
            tensor = transpose(tensor, [*axes[:-2], axes[-1], axes[-2]])
        operands.append(tensor)
    out = matmul(*operands)
    alpha = float(site.attr("alpha", 1.0))
    if alpha == 1.0:
        return [out]
    return [
        pointwise(out.shape, out.dtype, (out,), lambda s, a: s.apply("mul", a, like(s, a, alpha)))
    ]


def lower_skip_norm(site: Site) -> list[Tensor | None]:
    """Return SkipLayerNormalization or its RMS form: input + skip + bias, normalized; and the sum.

    `skip` broadcasts over the batch. The statistics, which the CPU does not fill, are refused.
    """
    if site.output_used(1) or site.output_used(2):
        raise Refused("SkipLayerNormalization with statistics")
    simplified = site.node.op_type.startswith("SkipSimplified")
    bias = site.maybe(3 if simplified else 4)
    beta = None if simplified else site.maybe(3)
    terms = tuple(t for t in (site.x(0), site.x(1), bias) if t is not None)
    for tensor in terms:
        need(tensor, (DType.F32,))
    shape = broadcast(t.shape for t in terms)
    if shape != terms[0].shape:
        raise Refused("a skip larger than the input")

    def total(s: Stage, a: Ref, *rest: Ref) -> Ref:
        for one in rest:
            a = s.apply("add", a, one)
        return a

    summed = pointwise(shape, DType.F32, terms, total)
    epsilon = float(site.attr("epsilon", 1e-12))
    out = normalized(summed, [summed.rank - 1], epsilon, not simplified)[0]
    return [affine(out, site.x(2), beta), None, None, summed]


M2M = MappingType.MANY_TO_MANY
ROWS = [
    Row("Gelu", mapping, lower_gelu, DOMAIN, flops=EXPENSIVE),
    Row("BiasGelu", mapping, lower_gelu, DOMAIN, flops=EXPENSIVE + 1),
    Row("FastGelu", mapping, lower_gelu, DOMAIN, flops=EXPENSIVE + 1),
    Row("QuickGelu", mapping, lower_quick_gelu, DOMAIN, flops=EXPENSIVE),
    Row("FusedMatMul", M2M, lower_fused_matmul, DOMAIN, flops=matmul_flops, role=Role.PRODUCT,
        product=of_matrices),
    Row("SkipLayerNormalization", M2M, lower_skip_norm, DOMAIN, flops=8.0),
    Row("SkipSimplifiedLayerNormalization", M2M, lower_skip_norm, DOMAIN, flops=6.0),
]
