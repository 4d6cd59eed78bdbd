"""Change the programs of optimized models at random, and run them: no text may do harm.

    python scripts/fuzz_programs.py [--first SEED] [--count N | --minutes M] [--isa base,avx2]

A seed makes a model as scripts/fuzz.py does, optimizes it, and changes each region's program:
numbers, names, words and lines are exchanged, doubled or taken out. A changed program must be
refused if the specification's reader (onnx_fusion.program) refuses it, at its reading or for the
shapes at hand, and otherwise, unless no kernel runs such a stage, give what the interpreter gives.
A crash is that seed's result: use a library built with the sanitizers (scripts/sanitize.sh).
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
from fuzz import Feeds, differ, nudge
from fuzz_drive import drive, line, ours
from fuzz_graphs import UNOPTIMIZED, Rejected, quiet
from fuzz_models import make
from onnx import helper, numpy_helper

import onnx_fusion
from onnx_fusion.errors import ProgramError
from onnx_fusion.program import (
    Apply,
    Dot,
    Instruction,
    Program,
    Reduce,
    bind,
    interpret,
    output_shapes,
    parse_program,
)
from onnx_fusion.program.bind import extents
from onnx_fusion.program.instructions import INSTRUCTIONS
from onnx_fusion.program.interpret import _Stage as Evaluation

CHANGED, REGIONS = 25, 6
"""How many changed programs a region gives, and how many regions a seed."""
MOST_POINTS = 1 << 21
"""Stages of more points are read and bound, but not run."""
TOKEN = re.compile(r"%\d+|[a-z][a-z0-9_]*|[A-Z]\w*|\d+(?:\.\d+)?(?:e[+-]?\d+)?|//|<=|==|\n| +|.")
NUMBERS = ("0", "1", "2", "3", "7", "8", "64", "1000", "65536", "2147483648", "1099511627776")
WORDS = {
    **dict.fromkeys(("add", "sub", "mul", "div", "max", "min", "pow", "mod", "fmod"), 0),
    **dict.fromkeys(("neg", "abs", "sqrt", "exp", "tanh", "sigmoid", "erf", "floor", "sign"), 1),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), 2),
    **dict.fromkeys(("f32", "f64", "f16", "i64", "i32", "u8", "bool"), 3),
    **dict.fromkeys(("lt", "le", "eq"), 4),
}
"""Words that may stand for each other."""


def mutate(text: str, rng: random.Random) -> str:
    """Return the text with one to three changes, most of which leave it readable."""
    tokens = TOKEN.findall(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        spots = [k for k, token in enumerate(tokens) if token.strip()]
        if not spots:
            return text
        at, kind = rng.choice(spots), rng.randrange(8)
        if kind == 0:
            del tokens[at]
        elif kind == 1:
            tokens.insert(at, tokens[rng.choice(spots)])
        elif kind == 2:
            lines = "".join(tokens).split("\n")
            taken = lines.pop(rng.randrange(len(lines)))
            if rng.random() < 0.6:
                lines.insert(rng.randrange(len(lines) + 1), taken)
            tokens = TOKEN.findall("\n".join(lines))
        else:
            tokens[at] = exchange(tokens[at], tokens, rng)
    return "".join(tokens)


def exchange(token: str, tokens: Sequence[str], rng: random.Random) -> str:
    """Return another token of the same kind."""
    if token.isdigit():
        near = str(max(0, int(token) + rng.choice((-2, -1, 1, 2))))
        return rng.choice((near, near, str(2 * int(token)), rng.choice(NUMBERS)))
    if token in WORDS:
        return rng.choice([word for word, kind in WORDS.items() if kind == WORDS[token]])
    if token in "+-*" or token in ("//", "%"):
        return rng.choice(("+", "-", "*", "//", "%"))
    if token in ("<", "<=", "=="):
        return rng.choice(("<", "<=", "=="))
    pattern = next(p for p in (r"%\d+", r"[a-z]\w*\d", r"[a-z]\w*", r"[A-Z]\w*", r"\S+", r"\s+")
                   if re.fullmatch(p, token))  # fmt: skip
    return rng.choice([one for one in tokens if re.fullmatch(pattern, one)])


def regions(seed: int) -> Iterator[tuple[onnx.NodeProto, dict[str, np.ndarray], set[str]]]:
    """Yield a seed's fused nodes, their inputs' arrays, and which of these are constant."""
    case = make(seed)
    made = onnx_fusion.optimize(case.model, policy="all", fallback=False)
    nodes = [node for node in made.graph.node if node.domain == "onnx_fusion"][:REGIONS]
    weights = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    read = {n for node in nodes for n in node.input}
    wanted = sorted(read - weights.keys() - case.feeds.keys())
    values: dict[str, np.ndarray] = {}
    if wanted:
        shown = onnx.ModelProto()
        shown.CopyFrom(made)
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        found = start(shown, 1).run(None, taken(shown, case.feeds))
        values = dict(zip(wanted, found, strict=True))
    given = {**values, **case.feeds}
    for node in nodes:
        arrays = {n: given[n] if n in given else weights[n] for n in node.input}
        yield node, arrays, set(node.input) - given.keys()


def start(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """Return a session with the library."""
    options = quiet(UNOPTIMIZED)
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(onnx_fusion.get_library_path())
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"])  # fmt: skip


def taken(model: onnx.ModelProto, feeds: Feeds) -> Feeds:
    return {v.name: feeds[v.name] for v in model.graph.input if v.name in feeds}


def alone(node: onnx.NodeProto, arrays: Feeds, fixed: set[str], text: str) -> onnx.ModelProto:
    """Return a model of one fused node that has another program."""
    own = onnx.NodeProto()
    own.CopyFrom(node)
    next(a for a in own.attribute if a.name == "program").s = text.encode("latin-1", "replace")
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim)
        for name, a in arrays.items() if name not in fixed
    ]  # fmt: skip
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    weights = [numpy_helper.from_array(arrays[name], name) for name in fixed]
    graph = helper.make_graph([own], "one", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx_fusion", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def points(program: Program, inputs: Sequence[np.ndarray]) -> int:
    """Return how many points and elements there are. Raises ProgramError if shapes do not bind."""
    scalars = {k: [int(n) for n in inputs[k].reshape(-1)]
               for k, t in enumerate(program.inputs) if t.binds}  # fmt: skip
    dims = bind(program, [a.shape for a in inputs], scalars)
    stages = [math.prod(extents(stage, dims).values()) for stage in program.stages]
    return max(*stages, *(math.prod(shape) for shape in output_shapes(program, dims)))


def meaning(text: str, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray] | None, str]:
    """Return what the interpreter gives, or None and why it gives nothing."""
    try:
        program = parse_program(text)
        if len(program.inputs) != len(inputs):
            raise ProgramError("another number of inputs")
        for t, a in zip(program.inputs, inputs, strict=True):
            if t.dtype.numpy != a.dtype:
                raise ProgramError("another type of input")
        if points(program, inputs) > MOST_POINTS:
            return None, ""
        return interpret(program, inputs), ""
    except ProgramError as error:
        return None, str(error)


def judge(node: onnx.NodeProto, arrays: Feeds, fixed: set[str], text: str, threads: int) -> str:
    """Return what is wrong with how the library takes a changed program, "" if nothing."""
    inputs = [arrays[name] for name in node.input]
    wanted, why = meaning(text, inputs)
    if wanted is not None and len(wanted) != len(node.output):
        wanted, why = None, "another number of outputs"
    model = alone(node, arrays, fixed, text)
    try:
        session = start(model, threads)
    except Exception as error:
        said = line(error)
        return "" if wanted is None or "line " in said else f"refused: {said}"
    if wanted is None and not why:
        return ""
    try:
        got = session.run(None, taken(model, arrays))
    except Exception as error:
        return "" if wanted is None else f"fails: {line(error)}"
    if wanted is None:
        return f"runs, but: {why}"
    wrong = {k: differ(w, g) for k, (w, g) in enumerate(zip(wanted, got, strict=True))}
    if not any(wrong.values()):
        return ""
    slack = move(text, inputs, wanted)
    found = (differ(w, g, s) for w, g, s in zip(wanted, got, slack, strict=True))
    return next(filter(None, found), "")


def move(text: str, inputs: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return how far outputs move where inputs, and what need not be exact, change in the last
    digits."""
    slack = [np.zeros(w.shape) for w in wanted]
    rng = np.random.default_rng(1)
    for _ in range(6):
        given = [nudge(a, rng) if a.dtype.kind == "f" else a for a in inputs]
        with inexact(rng):
            found = meaning(text, given)[0] or wanted
        for total, w, f in zip(slack, wanted, found, strict=True):
            with np.errstate(all="ignore"):
                same = (w == f) | ((w != w) & (f != f))
                moved = 16 * np.abs(w.astype(np.float64) - f.astype(np.float64))
            np.maximum(total, np.where(same, 0, moved), out=total)
    return slack


