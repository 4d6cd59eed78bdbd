// A stand-in for libcudnn's backend: checks every descriptor, attribute and address as cudnn_graph.h of 9.28
// has them, and convolves on the host.
//
// FAKE_CUDNN_MS (1): what a call takes, by the clock of fake_cuda.cc; the second engine half of it.
// FAKE_CUDNN_ENGINES=0: there are none. FAKE_CUDNN_BARE: there are none that do more than convolve.
// FAKE_CUDNN_WRONG: one element is wrong. FAKE_CUDNN_FAILS: calls fail. FAKE_CUDNN_WORKSPACE (1000): bytes.
// FAKE_CUDNN_TF32, FAKE_CUDNN_STRICT: tests expect engines that are for these programs.
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "fake_library.h"

namespace {

enum { kOk = 0, kBadParameter = 2000, kNotSupported = 3000, kFailed = 5000 };
enum { kPointwise, kConvolution, kEngine, kConfig, kHeuristics, kPlan,
       kConvolve = 10, kPoints = 13, kGraph = 15, kPack = 16, kTensor = 17 };

struct Descriptor;
using Ints = std::vector<int64_t>;

struct Attribute {
  int kind;      // of descriptor
  int type;      // cudnnBackendAttributeType_t
  size_t size;   // of an element
  bool several, optional;
};
const std::map<int, Attribute> kAttributes = {
    {0, {kPointwise, 14, 4, false, false}}, {1, {kPointwise, 1, 4, false, false}},
    {2, {kPointwise, 10, 4, false, true}},
    {100, {kConvolution, 1, 4, false, false}}, {101, {kConvolution, 7, 4, false, false}},
    {102, {kConvolution, 3, 8, true, false}}, {103, {kConvolution, 3, 8, true, false}},
    {104, {kConvolution, 3, 8, true, false}}, {105, {kConvolution, 3, 8, true, false}},
    {106, {kConvolution, 3, 8, false, false}},
    {200, {kHeuristics, 8, 4, false, false}}, {201, {kHeuristics, 15, 8, false, false}},
    {400, {kPlan, 0, 8, false, false}}, {401, {kPlan, 15, 8, false, false}},
    {700, {kConvolve, 4, 4, false, false}}, {701, {kConvolve, 4, 4, false, false}},
    {702, {kConvolve, 15, 8, false, false}}, {703, {kConvolve, 15, 8, false, false}},
    {704, {kConvolve, 15, 8, false, false}}, {705, {kConvolve, 15, 8, false, false}},
    {750, {kPoints, 15, 8, false, false}}, {751, {kPoints, 15, 8, false, false}},
    {752, {kPoints, 15, 8, false, true}}, {753, {kPoints, 15, 8, false, false}},
    {800, {kGraph, 0, 8, false, false}}, {801, {kGraph, 15, 8, true, false}},
    {900, {kTensor, 3, 8, false, false}}, {901, {kTensor, 1, 4, false, false}},
    {902, {kTensor, 3, 8, true, false}}, {903, {kTensor, 3, 8, true, false}},
    {906, {kTensor, 3, 8, false, false}}, {907, {kTensor, 2, 1, false, true}},
    {1000, {kPack, 3, 8, true, false}}, {1001, {kPack, 6, 8, true, false}},
    {1003, {kPack, 6, 8, false, false}},
};

struct Descriptor {
  int kind;
  bool finalized = false;
  std::map<int, std::string> held;
  int engine = -1;              // of an engine or what holds one
  Descriptor* graph = nullptr;

