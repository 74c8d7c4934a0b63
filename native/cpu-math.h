/** Elementary functions on vectors of floats: exp, tanh, erf and the activations with their derivatives. */
#pragma once
#include "cpu.h"

/* Polynomials are weighted minimax fits (perf/LOG.md gives the error of each); NaN and infinities come out as mathematics says. */

/* e^x, ≤ 1.1 ulp. e^(n·ln2 + r), |r| ≤ ln2/2; without an instruction for it 2^n is applied in two halves, so that overflow and subnormals
   come out right. */
INLINE vf vexp(vf x) {
  x = vmax(vset(-104.0f), vmin(vset(89.0f), x));
  vf t = x * 1.44269504f + 12582912.0f; /* 1.5·2^23: the integer is in the low bits */
  vi n = (vi)t - 0x4b400000;
  t -= 12582912.0f;
  vf r = x - t * 0.693145752f; /* ln2 in two parts, the first exact in 16 bits */
  r = r - t * 1.42860677e-6f;
  vf p = r * 1.39507244e-3f + 8.36902484e-3f;
  p = p * r + 4.16662022e-2f;
  p = p * r + 1.66665182e-1f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
  (void)n;
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)t);
#else
  vi half = n >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
#endif
}

/* tanh x, ≤ 2 ulp. */
INLINE vf vtanh(vf x) {
  vf s = x * x;
  vf p = s * -6.28246693e-3f + 2.1077754e-2f;
  p = p * s - 5.38538578e-2f;
  p = p * s + 1.33326024e-1f;
  p = p * s - 3.33333194e-1f;
  vf small = x * s * p + x;
  vf large = 1.0f - 2.0f / (vexp(2.0f * vabs(x)) + 1.0f);
  return vselect(vabs(x) < 0.55f, small, vcopysign(large, x));
}

/* erf x, ≤ 2 ulp. Beyond 0.9: 1 - e^-(t + t·P(t)), t = |x|. */
INLINE vf verf(vf x) {
  vf s = x * x, t = vmin(vset(4.0f), vabs(x));
  vf p = s * 8.53883903e-5f - 8.18192726e-4f;
  p = p * s + 5.2044359e-3f;
  p = p * s - 2.68607531e-2f;
  p = p * s + 1.12837195e-1f;
  p = p * s - 3.76126349e-1f;
  p = p * s + 1.28379166e-1f;
  vf q = t * -2.14154759e-4f + 3.21645848e-3f;
  q = q * t - 2.28951462e-2f;
  q = q * t + 1.05270535e-1f;
  q = q * t + 6.35711253e-1f;
  q = q * t + 1.28516614e-1f;
  vf large = 1.0f - vexp(-(q * t + t));
  return vselect(vabs(x) < 0.9f, x * p + x, vcopysign(large, x));
}

INLINE vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }

/* -2·√(2/π)(z + 0.044715 z³): gelu_tanh is z·σ of the negative, since (1 + tanh u)/2 = σ(2u). */
INLINE vf gelu_tanh_exponent(vf z) { return z * (z * z * -0.071354816f - 1.5957691f); }

/* act(z) for ACT_… (cpu.h). gelu: z·Φ(z). gelu_tanh: z/2·(1 + tanh(√(2/π)(z + 0.044715 z³))). relu2: max(z, 0)². silu: z·σ(z). */
INLINE vf vact(vf z, int64_t activation) {
  switch (activation) {
    case ACT_GELU: return 0.5f * z * (1.0f + verf(z * 0.70710678f));
    case ACT_GELU_TANH: return z / (1.0f + vexp(gelu_tanh_exponent(z)));
    case ACT_RELU: return vmax(vset(0), z);
    case ACT_RELU2: return vmax(vset(0), z) * vmax(vset(0), z);
    case ACT_SILU: return z / (1.0f + vexp(-z));
    default: return z;
  }
}

/* act'(z); the relu derivatives are 0 at 0. σ' is σ²·e^-x: nothing cancels. */
INLINE vf vdact(vf z, int64_t activation) {
  switch (activation) {
    case ACT_GELU: return 0.5f * (1.0f + verf(z * 0.70710678f)) + z * 0.39894228f * vexp(-0.5f * z * z);
    case ACT_GELU_TANH: {
      vf w = vmax(vset(-10.0f), vmin(vset(10.0f), z)); /* beyond, the derivative is 0 or 1 */
      vf e = vexp(gelu_tanh_exponent(w)), s = 1.0f / (1.0f + e);
      return s + s * (s * e) * w * (1.5957691f + 0.21406445f * w * w);
    }
    case ACT_RELU: return vselect(z > 0.0f, vset(1), z * 0.0f);
    case ACT_RELU2: return 2.0f * vmax(vset(0), z);
    case ACT_SILU: {
      vf w = vmax(vset(-80.0f), z), e = vexp(-w), s = 1.0f / (1.0f + e);
      return s + s * (s * e) * w;
    }
    default: return vset(1);
  }
}
