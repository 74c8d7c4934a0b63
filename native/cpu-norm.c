/** Layer norm and RMS norm, alone or with the residual sum before them, forward and backward. */
#include "cpu-flat.h"
#include "kernel.h"

enum { SCRATCH_ROW = SCRATCH_FREE, SCRATCH_PARTIALS };

typedef struct Norm {
  const void *x, *r; /* r NULL: no sum */
  const float *w, *b;
  void *y;
  float *sum, *mean, *rstd;
  int64_t rows, columns, centred, x_type, r_type, y_type;
  double eps;
} Norm;

/* One row, in cache after its first pass. */
INLINE void norm_row(const Norm *a, int64_t row, int centred, int adds, int64_t x_type, int64_t r_type, int64_t y_type) {
  const int64_t C = a->columns, at = row * C;
  const void *x = (const char *)a->x + at * type_bytes(x_type), *r = (const char *)a->r + at * type_bytes(r_type);
  void *y = (char *)a->y + at * type_bytes(y_type);
  const float *w = a->w, *b = a->b;
  float *sum = !adds ? NULL : a->sum ? a->sum + at : scratch(SCRATCH_ROW, C * sizeof(float));
#define VALUE (adds ? vget(sum, i, n, F32) : vget(x, i, n, x_type))
#define FIRST                                                     \
  ({                                                              \
    vf v_ = vget(x, i, n, x_type);                                \
    if (adds) {                                                   \
      v_ += vget(r, i, n, r_type);                                \
      vput(sum, i, v_, n, F32);                                   \
    }                                                             \
    v_;                                                           \
  })
  float mean = 0, squares;
  if (centred) {
    mean = ROW_SUM(C, FIRST) / C;
    squares = ROW_SUM(C, ({ vf d_ = vfirst(VALUE - mean, n); d_ * d_; }));
  } else {
    squares = ROW_SUM(C, ({ vf d_ = FIRST; d_ * d_; }));
  }
  const float rstd = 1 / __builtin_sqrtf(squares / C + (float)a->eps);
  if (a->mean) a->mean[row] = mean;
  if (a->rstd) a->rstd[row] = rstd;
  if (!a->y) return;
  if (b) EACH_VECTOR(0, C, vput(y, i, (VALUE - mean) * rstd * vget(w, i, n, F32) + vget(b, i, n, F32), n, y_type));
  else EACH_VECTOR(0, C, vput(y, i, (VALUE - mean) * rstd * vget(w, i, n, F32), n, y_type));
#undef FIRST
#undef VALUE
}

INLINE void norm_rows(const Norm *a, int64_t from, int64_t to, int centred, int adds) {
  if (a->x_type == F32 && (!adds || a->r_type == F32) && a->y_type == F32)
    for (int64_t row = from; row < to; row++) norm_row(a, row, centred, adds, F32, F32, F32);
  else if (a->x_type == F32 && (!adds || a->r_type == BF16) && a->y_type == BF16)
    for (int64_t row = from; row < to; row++) norm_row(a, row, centred, adds, F32, BF16, BF16);
  else
    for (int64_t row = from; row < to; row++) norm_row(a, row, centred, adds, a->x_type, a->r_type, a->y_type);
}

static void norm_task(void *ctx, int64_t task) {
  const Norm *a = ctx;
  const int64_t each = task_items(a->columns), from = task * each, to = MIN(from + each, a->rows);
  if (a->centred && a->r) norm_rows(a, from, to, 1, 1);
  else if (a->centred) norm_rows(a, from, to, 1, 0);
  else if (a->r) norm_rows(a, from, to, 0, 1);
  else norm_rows(a, from, to, 0, 0);
}

/**
 * Per row: v = x + r, kept in sum; y = (v - mean)·rstd·w + b, rstd = 1/√(mean((v - mean)²) + eps); mean is 0 unless centred.
 * x, r, y (rows, columns), w, b (columns), sum (rows, columns) f32, mean, rstd (rows). sum may be x and y may be r.
 */
void KERNEL(norm)(const Norm *a) { parallel(task_count(a->rows, task_items(a->columns)), norm_task, (void *)a); }
EXPORT_KERNEL(norm);

typedef struct NormBackward {
  const void *x, *dy;
  const float *w, *mean, *rstd, *dsum; /* mean NULL: not centred; dsum NULL: no other gradient of x */
  void *dx;
  bf16 *dr;
  float *dw, *db;
  const float *beta_w, *beta_b;
  int64_t rows, columns, x_type, dy_type;
} NormBackward;

/* The job and its partial sums of dw and db, (tasks, 2, columns). */
typedef struct NormBackwardJob {
  const NormBackward *a;
  float *partials;
  int64_t each, tasks;
} NormBackwardJob;

