// Convolutions for cuDNN: the letters of a load that reads images, and of one that reads filters,
// tell what each dim is.
//
//     load x (n, g * 4 + c, 2 * p + r - 1, 2 * q + s - 1) else 0      image, channel, space
//     load w (g * 8 + o, c, r, s)                                     filter, channel, taps
#include <algorithm>
#include <vector>

#include "cuda/call.h"
#include "cuda/fuse.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kSpared = int64_t{32} << 20, kMostWorkspace = int64_t{256} << 20;  // bytes

// Letters, or -1.
struct Roles {
  int image = -1, group = -1, filter = -1, channel = -1;
  int at[kMostSpace] = {-1, -1, -1}, tap[kMostSpace] = {-1, -1, -1};
};

class Matcher {
 public:
  Matcher(const Nest& nest, int dot)
      : nest_(nest),
        kept_(nest.letters[static_cast<size_t>(dot)]),
        summed_(nest.over[static_cast<size_t>(dot)]) {}

  // Is one load's images, with the channels in this dim, and the other's filters?
  bool match(int images, int filters, size_t channel_dim);
  bool place_result(const Linear& address, ImageStrides* at) const;
  bool is_bias(const Access& access) const;
  LetterSet kept() const { return kept_; }

  Convolution made;
  int64_t start = 0;  // of the images

 private:
  struct Dim {
    int group, letter;
    int64_t* stride;
  };
  int64_t extent(int letter) const { return letter < 0 ? 1 : nest_.extents[letter]; }
  bool assign(LetterSet shared, LetterSet filters);
  bool split(const BoundIndex& index, LetterSet kept, int* at, int* tap);
  bool find_space(const BoundIndex& index, LetterSet kept, size_t axis);
  bool place(const Linear& address, const Dim& first, const Dim& channels, const int* space,
             ImageStrides* at) const;

  const Nest& nest_;
  const LetterSet kept_, summed_;
  LetterSet seen_ = 0;
  Roles roles_;
};

// Letters of the result that both operands have, or only the filters: at most one of each.
bool Matcher::assign(LetterSet shared, LetterSet filters) {
  for (int l = 0; l < kMaxLetters; ++l) {
    if (!((shared | filters) >> l & 1)) continue;
    int& role = shared >> l & 1 ? roles_.group : roles_.filter;
    if (role >= 0) return false;
    role = l;
  }
  return true;
}

// The letters of a dim: at most one of `kept` and one that is summed over, and each in one dim.
bool Matcher::split(const BoundIndex& index, LetterSet kept, int* at, int* tap) {
  if (!index.linear) return false;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (!(nest_.active >> l & 1) || index.form.coef[l] == 0) continue;
    int& role = summed_ >> l & 1 ? *tap : *at;
    const bool known = (kept | summed_) >> l & 1;
    if (role >= 0 || !known || seen_ >> l & 1 || index.form.coef[l] < 0) return false;
    role = l;
    seen_ |= static_cast<LetterSet>(1u << l);
  }
  start += std::max<int64_t>(index.form.base, 0) * index.stride;
  return true;
}

// The library's extent of a result is (in + before + after - reach) / step + 1.
bool Matcher::find_space(const BoundIndex& index, LetterSet kept, size_t axis) {
  int &at = roles_.at[axis], &tap = roles_.tap[axis];
  if (!split(index, kept, &at, &tap)) return false;
  const int64_t step = at < 0 ? 1 : index.form.coef[at];
  const int64_t dilation = tap < 0 ? 1 : index.form.coef[tap];
  const int64_t reach = (extent(tap) - 1) * dilation + 1, out = extent(at);
  const int64_t before = std::max<int64_t>(-index.form.base, 0);
  int64_t in = index.extent - std::max<int64_t>(index.form.base, 0), after = before;
  const auto makes = [&] {
    const int64_t room = in + before + after - reach;
    return room >= 0 && room / step + 1 == out;
  };
  const int64_t needed = (out - 1) * step + reach - before;
  if (!makes()) after = std::max<int64_t>(needed - in, 0);
  if (!makes()) in = needed;  // what is behind is not read
  made.in[axis] = in;
  made.out[axis] = out;
  made.taps[axis] = extent(tap);
  made.step[axis] = step;
  made.dilation[axis] = dilation;
  made.before[axis] = before;
  made.after[axis] = after;
  made.a.space[axis] = index.stride;
  return in >= 1 && makes();
}

