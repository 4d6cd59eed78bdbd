// Joining passes into strands: values go from one to the next in registers, and to memory only
// where something else reads them.
#include <algorithm>

#include "cpu/compile.h"

namespace onnx_fusion::cpu {
namespace {

struct Link {
  int op;
  int other;  // slot, or -1
};

// A pass as links on the values of slot `from`.
struct Links {
  int from = -1;
  std::vector<Link> links;
};

constexpr size_t kMostOfOne = 5;  // links of one pass, with those that take and keep

constexpr int kChains[kChainOps] = {kStrandAdd, kStrandSub, kStrandRsub,   kStrandMul,
                                    kStrandMin, kStrandMax, kStrandAtMost, kStrandAtLeast};

// The link that has the other operand on the other side, or -1.
int reversed(int op) {
  switch (op) {
    case kStrandAdd:
    case kStrandMul: return op;
    case kStrandSub: return kStrandRsub;
    case kStrandRsub: return kStrandSub;
    case kStrandDiv: return kStrandRdiv;
    case kStrandMin:
    case kStrandMax: return op;
    default: return -1;
  }
}

class Joiner {
 public:
  explicit Joiner(TileProgram* program) : program_(*program), reads_(program->slots.size(), 0) {}

  void run() {
    for (const Segment& segment : program_.segments) {
      for (const Step& step : segment.steps) each_read(step, [&](int slot) { ++read(slot); });
    }
    for (const TileStore& store : program_.stores) ++read(store.slot);
    for (Segment& segment : program_.segments) join(&segment.steps);
    for (Segment& segment : program_.segments) place_past(&segment.steps);
  }

 private:
  int& read(int slot) { return reads_[static_cast<size_t>(slot)]; }

  template <class F>
  void each_read(const Step& step, const F& f) const {
    const int in[5] = {step.a, step.b, step.c, step.d, step.e};
    for (int i = 0; i < 5; ++i) {
      if (in[i] >= 0 && std::find(in, in + i, in[i]) == in + i) f(in[i]);
    }
    if (step.kind != StepKind::load) return;
    for (const TileIndirect& indirect : program_.loads[static_cast<size_t>(step.ref)].indirects) {
      if (indirect.slot >= 0) f(indirect.slot);
    }
  }

  const Slot& slot(int s) const { return program_.slots[static_cast<size_t>(s)]; }
  bool is_scalar(int s) const { return slot(s).width == Width::scalar; }

  static int unary(const Step& step) {
    const Kernels& k = kernels();
    static constexpr struct {
      Op op;
      int link;
    } known[] = {{Op::op_neg, kStrandNeg},         {Op::op_abs, kStrandAbs},
                 {Op::op_sqrt, kStrandSqrt},       {Op::op_floor, kStrandFloor},
                 {Op::op_ceil, kStrandCeil},       {Op::op_round, kStrandRound},
                 {Op::op_exp, kStrandExp},         {Op::op_tanh, kStrandTanh},
                 {Op::op_sigmoid, kStrandSigmoid}, {Op::op_erf, kStrandErf}};
    for (const auto& one : known) {
      if (step.op == one.op && step.pass == k.unary[static_cast<int>(one.op)][0]) return one.link;
    }
    return step.pass == k.silu            ? int{kStrandSilu}
           : step.pass == k.softplus      ? int{kStrandSoftplus}
           : step.pass == k.tanh_softplus ? int{kStrandTanhSoftplus}
           : step.pass == k.mish          ? int{kStrandMish}
                                          : -1;
  }

  static int binary(const Step& step) {
    static constexpr struct {
      Op op;
      int link;
    } known[] = {{Op::op_add, kStrandAdd}, {Op::op_sub, kStrandSub}, {Op::op_mul, kStrandMul},
                 {Op::op_div, kStrandDiv}, {Op::op_min, kStrandMin}, {Op::op_max, kStrandMax}};
    for (const auto& one : known) {
      if (step.op != one.op) continue;
      const auto& passes = kernels().binary[static_cast<int>(one.op)][0];
      if (std::find(passes, passes + 3, step.pass) != passes + 3) return one.link;
    }
    return -1;
  }

