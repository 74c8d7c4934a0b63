/** The engine of the matrix product on AMX tiles: bf16 as it is, f32 as three bf16 and six products. */
#include "cpu-amx.h"
#if defined(__AMX_BF16__)
#include <cpuid.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* f32 on AMX: x = h + m + l (8 bits of mantissa each), and x·w = hh + hm + mh + mm + hl + lh to 2^-24; products are exact and summed in f32.
   Subnormals count as 0; a finite |x| ≥ 2^128 (1 - 2^-9) overflows; infinities and NaN give NaN. */

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* The processor has AMX-BF16 and AVX512-BF16 and the kernel lets this process use tiles. */
int KERNEL(amx_ready)(void) {
  static _Atomic int known; /* 1 no, 2 yes */
  if (!known) {
    unsigned a, b, c, d, a1 = 0, e;
    int has = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) && __get_cpuid_count(7, 1, &a1, &b, &c, &e) && (a1 >> 5 & 1);
    known = has && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 ? 2 : 1;
  }
  return known == 2;
}

static void configure(int64_t columns, int narrow) {
  struct { uint8_t palette, start_row, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    int columns_wide = narrow && i != 7; /* 0-3 C, 4-6 B, 7 A */
    config.rows[i] = 16;
    config.bytes[i] = (uint16_t)(columns_wide ? 4 * columns : 64);
  }
  __asm__ volatile("" : : "r"(&config) : "memory"); /* gcc 12 does not see that all 64 bytes are read */
  _tile_loadconfig(&config);
}
static void begin_wide(const Gemm *g) { (void)g; configure(16, 0); }
static void begin_narrow(const Gemm *g) { configure(g->m, 1); }
static void end(void) { _tile_release(); }

#define FOUR _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
#define LOAD_A(part) _tile_loadd(4, a + (part) * 2 * TILE_BYTES, 64); _tile_loadd(5, a + ((part) * 2 + 1) * TILE_BYTES, 64);
#define LOAD_B(part) _tile_loadd(6, b + (part) * 2 * TILE_BYTES, 64); _tile_loadd(7, b + ((part) * 2 + 1) * TILE_BYTES, 64);

/* 32 × 32 of C in tiles 0-3. Order of the six products, A of the caller before B: hl hm mm mh lh hh, also when the operands trade places. */
INLINE void multiply_tiles(const char *a, const char *b, int64_t depth, int64_t parts, int swapped, int first, const float *c) {
  if (first) {
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  } else {
    _tile_loadd(0, c, 64); _tile_loadd(1, c + 256, 64); _tile_loadd(2, c + 512, 64); _tile_loadd(3, c + 768, 64);
  }
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
}
static void keep_tiles(float *c) { _tile_stored(0, c, 64); _tile_stored(1, c + 256, 64); _tile_stored(2, c + 512, 64); _tile_stored(3, c + 768, 64); }

INLINE void multiply_direct(const void *a, const void *b, int64_t depth, int64_t parts, int first, int last, float *c) {
  multiply_tiles(a, b, depth, parts, 0, first, c);
  if (!last) { keep_tiles(c); return; }
  _tile_stored(0, c, 128); _tile_stored(1, c + 16, 128); _tile_stored(2, c + 512, 128); _tile_stored(3, c + 528, 128);
}

/* Rows of B are the A tiles: tiles hold C transposed. */
INLINE void multiply_swapped(const void *a, const void *b, int64_t depth, int64_t parts, int first, int last, float *c) {
  multiply_tiles(b, a, depth, parts, 1, first, c);
  keep_tiles(c);
  if (!last) return;
  float turned[WIDE * WIDE] __attribute__((aligned(64)));
  for (int t = 0; t < 4; t++) {
    vf x[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) x[i] = vload(c + t * 256 + i * 16);
    vtranspose(x);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) vstore(turned + ((t & 1) * 16 + i) * WIDE + (t >> 1) * 16, x[i]);
  }
  memcpy(c, turned, sizeof turned);
}

