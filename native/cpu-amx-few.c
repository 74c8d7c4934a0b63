/** The matrix product for few rows on AMX: decoding, where the weight is read once and all else hides behind that. */
#include "cpu-amx.h"
#include "cpu-gemm-store.h"
#if defined(__AVX512BF16__)

/* Rows of the weight are the A tiles, x the B tiles with m columns: the products and their order are those of the engine (cpu-amx.c), and
   so are the bits. A task takes PANEL rows of the weight, four tiles, step by step, and fetches what it will need some steps later. */
enum { PANEL = 64, AHEAD = 2 };

typedef struct Few {
  const Gemm *g;
  int64_t parts, panels, ahead;
  const float *x; /* words [step][part][16 pairs][m] */
} Few;

/* Where the weight's part of the step at k lies, beyond the end of k in this thread's next panel. What is fetched outside the matrix is
   harmless. */
static const char *part_at(const Few *f, int64_t panel, int64_t k) {
  const Gemm *g = f->g;
  if (k >= g->k) panel += f->ahead, k -= g->k;
  return (const char *)g->b + (panel < f->panels ? panel * PANEL * g->ldb + k : 0) * type_bytes(g->b_type);
}

/* Adds an A tile (row tile t of a part) times a B tile to tile t; neighbours use different registers, so that none waits for the one
   before. */
#define MULTIPLY(t, a_register, x_register, at, pitch) _tile_loadd(a_register, at, pitch); _tile_dpbf16ps(t, a_register, x_register);
#define PART(t, a_register, x_register, part) MULTIPLY(t, a_register, x_register, before + (part * 4 + t) * TILE_BYTES, 64)
#define HIGH 0
#define MIDDLE 1
#define LOW 2

/* Splits rows [i, i + 8) of 32 floats and fetches the same rows of a later step. */
INLINE void split_rows(const float *from, int64_t ld, int64_t i, char *out, const char *later) {
#pragma GCC unroll 8
  for (int64_t j = i; j < i + 8; j++) {
    split3(vload(from + j * ld), vload(from + j * ld + 16), out + j * 64, 4 * TILE_BYTES);
    __builtin_prefetch(later + j * ld * 4, 0, 2);
    __builtin_prefetch(later + j * ld * 4 + 64, 0, 2);
  }
}
/* Fetches 128 bytes of 8 rows: as much as one step of bf16 uses, but always two lines that are neighbours. */
INLINE void fetch_rows(const char *later, int64_t pitch) {
  for (int64_t j = 0; j < 8; j++) {
    __builtin_prefetch(later + j * pitch, 0, 2);
    __builtin_prefetch(later + j * pitch + 64, 0, 2);
  }
}

/* After the products up to k: at the end of a pass its sums are added to c (PANEL, m). */
INLINE void end_of_pass(int64_t k, int64_t total, int64_t pass, int64_t m, float *c) {
  if (k % pass && k < total) return;
  float sums[16 * PANEL] __attribute__((aligned(64)));
  float *to = k <= pass ? c : sums;
  _tile_stored(0, to, 4 * m); _tile_stored(1, to + 16 * m, 4 * m); _tile_stored(2, to + 32 * m, 4 * m); _tile_stored(3, to + 48 * m, 4 * m);
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  if (to == sums)
    for (int64_t i = 0; i < PANEL * m; i += VL) vstore(c + i, vload(c + i) + vload(sums + i));
}

