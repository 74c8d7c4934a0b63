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
