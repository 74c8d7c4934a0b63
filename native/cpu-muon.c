/** Muon: orthogonalises the momentum of each matrix by five Newton–Schulz steps on the matrix product. */
#include "cpu.h"
#include "kernel.h"
#include <math.h>

enum { SCALE = 3, CHUNK = 16384, STEPS = 5 };
static const float A = 3.4445f, B = -4.7750f, C = 2.0315f;

typedef struct Matrix {
  float *p;
  const float *g;
  float *m;
  bf16 *copy;
  int64_t offset, rows, cols;
  double decay;
} Matrix;

typedef struct Muon {
  const Matrix *matrices;
  int64_t count;
  const float *lr, *control;
  double momentum;
} Muon;

typedef struct Task {
  const Matrix *mat;
  float *x, *y, *gram, *square; // x, y (rows, cols); gram, square (r, r), r = the shorter side
  double *partial;
  float scale, momentum, keep, step;
  int64_t size;
} Task;

/** Momentum and its Nesterov look-ahead into x, with the f64 sum of squares of each chunk. */
static void look_ahead(void *ctx, int64_t i) {
  Task *t = ctx;
  float *m = t->mat->m + t->mat->offset;
  const float *g = t->mat->g + t->mat->offset;
  double sum = 0;
  for (int64_t j = i * CHUNK, to = MIN(j + CHUNK, t->size); j < to; j++) {
    float gj = g[j] * t->scale;
    m[j] = t->momentum * m[j] + (1 - t->momentum) * gj;
    t->x[j] = (1 - t->momentum) * gj + t->momentum * m[j];
    sum += (double)t->x[j] * t->x[j];
  }
  t->partial[i] = sum;
}

static void mix_gram(void *ctx, int64_t i) {
  Task *t = ctx;
  int64_t r = MIN(t->mat->rows, t->mat->cols);
  for (int64_t j = i * CHUNK, to = MIN(j + CHUNK, r * r); j < to; j++) t->gram[j] = B * t->gram[j] + C * t->square[j];
}

static void mix_x(void *ctx, int64_t i) {
  Task *t = ctx;
  for (int64_t j = i * CHUNK, to = MIN(j + CHUNK, t->size); j < to; j++) t->x[j] = A * t->x[j] + t->y[j];
}

static void normalise(void *ctx, int64_t i) {
  Task *t = ctx;
  for (int64_t j = i * CHUNK, to = MIN(j + CHUNK, t->size); j < to; j++) t->x[j] *= t->step;
}

static void apply(void *ctx, int64_t i) {
  Task *t = ctx;
  float *p = t->mat->p + t->mat->offset;
  bf16 *copy = t->mat->copy ? t->mat->copy + t->mat->offset : 0;
  for (int64_t j = i * CHUNK, to = MIN(j + CHUNK, t->size); j < to; j++) {
    p[j] = p[j] * t->keep - t->step * t->x[j];
    if (copy) copy[j] = f32_to_bf16(p[j]);
  }
}

static int64_t chunks(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

/** c (m, n) = a · b, all f32, row-major; a or b may be stored transposed. */
static void multiply(float *c, const float *a, int64_t lda, int a_trans, const float *b, int64_t ldb, int b_trans, int64_t m, int64_t n, int64_t k) {
  Gemm g = {.m = m, .n = n, .k = k, .a = a, .lda = lda, .a_trans = a_trans, .b = b, .ldb = ldb, .b_trans = b_trans, .c = c, .ldc = n};
  KERNEL(gemm)(&g);
}

void KERNEL(muon)(const Muon *a) {
  if (a->control[SCALE] == 0) return;
  for (int64_t k = 0; k < a->count; k++) {
    const Matrix *mat = a->matrices + k;
    int64_t rows = mat->rows, cols = mat->cols, size = rows * cols, r = MIN(rows, cols), n = chunks(size);
    float *memory = scratch(SCRATCH_FREE, (2 * size + 2 * r * r) * sizeof(float) + n * sizeof(double));
    double *partial = (double *)memory, sum = 0;
    float *x = (float *)(partial + n);
    Task t = {mat, x, x + size, x + 2 * size, x + 2 * size + r * r, partial, a->control[SCALE], a->momentum, 1 - *a->lr * mat->decay, 0, size};
    parallel(n, look_ahead, &t);
    for (int64_t i = 0; i < n; i++) sum += partial[i];
    t.step = (float)(1 / fmax(1e-7, sqrt(sum)));
    parallel(n, normalise, &t);
    for (int step = 0; step < STEPS; step++) {
      int tall = rows > cols; // XᵀX and X·(…) instead of XXᵀ and (…)·X
      multiply(t.gram, x, cols, tall, x, cols, !tall, r, r, MAX(rows, cols));
      multiply(t.square, t.gram, r, 0, t.gram, r, 0, r, r, r);
      parallel(chunks(r * r), mix_gram, &t);
      if (tall) multiply(t.y, x, cols, 0, t.gram, r, 0, rows, cols, r);
      else multiply(t.y, t.gram, r, 0, x, cols, 0, rows, cols, r);
      parallel(n, mix_x, &t);
    }
    t.step = *a->lr * 0.2f * sqrtf((float)MAX(rows, cols));
    parallel(n, apply, &t);
  }
}
EXPORT_KERNEL(muon);
