// How a StrassenPlan runs: tasks take chunks of rows, or parts of the panels where chunks are few.
#include <algorithm>
#include <cstdlib>

#include "cpu/contract_plan.h"
#include "cpu/contract_strassen.h"
#include "cpu/parallel.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int kExponents = 256, kNear = 2;  // powers of 2 between the rows of a pair
constexpr int64_t kLineFloats = 16, kMostFetches = 12;

// The exponents of two rows' largest values; infinities and NaN have the last one.
bool are_near(int a, int b) { return std::abs(a - b) <= kNear && std::max(a, b) < kExponents - 1; }

template <typename T>
T* take(char** at, int64_t count) {
  T* taken = reinterpret_cast<T*>(*at);
  *at += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  return taken;
}

// The rows of one half of the columns: every second one, from the upper or the lower row of the
// first pair on.
FinishRows take_rows(const FinishRows& half, int lower, int64_t rows) {
  FinishRows f = half;
  f.rows = rows;
  f.out += lower * half.out_ld;
  f.out_ld *= 2;
  if (f.row_bias != nullptr) f.row_bias += lower * half.row_step;
  f.row_step *= 2;
  if (f.residual != nullptr) f.residual += lower * half.residual_ld;
  f.residual_ld *= 2;
  return f;
}

}  // namespace

void StrassenPlan::run(const RunContext& context) const {
  successor_.begin(find_weights(0, 0, 0));
  const int64_t chunks = (rows_ + chunk_ - 1) / chunk_;
  const double nanoseconds = static_cast<double>(rows_) * static_cast<double>(columns_) *
                             (1.0 + static_cast<double>(half_) / lanes_) * 0.55;
  const int64_t tasks = task_count(*context.parallel, nanoseconds);
  const bool even = tasks == 1 || chunks % tasks == 0 || chunks >= 4 * tasks;
  const int64_t parts = even ? 1 : std::min(tasks, panels_);

  const int64_t sums = kStrassenSums * pairs_ * sum_step_;
  const int64_t products = kStrassenProducts * pairs_ * ld_;
  const int64_t results = (chunk_ + 1) * ld_;
  const int64_t pointers = kStrassenProducts * pairs_;
  const size_t bytes =
      static_cast<size_t>(sums + products + (transposed_ ? 3 : 2) * results) * sizeof(float) +
      static_cast<size_t>(pointers + chunk_) * sizeof(float*) +
      static_cast<size_t>(2 * pairs_ + chunk_) * sizeof(int32_t) + static_cast<size_t>(chunk_) +
      epilogue_->scratch_bytes() + 11 * 64;
  const auto task = [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(bytes);
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    char* at = scratch.data();
    Buffers buffers;
    buffers.sums = take<float>(&at, sums);
    buffers.products = take<float>(&at, products);
    buffers.left = take<float>(&at, results);
    buffers.right = take<float>(&at, results);
    buffers.turned = take<float>(&at, transposed_ ? results : 0);
    buffers.pointers = take<const float*>(&at, pointers);
    buffers.rows = take<const float*>(&at, chunk_);
    buffers.upper = take<int32_t>(&at, pairs_);
    buffers.lower = take<int32_t>(&at, pairs_);
    buffers.order = take<int32_t>(&at, chunk_);
    buffers.exponents = take<uint8_t>(&at, chunk_);
    buffers.epilogue = at;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row0 = i / parts * chunk_, part = i % parts;
      run_chunk(context, row0, std::min(rows_, row0 + chunk_), panels_ * part / parts,
                panels_ * (part + 1) / parts, buffers);
    }
  };
  parallel_ranges(*context.parallel, chunks * parts, tasks, task);
}

