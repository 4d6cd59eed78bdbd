// The part of ONNX Runtime's C ABI that the custom op uses.
//
// OrtApi is a table of function pointers that only ever grows at its end, so a function is its index. Nothing
// here depends on a version but the last slot, which must be read only if the table is new enough.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnx_fusion::ort {

struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct InferContext;
struct OpAttr;
struct Value;
struct TypeInfo;
struct TypeAndShape;
struct Op;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6 };
enum AttrType : int { kAttrString = 5 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };

// Oldest and newest version of the table that is asked for; `kShapeReference` brought the borrowed shape.
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

inline constexpr Slot<0, Status*(ErrorCode, const char*)> create_status;
inline constexpr Slot<2, const char*(const Status*)> error_message;
inline constexpr Slot<26, Status*(const char*, CustomOpDomain**)> create_domain;
inline constexpr Slot<27, Status*(CustomOpDomain*, const Op*)> add_op;
inline constexpr Slot<28, Status*(SessionOptions*, CustomOpDomain*)> add_domain;
inline constexpr Slot<51, Status*(Value*, void**)> tensor_data;
inline constexpr Slot<55, Status*(const TypeInfo*, const TypeAndShape**)> cast_to_tensor;
inline constexpr Slot<57, Status*(TypeAndShape**)> create_type_and_shape;
inline constexpr Slot<58, Status*(TypeAndShape*, int)> set_element_type;
inline constexpr Slot<59, Status*(TypeAndShape*, const int64_t*, size_t)> set_dims;
inline constexpr Slot<60, Status*(const TypeAndShape*, int*)> element_type;
inline constexpr Slot<61, Status*(const TypeAndShape*, size_t*)> rank;
inline constexpr Slot<62, Status*(const TypeAndShape*, int64_t*, size_t)> dims;
inline constexpr Slot<65, Status*(const Value*, TypeAndShape**)> type_and_shape;
inline constexpr Slot<87, Status*(const KernelInfo*, const char*, char*, size_t*)> string_attribute;
inline constexpr Slot<90, Status*(const KernelContext*, size_t, const Value**)> get_input;
inline constexpr Slot<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)> get_output;
inline constexpr Slot<93, void(Status*)> release_status;
inline constexpr Slot<98, void(TypeInfo*)> release_type_info;
inline constexpr Slot<99, void(TypeAndShape*)> release_type_and_shape;
inline constexpr Slot<230, Status*(const KernelInfo*, size_t*)> input_count;
inline constexpr Slot<231, Status*(const KernelInfo*, size_t*)> output_count;
inline constexpr Slot<234, Status*(const KernelInfo*, size_t, TypeInfo**)> input_type;
inline constexpr Slot<235, Status*(const KernelInfo*, size_t, TypeInfo**)> output_type;
inline constexpr Slot<244, Status*(const KernelInfo*, char*, size_t*)> node_name;
inline constexpr Slot<249, Status*(const KernelInfo*, size_t, int*, const Value**)> constant_input;
inline constexpr Slot<267, Status*(const InferContext*, size_t*)> infer_input_count;
inline constexpr Slot<268, Status*(const InferContext*, size_t, TypeAndShape**)> infer_input;
inline constexpr Slot<269, Status*(const InferContext*, const char*, const OpAttr**)> infer_attribute;
inline constexpr Slot<270, Status*(const InferContext*, size_t, const TypeAndShape*)> infer_output;
inline constexpr Slot<272, Status*(const OpAttr*, AttrType, void*, size_t, size_t*)> read_attribute;
inline constexpr Slot<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>
    parallel_for;
inline constexpr Slot<414, Status*(const Value*, int*, const int64_t**, size_t*)> borrow_shape;

// OrtCustomOp as it is since version 18. `version` must be the version of the table that was asked for.
struct Op {
    uint32_t version;
    void* (*create_kernel)(const Op*, const Api*, const KernelInfo*);
    const char* (*name)(const Op*);
    const char* (*provider)(const Op*);
    int (*input_type)(const Op*, size_t);
    size_t (*input_count)(const Op*);
    int (*output_type)(const Op*, size_t);
    size_t (*output_count)(const Op*);
    void (*compute)(void*, KernelContext*);
    void (*destroy)(void*);
    Characteristic (*input_characteristic)(const Op*, size_t);
    Characteristic (*output_characteristic)(const Op*, size_t);
    int (*input_memory)(const Op*, size_t);
    int (*input_min_arity)(const Op*);
    int (*input_homogeneous)(const Op*);
    int (*output_min_arity)(const Op*);
    int (*output_homogeneous)(const Op*);
    Status* (*create_kernel_status)(const Op*, const Api*, const KernelInfo*, void**);
    Status* (*compute_status)(void*, KernelContext*);
    Status* (*infer)(const Op*, InferContext*);
    int (*start_version)(const Op*);
    int (*end_version)(const Op*);
    size_t (*may_inplace)(int**, int**);
    void (*release_may_inplace)(int*, int*);
    size_t (*alias)(int**, int**);
    void (*release_alias)(int*, int*);
};
static_assert(sizeof(Op) == 208);

}  // namespace onnx_fusion::ort
