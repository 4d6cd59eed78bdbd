"""Plans and tile programs of models/ as they were agreed; scripts/update_golden.py rewrites
them."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location(
    "update_golden", ROOT / "scripts" / "update_golden.py"
)
update_golden = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(update_golden)


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.onnx")), ids=lambda p: p.stem)
def test_plans_and_programs_are_as_agreed(path):
    agreed = (update_golden.GOLDEN / f"{path.stem}.txt").read_text()
    assert update_golden.describe(path) == agreed, "run scripts/update_golden.py and read its diff"


def test_texts_of_cuda_schedules_are_as_agreed():
    agreed = {path.stem: path.read_text() for path in (update_golden.GOLDEN / "cuda").glob("*.cu")}
    assert update_golden.cuda_texts() == agreed, "run scripts/update_golden.py and read its diff"
