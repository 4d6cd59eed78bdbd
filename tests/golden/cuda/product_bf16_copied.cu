#define DEVICE static __device__ __forceinline__
#ifndef ONNX_FUSION_EMULATED
DEVICE void multiply_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void copy_async(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEVICE void wait_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
DEVICE void load_matrices(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
DEVICE void load_transposed(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
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
DEVICE int quick_div(int n, unsigned m, int s) {
  return (int)((__umulhi((unsigned)n, m) + (unsigned)n) >> s);
}
DEVICE float bf16_to_float(unsigned short a) { return __uint_as_float((unsigned)a << 16); }
DEVICE unsigned short float_to_bf16(float a) {
  const unsigned u = __float_as_uint(a);
  return a != a ? (unsigned short)(u >> 16 | 0x40u)
                : (unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(256, 2) product_bf16_copied_32a7de138990c854(const unsigned d0m,
    const int d0s,
    const int n1,
    const int n2,
    const int n3,
    const unsigned short* __restrict__ t0,
    const int n4,
    const unsigned short* __restrict__ t1,
    const unsigned short* __restrict__ t2,
    unsigned short* __restrict__ t3) {
  const int thread = threadIdx.x;
  const int tile = blockIdx.x;
  const int tile_row = tile;
  const int first_column = (tile - tile_row * 1) * 64;
  const int batch = quick_div(tile_row, d0m, d0s);
  const int first_row = (tile_row - batch * n1) * 64;
  unsigned short* const tile_a = (unsigned short*)shared_bytes();
  unsigned short* const tile_b = tile_a + 7680;
  const int lane = thread % 32;
  const int warp_row = thread / 32 / 4 * 32;
  const int warp_column = thread / 32 % 4 * 16;
  float sums[2][2][4] = {};
  const int steps = (n2 - 0 + 31) / 32;
  int into = 0, from = 0;
  #pragma unroll 1
  for (int step = -2; step < steps; ++step) {
    if (step >= 0) {
      wait_copies<1>();
      __syncthreads();
    }
    if (step + 2 < steps) {
      const int next_sum = 0 + (step + 2) * 32;
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 4 * 8;
        const int in_tile = f / 4;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n2 - 8) / 8;
        const int m = min(first_row + in_tile, n3 - 1);
        const int a3 = (k) * 8;
        const int a1 = m;
        copy_async(tile_a + into * 2560 + in_tile * 40 + in_sum, t0 + n2 * a1 + a3, sum_at < n2 ? 16 : 0);
      }
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 8;
        const int in_tile = f % 8 * 8;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n2 - 1);
        const int m = min(first_column + in_tile, n4 - 8) / 8;
        const int a3 = k;
        const int a2 = (m) * 8;
        copy_async(tile_b + into * 2304 + in_sum * 72 + in_tile, t1 + a2 + n4 * a3, sum_at < n2 ? 16 : 0);
      }
    }
    commit_copies();
    into = into == 2 ? 0 : into + 1;
    if (step < 0) continue;
    #pragma unroll
    for (int part = 0; part < 32; part += 16) {
      unsigned x[2][4], y[2][2];
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices(x[i][0], x[i][1], x[i][2], x[i][3], tile_a + from * 2560 + (warp_row + i * 16 + lane / 8 % 2 * 8 + lane % 8) * 40 + part + lane / 16 * 8);
      }
      #pragma unroll
      for (int j = 0; j < 2; j += 2) {
        load_transposed(y[j][0], y[j][1], y[j + 1][0], y[j + 1][1], tile_b + from * 2304 + (part + lane / 8 % 2 * 8 + lane % 8) * 72 + warp_column + j * 8 + lane / 16 * 8);
      }
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        #pragma unroll
        for (int j = 0; j < 2; ++j) {
          multiply_bf16(sums[i][j], x[i], y[j]);
        }
      }
    }
    from = from == 2 ? 0 : from + 1;
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int m = first_row + warp_row + i * 8 + lane / 4;
    if (m >= n3) continue;
    const int a1 = m;
    #pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const int n = first_column + warp_column + j / 2 * 8 + lane % 4 * 2 + j % 2;
      if (n >= n4) continue;
      const int run = n / 2;
      const int a2 = (run) * 2;
      const float sum_0 = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
      const float sum_1 = sums[i / 2][j / 2][i % 2 * 2 + j % 2 + 1];
      const Pack<unsigned short, 2> p5_0 = *(const Pack<unsigned short, 2>*)(t2 + a2);
      const unsigned short v5_0 = p5_0.at[0];
      const unsigned short v5_1 = p5_0.at[1];
      const float v6_0 = bf16_to_float(v5_0);
      const float v6_1 = bf16_to_float(v5_1);
      const float v7_0 = m_add(sum_0, v6_0);
      const float v7_1 = m_add(sum_1, v6_1);
      const float v8_0 = m_sigmoid(v7_0);
      const float v8_1 = m_sigmoid(v7_1);
      const float v9_0 = m_mul(v8_0, v7_0);
      const float v9_1 = m_mul(v8_1, v7_1);
      const unsigned short v10_0 = float_to_bf16((float)v9_0);
      const unsigned short v10_1 = float_to_bf16((float)v9_1);
      *(Pack<unsigned short, 2>*)(t3 + n4 * a1 + a2) = {{v10_0, v10_1}};
    }
  }
}
