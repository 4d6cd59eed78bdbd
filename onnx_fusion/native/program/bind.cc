// Binding (docs/tile_program.md, sections 3, 5 and 7): dims from shapes, then proofs.
#include "program/bind.h"

#include <algorithm>

namespace onnx_fusion {
namespace {

constexpr int64_t kMaxExtent = int64_t{1} << 40;
constexpr int64_t kMaxPoints = int64_t{1} << 60;

std::string number(int64_t value) { return std::to_string(value); }

class Binder {
 public:
  Binder(const Program& program, const TensorView* inputs, BoundProgram* bound)
      : program_(program), inputs_(inputs), bound_(*bound) {}

  Status run() {
    bound_ = BoundProgram{};
    bound_.program = &program_;
    bound_.dims.assign(program_.dims.size(), 0);
    known_ = 0;
    for (size_t i = 0; i < program_.inputs; ++i) {
      Status status = bind_input(i);
      if (!status.ok()) return status;
    }
    for (; known_ < program_.dims.size(); ++known_) {
      const Dim& dim = program_.dims[known_];
      if (!value(dim.expr, &bound_.dims[known_])) {
        return Status("dim " + dim.name + " cannot be computed from these shapes");
      }
    }
    for (size_t i = program_.inputs; i < program_.tensors.size(); ++i) {
      Status status = bind_tensor(i, nullptr);
      if (!status.ok()) return status;
    }
    boxes_.resize(program_.tensors.size());
    for (const Stage& stage : program_.stages) {
      Status status = bind_stage(stage);
      if (!status.ok()) return status;
    }
    for (size_t i = program_.inputs; i < program_.tensors.size(); ++i) {
      Status status = check_boxes(i);
      if (!status.ok()) return status;
    }
    return Status();
  }

 private:
  struct Box {
    std::vector<int64_t> lo, size;
  };

  bool value(ExprId expr, int64_t* out) const {
    Interval range;
    if (!expr_range(program_, bound_.dims.data(), nullptr, expr, &range)) return false;
    *out = range.lo;
    return true;
  }

  Status bind_input(size_t i) {
    const Tensor& tensor = program_.tensors[i];
    const TensorView& view = inputs_[i];
    const std::string who = "input " + tensor.name;
    if (view.dtype != tensor.dtype) {
      return Status(who + " is " + dtype_name(view.dtype) + ", the program needs " +
                    dtype_name(tensor.dtype));
    }
    if (view.rank != tensor.rank()) {
      return Status(who + " has rank " + number(static_cast<int64_t>(view.rank)) +
                    ", the program needs " + number(static_cast<int64_t>(tensor.rank())));
    }
    Status status = bind_tensor(i, view.dims);
    if (!status.ok()) return status;
    for (size_t k = 0; k < tensor.contents.size(); ++k) {
      const int64_t content = tensor.dtype == DType::i64
                                  ? static_cast<const int64_t*>(view.data)[k]
                                  : static_cast<const int32_t*>(view.data)[k];
      if (content < -kMaxPoints || content > kMaxPoints) {
        return Status(who + " holds " + number(content) + ", which is no dim");
      }
      const size_t dim = static_cast<size_t>(tensor.contents[k]);
      if (dim >= known_) {
        bound_.dims[dim] = content;
        ++known_;
      } else if (bound_.dims[dim] != content) {
        return Status(who + " holds " + number(content) + " at " + number(static_cast<int64_t>(k)) +
                      ", but " + program_.dims[dim].name + " is " + number(bound_.dims[dim]));
      }
    }
    return Status();
  }