  bool read_pass(const Step& step, Links* pass) const {
    if (step.kind != StepKind::pass || step.width != Width::full) return false;
    const Kernels& k = kernels();
    pass->from = step.a;
    if (const int op = unary(step); op >= 0) {
      pass->links = {{op, -1}};
    } else if (const int two = binary(step); two >= 0) {
      pass->links = {{two, step.b}};
      if (is_scalar(step.a)) {
        pass->from = step.b;
        pass->links = {{reversed(two), step.a}};
      }
    } else if (step.pass == k.clip) {
      pass->links = {{kStrandAtLeast, step.b}, {kStrandAtMost, step.c}};
    } else if (step.pass == k.exp_sub[0] || step.pass == k.exp_sub[1]) {
      pass->links = {{kStrandSub, step.b}, {kStrandExp, -1}};
    } else if (step.op == Op::count && step.ref >= 0) {
      const int inner = step.ref / kChainOps, outer = step.ref % kChainOps;
      const auto& passes = k.chain[inner][outer];
      if (std::find(passes, passes + 4, step.pass) == passes + 4) return false;
      pass->links = {{kChains[inner], step.b}, {kChains[outer], step.c}};
    } else if (!read_shifted(step, pass)) {
      return false;
    }
    if (slot(pass->from).width != Width::full) return false;
    for (Link& link : pass->links) {
      if (link.other < 0) continue;
      if (slot(link.other).width == Width::row) return false;
      const Slot& other = slot(link.other);
      const bool number = other.is_constant && (other.constant & 0x7fffffff) <= 0x7f800000;
      if (number && link.op == kStrandMin) link.op = kStrandAtMost;
      if (number && link.op == kStrandMax) link.op = kStrandAtLeast;
    }
    Link& first = pass->links[0];
    if (first.op == kStrandMul && first.other == pass->from) first = {kStrandSquare, -1};
    return true;
  }

  static bool read_shifted(const Step& step, Links* pass) {
    constexpr int functions[3] = {kStrandTanh, kStrandErf, kStrandSigmoid};
    for (int which = 0; which < 3; ++which) {
      for (int divides = 0; divides < 2; ++divides) {
        if (step.pass != kernels().shifted[which][divides]) continue;
        pass->links = {{divides ? kStrandOver : kStrandMul, step.b},
                       {functions[which], -1},
                       {kStrandAdd, step.c}};
        return true;
      }
    }
    return false;
  }

  // What sets a pointer or fills a slot may come earlier than what does not make what it reads.
  bool moves_up(const Step& step) const {
    switch (step.kind) {
      case StepKind::point:
      case StepKind::place:
      case StepKind::load:
      case StepKind::fill:
      case StepKind::repeat: break;
      default: return false;
    }
    bool waits = false;
    each_read(step, [&](int s) {
      const auto makes = [s](const Step& made) { return made.out == s; };
      waits = waits || std::any_of(steps_.begin(), steps_.end(), makes);
    });
    return !waits;
  }

  void join(std::vector<Step>* steps) {
    std::vector<Step> done;
    for (const Step& step : *steps) {
      Links pass;
      if (read_pass(step, &pass)) {
        if ((steps_.size() + 1) * kMostOfOne > kMostLinks) close(&done);
        steps_.push_back(step);
        passes_.push_back(std::move(pass));
        continue;
      }
      if (!moves_up(step)) close(&done);
      done.push_back(step);
    }
    close(&done);
    *steps = std::move(done);
  }

  // Whether anything but the pass after it reads what pass i makes.
  bool is_kept(size_t i) {
    const int made = steps_[i].out;
    int others = read(made);
    if (i + 1 < steps_.size() && passes_[i + 1].from == made) {
      const auto reads = [made](const Link& link) { return link.other == made; };
      const std::vector<Link>& links = passes_[i + 1].links;
      if (std::none_of(links.begin(), links.end(), reads)) --others;
    }
    return others > 0 || i + 1 == steps_.size();
  }

