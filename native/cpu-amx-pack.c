/** Packing for the AMX engine: f32 split into three bf16, pairs of k, 16 × 16 tiles. */
#include "cpu-amx.h"
#if defined(__AVX512BF16__)

/* Sixteen pairs rounded to bf16. */
INLINE vu round_pairs(vf a, vf b) {
  const __m512i low = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); /* word i is i, i + 16 */
  const __m512i order = _mm512_or_si512(low, _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(16)), 16));
  return (vu)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
}

/* Sixteen elements from `at`, of which n are in the matrix; whole says that all are. */
INLINE vf load16(const Source *s, int64_t at, int64_t n, int whole) {
  return whole || n >= 16 ? vload_type(s->data, at, s->type) : n > 0 ? vload_type_part(s->data, at, n, s->type) : vset(0);
}

/* Lines of a tile with three parts: pair p of a step is (k + p, k + 16 + p), so that both halves are loads as they are. The transpose comes
   before the split. */
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

/* In the order of the source's memory: its rows are indexes (panel by panel, all steps) or k (step by step, all panels). */
INLINE void pack(Source s, int64_t parts, int transpose, int whole, int64_t index, int64_t k, int64_t depth, Target to) {
  int64_t steps = (depth + STEP - 1) / STEP, step = to.tiles * TILE_BYTES;
  int64_t outer = s.along ? to.panels : steps, inner = s.along ? steps : to.panels;
  for (int64_t i = 0; i < outer; i++)
    for (int64_t j = 0; j < inner; j++)
      for (int64_t t = 0; t < to.tiles; t++) {
        int64_t panel = s.along ? i : j, d = s.along ? j : i, at = index + (panel * to.tiles + t) * 16;
        char *out = to.out + panel * to.pitch + d * parts * step + t * TILE_BYTES;
        if (parts == 3) tile3(&s, transpose, whole, at, k + d * STEP, k + depth, out, step);
        else tile1(&s, transpose, whole, at, k + d * STEP, k + depth, out);
      }
}

/* One function for each kind of source. */
#define KIND(name, type, along, parts)                                                                                                 \
  static __attribute__((noinline)) void name(Source s, int transpose, int whole, int64_t index, int64_t k, int64_t depth, Target to) { \
    Source source = {s.data, s.ld, type, s.limit, along};                                                                              \
    if (whole && transpose) pack(source, parts, 1, 1, index, k, depth, to);                                                            \
    else if (whole) pack(source, parts, 0, 1, index, k, depth, to);                                                                    \
    else pack(source, parts, transpose, 0, index, k, depth, to);                                                                       \
  }
KIND(split_across, F32, 0, 3)
KIND(split_along, F32, 1, 3)
KIND(round_across, F32, 0, 1)
KIND(round_along, F32, 1, 1)
KIND(copy_across, BF16, 0, 1)
KIND(copy_along, BF16, 1, 1)

void KERNEL(amx_pack)(Source s, int64_t parts, int across, int64_t index, int64_t k, int64_t depth, Target to) {
  int transpose = s.along ? across : !across, whole = index + 16 * to.tiles * to.panels <= s.limit && depth % STEP == 0;
  if (parts == 3) (s.along ? split_along : split_across)(s, transpose, whole, index, k, depth, to);
  else if (s.type == F32) (s.along ? round_along : round_across)(s, transpose, whole, index, k, depth, to);
  else (s.along ? copy_along : copy_across)(s, transpose, whole, index, k, depth, to);
}
#endif