  // `physical` are an input's actual dims; null for temps and outputs.
  Status bind_tensor(size_t i, const int64_t* physical) {
    const Tensor& tensor = program_.tensors[i];
    BoundTensor bound;
    bound.dtype = tensor.dtype;
    const size_t rank = tensor.rank();
    bound.shape.resize(rank);
    bound.strides.resize(rank);
    bound.physical.resize(rank);
    std::vector<size_t> place(rank);
    for (size_t p = 0; p < rank; ++p) place[tensor.order[p]] = p;
    for (size_t d = 0; d < rank; ++d) {
      int64_t extent;
      if (tensor.binds[d] >= 0) {
        extent = physical[place[d]];
        bound_.dims[static_cast<size_t>(tensor.binds[d])] = extent;
        ++known_;
      } else if (!value(tensor.shape[d], &extent)) {
        return Status("dim " + number(static_cast<int64_t>(d)) + " of tensor " + tensor.name +
                      " cannot be computed from these shapes");
      }
      if (physical != nullptr && physical[place[d]] != extent) {
        return Status("dim " + number(static_cast<int64_t>(d)) + " of input " + tensor.name +
                      " is " + number(physical[place[d]]) + ", the program needs " +
                      number(extent));
      }
      if (extent < 0 || extent > kMaxExtent) {
        return Status("dim " + number(static_cast<int64_t>(d)) + " of tensor " + tensor.name +
                      " is " + number(extent));
      }
      bound.shape[d] = extent;
      bound.physical[place[d]] = extent;
    }
    if (!product(bound.shape.data(), rank, kMaxExtent, &bound.elements)) {
      return Status("tensor " + tensor.name + " is too large");
    }
    int64_t stride = 1;
    for (size_t p = rank; p-- > 0;) {
      bound.strides[tensor.order[p]] = bound.elements == 0 ? 0 : stride;
      if (bound.elements > 0) stride *= bound.physical[p];
    }
    bound_.tensors.push_back(std::move(bound));
    return Status();
  }

