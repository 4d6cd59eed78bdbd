"""A stage of a tile program while lowering writes it, from the lazy tensors it reads.

An ONNX value inside a region is a `Tensor` (ops/tensor.py): not data, but a rule that, for an
index, writes the instructions of the element there. Reading a value through a chain of movement
operators composes index maps; reading it through element-wise operators appends instructions; so a
whole region collapses into one stage by reading its last value at the stage's letters.

    store y (i, j)  <-  Relu.at(i, j)  <-  Transpose.at(i, j)  <-  load x (j, i)

Not everything may collapse. A rule raises `NeedsTemp(tensor)` when that tensor had better be stored
first; lowering then gives it a stage of its own and starts again.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Hashable, Mapping, Sequence

from onnx_fusion.dtypes import HALVES, DType
from onnx_fusion.ops.axes import Axes
from onnx_fusion.ops.index import letters_in, linear
from onnx_fusion.ops.tensor import ANY, Cut, Guard, Index, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program import model as tp
from onnx_fusion.program.model import literal


@dataclasses.dataclass(frozen=True, slots=True)
class _Value:
    """A value of the stage: what computes it, and facts of all it is made of; see `Stage`."""

    instruction: tp.Instruction
    dtype: DType
    letters: frozenset[str]
    contracted: bool
    looked_up: bool
    summed: frozenset[Tensor]


class Stage(Axes):
    """Letters and instructions under construction.

    `stored` names the tensors that memory holds already. `absorb` names the region's outputs that
    this stage may store on the way. `ranges` are the parts of the root's axes that are stored here,
    by axis, where not all is; None if the root must not be cut. After `build`, `unclean` lists
    tensors that were read through maps that repeat work, `partly` those stored on the way in parts,
    and `memo` has a key (tensor, index, guard) for each element that was read. `choices` counts
    `select`s.
    """

    def __init__(
        self,
        stored: Mapping[Tensor, str],
        splits: Mapping[Hashable, tuple[ex.Expr, ...]],
        absorb: Mapping[Tensor, str],
        root: Tensor,
        ranges: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(splits)
        self.stored = stored
        self.ranges = ranges
        self.partly: set[Tensor] = set()
        self.absorb = absorb
        self.root = root
        self.body: list[tp.Instruction | tp.Store] = []
        self.absorbed: dict[Tensor, tuple[Index, ...]] = {}
        self.unclean: list[Tensor] = []
        self.reductions: list[tuple[Tensor, frozenset[str], frozenset[str]]] = []
        self.dots: list[tuple[Tensor, frozenset[str], frozenset[str]]] = []
        self.maps: list[ex.Expr] = []
        self.memo: dict[tuple, tp.Ref] = {}
        self.choices = 0
        self._cse: dict[tp.Instruction, tp.Ref] = {}
        self._values: list[_Value] = []

    def root_axis(self, axis: int) -> ex.Expr:
        """Return the index that runs over an axis of the root, or over the range of it."""
        whole = self.root.shape[axis]
        begin, end = (self.ranges or {}).get(axis, (0, None))
        extent = whole if end is None else ex.const(end - begin)
        return self.axis(axis, extent)[0] + begin

    def piece(self, index: ex.Expr, borders: Sequence[ex.Expr]) -> int | None:
        """Return between which of `borders` all of the index lies, None if that is not known.

        Raises Cut if it would be known for parts of an axis of the root.
        """
        bounds = [ex.as_int(border) for border in borders]
        found = self.span(index)
        if found is None or self.ranges is None or any(bound is None for bound in bounds):
            return None
        axis, low, high = found
        inside = [bound for bound in bounds if low < bound < high]
        if inside:
            first = self.ranges.get(axis, (0, 0))[0]
            raise Cut(axis, tuple(bound - low + first for bound in inside))
        return min(bisect.bisect_right(bounds, low), len(bounds) - 1) - 1

    def read(self, tensor: Tensor, index: tuple[Index, ...], guard: Guard) -> tp.Ref:
        """Write `tensor`'s element at `index`; see `Tensor`."""
        key = (tensor, index, guard)
        ref = self.memo.get(key)
        if ref is not None:
            return ref
        name = self.stored.get(tensor)
        if name is not None:
            ref = self.load(name, tensor.dtype, index, guard)
        else:
            ref = tensor.read(self, index, guard)
            if tensor is not self.root and tensor in self.absorb:
                self._store_on_the_way(tensor, index, guard, ref)
        self.memo[key] = ref
        return ref

    def _store_on_the_way(
        self, tensor: Tensor, index: tuple[Index, ...], guard: Guard, ref: tp.Ref
    ) -> None:
        if (
            guard is not None
            or tensor in self.absorbed
            or not (self.covers(index, tensor.shape) or self._covers_part(tensor, index))
            or not self.letters_of(ref) <= letters_in(index)
        ):
            self.unclean.append(tensor)
        else:
            self.absorbed[tensor] = index
            self.store(self.absorb[tensor], index, ref)

    def _covers_part(self, tensor: Tensor, index: tuple[Index, ...]) -> bool:
        """Return whether `index` runs over the same part of `tensor` as of the root, once."""
        own = [self.span(e) if isinstance(e, ex.Expr) else None for e in index]
        at = {
            axis: k
            for k, (axis, *run) in enumerate(s or (-1, 0, 0) for s in own)
            if tuple(run) == (self.ranges or {}).get(axis)
        }
        if not self.ranges or at.keys() != self.ranges.keys():
            return False
        if any(tensor.shape[k] != self.root.shape[axis] for axis, k in at.items()):
            return False
        shape, moved = list(tensor.shape), list(index)
        for axis, k in at.items():
            begin, end = self.ranges[axis]
            shape[k], moved[k] = ex.const(end - begin), index[k] - begin
        if self.covers(tuple(moved), tuple(shape)):
            self.partly.add(tensor)
            return True
        return False

    def check_affine(self, tensor: Tensor, index: tuple[Index, ...]) -> None:
        """Note `tensor` as unclean if reading it at `index` computes an element more than once."""
        seen: set[str] = set()
        for entry in index:
            terms = None if isinstance(entry, tp.Ref) else linear(entry)
            if not isinstance(entry, tp.Ref):
                self.maps.append(entry)
            if terms is None or seen.intersection(terms[1]):
                if tensor is not self.root:
                    self.unclean.append(tensor)
                return
            seen.update(terms[1])

    def load(
        self, name: str, dtype: DType, index: tuple[Index, ...], guard: Guard = None
    ) -> tp.Ref:
        """Write a load; under the guard ANY what lies outside reads as zero."""
        fill = None if guard is None else (literal(dtype, 0) if guard == ANY else guard)
        index = tuple(self.simplify(e) if isinstance(e, ex.Expr) else e for e in index)
        self.maps.extend(e for e in index if isinstance(e, ex.Expr))
        letters = letters_in(index)
        for entry in index:
            if isinstance(entry, tp.Ref):
                letters |= self.letters_of(entry)
        return self._add(tp.Load(name, index, fill), dtype, letters)

    def index(self, value: ex.Expr | int) -> tp.Ref:
        """Write `value`, an expression over letters and dims, as an i64."""
        value = value if isinstance(value, ex.Expr) else ex.const(value)
        value = self.simplify(value)
        self.maps.append(value)
        return self._add(tp.Index(value), DType.I64, value.letters())

    def const(self, dtype: DType, value: float | int | bool) -> tp.Ref:
        """Write a literal."""
        return self._add(tp.Const(dtype, value), dtype, frozenset())

    def cast(self, dtype: DType, a: tp.Ref) -> tp.Ref:
        """Write a conversion; nothing if `a` has the type, or is such a half widened."""
        if self.type_of(a) is dtype:
            return a
        line = self._values[a.k].instruction
        if dtype in HALVES and isinstance(line, tp.Cast) and self.type_of(line.a) is dtype:
            return line.a
        return self._add(tp.Cast(dtype, a), dtype, self.letters_of(a))

    def select(self, conds: tuple[tp.Cond, ...], a: tp.Ref, b: tp.Ref) -> tp.Ref:
        """Write a choice by index conditions."""
        letters = self.letters_of(a) | self.letters_of(b)
        for cond in conds:
            letters |= cond.left.letters() | cond.right.letters()
        self.choices += 1
        return self._add(tp.Select(conds, a, b), self.type_of(a), letters)

    def refill(self, ref: tp.Ref, conds: tuple[tp.Cond, ...], fill: tp.Literal) -> tp.Ref | None:
        """Write a load that is `fill` where the conditions do not hold, None if no load says that.

        `ref` must be the value written last: if it is a load with a fill of its own, and the
        conditions are bounds of its index, it is written anew.
        """
        line = self.body[-1] if self.body else None
        if ref.k != len(self._values) - 1 or not isinstance(line, tp.Load) or line.fill is None:
            return None
        shape = next(t.shape for t, name in self.stored.items() if name == line.tensor)
        bounds = {
            bound
            for entry, extent in zip(line.index, shape, strict=True)
            if isinstance(entry, ex.Expr)
            for bound in ((ex.const(0), "<=", entry), (entry, "<", extent))
        }
        said = {(self.simplify(c.left), c.op, self.simplify(c.right)) for c in conds}
        if self._cse.get(line) != ref or not said <= bounds:
            return None
        value = self._values.pop()
        del self._cse[line], self.body[-1]
        self.memo = {key: known for key, known in self.memo.items() if known != ref}
        return self._add(tp.Load(line.tensor, line.index, fill), value.dtype, value.letters)

    def apply(self, op: str, *args: tp.Ref) -> tp.Ref:
        """Write an element-wise instruction."""
        dtype = self.type_of(args[-1])
        if op in ("eq", "lt", "le", "is_nan", "is_inf"):
            dtype = DType.BOOL
        letters = frozenset().union(*(self.letters_of(a) for a in args))
        return self._add(tp.Apply(op, args), dtype, letters)

    def operand(self, tensor: Tensor, index: tuple[Index, ...], guard: Guard = None) -> tp.Ref:
        """Write what a contraction or reduction sums; one that holds a contraction is stored first.

        So what follows the inner contraction stays with it, as its epilogue.
        """
        ref = tensor.at(self, index, guard)
        if self.contracted(ref) and tensor not in self.stored:
            raise NeedsTemp(tensor)
        return ref

    def factor(self, tensor: Tensor, index: tuple[Index, ...], guard: Guard = None) -> tp.Ref:
        """Write what a product reads many times, as `operand` does.

        What is chosen by its position (a piece of a Concat, a neighbour) is stored first: a stage
        of its own does so by pieces, a product would for every element.
        """
        before = self.choices
        ref = self.operand(tensor, index, guard)
        if self.choices > before and tensor not in self.stored:
            raise NeedsTemp(tensor)
        return ref

    def reduce(
        self, owner: Tensor, op: str, a: tp.Ref, letters: tuple[str, ...], source: Tensor
    ) -> tp.Ref:
        """Write a reduction of `a`, made of elements of `source`, over `letters`.

        It must depend on them: a source that is broadcast along one of them is stored first.
        """
        if not letters:
            return a
        missing = set(letters) - self.letters_of(a)
        if missing and source in self.stored:
            raise Refused("a reduction over an axis that its operand is broadcast along")
        if missing:
            raise NeedsTemp(source)
        rest = self.letters_of(a) - set(letters)
        self.reductions.append((owner, rest, frozenset(letters)))
        return self._add(tp.Reduce(op, a, letters), self.type_of(a), rest, owner)

    def dot(self, owner: Tensor, a: tp.Ref, b: tp.Ref, letters: tuple[str, ...]) -> tp.Ref:
        """Write the sum over `letters` of a * b."""
        if not letters:
            return self.apply("mul", a, b)
        rest = (self.letters_of(a) | self.letters_of(b)) - set(letters)
        self.dots.append((owner, rest, frozenset(letters)))
        return self._add(tp.Dot(a, b, letters), self.type_of(a), rest, owner)

    def store(self, name: str, index: tuple[Index, ...], value: tp.Ref) -> None:
        """Write a store."""
        self.body.append(tp.Store(name, index, value))

    def type_of(self, ref: tp.Ref) -> DType:
        """Return the type of a value of this stage."""
        return self._values[ref.k].dtype

    def letters_of(self, ref: tp.Ref) -> frozenset[str]:
        """Return the letters a value of this stage depends on."""
        return self._values[ref.k].letters

    def contracted(self, ref: tp.Ref) -> bool:
        """Return whether a value of this stage is made of a contraction's result."""
        return self._values[ref.k].contracted

    def looked_up(self, ref: tp.Ref) -> bool:
        """Return whether a value of this stage is made of an element at a computed index."""
        return self._values[ref.k].looked_up

    def summed(self, ref: tp.Ref) -> frozenset[Tensor]:
        """Return the tensors whose sums or contractions a value of this stage is made of."""
        return self._values[ref.k].summed

    def _add(
        self, instruction: tp.Instruction, dtype: DType, letters: frozenset[str],
        owner: Tensor | None = None,
    ) -> tp.Ref:  # fmt: skip
        ref = self._cse.get(instruction)
        if ref is not None:
            return ref
        refs = tp.refs(instruction)
        looks_up = isinstance(instruction, tp.Load) and any(
            isinstance(entry, tp.Ref) for entry in instruction.index
        )
        value = _Value(
            instruction,
            dtype,
            frozenset(letters),
            isinstance(instruction, tp.Dot) or any(map(self.contracted, refs)),
            looks_up or any(map(self.looked_up, refs)),
            frozenset(() if owner is None else (owner,)).union(*map(self.summed, refs)),
        )
        ref = self._cse[instruction] = tp.Ref(len(self._values))
        self._values.append(value)
        self.body.append(instruction)
        return ref
