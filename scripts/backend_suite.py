"""Run ONNX's own backend suite through `optimize --policy all`, with the library and without.

    python scripts/backend_suite.py [--filter REGEX] [--jobs N] [--json FILE]

Every case that plain ONNX Runtime passes must pass after optimizing. Expected outputs and
tolerances are the suite's. Cases below opset 7, the oldest that is optimized, are first raised by
onnx.version_converter, for plain ONNX Runtime too. Each case runs in a worker process; a crash or a
hang is that case's result. Exits with 1 if a case that plain ONNX Runtime passes does not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, version_converter
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
OLDEST, RAISED = 7, (7, 9, 13)
SECONDS = 120
UNKNOWN = ("Unsupported model IR version", "is under development", "official released onnx opset")


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of one case; each of the three runs is `passed` or says why not."""

    name: str
    raised: bool = False
    plain: str = "not run"
    library: str = "not run"
    portable: str = "not run"
    regions: int = 0

    @property
    def refused(self) -> bool:
        """Whether plain ONNX Runtime does not know the IR version or opset."""
        return any(text in self.plain for text in UNKNOWN)

    @property
    def counted(self) -> bool:
        """Whether plain ONNX Runtime passes, so that the other runs must."""
        return self.plain == "passed"


def cases(pattern: str) -> list[TestCase]:
    """Return the suite's cases whose name contains the pattern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    return [case for case in every if re.search(pattern, case.name)]


def load(case: TestCase) -> tuple[onnx.ModelProto, Iterator[tuple[list[Any], list[Any]]]]:
    """Return a case's model, and its inputs with the outputs expected."""
    if case.model is not None:
        return case.model, iter(case.data_sets or ())
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    return model, (
        (read(data, "input", model.graph.input), read(data, "output", model.graph.output))
        for data in sorted(folder.glob("test_data_set_*"))
    )


