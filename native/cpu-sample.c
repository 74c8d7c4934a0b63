/** Sampling: one token per row of logits, by temperature, top-k, top-p and min-p. */
#include <math.h>
#include "cpu-flat.h"
#include "cpu-random.h"
#include "kernel.h"

typedef struct Sample {
  const float *logits;
  const float *temperature, *top_p, *min_p;
  const int32_t *top_k, *seed, *draw;
  int32_t *token;
  int64_t rows, classes, allowed, stream; /* ids from `allowed` on are never chosen */
} Sample;

enum { SCRATCH_WEIGHTS = SCRATCH_FREE, SCRATCH_ORDER, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* A NaN may be lost; -∞ where nothing is larger. */
static float maximum(const float *z, int64_t V) {
  vf top = vset(-INFINITY);
  int64_t v = 0;
  for (; v + VL <= V; v += VL) top = vmax(vload(z + v), top);
  float max = vmaximum(top);
  for (; v < V; v++) max = z[v] > max ? z[v] : max;
  return max;
}

/* to[v] = e^((z[v] - top)·sharpness) */
static void exponentials(float *to, const float *z, int64_t V, float top, float sharpness) {
  EACH_VECTOR(0, V, vput(to, i, vexp((vget(z, i, n, F32) - top) * sharpness), n, F32));
}

/* 30 bits that fall as the weight, in [0, 1], rises: floats ≥ 0 are ordered like their bits. A NaN comes after 0. */
INLINE uint32_t rank_of(float weight) {
  uint32_t bits;
  memcpy(&bits, &weight, 4);
  return MIN(0x3f800000u - bits, 0x3f800001u);
}

/* Ids in the order of falling weight, equal ones by rising id: a radix sort of (rank, id), n of them in from[0 … n), with as much room behind. */
static const uint64_t *sorted(uint64_t *from, int64_t n) {
  uint64_t *to = from + n;
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

/* The largest weights in order: at least `kept` of them, or at least the share `p` of all. Buckets of similar weights come whole, so that few need sorting.
   Returns their number; *total becomes the sum of all weights. */
static int64_t largest(const float *w, int64_t V, int64_t kept, double p, const uint64_t **order, double *total) {
  enum { SHIFT = 19, BUCKETS = (0x3f800001 >> SHIFT) + 1 };
  int64_t count[BUCKETS] = {0}, n = 0;
  double weight[BUCKETS] = {0}, sum = 0;
  for (int64_t v = 0; v < V; v++) {
    count[rank_of(w[v]) >> SHIFT]++;
    weight[rank_of(w[v]) >> SHIFT] += w[v];
  }
  *total = 0;
  for (int i = 0; i < BUCKETS; i++) *total += weight[i];
  uint32_t last = 0;
  for (; last < BUCKETS - 1; last++) {
    n += count[last];
    sum += weight[last];
    if (n >= kept || sum > p * *total * (1 + 1e-9)) break; /* the margin covers sums in another order */
  }
  uint64_t *found = scratch(SCRATCH_ORDER, 2 * V * 8);
  n = 0;
  for (int64_t v = 0; v < V; v++)
    if (rank_of(w[v]) >> SHIFT <= last) found[n++] = (uint64_t)rank_of(w[v]) << 32 | (uint32_t)v;
  *order = sorted(found, n);
  return n;
}

/* The token at u·total of the kept weights: those of the top k, then of the smallest set of at least p of their total, then of at least min_p of the largest. */
static int64_t draw(const Sample *a, int64_t b, const float *w) {
  int64_t V = a->allowed, k = MIN(V, MAX(1, a->top_k[b])), kept = V, token = 0;
  double p = a->top_p[b], total = 0, acc = 0, u = random_uniform((uint32_t)a->seed[b], (uint32_t)a->stream, (uint32_t)a->draw[b], 0);
  float least = a->min_p[b];
  const uint64_t *order = NULL;
#define ID(i) (int64_t)(order ? (uint32_t)order[i] : (i))
  if (k < V || p < 1) {
    kept = MIN(k, largest(w, V, k, k < V ? 2 : p, &order, &total));
    if (k < V) {
      total = 0;
      for (int64_t i = 0; i < k; i++) total += w[ID(i)];
    }
    double limit = p * total, before = w[ID(0)];
    for (int64_t i = 1; i < kept && p < 1; before += w[ID(i)], i++)
      if (before >= limit) kept = i;
  }
  total = 0;
  for (int64_t i = 0; i < kept; i++) total += w[ID(i)] >= least ? w[ID(i)] : 0;
  for (int64_t i = 0; i < kept && acc <= u * total; i++) {
    if (!(w[ID(i)] >= least)) continue;
    token = ID(i);
    acc += w[token];
  }
#undef ID
  return token;
}

static void sample_row(void *ctx, int64_t b) {
  const Sample *a = ctx;
  int64_t token = 0;
  const float *z = a->logits + b * a->classes;
  float top = maximum(z, a->allowed);
  if (a->temperature[b] > 0) {
    float *w = scratch(SCRATCH_WEIGHTS, a->allowed * 4);
    exponentials(w, z, a->allowed, top, 1 / a->temperature[b]);
    token = draw(a, b, w);
  } else {
    while (token < a->allowed - 1 && z[token] != top) token++;
  }
  a->token[b] = token;
}

/** token (B) of logits (B, V); settings per row. */
void KERNEL(sample)(const Sample *a) { parallel(a->rows, sample_row, (void *)a); }
EXPORT_KERNEL(sample);
