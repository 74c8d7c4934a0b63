/** What the matrix product's driver (cpu-gemm.c) asks of an engine: pack panels of both operands, multiply two panels. */
#pragma once
#include "cpu.h"

/* An operand as it lies in memory; an index is a row of A or a column of B. */
typedef struct Source {
  const void *data;
  int64_t ld, type, limit; /* limit: number of indexes */
  int along;               /* stored (index, k), else (k, index) */
} Source;
INLINE Source source_a(const Gemm *g) { return (Source){g->a, g->lda, g->a_type, g->m, !g->a_trans}; }
INLINE Source source_b(const Gemm *g) { return (Source){g->b, g->ldb, g->b_type, g->n, !!g->b_trans}; }

/* One operand: a panel holds `width` rows of A or columns of B over some depth of k, in the engine's own layout; what lies outside the
   matrix is packed as 0. pack makes neighbouring panels from row or column `index` on, `pitch` bytes apart. */
typedef struct Side {
  void (*pack)(const Gemm *g, int64_t index, int64_t k, int64_t depth, int64_t panels, int64_t pitch, void *out);
  int64_t width;
  int64_t bytes; /* of a panel per unit of depth */
} Side;

/* multiply adds the product of two panels to one tile of C, f32 [a.width][b.width] row-major when `last` (between passes the layout is the
   engine's). */
typedef struct Engine {
  Side a, b;
  int64_t k_step;  /* depths are padded to a multiple of this */
  int64_t k_block; /* depth of one pass */
  void (*multiply)(const void *a, const void *b, int64_t depth, int64_t valid_rows, int first, int last, float *c);
  /* cpu-gemm-store.h */
  void (*store)(const Gemm *g, int64_t row, int64_t rows, int64_t col, int64_t cols, const float *sum, int64_t stride);
  void (*begin)(const Gemm *g); /* around the work of one task; may be NULL */
  void (*end)(void);
} Engine;

/* FMA on vectors of floats; bf16 operands are widened (cpu-gemm-fma.c). */
Engine KERNEL(engine_fma)(const Gemm *g);
/* AMX tiles, where the processor has them (cpu-amx.c). */
int KERNEL(amx_ready)(void);
Engine KERNEL(engine_amx)(const Gemm *g);

/* AVX512-BF16 vectors, for operands of which one at least is bf16 (cpu-amx-dot.c). */
int KERNEL(dot_ready)(void);
Engine KERNEL(engine_dot)(void);

/* The forward form with few rows (decoding): the weight streams through tiles once (cpu-amx-few.c). */
enum { AMX_FEW_ROWS = 16 };
void KERNEL(amx_few_rows)(const Gemm *g);

/* VL × VL transpose in registers: in stage s = 1, 2, 4 … bit s of the lane number trades places with bit s of the row number. */
#if VL == 16
#define VLOW_1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define VHIGH_1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define VLOW_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define VHIGH_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define VLOW_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define VHIGH_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define VLOW_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define VHIGH_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#elif VL == 8
#define VLOW_1 0, 8, 2, 10, 4, 12, 6, 14
#define VHIGH_1 1, 9, 3, 11, 5, 13, 7, 15
#define VLOW_2 0, 1, 8, 9, 4, 5, 12, 13
#define VHIGH_2 2, 3, 10, 11, 6, 7, 14, 15
#define VLOW_4 0, 1, 2, 3, 8, 9, 10, 11
#define VHIGH_4 4, 5, 6, 7, 12, 13, 14, 15
#else
#define VLOW_1 0, 4, 2, 6
#define VHIGH_1 1, 5, 3, 7
#define VLOW_2 0, 1, 4, 5
#define VHIGH_2 2, 3, 6, 7
#endif
#define VSTAGE(s)                                                       \
  _Pragma("GCC unroll 16") for (int i = 0; i < VL; i++) if (!(i & s)) { \
    vf low = __builtin_shufflevector(x[i], x[i + s], VLOW_##s);         \
    vf high = __builtin_shufflevector(x[i], x[i + s], VHIGH_##s);       \
    x[i] = low;                                                         \
    x[i + s] = high;                                                    \
  }
INLINE void vtranspose(vf *x) {
  VSTAGE(1)
  VSTAGE(2)
#if VL >= 8
  VSTAGE(4)
#endif
#if VL >= 16
  VSTAGE(8)
#endif
}
