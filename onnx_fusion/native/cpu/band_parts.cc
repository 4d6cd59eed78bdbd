#include "cpu/band_parts.h"

#include <algorithm>

namespace onnx_fusion {
namespace {

constexpr int64_t kLeastBytes = 512 << 10;  // between the stages: less stays in the cache anyway
constexpr int64_t kBandBytes = 256 << 10;  // of the lines that a band needs, if there is a choice
constexpr int64_t kMostBytes = 1 << 20;  // of them at all
constexpr int64_t kFixedBytes = 64 << 10;  // of weights, which every band reads

int only_letter(const BoundStage& stage, const Linear& form, LetterSet without) {
  int found = -1;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (form.coef[l] == 0 || stage.extents[l] == 1 || (without >> l & 1)) continue;
    if (found >= 0) return -1;
    found = l;
  }
  return found;
}

LetterSet reduced(const Stage& stage) {
  LetterSet all = 0;
  for (const Instruction& line : stage.body) all |= line.over;
  return all;
}

// The one line of the stage that stores or loads the tensor; -1 if there is none or more.
int only_line(const Stage& stage, Op op, int tensor) {
  int found = -1;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    const Instruction& line = stage.body[i];
    if (line.tensor != tensor || (line.op != Op::op_load && line.op != Op::op_store)) continue;
    if (line.op != op || found >= 0) return -1;
    found = static_cast<int>(i);
  }
  return found;
}

bool has_tensor(const Stage& stage, int tensor) {
  return std::any_of(stage.body.begin(), stage.body.end(),
                     [&](const Instruction& line) { return line.tensor == tensor; });
}

// Whether all that depends on the letter are addresses, those that of each tensor alike, and none
// those of constants: plans may have packed them.
bool find_moves(const BoundProgram& bound, const TensorView* constants, size_t count, Part* part) {
  const Program& program = *bound.program;
  const BoundStage& stage = bound.stages[part->stage];
  const LetterSet own = static_cast<LetterSet>(1u << part->letter);
  if (stage.empty != 0 || (reduced(*stage.stage) & own)) return false;
  for (size_t i = 0; i < stage.stage->body.size(); ++i) {
    const Instruction& line = stage.stage->body[i];
    for (const Cond& cond : line.conds) {
      if ((expr_letters(program, cond.a) | expr_letters(program, cond.b)) & own) return false;
    }
    if (line.op == Op::op_index && (expr_letters(program, line.expr) & own)) return false;
    if (line.op != Op::op_load && line.op != Op::op_store) continue;
    for (size_t d = 0; d < line.map.size(); ++d) {
      const bool computed = line.map[d].value < 0 && !stage.maps[i].dims[d].linear;
      if (computed && (expr_letters(program, line.map[d].expr) & own)) return false;
    }
    const size_t tensor = static_cast<size_t>(line.tensor);
    const int64_t bytes = stage.maps[i].address.coef[part->letter] *
                          static_cast<int64_t>(dtype_size(bound.tensors[tensor].dtype));
    if (bytes != 0 && tensor < count && constants[tensor].data != nullptr) return false;
    const auto found = std::find_if(part->moves.begin(), part->moves.end(),
                                    [&](const Part::Move& m) { return m.tensor == tensor; });
    if (found == part->moves.end()) {
      part->moves.push_back({tensor, bytes});
      if (bytes == 0) {
        part->fixed_bytes += bound.tensors[tensor].elements *
                             static_cast<int64_t>(dtype_size(bound.tensors[tensor].dtype));
      }
    } else if (found->bytes != bytes) {
      return false;
    }
  }
  return true;
}

