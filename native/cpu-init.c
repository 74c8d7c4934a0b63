/** First values of parameters: normal random numbers by Box–Muller on counter-based bits, and constants. */
#include "cpu-math.h"
#include "cpu-random.h"
#include "kernel.h"

enum { CHUNK = 32768, BLOCK = 1024 };

/* ln x for normal positive x, ≤ 2 ulp: x = 2^e · m, m in [√½, √2), ln m = 2·atanh((m − 1)/(m + 1)). */
INLINE vf vlog(vf x) {
  vi bits = (vi)x, e = (bits - 0x3f3504f3) >> 23;
  vf m = (vf)(bits - (e << 23)), s = (m - 1.0f) / (m + 1.0f), q = s * s;
  vf p = q * (2.0f / 9) + 2.0f / 7;
  p = p * q + 2.0f / 5;
  p = p * q + 2.0f / 3;
  return __builtin_convertvector(e, vf) * 0.693147181f + (s * q * p + 2.0f * s);
}

/* cos 2πt for |t| ≤ 1, absolute error below 2e-7: folded to a quarter turn, then the series of the cosine. */
INLINE vf vcos_turn(vf t) {
  vf a = vabs(t);
  a = vselect(a > 0.5f, 1.0f - a, a);
  vi beyond = a > 0.25f;
  a = vselect(beyond, 0.5f - a, a);
  vf x = a * 6.28318531f, q = x * x;
  vf p = q * 2.08767570e-9f - 2.75573192e-7f;
  p = p * q + 2.48015873e-5f;
  p = p * q - 1.38888889e-3f;
  p = p * q + 4.16666667e-2f;
  p = p * q - 0.5f;
  p = p * q + 1.0f;
  return vselect(beyond, -p, p);
}

typedef struct RandomNormal {
  const int32_t *seed;
  float *y;
  int64_t size, stream;
  double std;
} RandomNormal;

static void normal_chunk(void *ctx, int64_t i) {
  const RandomNormal *a = ctx;
  uint32_t buffer[BLOCK + 8 * VL];
  float values[BLOCK];
  vi odd;
  for (int lane = 0; lane < VL; lane++) odd[lane] = lane % 2 ? -1 : 0;
  for (int64_t from = i * CHUNK, to = MIN(from + CHUNK, a->size); from < to; from += BLOCK) {
    const uint32_t *bits = random_fill((uint32_t)*a->seed, (uint32_t)a->stream, 0, from, BLOCK, buffer);
    for (int64_t j = 0; j < BLOCK; j += VL) {
      vu first, second; // the pair of each lane: bits 2p and 2p + 1
      for (int lane = 0; lane < VL; lane++) first[lane] = bits[j + (lane & ~1)], second[lane] = bits[j + (lane | 1)];
      vf u = __builtin_convertvector((vi)(first >> 8) + 1, vf) * 0x1p-24f, t = __builtin_convertvector((vi)(second >> 8), vf) * 0x1p-24f;
      vf radius = vsqrt(-2.0f * vlog(u)) * (float)a->std;
      vstore(values + j, radius * vcos_turn(vselect(odd, t - 0.25f, t))); // sin 2πt = cos 2π(t − ¼)
    }
    memcpy(a->y + from, values, MIN(BLOCK, to - from) * sizeof(float));
  }
}

/** y[i] = std · normal(seed, stream, 0, i): even i cosine, odd i sine of its pair's angle. */
void KERNEL(random_normal)(const RandomNormal *a) { parallel((a->size + CHUNK - 1) / CHUNK, normal_chunk, (void *)a); }
EXPORT_KERNEL(random_normal);

typedef struct Fill {
  float *y;
  int64_t size;
  double value;
} Fill;

/** y[i] = value. */
void KERNEL(fill)(const Fill *a) {
  for (int64_t i = 0; i < a->size; i++) a->y[i] = (float)a->value;
}
EXPORT_KERNEL(fill);
