/** Flat passes over tensors: tasks of a fixed number of elements, whole vectors and one part at the end. */
#pragma once
#include "cpu.h"

/* Elements per task: small tensors run inline on the calling thread, and results cannot depend on the thread count. */
enum { TASK_ELEMENTS = 16384 };

/* n elements at i; with n = VL (a constant in full steps) these fold to the plain load or store */
INLINE vf vget(const void *p, int64_t i, int64_t n, int64_t type) { return n == VL ? vload_type(p, i, type) : vload_type_part(p, i, n, type); }
INLINE void vput(void *p, int64_t i, vf x, int64_t n, int64_t type) {
  if (n == VL) vstore_type(p, i, x, type);
  else vstore_type_part(p, i, x, n, type);
}

/* Runs `step` (which uses i and n) for every vector of [from, to). */
#define EACH_VECTOR(from, to, step)          \
  do {                                       \
    int64_t i = from;                        \
    for (; i + VL <= (to); i += VL) {        \
      const int64_t n = VL;                  \
      step;                                  \
    }                                        \
    if (i < (to)) {                          \
      const int64_t n = (to) - i;            \
      step;                                  \
    }                                        \
  } while (0)

/* Tasks for `items` items of `elements` elements each, and the items of one task. */
INLINE int64_t task_items(int64_t elements) { return MAX(1, TASK_ELEMENTS / MAX(1, elements)); }
INLINE int64_t task_count(int64_t items, int64_t per_task) { return (items + per_task - 1) / per_task; }

/* x with the lanes from n on set to `rest`. */
INLINE vf vfirst_or(vf x, int64_t n, float rest) {
  if (n == VL) return x;
  vi lane;
  for (int i = 0; i < VL; i++) lane[i] = i;
  return vselect(lane < (int32_t)n, x, vset(rest));
}
INLINE vf vfirst(vf x, int64_t n) { return vfirst_or(x, n, 0); }

/* Σ of `term` (a vector that uses i and n; 0 in the lanes from n on) over columns, in an order fixed by their number:
   four running vectors, the vectors left, the last part, then the lanes by halves. */
#define ROW_SUM(columns, term)                                                       \
  ({                                                                                 \
    vf sum0_ = {0}, sum1_ = {0}, sum2_ = {0}, sum3_ = {0};                           \
    const int64_t n_ = (columns);                                                    \
    int64_t at_ = 0;                                                                 \
    for (; at_ + 4 * VL <= n_; at_ += 4 * VL) {                                      \
      const int64_t n = VL;                                                          \
      { const int64_t i = at_; sum0_ += term; }                                      \
      { const int64_t i = at_ + VL; sum1_ += term; }                                 \
      { const int64_t i = at_ + 2 * VL; sum2_ += term; }                             \
      { const int64_t i = at_ + 3 * VL; sum3_ += term; }                             \
    }                                                                                \
    for (; at_ + VL <= n_; at_ += VL) {                                              \
      const int64_t i = at_, n = VL;                                                 \
      sum0_ += term;                                                                 \
    }                                                                                \
    if (at_ < n_) {                                                                  \
      const int64_t i = at_, n = n_ - at_;                                           \
      sum1_ += term;                                                                 \
    }                                                                                \
    vsum((sum0_ + sum1_) + (sum2_ + sum3_));                                         \
  })
