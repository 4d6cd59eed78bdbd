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
template <class T>
DEVICE T column_sum(T a, T* shared, int x, int y, int width, int height) {
  __syncthreads();
  shared[y * width + x] = a;
  __syncthreads();
  a = shared[x];
  for (int i = 1; i < height; ++i) a = m_add(a, shared[i * width + x]);
  return a;
}
template <class T>
DEVICE T column_max(T a, T* shared, int x, int y, int width, int height) {
  __syncthreads();
  shared[y * width + x] = a;
  __syncthreads();
  a = shared[x];
  for (int i = 1; i < height; ++i) a = m_max(a, shared[i * width + x]);
  return a;
}
extern "C" __global__ void __launch_bounds__(256) columns_8716e4cfd2a6d9ce(const int n0,
    const int n3,
    const float* __restrict__ t0,
    float* __restrict__ t1) {
  const int place = blockIdx.x * (int)blockDim.x + threadIdx.x;
  const int i = place < n0 ? place : n0 - 1;
  const int a1 = i;
  float s1 = __uint_as_float(0xff800000u);
  for (int r2 = threadIdx.y; r2 < n3; r2 += 8) {
    const int a0 = r2;
    const float v0 = t0[n0 * a0 + a1];
    s1 = m_max(s1, v0);
  }
  s1 = column_max(s1, (float*)shared_bytes(), threadIdx.x, threadIdx.y, 32, 8);
  float s4 = (float)0;
  for (int r5 = threadIdx.y; r5 < n3; r5 += 8) {
    const int a0 = r5;
    const float v0 = t0[n0 * a0 + a1];
    const float v2 = m_sub(v0, s1);
    const float v3 = m_exp(v2);
    s4 = m_add(s4, v3);
  }
  s4 = column_sum(s4, (float*)shared_bytes(), threadIdx.x, threadIdx.y, 32, 8);
  if (place < n0) {
    for (int r6 = threadIdx.y; r6 < n3; r6 += 8) {
      const int a0 = r6;
      const float v0 = t0[n0 * a0 + a1];
      const float v2 = m_sub(v0, s1);
      const float v3 = m_exp(v2);
      const float v5 = m_div(v3, s4);
      t1[n0 * a0 + a1] = v5;
    }
  }
}
