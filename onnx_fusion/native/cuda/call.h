// Products and convolutions that a library can make: cuBLASLt those whose operands lie in memory as
// matrices, cuDNN those that read images through windows.
#pragma once

#include <functional>
#include <vector>

#include "cuda/contract.h"

namespace onnx_fusion::cuda {

struct LibraryCall {
  Call call;
  int a = -1, b = -1;  // tensors
  int d = -1, c = -1, bias = -1;  // where the call itself can do all that follows the dot
  int64_t rows = 0;  // of a part
  int64_t parts = 1;
};

// Offers the nest to the library that can make it, if there is one, and plans its call, if the
// offer's maker is one: `called` says so. `product` is null for what is none for our kernels.
Status plan_library(Work& work, size_t stage, const Nest& nest, const Product* product,
                    bool* called);

// What both kinds of calls need. False if the library cannot make it.
bool find_product_call(const Work& work, const Nest& nest, const Product& product,
                       LibraryCall* found);
Status plan_product_call(Work& work, size_t stage, const Nest& nest, const Product& product,
                         const LibraryCall& found, bool by_parts);
// The nest's letters are apart. `whole`: a call that does all, if there is one; else of the sums
// alone.
bool find_convolution(const Work& work, const Nest& nest, bool whole, LibraryCall* found);
Status plan_convolution(Work& work, size_t stage, const Nest& nest, const LibraryCall& found);

// Does a library take the address so many elements behind where memory was allocated?
bool is_aligned(DType dtype, int64_t start);
bool is_aligned(const Nest& nest, const Access& access);
int skip_cast(const Nest& nest, int line);
const Access& access_of(const Nest& nest, int line);

// Can the call do all that follows the dot? `writes` says where the result goes, `adds` whether it
// may add what an access loads; both write down how.
bool find_rest(const Nest& nest, int dot, LibraryCall* found,
               const std::function<bool(const Access&)>& writes,
               const std::function<bool(const Access&)>& adds);
// Adds a call that does all.
void add_whole(Work& work, const LibraryCall& found);

}  // namespace onnx_fusion::cuda