  template <class T>
  T one(int name) const {
    T value{};
    const auto found = held.find(name);
    if (found != held.end()) std::memcpy(&value, found->second.data(), sizeof value);
    return value;
  }
  template <class T = int64_t>
  std::vector<T> many(int name) const {
    const std::string& bytes = held.at(name);
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  Descriptor* part(int name) const { return one<Descriptor*>(name); }
  Ints dims() const { return many(902); }
  Ints strides() const { return many(903); }
  int type() const { return one<int>(901); }
  bool is_virtual() const { return one<bool>(907); }
};

// What engines there are, the library's best first, and whether they may be used.
struct Engine {
  int mode;
  std::vector<int> numerical, behavior;
  int64_t workspace = 0;  // 0: FAKE_CUDNN_WORKSPACE
  bool unreadable = false;
};
const Engine kEngines[] = {
    {3, {0, 2}, {}},                       // sums in halves
    {3, {}, {}, int64_t{1} << 40},         // a workspace too large
    {3, {0}, {}},                          // tensor cores: tf32, for floats
    {3, {0, 1}, {}},                       // rounds operands
    {3, {4}, {}},                          // atomic sums
    {3, {}, {0}},                          // compiles
    {3, {5, 6}, {}},                       // Winograd
    {3, {}, {}},
    {2, {9}, {}},
    {3, {}, {}, 0, true},                  // does not tell its notes
    {3, std::vector<int>(20, 9), {}},      // has more than are read
};
int64_t workspace_of(int engine) {
  const int64_t own = kEngines[engine].workspace;
  return own > 0 ? own : number("FAKE_CUDNN_WORKSPACE", 1000);
}

auto& mutex = *new std::mutex;
auto& wrong = *new std::string;  // what was asked for that cuDNN refuses, or must not be asked
auto& last = *new std::string;
std::atomic<int> calls{0}, objects{0};
struct Handle {
  void* stream;
  bool has_stream = false;
  std::atomic<int> inside{0};
};
auto& handles = *new std::set<Handle*>;  // never destroyed
auto& configs = *new std::set<Descriptor*>;

bool is_handle(Handle* handle) {
  const std::lock_guard<std::mutex> lock(mutex);
  return handles.count(handle) > 0;
}

int refuse(const std::string& what) {
  const std::lock_guard<std::mutex> lock(mutex);
  wrong += what + "\n";
  return kBadParameter;
}

int finalize_tensor(const Descriptor& t) {
  const Ints dims = t.dims(), strides = t.strides();
  if (dims.size() != strides.size() || dims.size() < 4 || dims.size() > 5) return refuse("a tensor's rank");
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < 1 || strides[i] < 1) return refuse("a tensor's dim");
  }
  return t.one<int64_t>(900) == 16 ? kOk : refuse("alignment");
}

int finalize_convolution(const Descriptor& c) {
  const size_t space = static_cast<size_t>(c.one<int64_t>(106));
  for (const int name : {102, 103, 104, 105}) {
    if (c.many(name).size() != space) return refuse("axes of space");
  }
  return c.one<int>(100) == kFloat && c.one<int>(101) == 1 ? kOk : refuse("how it convolves");
}

int finalize_convolve(const Descriptor& op) {
  const Descriptor &c = *op.part(702), &w = *op.part(703), &x = *op.part(704), &y = *op.part(705);
  const Ints xs = x.dims(), ws = w.dims(), ys = y.dims();
  const Ints pre = c.many(105), post = c.many(104), step = c.many(103), dilation = c.many(102);
  if (xs.size() != ws.size() || ws.size() != ys.size() || xs.size() != pre.size() + 2) return refuse("ranks");
  if (x.type() != w.type() || op.one<float>(700) != 1 || op.one<float>(701) != 0) return refuse("operands");
  if (xs[0] != ys[0] || ws[0] != ys[1] || xs[1] % ws[1] || ys[1] % (xs[1] / ws[1])) return refuse("channels");
  for (size_t i = 0; i < pre.size(); ++i) {
    const int64_t room = xs[i + 2] + pre[i] + post[i] - ((ws[i + 2] - 1) * dilation[i] + 1);
    if (pre[i] < 0 || post[i] < 0 || step[i] < 1 || dilation[i] < 1 || room < 0 ||
        room / step[i] + 1 != ys[i + 2]) {
      return refuse("an extent of space");
    }
  }
  return kOk;
}

int finalize_points(const Descriptor& op) {
  const int mode = op.part(750)->one<int>(0);
  const Ints xs = op.part(751)->dims();
  if (op.part(750)->one<int>(1) != kFloat || xs != op.part(753)->dims()) return refuse("points");
  if (!op.part(751)->is_virtual() || op.part(751)->type() != kFloat) return refuse("a value between operations");
  if (mode == 100) return op.part(752) == nullptr ? kOk : refuse("ReLU of two");
  if (mode != 0 || op.part(752) == nullptr) return refuse("which points");
  const Ints bs = op.part(752)->dims();
  for (size_t i = 0; i < xs.size(); ++i) {
    if (bs[i] != xs[i] && bs[i] != 1) return refuse("what is added");
  }
  return kOk;
}

