/** Element by element: sums and copies of tensors. */
#include "cpu-flat.h"
#include "kernel.h"

typedef struct Add {
  const void *a, *b;
  void *y;
  int64_t size, a_type, b_type, y_type;
} Add;

INLINE void add_range(Add s, int64_t from, int64_t to, int64_t a_type, int64_t b_type, int64_t y_type) {
  EACH_VECTOR(from, to, vput(s.y, i, vget(s.a, i, n, a_type) + vget(s.b, i, n, b_type), n, y_type));
}

static void add_task(void *ctx, int64_t task) {
  const Add s = *(const Add *)ctx;
  int64_t from = task * TASK_ELEMENTS, to = MIN(from + TASK_ELEMENTS, s.size);
  if (s.a_type == F32 && s.b_type == F32) add_range(s, from, to, F32, F32, F32);
  else if (s.a_type == BF16 && s.b_type == BF16) add_range(s, from, to, BF16, BF16, BF16);
  else add_range(s, from, to, s.a_type, s.b_type, s.y_type);
}

/** y = a + b over size elements; y is f32 unless both are bf16. May be in place. */
void KERNEL(add)(const Add *a) { parallel(task_count(a->size, TASK_ELEMENTS), add_task, (void *)a); }
EXPORT_KERNEL(add);

typedef struct Assign {
  const void *x;
  float *y;
  const float *beta;
  int64_t size, x_type;
} Assign;

INLINE void assign_range(Assign s, int64_t from, int64_t to, int64_t x_type) {
  const float beta = s.beta ? *s.beta : 0;
  if (beta == 0) EACH_VECTOR(from, to, vput(s.y, i, vget(s.x, i, n, x_type), n, F32));
  else EACH_VECTOR(from, to, vput(s.y, i, vget(s.y, i, n, F32) * beta + vget(s.x, i, n, x_type), n, F32));
}

static void assign_task(void *ctx, int64_t task) {
  const Assign s = *(const Assign *)ctx;
  int64_t from = task * TASK_ELEMENTS, to = MIN(from + TASK_ELEMENTS, s.size);
  if (s.x_type == F32) assign_range(s, from, to, F32);
  else assign_range(s, from, to, BF16);
}

/** y (f32) = x + beta·y over size elements; beta 0 or NULL never reads y. */
void KERNEL(assign)(const Assign *a) { parallel(task_count(a->size, TASK_ELEMENTS), assign_task, (void *)a); }
EXPORT_KERNEL(assign);

typedef struct Cast {
  const void *x;
  void *y;
  int64_t size, x_type, y_type;
} Cast;

INLINE void cast_range(Cast s, int64_t from, int64_t to, int64_t x_type, int64_t y_type) {
  EACH_VECTOR(from, to, vput(s.y, i, vget(s.x, i, n, x_type), n, y_type));
}

static void cast_task(void *ctx, int64_t task) {
  const Cast s = *(const Cast *)ctx;
  int64_t from = task * TASK_ELEMENTS, to = MIN(from + TASK_ELEMENTS, s.size);
  if (s.x_type == F32 && s.y_type == BF16) cast_range(s, from, to, F32, BF16);
  else if (s.x_type == BF16 && s.y_type == F32) cast_range(s, from, to, BF16, F32);
  else cast_range(s, from, to, s.x_type, s.y_type);
}

/** y = x in y's type over size elements. */
void KERNEL(cast)(const Cast *a) { parallel(task_count(a->size, TASK_ELEMENTS), cast_task, (void *)a); }
EXPORT_KERNEL(cast);
