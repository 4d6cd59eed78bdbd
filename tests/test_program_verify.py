"""The static rules of programs: one broken program per rule, and each limit at its edge."""

from __future__ import annotations

import dataclasses

import pytest

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ProgramError
from onnx_fusion.program import (
    Apply,
    Cond,
    Const,
    Input,
    Load,
    Program,
    Reduce,
    Ref,
    Select,
    Stage,
    Store,
    Tensor,
    const,
    dim,
    letter,
    parse_program,
    print_program,
    verify,
)
from onnx_fusion.program.instructions import INSTRUCTIONS, REDUCTIONS, result_type
from onnx_fusion.program.verify import affine, value_letters, value_types

BASE = """tile_program 1
input x f32[N, 8] row
input k i64[N] row
input c bool[N] row
temp t f32[N, 8] row
output y f32[N, 8] row
stage i: N, j: 8
%0 = load x (i, j)
%1 = load k (i)
%2 = load c (i)
%3 = exp %0
store t (i, j) %3
stage i: N, j: 8
%0 = load t (i, j)
store y (i, j) %0
"""


def swap(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new, 1)


def test_base_is_good():
    assert print_program(parse_program(BASE)) == BASE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (swap("input k", "input x f32[] row\ninput k"), "line 3: tensor 'x' is defined twice"),
        (swap("output y", "output t f32[] row\noutput y"), "line 6: tensor 't' is defined twice"),
        (swap("temp t", "dim N = 3\ntemp t"), "line 5: dim 'N' is defined twice"),
        (swap("temp t", "dim M = Q\ntemp t"), "line 5: dim 'Q' is not defined yet"),
        (swap("temp t", "dim M = i\ntemp t"), "line 5: 'i' has letters where only dims may stand"),
        (swap("temp t", "dim M = 2 // N\ndim M = 3\ntemp t"), "line 6: dim 'M' is defined twice"),
        (swap("output y f32[N", "output y f32[M"), "line 6: dim 'M' is not defined yet"),
        (swap("[N] row\ninput c", "[N] row as (N)\ninput c"), r"line 3: 'as' needs rank 0"),
        (swap("[N] row\ninput c", "[N] row as (A)\ninput c"), r"line 3: 'as' needs rank 0"),
        (swap("[N] row\ninput c", "[2] row as (A)\ninput c"), r"line 3: 'as' needs rank 0"),
        (swap("[N] row\ninput c", "[] row as (A, B)\ninput c"), r"line 3: 'as' needs rank 0"),
        (swap("bool[N] row", "bool[1] row as (A)"), "line 4: 'as' needs an i64 or i32 tensor"),
        (swap("i: N, j: 8", "i: N, i: 8"), "line 7: letter 'i' is defined twice"),
        (swap("i: N, j: 8", "i: j, j: 8"), "line 7: 'j' has letters where only dims may stand"),
        (swap("i: N, j: 8", "i: M, j: 8"), "line 7: dim 'M' is not defined yet"),
        (swap("load x (i, j)", "load z (i, j)"), "line 8: unknown tensor 'z'"),
        (swap("load x (i, j)", "load x (i)"), "line 8: 1 indices for tensor 'x' of rank 2"),
        (swap("load x (i, j)", "load x (i, m)"), "line 8: letter 'm' is not one of the stage's"),
        (swap("load x (i, j)", "load x (i, 8 // (j + 1))"), "line 8: a divisor has letters"),
        (swap("load x (i, j)", "load x (i, 8 % (j - j))"), "line 8: a divisor has letters"),
        (swap("load x (i, j)", "load x (%0, j)"), "line 8: %0 is not defined yet"),
        (swap("%3 = exp %0", "%3 = load x (%0, j)"), "line 11: an indirect index is neither i64"),
        (swap("%3 = exp %0", "%3 = load x (%2, j)"), "line 11: an indirect index is neither i64"),
        (swap("%3 = exp %0", "%3 = exp %3"), "line 11: %3 is not defined yet"),
        (swap("%3 = exp %0", "%3 = exp %1"), "line 11: exp does not exist for i64"),
        (swap("%3 = exp %0", "%3 = add %0 %1"), "line 11: add does not exist for f32, i64"),
        (swap("%3 = exp %0", "%3 = add %2 %2"), "line 11: add does not exist for bool, bool"),
        (swap("%3 = exp %0", "%3 = and %0 %0"), "line 11: and does not exist for f32, f32"),
        (swap("%3 = exp %0", "%3 = where %0 %0 %0"), "line 11: where does not exist for f32, f32"),
        (swap("%3 = exp %0", "%3 = where %2 %0 %1"), "line 11: where does not exist for bool, f32"),
        (swap("%3 = exp %0", "%3 = select (i < 2) %0 %1"), "line 11: the operands are f32 and i64"),
        (swap("%3 = exp %0", "%3 = select (k < 2) %0 %0"), "line 11: letter 'k' is not one of"),
        (
            swap("%3 = exp %0", "%3 = reduce_max %2 over i"),
            "line 11: reduce_max does not exist for",
        ),
        (swap("%3 = exp %0", "%3 = reduce_max %0 over k"), "line 11: no operand depends on letter"),
        (swap("%3 = exp %0", "%3 = reduce_max %1 over j"), "line 11: no operand depends on letter"),
        (swap("%3 = exp %0", "%3 = reduce_max %0 over j, j"), "line 11: a letter is named twice"),
        (swap("%3 = exp %0", "%3 = dot %0 %1 over i"), "line 11: dot needs f32"),
        (swap("%3 = exp %0", "%3 = dot %0 %0 over k"), "line 11: no operand depends on letter 'k'"),
        (swap("%3 = exp %0", "%3 = load t (i, j)"), "line 11: tensor 't' is not stored by an earl"),
        (swap("%3 = exp %0", "%3 = load y (i, j)"), "line 11: tensor 'y' is not stored by an earl"),
        (swap("store t (i, j) %3", "store x (i, j) %3"), "line 12: input 'x' cannot be stored"),
        (
            swap("store t (i, j) %3", "store t (i, j) %1"),
            "line 12: the value is i64, the tensor f32",
        ),
        (swap("store t (i, j) %3", "store t (i, 0) %3"), "line 12: the map lacks letter 'j'"),
        (swap("store t (i, j) %3", "store t (i, i) %3"), "line 12: letter 'i' occurs twice"),
        (swap("store t (i, j) %3", "store t (i, j + j) %3"), "line 12: letter 'j' occurs twice"),
        (swap("store t (i, j) %3", "store t (i, j * i) %3"), r"line 12: 'j \* i' is not a sum"),
        (swap("store t (i, j) %3", "store t (i, 7 - j) %3"), "line 12: '7 - j' is not a sum"),
        (swap("store t (i, j) %3", "store t (i, -j) %3"), "line 12: '-j' is not a sum"),
        (swap("store t (i, j) %3", "store t (i, j // 1) %3"), "line 12: 'j // 1' is not a sum"),
        (swap("store t (i, j) %3", "store t (i, 2 * j * 4) %3"), r"line 12: '2 \* j \* 4' is not"),
        (swap("store t (i, j) %3", "store t (i, (j + 1) * 2) %3"), "line 12: .* is not a sum"),
        (swap("store t (i, j) %3", "store t (%1, j) %3"), "line 12: expected a number, a dim or"),
        (swap("store t (i, j) %3\n", ""), "line 7: the stage on line 7 has no store"),
        (swap("store y", "store t"), "line 15: tensor 't' was loaded before"),
        (
            swap("store y (i, j) %0\n", "store y (i, j) %0\nstage\n"),
            "line 16: the stage on line 16",
        ),
        (
            swap("output y f32[N, 8] row", "output y f32[N, 8] row\noutput z f32[] row"),
            "line 16: ten",
        ),
    ],
)
def test_refused(text, message):
    with pytest.raises(ProgramError, match=f"^{message}"):
        parse_program(text)


