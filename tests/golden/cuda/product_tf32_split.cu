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
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(256, 2) product_tf32_split_3185b8edd643ce1e(const int n0,
    const int n1,
    const int n2,
    const float* __restrict__ t0,
    const int n3,
    const float* __restrict__ t1,
    float* __restrict__ w4) {
  const int thread = threadIdx.x;
  const int tile = blockIdx.x;
  const int tile_row = tile;
  const int first_column = (tile - tile_row * 1) * 64;
  const int batch = tile_row;
  const int first_row = (tile_row - batch * 1) * 64;
  unsigned* const tile_a = (unsigned*)shared_bytes();
  unsigned* const tile_b = tile_a + 1280;
  const int lane = thread % 32;
  const int warp_row = thread / 32 / 4 * 32;
  const int warp_column = thread / 32 % 4 * 16;
  float sums[2][2][4] = {};
  unsigned next_a[1][4];
  unsigned next_b[1][4];
  const int sum_from = blockIdx.y * n1, sum_end = min(sum_from + n1, n0);
  for (int next_sum = sum_from; next_sum < sum_end + 16; next_sum += 16) {
    if (next_sum < sum_end) {
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 4 * 4;
        const int in_tile = f / 4;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 4) / 4;
        const int m = min(first_row + in_tile, n2 - 1);
        const int a2 = (k) * 4;
        const int a0 = m;
        const Pack<float, 4> p0_0 = *(const Pack<float, 4>*)(t0 + n0 * a0 + a2);
        const float v0_0 = p0_0.at[0];
        const float v0_1 = p0_0.at[1];
        const float v0_2 = p0_0.at[2];
        const float v0_3 = p0_0.at[3];
        next_a[turn][0] = sum_at < n0 ? float_to_tf32(v0_0) : 0;
        next_a[turn][1] = sum_at < n0 ? float_to_tf32(v0_1) : 0;
        next_a[turn][2] = sum_at < n0 ? float_to_tf32(v0_2) : 0;
        next_a[turn][3] = sum_at < n0 ? float_to_tf32(v0_3) : 0;
      }
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 16 * 1;
        const int in_tile = f % 16 * 4;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 1);
        const int m = min(first_column + in_tile, n3 - 4) / 4;
        const int a2 = k;
        const int a1 = (m) * 4;
        const Pack<float, 4> p1_0 = *(const Pack<float, 4>*)(t1 + a1 + n3 * a2);
        const float v1_0 = p1_0.at[0];
        const float v1_1 = p1_0.at[1];
        const float v1_2 = p1_0.at[2];
        const float v1_3 = p1_0.at[3];
        next_b[turn][0] = sum_at < n0 ? float_to_tf32(v1_0) : 0;
        next_b[turn][1] = sum_at < n0 ? float_to_tf32(v1_1) : 0;
        next_b[turn][2] = sum_at < n0 ? float_to_tf32(v1_2) : 0;
        next_b[turn][3] = sum_at < n0 ? float_to_tf32(v1_3) : 0;
      }
    }
    if (next_sum > sum_from) {
      #pragma unroll
      for (int part = 0; part < 16; part += 8) {
        const int w = part + lane % 4;
        unsigned x[2][4], y[2][2];
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
          const unsigned* const from = (const unsigned*)tile_a + (warp_row + i * 16 + lane / 4) * 20 + w;
          x[i][0] = from[0];
          x[i][1] = from[160];
          x[i][2] = from[4];
          x[i][3] = from[160 + 4];
        }
        #pragma unroll
        for (int j = 0; j < 2; ++j) {
          const unsigned* const from = (const unsigned*)tile_b + (warp_column + j * 8 + lane / 4) * 20 + w;
          y[j][0] = from[0];
          y[j][1] = from[4];
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
          #pragma unroll
          for (int j = 0; j < 2; ++j) {
            multiply_tf32(sums[i][j], x[i], y[j]);
          }
        }
      }
      __syncthreads();
    }
    if (next_sum < sum_end) {
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 4 * 4;
        const int in_tile = f / 4;
        *(Pack<unsigned, 4>*)(tile_a + in_tile * 20 + in_sum) = {{next_a[turn][0], next_a[turn][1], next_a[turn][2], next_a[turn][3]}};
      }
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 16 * 1;
        const int in_tile = f % 16 * 4;
        tile_b[(in_tile + 0) * 20 + in_sum] = next_b[turn][0];
        tile_b[(in_tile + 1) * 20 + in_sum] = next_b[turn][1];
        tile_b[(in_tile + 2) * 20 + in_sum] = next_b[turn][2];
        tile_b[(in_tile + 3) * 20 + in_sum] = next_b[turn][3];
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int m = first_row + warp_row + i * 8 + lane / 4;
    if (m >= n2) continue;
    #pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const int n = first_column + warp_column + j / 2 * 8 + lane % 4 * 2 + j % 2;
      if (n >= n3) continue;
      const float sum_0 = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
      const float sum_1 = sums[i / 2][j / 2][i % 2 * 2 + j % 2 + 1];
      *(Pack<float, 2>*)(w4 + ((blockIdx.y * 1 + batch) * n2 + m) * n3 + n) = {{sum_0, sum_1}};
    }
  }
}
