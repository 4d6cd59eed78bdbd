// The part of ONNX Runtime's C ABI that the custom op uses.
//
// OrtApi is a table of function pointers that only ever grows at its end, so a function is its
// index in it, the same in every version. The last one below exists from kShapeReferenceApi on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnx_fusion::ort {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtInferContext;
struct OrtOpAttr;
struct OrtLogger;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtValue;
struct OrtTypeInfo;
struct OrtTypeAndShape;
struct CustomOp;

enum ErrorCode : int { kFail = 1, kRuntimeException = 6 };
enum AttrType : int { kAttrString = 5 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };

// The oldest and newest version of the table that is asked for.
inline constexpr uint32_t kOldestApi = 19;
inline constexpr uint32_t kNewestApi = 24;
inline constexpr uint32_t kShapeReferenceApi = 24;

struct Api;

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*version_text)();
};

// One entry: its index in OrtApi and its type.
template <size_t Index, class Function>
struct Slot;

template <size_t Index, class Result, class... Args>
struct Slot<Index, Result(Args...)> {
  Result operator()(const Api* api, Args... args) const {
    using Pointer = Result (*)(Args...);
    return reinterpret_cast<const Pointer*>(api)[Index](args...);
  }
};

inline constexpr Slot<0, OrtStatus*(ErrorCode, const char*)> create_status;
inline constexpr Slot<2, const char*(const OrtStatus*)> error_message;
inline constexpr Slot<26, OrtStatus*(const char*, OrtCustomOpDomain**)> create_domain;
inline constexpr Slot<27, OrtStatus*(OrtCustomOpDomain*, const CustomOp*)> add_op;
inline constexpr Slot<28, OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)> add_domain;
inline constexpr Slot<51, OrtStatus*(OrtValue*, void**)> tensor_data;
inline constexpr Slot<55, OrtStatus*(const OrtTypeInfo*, const OrtTypeAndShape**)> cast_to_tensor;
inline constexpr Slot<57, OrtStatus*(OrtTypeAndShape**)> create_type_and_shape;
inline constexpr Slot<58, OrtStatus*(OrtTypeAndShape*, int)> set_element_type;
inline constexpr Slot<59, OrtStatus*(OrtTypeAndShape*, const int64_t*, size_t)> set_dims;
inline constexpr Slot<60, OrtStatus*(const OrtTypeAndShape*, int*)> element_type;
inline constexpr Slot<61, OrtStatus*(const OrtTypeAndShape*, size_t*)> rank;
inline constexpr Slot<62, OrtStatus*(const OrtTypeAndShape*, int64_t*, size_t)> dims;
inline constexpr Slot<63, OrtStatus*(const OrtTypeAndShape*, const char**, size_t)> dim_names;
inline constexpr Slot<65, OrtStatus*(const OrtValue*, OrtTypeAndShape**)> type_and_shape;
inline constexpr Slot<72, OrtStatus*(const OrtMemoryInfo*, int*)> memory_device;
inline constexpr Slot<75, OrtStatus*(OrtAllocator*, size_t, void**)> allocate;
inline constexpr Slot<76, OrtStatus*(OrtAllocator*, void*)> free_memory;
inline constexpr Slot<77, OrtStatus*(const OrtAllocator*, const OrtMemoryInfo**)> allocator_memory;
inline constexpr Slot<87, OrtStatus*(const OrtKernelInfo*, const char*, char*, size_t*)>
    string_attribute;
inline constexpr Slot<90, OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)> get_input;
inline constexpr Slot<91, OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>
    get_output;
inline constexpr Slot<93, void(OrtStatus*)> release_status;
inline constexpr Slot<98, void(OrtTypeInfo*)> release_type_info;
inline constexpr Slot<99, void(OrtTypeAndShape*)> release_type_and_shape;
inline constexpr Slot<132, void(OrtAllocator*)> release_allocator;
inline constexpr Slot<193, OrtStatus*(const OrtKernelContext*, void**)> compute_stream;
inline constexpr Slot<230, OrtStatus*(const OrtKernelInfo*, size_t*)> input_count;
inline constexpr Slot<231, OrtStatus*(const OrtKernelInfo*, size_t*)> output_count;
inline constexpr Slot<234, OrtStatus*(const OrtKernelInfo*, size_t, OrtTypeInfo**)> input_type;
inline constexpr Slot<235, OrtStatus*(const OrtKernelInfo*, size_t, OrtTypeInfo**)> output_type;
inline constexpr Slot<237, OrtStatus*(const OrtSessionOptions*, const char*, int*)>
    has_config_entry;
inline constexpr Slot<238, OrtStatus*(const OrtSessionOptions*, const char*, char*, size_t*)>
    config_entry;
inline constexpr Slot<244, OrtStatus*(const OrtKernelInfo*, char*, size_t*)> node_name;
inline constexpr Slot<245, OrtStatus*(const OrtKernelInfo*, const OrtLogger**)> session_logger;
inline constexpr Slot<249, OrtStatus*(const OrtKernelInfo*, size_t, int*, const OrtValue**)>
    constant_input;
inline constexpr Slot<267, OrtStatus*(const OrtInferContext*, size_t*)> infer_input_count;
inline constexpr Slot<268, OrtStatus*(const OrtInferContext*, size_t, OrtTypeAndShape**)>
    infer_input;
inline constexpr Slot<269, OrtStatus*(const OrtInferContext*, const char*, const OrtOpAttr**)>
    infer_attribute;
inline constexpr Slot<270, OrtStatus*(const OrtInferContext*, size_t, const OrtTypeAndShape*)>
    infer_output;
inline constexpr Slot<271, OrtStatus*(OrtTypeAndShape*, const char**, size_t)> set_dim_names;
inline constexpr Slot<272, OrtStatus*(const OrtOpAttr*, AttrType, void*, size_t, size_t*)>
    read_attribute;
using Task = void (*)(void* arg, size_t index);
inline constexpr Slot<274, OrtStatus*(const OrtKernelContext*, Task, size_t, size_t, void*)>
    parallel_for;
inline constexpr Slot<278, OrtStatus*(const OrtKernelInfo*, int, OrtAllocator**)> kernel_allocator;
inline constexpr Slot<414, OrtStatus*(const OrtValue*, int*, const int64_t**, size_t*)>
    borrow_shape;

// OrtCustomOp as it is since version 18. `version` is the version of the table that was asked for:
// ONNX Runtime decides by it which fields exist.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const OrtKernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, OrtKernelContext*);
  void (*destroy)(void*);
  Characteristic (*input_characteristic)(const CustomOp*, size_t);
  Characteristic (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*input_min_arity)(const CustomOp*);
  int (*input_homogeneous)(const CustomOp*);
  int (*output_min_arity)(const CustomOp*);
  int (*output_homogeneous)(const CustomOp*);
  OrtStatus* (*create_kernel_status)(const CustomOp*, const Api*, const OrtKernelInfo*, void**);
  OrtStatus* (*compute_status)(void*, OrtKernelContext*);
  OrtStatus* (*infer)(const CustomOp*, OrtInferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias)(int**, int**);
  void (*release_alias)(int*, int*);
};
static_assert(sizeof(CustomOp) == 208);

}  // namespace onnx_fusion::ort
