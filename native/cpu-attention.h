/** What the attention kernels share: products of small tiles, loading rows and keys, the exponential of a softmax, dropout. */
#pragma once
#include <math.h>
#include "cpu-flat.h"
#include "cpu-gemm.h"
#include "cpu-random.h"
#include "kernel.h"

/* Keys are taken in blocks of KEYS from position 0 on, query rows in strips of at most STRIP. The order of every sum for a query is fixed by its position:
   a score over the head size in one chain, an output over the keys of a block in one chain, blocks in order; what is masked adds an exact 0. */
enum { KEYS = 64, STRIP = 8 };
#if VL == 16 || defined(__aarch64__)
#define TILE_VECTORS 4
#else
#define TILE_VECTORS 2 /* 16 registers */
#endif

/* Scratch of the thread that called the kernel, and of each task. */
enum { SCRATCH_SHARED = SCRATCH_FREE, SCRATCH_TASK };

INLINE int64_t padded(int64_t D) { return (D + VL - 1) / VL * VL; }

/* c (rows, vectors·VL) = a (rows, k) · b (k, vectors·VL), or c + a·b: element (r, i) of a is a[r·ar + i·ak]. rows and vectors are constants. */
INLINE void tile(int rows, int vectors, int64_t k, const float *a, int64_t ar, int64_t ak, const float *b, int64_t ldb, float *c, int64_t ldc, int add) {
  vf sum[8][4];
  _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
    _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) sum[r][v] = add ? vload(c + r * ldc + v * VL) : vset(0);
  for (int64_t i = 0; i < k; i++) {
    vf y[4];
    _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) y[v] = vload(b + i * ldb + v * VL);
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
      vf x = vset(a[r * ar + i * ak]);
      _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) sum[r][v] += x * y[v];
    }
  }
  _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
    _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) vstore(c + r * ldc + v * VL, sum[r][v]);
}

/* The same for any rows and vectors; the bits do not depend on how they are cut into tiles. */
static __attribute__((noinline, unused)) void product(int64_t rows, int64_t vectors, int64_t k, const float *a, int64_t ar, int64_t ak, const float *b,
                                                      int64_t ldb, float *c, int64_t ldc, int add) {
  for (int64_t v = 0; v < vectors; v += TILE_VECTORS) {
    int64_t width = MIN(TILE_VECTORS, vectors - v), r = 0;
#define TILES(R, W) \
  for (; width == W && r + R <= rows; r += R) tile(R, W, k, a + r * ar, ar, ak, b + v * VL, ldb, c + r * ldc + v * VL, ldc, add)
#if TILE_VECTORS == 4
    TILES(8, 1);
    TILES(8, 2);
    TILES(4, 3);
    TILES(4, 4);
    TILES(1, 3);
    TILES(1, 4);
#endif
    TILES(4, 1);
    TILES(4, 2);
    TILES(1, 1);
    TILES(1, 2);
#undef TILES
  }
}

/* to (n, padded(D)) = scale · rows of D elements that start at base[at[i]]; zeros beyond D. */
INLINE void load_rows_of(float *to, const void *base, const int64_t *at, int64_t n, int64_t D, float scale, int64_t type) {
  int64_t P = padded(D);
  for (int64_t i = 0; i < n; i++) {
    int64_t d = 0;
    for (; d + VL <= D; d += VL) vstore(to + i * P + d, scale * vload_type(base, at[i] + d, type));
    if (d < D) vstore(to + i * P + d, scale * vload_type_part(base, at[i] + d, D - d, type));
  }
}
INLINE void load_rows(float *to, const void *base, const int64_t *at, int64_t n, int64_t D, float scale, int64_t type) {
  if (type == F32) load_rows_of(to, base, at, n, D, scale, F32);
  else load_rows_of(to, base, at, n, D, scale, BF16);
}

/* to (D, KEYS) = the transpose of n ≤ KEYS rows of D elements that start at base[at[i]]; zeros beyond n. */
INLINE void load_transposed_of(float *to, const void *base, const int64_t *at, int64_t n, int64_t D, int64_t type) {
  for (int64_t i = 0; i < KEYS; i += VL) {
    for (int64_t d = 0; d < D; d += VL) {
      vf x[VL];
      int64_t width = MIN(VL, D - d);
      if (i + VL <= n && width == VL) {
        _Pragma("GCC unroll 16") for (int j = 0; j < VL; j++) x[j] = vload_type(base, at[i + j] + d, type);
        vtranspose(x);
        _Pragma("GCC unroll 16") for (int j = 0; j < VL; j++) vstore(to + (d + j) * KEYS + i, x[j]);
        continue;
      }
      for (int64_t j = 0; j < VL; j++) x[j] = i + j < n ? vload_type_part(base, at[i + j] + d, width, type) : vset(0);
      vtranspose(x);
      for (int64_t j = 0; j < width; j++) vstore(to + (d + j) * KEYS + i, x[j]);
    }
  }
}
INLINE void load_transposed(float *to, const void *base, const int64_t *at, int64_t n, int64_t D, int64_t type) {
  if (type == F32) load_transposed_of(to, base, at, n, D, F32);
  else load_transposed_of(to, base, at, n, D, BF16);
}

/* e^x for x ≤ 0, ≤ 1 ulp; below e^-86 it stays at 4e-38, because subnormal results would take the processor's slow path. NaN stays NaN. */
INLINE vf vexp_negative(vf x) {
  x = vmax(vset(-86.0f), x);
  vf t = x * 1.44269504f + 12582912.0f; /* 1.5·2^23: the integer is in the low bits */
  vi n = (vi)t << 23;
  t -= 12582912.0f;
  vf r = x - t * 0.693145752f; /* ln2 in two parts, the first exact in 16 bits */
  r = r - t * 1.42860677e-6f;
  vf p = r * 1.39507244e-3f + 8.36902484e-3f;
  p = p * r + 4.16662022e-2f;
  p = p * r + 1.66665182e-1f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  return (vf)((vi)p + n);
}

/* Dropout of probabilities, as in PyTorch's SDPA: one whose random 24 bits are below the threshold becomes 0, the others are scaled by 1 / (1 - p). */
typedef struct AttentionDropout {
  const int32_t *seed, *step, *row; /* row: index of this batch's first row in the global batch */
  int64_t site, threshold, T;
  float scale;
} AttentionDropout;

/* factor[i] = 0 or scale for the n ≤ KEYS keys from position j on, of query position i, head h of H, sample b of this batch. */
static __attribute__((noinline, unused)) void dropout_factors(const AttentionDropout *drop, int64_t b, int64_t H, int64_t h, int64_t i, int64_t j, int64_t n,
                                                              float *factor) {
  uint32_t buffer[KEYS + 8 * VL];
  int64_t sample = b + *drop->row / drop->T;
  const uint32_t *bits = random_fill((uint32_t)*drop->seed, (uint32_t)drop->site, (uint32_t)*drop->step, ((sample * H + h) * drop->T + i) * drop->T + j, n, buffer);
  for (int64_t x = 0; x < n; x += VL) {
    vu u;
    memcpy(&u, bits + x, sizeof u);
    vstore(factor + x, (vf)((vi)vset(drop->scale) & ((vi)(u >> 8) >= (int32_t)drop->threshold)));
  }
}