// Pairs of neighbours in the order of the exponents, if they are near each other. A row without a
// partner is more than kNear powers of 2 from the next one, or not finite.
int64_t StrassenPlan::pair_near(int64_t rows, const Buffers& buffers) const {
  int32_t begins[kExponents + 1] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const uint32_t most = strassen_kernels().largest(buffers.rows[r], 2 * half_);
    buffers.exponents[r] = static_cast<uint8_t>(most >> 23);
    ++begins[buffers.exponents[r] + 1];
  }
  for (int i = 0; i < kExponents; ++i) begins[i + 1] += begins[i];
  for (int64_t r = 0; r < rows; ++r) {
    buffers.order[begins[buffers.exponents[r]]++] = static_cast<int32_t>(r);
  }
  int64_t pairs = 0;
  for (int64_t i = 0; i < rows; ++pairs) {
    const bool two = i + 1 < rows && are_near(buffers.exponents[buffers.order[i]],
                                              buffers.exponents[buffers.order[i + 1]]);
    buffers.upper[pairs] = buffers.order[i];
    buffers.lower[pairs] = two ? buffers.order[i + 1] : static_cast<int32_t>(chunk_);
    i += two ? 2 : 1;
  }
  return pairs;
}

// Returns whether all pairs are of rows that are near each other in this block of k.
bool StrassenPlan::sum_rows(int64_t pairs, int64_t block, const Buffers& buffers) const {
  const int64_t begin = block_begin(block), count = block_begin(block + 1) - begin;
  bool near = true;
  const auto find = [&](int64_t p, const float** to) {
    const int32_t lower = buffers.lower[p];
    to[0] = buffers.rows[buffers.upper[p]] + begin;
    to[1] = (lower == chunk_ ? zeros_.data() : buffers.rows[lower]) + begin;
  };
  const float* found[2][2];
  find(0, found[0]);
  for (int64_t p = 0; p < pairs; ++p) {
    find(std::min(p + 1, pairs - 1), found[(p + 1) % 2]);
    uint32_t most[2];
    strassen_kernels().sums(found[p % 2], found[(p + 1) % 2], half_, count,
                            buffers.sums + p * kStrassenSums * sum_step_, sum_step_, most);
    near = near && (buffers.lower[p] == chunk_ || are_near(most[0] >> 23, most[1] >> 23));
  }
  return near;
}

// Where the rows of the seven products begin.
void StrassenPlan::point_rows(int64_t pairs, int64_t block, const Buffers& buffers) const {
  const int64_t begin = block_begin(block);
  const float** to = buffers.pointers;
  for (const int sum : {0, 1, -1, -2, 2, 3, 4}) {
    for (int64_t p = 0; p < pairs; ++p) {
      const int32_t lower = buffers.lower[p];
      *to++ = sum >= 0    ? buffers.sums + (p * kStrassenSums + sum) * sum_step_
              : sum == -1 ? buffers.rows[buffers.upper[p]] + begin
                          : (lower == chunk_ ? zeros_.data() : buffers.rows[lower]) + half_ + begin;
    }
  }
}

// False if register tiles cannot finish.
bool StrassenPlan::find_ends(const RunContext& context, int64_t row0, int64_t column0,
                             int64_t column1, Ends* ends) const {
  const Finish* finish = epilogue_->finish();
  if (transposed_ || finish == nullptr || !finish->whole()) return false;
  const int64_t fixed[kMaxLetters] = {};
  for (int h = 0; h < 2; ++h) {
    const int64_t begin = std::min(columns_, h * left_ + column0);
    const int64_t end = std::min(columns_, h * left_ + column1);
    FinishRows& f = ends->halves[h];
    f = finish->rows(context, fixed, row0, row0 + 1, begin, end, nullptr, 0);
    if (f.scale != 1.0f || f.gain != nullptr || f.late || f.slope != nullptr) return false;
  }
  return true;
}

