#define DEVICE static __device__ __forceinline__
#ifndef ONNX_FUSION_EMULATED
extern __shared__ uint4 shared_memory[];
DEVICE unsigned char* shared_bytes() { return (unsigned char*)shared_memory; }
#endif
DEVICE float m_exp(float a) { return expf(a); }
DEVICE double m_exp(double a) { return exp(a); }
DEVICE float m_add(float a, float b) { return a + b; }
DEVICE double m_add(double a, double b) { return a + b; }
DEVICE int m_add(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
DEVICE long long m_add(long long a, long long b) {
  return (long long)((unsigned long long)a + (unsigned long long)b);
}
DEVICE float m_sub(float a, float b) { return a - b; }
DEVICE double m_sub(double a, double b) { return a - b; }
DEVICE int m_sub(int a, int b) { return (int)((unsigned)a - (unsigned)b); }
DEVICE long long m_sub(long long a, long long b) {
  return (long long)((unsigned long long)a - (unsigned long long)b);
}
DEVICE float m_div(float a, float b) { return a / b; }
DEVICE double m_div(double a, double b) { return a / b; }
DEVICE int m_div(int a, int b) {
  return b == 0 ? 0 : b == -1 ? (int)(0u - (unsigned)a) : a / b;
}
DEVICE long long m_div(long long a, long long b) {
  return b == 0 ? 0 : b == -1 ? (long long)(0ull - (unsigned long long)a) : a / b;
}
template <class T>
DEVICE T m_max(T a, T b) { return (a > b) | (a != a) ? a : b; }
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <class T>
DEVICE T block_sum(T a, T* shared, int thread, int threads) {
  for (int d = 16; d > 0; d /= 2) a = m_add(a, __shfl_xor_sync(0xffffffffu, a, d));
  __syncthreads();
  if (thread % 32 == 0) shared[thread / 32] = a;
  __syncthreads();
  a = shared[0];
  for (int w = 1; w < threads / 32; ++w) a = m_add(a, shared[w]);
  return a;
}
template <class T>
DEVICE T block_max(T a, T* shared, int thread, int threads) {
  for (int d = 16; d > 0; d /= 2) a = m_max(a, __shfl_xor_sync(0xffffffffu, a, d));
  __syncthreads();
  if (thread % 32 == 0) shared[thread / 32] = a;
  __syncthreads();
  a = shared[0];
  for (int w = 1; w < threads / 32; ++w) a = m_max(a, shared[w]);
  return a;
}
extern "C" __global__ void __launch_bounds__(256) block_rows_88c786bfad27a3a7(const int n2,
    const float* __restrict__ t0,
    const int n3,
    float* __restrict__ t1) {
  const int i = blockIdx.x;
  const int a0 = i;
  Pack<float, 4> kept0[2];
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r1 = threadIdx.x + turn * 256;
    if (r1 < n2) {
      const int a1 = (r1) * 4;
      kept0[turn] = *(const Pack<float, 4>*)(t0 + n3 * a0 + a1);
    }
  }
  float s4 = __uint_as_float(0xff800000u);
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r5 = threadIdx.x + turn * 256;
    if (r5 < n2) {
      const int a1 = (r5) * 4;
      const float v0_0 = kept0[turn].at[0];
      const float v0_1 = kept0[turn].at[1];
      const float v0_2 = kept0[turn].at[2];
      const float v0_3 = kept0[turn].at[3];
      s4 = m_max(s4, v0_0);
      s4 = m_max(s4, v0_1);
      s4 = m_max(s4, v0_2);
      s4 = m_max(s4, v0_3);
    }
  }
  s4 = block_max(s4, (float*)shared_bytes(), threadIdx.x, 256);
  float s6 = (float)0;
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r7 = threadIdx.x + turn * 256;
    if (r7 < n2) {
      const int a1 = (r7) * 4;
      const float v0_0 = kept0[turn].at[0];
      const float v0_1 = kept0[turn].at[1];
      const float v0_2 = kept0[turn].at[2];
      const float v0_3 = kept0[turn].at[3];
      const float v2_0 = m_sub(v0_0, s4);
      const float v2_1 = m_sub(v0_1, s4);
      const float v2_2 = m_sub(v0_2, s4);
      const float v2_3 = m_sub(v0_3, s4);
      const float v3_0 = m_exp(v2_0);
      const float v3_1 = m_exp(v2_1);
      const float v3_2 = m_exp(v2_2);
      const float v3_3 = m_exp(v2_3);
      s6 = m_add(s6, v3_0);
      s6 = m_add(s6, v3_1);
      s6 = m_add(s6, v3_2);
      s6 = m_add(s6, v3_3);
    }
  }
  s6 = block_sum(s6, (float*)shared_bytes(), threadIdx.x, 256);
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r8 = threadIdx.x + turn * 256;
    if (r8 < n2) {
      const int a1 = (r8) * 4;
      const float v0_0 = kept0[turn].at[0];
      const float v0_1 = kept0[turn].at[1];
      const float v0_2 = kept0[turn].at[2];
      const float v0_3 = kept0[turn].at[3];
      const float v2_0 = m_sub(v0_0, s4);
      const float v2_1 = m_sub(v0_1, s4);
      const float v2_2 = m_sub(v0_2, s4);
      const float v2_3 = m_sub(v0_3, s4);
      const float v3_0 = m_exp(v2_0);
      const float v3_1 = m_exp(v2_1);
      const float v3_2 = m_exp(v2_2);
      const float v3_3 = m_exp(v2_3);
      const float v5_0 = m_div(v3_0, s6);
      const float v5_1 = m_div(v3_1, s6);
      const float v5_2 = m_div(v3_2, s6);
      const float v5_3 = m_div(v3_3, s6);
      *(Pack<float, 4>*)(t1 + n3 * a0 + a1) = {{v5_0, v5_1, v5_2, v5_3}};
    }
  }
}
