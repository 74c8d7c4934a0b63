/** Dropout: a mask that is a function of seed, site, step and place in the global batch. */
#include "cpu-flat.h"
#include "cpu-random.h"
#include "kernel.h"

typedef struct Dropout {
  const void *x;
  void *y;
  const int32_t *seed, *step, *row;
  int64_t size, columns, type, site, threshold;
  double scale;
} Dropout;

enum { BLOCK = 1024 };

INLINE void dropout_range(Dropout s, int64_t from, int64_t to, int64_t type) {
  const uint32_t seed = (uint32_t)*s.seed, step = (uint32_t)*s.step, site = (uint32_t)s.site;
  const int64_t first = *s.row * s.columns;
  const float scale = (float)s.scale;
  uint32_t buffer[BLOCK + 8 * VL];
  for (int64_t start = from; start < to; start += BLOCK) {
    const int64_t end = MIN(start + BLOCK, to);
    const uint32_t *bits = random_fill(seed, site, step, first + start, end - start, buffer);
    EACH_VECTOR(start, end, ({
      vi keep_ = (vi)((vu)vload((const float *)bits + i - start) >> 8) >= (int32_t)s.threshold;
      vput(s.y, i, (vf)((vi)(vget(s.x, i, n, type) * scale) & keep_), n, type);
    }));
  }
}

static void dropout_task(void *ctx, int64_t task) {
  const Dropout s = *(const Dropout *)ctx;
  const int64_t from = task * TASK_ELEMENTS, to = MIN(from + TASK_ELEMENTS, s.size);
  if (s.type == F32) dropout_range(s, from, to, F32);
  else dropout_range(s, from, to, BF16);
}

/**
 * y[i] = x[i]·scale where the 24 high bits of random value row·columns + i of (seed, site, step) are ≥ threshold, else 0.
 * row is the index of the first row in the global batch, so the mask does not depend on how a batch is cut. May be in place.
 */
void KERNEL(dropout)(const Dropout *a) { parallel(task_count(a->size, TASK_ELEMENTS), dropout_task, (void *)a); }
EXPORT_KERNEL(dropout);
