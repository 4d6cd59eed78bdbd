#define DEVICE static __device__ __forceinline__
#ifndef ONNX_FUSION_EMULATED
extern __shared__ uint4 shared_memory[];
DEVICE unsigned char* shared_bytes() { return (unsigned char*)shared_memory; }
#endif
DEVICE float m_sigmoid(float a) { return __fdividef(1.0f, 1.0f + expf(-a)); }
DEVICE double m_sigmoid(double a) { return 1.0 / (1.0 + exp(-a)); }
DEVICE float m_add(float a, float b) { return a + b; }
DEVICE double m_add(double a, double b) { return a + b; }
DEVICE int m_add(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
DEVICE long long m_add(long long a, long long b) {
  return (long long)((unsigned long long)a + (unsigned long long)b);
}
DEVICE float m_mul(float a, float b) { return a * b; }
DEVICE double m_mul(double a, double b) { return a * b; }
DEVICE int m_mul(int a, int b) { return (int)((unsigned)a * (unsigned)b); }
DEVICE long long m_mul(long long a, long long b) {
  return (long long)((unsigned long long)a * (unsigned long long)b);
}
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(256, 2) product_a12a89e904b76a39(const int n0,
    const int n1,
    const float* __restrict__ t0,
    const int n2,
    const float* __restrict__ t1,
    const float* __restrict__ t2,
    float* __restrict__ t3) {
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
  float next_a[4][1];
  float next_b[4][1];
  for (int next_sum = 0; next_sum < n0 + 16; next_sum += 16) {
    if (next_sum < n0) {
      #pragma unroll
      for (int turn = 0; turn < 4; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 16 * 1;
        const int in_tile = f / 16;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 1);
        const int m = min(first_row + in_tile, n1 - 1);
        const int a3 = k;
        const int a1 = m;
        const float v0 = t0[n0 * a1 + a3];
        next_a[turn][0] = sum_at < n0 ? v0 : 0.0f;
      }
      #pragma unroll
      for (int turn = 0; turn < 4; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 64 * 1;
        const int in_tile = f % 64 * 1;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 1);
        const int m = min(first_column + in_tile, n2 - 1);
        const int a3 = k;
        const int a2 = m;
        const float v1 = t1[a2 + n2 * a3];
        next_b[turn][0] = sum_at < n0 ? v1 : 0.0f;
      }
    }
    if (next_sum > 0) {
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
    if (next_sum < n0) {
      #pragma unroll
      for (int turn = 0; turn < 4; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 16 * 1;
        const int in_tile = f / 16;
        tile_a[(in_sum + 0) * 68 + in_tile] = next_a[turn][0];
      }
      #pragma unroll
      for (int turn = 0; turn < 4; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 64 * 1;
        const int in_tile = f % 64 * 1;
        tile_b[in_sum * 68 + in_tile + 0] = next_b[turn][0];
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int m = first_row + i / 4 * 64 + thread_row + i % 4;
    if (m >= n1) continue;
    const int a1 = m;
    #pragma unroll
    for (int j = 0; j < 4; j += 1) {
      const int n = first_column + j / 4 * 64 + thread_column + j % 4;
      if (n >= n2) continue;
      const int a2 = n;
      const float sum = sums[i][j];
      const float v3 = t2[a2];
      const float v4 = m_add(sum, v3);
      const float v5 = m_sigmoid(v4);
      const float v6 = m_mul(v5, v4);
      t3[n2 * a1 + a2] = v6;
    }
  }
}