  // The product, 0 if any factor is, and whether it stays below the limit.
  static bool product(const int64_t* factors, size_t count, int64_t limit, int64_t* out) {
    *out = 1;
    for (size_t i = 0; i < count; ++i) {
      if (factors[i] == 0) {
        *out = 0;
        return true;
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (__builtin_mul_overflow(*out, factors[i], out) || *out >= limit) return false;
    }
    return true;
  }

  Status bind_stage(const Stage& stage) {
    BoundStage bound;
    bound.stage = &stage;
    const std::string where = "stage on line " + number(stage.line);
    for (size_t l = 0; l < stage.letters.size(); ++l) {
      int64_t& extent = bound.extents[l];
      if (!value(stage.letters[l].extent, &extent) || extent < 0 || extent > kMaxExtent) {
        return Status(where + ": letter " + stage.letters[l].name +
                      " has no extent with these shapes");
      }
      if (extent == 0) bound.empty |= static_cast<LetterSet>(1u << l);
      ranges_[l] = {0, extent - 1};
    }
    int64_t points;
    if (!product(bound.extents, stage.letters.size(), kMaxPoints, &points)) {
      return Status(where + ": too many points");
    }
    const size_t lines = stage.body.size();
    bound.maps.resize(lines);
    bound.conds.resize(lines);
    bound.indices.resize(lines);
    bound.is_linear.resize(lines);
    for (size_t i = 0; i < lines; ++i) {
      if (stage.body[i].letters & bound.empty) continue;
      Status status = bind_line(stage.body[i], i, &bound);
      if (!status.ok()) return Status("line " + number(stage.body[i].line) + ": " + status.message);
    }
    bound_.stages.push_back(std::move(bound));
    return Status();
  }

  Status bind_line(const Instruction& line, size_t i, BoundStage* bound) {
    const int64_t* dims = bound_.dims.data();
    Interval range;
    if (line.op == Op::op_index) {
      if (!expr_range(program_, dims, ranges_, line.expr, &range)) {
        return Status("the index leaves +-2^60");
      }
      bound->is_linear[i] = expr_linear(program_, dims, ranges_, line.expr, &bound->indices[i]);
    }
    for (const Cond& cond : line.conds) {
      BoundCond out;
      Linear b;
      Interval other;
      if (!expr_range(program_, dims, ranges_, cond.a, &range) ||
          !expr_range(program_, dims, ranges_, cond.b, &other)) {
        return Status("a condition leaves +-2^60");
      }
      out.linear = expr_linear(program_, dims, ranges_, cond.a, &out.form) &&
                   expr_linear(program_, dims, ranges_, cond.b, &b);
      if (out.linear) {
        out.form.base -= b.base;
        for (int l = 0; l < kMaxLetters; ++l) out.form.coef[l] -= b.coef[l];
      }
      bound->conds[i].push_back(out);
    }
    if (line.op == Op::op_load || line.op == Op::op_store) {
      return bind_map(line, &bound->maps[i], *bound);
    }
    return Status();
  }

  Status bind_map(const Instruction& line, BoundMap* map, const BoundStage& bound) {
    const BoundTensor& tensor = bound_.tensors[static_cast<size_t>(line.tensor)];
    const std::string& name = program_.tensors[static_cast<size_t>(line.tensor)].name;
    map->linear = true;
    for (size_t d = 0; d < line.map.size(); ++d) {
      BoundIndex index;
      index.extent = tensor.shape[d];
      index.stride = tensor.strides[d];
      index.expr = line.map[d].expr;
      index.value = line.map[d].value;
      if (index.value >= 0) {
        index.guarded = true;
        map->indirect = true;
        map->linear = false;
      } else {
        Interval range;
        if (!expr_range(program_, bound_.dims.data(), ranges_, index.expr, &range)) {
          return Status("an index of " + name + " leaves +-2^60");
        }
        index.guarded = range.lo < 0 || range.hi >= index.extent;
        if (index.guarded && !line.has_else) {
          return Status("index " + number(static_cast<int64_t>(d)) + " of " + name + " spans [" +
                        number(range.lo) + ", " + number(range.hi) + "], outside a dim of " +
                        number(index.extent));
        }
        // Addresses of points outside must not overflow either, or the slow path computes them.
        const int64_t reach = std::max(std::abs(range.lo), std::abs(range.hi));
        int64_t bytes;
        index.linear =
            !__builtin_mul_overflow(reach + 1, std::max<int64_t>(index.stride, 1), &bytes) &&
            bytes < kMaxPoints / 16 &&
            expr_linear(program_, bound_.dims.data(), ranges_, index.expr, &index.form);
        map->linear = map->linear && index.linear;
        if (index.linear) {
          map->address.base += index.form.base * index.stride;
          for (int l = 0; l < kMaxLetters; ++l) {
            map->address.coef[l] += index.form.coef[l] * index.stride;
          }
        }
      }
      map->guarded = map->guarded || index.guarded;
      map->dims.push_back(index);
    }
    if (line.op == Op::op_store) return add_box(line, *map, bound);
    return Status();
  }

  Status add_box(const Instruction& line, const BoundMap& map, const BoundStage& bound) {
    Box box;
    for (const BoundIndex& index : map.dims) {
      if (!index.linear) return Status("a store's index is not linear");
      std::vector<std::pair<int64_t, int64_t>> digits;  // coefficient, extent
      for (int l = 0; l < kMaxLetters; ++l) {
        const bool used = line.letters >> l & 1;
        if (used && bound.extents[l] > 1 && has_letter(index.expr, l)) {
          digits.push_back({index.form.coef[l], bound.extents[l]});
        }
      }
      std::sort(digits.begin(), digits.end());
      int64_t dense = 1;
      for (const auto& [coefficient, extent] : digits) {
        if (coefficient != dense) {
          return Status("a store's letters are not the digits of its index");
        }
        dense *= extent;
      }
      if (index.form.base < 0 || index.form.base + dense > index.extent) {
        return Status("a store reaches outside its tensor");
      }
      box.lo.push_back(index.form.base);
      box.size.push_back(dense);
    }
    boxes_[static_cast<size_t>(line.tensor)].push_back(std::move(box));
    return Status();
  }

  bool has_letter(ExprId expr, int l) const { return expr_letters(program_, expr) >> l & 1; }

  Status check_boxes(size_t i) {
    std::vector<Box>& boxes = boxes_[i];
    const std::string who = "tensor " + program_.tensors[i].name;
    int64_t volume = 0;
    for (const Box& box : boxes) {
      int64_t points = 1;
      for (int64_t size : box.size) points *= size;
      volume += points;
      if (volume > bound_.tensors[i].elements) return Status("stores to " + who + " overlap");
    }
    if (volume != bound_.tensors[i].elements) return Status("not all of " + who + " is stored");
    std::sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.lo < b.lo; });
    for (size_t a = 0; a < boxes.size(); ++a) {
      for (size_t b = a + 1; b < boxes.size(); ++b) {
        bool apart = false;
        for (size_t d = 0; d < boxes[a].lo.size() && !apart; ++d) {
          apart = boxes[a].lo[d] + boxes[a].size[d] <= boxes[b].lo[d] ||
                  boxes[b].lo[d] + boxes[b].size[d] <= boxes[a].lo[d];
          if (apart && d == 0) b = boxes.size();  // sorted: all that follow start further on
        }
        if (!apart) return Status("stores to " + who + " overlap");
      }
    }
    return Status();
  }

  const Program& program_;
  const TensorView* inputs_;
  BoundProgram& bound_;
  size_t known_ = 0;  // dims come in the order inputs, contents and dim lines define them
  Interval ranges_[kMaxLetters] = {};
  std::vector<std::vector<Box>> boxes_;
};

}  // namespace

Status bind_program(const Program& program, const TensorView* inputs, BoundProgram* bound) {
  return Binder(program, inputs, bound).run();
}

}  // namespace onnx_fusion
