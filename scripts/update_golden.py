"""Write tests/golden anew (plans and programs of models/, CUDA texts) and show what changed.

usage: python scripts/update_golden.py [--check]
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from onnx_fusion.api import plan_programs
from onnx_fusion.graph.names import all_names

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"


def describe(path: Path) -> str:
    """Return a model's plan and programs under the policy `all`, as text."""
    planned = plan_programs(path, policy="all")
    lines = []
    for lowered in planned.lowered:
        region = lowered.region
        lines.append(f"{region.name}: {region.mapping_type.value}, template {region.template}")
        lines.append("nodes " + ", ".join(all_names(region.nodes, planned.model.proto)))
        lines.append(lowered.program)
    lines += [f"{r.producer} | {r.consumer}: {r.reason}" for r in planned.plan.refusals]
    return "\n".join(lines) + "\n"


def cuda_texts() -> dict[str, str]:
    """Return the first text of each CUDA schedule, by schedule."""
    sys.path.insert(0, str(ROOT / "tests"))
    import cuda_emulator
    from cuda_programs import BY_SCHEDULE

    found = {}
    for name, p in BY_SCHEDULE.items():
        plan = cuda_emulator.plan(p.text, p.inputs, p.device)
        launch = plan.launches[p.schedules.index(name)]
        found[name] = plan.sources[launch["source"]]["unit"]
    return found


def files() -> dict[Path, str]:
    """Return what each golden file should hold."""
    found = {
        GOLDEN / f"{path.stem}.txt": describe(path) for path in (ROOT / "models").glob("*.onnx")
    }
    found |= {GOLDEN / "cuda" / f"{name}.cu": text for name, text in cuda_texts().items()}
    return dict(sorted(found.items()))


def main() -> int:
    """Rewrite the files, or with --check only say whether they would change; return the exit
    code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    args = parser.parse_args()
    (GOLDEN / "cuda").mkdir(parents=True, exist_ok=True)
    changed = False
    for file, new in files().items():
        old = file.read_text() if file.exists() else ""
        changed |= old != new
        sys.stdout.writelines(
            difflib.unified_diff(
                old.splitlines(True), new.splitlines(True), str(file.name), str(file.name)
            )
        )
        if not args.check:
            file.write_text(new)
    return int(args.check and changed)


if __name__ == "__main__":
    raise SystemExit(main())