// Strides by the address's letters; a dim of one position has that of a dense tensor. Channels of
// one position, and those of filters without a window, are where those of the images are.
bool Matcher::place(const Linear& address, const Dim& first, const Dim& channels, const int* space,
                    ImageStrides* at) const {
  const auto length = [&](const Dim& dim) { return extent(dim.group) * extent(dim.letter); };
  const auto step = [&](const Dim& dim) {
    return address.coef[dim.letter >= 0 ? dim.letter : dim.group];
  };
  std::vector<Dim> dims{first};
  int64_t least = INT64_MAX;
  for (size_t i = 0; i < made.space; ++i) {
    dims.push_back({-1, space[i], &at->space[i]});
    if (space[i] >= 0) least = std::min(least, address.coef[space[i]]);
  }
  const bool unknown = length(channels) == 1 || least == INT64_MAX;
  const bool last = unknown ? made.a.channel == 1 : step(channels) < least;
  dims.insert(last ? dims.end() : dims.begin() + 1, channels);
  int64_t next = 1;
  for (auto dim = dims.rbegin(); dim != dims.rend(); ++dim) {
    *dim->stride = length(*dim) > 1 ? step(*dim) : next;
    if (*dim->stride <= 0) return false;
    next = *dim->stride * length(*dim);
    if (dim->group >= 0 && dim->letter >= 0 &&
        address.coef[dim->group] != *dim->stride * extent(dim->letter)) {
      return false;
    }
  }
  return true;
}

bool Matcher::place_result(const Linear& address, ImageStrides* at) const {
  return place(address, {-1, roles_.image, &at->image}, {roles_.group, roles_.filter, &at->channel},
               roles_.at, at);
}

bool Matcher::is_bias(const Access& access) const {
  int64_t next = 1;
  Linear left = access.address;
  for (const int letter : {roles_.filter, roles_.group}) {
    if (letter < 0) continue;
    if (left.coef[letter] != next) return false;
    left.coef[letter] = 0;
    next *= extent(letter);
  }
  return std::none_of(left.coef, left.coef + kMaxLetters, [](int64_t c) { return c != 0; });
}

bool Matcher::match(int images, int filters, size_t channel_dim) {
  const std::vector<BoundIndex>& dims = nest_.stage.maps[static_cast<size_t>(images)].dims;
  const LetterSet own = nest_.letters[static_cast<size_t>(images)],
                  other = nest_.letters[static_cast<size_t>(filters)];
  const Access& access = access_of(nest_, images);
  if (dims.size() < 3 || dims.size() > 2 + kMostSpace || channel_dim >= dims.size() ||
      !access.computed.empty() || !access.indirect.empty() || !access_of(nest_, filters).plain() ||
      (own & other & summed_) != summed_ ||
      (!access.guards.empty() && nest_.at(images).literal != 0)) {
    return false;
  }
  made = Convolution();
  made.space = dims.size() - 2;
  roles_ = Roles();
  seen_ = 0;
  start = 0;
  const auto set = [](int letters) { return static_cast<LetterSet>(letters); };
  const LetterSet shared = set(own & other & kept_), alone = set(own & kept_ & ~other);
  if (!assign(shared, set(other & kept_ & ~own))) return false;
  const BoundIndex &image = dims[0], &channel = dims[channel_dim];
  int tap = -1, group = -1;
  if (image.guarded || !split(image, alone, &roles_.image, &tap) || tap >= 0 ||
      (roles_.image >= 0 && image.form.coef[roles_.image] != 1)) {
    return false;
  }
  if (channel.guarded || !split(channel, shared, &group, &roles_.channel) ||
      group != roles_.group || (roles_.channel >= 0 && channel.form.coef[roles_.channel] != 1) ||
      (group >= 0 && channel.form.coef[group] != extent(roles_.channel))) {
    return false;
  }
  size_t axis = 0;
  for (size_t d = 1; d < dims.size(); ++d) {
    if (d != channel_dim && !find_space(dims[d], alone, axis++)) return false;
  }
  made.images = extent(roles_.image);
  made.groups = extent(roles_.group);
  made.channels = extent(roles_.channel);
  made.filters = extent(roles_.filter);
  made.a.image = image.stride;
  made.a.channel = channel.stride;
  return place(access_of(nest_, filters).address, {roles_.group, roles_.filter, &made.b.image},
               {-1, roles_.channel, &made.b.channel}, roles_.tap, &made.b);
}

// The only reduction, if that is a dot whose letters all stores have.
int find_dot(const Nest& nest) {
  int dot = -1;
  for (size_t i = 0; i < nest.lines(); ++i) {
    const int line = static_cast<int>(i);
    if (!nest.reduces(line) || nest.nothing(line)) continue;
    if (nest.at(line).op != Op::op_dot || dot >= 0) return -1;
    dot = line;
  }
  const bool same = std::all_of(nest.stores.begin(), nest.stores.end(), [&](int store) {
    return dot >= 0 &&
           nest.letters[static_cast<size_t>(store)] == nest.letters[static_cast<size_t>(dot)];
  });
  return same ? dot : -1;
}

// Letters of the result as its sums lie in a buffer: as the first store has them.
std::vector<int> order_of(const Nest& nest, LetterSet kept) {
  return nest.order(kept, access_of(nest, nest.stores[0]));
}

