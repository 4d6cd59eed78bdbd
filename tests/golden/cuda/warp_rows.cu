#define DEVICE static __device__ __forceinline__
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
template <class T>
DEVICE T warp_sum(T a, int lanes) {
  for (int d = lanes / 2; d > 0; d /= 2) {
    a = m_add(a, __shfl_xor_sync(0xffffffffu, a, d));
  }
  return a;
}
template <class T>
DEVICE T warp_max(T a, int lanes) {
  for (int d = lanes / 2; d > 0; d /= 2) {
    a = m_max(a, __shfl_xor_sync(0xffffffffu, a, d));
  }
  return a;
}
extern "C" __global__ void __launch_bounds__(256) warp_rows_77c1dc5ad63e9e54(const int n0,
    const int n3,
    const float* __restrict__ t0,
    float* __restrict__ t1) {
  const int i = blockIdx.x * (int)blockDim.y + threadIdx.y;
  if (i >= n0) return;
  const int a0 = i;
  float kept1[2];
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r2 = threadIdx.x + turn * 32;
    if (r2 < n3) {
      const int a1 = r2;
      kept1[turn] = t0[n3 * a0 + a1];
    }
  }
  float s4 = __uint_as_float(0xff800000u);
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r5 = threadIdx.x + turn * 32;
    if (r5 < n3) {
      const int a1 = r5;
      const float v0 = kept1[turn];
      s4 = m_max(s4, v0);
    }
  }
  s4 = warp_max(s4, 32);
  float s6 = (float)0;
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r7 = threadIdx.x + turn * 32;
    if (r7 < n3) {
      const int a1 = r7;
      const float v0 = kept1[turn];
      const float v2 = m_sub(v0, s4);
      const float v3 = m_exp(v2);
      s6 = m_add(s6, v3);
    }
  }
  s6 = warp_sum(s6, 32);
  #pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int r8 = threadIdx.x + turn * 32;
    if (r8 < n3) {
      const int a1 = r8;
      const float v0 = kept1[turn];
      const float v2 = m_sub(v0, s4);
      const float v3 = m_exp(v2);
      const float v5 = m_div(v3, s6);
      t1[n3 * a0 + a1] = v5;
    }
  }
}