static void task(void *ctx, int64_t panel) {
  const Few *f = ctx;
  const Gemm *g = f->g;
  int64_t m = g->m, parts = f->parts, stride = 4 * m, tile = 64 * m, row = panel * PANEL, rows = MIN(PANEL, g->n - row);
  Source w = source_b(g);
  char packed[2][3 * 4 * TILE_BYTES] __attribute__((aligned(64)));
  float c[16 * PANEL] __attribute__((aligned(64))), sum[16 * PANEL]; /* (PANEL, m), and turned */
  KERNEL(amx_configure)(m);
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  if (g->k == 0) memset(c, 0, sizeof c);
  const char *x = (const char *)f->x;
  if (parts == 1) {
    for (int64_t k = 0; k < g->k; k += STEP, x += tile) {
      const char *a = packed[k / STEP & 1], *later;
      int64_t pitch = 64, ld = g->ldb * type_bytes(g->b_type), odd = k / STEP & 1;
      later = part_at(f, panel, k + (AHEAD - odd) * STEP) + odd * PANEL / 2 * ld;
      if (g->b_type == BF16 && rows == PANEL && g->k - k >= STEP) {
        a = (const char *)g->b + (row * g->ldb + k) * 2;
        pitch = ld;
      } else {
        KERNEL(amx_pack)(w, 1, 0, row, k, MIN(STEP, g->k - k), (Target){packed[k / STEP & 1], 4, 1, 0});
      }
      _tile_loadd(4, x, stride);
      MULTIPLY(0, 6, 4, a, pitch) fetch_rows(later, ld);
      MULTIPLY(1, 7, 4, a + 16 * pitch, pitch) fetch_rows(later + 8 * ld, ld);
      MULTIPLY(2, 6, 4, a + 32 * pitch, pitch) fetch_rows(later + 16 * ld, ld);
      MULTIPLY(3, 7, 4, a + 48 * pitch, pitch) fetch_rows(later + 24 * ld, ld);
      end_of_pass(k + STEP, g->k, AMX_PASS_1, m, c);
    }
  } else {
    /* Vector and tile units work at the same time: one step is split while the one before is multiplied, a few rows and a few products by
       turns. */
    for (int64_t k = 0; k < g->k + STEP; k += STEP) {
      char *now = packed[k / STEP & 1];
      const char *before = packed[~(k / STEP) & 1], *later = part_at(f, panel, k + AHEAD * STEP);
      const float *from = (const float *)g->b + row * g->ldb + k;
      int64_t ld = g->ldb, whole = rows == PANEL && g->k - k >= STEP;
      if (!whole && k < g->k) KERNEL(amx_pack)(w, 3, 0, row, k, MIN(STEP, g->k - k), (Target){now, 4, 1, 0});
      if (k == 0) {
        for (int64_t i = 0; whole && i < PANEL; i += 8) split_rows(from, ld, i, now, later);
        continue;
      }
      _tile_loadd(4, x, stride);
      PART(0, 6, 4, LOW) PART(1, 7, 4, LOW) PART(2, 6, 4, LOW)
      if (whole) split_rows(from, ld, 0, now, later);
      PART(3, 7, 4, LOW) PART(0, 6, 4, MIDDLE) PART(1, 7, 4, MIDDLE)
      if (whole) split_rows(from, ld, 8, now, later);
      _tile_loadd(5, x + tile, stride);
      PART(2, 6, 4, MIDDLE) PART(3, 7, 4, MIDDLE) PART(0, 6, 5, MIDDLE)
      if (whole) split_rows(from, ld, 16, now, later);
      PART(1, 7, 5, MIDDLE) PART(2, 6, 5, MIDDLE) PART(3, 7, 5, MIDDLE)
      if (whole) split_rows(from, ld, 24, now, later);
      PART(0, 6, 5, HIGH) PART(1, 7, 5, HIGH) PART(2, 6, 5, HIGH)
      if (whole) split_rows(from, ld, 32, now, later);
      PART(3, 7, 5, HIGH)
      _tile_loadd(5, x + 2 * tile, stride);
      PART(0, 6, 5, HIGH) PART(1, 7, 5, HIGH)
      if (whole) split_rows(from, ld, 40, now, later);
      PART(2, 6, 5, HIGH) PART(3, 7, 5, HIGH) PART(0, 6, 4, HIGH)
      if (whole) split_rows(from, ld, 48, now, later);
      PART(1, 7, 4, HIGH) PART(2, 6, 4, HIGH) PART(3, 7, 4, HIGH)
      if (whole) split_rows(from, ld, 56, now, later);
      x += 3 * tile;
      end_of_pass(k, g->k, AMX_PASS_3, m, c);
    }
  }
  _tile_release();
  for (int64_t n = 0; n < PANEL; n += 16) {
    vf x[16];
#pragma GCC unroll 16
    for (int64_t i = 0; i < 16; i++) x[i] = vload_part(c + (n + i) * m, m);
    vtranspose(x);
    for (int64_t i = 0; i < m; i++) vstore(sum + i * PANEL + n, x[i]);
  }
  store_tile(g, 0, m, row, rows, sum, PANEL);
}

void KERNEL(amx_few_rows)(const Gemm *g) {
  int64_t parts = amx_parts(g), m = g->m, steps = (g->k + STEP - 1) / STEP;
  float *x = scratch(SCRATCH_GEMM_A, (size_t)(steps * parts * 16 * m) * 4), *to = x; /* words, moved as floats */
  float tile[3 * 16 * 16] __attribute__((aligned(64)));                              /* [part][pair][row] */
  for (int64_t step = 0; step < steps; step++) {
    KERNEL(amx_pack)(source_a(g), parts, 1, 0, step * STEP, MIN(STEP, g->k - step * STEP), (Target){(char *)tile, 1, 1, 0});
    for (int64_t line = 0; line < parts * 16; line++, to += m) vstore_part(to, vload(tile + line * 16), m);
  }
  Few f = {g, parts, (g->n + PANEL - 1) / PANEL, pool_threads(), x};
  parallel(f.panels, task, &f);
}
#endif