// All but the last two products are there: finishes two quarters of the results.
void StrassenPlan::finish_half(const Ends& ends, int64_t pairs, int64_t columns,
                               const Buffers& buffers) const {
  const FinishRows upper = take_rows(ends.halves[0], 0, pairs);
  const FinishRows lower = take_rows(ends.halves[1], 1, ends.rows / 2);
  for (int64_t p = 0; p < pairs; ++p) {
    StrassenMeeting meeting{buffers.products + p * ld_, pairs_ * ld_, columns, {}, {}};
    if (upper.residual != nullptr) meeting.more[0] = upper.residual + p * upper.residual_ld;
    if (lower.residual != nullptr && p < lower.rows) {
      meeting.more[1] = lower.residual + p * lower.residual_ld;
    }
    meeting.more_columns[0] = upper.columns;
    meeting.more_columns[1] = lower.columns;
    strassen_kernels().meet(meeting);
  }
  for (int h = 0; h < 2; ++h) {
    FinishRows f =
        h == 0 ? take_rows(ends.halves[0], 1, ends.rows / 2) : take_rows(ends.halves[1], 0, pairs);
    f.accumulators = buffers.products + (h == 0 ? 3 : 2) * pairs_ * ld_;
    f.ld = ld_;
    if (f.columns > 0) finish_passes().all(f);
  }
}

// The products of one block of k; with `ends` it is the last one.
void StrassenPlan::run_block(int64_t pairs, int64_t block, int64_t panel0, int64_t panel1,
                             int64_t last, const Buffers& buffers, const Ends* ends) const {
  const TileKernels& kernels = tile_kernels();
  const int64_t depth = block_begin(block + 1) - block_begin(block);
  const int64_t steps = std::max<int64_t>(1, depth / kFetchStep);
  const auto after = [&](int product, int64_t panel) -> Weights {
    if (panel + 1 < panel1) return find_weights(product, block, panel + 1);
    if (product + 1 < kStrassenProducts) return find_weights(product + 1, block, panel0);
    if (block + 1 < blocks_) return find_weights(0, block + 1, panel0);
    return panel1 < last ? find_weights(0, 0, panel1) : successor_.next();
  };
  for (int product = 0; product < kStrassenProducts; ++product) {
    const bool finishes = ends != nullptr && product >= 5;
    const bool lower = finishes && product == 5;
    const int64_t rows = lower ? ends->rows / 2 : pairs;
    const int64_t tiles = (rows + tile_rows_ - 1) / tile_rows_;
    const int64_t large = rows % tiles;  // tiles of one row more than the others
    const float* const* const from = buffers.pointers + product * pairs;
    const int64_t apart = rows_apart(from, rows);
    if (lower) {
      const int64_t end = std::min(left_, panel1 * width_);
      finish_half(*ends, pairs, end - panel0 * width_, buffers);
    }
    for (int64_t panel = panel0; panel < panel1; ++panel) {
      const Weights next = after(product, panel);
      const int64_t lines = (next.floats + kLineFloats - 1) / kLineFloats;
      const int vectors = static_cast<int>(panel_vectors(panel));
      TileCall call{};
      call.pieces = 1;
      call.depths = &depth;
      call.a = from;
      call.apart = apart;
      call.a_step = 1;
      call.b = find_weights(product, block, panel).begin;
      call.b_step = vectors * lanes_;
      call.c = buffers.products + product * pairs_ * ld_ + (panel - panel0) * width_;
      call.ldc = ld_;
      call.add = block > 0;
      call.fetch = next.begin;
      call.fetch_lines =
          static_cast<int>(std::min((lines + steps * tiles - 1) / (steps * tiles), kMostFetches));
      FinishRows f{};
      if (finishes) {
        const int64_t column = (panel - panel0) * width_;
        f = take_rows(ends->halves[lower ? 1 : 0], lower ? 1 : 0, rows);
        f.columns = std::min(f.columns - column, vectors * lanes_ + int64_t{0});
        if (f.columns <= 0) continue;
        f.skip(column);
        f.residual = buffers.products + (lower ? 1 : 0) * pairs_ * ld_ + column;
        f.residual_ld = ld_;
        call.finish = &f;
      }
      const FinishRows all = f;
      for (int g = 0; g < 2; ++g) {
        const int64_t each = rows / tiles + (g == 0 ? 1 : 0);
        call.tiles = g == 0 ? large : tiles - large;
        if (call.tiles == 0) continue;
        kernels.tile(TileRows::direct, static_cast<int>(each), vectors, call);
        const int64_t done = call.tiles * each;
        call.a += done;
        call.c += done * ld_;
        call.fetch += call.tiles * call.fetch_lines * (depth / kFetchStep) * kLineFloats;
        f.out += done * f.out_ld;
        f.residual += done * f.residual_ld;
        if (f.row_bias != nullptr) f.row_bias += done * f.row_step;
      }
      if (finishes && all.again() && !kernels.activates) finish_passes().activate(all);
    }
  }
}