// What the two stages are to each other if all that the second reads of the first is one image,
// line by line; its lines are the outermost in memory. `letter` is the first one's, if it is known.
bool find_link(const BoundProgram& bound, size_t stage, int letter, Part* first, Part* second) {
  if (stage + 1 >= bound.stages.size()) return false;
  const Program& program = *bound.program;
  const BoundStage &from = bound.stages[stage], &to = bound.stages[stage + 1];
  if (from.empty != 0 || to.empty != 0) return false;
  int image = -1;
  for (const Instruction& line : from.stage->body) {
    if (line.op == Op::op_store && has_tensor(*to.stage, line.tensor)) {
      if (image >= 0) return false;
      image = line.tensor;
    }
  }
  if (image < 0) return false;
  const size_t tensor = static_cast<size_t>(image);
  if (program.tensors[tensor].kind != TensorKind::temp) return false;
  for (size_t s = 0; s < program.stages.size(); ++s) {
    if (s != stage && s != stage + 1 && has_tensor(program.stages[s], image)) return false;
  }
  const int store = only_line(*from.stage, Op::op_store, image);
  const int load = only_line(*to.stage, Op::op_load, image);
  if (store < 0 || load < 0) return false;
  const BoundTensor& t = bound.tensors[tensor];
  size_t place = 0;
  while (place < t.physical.size() && t.physical[place] == 1) ++place;
  if (place == t.physical.size()) return false;
  const size_t dim = program.tensors[tensor].order[place];

  const BoundIndex& stored = from.maps[static_cast<size_t>(store)].dims[dim];
  const BoundIndex& loaded = to.maps[static_cast<size_t>(load)].dims[dim];
  if (!stored.linear || !loaded.linear || stored.form.base != 0) return false;
  first->stage = stage;
  first->letter = only_letter(from, stored.form, 0);
  if (first->letter < 0 || (letter >= 0 && letter != first->letter)) return false;
  first->lines = from.extents[first->letter];
  if (stored.form.coef[first->letter] != 1 || first->lines != t.shape[dim]) return false;
  first->image = tensor;
  first->image_lines = first->lines;
  first->line_bytes = t.strides[dim] * static_cast<int64_t>(dtype_size(t.dtype));

  const LetterSet taps = reduced(*to.stage);
  second->stage = stage + 1;
  second->letter = only_letter(to, loaded.form, taps);
  if (second->letter < 0) return false;
  second->lines = to.extents[second->letter];
  second->step = loaded.form.coef[second->letter];
  if (second->step <= 0) return false;
  second->low = second->high = loaded.form.base;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (!(taps >> l & 1)) continue;
    const int64_t reach = loaded.form.coef[l] * (std::max<int64_t>(to.extents[l], 1) - 1);
    (reach < 0 ? second->low : second->high) += reach;
  }
  return true;
}

// Whether a stage reads, beside `image`, what one from `first` on stores: lines of it that may not
// be made yet.
bool reads_inner(const BoundProgram& bound, size_t first, size_t stage, size_t image) {
  const auto stored = [&](int tensor) {
    for (size_t s = first; s < stage; ++s) {
      for (const Instruction& line : bound.stages[s].stage->body) {
        if (line.op == Op::op_store && line.tensor == tensor) return true;
      }
    }
    return false;
  };
  const std::vector<Instruction>& body = bound.stages[stage].stage->body;
  return std::any_of(body.begin(), body.end(), [&](const Instruction& line) {
    const bool other = line.op == Op::op_load && line.tensor != static_cast<int>(image);
    return other && stored(line.tensor);
  });
}

// Whether the guarded index may be outside on lines [first, first + lines).
bool is_outside(const BoundStage& stage, int letter, const BoundIndex& dim, int64_t first,
                int64_t lines) {
  Interval range{dim.form.base, dim.form.base};
  for (int l = 0; l < kMaxLetters; ++l) {
    const int64_t coef = dim.form.coef[l];
    if (l == letter) {
      range.lo += coef * first;
      range.hi += coef * first;
    }
    const int64_t reach = coef * (std::max<int64_t>(l == letter ? lines : stage.extents[l], 1) - 1);
    (reach < 0 ? range.lo : range.hi) += reach;
  }
  return range.lo < 0 || range.hi >= dim.extent;
}

bool moves(const BoundIndex& dim, int letter) { return dim.linear && dim.form.coef[letter] != 0; }

int64_t band_bytes(const std::vector<Part>& parts, int64_t height) {
  int64_t lines[kMostParts], bytes = 0;
  find_heights(parts, height, lines);
  for (size_t k = 0; k + 1 < parts.size(); ++k) bytes += lines[k] * parts[k].line_bytes;
  return bytes;
}

}  // namespace