  void close(std::vector<Step>* done) {
    if (steps_.size() < 2 && (steps_.empty() || past_store(steps_[0].out) < 0)) {
      done->insert(done->end(), steps_.begin(), steps_.end());
    } else {
      done->push_back(strand());
    }
    steps_.clear();
    passes_.clear();
  }

  // The store past the caches of what is in a slot, or -1.
  int past_store(int made) const {
    for (size_t s = 0; s < program_.stores.size(); ++s) {
      if (program_.stores[s].past && program_.stores[s].slot == made) return static_cast<int>(s);
    }
    return -1;
  }

  // What a strand ends with and is to be stored past the caches goes there at once.
  void place_past(std::vector<Step>* steps) {
    std::vector<Step> done;
    std::vector<int> stored;
    for (const Step& step : *steps) {
      const int index = step.kind == StepKind::strand ? past_store(step.out) : -1;
      if (index >= 0) {
        const TileStore& store = program_.stores[static_cast<size_t>(index)];
        Step place;
        place.kind = StepKind::point;
        place.width = store.width;
        place.out = step.out;
        place.ref = static_cast<int>(program_.points.size());
        program_.points.push_back(
            {store.tensor, static_cast<int64_t>(store.bytes), store.address, true});
        program_.slots[static_cast<size_t>(step.out)].pointed = true;
        const auto& known = strand_kernels().links;
        std::vector<Strand::Link>& links = program_.strands[static_cast<size_t>(step.ref)].links;
        links.back().run = known[kStrandPast][1];
        for (Strand::Link& link : links) {
          if (link.run.block == known[kStrandTake][1].block) link.run = known[kStrandFetch][1];
        }
        done.push_back(place);
        stored.push_back(index);
      }
      const bool is_stored = step.kind == StepKind::store &&
                             std::find(stored.begin(), stored.end(), step.ref) != stored.end();
      if (!is_stored) done.push_back(step);
    }
    *steps = std::move(done);
  }

  Step strand() {
    for (size_t i = 1; i < steps_.size(); ++i) {
      // The value at hand comes first where the operands may be swapped.
      Link& first = passes_[i].links[0];
      const int at_hand = steps_[i - 1].out;
      if (first.other != at_hand || passes_[i].from == at_hand || reversed(first.op) < 0) continue;
      first = {reversed(first.op), passes_[i].from};
      passes_[i].from = at_hand;
    }
    Strand strand;
    strand.cost = 0.05;
    const auto add = [&](int op, int slot, bool elements) {
      strand.links.push_back({strand_kernels().links[op][elements], slot});
      strand.cost += op >= kStrandExp && op < kStrandTake ? 0.3 : 0.03;
    };
    for (size_t i = 0; i < steps_.size(); ++i) {
      const Links& pass = passes_[i];
      if (i == 0 || pass.from != steps_[i - 1].out) add(kStrandTake, pass.from, true);
      for (const Link& link : pass.links) {
        add(link.op, link.other, link.other >= 0 && !is_scalar(link.other));
      }
      if (is_kept(i)) add(i + 1 == steps_.size() ? kStrandLast : kStrandKeep, steps_[i].out, true);
    }
    Step step;
    step.kind = StepKind::strand;
    step.out = steps_.back().out;
    step.ref = static_cast<int>(program_.strands.size());
    program_.strands.push_back(std::move(strand));
    return step;
  }

  TileProgram& program_;
  std::vector<int> reads_;  // per slot: steps and stores that read it
  std::vector<Step> steps_;  // those of the strand being made
  std::vector<Links> passes_;
};

}  // namespace

void join_strands(TileProgram* program) { Joiner(program).run(); }

}  // namespace onnx_fusion::cpu