#define DP(c, b) _tile_dpbf16ps(c, 7, b);
/* 64 columns of C (four A tiles from rows of a weight) by m ≤ 16 rows: the form of decoding, which streams the weight once. */
INLINE void multiply_narrow(const char *a, const char *b, int64_t depth, int64_t parts, int64_t m, int first, int last, float *c) {
  int64_t stride = 4 * m, tile = 16 * m;
  if (first) {
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  } else {
    _tile_loadd(0, c, stride); _tile_loadd(1, c + tile, stride); _tile_loadd(2, c + 2 * tile, stride); _tile_loadd(3, c + 3 * tile, stride);
  }
  for (int64_t d = 0; d < depth; d += STEP, a += parts * tile * 4, b += parts * 4 * TILE_BYTES) {
    _tile_loadd(4, a, stride);
    if (parts == 3) { _tile_loadd(5, a + tile * 4, stride); _tile_loadd(6, a + 2 * tile * 4, stride); }
#define ROW(t)                                                                                    \
    if (parts == 3) {                                                                             \
      _tile_loadd(7, b + (8 + t) * TILE_BYTES, 64); DP(t, 4)                                      \
      _tile_loadd(7, b + (4 + t) * TILE_BYTES, 64); DP(t, 4) DP(t, 5)                             \
    }                                                                                             \
    _tile_loadd(7, b + t * TILE_BYTES, 64);                                                       \
    if (parts == 3) { DP(t, 5) DP(t, 6) }                                                         \
    DP(t, 4)
    ROW(0) ROW(1) ROW(2) ROW(3)
#undef ROW
  }
  _tile_stored(0, c, stride); _tile_stored(1, c + tile, stride); _tile_stored(2, c + 2 * tile, stride); _tile_stored(3, c + 3 * tile, stride);
  if (!last || m == 1) return;
  float turned[16 * NARROW_COLS];
  for (int64_t n = 0; n < NARROW_COLS; n++)
    for (int64_t i = 0; i < m; i++) turned[i * NARROW_COLS + n] = c[n * m + i];
  memcpy(c, turned, (size_t)(m * NARROW_COLS) * sizeof(float));
}

#define MULTIPLY(name, parts) \
  static void name##_##parts(const void *a, const void *b, int64_t depth, int64_t rows, int first, int last, float *c) { (void)rows; name(a, b, depth, parts, first, last, c); }
MULTIPLY(multiply_direct, 1)
MULTIPLY(multiply_direct, 3)
MULTIPLY(multiply_swapped, 1)
MULTIPLY(multiply_swapped, 3)
static void multiply_narrow_1(const void *a, const void *b, int64_t depth, int64_t rows, int first, int last, float *c) { multiply_narrow(a, b, depth, 1, rows, first, last, c); }
static void multiply_narrow_3(const void *a, const void *b, int64_t depth, int64_t rows, int first, int last, float *c) { multiply_narrow(a, b, depth, 3, rows, first, last, c); }

static void pack_a_direct(const Gemm *g, int64_t row, int64_t k, int64_t depth, void *out) { KERNEL(amx_pack)(source_a(g), amx_parts(g), 0, 2, row, k, depth, out); }
static void pack_b_direct(const Gemm *g, int64_t col, int64_t k, int64_t depth, void *out) { KERNEL(amx_pack)(source_b(g), amx_parts(g), 1, 2, col, k, depth, out); }
static void pack_a_swapped(const Gemm *g, int64_t row, int64_t k, int64_t depth, void *out) { KERNEL(amx_pack)(source_a(g), amx_parts(g), 1, 2, row, k, depth, out); }
static void pack_b_swapped(const Gemm *g, int64_t col, int64_t k, int64_t depth, void *out) { KERNEL(amx_pack)(source_b(g), amx_parts(g), 0, 2, col, k, depth, out); }
static void pack_a_narrow(const Gemm *g, int64_t row, int64_t k, int64_t depth, void *out) { (void)row; KERNEL(amx_pack_narrow)(source_a(g), amx_parts(g), k, depth, out); }
static void pack_b_narrow(const Gemm *g, int64_t col, int64_t k, int64_t depth, void *out) { KERNEL(amx_pack)(source_b(g), amx_parts(g), 0, 4, col, k, depth, out); }

/* Which operand's rows become A tiles is a matter of speed: the products and their order are the same, and so are the bits. */
Engine KERNEL(engine_amx)(const Gemm *g) {
  int64_t parts = amx_parts(g), forward = !g->a_trans && g->b_trans, block = parts == 3 ? 256 : 512, bytes = 2 * parts;
  if (forward && g->m <= 16)
    return (Engine){{pack_a_narrow, 16, bytes * g->m}, {pack_b_narrow, NARROW_COLS, bytes * NARROW_COLS}, STEP, block,
                    parts == 3 ? multiply_narrow_3 : multiply_narrow_1, begin_narrow, end};
  /* Transposing C costs 1/4 cycle per element, packing B transposed parts/8 per element of B and task. */
  if (forward && 2 * g->m < parts * g->k)
    return (Engine){{pack_a_swapped, WIDE, bytes * WIDE}, {pack_b_swapped, WIDE, bytes * WIDE}, STEP, block,
                    parts == 3 ? multiply_swapped_3 : multiply_swapped_1, begin_wide, end};
  return (Engine){{pack_a_direct, WIDE, bytes * WIDE}, {pack_b_direct, WIDE, bytes * WIDE}, STEP, block,
                  parts == 3 ? multiply_direct_3 : multiply_direct_1, begin_wide, end};
}
#endif
