"""Optimize random models and compare with plain ONNX Runtime: shapes, types and numbers.

    python scripts/fuzz.py [--first SEED] [--count N | --minutes M] [--isa base,avx2] [--save DIR]

A seed makes one model: operators and blocks of them as exporters write them, grown node by node
against ONNX Runtime, with extreme numbers, free extents, bodies, functions and odd names. Each is
optimized with `--policy all`, some also by default, strictly or through files, and runs with the
library on 1, 2 or 3 threads and without it, on other extents too where they are free. A difference
counts if neither ONNX Runtime's optimized nor its unoptimized run agrees, nor float64, and inputs,
weights and operators' results changed in their last digits do not explain it. Models whose result
is not defined are not made. Seeds run in a process for each instruction set, in
turn; a crash or a hang is that seed's result. `--save` writes each model that fails, with its
inputs. Exits with 1 if one did.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fuzz_drive import drive, line, ours
from fuzz_graphs import UNOPTIMIZED, Rejected, quiet
from fuzz_models import Case, make
from onnx import helper, numpy_helper

import onnx_fusion
from onnx_fusion.runtime.reference import NoReference, evaluate
from onnx_fusion.runtime.session import session

Feeds = Mapping[str, np.ndarray]
EXACT = ("Resize", "Upsample", "Pow")
"""Of their inputs after the first the digits count: scales are extents, and other ones make another
shape, or a model that does not load; what is below 0 has whole powers only."""
SMALLEST = np.finfo(np.float32).tiny
"""Below it a float may be computed as 0 (onnx_fusion/docs/tile_program.md)."""


def run(model: onnx.ModelProto, feeds: Feeds, unoptimized: bool = False) -> list[np.ndarray]:
    """Return plain ONNX Runtime's outputs."""
    options = quiet(UNOPTIMIZED if unoptimized else None)
    made = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    names = {value.name for value in made.get_inputs()}
    return made.run(None, {n: a for n, a in feeds.items() if n in names})


def differ(wanted: np.ndarray, got: np.ndarray, slack: np.ndarray | None = None) -> str | None:
    """Return how an output differs from what is wanted, None if it does not."""
    if wanted.dtype != got.dtype:
        return f"type {got.dtype}, wanted {wanted.dtype}"
    if wanted.shape != got.shape:
        return f"shape {got.shape}, wanted {wanted.shape}"
    if wanted.dtype.kind != "f":
        wrong = wanted != got
    else:
        with np.errstate(all="ignore"):
            w, g = wanted.astype(np.float64), got.astype(np.float64)
            finite = w[np.isfinite(w)]
            scale = float(np.abs(finite).max(initial=0))
            step = 1e-3 if wanted.dtype == np.float16 else 1e-5
            allowed = 100 * step * np.abs(w) + step * scale + 2e-7
            if slack is not None:
                allowed = allowed + slack
            # An infinity less an infinity is one or a NaN, by the order of a sum.
            wrong = ~(np.abs(w - g) <= allowed) & (np.isfinite(w) | np.isfinite(g))
    if slack is not None:
        wrong &= ~np.isnan(slack) if wanted.dtype.kind == "f" else slack == 0
    if not wrong.any():
        return None
    place = tuple(int(k) for k in np.argwhere(wrong)[0])
    first = f"first {got[place]!r} for {wanted[place]!r} at {place}"
    return f"{int(wrong.sum())} of {wrong.size}, {first}"


