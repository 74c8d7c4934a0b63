/** The epilogue of the matrix product: bias, activation, its derivative kept or a kept one as factor, old C, rounding. */
#pragma once
#include "cpu-gemm.h"

/* whole: a tile of two full vectors per row; plain: nothing to do but store. */
INLINE void store_rows(const Gemm *g, int64_t row, int64_t rows, int64_t col, int64_t cols, const float *sum, int64_t stride, int64_t type,
                       int whole, int plain) {
  if (whole) cols = stride = 2 * VL;
  for (int64_t r = 0; r < rows; r++, sum += stride) {
    int64_t at = (row + r) * g->ldc + col;
    for (int64_t j = 0; j < cols; j += VL, at += VL) {
      int64_t w = MIN(VL, cols - j), full = whole || w == VL;
      vf z = vload(sum + j);
      if (!plain) {
        if (g->bias) z += full ? vload(g->bias + col + j) : vload_part(g->bias + col + j, w);
        if (g->slope) {
          vf slope = vdact(z, g->activation);
          full ? vstore_type(g->slope, at, slope, type) : vstore_type_part(g->slope, at, slope, w, type);
        }
        if (g->activation != ACT_NONE) z = vact(z, g->activation);
        if (g->factor) z *= full ? vload_type(g->factor, at, type) : vload_type_part(g->factor, at, w, type);
        if (g->beta != 0) z += (float)g->beta * (full ? vload_type(g->c, at, type) : vload_type_part(g->c, at, w, type));
      }
      full ? vstore_type(g->c, at, z, type) : vstore_type_part(g->c, at, z, w, type);
    }
  }
}

/* Finishes rows × cols sums (stride floats apart) that belong at (row, col) and stores them. */
static void store_tile(const Gemm *g, int64_t row, int64_t rows, int64_t col, int64_t cols, const float *sum, int64_t stride) {
  int plain = !g->bias && !g->slope && !g->factor && g->activation == ACT_NONE && g->beta == 0, whole = cols == 2 * VL && stride == 2 * VL;
  if (plain && whole && g->c_type == F32) store_rows(g, row, rows, col, cols, sum, stride, F32, 1, 1);
  else if (plain && whole) store_rows(g, row, rows, col, cols, sum, stride, BF16, 1, 1);
  else if (whole && g->c_type == F32) store_rows(g, row, rows, col, cols, sum, stride, F32, 1, 0);
  else if (whole) store_rows(g, row, rows, col, cols, sum, stride, BF16, 1, 0);
  else if (g->c_type == F32) store_rows(g, row, rows, col, cols, sum, stride, F32, 0, 0);
  else store_rows(g, row, rows, col, cols, sum, stride, BF16, 0, 0);
}