void StrassenPlan::run_chunk(const RunContext& context, int64_t row0, int64_t row1, int64_t panel0,
                             int64_t panel1, const Buffers& buffers) const {
  const float* base = reinterpret_cast<const float*>(context.tensors[tensor_]);
  const int64_t rows = row1 - row0;
  for (int64_t r = 0; r < rows; ++r) {
    buffers.rows[r] = base + outer_[static_cast<size_t>(row0 + r)];
  }
  int64_t pairs = (rows + 1) / 2;
  for (int64_t p = 0; p < pairs; ++p) {
    buffers.upper[p] = static_cast<int32_t>(2 * p);
    buffers.lower[p] = static_cast<int32_t>(2 * p + 1 < rows ? 2 * p + 1 : chunk_);
  }
  bool sorted = false;
  for (int64_t panel = panel0; panel < panel1; panel += group_) {
    const int64_t end = std::min(panel1, panel + group_);
    const int64_t column0 = panel * width_, column1 = std::min(left_, end * width_);
    Ends ends;
    ends.rows = rows;
    const bool finishes = find_ends(context, row0, column0, column1, &ends);
    for (int64_t block = 0; block < blocks_; ++block) {
      if (blocks_ > 1 || panel == panel0) {
        if (!sum_rows(pairs, block, buffers) && !sorted) {
          pairs = pair_near(rows, buffers);
          sorted = true;
          block = -1;
          continue;
        }
        point_rows(pairs, block, buffers);
      }
      const bool ends_here = finishes && !sorted && block + 1 == blocks_;
      run_block(pairs, block, panel, end, panel1, buffers, ends_here ? &ends : nullptr);
    }
    if (finishes && !sorted) continue;
    for (int64_t p = 0; p < pairs; ++p) {
      const int64_t upper = buffers.upper[p] * ld_, lower = buffers.lower[p] * ld_;
      strassen_kernels().join({buffers.products + p * ld_,
                               pairs_ * ld_,
                               column1 - column0,
                               {buffers.left + upper, buffers.right + upper},
                               {buffers.left + lower, buffers.right + lower}});
    }
    finish(context, row0, rows, column0, column1, buffers.left, buffers);
    if (left_ + column0 >= columns_) continue;
    finish(context, row0, rows, left_ + column0, std::min(columns_, left_ + column1), buffers.right,
           buffers);
  }
}

void StrassenPlan::finish(const RunContext& context, int64_t row0, int64_t rows, int64_t column0,
                          int64_t column1, const float* sums, const Buffers& buffers) const {
  const int64_t fixed[kMaxLetters] = {};
  if (!transposed_) {
    return epilogue_->run(context, fixed, row0, row0 + rows, column0, column1, sums, ld_,
                          buffers.epilogue);
  }
  gemm_kernels().transpose(sums, ld_, rows, column1 - column0, buffers.turned, rows);
  epilogue_->run(context, fixed, column0, column1, row0, row0 + rows, buffers.turned, rows,
                 buffers.epilogue);
}

}  // namespace onnx_fusion::cpu
