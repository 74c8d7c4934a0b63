/** Activations as passes of their own: SwiGLU, the step back through an activation whose derivative was kept, the soft cap. */
#include "cpu-flat.h"
#include "kernel.h"

typedef struct ActivationBackward {
  const void *dy, *slope;
  void *dz;
  int64_t size, type;
} ActivationBackward;

static void activation_backward_task(void *ctx, int64_t task) {
  const ActivationBackward s = *(const ActivationBackward *)ctx;
  const int64_t from = task * TASK_ELEMENTS, to = MIN(from + TASK_ELEMENTS, s.size);
  EACH_VECTOR(from, to, vput(s.dz, i, vget(s.dy, i, n, s.type) * vget(s.slope, i, n, s.type), n, s.type));
}

/** dz = dy ⊙ slope over size elements. May be in place. */
void KERNEL(activation_backward)(const ActivationBackward *a) { parallel(task_count(a->size, TASK_ELEMENTS), activation_backward_task, (void *)a); }
EXPORT_KERNEL(activation_backward);

typedef struct Swiglu {
  const void *x;
  void *y;
  int64_t rows, columns, type;
} Swiglu;

INLINE void swiglu_rows(Swiglu s, int64_t from, int64_t to, int64_t type) {
  for (int64_t row = from; row < to; row++) {
    const int64_t F = s.columns, gate = row * 2 * F, up = gate + F, y = row * F;
    EACH_VECTOR(0, F, ({
      vf g_ = vget(s.x, gate + i, n, type);
      vput(s.y, y + i, g_ * vsigmoid(g_) * vget(s.x, up + i, n, type), n, type);
    }));
  }
}

static void swiglu_task(void *ctx, int64_t task) {
  const Swiglu s = *(const Swiglu *)ctx;
  const int64_t each = task_items(s.columns), from = task * each, to = MIN(from + each, s.rows);
  if (s.type == F32) swiglu_rows(s, from, to, F32);
  else swiglu_rows(s, from, to, BF16);
}

/** y (rows, columns) = silu(gate) ⊙ up; x (rows, 2·columns) holds gate, then up. */
void KERNEL(swiglu)(const Swiglu *a) { parallel(task_count(a->rows, task_items(a->columns)), swiglu_task, (void *)a); }
EXPORT_KERNEL(swiglu);

typedef struct SwigluBackward {
  const void *x, *dy;
  void *dx;
  int64_t rows, columns, type;
} SwigluBackward;

INLINE void swiglu_backward_rows(SwigluBackward s, int64_t from, int64_t to, int64_t type) {
  for (int64_t row = from; row < to; row++) {
    const int64_t F = s.columns, gate = row * 2 * F, up = gate + F, y = row * F;
    EACH_VECTOR(0, F, ({
      vf g_ = vget(s.x, gate + i, n, type), dy_ = vget(s.dy, y + i, n, type), sigmoid_ = vsigmoid(g_), up_ = vget(s.x, up + i, n, type);
      vput(s.dx, gate + i, dy_ * up_ * sigmoid_ * (1.0f + g_ * (1.0f - sigmoid_)), n, type);
      vput(s.dx, up + i, dy_ * g_ * sigmoid_, n, type);
    }));
  }
}

static void swiglu_backward_task(void *ctx, int64_t task) {
  const SwigluBackward s = *(const SwigluBackward *)ctx;
  const int64_t each = task_items(s.columns), from = task * each, to = MIN(from + each, s.rows);
  if (s.type == F32) swiglu_backward_rows(s, from, to, F32);
  else swiglu_backward_rows(s, from, to, BF16);
}

/** dgate = dy ⊙ up ⊙ silu'(gate), dup = dy ⊙ silu(gate); dx (rows, 2·columns) may be x. */
void KERNEL(swiglu_backward)(const SwigluBackward *a) { parallel(task_count(a->rows, task_items(a->columns)), swiglu_backward_task, (void *)a); }
EXPORT_KERNEL(swiglu_backward);

typedef struct SoftCap {
  const void *x, *dy; /* dy NULL: forward */
  void *y;
  int64_t size, type;
  double cap;
} SoftCap;

INLINE void soft_cap_range(SoftCap s, int64_t from, int64_t to, int64_t type) {
  const float cap = (float)s.cap, inverse = (float)(1 / s.cap);
  if (s.dy) EACH_VECTOR(from, to, ({
    vf tanh_ = vtanh(vget(s.x, i, n, type) * inverse);
    vput(s.y, i, vget(s.dy, i, n, type) * (1.0f - tanh_ * tanh_), n, type);
  }));
  else EACH_VECTOR(from, to, vput(s.y, i, cap * vtanh(vget(s.x, i, n, type) * inverse), n, type));
}

static void soft_cap_task(void *ctx, int64_t task) {
  const SoftCap s = *(const SoftCap *)ctx;
  const int64_t from = task * TASK_ELEMENTS, to = MIN(from + TASK_ELEMENTS, s.size);
  if (s.type == F32) soft_cap_range(s, from, to, F32);
  else soft_cap_range(s, from, to, BF16);
}

/** Forward y = cap·tanh(x/cap), backward y = dy·(1 - tanh²(x/cap)) over size elements. May be in place. */
void KERNEL(soft_cap)(const SoftCap *a) { parallel(task_count(a->size, TASK_ELEMENTS), soft_cap_task, (void *)a); }
EXPORT_KERNEL(soft_cap);