def shake(model: onnx.ModelProto, feeds: Feeds, wanted: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return how far outputs move where inputs, weights and what operators compute change in their
    last digits."""
    slack = [np.zeros(w.shape) for w in wanted]
    random = np.random.default_rng(1)
    inner, exact = intermediate(model, feeds), exact_names(model)
    for round_ in range(32):  # of two that tie, each is first in half of them
        copy, factors = noisy(model, inner if round_ >= 4 else {}, exact, random)
        given = {
            n: nudge(a, random) if a.dtype.kind == "f" and n not in exact else a
            for n, a in feeds.items()
        }
        try:
            found = run(copy, given | factors, bool(round_ % 2))
        except Exception:
            continue
        for total, w, f in zip(slack, wanted, found, strict=True):
            if w.shape != f.shape:
                total[...] = np.nan if w.dtype.kind == "f" else 1
            elif w.dtype.kind == "f":
                with np.errstate(all="ignore"):
                    moved = 16 * np.abs(w.astype(np.float64) - f.astype(np.float64))
                    largest = np.abs(w[np.isfinite(w)]).max(initial=0)
                    pole = (np.sign(w) * np.sign(f) < 0) & (moved > largest)
                    moved = np.where(pole, np.inf, moved)
                same = (w == f) | (np.isnan(w) & np.isnan(f))
                np.maximum(total, np.where(same, 0, moved), out=total)
            else:
                total[w != f] = 1
    return slack


def intermediate(model: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Return the floats that the main graph's nodes compute, none if they cannot all be shown."""
    names = [name for node in model.graph.node for name in node.output if name]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        found = zip(names, run(copy, feeds, True), strict=True)
    except Exception:
        return {}
    return {n: a for n, a in found if isinstance(a, np.ndarray) and a.dtype.kind == "f"}


def noisy(
    model: onnx.ModelProto, inner: Feeds, exact: Collection[str], random: np.random.Generator
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return the model with other last digits in its weights and in its nodes' `inner` results, but
    for the `exact` ones, and the inputs that this adds: a constant's shape would contradict what is
    inferred wrongly."""
    factors: dict[str, np.ndarray] = {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and tensor.name not in exact:
            tensor.CopyFrom(numpy_helper.from_array(nudge(array, random), tensor.name))
    del copy.graph.node[:]
    for node in model.graph.node:
        own = copy.graph.node.add()
        own.CopyFrom(node)
        for k, name in enumerate(node.output):
            if name in inner and name not in exact:
                own.output[k], factor = f"{name}~exact", f"{name}~factor"
                lost = (np.abs(inner[name]) < SMALLEST) & (random.random(inner[name].shape) < 0.5)
                factors[factor] = np.where(lost, 0, nudge(np.ones_like(inner[name]), random))
                kind = helper.np_dtype_to_tensor_dtype(inner[name].dtype)
                copy.graph.input.append(helper.make_tensor_value_info(factor, kind, None))
                copy.graph.node.add(op_type="Mul", input=[own.output[k], factor], output=[name])
    return copy, factors


def exact_names(model: onnx.ModelProto) -> set[str]:
    """Return the values whose last digits do not change."""
    return {i for n in model.graph.node if n.op_type in EXACT for i in n.input[1:]}


def nudge(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return an array with each element a few units of its last place away."""
    step = 4 * float(np.finfo(array.dtype).eps)
    with np.errstate(all="ignore"):
        moved = array * (1 + step * random.uniform(-1, 1, array.shape))
        return np.asarray(moved).astype(array.dtype)


def compare(model: onnx.ModelProto, feeds: Feeds, wanted: Sequence, got: Sequence) -> str | None:
    """Return which output is wrong, and how."""
    names = [value.name for value in model.graph.output]
    wrong = {k: differ(w, g) for k, (w, g) in enumerate(zip(wanted, got, strict=True))}
    wrong = {k: why for k, why in wrong.items() if why}
    if not wrong:
        return None
    plain = run(model, feeds, True)
    wrong = {k: why for k, why in wrong.items() if differ(plain[k], got[k])}
    if not wrong:
        return None
    slack = shake(model, feeds, wanted)
    for k in wrong:
        why = differ(wanted[k], got[k], slack[k])
        if why and differ(plain[k], got[k], slack[k]):
            right = truth(model, feeds, names[k])
            if right is None or differ(right.astype(got[k].dtype), got[k], slack[k]):
                return f"output {names[k]!r}: {why}"
    return None


def truth(model: onnx.ModelProto, feeds: Feeds, name: str) -> np.ndarray | None:
    """Return an output computed in float64, None if the reference does not know an operator."""
    try:
        return evaluate(model, dict(feeds), [name], seconds=30)[name]
    except NoReference:
        return None


def resized(case: Case, seed: int) -> Feeds | None:
    """Return inputs of other extents where the model leaves them free, None if it fixes all."""
    random = np.random.default_rng(seed)
    chosen: dict[Any, int] = {}
    made, changed = {}, False
    for value in case.model.graph.input:
        if value.name not in case.feeds:
            continue
        array, shape = case.feeds[value.name], []
        dims = value.type.tensor_type.shape.dim
        for dim, extent in zip(dims, array.shape, strict=True):
            key = extent if not dim.HasField("dim_param") else dim.dim_param
            free = not dim.HasField("dim_value")
            shape.append(chosen.setdefault(key, int(random.integers(1, 12))) if free else extent)
        changed |= tuple(shape) != array.shape
        made[value.name] = np.resize(array, shape)
    return made if changed else None


def settings(seed: int) -> list[dict[str, Any]]:
    """Return the ways in which a seed's model is optimized."""
    ways = [{"policy": "all"}]
    if seed % 4 == 1:
        ways.append({})
    if seed % 6 == 2:
        ways.append({"policy": "all", "strict": True})
    if seed % 9 == 5:
        ways.append({"policy": "all", "fallback": False})
    return ways


def optimized(model: onnx.ModelProto, way: dict[str, Any], by_file: bool) -> onnx.ModelProto:
    """Return the optimized model, made by way of files if asked."""
    if not by_file:
        return onnx_fusion.optimize(model, **way)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        source.write_bytes(model.SerializeToString())
        onnx_fusion.optimize_file(source, target, **way)
        return onnx.load(target)


def check(seed: int) -> tuple[str, list[str]]:
    """Return what a seed's model is, and what is wrong with it optimized."""
    case = make(seed)
    model, feeds = case.model, case.feeds
    try:
        wanted = run(model, feeds)
        run(model, feeds, True)
    except Exception as error:
        raise Rejected(str(error)) from None
    ours(seed)
    wrong = []
    given = [(feeds, wanted)]
    other = resized(case, seed)
    if other is not None:
        try:
            run(model, other, True)  # optimized, it may never meet what does not fit
            given.append((other, run(model, other)))
        except Exception:  # the model wants the extents that it was grown with
            other = None
    for way in settings(seed):
        text = ", ".join(f"{k}={v}" for k, v in way.items()) or "default"
        try:
            made = optimized(model, way, seed % 5 == 0)
        except Exception as error:
            wrong.append(f"{text}: {type(error).__name__}: {line(error)}")
            continue
        regions = sum(node.domain == "onnx_fusion" for node in made.graph.node)
        runs = [(True, seed % 3 + 1)] + [(False, 1)] * (way.get("fallback", True) and seed % 3 == 0)
        for library, threads in runs:
            where = f"{text}, {regions} regions, {'library' if library else 'portable'}, {threads}"
            try:
                fused = session(made, library=library, threads=threads)
                for one, right in given:
                    taken = {value.name for value in fused.get_inputs()}
                    got = fused.run(None, {n: a for n, a in one.items() if n in taken})
                    why = compare(model, one, right, got)
                    if why:
                        which = "" if one is feeds else "other extents, "
                        wrong.append(f"{where}: {which}{why}")
            except Exception as error:
                wrong.append(f"{where}: {type(error).__name__}: {line(error)}")
    return case.about, wrong


def save(seed: int, folder: Path) -> None:
    """Write a seed's model and its inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    case = make(seed)
    (folder / f"{seed}.onnx").write_bytes(case.model.SerializeToString())
    np.savez(folder / f"{seed}.npz", **{f"in_{n}": a for n, a in case.feeds.items()})


if __name__ == "__main__":
    sys.exit(drive(__doc__, __file__, check, save))
