#define DEVICE static __device__ __forceinline__
#ifndef ONNX_FUSION_EMULATED
extern __shared__ uint4 shared_memory[];
DEVICE unsigned char* shared_bytes() { return (unsigned char*)shared_memory; }
#endif
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(256, 2) product_split_7306c3159f927cf1(const int n0,
    const int n1,
    const int n2,
    const float* __restrict__ t0,
    const int n3,
    const float* __restrict__ t1,
    float* __restrict__ w4) {
  const int thread = threadIdx.x;
  const int tile = blockIdx.x;
  const int tile_row = tile;
  const int first_column = (tile - tile_row * 1) * 64;
  const int batch = tile_row;
  const int first_row = (tile_row - batch * 1) * 64;
  float* const tile_a = (float*)shared_bytes();
  float* const tile_b = tile_a + 1088;
  const int thread_row = thread / 16 * 4;
  const int thread_column = thread % 16 * 4;
  float sums[4][4] = {};
  float next_a[1][4];
  float next_b[1][4];
  const int sum_from = blockIdx.y * n1, sum_end = min(sum_from + n1, n0);
  for (int next_sum = sum_from; next_sum < sum_end + 16; next_sum += 16) {
    if (next_sum < sum_end) {
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 4 * 4;
        const int in_tile = f / 4;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 4) / 4;
        const int m = min(first_row + in_tile, n2 - 1);
        const int a2 = (k) * 4;
        const int a0 = m;
        const Pack<float, 4> p0_0 = *(const Pack<float, 4>*)(t0 + n0 * a0 + a2);
        const float v0_0 = p0_0.at[0];
        const float v0_1 = p0_0.at[1];
        const float v0_2 = p0_0.at[2];
        const float v0_3 = p0_0.at[3];
        next_a[turn][0] = sum_at < n0 ? v0_0 : 0.0f;
        next_a[turn][1] = sum_at < n0 ? v0_1 : 0.0f;
        next_a[turn][2] = sum_at < n0 ? v0_2 : 0.0f;
        next_a[turn][3] = sum_at < n0 ? v0_3 : 0.0f;
      }
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 16 * 1;
        const int in_tile = f % 16 * 4;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 1);
        const int m = min(first_column + in_tile, n3 - 4) / 4;
        const int a2 = k;
        const int a1 = (m) * 4;
        const Pack<float, 4> p1_0 = *(const Pack<float, 4>*)(t1 + a1 + n3 * a2);
        const float v1_0 = p1_0.at[0];
        const float v1_1 = p1_0.at[1];
        const float v1_2 = p1_0.at[2];
        const float v1_3 = p1_0.at[3];
        next_b[turn][0] = sum_at < n0 ? v1_0 : 0.0f;
        next_b[turn][1] = sum_at < n0 ? v1_1 : 0.0f;
        next_b[turn][2] = sum_at < n0 ? v1_2 : 0.0f;
        next_b[turn][3] = sum_at < n0 ? v1_3 : 0.0f;
      }
    }
    if (next_sum > sum_from) {
      #pragma unroll
      for (int k = 0; k < 16; ++k) {
        Pack<float, 4> x[1], y[1];
        #pragma unroll
        for (int i = 0; i < 1; ++i) {
          x[i] = *(const Pack<float, 4>*)(tile_a + k * 68 + i * 64 + thread_row);
          y[i] = *(const Pack<float, 4>*)(tile_b + k * 68 + i * 64 + thread_column);
        }
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
          #pragma unroll
          for (int j = 0; j < 4; ++j) {
            sums[i][j] = fmaf(x[i / 4].at[i % 4], y[j / 4].at[j % 4], sums[i][j]);
          }
        }
      }
      __syncthreads();
    }
    if (next_sum < sum_end) {
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 4 * 4;
        const int in_tile = f / 4;
        tile_a[(in_sum + 0) * 68 + in_tile] = next_a[turn][0];
        tile_a[(in_sum + 1) * 68 + in_tile] = next_a[turn][1];
        tile_a[(in_sum + 2) * 68 + in_tile] = next_a[turn][2];
        tile_a[(in_sum + 3) * 68 + in_tile] = next_a[turn][3];
      }
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 16 * 1;
        const int in_tile = f % 16 * 4;
        tile_b[in_sum * 68 + in_tile + 0] = next_b[turn][0];
        tile_b[in_sum * 68 + in_tile + 1] = next_b[turn][1];
        tile_b[in_sum * 68 + in_tile + 2] = next_b[turn][2];
        tile_b[in_sum * 68 + in_tile + 3] = next_b[turn][3];
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int m = first_row + i / 4 * 64 + thread_row + i % 4;
    if (m >= n2) continue;
    #pragma unroll
    for (int j = 0; j < 4; j += 4) {
      const int n = first_column + j / 4 * 64 + thread_column + j % 4;
      if (n >= n3) continue;
      const float sum_0 = sums[i][j];
      const float sum_1 = sums[i][j + 1];
      const float sum_2 = sums[i][j + 2];
      const float sum_3 = sums[i][j + 3];
      *(Pack<float, 4>*)(w4 + ((blockIdx.y * 1 + batch) * n2 + m) * n3 + n) = {{sum_0, sum_1, sum_2, sum_3}};
    }
  }
}
