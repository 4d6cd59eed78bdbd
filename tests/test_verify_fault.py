"""verify names the region at fault; kernels that are wrong are stood in for by wrong functions."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, parser

import onnx_fusion
from onnx_fusion.runtime import side
from onnx_fusion.runtime.session import session
from onnx_fusion.runtime.surgery import PLAIN, fused_nodes, only
from onnx_fusion.runtime.verify import verify

OPS = ("Relu", "Exp", "Neg", "Abs", "Sqrt")
FLOATS = "(float[4,4] v0) => (float[4,4] v5)"


def original() -> onnx.ModelProto:
    """Return a chain of five operators."""
    body = " ".join(f"v{i + 1} = {op}(v{i})" for i, op in enumerate(OPS))
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {FLOATS} {{ {body} }}')


def fused(functions: bool = True) -> onnx.ModelProto:
    """Return the chain with one fused node for each operator, and their functions."""
    body = " ".join(f"[r{i}] v{i + 1} = onnx_fusion.FusedRegion_{i}(v{i})" for i in range(len(OPS)))
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "onnx_fusion" : 1]> g {FLOATS} {{ {body} }}'
    )
    for i in range(1, len(OPS)):
        model.graph.value_info.append(helper.make_tensor_value_info(f"v{i}", 1, [4, 4]))
    for i, op in enumerate(OPS if functions else ()):
        model.functions.append(
            helper.make_function(
                "onnx_fusion",
                f"FusedRegion_{i}",
                ["a"],
                ["b"],
                [helper.make_node(op, ["a"], ["b"])],
                [helper.make_opsetid("", 17)],
            )
        )
    return model


def break_kernels(monkeypatch: pytest.MonkeyPatch, wrong: set[int]) -> list[int]:
    """Make sessions with the library run these regions wrongly; return a log of sessions."""
    log: list[int] = []

    def create(source, *, library, threads, options):
        if not library:
            return session(source, library=False, threads=threads, options=options)
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        log.append(sum(node.domain == "onnx_fusion" for node in fused_nodes(copy)))
        for function in copy.functions:
            number = int(function.name.rpartition("_")[2])
            if function.domain == "onnx_fusion" and number in wrong:
                function.node[0].output[0] = "t"
                function.node.append(helper.make_node("Sign", ["t"], ["b"]))
        return session(copy, library=False, threads=threads, options=options)

    monkeypatch.setattr(side, "session", create)
    return log


@pytest.mark.parametrize("wrong", range(1, 5))
def test_the_wrong_kernel_is_named(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = break_kernels(monkeypatch, {wrong})
    report = verify(original(), fused())
    assert not report.passed
    assert report.fault == f"region 'r{wrong}' (FusedRegion_{wrong}) is at fault"
    assert len(log) <= 2 + 3
    assert verify(original(), fused(), library=False).passed


def test_of_several_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    break_kernels(monkeypatch, {2, 4})
    assert verify(original(), fused()).fault in {
        "region 'r2' (FusedRegion_2) is at fault",
        "region 'r4' (FusedRegion_4) is at fault",
    }


def test_a_wrong_function_is_no_kernels_fault() -> None:
    made = fused()
    made.functions[2].node[0].op_type = "Tanh"
    report = verify(original(), made, library=False)
    assert report.fault == "node 'r2' makes the first value that differs, 'v3'"


def test_only_leaves_the_rest_to_their_functions() -> None:
    changed = only(fused(), {1, 3})
    assert [node.domain for node in changed.graph.node] == [
        PLAIN,
        "onnx_fusion",
        PLAIN,
        "onnx_fusion",
        PLAIN,
    ]
    x = np.random.default_rng(0).standard_normal((4, 4), np.float32)
    results = [
        session(model, library=False).run(None, {"v0": x})[0]
        for model in (original(), changed, fused())
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_a_kernel_that_computes_something_else_is_found() -> None:
    """The program of one fused node is changed, so the library really runs it wrongly."""
    path = Path(__file__).resolve().parent.parent / "models" / "tiny_depthwise.onnx"
    made = onnx_fusion.optimize(path, policy="all")
    fused = [n for n in made.graph.node if n.domain == "onnx_fusion"]
    node = fused[len(fused) // 2]
    program = next(item for item in node.attribute if item.name == "program")
    assert b" = add " in program.s
    program.s = program.s.replace(b" = add ", b" = sub ")
    report = verify(path, made)
    assert not report.passed
    assert report.fault == f"region '{node.name}' ({node.op_type}) is at fault"
    assert verify(path, made, library=False).passed
