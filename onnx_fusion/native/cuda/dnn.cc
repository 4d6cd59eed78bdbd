// Convolutions by cuDNN's backend: a graph of the convolution and what it does at its end, engines
// for it by the library's own guess, and a plan of one of them.
#include <dlfcn.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cuda/library.h"

namespace onnx_fusion::cuda {
namespace {

// cudnn_graph.h of 9.28, where they are as in 9.0.
constexpr size_t kOldest = 90000;
constexpr int kFloat = 0, kHalf = 2, kBrain = 9;  // cudnnDataType_t
constexpr int kCrossCorrelation = 1;              // cudnnConvolutionMode_t
constexpr int kAdd = 0, kRelu = 100;              // cudnnPointwiseMode_t
constexpr int kModes[] = {3, 2};                  // cudnnBackendHeurMode_t: A, FALLBACK
constexpr int kKeepsNan = 1;                      // cudnnNanPropagation_t
// cudnnBackendAttributeType_t
constexpr int kTypeHandle = 0, kTypeData = 1, kTypeBool = 2, kTypeInt = 3, kTypeFloat = 4,
              kTypePointer = 6, kTypeMode = 7, kTypeHeuristic = 8, kTypeNan = 10,
              kTypeNumerical = 11, kTypePointwise = 14, kTypeDescriptor = 15, kTypeBehavior = 19;
// cudnnBackendDescriptorType_t
constexpr int kPointwise = 0, kConvolution = 1, kEngine = 2, kConfig = 3, kHeuristics = 4,
              kPlan = 5, kConvolve = 10, kPoints = 13, kGraph = 15, kPack = 16, kTensor = 17;
// cudnnBackendAttributeName_t
constexpr int kPointwiseMode = 0, kPointwisePrecision = 1, kPointwiseNan = 2;
constexpr int kComputeType = 100, kConvolutionMode = 101, kDilations = 102, kStrides = 103,
              kAfter = 104, kBefore = 105, kSpace = 106;
constexpr int kHeuristicMode = 200, kHeuristicGraph = 201, kHeuristicResults = 202;
constexpr int kConfigEngine = 300;
constexpr int kPlanHandle = 400, kPlanConfig = 401, kPlanWorkspace = 402;
constexpr int kAlpha = 700, kBeta = 701, kDescription = 702, kFilters = 703, kImages = 704,
              kResult = 705;
constexpr int kPointsMode = 750, kPointsX = 751, kPointsB = 752, kPointsY = 753;
constexpr int kGraphHandle = 800, kGraphOperations = 801;
constexpr int kTensorAlignment = 900, kTensorType = 901, kTensorDims = 902, kTensorStrides = 903,
              kTensorId = 906, kTensorVirtual = 907;
constexpr int kPackIds = 1000, kPackPointers = 1001, kPackWorkspace = 1003;
constexpr int kEngineNumerical = 1303, kEngineBehavior = 1305;
// cudnnBackendNumericalNote_t
constexpr int kTensorCores = 0, kConvertsInputs = 1, kReducedSums = 2, kFourier = 3,
              kNondeterministic = 4, kWinograd = 5, kWinogradLast = 8;
constexpr int kCompiles = 0;  // cudnnBackendBehaviorNote_t
constexpr int kMostNotes = 16;

constexpr int64_t kAlignment = 16;  // of what find_convolution takes
constexpr int kMostConfigs = 64;
enum Id : int64_t { id_a = 1, id_b, id_d, id_c, id_bias, id_virtual };

#define ONNX_FUSION_DNN(X)                                                           \
  X(version, "cudnnGetVersion", size_t())                                            \
  X(status_name, "cudnnGetErrorString", const char*(int))                            \
  X(create, "cudnnCreate", int(void**))                                              \
  X(use_stream, "cudnnSetStream", int(void*, Stream))                                \
  X(make, "cudnnBackendCreateDescriptor", int(int, void**))                          \
  X(destroy, "cudnnBackendDestroyDescriptor", int(void*))                            \
  X(set, "cudnnBackendSetAttribute", int(void*, int, int, int64_t, const void*))     \
  X(get, "cudnnBackendGetAttribute", int(void*, int, int, int64_t, int64_t*, void*)) \
  X(finalize, "cudnnBackendFinalize", int(void*))                                    \
  X(execute, "cudnnBackendExecute", int(void*, void*, void*))

struct Table {
#define X(member, name, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  ONNX_FUSION_DNN(X)
#undef X
};

// A descriptor, which remembers the first thing that went wrong with it.
class Descriptor {
 public:
  Descriptor(const Table& table, int type) : t_(table) { status_ = t_.make(type, &made_); }
  ~Descriptor() {
    if (made_ != nullptr) t_.destroy(made_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  Descriptor& set(int name, int type, const void* values, int64_t count = 1) {
    if (status_ == 0) status_ = t_.set(made_, name, type, count, values);
    return *this;
  }
  Descriptor& set(int name, int type, int value) { return set(name, type, &value); }
  Descriptor& set(int name, const Descriptor& other) {
    return set(name, kTypeDescriptor, &other.made_);
  }
  Descriptor& set(int name, const std::vector<int64_t>& values) {
    return set(name, kTypeInt, values.data(), static_cast<int64_t>(values.size()));
  }
  // Returns how many there are of it, of which at most `most` were written; -1 if it cannot be
  // told.
  int64_t get(int name, int type, int64_t most, void* values) const {
    int64_t count = 0;
    return status_ == 0 && t_.get(made_, name, type, most, &count, values) == 0 ? count : -1;
  }
  // The library's status.
  int finalize() {
    if (status_ == 0) status_ = t_.finalize(made_);
    return status_;
  }
  void* made() const { return made_; }

 private:
  const Table& t_;
  void* made_ = nullptr;
  int status_;
};

int type_of(DType dtype) {
  return dtype == DType::f16 ? kHalf : dtype == DType::bf16 ? kBrain : kFloat;
}

class Dnn : public Library {
 public:
  explicit Dnn(const Table& table) : table_(table) {
    version_ = "cuDNN " + std::to_string(table.version());
  }
  const char* entry() const override { return "cudnnBackendExecute"; }
  std::string describe(int status) const override {
    const char* name = table_.status_name(status);
    return std::string(name != nullptr ? name : "error") + " (" + std::to_string(status) + ")";
  }
  std::unique_ptr<Prepared> prepare(Context context, const Call& call,
                                    int algorithm) const override;
  using Library::Handle;  // serves one thread at a time
  using Library::handle;

 private:
  int create_handle(void** handle, const Stream* stream) const override {
    if (const int status = table_.create(handle)) return status;
    return stream == nullptr ? 0 : table_.use_stream(*handle, *stream);
  }
  const Table table_;
};

class PreparedConvolution : public Prepared {
 public:
  PreparedConvolution(const Table& table, const Dnn& dnn, Context context, void* handle,
                      const Call& call)
      : t_(table),
        dnn_(dnn),
        context_(context),
        handle_(handle),
        call_(call),
        sizes_(std::get<Convolution>(call.sizes)) {}

  bool describe();
  bool choose(int algorithm);
  int run(const uint64_t* pointers, Stream stream, bool captured) const override;

 private:
  using Dims = std::vector<int64_t>;
  Descriptor& make(int type) {
    return *parts_.emplace_back(std::make_unique<Descriptor>(t_, type));
  }
  // One axis of space is the second of two.
  size_t added() const { return sizes_.space == 1 ? 1 : 0; }
  Dims space(const int64_t* values, int64_t other) const {
    Dims all(added(), other);
    all.insert(all.end(), values, values + sizes_.space);
    return all;
  }
  const Descriptor* tensor(int64_t id, DType dtype, const Dims& dims, const Dims& strides);
  const Descriptor* images(int64_t id, DType dtype, int64_t count, int64_t channels,
                           const int64_t* extents, const ImageStrides& at);
  const Descriptor* point(int mode, const Descriptor* x, const Descriptor* b, bool last);
  const Descriptor* result(bool last);
  bool allows(const Descriptor& engine) const;
  bool plan(void* config);

  const Table& t_;
  const Dnn& dnn_;
  const Context context_;
  void* const handle_;  // that it is prepared with
  const Call call_;
  const Convolution sizes_;
  std::vector<std::unique_ptr<Descriptor>> parts_;
  std::vector<void*> operations_;
  int64_t next_ = id_virtual;
  std::unique_ptr<Descriptor> graph_, config_, plan_;  // each needs those before it
  mutable std::mutex mutex_;
};

const Descriptor* PreparedConvolution::tensor(int64_t id, DType dtype, const Dims& dims,
                                              const Dims& strides) {
  Descriptor& made = make(kTensor);
  made.set(kTensorId, {id}).set(kTensorType, kTypeData, type_of(dtype));
  made.set(kTensorDims, dims).set(kTensorStrides, strides).set(kTensorAlignment, {kAlignment});
  const bool is_virtual = id >= id_virtual;
  if (is_virtual) made.set(kTensorVirtual, kTypeBool, &is_virtual);
  return made.finalize() == 0 ? &made : nullptr;
}

const Descriptor* PreparedConvolution::images(int64_t id, DType dtype, int64_t count,
                                              int64_t channels, const int64_t* extents,
                                              const ImageStrides& at) {
  Dims dims{count, channels}, strides{at.image, at.channel};
  const Dims sides = space(extents, 1), steps = space(at.space, at.space[0] * extents[0]);
  dims.insert(dims.end(), sides.begin(), sides.end());
  strides.insert(strides.end(), steps.begin(), steps.end());
  return tensor(id, dtype, dims, strides);
}

// What an operation writes: the result, or what only the next one reads, which is float32.
const Descriptor* PreparedConvolution::result(bool last) {
  return images(last ? id_d : next_++, last ? call_.result : DType::f32, sizes_.images,
                sizes_.groups * sizes_.filters, sizes_.out, sizes_.d);
}

const Descriptor* PreparedConvolution::point(int mode, const Descriptor* x, const Descriptor* b,
                                             bool last) {
  const Descriptor* const y = result(last);
  Descriptor& how = make(kPointwise);
  how.set(kPointwiseMode, kTypePointwise, mode).set(kPointwisePrecision, kTypeData, kFloat);
  if (mode == kRelu) how.set(kPointwiseNan, kTypeNan, kKeepsNan);
  if (x == nullptr || y == nullptr || how.finalize() != 0) return nullptr;
  Descriptor& made = make(kPoints);
  made.set(kPointsMode, how).set(kPointsX, *x).set(kPointsY, *y);
  if (b != nullptr) made.set(kPointsB, *b);
  operations_.push_back(made.made());
  return made.finalize() == 0 ? y : nullptr;
}

bool PreparedConvolution::describe() {
  const Convolution& s = sizes_;
  Descriptor& window = make(kConvolution);
  const Dims steps = space(s.step, 1);
  window.set(kComputeType, kTypeData, kFloat).set(kConvolutionMode, kTypeMode, kCrossCorrelation);
  window.set(kSpace, {static_cast<int64_t>(steps.size())}).set(kStrides, steps);
  window.set(kDilations, space(s.dilation, 1));
  window.set(kBefore, space(s.before, 0)).set(kAfter, space(s.after, 0));
  if (window.finalize() != 0) return false;
  const int64_t made = s.groups * s.filters;
  const bool alone = !call_.has_c && !call_.has_bias && !call_.relu;
  const Descriptor* const a =
      images(id_a, call_.operands, s.images, s.groups * s.channels, s.in, s.a);
  const Descriptor* const b = images(id_b, call_.operands, made, s.channels, s.taps, s.b);
  const Descriptor* d = result(alone);
  if (a == nullptr || b == nullptr || d == nullptr) return false;
  const float one = 1, zero = 0;
  Descriptor& convolve = make(kConvolve);
  convolve.set(kAlpha, kTypeFloat, &one).set(kBeta, kTypeFloat, &zero).set(kDescription, window);
  convolve.set(kImages, *a).set(kFilters, *b).set(kResult, *d);
  if (convolve.finalize() != 0) return false;
  operations_.push_back(convolve.made());
  if (call_.has_c) {
    const Descriptor* const c = images(id_c, call_.result, s.images, made, s.out, s.c);
    d = c == nullptr ? nullptr : point(kAdd, d, c, !call_.has_bias && !call_.relu);
  }
  if (call_.has_bias && d != nullptr) {
    Dims dims(2 + steps.size(), 1), strides(2 + steps.size(), s.d.channel == 1 ? made : 1);
    dims[1] = strides[0] = made;
    strides[1] = 1;
    const Descriptor* const bias = tensor(id_bias, call_.result, dims, strides);
    d = bias == nullptr ? nullptr : point(kAdd, d, bias, !call_.relu);
  }
  if (call_.relu && d != nullptr) d = point(kRelu, d, nullptr, true);
  graph_ = std::make_unique<Descriptor>(t_, kGraph);
  graph_->set(kGraphHandle, kTypeHandle, &handle_);
  graph_->set(kGraphOperations, kTypeDescriptor, operations_.data(),
              static_cast<int64_t>(operations_.size()));
  return d != nullptr && graph_->finalize() == 0;
}

// Sums are float32 in all their parts and the same in every run, operands are not rounded unless
// they may be, and nothing is compiled. An engine of which this cannot be told is none of them.
bool PreparedConvolution::allows(const Descriptor& engine) const {
  int notes[kMostNotes];
  const auto has = [&](int name, int type, const auto& refused) {
    const int64_t count = engine.get(name, type, kMostNotes, notes);
    return count < 0 || count > kMostNotes || std::any_of(notes, notes + count, refused);
  };
  const bool half = call_.operands != DType::f32;
  const bool numerical = has(kEngineNumerical, kTypeNumerical, [&](int note) {
    const bool transforms = note == kFourier || (note >= kWinograd && note <= kWinogradLast);
    return note == kConvertsInputs || note == kReducedSums || note == kNondeterministic ||
           (note == kTensorCores && !half && !call_.tf32) || (transforms && (half || call_.strict));
  });
  return !numerical && !has(kEngineBehavior, kTypeBehavior, [](int n) { return n == kCompiles; });
}

bool PreparedConvolution::plan(void* config) {
  plan_ = std::make_unique<Descriptor>(t_, kPlan);
  plan_->set(kPlanHandle, kTypeHandle, &handle_);
  plan_->set(kPlanConfig, kTypeDescriptor, &config);
  int64_t bytes = 0;
  if (plan_->finalize() != 0 || plan_->get(kPlanWorkspace, kTypeInt, 1, &bytes) != 1 || bytes < 0 ||
      bytes > static_cast<int64_t>(call_.most_workspace)) {
    plan_ = nullptr;
    return false;
  }
  workspace_bytes_ = static_cast<size_t>(bytes);
  return true;
}

bool PreparedConvolution::choose(int algorithm) {
  for (const int mode : kModes) {
    Descriptor heuristics(t_, kHeuristics);
    heuristics.set(kHeuristicGraph, *graph_).set(kHeuristicMode, kTypeHeuristic, mode);
    if (heuristics.finalize() != 0) continue;
    std::vector<std::unique_ptr<Descriptor>> configs;
    void* made[kMostConfigs];
    for (void*& config : made) {
      configs.push_back(std::make_unique<Descriptor>(t_, kConfig));
      config = configs.back()->made();
    }
    const int64_t count = heuristics.get(kHeuristicResults, kTypeDescriptor, kMostConfigs, made);
    for (int64_t i = 0; i < std::min<int64_t>(count, kMostConfigs); ++i) {
      Descriptor engine(t_, kEngine);
      void* of = engine.made();
      if (configs[static_cast<size_t>(i)]->get(kConfigEngine, kTypeDescriptor, 1, &of) != 1 ||
          !allows(engine)) {
        continue;
      }
      if (!plan(made[i]) || algorithm-- > 0) continue;
      config_ = std::move(configs[static_cast<size_t>(i)]);
      return true;
    }
    plan_ = nullptr;
  }
  return false;
}

int PreparedConvolution::run(const uint64_t* pointers, Stream stream, bool captured) const {
  Dnn::Handle* const own = dnn_.handle(context_, stream, captured);
  if (own == nullptr) return kNotForStream;
  const auto at = [&](int which, DType dtype, int64_t start) {
    return pointers[which] + static_cast<uint64_t>(start) * dtype_size(dtype);
  };
  std::vector<int64_t> ids{id_a, id_b, id_d};
  std::vector<uint64_t> places{at(0, call_.operands, call_.at_a), at(1, call_.operands, call_.at_b),
                               at(2, call_.result, call_.at_d)};
  if (call_.has_c) {
    ids.push_back(id_c);
    places.push_back(at(4, call_.result, call_.at_c));
  }
  if (call_.has_bias) {
    ids.push_back(id_bias);
    places.push_back(at(call_.has_c ? 5 : 4, call_.result, call_.at_bias));
  }
  Descriptor pack(t_, kPack);
  pack.set(kPackIds, ids);
  pack.set(kPackPointers, kTypePointer, places.data(), static_cast<int64_t>(places.size()));
  pack.set(kPackWorkspace, kTypePointer, &pointers[3]);
  if (const int status = pack.finalize()) return status;
  const std::scoped_lock lock(mutex_, own->mutex);
  return t_.execute(own->handle, plan_->made(), pack.made());
}

std::unique_ptr<Prepared> Dnn::prepare(Context context, const Call& call, int algorithm) const {
  Handle* const own = handle(context);
  if (own == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(own->mutex);
  auto made = std::make_unique<PreparedConvolution>(table_, *this, context, own->handle, call);
  if (!made->describe() || !made->choose(algorithm)) return nullptr;
  return made;
}

}  // namespace

std::unique_ptr<const Library> open_dnn(void* file) {
  Table table;
#define X(member, name, ...)                                                  \
  table.member = reinterpret_cast<decltype(table.member)>(dlsym(file, name)); \
  if (table.member == nullptr) return nullptr;
  ONNX_FUSION_DNN(X)
#undef X
  if (table.version() < kOldest) return nullptr;
  return std::make_unique<Dnn>(table);
}

}  // namespace onnx_fusion::cuda
