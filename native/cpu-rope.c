/** Rotary position embedding of queries and keys, in halves as Llama does. */
#include "cpu-flat.h"
#include "kernel.h"

enum { SCRATCH_ANGLES = SCRATCH_FREE };

typedef struct Rope {
  const void *x;
  void *y;
  const int32_t *positions;  /* NULL: row mod T */
  const double *frequencies; /* (head_size / 2) radians per position */
  int64_t rows, T, rotated, copied, head_size, type, inverse; /* rotated heads (queries, keys), then copied heads (values) */
} Rope;

/* Cosine and sine of position·frequency, the angle rounded to f32 as PyTorch rounds it.
   Reduced by multiples of π/2 in f64 and there Taylor series to 1e-9, so that the result is right to an ulp of f32. Vectorised by the compiler. */
static void cos_sin(float *restrict cosine, float *restrict sine, int64_t position, const double *restrict frequencies, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    double angle = (float)position * (float)frequencies[i];
    double turns = angle * 0.63661977236758134308 + 0x1.8p52; /* 2/π; the integer is in the low bits */
    int64_t quadrant;
    memcpy(&quadrant, &turns, 8);
    turns -= 0x1.8p52;
    double r = angle - turns * 1.57079632679489655800 - turns * 6.12323399573676603587e-17, s = r * r;
    double sin_r = r + r * s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880 + s * (-1.0 / 39916800)))));
    double cos_r = 1 + s * (-0.5 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320 + s * (-1.0 / 3628800 + s * (1.0 / 479001600))))));
    double c = quadrant & 1 ? sin_r : cos_r, z = quadrant & 1 ? cos_r : sin_r;
    cosine[i] = (float)((quadrant + 1) & 2 ? -c : c);
    sine[i] = (float)(quadrant & 2 ? -z : z);
  }
}

INLINE void rope_rows(Rope s, int64_t from, int64_t to, int64_t type) {
  const int64_t half = s.head_size / 2, columns = (s.rotated + s.copied) * s.head_size, bytes = type_bytes(type);
  float *cosine = scratch(SCRATCH_ANGLES, 2 * half * sizeof(float)), *sine = cosine + half;
  const float sign = s.inverse ? -1 : 1;
  int64_t known = -1;
  for (int64_t row = from; row < to; row++) {
    const int64_t position = s.positions ? s.positions[row] : row % s.T;
    if (position != known) cos_sin(cosine, sine, position, s.frequencies, half);
    known = position;
    for (int64_t head = 0; head < s.rotated; head++) {
      const int64_t low = row * columns + head * s.head_size, high = low + half;
      EACH_VECTOR(0, half, ({
        vf a_ = vget(s.x, low + i, n, type), b_ = vget(s.x, high + i, n, type), c_ = vget(cosine, i, n, F32), s_ = vget(sine, i, n, F32) * sign;
        vput(s.y, low + i, a_ * c_ - b_ * s_, n, type);
        vput(s.y, high + i, b_ * c_ + a_ * s_, n, type);
      }));
    }
    const int64_t rest = (row * columns + s.rotated * s.head_size) * bytes;
    if (s.y != s.x) memcpy((char *)s.y + rest, (const char *)s.x + rest, s.copied * s.head_size * bytes);
  }
}

static void rope_task(void *ctx, int64_t task) {
  const Rope s = *(const Rope *)ctx;
  const int64_t each = task_items((s.rotated + s.copied) * s.head_size), from = task * each, to = MIN(from + each, s.rows);
  if (s.type == F32) rope_rows(s, from, to, F32);
  else rope_rows(s, from, to, BF16);
}

/** Rotates each pair (i, i + head_size/2) of every rotated head by position·frequency i, backwards if inverse; copies the other heads. May be in place. */
void KERNEL(rope)(const Rope *a) {
  parallel(task_count(a->rows, task_items((a->rotated + a->copied) * a->head_size)), rope_task, (void *)a);
}
EXPORT_KERNEL(rope);
