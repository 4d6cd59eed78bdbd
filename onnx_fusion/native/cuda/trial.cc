#include "cuda/trial.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace onnx_fusion::cuda {
namespace {

constexpr int kRounds = 5;
constexpr float kRoundMs = 0.5f;  // about how long a round of each is
constexpr int kMostRepeats = 50;
constexpr float kClear = 0.2f;  // of the time: two rounds are enough
constexpr double kFaster = 0.98;  // of the time: less is chance
constexpr int64_t kWhole = int64_t{8} << 20, kPiece = int64_t{64} << 10;
constexpr int64_t kPieces = 64;           // of an output that is not compared whole
constexpr int64_t kDiffering = 1000;      // one of so many integers may, next to a border
constexpr unsigned char kPoison = 0xff;   // NaNs

double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 31  ? (fraction == 0 ? HUGE_VAL : std::nan(""))
                      : exponent == 0 ? std::ldexp(fraction, -24)
                                      : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -size : size;
}

double brain_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// The outputs' bytes that are compared: all, or pieces over the whole of them.
class Results {
 public:
  explicit Results(const Trial& trial) : trial_(trial) {
    for (const Written& out : trial.outputs) {
      const auto size = static_cast<int64_t>(dtype_size(out.dtype));
      const int64_t bytes = out.elements * size;
      const int64_t pieces = bytes <= kWhole ? 1 : kPieces;
      for (int64_t i = 0; i < pieces; ++i) {
        const int64_t start = pieces == 1 ? 0 : (bytes - kPiece) / size * i / (pieces - 1) * size;
        parts_.push_back({&out, start, pieces == 1 ? bytes : kPiece, {}});
        parts_.back().content.resize(static_cast<size_t>(parts_.back().bytes));
      }
    }
  }

  void poison() const {
    for (const Written& out : trial_.outputs) {
      const size_t bytes = static_cast<size_t>(out.elements) * dtype_size(out.dtype);
      if (bytes == 0) continue;
      trial_.driver.check("cuMemsetD8Async", trial_.driver.set_bytes(address(out.data), kPoison,
                                                                     bytes, trial_.stream));
    }
  }

  void read() {
    for (Part& part : parts_) {
      if (part.bytes == 0) continue;
      trial_.driver.check(
          "cuMemcpyDtoHAsync",
          trial_.driver.copy_to_host(part.content.data(),
                                     address(part.of->data) + static_cast<Address>(part.start),
                                     static_cast<size_t>(part.bytes), trial_.stream));
    }
    trial_.driver.check("cuStreamSynchronize", trial_.driver.await(trial_.stream));
  }

  // Can other results be told from these? Not by NaNs, or numbers that are all the same.
  bool tell() const {
    bool differ = false;
    for (const Part& part : parts_) {
      for (int64_t i = 0; i < part.count(); ++i) {
        if (is_float(part.of->dtype) && std::isnan(part.at(i))) return false;
        differ = differ || !part.same(i, part, 0);
      }
    }
    return differ;
  }

  // Are there infinities? Next to what overflows, another order of sums may have some, too.
  bool overflow() const {
    return std::any_of(parts_.begin(), parts_.end(), [](const Part& part) {
      for (int64_t i = 0; is_float(part.of->dtype) && i < part.count(); ++i) {
        if (std::isinf(part.at(i))) return true;
      }
      return false;
    });
  }

  // Are these as near to those as another order of sums explains?
  bool near(const Results& right) const {
    for (size_t p = 0; p < parts_.size(); ++p) {
      const Part &mine = parts_[p], &other = right.parts_[p];
      if (!is_float(mine.of->dtype)) {
        int64_t apart = 0;
        for (int64_t i = 0; i < mine.count(); ++i) apart += !mine.same(i, other, i);
        if (apart * kDiffering > mine.count()) return false;
        continue;
      }
      const double most = trial_.tolerance * right.range(*other.of);
      for (int64_t i = 0; i < mine.count(); ++i) {
        const double a = mine.at(i), b = other.at(i);
        if (!(std::abs(a - b) <= most || a == b)) return false;
      }
    }
    return true;
  }

