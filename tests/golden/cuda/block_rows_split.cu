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
DEVICE T block_sum(T a, T* shared, int thread, int threads) {
  for (int d = 16; d > 0; d /= 2) a = m_add(a, __shfl_xor_sync(0xffffffffu, a, d));
  __syncthreads();
  if (thread % 32 == 0) shared[thread / 32] = a;
  __syncthreads();
  a = shared[0];
  for (int w = 1; w < threads / 32; ++w) a = m_add(a, shared[w]);
  return a;
}
extern "C" __global__ void __launch_bounds__(512) block_rows_split_c9aa18ea70aa3c08(const int n0,
    const int n1,
    const int n2,
    const float* __restrict__ t0,
    const int n5,
    float* __restrict__ w6) {
  const int i = blockIdx.x;
  const int a0 = i;
  const int part_from = blockIdx.y * (int)n1;
  const int part_end = min(part_from + n1, (int)n2);
  float s3 = (float)0;
  for (int r4 = part_from + threadIdx.x; r4 < part_end; r4 += 512) {
    const int a1 = r4;
    const float v0 = t0[n2 * a0 + a1];
    s3 = m_add(s3, v0);
  }
  s3 = block_sum(s3, (float*)shared_bytes(), threadIdx.x, 512);
  if (threadIdx.x == 0) {
    w6[i * n5 + blockIdx.y] = s3;
  }
}
