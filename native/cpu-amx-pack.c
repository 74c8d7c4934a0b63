/** Packing for the AMX engine: f32 split into three bf16, pairs of k, 16 × 16 tiles. */
#include "cpu-amx.h"
#if defined(__AMX_BF16__)

/* Sixteen pairs of floats (a, b) as words: one word per pair for each part, a below b. With three parts a = high + middle + low exactly. */
INLINE void split(vf a, vf b, int64_t parts, vu *out) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
#pragma GCC unroll 3
  for (int64_t p = 0; p < parts; p++) {
    vu word = (vu)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
    out[p] = word;
    if (p + 1 < parts) {
      a -= (vf)(word << 16);
      b -= (vf)(word & 0xffff0000u);
    }
  }
}

/* n < 16 floats or fewer than 1 (zeros), 16 or more. */
INLINE vf load16(const void *p, int64_t at, int64_t n, int64_t type) {
  return n >= 16 ? vload_type(p, at, type) : n > 0 ? vload_type_part(p, at, n, type) : vset(0);
}

/* Line `line` of the tile at (index, k): for a source stored (index, k) 16 pairs of row index + line, for (k, index) the pair `line` of 16 indexes.
   Pairs are (k, k + 1) with one part, so that bf16 rows are copied as they are, and (k, k + 16) with three, so that f32 rows are split as they are. */
INLINE void pack_line(const Source *s, int64_t parts, int64_t index, int64_t line, int64_t k, int64_t end, vu *out) {
  if (s->along) {
    int64_t at = (index + line) * s->ld + k, n = index + line < s->limit ? end - k : 0;
    if (parts == 1 && s->type == BF16 && n >= 32) {
      memcpy(out, (const bf16 *)s->data + at, 64);
    } else if (parts == 1) {
      vf x[2] = {load16(s->data, at, n, s->type), load16(s->data, at + 16, n - 16, s->type)};
      *out = (vu)_mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]);
    } else {
      split(load16(s->data, at, n, F32), load16(s->data, at + 16, n - 16, F32), 3, out);
    }
  } else {
    int64_t k0 = parts == 1 ? k + 2 * line : k + line, k1 = parts == 1 ? k0 + 1 : k0 + 16, n = s->limit - index;
    split(load16(s->data, k0 * s->ld + index, k0 < end ? n : 0, s->type), load16(s->data, k1 * s->ld + index, k1 < end ? n : 0, s->type), parts, out);
  }
}

INLINE void pack(const Source *s, int64_t parts, int transpose, int64_t tiles, int64_t index, int64_t k, int64_t depth, char *out) {
  int64_t end = k + depth, bytes = tiles * parts * TILE_BYTES;
  if (s->along && !transpose) { /* row by row: memory is read as a stream */
    for (int64_t t = 0; t < tiles; t++)
      for (int64_t line = 0; line < 16; line++)
        for (int64_t d = 0; d < depth; d += STEP) {
          vu words[3];
          pack_line(s, parts, index + 16 * t, line, k + d, end, words);
          for (int64_t p = 0; p < parts; p++) memcpy(out + d / STEP * bytes + (p * tiles + t) * TILE_BYTES + line * 64, &words[p], 64);
        }
    return;
  }
  for (int64_t d = 0; d < depth; d += STEP, out += bytes)
    for (int64_t t = 0; t < tiles; t++) {
      vf lines[3][16];
#pragma GCC unroll 16
      for (int64_t line = 0; line < 16; line++) {
        vu words[3];
        pack_line(s, parts, index + 16 * t, line, k + d, end, words);
        for (int64_t p = 0; p < parts; p++) lines[p][line] = (vf)words[p];
      }
      for (int64_t p = 0; p < parts; p++) {
        if (transpose) vtranspose(lines[p]);
        memcpy(out + (p * tiles + t) * TILE_BYTES, lines[p], TILE_BYTES);
      }
    }
}

void KERNEL(amx_pack)(Source s, int64_t parts, int across, int64_t tiles, int64_t index, int64_t k, int64_t depth, void *out) {
  int transpose = s.along ? across : !across;
#define CASE(type_, along_, parts_) \
  if (s.type == type_ && s.along == along_ && parts == parts_) pack(&(Source){s.data, s.ld, type_, s.limit, along_}, parts_, transpose, tiles, index, k, depth, out);
  CASE(F32, 0, 3) CASE(F32, 1, 3) CASE(F32, 0, 1) CASE(F32, 1, 1) CASE(BF16, 0, 1) CASE(BF16, 1, 1)
#undef CASE
}

void KERNEL(amx_pack_narrow)(Source s, int64_t parts, int64_t k, int64_t depth, void *out) {
  uint32_t *o = out;
  for (int64_t d = 0; d < depth; d += STEP)
    for (int64_t i = 0; i < s.limit; i++) {
      vu words[3];
      pack_line(&s, parts, 0, i, k + d, k + depth, words);
      for (int64_t p = 0; p < parts; p++)
        for (int64_t pair = 0; pair < 16; pair++) o[((d / STEP * parts + p) * 16 + pair) * s.limit + i] = words[p][pair];
    }
}
#endif