@pytest.mark.parametrize(
    "line",
    [
        "store t (i, j + 0) %3",
        "store t (i, 0 + (j * 1 + 0)) %3",
        "store t (N - N + i, 3 - (4 - 1) + 1 * j) %3",
        "store t (i, (2 - 1) * j - (8 - 8)) %3",
    ],
)
def test_affine_store_maps(line):
    parse_program(swap("store t (i, j) %3", line))


def test_affine_terms():
    n, i, j = dim("N"), letter("i"), letter("j")
    terms = affine(((n - 1) * i + 4 * j - n + 3).tree)
    assert {name for name, _ in terms} == {"i", "j", None}
    assert affine((i * j).tree) is None


def lines(many: int, make) -> str:
    return "".join(make(k) + "\n" for k in range(many))


def sized(
    inputs=1, dims=0, temps=0, outputs=1, stages=1, letters=1, body=2, rank=1, binds=0
) -> str:
    """Return a program that has so many of everything."""
    shape = ", ".join(["1"] * rank)
    zeros = ", ".join(["0"] * rank)
    names = ", ".join(f"B{k}" for k in range(binds))
    text = "tile_program 1\n" + lines(inputs, lambda k: f"input x{k} f32[{shape}] row")
    text += f"input s i64[{binds}] row as ({names})\n" if binds else ""
    text += lines(dims, lambda k: f"dim D{k} = {k}")
    text += lines(temps, lambda k: f"temp t{k} f32[{shape}] row")
    text += lines(outputs, lambda k: f"output y{k} f32[{shape}] row")
    stored = [f"t{k}" for k in range(temps)] + [f"y{k}" for k in range(outputs)]
    for k in range(stages):
        text += "stage " + ", ".join(f"l{n}: 1" for n in range(letters)) + "\n"
        own = stored[k::stages] if k < len(stored) else ["y0"]
        text += lines(body - len(own), lambda _: f"@ = load x0 ({zeros})")
        text += lines(len(own), lambda n, own=own: f"store {own[n]} ({zeros}) %0")
    parts, k = [], 0
    for line in text.split("\n"):
        if line.startswith("stage"):
            k = 0
        if line.startswith("@"):
            line, k = f"%{k}{line[1:]}", k + 1
        parts.append(line)
    return "\n".join(parts)


