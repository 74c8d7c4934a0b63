/** The update of a training step: global norm, the decision to skip, AdamW, Lion and SGD over a table of parameters. */
#include "cpu.h"
#include "kernel.h"
#include <math.h>

enum { CHUNK = 32768 };

/** Chunks of a tensor; the partition depends on sizes only. */
static int64_t chunks(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

/* ---- global norm: one f64 partial per chunk, added in order ---- */

typedef struct NormRow {
  const float *data;
  int64_t size;
} NormRow;

typedef struct GlobalNorm {
  const NormRow *tensors;
  int64_t count;
  float *norm;
} GlobalNorm;

typedef struct Piece {
  int64_t tensor, from, to;
} Piece;

typedef struct NormTask {
  const NormRow *tensors;
  const Piece *pieces;
  double *partial;
} NormTask;

static void norm_piece(void *ctx, int64_t i) {
  const NormTask *t = ctx;
  Piece p = t->pieces[i];
  const float *x = t->tensors[p.tensor].data;
  double sum = 0;
  for (int64_t j = p.from; j < p.to; j += 1024) { // short f32 runs keep the error of 4096 squares below that of one f32 rounding
    vf s0 = {0}, s1 = {0};
    int64_t end = MIN(j + 1024, p.to), k = j;
    for (; k + 2 * VL <= end; k += 2 * VL) {
      vf a = vload(x + k), b = vload(x + k + VL);
      s0 += a * a;
      s1 += b * b;
    }
    float part = vsum(s0 + s1);
    for (; k < end; k++) part += x[k] * x[k];
    sum += part;
  }
  t->partial[i] = sum;
}

void KERNEL(global_norm)(const GlobalNorm *a) {
  int64_t total = 0, n = 0;
  for (int64_t t = 0; t < a->count; t++) total += chunks(a->tensors[t].size);
  Piece *pieces = scratch(SCRATCH_GEMM_C, total * (sizeof(Piece) + sizeof(double)));
  double *partial = (double *)(pieces + total), sum = 0;
  for (int64_t t = 0; t < a->count; t++)
    for (int64_t j = 0; j < a->tensors[t].size; j += CHUNK) pieces[n++] = (Piece){t, j, MIN(j + CHUNK, a->tensors[t].size)};
  NormTask task = {a->tensors, pieces, partial};
  parallel(total, norm_piece, &task);
  for (int64_t i = 0; i < total; i++) sum += partial[i];
  *a->norm = (float)sqrt(sum);
}
EXPORT_KERNEL(global_norm);

/* ---- step control ---- */

enum { APPLIED, SKIPPED, MEAN_NORM, SCALE, NORM, SKIP, VARIANCE };

typedef struct StepControl {
  const float *norm, *targets;
  float *control;
  double clip, spike;
} StepControl;

void KERNEL(step_control)(const StepControl *a) {
  float *c = a->control;
  double n = (double)*a->norm / *a->targets;
  double limit = a->spike > 0 && c[APPLIED] >= 50 ? c[MEAN_NORM] + a->spike * sqrt(c[VARIANCE]) : INFINITY;
  int skip = !isfinite(n) || n > limit;
  c[NORM] = (float)n;
  c[SKIP] = skip;
  c[SKIPPED] += skip;
  c[SCALE] = skip ? 0 : (float)((a->clip > 0 ? fmin(1, a->clip / (n + 1e-6)) : 1) / *a->targets);
  if (!isfinite(n)) return;
  double delta = fmin(n, limit) - c[MEAN_NORM]; // a spike counts as the limit: a lasting rise of the norm is not skipped for ever
  c[VARIANCE] = c[APPLIED] == 0 ? 0 : (float)(0.98 * (c[VARIANCE] + 0.02 * delta * delta));
  c[MEAN_NORM] = c[APPLIED] == 0 ? (float)n : (float)(c[MEAN_NORM] + 0.02 * delta);
  c[APPLIED] += !skip;
}
EXPORT_KERNEL(step_control);

/* ---- elementwise optimizers ---- */

typedef struct Row {
  float *p;
  const float *g;
  float *m, *v;
  bf16 *copy;
  int64_t size;
  double decay;
} Row;

typedef struct Update {
  const Row *tensors;
  int64_t count;
  const float *lr, *control;
  double beta1, beta2, eps;
} Update;

/** Factors of one step, the same for all elements. */
typedef struct Factors {
  float scale, beta1, beta2, rest1, rest2, lr, step, root, eps;
} Factors;

typedef struct UpdateTask {
  const Update *a;
  Factors f;
} UpdateTask;

INLINE vf adamw_element(const Factors *f, vf p, vf g, vf *m, vf *v) {
  *m = f->beta1 * *m + f->rest1 * g;
  *v = f->beta2 * *v + f->rest2 * g * g;
  return p - f->step * *m / (vsqrt(*v) * f->root + f->eps);
}

INLINE vf lion_element(const Factors *f, vf p, vf g, vf *m, vf *v) {
  (void)v;
  vf u = f->beta1 * *m + f->rest1 * g;
  *m = f->beta2 * *m + f->rest2 * g;
  vf sign = vselect(u == 0.0f, u, vcopysign(vset(1), u)) + u * 0.0f; // NaN stays NaN
  return p - f->lr * sign;
}

INLINE vf sgd_element(const Factors *f, vf p, vf g, vf *m, vf *v) {
  (void)v;
  *m = f->beta1 * *m + g;
  return p - f->lr * *m;
}

/** Elements [from, to) of one row. */
INLINE void update_row(const Factors *f, const Row *r, int64_t from, int64_t to, vf (*element)(const Factors *, vf, vf, vf *, vf *)) {
  float keep = 1.0f - f->lr * (float)r->decay;
  for (int64_t i = from; i < to; i += VL) {
    int64_t n = MIN(VL, to - i);
    int whole = n == VL;
    vf p = whole ? vload(r->p + i) : vload_part(r->p + i, n), g = whole ? vload(r->g + i) : vload_part(r->g + i, n);
    vf m = whole ? vload(r->m + i) : vload_part(r->m + i, n), v = {0};
    if (r->v) v = whole ? vload(r->v + i) : vload_part(r->v + i, n);
    p = element(f, p * keep, g * f->scale, &m, &v);
    if (whole) {
      vstore(r->p + i, p);
      vstore(r->m + i, m);
      if (r->v) vstore(r->v + i, v);
      if (r->copy) vstore_bf16(r->copy + i, p);
    } else {
      vstore_part(r->p + i, p, n);
      vstore_part(r->m + i, m, n);
      if (r->v) vstore_part(r->v + i, v, n);
      if (r->copy) vstore_bf16_part(r->copy + i, p, n);
    }
  }
}

/** Task i is the i-th chunk of the table. */
#define UPDATE(name)                                                                                   \
  static void name##_chunk(void *ctx, int64_t i) {                                                     \
    const UpdateTask *t = ctx;                                                                         \
    const Row *r = t->a->tensors;                                                                      \
    for (; i >= chunks(r->size); r++) i -= chunks(r->size);                                            \
    update_row(&t->f, r, i * CHUNK, MIN(i * CHUNK + CHUNK, r->size), name##_element);                  \
  }                                                                                                    \
  void KERNEL(name)(const Update *a) {                                                                 \
    if (a->control[SCALE] == 0) return;                                                                \
    int64_t n = 0;                                                                                     \
    for (int64_t t = 0; t < a->count; t++) n += chunks(a->tensors[t].size);                            \
    UpdateTask task = {a, factors(a)};                                                                 \
    parallel(n, name##_chunk, &task);                                                                  \
  }                                                                                                    \
  EXPORT_KERNEL(name)

static Factors factors(const Update *a) {
  double applied = a->control[APPLIED];
  return (Factors){.scale = a->control[SCALE],
                   .beta1 = a->beta1,
                   .beta2 = a->beta2,
                   .rest1 = 1 - a->beta1,
                   .rest2 = 1 - a->beta2,
                   .lr = *a->lr,
                   .step = *a->lr / (1 - pow(a->beta1, applied)),
                   .root = 1 / sqrt(1 - pow(a->beta2, applied)),
                   .eps = a->eps};
}

UPDATE(adamw);
UPDATE(lion);
UPDATE(sgd);
