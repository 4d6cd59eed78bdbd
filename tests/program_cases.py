"""Tile programs of every form a machine runs, with makers of their inputs.

The interpreter's tests compare many with NumPy; the native library's compare all of them with the
interpreter, on every ISA the machine has.
"""

from program_case_kit import Case
from program_cases_contraction import contractions
from program_cases_mix import mixes
from program_cases_pointwise import pointwise
from program_cases_rows import rows

CASES: list[Case] = [*pointwise(), *mixes(), *rows(), *contractions()]
