/** The classifier: logits by chunks of rows, their cross-entropy, and both gradients by the same chunks. */
#include <math.h>
#include "cpu-flat.h"
#include "kernel.h"

typedef struct Classifier {
  const void *x, *w;
  const int32_t *targets;
  float *loss, *count;
  void *dx;
  float *dw;
  const float *beta;
  int64_t rows, channels, classes, x_type, w_type;
  double soft_cap; /* 0: none */
} Classifier;

/* A chunk's logits take at most this: with few chunks dw, as large as the weight, is rarely read again. */
enum { CHUNK_BYTES = 64 << 20, SCRATCH_LOGITS = SCRATCH_FREE, SCRATCH_ROWS };

typedef struct Chunk {
  const Classifier *a;
  int64_t from, rows, per_task;
  float *logits; /* (rows, classes); on return the gradient of the logits, in x's type, rows as far apart as before */
  double *losses; /* (rows) */
} Chunk;

/* Largest z of a row, after the cap, which is stored back. A NaN may be lost here: the sum of exponentials keeps it. */
INLINE float row_maximum(float *z, int64_t V, float cap) {
  vf top = vset(-INFINITY);
  EACH_VECTOR(0, V, {
    vf v = vget(z, i, n, F32);
    if (cap != 0) vput(z, i, v = cap * vtanh(v / cap), n, F32);
    top = vmax(vfirst_or(v, n, -INFINITY), top);
  });
  return vmaximum(top);
}

/* Σ e, e = e^(z - max); where the gradient is wanted e times the slope of the cap replaces z. */
INLINE float row_sum(float *z, int64_t V, float max, float cap, int gradient) {
  vf sum = {0};
  EACH_VECTOR(0, V, {
    vf v = vget(z, i, n, F32);
    vf e = vexp(v - max);
    if (gradient) vput(z, i, cap == 0 ? e : e * (1.0f - (v / cap) * (v / cap)), n, F32);
    sum += vfirst(e, n);
  });
  return vsum(sum);
}

/* loss = ln Σ e^(z - max) + max - z[target]; dz = (e - sum·onehot)·slope / sum, in bf16 in the first half of the row. */
INLINE double row_loss(float *z, int64_t V, int64_t target, float cap, int gradient, int64_t type) {
  float max = row_maximum(z, V, cap), of_target = z[target];
  float sum = row_sum(z, V, max, cap, gradient);
  if (gradient) {
    float inverse = 1 / sum;
    z[target] -= cap == 0 ? sum : sum * (1 - (of_target / cap) * (of_target / cap));
    EACH_VECTOR(0, V, vput(z, i, vget(z, i, n, F32) * inverse, n, type));
  }
  return log(sum) + ((double)max - of_target);
}

static void chunk_rows(void *ctx, int64_t task) {
  const Chunk *c = ctx;
  const Classifier *a = c->a;
  int64_t V = a->classes, type = a->x_type, to = MIN((task + 1) * c->per_task, c->rows);
  float cap = a->soft_cap;
  for (int64_t r = task * c->per_task; r < to; r++) {
    int64_t target = a->targets[c->from + r];
    float *z = c->logits + r * V;
    if (target < 0) {
      memset(z, 0, V * 4);
      c->losses[r] = 0;
    } else if (target >= V) { /* not a class: the loss says so */
      for (int64_t v = 0; v < V; v++) store_type(z, v, NAN, type);
      c->losses[r] = NAN;
    } else if (!a->dx && !a->dw) c->losses[r] = row_loss(z, V, target, cap, 0, F32);
    else if (cap != 0) c->losses[r] = row_loss(z, V, target, cap, 1, type);
    else c->losses[r] = type == F32 ? row_loss(z, V, target, 0, 1, F32) : row_loss(z, V, target, 0, 1, BF16);
  }
}

/** loss, count () of x (R, C) · w (V, C)ᵀ against targets (R); dx (R, C), dw (V, C) = gradients of loss, dw added to beta·dw. Any output may be absent. */
void KERNEL(classifier)(const Classifier *a) {
  int64_t R = a->rows, C = a->channels, V = a->classes;
  int64_t chunk = MIN(R, MAX(16, CHUNK_BYTES / 4 / V / 16 * 16));
  Chunk c = {.a = a, .per_task = task_items(V), .logits = scratch(SCRATCH_LOGITS, chunk * V * 4), .losses = scratch(SCRATCH_ROWS, chunk * 8)};
  double loss = 0;
  int64_t count = 0;
  for (c.from = 0; c.from < R; c.from += chunk) {
    c.rows = MIN(chunk, R - c.from);
    const char *x = (const char *)a->x + c.from * C * type_bytes(a->x_type);
    Gemm logits = {.m = c.rows, .n = V, .k = C, .a = x, .lda = C, .a_type = a->x_type, .b = a->w, .ldb = C, .b_type = a->w_type, .b_trans = 1,
                   .c = c.logits, .ldc = V, .c_type = F32};
    KERNEL(gemm)(&logits);
    parallel(task_count(c.rows, c.per_task), chunk_rows, &c);
    for (int64_t r = 0; r < c.rows; r++) {
      loss += c.losses[r];
      count += a->targets[c.from + r] >= 0;
    }
    int64_t stride = a->x_type == F32 ? V : 2 * V;
    if (a->dx) {
      Gemm dx = {.m = c.rows, .n = C, .k = V, .a = c.logits, .lda = stride, .a_type = a->x_type, .b = a->w, .ldb = C, .b_type = a->w_type,
                 .c = (char *)a->dx + c.from * C * type_bytes(a->x_type), .ldc = C, .c_type = a->x_type};
      KERNEL(gemm)(&dx);
    }
    if (a->dw) {
      Gemm dw = {.m = V, .n = C, .k = c.rows, .a = c.logits, .lda = stride, .a_type = a->x_type, .a_trans = 1, .b = x, .ldb = C, .b_type = a->x_type,
                 .c = a->dw, .ldc = C, .c_type = F32, .beta = c.from > 0 ? 1 : a->beta ? *a->beta : 0};
      KERNEL(gemm)(&dw);
    }
  }
  if (a->loss) *a->loss = loss;
  if (a->count) *a->count = count;
}
EXPORT_KERNEL(classifier);
