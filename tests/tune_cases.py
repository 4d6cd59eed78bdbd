"""A model to tune, and a measurer that makes its times up."""

import onnx
import onnx.parser

from onnx_fusion import api
from onnx_fusion.runtime.duel import Outcome
from onnx_fusion.runtime.host import Host
from onnx_fusion.tune.run import Tuning

HOST = Host("cpu", "avx2", "1.32.0", "0.1.0+abc")
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
LINES = [
    "a = Tanh(x)", "b = Softmax(a)", "c = Sin(b)", "d = Softmax(c)", "e = Cos(d)",
    "f = Softmax(e)", "g = Exp(f)", "y = Softmax(g)",
]  # fmt: skip
# Softmax cannot join Softmax, so the regions are Tanh to Sin, to Cos, to Exp, and the last alone.
CHAIN = f"g (float[64, 512] x) => (float[64, 512] y) {{ {' '.join(LINES)} }}"
WITHOUT_SMALL = {"disabled": ("small",)}


def write_chain(path):
    """Write the model and return its path."""
    onnx.save(onnx.parser.parse_model(HEAD + CHAIN), path)
    return path


class Fake:
    """Answers with `ratio(kinds, threads)` for parts and `whole(kinds, threads)` for models, where
    kinds are the op_types fused; each takes a second on its clock."""

    def __init__(self, ratio, whole=lambda kinds, threads: 0.8):
        self.ratio, self.of_whole = ratio, whole
        self.now, self.asked, self.interrupt_at = 0.0, [], None

    def clock(self):
        return self.now

    def sizes(self, unit):
        return "8"

    def part(self, unit, regions, threads):
        return self.answer(self.ratio, regions, threads)

    def whole(self, regions, threads):
        return self.answer(self.of_whole, regions, threads)

    def answer(self, rule, regions, threads):
        kinds = " ".join(node.op_type for region in regions for node in region.nodes)
        self.asked.append(("whole " if rule is self.of_whole else "") + kinds)
        self.now += 1.0
        if len(self.asked) == self.interrupt_at:
            raise KeyboardInterrupt
        ratio = rule(kinds, threads)
        return Outcome(1e-3, 1e-3 * ratio, 0.999 * ratio, 1.001 * ratio, 5)


def run(source, target, fake, *, threads=(1,), budget=None, measure=True, **options):
    tuning = Tuning(
        measure, threads, budget, measurer=fake if measure else None, host=HOST, shipped={},
        clock=fake.clock,
    )  # fmt: skip
    return api.optimize_file(source, target, tuning=tuning, **{**WITHOUT_SMALL, **options})


def kinds_of(path):
    """Return the op_types that are left in a model beside fused nodes."""
    return {node.op_type for node in onnx.load(path).graph.node if node.domain != "onnx_fusion"}


def by_kind(slow, ratio=0.5):
    return lambda kinds, threads: 1.5 if slow in kinds else ratio
