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
DEVICE void copy_async(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEVICE void wait_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
DEVICE void load_matrices(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
DEVICE void load_transposed(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
extern __shared__ uint4 shared_memory[];
DEVICE unsigned char* shared_bytes() { return (unsigned char*)shared_memory; }
#endif
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
extern "C" __global__ void __launch_bounds__(256, 2) product_f16_copied_split_2ea8a4bee22e8d13(const int n0,
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
  unsigned short* const tile_b = tile_a + 5120;
  const int lane = thread % 32;
  const int warp_row = thread / 32 / 4 * 32;
  const int warp_column = thread / 32 % 4 * 16;
  float sums[2][2][4] = {};
  const int sum_from = blockIdx.y * n1, sum_end = min(sum_from + n1, n0);
  const int steps = (sum_end - sum_from + 31) / 32;
  int into = 0, from = 0;
  #pragma unroll 1
  for (int step = -1; step < steps; ++step) {
    if (step >= 0) {
      wait_copies<0>();
      __syncthreads();
    }
    if (step + 1 < steps) {
      const int next_sum = sum_from + (step + 1) * 32;
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f % 4 * 8;
        const int in_tile = f / 4;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 8) / 8;
        const int m = min(first_row + in_tile, n2 - 1);
        const int a2 = (k) * 8;
        const int a0 = m;
        copy_async(tile_a + into * 2560 + in_tile * 40 + in_sum, t0 + n0 * a0 + a2, sum_at < n0 ? 16 : 0);
      }
      #pragma unroll
      for (int turn = 0; turn < 1; ++turn) {
        const int f = thread + turn * 256;
        const int in_sum = f / 8;
        const int in_tile = f % 8 * 8;
        const int sum_at = next_sum + in_sum;
        const int k = min(sum_at, n0 - 1);
        const int m = min(first_column + in_tile, n3 - 8) / 8;
        const int a2 = k;
        const int a1 = (m) * 8;
        copy_async(tile_b + into * 2304 + in_sum * 72 + in_tile, t1 + a1 + n3 * a2, sum_at < n0 ? 16 : 0);
      }
    }
    commit_copies();
    into = into == 1 ? 0 : into + 1;
    if (step < 0) continue;
    #pragma unroll
    for (int part = 0; part < 32; part += 16) {
      unsigned x[2][4], y[2][2];
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices(x[i][0], x[i][1], x[i][2], x[i][3], tile_a + from * 2560 + (warp_row + i * 16 + lane / 8 % 2 * 8 + lane % 8) * 40 + part + lane / 16 * 8);
      }
      #pragma unroll
      for (int j = 0; j < 2; j += 2) {
        load_transposed(y[j][0], y[j][1], y[j + 1][0], y[j + 1][1], tile_b + from * 2304 + (part + lane / 8 % 2 * 8 + lane % 8) * 72 + warp_column + j * 8 + lane / 16 * 8);
      }
      #pragma unroll
      for (int i = 0; i < 2; ++i) {
        #pragma unroll
        for (int j = 0; j < 2; ++j) {
          multiply_f16(sums[i][j], x[i], y[j]);
        }
      }
    }
    from = from == 1 ? 0 : from + 1;
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