@contextlib.contextmanager
def inexact(rng: np.random.Generator) -> Iterator[None]:
    """Let the interpreter be as inexact as the specification allows a machine to be (section 6)."""
    exact = Evaluation.evaluate

    def evaluate(self: Evaluation, one: Instruction) -> np.ndarray:
        made = exact(self, one)
        wide = isinstance(one, Apply) and INSTRUCTIONS[one.op].wide
        sums = isinstance(one, Dot) or isinstance(one, Reduce) and one.op == "reduce_sum"
        if made.dtype.kind != "f" or not (wide or sums):
            return made
        least = np.finfo(made.dtype).tiny if rng.random() < 0.5 else 0
        return nudge(np.where(np.abs(made) < least, made.dtype.type(0), made), rng)

    Evaluation.evaluate = evaluate
    try:
        yield
    finally:
        Evaluation.evaluate = exact


def check(seed: int) -> tuple[str, list[str]]:
    """Return what was run of a seed, and what is wrong."""
    rng = random.Random(seed)
    wrong, count = [], 0
    try:
        found = list(regions(seed))
    except Exception as error:
        raise Rejected(str(error)) from None
    for node, arrays, fixed in found:
        text = next(a.s for a in node.attribute if a.name == "program").decode()
        given = {name for name in fixed if rng.random() < 0.7}
        for _ in range(CHANGED):
            changed, count = mutate(text, rng), count + 1
            ours(seed, changed)
            why = judge(node, arrays, given, changed, seed % 3 + 1)
            if why:
                wrong.append(f"{why}\n{changed}")
    return f"{count} programs", wrong


if __name__ == "__main__":
    sys.exit(drive(__doc__, __file__, check))
