#define DEVICE static __device__ __forceinline__
DEVICE float m_add(float a, float b) { return a + b; }
DEVICE double m_add(double a, double b) { return a + b; }
DEVICE int m_add(int a, int b) { return (int)((unsigned)a + (unsigned)b); }
DEVICE long long m_add(long long a, long long b) {
  return (long long)((unsigned long long)a + (unsigned long long)b);
}
DEVICE int quick_div(int n, unsigned m, int s) {
  return (int)((__umulhi((unsigned)n, m) + (unsigned)n) >> s);
}
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(256) split_sum_1dcd49e245fe3bb1(const float* __restrict__ w0,
    const int n1,
    const unsigned d2m,
    const int d2s,
    const int n3,
    const unsigned d4m,
    const int d4s,
    const int n5,
    const int n6,
    const int n7,
    const float* __restrict__ t2,
    float* __restrict__ t3,
    const int n8) {
  const int i = blockIdx.x * (int)blockDim.x + threadIdx.x;
  if (i >= n1) return;
  const int row = quick_div(i, d2m, d2s);
  const int run = i - row * n3;
  const int batch = quick_div(row, d4m, d4s);
  const int m = row - batch * n5;
  const int a0 = m;
  const int a1 = (run) * 4;
  float sum_0 = 0.0f, sum_1 = 0.0f, sum_2 = 0.0f, sum_3 = 0.0f;
  #pragma unroll 4
  for (int split = 0; split < n6; ++split) {
    const Pack<float, 4> part = *(const Pack<float, 4>*)(w0 + split * n7 + i * 4);
    sum_0 += part.at[0];
    sum_1 += part.at[1];
    sum_2 += part.at[2];
    sum_3 += part.at[3];
  }
  const Pack<float, 4> p3_0 = *(const Pack<float, 4>*)(t2 + a1);
  const float v3_0 = p3_0.at[0];
  const float v3_1 = p3_0.at[1];
  const float v3_2 = p3_0.at[2];
  const float v3_3 = p3_0.at[3];
  const float v4_0 = m_add(sum_0, v3_0);
  const float v4_1 = m_add(sum_1, v3_1);
  const float v4_2 = m_add(sum_2, v3_2);
  const float v4_3 = m_add(sum_3, v3_3);
  *(Pack<float, 4>*)(t3 + n8 * a0 + a1) = {{v4_0, v4_1, v4_2, v4_3}};
}
