"""A library's cpuid, made to answer as a processor without AVX-512 would."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from hide_avx512 import hide  # noqa: E402

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="cpuid is x86's")

# Leaf 7, as a library would ask: four registers one after the other.
ASKING = """
#include <cpuid.h>
void ask(unsigned* r) { __cpuid_count(7, 0, r[0], r[1], r[2], r[3]); }
"""
ANSWER = "import sys, ctypes; r = (ctypes.c_uint * 4)(); ctypes.CDLL(sys.argv[1]).ask(r); print(*r)"

AVX512_OF_B = sum(1 << bit for bit in (16, 17, 21, 26, 27, 28, 30, 31))
AVX512_OF_C = sum(1 << bit for bit in (1, 6, 11, 12, 14))
TILES_OF_D = sum(1 << bit for bit in (2, 3, 8, 22, 23, 24, 25))


def built(source: Path, to: Path) -> Path:
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(to)], check=True)
    return to


def answered(library: Path, **environment) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(library)],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_only_the_bits_of_avx512_are_hidden(tmp_path):
    (tmp_path / "asking.c").write_text(ASKING)
    library = built(tmp_path / "asking.c", tmp_path / "asking.so")
    answers = built(SCRIPTS / "hide_avx512.c", tmp_path / "answers.so")
    before = answered(library)
    assert hide(library) == 1
    after = answered(library, LD_PRELOAD=str(answers))
    a, b, c, d = before
    assert after == [a, b & ~AVX512_OF_B, c & ~AVX512_OF_C, d & ~TILES_OF_D]


def test_what_is_hidden_needs_the_answers(tmp_path):
    (tmp_path / "asking.c").write_text(ASKING)
    library = built(tmp_path / "asking.c", tmp_path / "asking.so")
    hide(library)
    with pytest.raises(AssertionError):
        answered(library)
