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
DEVICE int quick_div(int n, unsigned m, int s) {
  return (int)((__umulhi((unsigned)n, m) + (unsigned)n) >> s);
}
extern "C" __global__ void __launch_bounds__(256) transpose_2a6666b5d8ff1633(const unsigned d0m,
    const int d0s,
    const int n1,
    const unsigned d2m,
    const int d2s,
    const int n3,
    const int n4,
    const int n5,
    const float* __restrict__ t0,
    const int n6,
    const float* __restrict__ t1,
    float* __restrict__ t2) {
  const int tile = blockIdx.x;
  const int tile_row = quick_div(tile, d0m, d0s);
  const int to = (tile - tile_row * n1) * 32;
  const int outer = quick_div(tile_row, d2m, d2s);
  const int from = (tile_row - outer * n3) * 32;
  float* const tile_0 = (float*)(shared_bytes() + 0);
  const int a0 = outer;
  #pragma unroll
  for (int turn = 0; turn < 32; turn += 8) {
    const int a2 = from + threadIdx.x;
    const int a1 = to + turn + threadIdx.y;
    if (a2 < n5 && a1 < n4) {
      const float v0 = t0[n6 * a0 + n5 * a1 + a2];
      tile_0[(turn + threadIdx.y) * 33 + threadIdx.x] = v0;
    }
  }
  __syncthreads();
  #pragma unroll
  for (int turn = 0; turn < 32; turn += 8) {
    const int a2 = from + turn + threadIdx.y;
    const int a1 = to + threadIdx.x;
    if (a2 < n5 && a1 < n4) {
      const float v0 = tile_0[(threadIdx.x) * 33 + turn + threadIdx.y];
      const float v1 = t1[n6 * a0 + a1 + n4 * a2];
      const float v2 = m_add(v0, v1);
      t2[n6 * a0 + a1 + n4 * a2] = v2;
    }
  }
}
