/** Packing for the AMX engine: f32 split into three bf16, pairs of k, 16 × 16 tiles. */
#include "cpu-amx.h"
#if defined(__AVX512BF16__)

/* Sixteen pairs rounded to bf16. */
INLINE vu round_pairs(vf a, vf b) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (vu)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
}

/* Sixteen elements from `at`, of which n are in the matrix; whole says that all are. */
INLINE vf load16(const Source *s, int64_t at, int64_t n, int whole) {
  return whole || n >= 16 ? vload_type(s->data, at, s->type) : n > 0 ? vload_type_part(s->data, at, n, s->type) : vset(0);
}

/* Lines of a tile with three parts: pair p of a step is (k + p, k + 16 + p), so that both halves are loads as they are. The transpose comes before the split. */
INLINE void tile3(const Source *s, int transpose, int whole, int64_t index, int64_t k, int64_t end, char *out, int64_t step) {
  vf x[2][16];
  for (int64_t half = 0; half < 2; half++) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < 16; i++) {
      int64_t row = s->along ? index + i : k + 16 * half + i, col = s->along ? k + 16 * half : index;
      __builtin_prefetch((const float *)s->data + (row + STEP) * s->ld + col, 0, 2); /* the next step or the next panel */
      x[half][i] = load16(s, row * s->ld + col, row < (s->along ? s->limit : end) ? (s->along ? end : s->limit) - col : 0, whole);
    }
    if (transpose) vtranspose(x[half]);
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < 16; i++) split3(x[0][i], x[1][i], out + i * 64, step);
}

/* Lines of a tile with one part: pair p is (k + 2p, k + 2p + 1), so that rows of bf16 are copied as they are. */
INLINE void tile1(const Source *s, int transpose, int whole, int64_t index, int64_t k, int64_t end, char *out) {
  vu x[16];
#pragma GCC unroll 16
  for (int64_t i = 0; i < 16; i++) {
    if (s->along) {
      int64_t at = (index + i) * s->ld + k, n = index + i < s->limit ? end - k : 0;
      __builtin_prefetch((const char *)s->data + (at + STEP * s->ld) * type_bytes(s->type), 0, 2);
      if (s->type == BF16 && (whole || n >= STEP)) memcpy(&x[i], (const bf16 *)s->data + at, 64);
      else x[i] = (vu)_mm512_cvtne2ps_pbh((__m512)load16(s, at + 16, n - 16, whole), (__m512)load16(s, at, n, whole));
    } else {
      int64_t at = (k + 2 * i) * s->ld + index, n = s->limit - index;
      __builtin_prefetch((const char *)s->data + (at + STEP * s->ld) * type_bytes(s->type), 0, 2);
      __builtin_prefetch((const char *)s->data + (at + (STEP + 1) * s->ld) * type_bytes(s->type), 0, 2);
      vf a = load16(s, at, k + 2 * i < end ? n : 0, whole), b = load16(s, at + s->ld, k + 2 * i + 1 < end ? n : 0, whole);
      x[i] = s->type == BF16 ? (vu)a >> 16 | (vu)b : round_pairs(a, b);
    }
  }
  if (transpose) vtranspose((vf *)x);
  memcpy(out, x, TILE_BYTES);
}

INLINE void pack(const Source *s, int64_t parts, int transpose, int whole, int64_t tiles, int64_t index, int64_t k, int64_t depth, char *out) {
  int64_t step = tiles * TILE_BYTES;
  for (int64_t d = 0; d < depth; d += STEP, out += parts * step)
    for (int64_t t = 0; t < tiles; t++) {
      if (parts == 3) tile3(s, transpose, whole, index + 16 * t, k + d, k + depth, out + t * TILE_BYTES, step);
      else tile1(s, transpose, whole, index + 16 * t, k + d, k + depth, out + t * TILE_BYTES);
    }
}

#define CASE(type, along, parts)                                                                                   \
  static __attribute__((noinline)) void pack_##type##_##along##_##parts(const void *data, int64_t ld, int64_t limit, int transpose, int64_t tiles, int64_t index, int64_t k, int64_t depth, char *out) { \
    Source s = {data, ld, type, limit, along};                                                                     \
    int whole = index + 16 * tiles <= limit && depth % STEP == 0;                                                  \
    if (whole && transpose) pack(&s, parts, 1, 1, tiles, index, k, depth, out);                                    \
    else if (whole) pack(&s, parts, 0, 1, tiles, index, k, depth, out);                                            \
    else pack(&s, parts, transpose, 0, tiles, index, k, depth, out);                                               \
  }
CASE(F32, 0, 3) CASE(F32, 1, 3) CASE(F32, 0, 1) CASE(F32, 1, 1) CASE(BF16, 0, 1) CASE(BF16, 1, 1)
#undef CASE

void KERNEL(amx_pack)(Source s, int64_t parts, int across, int64_t tiles, int64_t index, int64_t k, int64_t depth, void *out) {
  int transpose = s.along ? across : !across;
  if (parts == 3) (s.along ? pack_F32_1_3 : pack_F32_0_3)(s.data, s.ld, s.limit, transpose, tiles, index, k, depth, out);
  else if (s.type == F32) (s.along ? pack_F32_1_1 : pack_F32_0_1)(s.data, s.ld, s.limit, transpose, tiles, index, k, depth, out);
  else (s.along ? pack_BF16_1_1 : pack_BF16_0_1)(s.data, s.ld, s.limit, transpose, tiles, index, k, depth, out);
}
#endif