Linear dense(const Nest& nest, const std::vector<int>& order) {
  Linear address;
  int64_t next = 1;
  for (auto l = order.rbegin(); l != order.rend(); ++l) {
    address.coef[*l] = next;
    next *= nest.extents[*l];
  }
  return address;
}

bool find_whole(const Nest& nest, int dot, const Matcher& matcher, LibraryCall* found) {
  Call& call = found->call;
  Convolution& sizes = std::get<Convolution>(call.sizes);
  const auto usable = [&](const Access& access) {
    return access.plain() && is_aligned(nest, access);
  };
  const bool fits = find_rest(
      nest, dot, found,
      [&](const Access& access) {
        return usable(access) && call.result == call.operands &&
               matcher.place_result(access.address, &sizes.d);
      },
      [&](const Access& access) {
        if (!usable(access)) return false;
        if (!call.has_bias && matcher.is_bias(access)) {
          call.has_bias = true;
          call.at_bias = access.address.base;
          found->bias = access.tensor;
          return true;
        }
        // A sum in another order than the program's.
        if (call.has_c || call.strict || !matcher.place_result(access.address, &sizes.c)) {
          return false;
        }
        call.has_c = true;
        call.at_c = access.address.base;
        found->c = access.tensor;
        return true;
      });
  // Without a bias the library has no engines that do more, as of 9.28.
  return fits && (call.has_bias || (!call.has_c && !call.relu));
}

}  // namespace

bool find_convolution(const Work& work, const Nest& nest, bool whole, LibraryCall* found) {
  *found = LibraryCall();
  Call& call = found->call;
  const int dot = find_dot(nest);
  if (dot < 0) return false;
  int loads[2];
  for (int k = 0; k < 2; ++k) {
    loads[k] = skip_cast(nest, nest.needs(dot)[static_cast<size_t>(k)]);
    if (nest.at(loads[k]).op != Op::op_load) return false;
  }
  call.operands = nest.dtype(loads[0]);
  const bool half = call.operands == DType::f16 || call.operands == DType::bf16;
  if (nest.dtype(loads[1]) != call.operands || (!half && call.operands != DType::f32) ||
      (half ? work.device.arch < (call.operands == DType::f16 ? 75 : 80)
            : half_type(*work.bound.program) != DType::f32)) {
    return false;
  }
  call.strict = work.bound.program->strict;
  call.tf32 = !half && work.device.tf32 && work.device.arch >= 80 && !call.strict;
  Matcher matcher(nest, dot);
  const auto try_as = [&](int images, int filters) {
    const size_t last = nest.stage.maps[static_cast<size_t>(images)].dims.size() - 1;
    return matcher.match(images, filters, 1) || matcher.match(images, filters, last);
  };
  int first = 0;
  while (!try_as(loads[first], loads[1 - first])) {
    if (++first > 1) return false;
  }
  const Access& filters = access_of(nest, loads[1 - first]);
  const int64_t size = static_cast<int64_t>(dtype_size(call.operands));
  found->a = access_of(nest, loads[first]).tensor;
  found->b = filters.tensor;
  call.at_a = matcher.start;
  call.at_b = filters.address.base;
  if (!is_aligned(call.operands, call.at_a) || !is_aligned(nest, filters)) return false;
  const auto bytes = [&](int tensor) {
    return size * work.bound.tensors[static_cast<size_t>(tensor)].elements;
  };
  const int64_t made = size * nest.points(matcher.kept());
  call.most_workspace = static_cast<size_t>(
      std::min(kSpared + bytes(found->a) + bytes(found->b) + made, kMostWorkspace));
  call.sizes = matcher.made;
  LibraryCall all = *found;
  if (whole && find_whole(nest, dot, matcher, &all)) {
    *found = all;
    return true;
  }
  // cuDNN has no sums in f32 of halves.
  return !half && matcher.place_result(dense(nest, order_of(nest, matcher.kept())),
                                       &std::get<Convolution>(call.sizes).d);
}

Status plan_convolution(Work& work, size_t stage, const Nest& nest, const LibraryCall& found) {
  if (found.d >= 0) {
    add_whole(work, found);
    return Status();
  }
  const int dot = find_dot(nest);
  const LetterSet kept = nest.letters[static_cast<size_t>(dot)];
  const Program& program = *work.bound.program;
  const auto buffer = [](int number) { return Argument{Argument::Kind::workspace, number}; };
  const int workspace = work.buffer(static_cast<int64_t>(found.call.workspace_bytes));
  const int sums = work.buffer(4 * nest.points(kept));
  Call call = found.call;
  call.result = DType::f32;
  work.add(call, {argument_of(program, found.a), argument_of(program, found.b), buffer(sums),
                  buffer(workspace)});
  return plan_rest(work, stage, nest, dot, order_of(nest, kept), sums);
}

}  // namespace onnx_fusion::cuda