def read(folder: Path, kind: str, values: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    """Return the arrays, or sequences, in `<kind>_<i>.pb` of a folder."""
    found = []
    for index in range(len(list(folder.glob(f"{kind}_*.pb")))):
        data = (folder / f"{kind}_{index}.pb").read_bytes()
        which = values[index].type.WhichOneof("value")
        if which == "sequence_type":
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif which == "optional_type":
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return found


def raise_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """Return the model at an opset that is optimized, if it has to be raised and can be."""
    opset = next((entry.version for entry in model.opset_import if not entry.domain), OLDEST)
    if opset >= OLDEST:
        return model, False
    for target in RAISED:
        try:
            return version_converter.convert_version(model, target), True
        except Exception:  # the converter knows not every operator at every version
            continue
    return model, False


def run(case: TestCase) -> Outcome:
    """Return what becomes of one case in this process."""
    import onnx_fusion
    from onnx_fusion.runtime.surgery import fused_nodes

    model, data = load(case)
    model, raised = raise_opset(model)
    outcome = Outcome(case.name, raised)
    sets = list(data)
    outcome.plain = attempt(case, model, sets, library=False)
    if not outcome.counted:
        return outcome
    try:
        made = onnx_fusion.optimize(model, policy="all")
    except Exception as error:
        outcome.library = outcome.portable = f"optimize: {line(error)}"
        return outcome
    outcome.regions = len(fused_nodes(made))
    outcome.library = attempt(case, made, sets, library=True)
    outcome.portable = attempt(case, made, sets, library=False)
    return outcome


def attempt(case: TestCase, model: onnx.ModelProto, sets: Sequence[tuple], *, library: bool) -> str:
    """Return `passed`, or why the model does not give what the suite expects."""
    import onnxruntime

    from onnx_fusion.runtime.session import session

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        made = session(model, library=library, threads=1, options=options)
        names = [value.name for value in made.get_inputs()]
        for inputs, expected in sets:
            given = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
            feeds = {name: feed(given[name]) for name in names if name in given}
            Runner.assert_similar_outputs(
                expected, made.run(None, feeds), rtol=case.rtol, atol=case.atol
            )
    except Exception as error:
        return line(error)
    return "passed"


def feed(value: Any) -> Any:
    """Return an input as ONNX Runtime takes it: the suite's scalars are not arrays."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def line(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:1500]}"


def work(every: Sequence[TestCase], pipe: multiprocessing.connection.Connection) -> None:
    """Run the cases whose numbers come through the pipe, until None does."""
    warnings.simplefilter("ignore")
    for index in iter(pipe.recv, None):
        try:
            pipe.send(run(every[index]))
        except Exception as error:
            pipe.send(Outcome(every[index].name, plain=f"cannot be read: {line(error)}"))


class Worker:
    """A process, the case it is at, and since when."""

    def __init__(self, every: Sequence[TestCase]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(every, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.index: int | None = None
        self.since = 0.0

    def give(self, index: int) -> None:
        """Start a case."""
        self.index, self.since = index, time.monotonic()
        self.pipe.send(index)

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_all(every: Sequence[TestCase], jobs: int) -> list[Outcome]:
    """Return every case's outcome, in order; a worker that dies or hangs costs its case only."""
    todo = iter(range(len(every)))
    done: dict[int, Outcome] = {}
    workers: list[Worker] = []
    for index in todo:
        workers.append(Worker(every))
        workers[-1].give(index)
        if len(workers) == jobs:
            break
    while len(done) < len(every):
        multiprocessing.connection.wait([worker.pipe for worker in workers], timeout=1)
        for place, worker in enumerate(list(workers)):
            if worker.index is None:
                continue
            outcome = answer(worker, every)
            if outcome is None:
                continue
            done[worker.index] = outcome
            worker.index = None
            if not worker.process.is_alive():
                worker.end()
                workers[place] = worker = Worker(every)
            following = next(todo, None)
            if following is not None:
                worker.give(following)
        talk(len(done), len(every))
    for worker in workers:
        worker.end()
    return [done[index] for index in range(len(every))]


def answer(worker: Worker, every: Sequence[TestCase]) -> Outcome | None:
    """Return the outcome of a worker's case, None while it is at it."""
    name = every[worker.index].name
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
    except EOFError:
        worker.process.join()
        why = f"crashed with {worker.process.exitcode}"
    else:
        if time.monotonic() - worker.since < SECONDS:
            return None
        worker.process.kill()
        worker.process.join()
        why = f"took more than {SECONDS} s"
    plain = plain_alone(every[worker.index])
    return Outcome(name, plain=plain, library=why, portable=why)


def plain_alone(case: TestCase) -> str:
    """Return whether plain ONNX Runtime, in a new process, passes a case that ended a worker."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def body() -> None:
        model, data = load(case)
        theirs.send(attempt(case, raise_opset(model)[0], list(data), library=False))

    process = context.Process(target=body, daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else "hangs"
    except EOFError:
        return "crashes"
    finally:
        process.kill()


def talk(done: int, total: int) -> None:
    """Show how far it is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{done} of {total}", end="", file=sys.stderr, flush=True)


def summarize(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return the counts."""
    counted = [outcome for outcome in outcomes if outcome.counted]
    return {
        "cases": len(outcomes),
        "raised to opset 7 or above": sum(outcome.raised for outcome in outcomes),
        "passed by plain ONNX Runtime": len(counted),
        "refused by plain ONNX Runtime for IR or opset": sum(o.refused for o in outcomes),
        "failed by plain ONNX Runtime otherwise": sum(
            not (o.counted or o.refused) for o in outcomes
        ),
        "passed after optimize, with the library": sum(o.library == "passed" for o in counted),
        "passed after optimize, without": sum(o.portable == "passed" for o in counted),
        "with a region": sum(outcome.regions > 0 for outcome in counted),
    }


def main() -> int:
    """Run the suite, print counts to stdout and what differs to stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="", metavar="REGEX", help="only cases that match")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--json", metavar="FILE", help="write every case's outcome")
    args = parser.parse_args()
    outcomes = run_all(cases(args.filter), max(1, args.jobs))
    talk(len(outcomes), len(outcomes))
    counts = summarize(outcomes)
    for name, count in counts.items():
        print(f"{name:<48}{count:>6}")
    bad = [o for o in outcomes if o.counted and {o.library, o.portable} != {"passed"}]
    for outcome in bad:
        print(f"{outcome.name}: library {outcome.library[:200]}; without {outcome.portable[:200]}")
    if args.json:
        told = {"counts": counts, "cases": [dataclasses.asdict(o) for o in outcomes]}
        Path(args.json).write_text(json.dumps(told, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
