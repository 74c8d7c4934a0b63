/** Logits between the model and the choice: penalties, biases, forbidden tokens; ln of probabilities and the largest logits. */
#include <math.h>
#include "cpu-flat.h"
#include "kernel.h"

static const float FORBIDDEN = -0x1p127f;

typedef struct LogitAdjust {
  const float *logits;
  const int32_t *ids; /* (rows, listed) */
  const float *scale, *bias;
  const int32_t *counts, *mask; /* mask (rows, ⌈classes/32⌉) or NULL */
  float *y;
  int64_t rows, classes, listed;
} LogitAdjust;

static void adjust_row(void *ctx, int64_t b) {
  const LogitAdjust *a = ctx;
  int64_t V = a->classes;
  float *y = a->y + b * V;
  memcpy(y, a->logits + b * V, V * 4);
  for (int64_t i = b * a->listed; i < b * a->listed + MIN(a->counts[b], a->listed); i++) {
    int64_t t = a->ids[i];
    if (t >= 0 && t < V) y[t] = (y[t] > 0 ? y[t] / a->scale[i] : y[t] * a->scale[i]) + a->bias[i];
  }
  if (!a->mask) return;
  const uint32_t *words = (const uint32_t *)a->mask + b * ((V + 31) / 32);
  for (int64_t w = 0; w * 32 < V; w++) {
    if (words[w] == ~0u) continue;
    for (int64_t v = w * 32; v < MIN(V, w * 32 + 32); v++)
      if (!(words[w] >> (v - w * 32) & 1)) y[v] = FORBIDDEN;
  }
}

/** y (rows, classes): logits with the listed tokens scaled and biased, and those outside the mask forbidden. */
void KERNEL(logit_adjust)(const LogitAdjust *a) { parallel(a->rows, adjust_row, (void *)a); }
EXPORT_KERNEL(logit_adjust);

typedef struct Logprobs {
  const float *logits;
  const int32_t *targets;
  float *logprob;
  int32_t *top_ids;
  float *top_logprobs;
  int64_t rows, classes, allowed, top;
} Logprobs;

enum { TOP_LIMIT = 32 };

/* The ids of the n largest of z[0 … count) in falling order, the lower one of equals first; fewer where there are not so many. Returns their number. */
static int64_t largest(const float *z, int64_t count, int64_t n, int32_t *ids) {
  float values[TOP_LIMIT], least = -INFINITY;
  int64_t found = 0;
  for (int64_t v = 0; v < count; v++) {
    if (found == n && !(z[v] > least)) continue;
    int64_t i = found < n ? found++ : n - 1;
    for (; i > 0 && z[v] > values[i - 1]; i--) {
      values[i] = values[i - 1];
      ids[i] = ids[i - 1];
    }
    values[i] = z[v];
    ids[i] = v;
    least = values[found - 1];
  }
  return found;
}

static void logprobs_row(void *ctx, int64_t r) {
  const Logprobs *a = ctx;
  int64_t V = a->classes, target = a->targets[r];
  const float *z = a->logits + r * V;
  if (target < 0 && !a->top_ids && !a->top_logprobs) {
    if (a->logprob) a->logprob[r] = 0;
    return;
  }
  vf top = vset(-INFINITY);
  EACH_VECTOR(0, V, top = vmax(vfirst_or(vget(z, i, n, F32), n, -INFINITY), top));
  float max = vmaximum(top);
  double lse = log(ROW_SUM(V, vfirst(vexp(vget(z, i, n, F32) - max), n))); /* a NaN that the maximum lost comes back here */
  if (a->logprob) a->logprob[r] = target < 0 ? 0 : target >= V ? NAN : (float)(((double)z[target] - max) - lse);
  if (!a->top_ids && !a->top_logprobs) return;
  int32_t ids[TOP_LIMIT];
  int64_t found = largest(z, a->allowed, a->top, ids);
  for (int64_t i = 0; i < a->top; i++) {
    if (a->top_ids) a->top_ids[r * a->top + i] = i < found ? ids[i] : -1;
    if (a->top_logprobs) a->top_logprobs[r * a->top + i] = i < found ? (float)(((double)z[ids[i]] - max) - lse) : FORBIDDEN;
  }
}

/** logprob (rows) of targets and the `top` most likely of ids below `allowed`, of logits (rows, classes). */
void KERNEL(logprobs)(const Logprobs *a) { parallel(a->rows, logprobs_row, (void *)a); }
EXPORT_KERNEL(logprobs);
