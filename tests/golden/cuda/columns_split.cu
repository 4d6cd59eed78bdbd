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
template <class T>
DEVICE T column_sum(T a, T* shared, int x, int y, int width, int height) {
  __syncthreads();
  shared[y * width + x] = a;
  __syncthreads();
  a = shared[x];
  for (int i = 1; i < height; ++i) a = m_add(a, shared[i * width + x]);
  return a;
}
extern "C" __global__ void __launch_bounds__(512) columns_split_846f9e4db788ccfd(const int n0,
    const int n1,
    const int n2,
    const float* __restrict__ t0,
    const int n5,
    float* __restrict__ w6) {
  const int place = blockIdx.x * (int)blockDim.x + threadIdx.x;
  const int i = place < n0 ? place : n0 - 1;
  const int a0 = i;
  const int part_from = blockIdx.y * (int)n1;
  const int part_end = min(part_from + n1, (int)n2);
  float s3 = (float)0;
  for (int r4 = part_from + threadIdx.y; r4 < part_end; r4 += 16) {
    const int a1 = r4;
    const float v0 = t0[a0 + n0 * a1];
    s3 = m_add(s3, v0);
  }
  s3 = column_sum(s3, (float*)shared_bytes(), threadIdx.x, threadIdx.y, 32, 16);
  if (place == i && threadIdx.y == 0) {
    w6[i * n5 + blockIdx.y] = s3;
  }
}