bool is_border(const BoundProgram& bound, const Part& part, int64_t first, int64_t lines) {
  const BoundStage& stage = bound.stages[part.stage];
  for (const BoundMap& map : stage.maps) {
    for (const BoundIndex& dim : map.dims) {
      if (moves(dim, part.letter) && dim.guarded &&
          is_outside(stage, part.letter, dim, first, lines)) {
        return true;
      }
    }
  }
  return false;
}

std::unique_ptr<BoundProgram> cut(const BoundProgram& bound, const Part& part, int64_t first,
                                  int64_t lines) {
  auto own = std::make_unique<BoundProgram>(bound);
  own->band = true;
  BoundStage& stage = own->stages[part.stage];
  stage.extents[part.letter] = lines;
  for (BoundMap& map : stage.maps) {
    map.guarded = false;
    map.address.base += map.address.coef[part.letter] * first;
    for (BoundIndex& dim : map.dims) {
      if (moves(dim, part.letter)) {
        dim.guarded = dim.guarded && is_outside(stage, part.letter, dim, first, lines);
        dim.form.base += dim.form.coef[part.letter] * first;
      }
      map.guarded = map.guarded || dim.guarded;
    }
  }
  return own;
}

void find_needs(const std::vector<Part>& parts, int64_t begin, int64_t end, Lines* needs) {
  needs[parts.size() - 1] = {begin, end};
  for (size_t k = parts.size() - 1; k > 0; --k) {
    const Part& part = parts[k];
    const int64_t lines = parts[k - 1].image_lines;
    const int64_t low = part.step * needs[k].begin + part.low;
    const int64_t high = part.step * (needs[k].end - 1) + part.high + 1;
    needs[k - 1].begin = std::min(std::max<int64_t>(low, 0), lines);
    needs[k - 1].end = std::max(needs[k - 1].begin, std::min(std::max<int64_t>(high, 0), lines));
  }
}

void find_heights(const std::vector<Part>& parts, int64_t height, int64_t* lines) {
  std::fill(lines, lines + parts.size(), 0);
  const int64_t all = parts.back().lines;
  for (int64_t at = 0; at < all; at += height) {
    Lines needs[kMostParts];
    find_needs(parts, at, std::min(all, at + height), needs);
    for (size_t k = 0; k + 1 < parts.size(); ++k) {
      lines[k] = std::max(lines[k], needs[k].end - needs[k].begin);
    }
  }
}

int64_t choose_height(const std::vector<Part>& parts) {
  const int64_t lines = parts.back().lines;
  int64_t height = band_bytes(parts, 1) <= kMostBytes ? 1 : 0;
  for (int64_t h = 2; h <= lines && band_bytes(parts, h) <= kBandBytes; h += 2) {
    height = h;
  }
  if (height < 4) return height;
  const int64_t bands = (lines + height - 1) / height;
  return std::min(height, ((lines + bands - 1) / bands + 1) / 2 * 2);
}

std::vector<Part> find_parts(const BoundProgram& bound, size_t stage, const TensorView* constants,
                             size_t count) {
  std::vector<Part> parts(1);
  int64_t bytes = 0;
  while (parts.size() < kMostParts) {
    Part next;
    Part& last = parts.back();
    Part tried = last;
    if (!find_link(bound, stage + parts.size() - 1, last.letter, &tried, &next)) break;
    if (reads_inner(bound, stage, next.stage, tried.image)) break;
    tried.step = last.step;
    tried.low = last.low;
    tried.high = last.high;
    if (tried.moves.empty() && !find_moves(bound, constants, count, &tried)) break;
    if (!find_moves(bound, constants, count, &next)) break;
    if (tried.fixed_bytes > kFixedBytes || next.fixed_bytes > kFixedBytes) break;
    last = std::move(tried);
    bytes += last.image_lines * last.line_bytes;
    parts.push_back(std::move(next));
  }
  if (bytes < kLeastBytes) parts.clear();
  return parts;
}

}  // namespace onnx_fusion