// Convolution alone, or + residual + bias, ReLU, of which only the bias must be there.
int finalize_graph(const Descriptor& g) {
  if (!is_handle(g.one<Handle*>(800))) return refuse("a graph's handle");
  std::string shape;
  const std::vector<Descriptor*> ops = g.many<Descriptor*>(801);
  for (size_t i = 0; i < ops.size(); ++i) {
    const Descriptor& op = *ops[i];
    if (!op.finalized) return refuse("an operation that is not final");
    const Descriptor& made = *op.part(op.kind == kConvolve ? 705 : 753);
    if (made.is_virtual() != (i + 1 < ops.size())) return refuse("what is virtual");
    if (i > 0 && op.part(751) != ops[i - 1]->part(i > 1 ? 753 : 705)) return refuse("a chain");
    if (op.kind == kConvolve) {
      shape += "x";
    } else if (op.part(750)->one<int>(0) == 100) {
      shape += "r";
    } else {
      shape += op.part(752)->dims() == made.dims() && made.dims()[0] * made.dims()[2] * made.dims()[3] > 1 ? "c" : "b";
    }
  }
  if (shape != "x" && std::getenv("FAKE_CUDNN_BARE") != nullptr) return kNotSupported;
  const bool known = shape == "x" || shape == "xb" || shape == "xcb" || shape == "xbr" || shape == "xcbr";
  const Descriptor* y = ops.back()->part(ops.size() > 1 ? 753 : 705);
  return known && y->type() == ops[0]->part(704)->type() ? kOk : kNotSupported;
}

int finalize(Descriptor& d) {
  for (const auto& [name, attribute] : kAttributes) {
    if (attribute.kind == d.kind && !attribute.optional && !d.held.count(name)) {
      return refuse("no attribute " + std::to_string(name));
    }
  }
  switch (d.kind) {
    case kTensor: return finalize_tensor(d);
    case kConvolution: return finalize_convolution(d);
    case kConvolve: return finalize_convolve(d);
    case kPoints: return finalize_points(d);
    case kGraph: return finalize_graph(d);
    case kHeuristics: return number("FAKE_CUDNN_ENGINES", 1) > 0 ? kOk : kNotSupported;
    case kPlan:
      d.engine = d.part(401)->engine;
      d.graph = d.part(401)->graph;
      return is_handle(d.one<Handle*>(400)) && d.engine >= 0 ? kOk : refuse("a plan");
    case kPointwise: case kPack: return kOk;
    default: return refuse("finalizing " + std::to_string(d.kind));
  }
}

// A tensor of the graph with its memory.
struct Values {
  const Descriptor* of;
  char* memory;
  int64_t at(const Ints& place) const {
    const Ints dims = of->dims(), strides = of->strides();
    int64_t sum = 0;
    for (size_t i = 0; i < dims.size(); ++i) sum += dims[i] == 1 ? 0 : place[i] * strides[i];
    return sum;
  }
  double read(const Ints& place) const { return get(of->type(), memory, at(place)); }
};

bool next(Ints& place, const Ints& dims, size_t first = 0) {
  for (size_t i = dims.size(); i-- > first;) {
    if (++place[i] < dims[i]) return true;
    place[i] = 0;
  }
  return false;
}

