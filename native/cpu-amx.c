/** The engine of the matrix product on AMX tiles: bf16 as it is, f32 as three bf16 and six products. */
#include "cpu-amx.h"
#include "cpu-gemm-store.h"
#if defined(__AVX512BF16__)
#include <cpuid.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* f32 on AMX: x = h + m + l (8 bits of mantissa each), and x·w = hh + hm + mh + mm + hl + lh but for 2^-24; products are exact and summed
   in f32. Parts below 2^-126 count as 0; |x| ≥ 2^128 (1 - 2^-9) and infinities give NaN. */

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* The processor has AMX-BF16 and AVX512-BF16 and the kernel lets this process use tiles. */
int KERNEL(amx_ready)(void) {
  static _Atomic int known; /* 1 no, 2 yes */
  if (!known) {
    unsigned a, b, c, d;
    int has = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1); /* AMX-BF16, AMX-TILE */
    has = has && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);                /* AVX512-BF16 */
    known = has && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 ? 2 : 1;
  }
  return known == 2;
}

void KERNEL(amx_configure)(int64_t columns) {
  struct { uint8_t palette, start_row, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    config.rows[i] = 16;
    config.bytes[i] = (uint16_t)(i >= 6 ? 64 : 4 * columns);
  }
  __asm__ volatile("" : : "r"(&config) : "memory"); /* gcc 12 does not see that all 64 bytes are read */
  _tile_loadconfig(&config);
}
static void begin(const Gemm *g) { (void)g; KERNEL(amx_configure)(16); }
static void end(void) { _tile_release(); }

#define FOUR _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
#define LOAD_A(part) _tile_loadd(4, a + (part) * 2 * TILE_BYTES, 64); _tile_loadd(5, a + ((part) * 2 + 1) * TILE_BYTES, 64);
#define LOAD_B(part) _tile_loadd(6, b + (part) * 2 * TILE_BYTES, 64); _tile_loadd(7, b + ((part) * 2 + 1) * TILE_BYTES, 64);

/* 32 × 32 sums over one pass, from 0, into c [32][32]. Order of the six products, A of the caller before
   B: hl hm mm mh lh hh, also when the operands trade places. */
INLINE void multiply_tiles(const char *a, const char *b, int64_t depth, int64_t parts, int swapped, float *c) {
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (int64_t d = 0; d < depth; d += STEP, a += parts * 2 * TILE_BYTES, b += parts * 2 * TILE_BYTES) {
    if (parts == 1) {
      LOAD_A(0) LOAD_B(0) FOUR
    } else if (swapped) {
      LOAD_A(2) LOAD_B(0) FOUR
      LOAD_A(1) FOUR
      LOAD_B(1) FOUR
      LOAD_A(0) FOUR
      LOAD_B(2) FOUR
      LOAD_B(0) FOUR
    } else {
      LOAD_B(2) LOAD_A(0) FOUR
      LOAD_B(1) FOUR
      LOAD_A(1) FOUR
      LOAD_B(0) FOUR
      LOAD_A(2) FOUR
      LOAD_A(0) FOUR
    }
  }
  float *below = c + 16 * WIDE;
  _tile_stored(0, c, WIDE * 4); _tile_stored(1, c + 16, WIDE * 4); _tile_stored(2, below, WIDE * 4); _tile_stored(3, below + 16, WIDE * 4);
}

/* The sums of the passes are added in order: small terms are not lost in large sums. swapped: rows of B are the A tiles, and c is turned
   when done. */
INLINE void multiply(const void *a, const void *b, int64_t depth, int64_t parts, int swapped, int first, int last, float *c) {
  float pass[WIDE * WIDE] __attribute__((aligned(64)));
  if (first && !(swapped && last)) {
    multiply_tiles(swapped ? b : a, swapped ? a : b, depth, parts, swapped, c);
    return;
  }
  multiply_tiles(swapped ? b : a, swapped ? a : b, depth, parts, swapped, pass);
  if (!swapped || !last) {
    for (int i = 0; i < WIDE * WIDE; i += VL) vstore(c + i, vload(c + i) + vload(pass + i));
    return;
  }
  if (!first)
    for (int i = 0; i < WIDE * WIDE; i += VL) vstore(pass + i, vload(c + i) + vload(pass + i));
  for (int r = 0; r < WIDE; r += 16)
    for (int s = 0; s < WIDE; s += 16) {
      vf x[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) x[i] = vload(pass + (r + i) * WIDE + s);
      vtranspose(x);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) vstore(c + (s + i) * WIDE + r, x[i]);
    }
}

#define MULTIPLY(name, parts, swapped)                                                                                   \
  static void name##_##parts(const void *a, const void *b, int64_t depth, int64_t rows, int first, int last, float *c) { \
    (void)rows;                                                                                                          \
    multiply(a, b, depth, parts, swapped, first, last, c);                                                               \
  }
MULTIPLY(multiply_direct, 1, 0)
MULTIPLY(multiply_direct, 3, 0)
MULTIPLY(multiply_swapped, 1, 1)
MULTIPLY(multiply_swapped, 3, 1)

static void pack_a_direct(const Gemm *g, int64_t row, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  KERNEL(amx_pack)(source_a(g), amx_parts(g), 0, row, k, depth, (Target){out, 2, panels, pitch});
}
static void pack_b_direct(const Gemm *g, int64_t col, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  KERNEL(amx_pack)(source_b(g), amx_parts(g), 1, col, k, depth, (Target){out, 2, panels, pitch});
}
static void pack_a_swapped(const Gemm *g, int64_t row, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  KERNEL(amx_pack)(source_a(g), amx_parts(g), 1, row, k, depth, (Target){out, 2, panels, pitch});
}
static void pack_b_swapped(const Gemm *g, int64_t col, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out) {
  KERNEL(amx_pack)(source_b(g), amx_parts(g), 0, col, k, depth, (Target){out, 2, panels, pitch});
}

/* Which operand's rows become A tiles is a matter of speed: the products and their order are the same, and so are the bits. */
Engine KERNEL(engine_amx)(const Gemm *g) {
  int64_t parts = amx_parts(g), forward = !g->a_trans && g->b_trans, block = parts == 3 ? AMX_PASS_3 : AMX_PASS_1, bytes = 2 * parts;
  /* Transposing C costs 1/4 cycle per element, packing B transposed parts/8 per element of B and task. */
  if (forward && 2 * g->m < parts * g->k)
    return (Engine){{pack_a_swapped, WIDE, bytes * WIDE}, {pack_b_swapped, WIDE, bytes * WIDE}, STEP, block,
                    parts == 3 ? multiply_swapped_3 : multiply_swapped_1, store_tile, begin, end};
  return (Engine){{pack_a_direct, WIDE, bytes * WIDE}, {pack_b_direct, WIDE, bytes * WIDE}, STEP, block,
                  parts == 3 ? multiply_direct_3 : multiply_direct_1, store_tile, begin, end};
}
#endif
