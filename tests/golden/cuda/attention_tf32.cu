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
template <class T>
DEVICE T m_max(T a, T b) { return (a > b) | (a != a) ? a : b; }
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(128, 3) attention_tf32_67b66acbca5351b6(const int n0,
    const int n1,
    const float* __restrict__ t0,
    const int n3,
    const int n4,
    const float* __restrict__ t1,
    const float* __restrict__ t2,
    const int n7,
    const float* __restrict__ t3,
    float* __restrict__ t6) {
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int tile = blockIdx.x;
  const int batch = tile;
  const int first_row = (tile - batch * 1) * 64;
  unsigned* const tile_q = (unsigned*)shared_bytes();
  unsigned* const tile_k = tile_q + 1280;
  unsigned* const tile_v = tile_k + 1280;
  float sums[2][4] = {};
  float top[2], total[2] = {};
  #pragma unroll
  for (int i = 0; i < 2; ++i) top[i] = __uint_as_float(0xff800000u);
  for (int f = thread; f < 256; f += 128) {
    const int in_sum = f % 4 * 4;
    const int in_own = f / 4;
    const int sum_at = 0 + in_sum;
    const int k = min(sum_at, n0 - 4) / 4;
    const int m = min(first_row + in_own, n1 - 1);
    const int q2 = int((unsigned)(batch) / 3u);
    const int a1 = batch - q2 * 3;
    const int a0 = q2;
    const int a5 = (k) * 4;
    const int a3 = m;
    const Pack<float, 4> p0_0 = *(const Pack<float, 4>*)(t0 + n3 * a0 + n0 * a1 + n4 * a3 + a5);
    const float v0_0 = p0_0.at[0];
    const float v0_1 = p0_0.at[1];
    const float v0_2 = p0_0.at[2];
    const float v0_3 = p0_0.at[3];
    const unsigned u_0 = sum_at < n0 ? float_to_tf32(v0_0) : 0;
    const unsigned u_1 = sum_at < n0 ? float_to_tf32(v0_1) : 0;
    const unsigned u_2 = sum_at < n0 ? float_to_tf32(v0_2) : 0;
    const unsigned u_3 = sum_at < n0 ? float_to_tf32(v0_3) : 0;
    *(Pack<unsigned, 4>*)(tile_q + in_own * 20 + in_sum) = {{u_0, u_1, u_2, u_3}};
  }
  for (int first_column = 0; first_column < n1; first_column += 64) {
    for (int f = thread; f < 256; f += 128) {
      const int in_sum = f % 4 * 4;
      const int in_own = f / 4;
      const int sum_at = 0 + in_sum;
      const int k = min(sum_at, n0 - 4) / 4;
      const int m = min(first_column + in_own, n1 - 1);
      const int q5 = int((unsigned)(batch) / 3u);
      const int a1 = batch - q5 * 3;
      const int a0 = q5;
      const int a5 = (k) * 4;
      const int a4 = m;
      const Pack<float, 4> p1_0 = *(const Pack<float, 4>*)(t1 + n3 * a0 + n0 * a1 + n4 * a4 + a5);
      const float v1_0 = p1_0.at[0];
      const float v1_1 = p1_0.at[1];
      const float v1_2 = p1_0.at[2];
      const float v1_3 = p1_0.at[3];
      const unsigned u_0 = sum_at < n0 ? float_to_tf32(v1_0) : 0;
      const unsigned u_1 = sum_at < n0 ? float_to_tf32(v1_1) : 0;
      const unsigned u_2 = sum_at < n0 ? float_to_tf32(v1_2) : 0;
      const unsigned u_3 = sum_at < n0 ? float_to_tf32(v1_3) : 0;
      *(Pack<unsigned, 4>*)(tile_k + in_own * 20 + in_sum) = {{u_0, u_1, u_2, u_3}};
    }
    for (int f = thread; f < 256; f += 128) {
      const int in_sum = f / 4;
      const int in_own = f % 4 * 4;
      const int sum_at = first_column + in_sum;
      const int k = min(sum_at, n1 - 1);
      const int m = min(0 + in_own, n0 - 4) / 4;
      const int q6 = int((unsigned)(batch) / 3u);
      const int a2 = batch - q6 * 3;
      const int a0 = q6;
      const int a5 = k;
      const int a4 = (m) * 4;
      const Pack<float, 4> p1_0 = *(const Pack<float, 4>*)(t2 + n3 * a0 + n7 * a2 + a4 + n0 * a5);
      const float v1_0 = p1_0.at[0];
      const float v1_1 = p1_0.at[1];
      const float v1_2 = p1_0.at[2];
      const float v1_3 = p1_0.at[3];
      tile_v[in_own * 72 + in_sum] = sum_at < n1 ? float_to_tf32(v1_0) : 0;
      tile_v[(in_own + 1) * 72 + in_sum] = sum_at < n1 ? float_to_tf32(v1_1) : 0;
      tile_v[(in_own + 2) * 72 + in_sum] = sum_at < n1 ? float_to_tf32(v1_2) : 0;
      tile_v[(in_own + 3) * 72 + in_sum] = sum_at < n1 ? float_to_tf32(v1_3) : 0;
    }
    __syncthreads();
    float scores[8][4] = {};
    #pragma unroll
    for (int part = 0; part < 16; part += 8) {
      const unsigned* const from = (const unsigned*)tile_q + (warp * 16 + lane / 4) * 20 + part + lane % 4;
      const unsigned x[4] = {from[0], from[8 * 20], from[4], from[8 * 20 + 4]};
      #pragma unroll
      for (int j = 0; j < 8; ++j) {
        const unsigned* const other = (const unsigned*)tile_k + (j * 8 + lane / 4) * 20 + part + lane % 4;
        const unsigned y[2] = {other[0], other[4]};
        multiply_tf32(scores[j], x, y);
      }
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int m = min(first_row + warp * 16 + i * 8 + lane / 4, n1 - 1);
      #pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int column = first_column + j / 2 * 8 + lane % 4 * 2 + j % 2;
        const int n = min(column, n1 - 1);
        float score = scores[j / 2][i * 2 + j % 2];
        {
          const int q8 = int((unsigned)(batch) / 3u);
          const int a1 = batch - q8 * 3;
          const int a0 = q8;
          const int a3 = m;
          const int a4 = n;
          const float v3 = 0.400000006f;
          const float v4 = m_mul(score, v3);
          const float v5 = t3[n1 * a0 + a4];
          const float v6 = m_add(v4, v5);
          score = v6;
        }
        {
          const int row = batch * n1 + m;
          const int a3 = row;
          const int a4 = n;
        }
        scores[j / 2][i * 2 + j % 2] = column < n1 ? score : __uint_as_float(0xff800000u);
      }
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      float most = top[i];
      #pragma unroll
      for (int j = 0; j < 16; ++j) most = m_max(most, scores[j / 2][i * 2 + j % 2]);
      most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 2));
      const float base = most == __uint_as_float(0xff800000u) ? 0.0f : most;
      const float scale = expf(top[i] - base);
      top[i] = most;
      total[i] *= scale;
      #pragma unroll
      for (int d = 0; d < 4; ++d) {
        sums[d / 2][i * 2 + d % 2] *= scale;
      }
      #pragma unroll
      for (int j = 0; j < 16; ++j) {
        const float weight = expf(scores[j / 2][i * 2 + j % 2] - base);
        scores[j / 2][i * 2 + j % 2] = weight;
        total[i] += weight;
      }
    }
    #pragma unroll
    for (int part = 0; part < 8; ++part) {
      unsigned x[4];
      #pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = float_to_tf32(scores[part][i % 2 * 2 + i / 2]);
      #pragma unroll
      for (int d = 0; d < 2; ++d) {
        const Pack<unsigned, 2> pair = *(const Pack<unsigned, 2>*)((const unsigned*)tile_v + (d * 8 + lane / 4) * 72 + part * 8 + lane % 4 * 2);
        const unsigned y[2] = {pair.at[0], pair.at[1]};
        multiply_tf32(sums[d], x, y);
      }
    }
    __syncthreads();
  }
  const int q9 = int((unsigned)(batch) / 3u);
  const int a2 = batch - q9 * 3;
  const int a0 = q9;
  #pragma unroll
  for (int i = 0; i < 2; ++i) {
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
    const float share = __fdividef(1.0f, total[i]);
    const int m = first_row + warp * 16 + i * 8 + lane / 4;
    if (m >= n1) continue;
    const int a1 = m;
    #pragma unroll
    for (int d = 0; d < 4; d += 2) {
      const int n = d / 2 * 8 + lane % 4 * 2 + d % 2;
      if (n >= n0) continue;
      const int run = n / 2;
      const int a4 = (run) * 2;
      const float sum_0 = sums[d / 2][i * 2 + d % 2] * share;
      const float sum_1 = sums[d / 2][i * 2 + d % 2 + 1] * share;
      *(Pack<float, 2>*)(t6 + n3 * a0 + n4 * a1 + n0 * a2 + a4) = {{sum_0, sum_1}};
    }
  }
}