void compute(const std::vector<Descriptor*>& ops, const std::map<int64_t, char*>& memory) {
  const auto find = [&](const Descriptor* t) { return Values{t, memory.at(t->one<int64_t>(906))}; };
  const Descriptor& c = *ops[0]->part(702);
  const Values x = find(ops[0]->part(704)), w = find(ops[0]->part(703));
  const Values y = find(ops.back()->part(ops.size() > 1 ? 753 : 705));
  const Ints xs = x.of->dims(), ws = w.of->dims(), ys = y.of->dims();
  const Ints pre = c.many(105), step = c.many(103), dilation = c.many(102);
  const int64_t filters = ys[1] / (xs[1] / ws[1]);
  Ints place(ys.size(), 0);
  int64_t count = 0;
  do {
    double sum = 0;
    Ints tap(ws.size(), 0), from(xs.size());
    tap[0] = place[1];
    do {
      from[0] = place[0];
      from[1] = place[1] / filters * ws[1] + tap[1];
      bool inside_image = true;
      for (size_t i = 2; i < xs.size(); ++i) {
        from[i] = place[i] * step[i - 2] + tap[i] * dilation[i - 2] - pre[i - 2];
        inside_image = inside_image && from[i] >= 0 && from[i] < xs[i];
      }
      if (inside_image) sum += x.read(from) * w.read(tap);
    } while (next(tap, ws, 1));
    for (size_t k = 1; k < ops.size(); ++k) {
      const Descriptor* b = ops[k]->part(752);
      if (b != nullptr) sum += find(b).read(place);
      const bool keeps = b == nullptr && ops[k]->part(750)->one<int>(2) == 1;
      if (b == nullptr && !(sum >= 0) && !(keeps && std::isnan(sum))) sum = 0;
    }
    if (std::getenv("FAKE_CUDNN_WRONG") && count++ == 3) sum += 2 * std::sqrt(static_cast<double>(ws[1] * 9));
    put(y.of->type(), y.memory, y.at(place), static_cast<float>(sum));
  } while (next(place, ys));
}

}  // namespace

