#define DEVICE static __device__ __forceinline__
#ifndef ONNX_FUSION_EMULATED
DEVICE unsigned float_to_tf32(float a) {
  unsigned b;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(b) : "f"(a));
  return b;
}
DEVICE void multiply_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
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
extern "C" __global__ void __launch_bounds__(256, 2) product_tf32_897b48fb19b28685(const int n0,
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
  unsigned* const tile_a = (unsigned*)shared_bytes();
  unsigned* const tile_b = tile_a + 1280;
  const int lane = thread % 32;
  const int warp_row = thread / 32 / 4 * 32;
  const int warp_column = thread / 32 % 4 * 16;
  float sums[2][2][4] = {};
  unsigned next_a[4][1];
  unsigned next_b[4][1];
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
        next_a[turn][0] = sum_at < n0 ? float_to_tf32(v0) : 0;
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
        next_b[turn][0] = sum_at < n0 ? float_to_tf32(v1) : 0;
      }
    }
    if (next_sum > 0) {
      #pragma unroll
      for (int part = 0; part < 16; part += 8) {
        const int w = part + lane % 4;
        unsigned x[2][4], y[2][2];
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
          const unsigned* const from = (const unsigned*)tile_a + (warp_row + i * 16 + lane / 4) * 20 + w;
          x[i][0] = from[0];
          x[i][1] = from[160];
          x[i][2] = from[4];
          x[i][3] = from[160 + 4];
        }
        #pragma unroll
        for (int j = 0; j < 2; ++j) {
          const unsigned* const from = (const unsigned*)tile_b + (warp_column + j * 8 + lane / 4) * 20 + w;
          y[j][0] = from[0];
          y[j][1] = from[4];
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
          #pragma unroll
          for (int j = 0; j < 2; ++j) {
            multiply_tf32(sums[i][j], x[i], y[j]);
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
        *(Pack<unsigned, 1>*)(tile_a + in_tile * 20 + in_sum) = {{next_a[turn][0]}};
      }
      #pragma unroll
      for (int turn = 0; turn < 4; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 64 * 1;
        const int in_tile = f % 64 * 1;
        tile_b[(in_tile + 0) * 20 + in_sum] = next_b[turn][0];
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int m = first_row + warp_row + i * 8 + lane / 4;
    if (m >= n1) continue;
    const int a1 = m;
    #pragma unroll
    for (int j = 0; j < 4; j += 1) {
      const int n = first_column + warp_column + j / 2 * 8 + lane % 4 * 2 + j % 2;
      if (n >= n2) continue;
      const int a2 = n;
      const float sum = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
      const float v3 = t2[a2];
      const float v4 = m_add(sum, v3);
      const float v5 = m_sigmoid(v4);
      const float v6 = m_mul(v5, v4);
      t3[n2 * a1 + a2] = v6;
    }
  }
}
