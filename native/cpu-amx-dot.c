/** The AMX engine's bf16 product on AVX512-BF16 vectors, for processors that have these but no tiles (Zen 4, Cooper Lake). */
#include "cpu-amx.h"
#include "cpu-gemm-store.h"
#if defined(__AVX512BF16__)
#include <cpuid.h>

int KERNEL(dot_ready)(void) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

/* `rows` rows of the A panel by 32 columns: sixteen pairs per step, in rising order. */
INLINE void block(const uint32_t *a, const uint32_t *b, int64_t depth, int rows, int first, float *c) {
  __m512 sum[8][2];
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t d = 0; d < depth; d += STEP, a += 2 * TILE_BYTES / 4, b += 2 * TILE_BYTES / 4)
    for (int64_t pair = 0; pair < 16; pair++) {
      __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + pair * 16), b1 = (__m512bh)_mm512_loadu_si512(b + (16 + pair) * 16);
#pragma GCC unroll 8
      for (int i = 0; i < rows; i++) {
        __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[i * 16 + pair]);
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], x, b0);
        sum[i][1] = _mm512_dpbf16_ps(sum[i][1], x, b1);
      }
    }
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++) {
    vstore(c + i * WIDE, first ? (vf)sum[i][0] : vload(c + i * WIDE) + (vf)sum[i][0]);
    vstore(c + i * WIDE + VL, first ? (vf)sum[i][1] : vload(c + i * WIDE + VL) + (vf)sum[i][1]);
  }
}

static void multiply(const void *a, const void *b, int64_t depth, int64_t rows, int first, int last, float *c) {
  (void)last;
  for (int64_t r = 0; r < rows; r += 8) {
    const uint32_t *from = (const uint32_t *)a + r * 16; /* rows 16 … 31 are the second tile */
    if (rows - r == 1) block(from, b, depth, 1, first, c + r * WIDE);
    else if (rows - r == 2) block(from, b, depth, 2, first, c + r * WIDE);
    else if (rows - r <= 4) block(from, b, depth, 4, first, c + r * WIDE);
    else block(from, b, depth, 8, first, c + r * WIDE);
  }
}

static void pack_a(const Gemm *g, int64_t row, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  KERNEL(amx_pack)(source_a(g), 1, 0, row, k, depth, (Target){out, 2, panels, pitch});
}
static void pack_b(const Gemm *g, int64_t col, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  KERNEL(amx_pack)(source_b(g), 1, 1, col, k, depth, (Target){out, 2, panels, pitch});
}

Engine KERNEL(engine_dot)(void) {
  return (Engine){{pack_a, WIDE, 2 * WIDE}, {pack_b, WIDE, 2 * WIDE}, STEP, 512, multiply, store_tile, NULL, NULL};
}
#endif
