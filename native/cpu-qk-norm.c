/** RMS norm of every query and key head, forward and backward. */
#include "cpu-flat.h"
#include "kernel.h"

enum { SCRATCH_PARTIALS = SCRATCH_FREE };

typedef struct QkNorm {
  const void *x;
  const float *qw, *kw;
  void *y;
  int64_t rows, heads, kv_heads, head_size, type;
  double eps;
} QkNorm;

INLINE void qk_norm_rows(QkNorm s, int64_t from, int64_t to, int64_t type) {
  const int64_t D = s.head_size, columns = (s.heads + 2 * s.kv_heads) * D, bytes = type_bytes(type);
  for (int64_t row = from; row < to; row++) {
    for (int64_t head = 0; head < s.heads + s.kv_heads; head++) {
      const int64_t at = row * columns + head * D;
      const float *w = head < s.heads ? s.qw : s.kw;
      const float squares = ROW_SUM(D, ({ vf x_ = vget(s.x, at + i, n, type); x_ * x_; }));
      const float rstd = 1 / __builtin_sqrtf(squares / D + (float)s.eps);
      EACH_VECTOR(0, D, vput(s.y, at + i, vget(s.x, at + i, n, type) * rstd * vget(w, i, n, F32), n, type));
    }
    const int64_t values = (row * columns + (s.heads + s.kv_heads) * D) * bytes;
    if (s.y != s.x) memcpy((char *)s.y + values, (const char *)s.x + values, s.kv_heads * D * bytes);
  }
}

static void qk_norm_task(void *ctx, int64_t task) {
  const QkNorm s = *(const QkNorm *)ctx;
  const int64_t each = task_items((s.heads + 2 * s.kv_heads) * s.head_size), from = task * each, to = MIN(from + each, s.rows);
  if (s.type == F32) qk_norm_rows(s, from, to, F32);
  else qk_norm_rows(s, from, to, BF16);
}

/** Each head of queries (weight qw) and keys (kw) divided by the root of its mean square + eps; values are copied. May be in place. */
void KERNEL(qk_norm)(const QkNorm *a) {
  parallel(task_count(a->rows, task_items((a->heads + 2 * a->kv_heads) * a->head_size)), qk_norm_task, (void *)a);
}
EXPORT_KERNEL(qk_norm);

typedef struct QkNormBackward {
  const void *x, *dy;
  const float *qw, *kw;
  void *dx;
  float *dqw, *dkw;
  const float *beta_q, *beta_k;
  int64_t rows, heads, kv_heads, head_size, type;
  double eps;
} QkNormBackward;

/* The job and its partial sums of dqw and dkw, (tasks, 2, head_size). */
typedef struct QkNormBackwardJob {
  QkNormBackward a;
  float *partials;
  int64_t each, tasks;
} QkNormBackwardJob;

INLINE void qk_norm_backward_rows(QkNormBackward s, int64_t from, int64_t to, float *partials, int64_t type) {
  const int64_t D = s.head_size, columns = (s.heads + 2 * s.kv_heads) * D, bytes = type_bytes(type);
  for (int64_t row = from; row < to; row++) {
    for (int64_t head = 0; head < s.heads + s.kv_heads; head++) {
      const int64_t at = row * columns + head * D;
      const float *w = head < s.heads ? s.qw : s.kw;
      float *dw = partials + (head < s.heads ? 0 : D);
      const float squares = ROW_SUM(D, ({ vf x_ = vget(s.x, at + i, n, type); x_ * x_; }));
      const float rstd = 1 / __builtin_sqrtf(squares / D + (float)s.eps);
      const float product = ROW_SUM(D, ({
        vf weighted_ = vget(s.dy, at + i, n, type) * vget(s.x, at + i, n, type) * rstd;
        vput(dw, i, vget(dw, i, n, F32) + weighted_, n, F32);
        weighted_ * vget(w, i, n, F32);
      }));
      const float scale = product / D;
      if (s.dx)
        EACH_VECTOR(0, D, ({
          vf hat_ = vget(s.x, at + i, n, type) * rstd;
          vput(s.dx, at + i, (vget(s.dy, at + i, n, type) * vget(w, i, n, F32) - hat_ * scale) * rstd, n, type);
        }));
    }
    const int64_t values = (row * columns + (s.heads + s.kv_heads) * D) * bytes;
    if (s.dx && s.dx != s.dy) memcpy((char *)s.dx + values, (const char *)s.dy + values, s.kv_heads * D * bytes);
  }
}

static void qk_norm_backward_task(void *ctx, int64_t task) {
  const QkNormBackwardJob *job = ctx;
  const int64_t from = task * job->each, to = MIN(from + job->each, job->a.rows);
  float *partials = job->partials + task * 2 * job->a.head_size;
  memset(partials, 0, 2 * job->a.head_size * sizeof(float));
  if (job->a.type == F32) qk_norm_backward_rows(job->a, from, to, partials, F32);
  else qk_norm_backward_rows(job->a, from, to, partials, BF16);
}

/* out = Σ over tasks, in order, of their partial sums, + beta·out. */
static void add_partials(const QkNormBackwardJob *job, float *out, const float *beta, const float *partials) {
  if (!out) return;
  const float factor = beta ? *beta : 0;
  for (int64_t i = 0; i < job->a.head_size; i++) {
    float total = 0;
    for (int64_t t = 0; t < job->tasks; t++) total += partials[t * 2 * job->a.head_size + i];
    out[i] = total + (factor != 0 ? factor * out[i] : 0);
  }
}

/** With h = x·rstd and g = dy·w per head: dx = rstd·(g - h·mean(g·h)), dw = Σ rows and heads dy·h + beta·dw. dx may be dy. */
void KERNEL(qk_norm_backward)(const QkNormBackward *a) {
  enum { MOST_TASKS = 64 };
  const int64_t each = MAX(task_items((a->heads + 2 * a->kv_heads) * a->head_size), task_count(a->rows, MOST_TASKS));
  QkNormBackwardJob job = {.a = *a, .each = each, .tasks = task_count(a->rows, each)};
  job.partials = scratch(SCRATCH_PARTIALS, job.tasks * 2 * a->head_size * sizeof(float));
  parallel(job.tasks, qk_norm_backward_task, &job);
  add_partials(&job, a->dqw, a->beta_q, job.partials);
  add_partials(&job, a->dkw, a->beta_k, job.partials + a->head_size);
}
EXPORT_KERNEL(qk_norm_backward);
