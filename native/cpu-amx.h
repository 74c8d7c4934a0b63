/** What the two halves of the AMX engine share: the layout of packed tiles. */
#pragma once
#include "cpu-gemm.h"

/* A step is 32 deep. A tile of A holds 16 rows of 16 pairs (of k), a tile of B 16 pairs of 16 columns, 1 KiB each; one is the other
   transposed as 16 × 16 words of a pair. An f32 operand is split into PARTS = 3 bf16 (high, middle, low: 24 bits, nothing lost), a bf16 one
   has 1 part. A panel (32 rows or columns) is [step][part][2 tiles]. Sums run over a pass (so deep with so many parts), then the sums of
   the passes are added: one order, whatever the shape. */
enum { STEP = 32, TILE_BYTES = 1024, WIDE = 32, AMX_PASS_1 = 1024, AMX_PASS_3 = 384 };

INLINE int64_t amx_parts(const Gemm *g) { return g->a_type == F32 && g->b_type == F32 ? 3 : 1; }

/* Packed panels, `pitch` bytes apart, of `tiles` tiles (16 indexes each); [step][part][tiles] in a panel. */
typedef struct Target {
  char *out;
  int64_t tiles, panels, pitch;
} Target;

/* Packs from `index` on, over depth from k on, both filled up with zeros. across: pairs down and indexes across (B tiles), else A tiles. */
void KERNEL(amx_pack)(Source s, int64_t parts, int across, int64_t index, int64_t k, int64_t depth, Target to);

/* Tiles for this thread until _tile_release: 0-5 with so many columns (of C and B), 6 and 7 of 16 × 64 bytes (A). */
void KERNEL(amx_configure)(int64_t columns);

#if defined(__AVX512BF16__)
/* Sixteen pairs of floats (a, b) as three times sixteen words, a below b: a = high + middle + low, exactly. High is rounded and middle cut
   off, so that the signs of middle and low are even-handed: what the six products leave out, ≤ 2^-24 each, has no bias. The three lines lie
   `step` bytes apart. */
INLINE void split3(vf a, vf b, char *out, int64_t step) {
  const uint32_t top = 0xffff0000u;
  vu high_a = ((vu)a + 0x8000u) & top, high_b = ((vu)b + 0x8000u) & top;
  vf rest_a = a - (vf)high_a, rest_b = b - (vf)high_b;
  vu middle_a = (vu)rest_a & top, middle_b = (vu)rest_b & top;
  vu low_a = (vu)(rest_a - (vf)middle_a), low_b = (vu)(rest_b - (vf)middle_b);
  *(vu *)out = high_a >> 16 | high_b;
  *(vu *)(out + step) = middle_a >> 16 | middle_b;
  *(vu *)(out + 2 * step) = low_a >> 16 | (low_b & top);
}
#endif