 private:
  struct Part {
    const Written* of;
    int64_t start, bytes;
    std::vector<char> content;

    int64_t size() const { return static_cast<int64_t>(dtype_size(of->dtype)); }
    int64_t count() const { return bytes / size(); }
    const char* place(int64_t i) const { return content.data() + i * size(); }
    bool same(int64_t i, const Part& other, int64_t k) const {
      return std::memcmp(place(i), other.place(k), static_cast<size_t>(size())) == 0;
    }
    double at(int64_t i) const {
      const char* const from = place(i);
      const auto as = [&](auto value) {
        std::memcpy(&value, from, sizeof value);
        return value;
      };
      switch (of->dtype) {
        case DType::f16: return half_value(as(uint16_t{}));
        case DType::bf16: return brain_value(as(uint16_t{}));
        case DType::f64: return as(double{});
        default: return as(float{});
      }
    }
  };

  static Address address(const void* data) { return reinterpret_cast<uintptr_t>(data); }
  static bool is_float(DType dtype) {
    return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 ||
           dtype == DType::bf16;
  }
  double range(const Written& of) const {
    double most = std::numeric_limits<float>::min();
    for (const Part& part : parts_) {
      for (int64_t i = 0; part.of == &of && i < part.count(); ++i) {
        if (std::isfinite(part.at(i))) most = std::max(most, std::abs(part.at(i)));
      }
    }
    return most;
  }

  const Trial& trial_;
  std::vector<Part> parts_;
};

class Clock {
 public:
  explicit Clock(const Trial& trial) : trial_(trial) {
    for (Event& event : events_) {
      trial.driver.check("cuEventCreate", trial.driver.create_event(&event, 0));
    }
  }
  ~Clock() {
    for (const Event event : events_) {
      if (event != nullptr) trial_.driver.destroy_event(event);
    }
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;

  // Milliseconds of so many runs.
  float time(const Launches& launches, int repeats) const {
    const Driver& driver = trial_.driver;
    float taken = 0;
    driver.check("cuEventRecord", driver.record(events_[0], trial_.stream));
    for (int i = 0; i < repeats; ++i) {
      const Status status = trial_.start(launches);
      if (!status.ok()) throw ProgramError(status.message);
    }
    driver.check("cuEventRecord", driver.record(events_[1], trial_.stream));
    driver.check("cuEventSynchronize", driver.await_event(events_[1]));
    driver.check("cuEventElapsedTime", driver.elapsed(&taken, events_[0], events_[1]));
    return taken;
  }

  // Is the second really faster? Both in turns, the best of some rounds.
  bool beats(const Launches& first, const Launches& second) const {
    const float once = std::max(time(first, 1), 1e-3f);
    const int repeats = std::clamp(static_cast<int>(kRoundMs / once), 1, kMostRepeats);
    float best[2] = {std::numeric_limits<float>::max(), std::numeric_limits<float>::max()};
    for (int round = 0; round < kRounds; ++round) {
      best[0] = std::min(best[0], time(first, repeats));
      best[1] = std::min(best[1], time(second, repeats));
      if (round > 0 && std::abs(best[0] - best[1]) > kClear * best[0]) break;
    }
    return best[1] < kFaster * best[0];
  }

 private:
  const Trial& trial_;
  Event events_[2] = {};
};

// Offers one after the other: each in its library's ways, with what was chosen for those before.
class Search {
 public:
  Search(const Trial& trial, const Launches& own, Choice* best)
      : trial_(trial), own_(own), best_(best), right_(trial), made_(trial), clock_(trial) {}

  Verdict run() {
    *best_ = Choice();
    const Verdict verdict = search();
    if (verdict != Verdict::settled) {
      *best_ = Choice();
      return verdict;
    }
    for (size_t i = 0; i < kLibraries; ++i) {
      if (trial_.libraries[i] != nullptr) trial_.libraries[i]->judge(judged_[i][1], judged_[i][0]);
    }
    return verdict;
  }

 private:
  enum class Outcome { fine, none, wrong, later };

