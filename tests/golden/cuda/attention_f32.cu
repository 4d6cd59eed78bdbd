#define DEVICE static __device__ __forceinline__
#ifndef ONNX_FUSION_EMULATED
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
extern "C" __global__ void __launch_bounds__(128, 3) attention_f32_b05180fdb667bb6c(const int n0,
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
  const int first_row = (tile - batch * 1) * 32;
  float* const tile_q = (float*)shared_bytes();
  float* const tile_k = tile_q + 512;
  float* const tile_v = tile_k + 2048;
  float sums[4][2] = {};
  float top[4], total[4] = {};
  #pragma unroll
  for (int i = 0; i < 4; ++i) top[i] = __uint_as_float(0xff800000u);
  for (int f = thread; f < 128; f += 128) {
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
    tile_q[in_sum * 32 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v0_0 : 0.0f;
    tile_q[(in_sum + 1) * 32 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v0_1 : 0.0f;
    tile_q[(in_sum + 2) * 32 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v0_2 : 0.0f;
    tile_q[(in_sum + 3) * 32 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v0_3 : 0.0f;
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
      tile_k[in_sum * 64 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v1_0 : 0.0f;
      tile_k[(in_sum + 1) * 64 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v1_1 : 0.0f;
      tile_k[(in_sum + 2) * 64 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v1_2 : 0.0f;
      tile_k[(in_sum + 3) * 64 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4] = sum_at < n0 ? v1_3 : 0.0f;
    }
    for (int f = thread; f < 512; f += 128) {
      const int in_sum = f / 8;
      const int in_own = f % 8 * 4;
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
      const float u_0 = sum_at < n1 ? v1_0 : 0.0f;
      const float u_1 = sum_at < n1 ? v1_1 : 0.0f;
      const float u_2 = sum_at < n1 ? v1_2 : 0.0f;
      const float u_3 = sum_at < n1 ? v1_3 : 0.0f;
      *(Pack<float, 4>*)(tile_v + in_sum * 32 + (in_own / 4 ^ in_sum / 4 % 8) * 4 + in_own % 4) = {{u_0, u_1, u_2, u_3}};
    }
    __syncthreads();
    float scores[4][4] = {};
    #pragma unroll 2
    for (int part = 0; part < 16; part += 4) {
      const int turn = part / 4 % 8;
      #pragma unroll
      for (int k = part; k < part + 4; ++k) {
        Pack<float, 4> x[1];
        Pack<float, 4> y[1];
        #pragma unroll
        for (int h = 0; h < 1; ++h) x[h] = *(const Pack<float, 4>*)(tile_q + k * 32 + ((warp * 2 + lane / 16 * 1 + h) ^ turn) * 4);
        #pragma unroll
        for (int r = 0; r < 1; ++r) y[r] = *(const Pack<float, 4>*)((tile_k + k * 64 + ((r * 16 + lane % 16 * 4 / 4) ^ turn) * 4) + lane % 16 * 4 % 4);
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
          #pragma unroll
          for (int j = 0; j < 4; ++j) scores[i][j] = fmaf(x[i / 4].at[i % 4], y[j / 4].at[j % 4], scores[i][j]);
        }
      }
    }
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = min(first_row + warp * 8 + lane / 16 * 4 + i, n1 - 1);
      #pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = first_column + j / 4 * 64 + lane % 16 * 4 + j % 4;
        const int n = min(column, n1 - 1);
        float score = scores[i][j];
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
        scores[i][j] = column < n1 ? score : __uint_as_float(0xff800000u);
      }
    }
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
      float most = top[i];
      #pragma unroll
      for (int j = 0; j < 4; ++j) most = m_max(most, scores[i][j]);
      most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 2));
      most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 4));
      most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 8));
      const float base = most == __uint_as_float(0xff800000u) ? 0.0f : most;
      const float scale = expf(top[i] - base);
      top[i] = most;
      total[i] *= scale;
      #pragma unroll
      for (int d = 0; d < 2; ++d) {
        sums[i][d] *= scale;
      }
      #pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float weight = expf(scores[i][j] - base);
        scores[i][j] = weight;
        total[i] += weight;
      }
    }
    __syncthreads();
    float* const tile_p = tile_k;
    #pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = j / 4 * 64 + lane % 16 * 4 + j % 4, turn = column / 4 % 8;
      #pragma unroll
      for (int h = 0; h < 1; ++h) {
        *(Pack<float, 4>*)(tile_p + column * 32 + ((warp * 2 + lane / 16 * 1 + h) ^ turn) * 4) = {{scores[h * 4 + 0][j], scores[h * 4 + 1][j], scores[h * 4 + 2][j], scores[h * 4 + 3][j]}};
      }
    }
    __syncwarp();
    #pragma unroll 2
    for (int part = 0; part < 64; part += 4) {
      const int turn = part / 4 % 8;
      #pragma unroll
      for (int k = part; k < part + 4; ++k) {
        Pack<float, 4> x[1];
        Pack<float, 2> y[1];
        #pragma unroll
        for (int h = 0; h < 1; ++h) x[h] = *(const Pack<float, 4>*)(tile_p + k * 32 + ((warp * 2 + lane / 16 * 1 + h) ^ turn) * 4);
        #pragma unroll
        for (int r = 0; r < 1; ++r) y[r] = *(const Pack<float, 2>*)((tile_v + k * 32 + ((r * 8 + lane % 16 * 2 / 4) ^ turn) * 4) + lane % 16 * 2 % 4);
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
          #pragma unroll
          for (int j = 0; j < 2; ++j) sums[i][j] = fmaf(x[i / 4].at[i % 4], y[j / 2].at[j % 2], sums[i][j]);
        }
      }
    }
    __syncthreads();
  }
  const int q9 = int((unsigned)(batch) / 3u);
  const int a2 = batch - q9 * 3;
  const int a0 = q9;
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 4);
    total[i] += __shfl_xor_sync(0xffffffffu, total[i], 8);
    const float share = __fdividef(1.0f, total[i]);
    const int m = first_row + warp * 8 + lane / 16 * 4 + i;
    if (m >= n1) continue;
    const int a1 = m;
    #pragma unroll
    for (int d = 0; d < 2; d += 2) {
      const int n = d / 2 * 32 + lane % 16 * 2 + d % 2;
      if (n >= n0) continue;
      const int run = n / 2;
      const int a4 = (run) * 2;
      const float sum_0 = sums[i][d] * share;
      const float sum_1 = sums[i][d + 1] * share;
      *(Pack<float, 2>*)(t6 + n3 * a0 + n4 * a1 + n0 * a2 + a4) = {{sum_0, sum_1}};
    }
  }
}
