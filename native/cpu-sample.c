/** Sampling: one token per row of logits, by repetition penalty, temperature, top-k, top-p and min-p. */
#include <math.h>
#include "cpu-flat.h"
#include "cpu-random.h"
#include "kernel.h"

typedef struct Sample {
  const float *logits;
  const float *temperature, *top_p, *min_p, *penalty;
  const int32_t *top_k, *seed, *draw, *history, *lengths; /* history (rows, longest) and lengths may be NULL */
  int32_t *token;
  float *logprob;
  int64_t rows, classes, allowed, longest, stream; /* ids from `allowed` on are never chosen */
} Sample;

enum { SCRATCH_WEIGHTS = SCRATCH_FREE, SCRATCH_SEEN, SCRATCH_ORDER, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* to[v] = e^((z[v] - max z)·sharpness); returns max z. */
static float exponentials(float *to, const float *z, int64_t V, float sharpness) {
  float top = -INFINITY;
  for (int64_t v = 0; v < V; v++) top = z[v] > top ? z[v] : top;
  EACH_VECTOR(0, V, vput(to, i, vexp((vget(z, i, n, F32) - top) * sharpness), n, F32));
  return top;
}

static double sum(const float *w, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i++) total += w[i];
  return total;
}

/* z of every token in the row's history once: divided by the penalty where positive, else multiplied (Keskar et al. 2019, arXiv:1909.05858). */
static void penalise(const Sample *a, int64_t b, float *z) {
  int64_t V = a->classes;
  uint8_t *seen = scratch(SCRATCH_SEEN, V);
  memset(seen, 0, V);
  for (int64_t i = 0; i < MIN(a->lengths[b], a->longest); i++) {
    int64_t t = a->history[b * a->longest + i];
    if (t < 0 || t >= V || seen[t]) continue;
    seen[t] = 1;
    z[t] = z[t] > 0 ? z[t] / a->penalty[b] : z[t] * a->penalty[b];
  }
}

/* Token ids by falling weight in [0, 1], equal ones by rising id: a radix sort of (1 - weight, id). */
static uint64_t *by_weight(const float *w, int64_t n) {
  uint64_t *from = scratch(SCRATCH_ORDER, 2 * n * 8), *to = from + n;
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, w + i, 4);
    from[i] = (uint64_t)(0x3f800000u - bits) << 32 | (uint32_t)i; /* floats ≥ 0 are ordered like their bits; NaN comes last */
  }
  for (int shift = 32; shift < 64; shift += DIGIT_BITS) {
    int64_t start[DIGITS + 1] = {0};
    for (int64_t i = 0; i < n; i++) start[(from[i] >> shift) % DIGITS + 1]++;
    for (int d = 0; d < DIGITS; d++) start[d + 1] += start[d];
    for (int64_t i = 0; i < n; i++) to[start[(from[i] >> shift) % DIGITS]++] = from[i];
    uint64_t *swap = from;
    from = to;
    to = swap;
  }
  return from;
}

/* The token at u·total of the kept weights: those of the top k, then of the smallest set of at least p of their total, then of at least min_p of the largest. */
static int64_t draw(const Sample *a, int64_t b, const float *w) {
  int64_t V = a->allowed, kept = MIN(V, MAX(1, a->top_k[b])), last = 0;
  const uint64_t *order = kept < V || a->top_p[b] < 1 ? by_weight(w, V) : NULL;
  double total = 0, acc = 0, u = random_uniform((uint32_t)a->seed[b], (uint32_t)a->stream, (uint32_t)a->draw[b], 0);
#define ID(i) (int64_t)(order ? (uint32_t)order[i] : (i))
  if (order) {
    for (int64_t i = 0; i < kept; i++) total += w[ID(i)];
    double limit = a->top_p[b] * total;
    total = 0;
    for (int64_t i = 0; i < kept; i++) {
      if (i > 0 && total >= limit) kept = i;
      else total += w[ID(i)];
    }
  }
  total = 0;
  for (int64_t i = 0; i < kept; i++) total += w[ID(i)] >= a->min_p[b] ? w[ID(i)] : 0;
  for (int64_t i = 0; i < kept; i++) {
    if (!(w[ID(i)] >= a->min_p[b])) continue;
    last = ID(i);
    acc += w[last];
    if (acc > u * total) break;
  }
#undef ID
  return last;
}

static void sample_row(void *ctx, int64_t b) {
  const Sample *a = ctx;
  int64_t V = a->classes, token = 0;
  const float *logits = a->logits + b * V;
  float *w = scratch(SCRATCH_WEIGHTS, 2 * V * 4), *z = w + V;
  float top = exponentials(w, logits, V, 1);
  double lse = top + log(sum(w, V));
  memcpy(z, logits, V * 4);
  if (a->history && a->penalty[b] != 1) penalise(a, b, z);
  if (a->temperature[b] > 0) {
    exponentials(w, z, a->allowed, 1 / a->temperature[b]);
    token = draw(a, b, w);
  } else {
    for (int64_t v = 1; v < a->allowed; v++) token = z[v] > z[token] ? v : token;
  }
  a->token[b] = token;
  a->logprob[b] = logits[token] - lse;
}

/** token (B), logprob (B) of logits (B, V); settings per row. */
void KERNEL(sample)(const Sample *a) { parallel(a->rows, sample_row, (void *)a); }
EXPORT_KERNEL(sample);
