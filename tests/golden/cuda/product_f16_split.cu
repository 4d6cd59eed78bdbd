#define DEVICE static __device__ __forceinline__
#ifndef ONNX_FUSION_EMULATED
DEVICE void multiply_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int i = 0; i < 2; ++i) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
  }
#endif
}
extern __shared__ uint4 shared_memory[];
DEVICE unsigned char* shared_bytes() { return (unsigned char*)shared_memory; }
#endif
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(256, 2) product_f16_split_af51e2b5a5413510(const int n0,
    const int n1,
    const int n2,
    const unsigned short* __restrict__ t0,
    const int n3,
    const unsigned short* __restrict__ t1,
    float* __restrict__ w4) {
  const int thread = threadIdx.x;
  const int tile = blockIdx.x;
  const int tile_row = tile;
  const int first_column = (tile - tile_row * 1) * 64;
  const int batch = tile_row;
  const int first_row = (tile_row - batch * 1) * 64;
  unsigned short* const tile_a = (unsigned short*)shared_bytes();
  unsigned short* const tile_b = tile_a + 2560;
  const int lane = thread % 32;
  const int warp_row = thread / 32 / 4 * 32;
  const int warp_column = thread / 32 % 4 * 16;
  float sums[2][2][4] = {};
  unsigned short next_a[8][1];
  unsigned short next_b[4][2][1];
  const int sum_from = blockIdx.y * n1, sum_end = min(sum_from + n1, n0);
  for (int next_sum = sum_from; next_sum < sum_end + 32; next_sum += 32) {
    if (next_sum < sum_end) {
      #pragma unroll
      for (int turn = 0; turn < 8; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 32 * 1;
        const int in_tile = f / 32;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 1);
        const int m = min(first_row + in_tile, n2 - 1);
        const int a2 = k;
        const int a0 = m;
        const unsigned short v0 = t0[n0 * a0 + a2];
        next_a[turn][0] = sum_at < n0 ? v0 : 0;
      }
      #pragma unroll
      for (int turn = 0; turn < 4; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 64 * 2;
        const int in_tile = f % 64 * 1;
        #pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int sum_at = next_sum + in_sum + half;
          const int k = min(sum_at, n0 - 1);
          const int m = min(first_column + in_tile, n3 - 1);
          const int a2 = k;
          const int a1 = m;
          const unsigned short v2 = t1[a1 + n3 * a2];
          next_b[turn][half][0] = sum_at < n0 ? v2 : 0;
        }
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
            multiply_f16(sums[i][j], x[i], y[j]);
          }
        }
      }
      __syncthreads();
    }
    if (next_sum < sum_end) {
      #pragma unroll
      for (int turn = 0; turn < 8; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 32 * 1;
        const int in_tile = f / 32;
        *(Pack<unsigned short, 1>*)(tile_a + in_tile * 40 + in_sum) = {{next_a[turn][0]}};
      }
      #pragma unroll
      for (int turn = 0; turn < 4; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 64 * 2;
        const int in_tile = f % 64 * 1;
        *(Pack<unsigned short, 2>*)(tile_b + (in_tile + 0) * 40 + in_sum) = {{next_b[turn][0][0], next_b[turn][1][0]}};
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int m = first_row + warp_row + i * 8 + lane / 4;
    if (m >= n2) continue;
    #pragma unroll
    for (int j = 0; j < 4; j += 1) {
      const int n = first_column + warp_column + j / 2 * 8 + lane % 4 * 2 + j % 2;
      if (n >= n3) continue;
      const float sum = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
      w4[((blockIdx.y * 1 + batch) * n2 + m) * n3 + n] = sum;
    }
  }
}
