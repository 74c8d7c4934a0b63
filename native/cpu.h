/** Common ground of the CPU kernels: vectors of VL floats, bf16, the thread pool, scratch memory and the matrix product. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Every kernel file is compiled once per ISA level (-DISA=v4 AVX-512, v3 AVX2 + FMA, base): KERNEL(gemm) is gemm_v4, gemm_v3 or gemm_base.
   */
#ifndef ISA
#define ISA base
#endif
#define KERNEL_JOIN2(name, isa) name##_##isa
#define KERNEL_JOIN(name, isa) KERNEL_JOIN2(name, isa)
#define KERNEL(name) KERNEL_JOIN(name, ISA)

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX__)
#define VL 8
#else
#define VL 4
#endif

#define INLINE static inline __attribute__((always_inline, unused))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum { F32 = 0, BF16 = 1 };
typedef uint16_t bf16;

/* ---- vectors of VL floats, ints, unsigneds; arithmetic is written with operators (a * b + c becomes one FMA where there is one) ---- */
typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));
typedef float vf_any __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(VL * 2), aligned(2), may_alias));

INLINE vf vset(float x) { return x - (vf){0}; } /* minus: keeps -0 */
INLINE vf vload(const float *p) { return *(const vf_any *)p; }
INLINE void vstore(float *p, vf x) { *(vf_any *)p = x; }

/* The first n < VL floats; the rest of the vector is 0. Never touches memory beyond p[n - 1]. */
INLINE vf vload_part(const float *p, int64_t n) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  float t[VL] = {0};
  for (int64_t i = 0; i < n; i++) t[i] = p[i];
  return vload(t);
#endif
}
INLINE void vstore_part(float *p, vf x, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#else
  for (int64_t i = 0; i < n; i++) p[i] = x[i];
#endif
}

/* mask (all ones or all zeros per lane, as a comparison gives) ? a : b */
INLINE vf vselect(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
/* a > b ? a : b and a < b ? a : b; a NaN in a is lost, a NaN in b is kept. */
INLINE vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return vselect(a > b, a, b);
#endif
}
INLINE vf vmin(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return vselect(a < b, a, b);
#endif
}
INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE vf vcopysign(vf x, vf sign) { return (vf)(((vi)x & 0x7fffffff) | ((vi)sign & (int32_t)0x80000000)); }
INLINE vf vsqrt(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (vf)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

/* Sum and maximum over the lanes, always by halves: lane i with lane i + VL/2, then VL/4 … (halves by memcpy, which compilers make a
   register move) */
typedef float vf8 __attribute__((vector_size(32)));
typedef int32_t vi8 __attribute__((vector_size(32)));
typedef float vf4 __attribute__((vector_size(16)));
typedef int32_t vi4 __attribute__((vector_size(16)));
INLINE float vsum(vf x) {
  vf4 low, high;
#if VL == 16
  vf8 half[2];
  memcpy(half, &x, sizeof half);
  half[0] += half[1];
  memcpy(&low, half, sizeof low);
  memcpy(&high, (char *)half + sizeof low, sizeof high);
  low += high;
#elif VL == 8
  memcpy(&low, &x, sizeof low);
  memcpy(&high, (char *)&x + sizeof low, sizeof high);
  low += high;
#else
  low = high = x;
#endif
  return (low[0] + low[2]) + (low[1] + low[3]);
}
INLINE float vmaximum(vf x) {
  vf4 low, high;
#if VL == 16
  vf8 half[2];
  memcpy(half, &x, sizeof half);
  vi8 more = half[0] > half[1];
  half[0] = (vf8)((more & (vi8)half[0]) | (~more & (vi8)half[1]));
  memcpy(&low, half, sizeof low);
  memcpy(&high, (char *)half + sizeof low, sizeof high);
#elif VL == 8
  memcpy(&low, &x, sizeof low);
  memcpy(&high, (char *)&x + sizeof low, sizeof high);
#else
  low = high = x;
#endif
  vi4 larger = low > high;
  low = (vf4)((larger & (vi4)low) | (~larger & (vi4)high));
  float even = low[0] > low[2] ? low[0] : low[2], odd = low[1] > low[3] ? low[1] : low[3];
  return even > odd ? even : odd;
}

/* ---- bf16: the upper half of an f32, rounded to nearest even; NaN stays NaN ---- */
INLINE float bf16_to_f32(bf16 x) {
  uint32_t u = (uint32_t)x << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
INLINE bf16 f32_to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if (f != f) return (bf16)(u >> 16 | 0x40);
  return (bf16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
INLINE vf vload_bf16(const bf16 *p) {
#if defined(__AVX512F__) /* gcc 12 widens 16 lanes in two halves */
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)p)), 16);
#else
  return (vf)(__builtin_convertvector(*(const vh_any *)p, vu) << 16);
