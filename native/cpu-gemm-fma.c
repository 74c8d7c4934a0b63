/** The engine of the matrix product on vectors of floats: every processor, f32 and (widened) bf16 operands. */
#include "cpu-gemm-store.h"

/* A tile of C lives in registers: ROWS × COLS floats, one FMA per vector and k; the sums of K_BLOCK products each are added in order. */
#if VL == 16 || defined(__aarch64__)
enum { ROWS = 12 };
#else
enum { ROWS = 6 };
#endif
enum { COLS = 2 * VL, K_BLOCK = 256 };

/* Layout of a packed A: [k][ROWS]; B: [k][COLS]. */

/* VL words of 32 bits (an f32, or two bf16 that then part) of VL rows from `src` on, transposed, to out[k][width]. whole: nothing lies
   outside the matrix or the panel. A weight that is used once (decoding) comes as fast as it is fetched: what is needed 128 bytes later is
   asked for. */
INLINE void turn(const char *src, Source s, int whole, int64_t rows, int64_t lanes, int64_t depth, int64_t width, float *out) {
  const int64_t per_word = s.type == F32 ? 1 : 2;
  vf x[VL];
#pragma GCC unroll 16
  for (int64_t i = 0; i < VL; i++, src += s.ld * type_bytes(s.type)) {
    if (whole || (i < rows && depth == VL * per_word)) x[i] = vload((const float *)src);
    else if (x[i] = vset(0), i < rows) memcpy(&x[i], src, (size_t)(depth * 4 / per_word));
    __builtin_prefetch(src + 128, 0, 2);
  }
  vtranspose(x);
#pragma GCC unroll 16
  for (int64_t i = 0; i < VL; i++, out += per_word * width) {
    vf first = s.type == F32 ? x[i] : (vf)((vu)x[i] << 16), second = (vf)((vu)x[i] & 0xffff0000u);
    if (whole) vstore(out, first);
    else if (i * per_word < depth) vstore_part(out, first, lanes);
    if (s.type == BF16 && whole) vstore(out + width, second);
    else if (s.type == BF16 && i * 2 + 1 < depth) vstore_part(out + width, second, lanes);
  }
}

/* From an operand stored (index, k): rows of k become columns. */
INLINE void pack_along(Source s, int64_t index, int64_t k, int64_t depth, int64_t width, float *out) {
  const int64_t step = s.type == F32 ? VL : 2 * VL;
  for (int64_t d = 0; d < depth; d += step)
    for (int64_t i = 0; i < width; i += VL) {
      int64_t n = MIN(step, depth - d), lanes = MIN(VL, width - i), rows = MIN(lanes, s.limit - index - i);
      const char *from = (const char *)s.data + ((index + i) * s.ld + k + d) * type_bytes(s.type);
      if (rows == VL && n == step) turn(from, s, 1, rows, lanes, n, width, out + d * width + i);
      else turn(from, s, 0, rows, lanes, n, width, out + d * width + i);
    }
}

/* From an operand stored (k, index): pieces of rows. */
INLINE void pack_across(Source s, int64_t index, int64_t k, int64_t depth, int64_t width, float *out) {
  for (int64_t d = 0; d < depth; d++)
    for (int64_t i = 0; i < width; i += VL) {
      int64_t at = (k + d) * s.ld + index + i, lanes = MIN(VL, width - i), n = MIN(lanes, s.limit - index - i);
      vf x = n <= 0 ? vset(0) : n == VL ? vload_type(s.data, at, s.type) : vload_type_part(s.data, at, n, s.type);
      if (lanes == VL) vstore(out + d * width + i, x);
      else vstore_part(out + d * width + i, x, lanes);
    }
}

INLINE void pack(Source s, int64_t index, int64_t k, int64_t depth, int64_t panels, int64_t pitch, int64_t width, void *out) {
  Source f32 = {s.data, s.ld, F32, s.limit, 0}, half = {s.data, s.ld, BF16, s.limit, 0};
  for (int64_t p = 0; p < panels; p++, index += width, out = (char *)out + pitch) {
    if (s.along && s.type == F32) pack_along(f32, index, k, depth, width, out);
    else if (s.along) pack_along(half, index, k, depth, width, out);
    else if (s.type == F32) pack_across(f32, index, k, depth, width, out);
    else pack_across(half, index, k, depth, width, out);
  }
}
static void pack_a(const Gemm *g, int64_t row, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  pack(source_a(g), row, k, depth, panels, pitch, ROWS, out);
}
static void pack_b(const Gemm *g, int64_t col, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  pack(source_b(g), col, k, depth, panels, pitch, COLS, out);
}

INLINE void tile(const float *a, const float *b, int64_t depth, int rows, int first, float *c) {
  vf sum[ROWS][2];
#pragma GCC unroll 12
  for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = vset(0);
  for (int64_t k = 0; k < depth; k++, a += ROWS, b += COLS) {
    vf b0 = vload(b), b1 = vload(b + VL);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
      sum[i][0] += a[i] * b0;
      sum[i][1] += a[i] * b1;
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < rows; i++) {
    vstore(c + i * COLS, first ? sum[i][0] : vload(c + i * COLS) + sum[i][0]);
    vstore(c + i * COLS + VL, first ? sum[i][1] : vload(c + i * COLS + VL) + sum[i][1]);
  }
}

static void multiply(const void *a, const void *b, int64_t depth, int64_t valid_rows, int first, int last, float *c) {
  (void)last;
  switch (valid_rows) {
    case 1: tile(a, b, depth, 1, first, c); break;
    case 2: tile(a, b, depth, 2, first, c); break;
    case 3: tile(a, b, depth, 3, first, c); break;
    case 4: tile(a, b, depth, 4, first, c); break;
    case 5: case 6: tile(a, b, depth, 6, first, c); break;
#if VL == 16 || defined(__aarch64__)
    case 7: case 8: tile(a, b, depth, 8, first, c); break;
#endif
    default: tile(a, b, depth, ROWS, first, c);
  }
}

Engine KERNEL(engine_fma)(const Gemm *g) {
  (void)g;
  return (Engine){{pack_a, ROWS, ROWS * 4}, {pack_b, COLS, COLS * 4}, 1, K_BLOCK, multiply, store_tile, NULL, NULL};
}