@pytest.mark.parametrize(
    ("what", "limit", "message"),
    [
        ("inputs", 256, "over 256 inputs"),
        ("dims", 128, "over 128 dims"),
        ("temps", 256, "over 256 temps"),
        ("outputs", 64, "over 64 outputs"),
        ("stages", 256, "over 256 stages"),
        ("letters", 16, "over 16 letters in a stage"),
        ("body", 2048, "over 2048 lines in a stage"),
        ("rank", 16, "over 16 dims"),
        ("binds", 16, "over 16 names after 'as'"),
    ],
)
def test_limits(what, limit, message):
    base = {"body": 400} if what in ("temps", "outputs") else {}
    parse_program(sized(**{**base, what: limit}))
    with pytest.raises(ProgramError, match=message):
        parse_program(sized(**{**base, what: limit + 1}))


def test_dims_of_shapes_and_data_count():
    text = sized(dims=127, binds=1)
    parse_program(text)
    with pytest.raises(ProgramError, match="over 128 dims"):
        parse_program(text.replace("f32[1]", "f32[M]", 1))


def test_programs_that_are_built_are_checked_too():
    i, n = letter("i"), dim("N")
    x, y = Input("x", DType.F32, (n,)), Tensor("y", DType.F32, (n,))
    stage = Stage((("i", n),), (Load("x", (i,)), Apply("exp", (Ref(0),)), Store("y", (i,), Ref(1))))
    program = Program(False, (x,), (), (), (y,), (stage,))
    verify(program)
    assert parse_program(print_program(program)) == program
    body = stage.body
    for bad, message in [
        ((Apply("pow", (Ref(0),)), body[2]), "%0 is not defined yet"),
        ((body[0], Apply("pow", (Ref(0),)), body[2]), "pow takes 2 values"),
        ((body[0], Apply("pwo", (Ref(0),)), body[2]), "unknown instruction 'pwo'"),
        ((body[0], Reduce("sum", Ref(0), ("i",)), body[2]), "'sum' is not a reduction"),
        ((body[0], Reduce("reduce_sum", Ref(0), ()), body[2]), "a reduction names no letter"),
        ((body[0], Select((), Ref(0), Ref(0)), body[2]), "select has no condition"),
        ((body[0], Select((Cond(i, ">", n),), Ref(0), Ref(0)), body[2]), "'>' is not a comparison"),
        ((Const(DType.F32, 1), Apply("exp", (Ref(-1),)), body[2]), "%-1 is not defined yet"),
        ((Load("x", (i + const(2**41),)), body[1], body[2]), None),
    ]:
        broken = dataclasses.replace(program, stages=(Stage(stage.letters, bad),))
        if message is None:
            verify(broken)
            assert parse_program(print_program(broken)) == broken
        else:
            with pytest.raises(ProgramError, match=f"line [0-9]+: {message}"):
                verify(broken)
    with pytest.raises(OverflowError):
        Const(DType.U8, 256)
    with pytest.raises(ProgramError, match="'X' is not a tensor's name"):
        verify(dataclasses.replace(program, inputs=(dataclasses.replace(x, name="X"),)))
    with pytest.raises(ProgramError, match="'300' is not a literal of i8"):
        small = dataclasses.replace(x, dtype=DType.I8)
        fill = Stage(stage.letters, (Load("x", (i,), 300), *body[1:]))
        verify(dataclasses.replace(program, inputs=(small,), stages=(fill,)))


def test_types_and_letters_of_values():
    program = parse_program(BASE)
    types = {t.name: t.dtype for t in program.tensors()}
    assert value_types(program.stages[0], types) == [DType.F32, DType.I64, DType.BOOL, DType.F32]
    assert value_letters(program.stages[0]) == [{"i", "j"}, {"i"}, {"i"}, {"i", "j"}]


def test_every_instruction_states_its_types():
    for name, row in INSTRUCTIONS.items():
        for dtype in DType:
            args = (dtype,) * row.arity
            if name == "where":
                args = (DType.BOOL, dtype, dtype)
            expected = DType.BOOL if row.to_bool else dtype
            assert result_type(name, args) is (expected if dtype in row.types else None)
        assert result_type(name, args[:-1]) is None
    assert result_type("nothing", (DType.F32,)) is None
    assert set(REDUCTIONS) == {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"}
