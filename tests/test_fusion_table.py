"""The mapping table against the paper: 23 rules, two red cells, types as printed in its Table 3."""

import collections

from onnx_fusion.fusion.table import Verdict, look_up
from onnx_fusion.ops.mapping import MappingType as M

TYPES = [M.ONE_TO_ONE, M.ONE_TO_MANY, M.MANY_TO_MANY, M.REORGANIZE, M.SHUFFLE]


def test_the_paper_counts_23_rules_and_two_red_cells():
    verdicts = collections.Counter(look_up(a, b)[0] for a in TYPES for b in TYPES)
    assert verdicts == {Verdict.GREEN: 13, Verdict.YELLOW: 10, Verdict.RED: 2}


def test_red_cells_are_what_multiplies_work():
    red = {(a, b) for a in TYPES for b in TYPES if look_up(a, b)[0] is Verdict.RED}
    assert red == {(M.ONE_TO_MANY, M.MANY_TO_MANY), (M.MANY_TO_MANY, M.MANY_TO_MANY)}


def test_one_to_one_takes_the_other_operators_type():
    for other in TYPES:
        assert look_up(M.ONE_TO_ONE, other) == (Verdict.GREEN, other)
        assert look_up(other, M.ONE_TO_ONE) == (Verdict.GREEN, other)


def test_many_to_many_decides_the_fused_type():
    for other in (M.ONE_TO_ONE, M.ONE_TO_MANY, M.REORGANIZE, M.SHUFFLE):
        assert look_up(M.MANY_TO_MANY, other)[1] is M.MANY_TO_MANY


def test_reorganize_and_shuffle_stay_between_themselves():
    assert look_up(M.SHUFFLE, M.SHUFFLE) == (Verdict.GREEN, M.SHUFFLE)
    assert look_up(M.SHUFFLE, M.REORGANIZE) == (Verdict.GREEN, M.REORGANIZE)
    assert look_up(M.REORGANIZE, M.SHUFFLE) == (Verdict.GREEN, M.REORGANIZE)
