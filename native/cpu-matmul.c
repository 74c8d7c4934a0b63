/** Linear layers forward and backward: thin uses of the matrix product, and the bias gradient. */
#include "cpu.h"
#include "kernel.h"

typedef struct LinearForward {
  const void *x, *w;
  const float *b;
  void *y, *slope;
  int64_t rows, in, out, x_type, w_type, y_type, activation;
} LinearForward;

/** y (rows, out) = act(x (rows, in) · w (out, in)ᵀ + b); slope keeps the activation's derivative. */
void KERNEL(linear_forward)(const LinearForward *a) {
  Gemm g = {.m = a->rows, .n = a->out, .k = a->in,
            .a = a->x, .lda = a->in, .a_type = a->x_type,
            .b = a->w, .ldb = a->in, .b_type = a->w_type, .b_trans = 1,
            .c = a->y, .ldc = a->out, .c_type = a->y_type,
            .bias = a->b, .activation = a->activation, .slope = a->slope};
  KERNEL(gemm)(&g);
}
EXPORT_KERNEL(linear_forward);

typedef struct LinearBackwardInput {
  const void *dy, *w, *slope;
  void *dx;
  int64_t rows, in, out, dy_type, w_type, dx_type;
} LinearBackwardInput;

/** dx (rows, in) = dy (rows, out) · w (out, in), times slope, which may be dx, where given. */
void KERNEL(linear_backward_input)(const LinearBackwardInput *a) {
  Gemm g = {.m = a->rows, .n = a->in, .k = a->out,
            .a = a->dy, .lda = a->out, .a_type = a->dy_type,
            .b = a->w, .ldb = a->in, .b_type = a->w_type,
            .c = a->dx, .ldc = a->in, .c_type = a->dx_type,
            .factor = a->slope};
  KERNEL(gemm)(&g);
}
EXPORT_KERNEL(linear_backward_input);

typedef struct LinearBackwardWeight {
  const void *x, *dy;
  float *dw, *db;
  const float *beta_w, *beta_b;
  int64_t rows, in, out, x_type, dy_type;
} LinearBackwardWeight;

enum { COLUMNS = 256 };

/** db of COLUMNS columns: rows added in order. */
static void bias_columns(void *ctx, int64_t i) {
  const LinearBackwardWeight *a = ctx;
  int64_t from = i * COLUMNS, to = MIN(from + COLUMNS, a->out);
  float sum[COLUMNS] = {0};
  for (int64_t r = 0; r < a->rows; r++) {
    int64_t c = from;
    for (; c + VL <= to; c += VL) vstore(sum + c - from, vload(sum + c - from) + vload_type(a->dy, r * a->out + c, a->dy_type));
    for (; c < to; c++) sum[c - from] += load_type(a->dy, r * a->out + c, a->dy_type);
  }
  float beta = a->beta_b ? *a->beta_b : 0;
  for (int64_t c = from; c < to; c++) a->db[c] = sum[c - from] + (beta != 0 ? beta * a->db[c] : 0);
}

/** dw (out, in) = dyᵀ · x + beta·dw; db (out) = column sums of dy + beta·db. */
void KERNEL(linear_backward_weight)(const LinearBackwardWeight *a) {
  if (a->dw) {
    Gemm g = {.m = a->out, .n = a->in, .k = a->rows,
              .a = a->dy, .lda = a->out, .a_type = a->dy_type, .a_trans = 1,
              .b = a->x, .ldb = a->in, .b_type = a->x_type,
              .c = a->dw, .ldc = a->in, .c_type = F32, .beta = a->beta_w ? *a->beta_w : 0};
    KERNEL(gemm)(&g);
  }
  if (a->db) parallel((a->out + COLUMNS - 1) / COLUMNS, bias_columns, (void *)a);
}
EXPORT_KERNEL(linear_backward_weight);