  Verdict search() {
    if (!trial_.reserve(own_.workspace_bytes())) return Verdict::later;
    start(own_);
    right_.read();
    if (!right_.tell()) return Verdict::later;
    bool tried = false;
    for (size_t number = 0; number < own_.plan.offers.size(); ++number) {
      const Offer& offer = own_.plan.offers[number];
      const Library* const library = trial_.libraries[static_cast<size_t>(offer.library)];
      if (library == nullptr || !is_worth(offer)) continue;
      const Choice before = *best_;
      const std::shared_ptr<const Launches> fastest = fastest_;
      const Outcome outcome = try_offer(number, before);
      if (outcome == Outcome::later) return Verdict::later;
      if (outcome == Outcome::none) continue;
      tried = true;
      ++judged_[static_cast<size_t>(offer.library)][outcome == Outcome::fine];
      if (outcome == Outcome::fine) continue;
      *best_ = before;
      fastest_ = fastest;
      tell(offer, *library);
    }
    return tried ? Verdict::settled : Verdict::untried;
  }

  Outcome try_offer(size_t number, const Choice& before) {
    const Offer& offer = own_.plan.offers[number];
    Outcome outcome = Outcome::none;
    for (const Maker maker : {Maker::library, Maker::library_by_parts, Maker::library_sums}) {
      // The sums alone only where there is no call that does more.
      if ((maker == Maker::library_by_parts && !offer.parts) ||
          (maker == Maker::library_sums && (!offer.sums || outcome != Outcome::none))) {
        continue;
      }
      for (int algorithm = 0; algorithm < kMostAlgorithms; ++algorithm) {
        Choice choice = before;
        choice.makers[number] = maker;
        choice.algorithms[number] = algorithm;
        const Outcome found = try_choice(choice);
        if (found == Outcome::none) break;
        if (found != Outcome::fine) return found;
        outcome = found;
      }
    }
    return outcome;
  }

  Outcome try_choice(const Choice& choice) {
    std::shared_ptr<const Launches> candidate;
    try {
      candidate = trial_.prepare(choice);
      if (!trial_.reserve(candidate->workspace_bytes())) return Outcome::later;
      made_.poison();
      start(*candidate);
    } catch (const ProgramError&) {
      return Outcome::none;  // there are no more algorithms, or no compiler
    }
    made_.read();
    if (!made_.near(right_)) return right_.overflow() ? Outcome::later : Outcome::wrong;
    if (clock_.beats(fastest_ ? *fastest_ : own_, *candidate)) {
      *best_ = choice;
      fastest_ = std::move(candidate);
    }
    return Outcome::fine;
  }

  void tell(const Offer& offer, const Library& library) const {
    std::string sizes;
    for (const int64_t size : offer.sizes)
      sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
    std::fprintf(stderr,
                 "onnx_fusion: %s computes something else than our kernel on %s for a %s of sizes "
                 "%s; that one stays our kernel's\n",
                 library.version().c_str(), trial_.place.name.c_str(),
                 offer.library == LibraryName::cublaslt ? "product" : "convolution", sizes.c_str());
  }

  void start(const Launches& launches) const {
    const Status status = trial_.start(launches);
    if (!status.ok()) throw ProgramError(status.message);
  }

  const Trial& trial_;
  const Launches& own_;
  Choice* const best_;
  Results right_, made_;
  const Clock clock_;
  std::shared_ptr<const Launches> fastest_;
  int judged_[kLibraries][2] = {};  // offers that were wrong, and right
};

}  // namespace

Verdict find_fastest(const Trial& trial, const Launches& own, Choice* best) {
  return Search(trial, own, best).run();
}

double tolerance_of(const Program& program, bool tf32) {
  double most = tf32 ? 2e-3 : 1e-4;
  for (const Tensor& tensor : program.tensors) {
    if (tensor.dtype == DType::f16) most = std::max(most, 2e-3);
    if (tensor.dtype == DType::bf16) most = std::max(most, 1.6e-2);
  }
  return most;
}

}  // namespace onnx_fusion::cuda
