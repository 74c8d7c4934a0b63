/** Projection of a tensor on a fixed random direction: turns any op's output into a scalar for the gradient check. */
#include <math.h>
#include "cpu-flat.h"
#include "cpu-random.h"
#include "kernel.h"

/* normal(seed 1, stream, step 0, index) of src/base-random.ts. */
static double direction(uint32_t stream, int64_t index) {
  int64_t pair = index & ~(int64_t)1;
  double radius = sqrt(-2 * log(((random_bits(1, stream, 0, pair) >> 8) + 1) * 0x1p-24));
  double angle = 2 * M_PI * ((random_bits(1, stream, 0, pair + 1) >> 8) * 0x1p-24);
  return radius * (index & 1 ? sin(angle) : cos(angle));
}

typedef struct WeightedSum {
  const void *x;
  float *y;
  int64_t size, x_type, stream;
} WeightedSum;

/** y = Σ x[i]·normal(1, stream, 0, i), added in order. */
void KERNEL(weighted_sum)(const WeightedSum *a) {
  double sum = 0;
  for (int64_t i = 0; i < a->size; i++) sum += load_type(a->x, i, a->x_type) * direction(a->stream, i);
  *a->y = sum;
}
EXPORT_KERNEL(weighted_sum);

typedef struct WeightedSumBackward {
  const float *dy;
  void *dx;
  int64_t size, dx_type, stream;
} WeightedSumBackward;

/** dx[i] = dy·normal(1, stream, 0, i). */
void KERNEL(weighted_sum_backward)(const WeightedSumBackward *a) {
  for (int64_t i = 0; i < a->size; i++) store_type(a->dx, i, *a->dy * direction(a->stream, i), a->dx_type);
}
EXPORT_KERNEL(weighted_sum_backward);