#endif
}
INLINE vh vto_bf16(vf x) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)x); /* subnormals become 0 */
#else
  vu u = (vu)x, rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, nan = (vu)(x != x);
  return __builtin_convertvector((nan & (u >> 16 | 0x40)) | (~nan & rounded), vh);
#endif
}
INLINE void vstore_bf16(bf16 *p, vf x) { *(vh_any *)p = vto_bf16(x); }
INLINE vf vload_bf16_part(const bf16 *p, int64_t n) {
  bf16 t[VL] = {0};
  for (int64_t i = 0; i < n; i++) t[i] = p[i];
  return vload_bf16(t);
}
INLINE void vstore_bf16_part(bf16 *p, vf x, int64_t n) {
  bf16 t[VL];
  vstore_bf16(t, x);
  for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

/* Element i of an array of either type: with a constant type these fold to the plain load or store. */
INLINE vf vload_type(const void *p, int64_t i, int64_t type) {
  return type == F32 ? vload((const float *)p + i) : vload_bf16((const bf16 *)p + i);
}
INLINE void vstore_type(void *p, int64_t i, vf x, int64_t type) {
  if (type == F32) vstore((float *)p + i, x);
  else vstore_bf16((bf16 *)p + i, x);
}
INLINE vf vload_type_part(const void *p, int64_t i, int64_t n, int64_t type) {
  return type == F32 ? vload_part((const float *)p + i, n) : vload_bf16_part((const bf16 *)p + i, n);
}
INLINE void vstore_type_part(void *p, int64_t i, vf x, int64_t n, int64_t type) {
  if (type == F32) vstore_part((float *)p + i, x, n);
  else vstore_bf16_part((bf16 *)p + i, x, n);
}
INLINE float load_type(const void *p, int64_t i, int64_t type) {
  return type == F32 ? ((const float *)p)[i] : bf16_to_f32(((const bf16 *)p)[i]);
}
INLINE void store_type(void *p, int64_t i, float x, int64_t type) {
  if (type == F32) ((float *)p)[i] = x;
  else ((bf16 *)p)[i] = f32_to_bf16(x);
}
INLINE int64_t type_bytes(int64_t type) { return type == F32 ? 4 : 2; }

/* ---- thread pool (cpu-pool.c) ---- */
/* Runs fn(ctx, i) for every i in 0 … n-1, in any order, on the pool and the calling thread; returns when all are done. Inside a task it
   runs inline. */
void parallel(int64_t n, void (*fn)(void *ctx, int64_t i), void *ctx);
/* Sets the number of threads, the caller's included (1 … 256); idle threads sleep. Returns the number that runs. */
int64_t pool_start(int64_t threads);
int64_t pool_threads(void);

/* This thread's scratch memory number slot: ≥ bytes bytes at a 64-byte boundary, contents undefined, kept until asked for again with more
   bytes. A slot belongs to one user: memory handed to a callee's tasks must come from a slot the callee does not use. */
enum { SCRATCH_GEMM_A, SCRATCH_GEMM_B, SCRATCH_GEMM_C, SCRATCH_GEMM_D, SCRATCH_FREE, SCRATCH_SLOTS = 16 };
void *scratch(int slot, size_t bytes);

/* ---- matrix product (cpu-gemm*.c, cpu-amx*.c) ---- */
enum { ACT_NONE, ACT_GELU, ACT_GELU_TANH, ACT_RELU, ACT_RELU2, ACT_SILU };

/* C (m, n) = epilogue(A (m, k) · B (k, n) + bias (n)) + beta·C. Inside a task it runs on that thread alone. In the forward form (a_trans 0,
   b_trans 1) the bits of a row of C depend on that row of A and on B, k, types and processor only. */
typedef struct Gemm {
  int64_t m, n, k;
  const void *a;
  int64_t lda, a_type, a_trans; /* a_trans: stored (k, m) */
  const void *b;
  int64_t ldb, b_type, b_trans; /* b_trans: stored (n, k), a weight (out, in) */
  void *c;
  int64_t ldc, c_type;
  double beta;          /* 0 never reads C */
  const float *bias;    /* (n) or NULL */
  int64_t activation;   /* ACT_…: c = act(z) */
  void *slope;          /* or NULL: act'(z) (m, n), row stride ldc, c_type, kept for backward */
  const void *factor;   /* or NULL: (m, n), row stride ldc, c_type, may be c: what act(z) is multiplied by */
} Gemm;
void KERNEL(gemm)(const Gemm *g);

#include "cpu-math.h"