extern "C" {

int fake_cudnn_calls() { return calls; }
int fake_cudnn_objects() { return objects; }
int fake_cudnn_handles() {
  const std::lock_guard<std::mutex> lock(mutex);
  return static_cast<int>(handles.size());
}
const char* fake_cudnn_wrong() { return wrong.c_str(); }
const char* fake_cudnn_last() { return last.c_str(); }

size_t cudnnGetVersion() { return static_cast<size_t>(number("FAKE_CUDNN_VERSION", 92801)); }
const char* cudnnGetErrorString(int status) {
  return status == kFailed ? "CUDNN_STATUS_EXECUTION_FAILED" : "CUDNN_STATUS_OTHER";
}
int cudnnCreate(Handle** handle) {
  const std::lock_guard<std::mutex> lock(mutex);
  *handle = *handles.insert(new Handle).first;
  return kOk;
}
int cudnnSetStream(Handle* handle, void* stream) {
  if (handle->has_stream && handle->stream != stream) return refuse("a handle of two streams");
  handle->has_stream = true;
  handle->stream = stream;
  return kOk;
}
int cudnnBackendCreateDescriptor(int kind, Descriptor** made) {
  ++objects;
  *made = new Descriptor{kind, false, {}, -1, nullptr};
  const std::lock_guard<std::mutex> lock(mutex);
  if (kind == kConfig) configs.insert(*made);
  return kOk;
}
int cudnnBackendDestroyDescriptor(Descriptor* descriptor) {
  --objects;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    configs.erase(descriptor);
  }
  delete descriptor;
  return kOk;
}
int cudnnBackendSetAttribute(Descriptor* d, int name, int type, int64_t count, const void* values) {
  const auto found = kAttributes.find(name);
  if (found == kAttributes.end() || found->second.kind != d->kind || found->second.type != type ||
      count < 1 || (count > 1 && !found->second.several) || d->finalized) {
    return refuse("attribute " + std::to_string(name) + " of " + std::to_string(d->kind));
  }
  d->held[name].assign(static_cast<const char*>(values), found->second.size * static_cast<size_t>(count));
  if (type == 15) {
    for (Descriptor* part : d->many<Descriptor*>(name)) {
      if (!part->finalized) return refuse("a part that is not final, " + std::to_string(name));
    }
  }
  return kOk;
}
int cudnnBackendFinalize(Descriptor* d) {
  if (d->finalized) return refuse("finalized twice");
  const int status = finalize(*d);
  d->finalized = status == kOk;
  return status;
}
int cudnnBackendGetAttribute(Descriptor* d, int name, int type, int64_t most, int64_t* count, void* values) {
  if (name == 202 && type == 15 && d->kind == kHeuristics) {
    *count = 0;
    for (int i = 0; i < static_cast<int>(std::size(kEngines)) && *count < most; ++i) {
      if (kEngines[i].mode != d->one<int>(200)) continue;
      Descriptor* config = static_cast<Descriptor**>(values)[(*count)++];
      if (config->kind != kConfig) return refuse("what takes a configuration");
      config->engine = i;
      config->graph = d->part(201);
      config->finalized = true;
    }
    return kOk;
  }
  if (name == 300 && type == 15 && d->kind == kConfig && most == 1) {
    Descriptor* engine = *static_cast<Descriptor**>(values);
    if (engine->kind != kEngine || d->engine < 0) return refuse("what takes an engine");
    engine->engine = d->engine;
    *count = 1;
    return kOk;
  }
  const bool numerical = name == 1303 && type == 11;
  if ((numerical || (name == 1305 && type == 19)) && d->kind == kEngine) {
    if (kEngines[d->engine].unreadable) return kFailed;
    const std::vector<int>& notes = numerical ? kEngines[d->engine].numerical : kEngines[d->engine].behavior;
    *count = static_cast<int64_t>(notes.size());
    std::copy_n(notes.begin(), std::min<size_t>(notes.size(), static_cast<size_t>(most)), static_cast<int*>(values));
    return kOk;
  }
  if (name == 402 && type == 3 && d->kind == kPlan && most == 1) {
    *static_cast<int64_t*>(values) = workspace_of(d->engine);
    *count = 1;
    return kOk;
  }
  return refuse("reading attribute " + std::to_string(name));
}
int cudnnBackendExecute(Handle* handle, Descriptor* plan, Descriptor* pack) {
  if (!is_handle(handle) || !handle->has_stream) return refuse("a handle");
  if (++handle->inside > 1) refuse("two threads with one handle");
  struct Leave {
    Handle* handle;
    ~Leave() { --handle->inside; }
  } leave{handle};
  ++calls;
  if (!plan->finalized || !pack->finalized) return refuse("a call");
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (configs.count(plan->part(401)) == 0) {
      wrong += "a plan without its configuration\n";
      return kBadParameter;
    }
  }
  const std::vector<Descriptor*> ops = plan->graph->many<Descriptor*>(801);
  const bool half = ops[0]->part(704)->type() != kFloat;
  // Of engines that may be used, the first takes the whole time.
  const int first = half || number("FAKE_CUDNN_TF32", 0) ? 2 : number("FAKE_CUDNN_STRICT", 0) ? 7 : 6;
  const bool transforms = plan->engine == 6 && (half || first == 7);
  if (plan->engine < first || (plan->engine > 2 && plan->engine < 6) || plan->engine > 8 || transforms) return refuse("an engine");
  tick(static_cast<float>(number("FAKE_CUDNN_MS", 1)) / (plan->engine > first ? 2 : 1));
  if (std::getenv("FAKE_CUDNN_FAILS") != nullptr) return kFailed;
  const Ints ids = pack->many(1000);
  const std::vector<char*> places = pack->many<char*>(1001);
  std::map<int64_t, char*> memory;
  for (size_t i = 0; i < ids.size(); ++i) {
    memory[ids[i]] = places.at(i);
    if (places[i] == nullptr || reinterpret_cast<uintptr_t>(places[i]) % 16 != 0) return refuse("an address");
  }
  char* workspace = pack->one<char*>(1003);
  if (workspace == nullptr || reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return refuse("workspace");
  std::memset(workspace, 0xa5, static_cast<size_t>(workspace_of(plan->engine)));
  const int type = ops[0]->part(704)->type();
  const Ints xs = ops[0]->part(704)->dims();
  const Ints ws = ops[0]->part(703)->dims();
  {
    const std::lock_guard<std::mutex> lock(mutex);
    last = std::string(type == kFloat ? "f32" : type == kHalf ? "f16" : "bf16");
    last += ops[0]->part(704)->strides()[1] == 1 ? " NHWC" : " NCHW";
    if (xs[1] != ws[1]) last += " groups " + std::to_string(xs[1] / ws[1]);
    for (size_t k = 1; k < ops.size(); ++k) {
      const Descriptor* b = ops[k]->part(752);
      last += b == nullptr ? " relu" : b->dims()[0] * b->dims()[2] * b->dims()[3] == 1 ? " bias" : " c";
    }
    last += " engine " + std::to_string(plan->engine);
  }
  compute(ops, memory);
  return kOk;
}

}  // extern "C"