INLINE void norm_backward_row(const NormBackward *a, int64_t row, float *dw, float *db, int centred, int64_t x_type, int64_t dy_type) {
  const int64_t C = a->columns, at = row * C;
  const void *x = (const char *)a->x + at * type_bytes(x_type), *dy = (const char *)a->dy + at * type_bytes(dy_type);
  const float *w = a->w, *dsum = a->dsum ? a->dsum + at : NULL;
  const float mean = centred ? a->mean[row] : 0, rstd = a->rstd[row];
  float g_sum = 0;
#define HAT ((vget(x, i, n, x_type) - mean) * rstd)
#define G (vget(dy, i, n, dy_type) * vget(w, i, n, F32))
  if (centred) g_sum = ROW_SUM(C, G);
  const float product = ROW_SUM(C, ({
    vf hat_ = HAT, dy_ = vget(dy, i, n, dy_type), weighted_ = dy_ * hat_;
    vput(dw, i, vget(dw, i, n, F32) + weighted_, n, F32);
    if (centred) vput(db, i, vget(db, i, n, F32) + dy_, n, F32);
    weighted_ * vget(w, i, n, F32);
  }));
  if (!a->dx) return;
  void *dx = (char *)a->dx + at * type_bytes(x_type);
  bf16 *dr = a->dr ? a->dr + at : NULL;
  const float g_mean = g_sum / C, scale = product / C;
  EACH_VECTOR(0, C, ({
    vf d_ = (G - g_mean - HAT * scale) * rstd;
    if (dsum) d_ += vget(dsum, i, n, F32);
    vput(dx, i, d_, n, x_type);
    if (dr) vput(dr, i, d_, n, BF16);
  }));
#undef G
#undef HAT
}

INLINE void norm_backward_rows(const NormBackward *a, int64_t from, int64_t to, float *dw, float *db, int centred) {
  if (a->x_type == F32 && a->dy_type == F32)
    for (int64_t row = from; row < to; row++) norm_backward_row(a, row, dw, db, centred, F32, F32);
  else if (a->x_type == F32 && a->dy_type == BF16)
    for (int64_t row = from; row < to; row++) norm_backward_row(a, row, dw, db, centred, F32, BF16);
  else
    for (int64_t row = from; row < to; row++) norm_backward_row(a, row, dw, db, centred, a->x_type, a->dy_type);
}

static void norm_backward_task(void *ctx, int64_t task) {
  const NormBackwardJob *job = ctx;
  const NormBackward *a = job->a;
  const int64_t from = task * job->each, to = MIN(from + job->each, a->rows);
  float *dw = job->partials + task * 2 * a->columns, *db = dw + a->columns;
  memset(dw, 0, 2 * a->columns * sizeof(float));
  if (a->mean) norm_backward_rows(a, from, to, dw, db, 1);
  else norm_backward_rows(a, from, to, dw, db, 0);
}

/* out = Σ over tasks, in order, of their partial sums, + beta·out. */
static void add_partials(const NormBackwardJob *job, float *out, const float *beta, const float *partials) {
  const int64_t C = job->a->columns, tasks = job->tasks;
  const float factor = beta ? *beta : 0;
  EACH_VECTOR(0, C, ({
    vf total_ = {0};
    for (int64_t t = 0; t < tasks; t++) total_ += vget(partials + t * 2 * C, i, n, F32);
    if (factor != 0) total_ += vget(out, i, n, F32) * factor;
    vput(out, i, total_, n, F32);
  }));
}

/**
 * Gradients of norm: with h = (x - mean)·rstd and g = dy·w,
 * dx = rstd·(g - mean(g) - h·mean(g·h)) + dsum (the term mean(g) only when centred), dr = dx in bf16, dw = Σ rows dy·h, db = Σ rows dy.
 * x (the sum where there was one) and dx have one type; dw, db f32: the new value + beta·the old. dx may be dsum.
 */
void KERNEL(norm_backward)(const NormBackward *a) {
  enum { MOST_TASKS = 64 };
  const int64_t each = MAX(task_items(a->columns), task_count(a->rows, MOST_TASKS));
  NormBackwardJob job = {.a = a, .each = each, .tasks = task_count(a->rows, each)};
  job.partials = scratch(SCRATCH_PARTIALS, job.tasks * 2 * a->columns * sizeof(float));
  parallel(job.tasks, norm_backward_task, &job);
  if (a->dw) add_partials(&job, a->dw, a->beta_w, job.partials);
  if (a->db) add_partials(&job, a->db, a->beta_b, job.partials + a->columns);
}
EXPORT_KERNEL(norm_backward);
