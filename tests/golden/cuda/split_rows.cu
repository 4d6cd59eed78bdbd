#define DEVICE static __device__ __forceinline__
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
DEVICE T warp_sum(T a, int lanes) {
  for (int d = lanes / 2; d > 0; d /= 2) {
    a = m_add(a, __shfl_xor_sync(0xffffffffu, a, d));
  }
  return a;
}
extern "C" __global__ void __launch_bounds__(256) split_rows_8e7a5aa2ef749113(const int n0,
    const int n3,
    const float* __restrict__ w4,
    const float* __restrict__ t1,
    float* __restrict__ t2) {
  const int i = blockIdx.x * (int)blockDim.y + threadIdx.y;
  if (i >= n0) return;
  const int a0 = i;
  float s1 = (float)0;
  #pragma unroll 4
  for (int p2 = threadIdx.x; p2 < n3; p2 += 32) {
    s1 = m_add(s1, w4[i * n3 + p2]);
  }
  s1 = warp_sum(s1, 32);
  const float v2 = t1[a0];
  const float v3 = m_mul(s1, v2);
  if (threadIdx.x == 0) {
    t2[a0] = v3;
  }
}
