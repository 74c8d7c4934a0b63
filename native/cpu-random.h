/** Counter-based random numbers in C: the Philox4x32-10 of src/base-random.ts, the same bits, one block or a vector of blocks at a time. */
#pragma once
#include "cpu.h"

/* Salmon, Moraes, Dror, Shaw 2011. Value `index` of (seed, stream, step) is word index & 3 of the block with
   counter (index >> 2 low, index >> 2 high, step, 0) and key (seed, stream). */
enum { PHILOX_M0 = (int)0xd2511f53, PHILOX_M1 = (int)0xcd9e8d57, PHILOX_W0 = (int)0x9e3779b9, PHILOX_W1 = (int)0xbb67ae85 };

/* 32 random bits of value `index`. */
INLINE uint32_t random_bits(uint32_t seed, uint32_t stream, uint32_t step, int64_t index) {
  uint32_t x[4] = {(uint32_t)(index >> 2), (uint32_t)((uint64_t)index >> 34), step, 0};
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)(uint32_t)PHILOX_M0 * x[0], p1 = (uint64_t)(uint32_t)PHILOX_M1 * x[2];
    x[0] = (uint32_t)(p1 >> 32) ^ x[1] ^ seed;
    x[1] = (uint32_t)p1;
    x[2] = (uint32_t)(p0 >> 32) ^ x[3] ^ stream;
    x[3] = (uint32_t)p0;
    seed += (uint32_t)PHILOX_W0;
    stream += (uint32_t)PHILOX_W1;
  }
  return x[index & 3];
}

/* Uniform in [0, 1), a multiple of 2^-24. */
INLINE float random_uniform(uint32_t seed, uint32_t stream, uint32_t step, int64_t index) {
  return (float)(random_bits(seed, stream, step, index) >> 8) * 0x1p-24f;
}

typedef uint64_t vw __attribute__((vector_size(VL * 4))); /* half as many 64-bit words */

/* Full 64-bit products of the even lanes: low halves of a and b. */
INLINE vw vmul_even(vw a, vw b) {
#if defined(__AVX512F__)
  return (vw)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vw)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__) && VL == 4
  return (vw)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

/* Stores word w of the block in lane 4·q + p at out[4·(p·VL/4 + q) + w]: a transpose within 128-bit groups. */
INLINE void store_blocks(uint32_t *out, vu x0, vu x1, vu x2, vu x3) {
#if defined(__AVX512F__)
  __m512i low01 = _mm512_unpacklo_epi32((__m512i)x0, (__m512i)x1), high01 = _mm512_unpackhi_epi32((__m512i)x0, (__m512i)x1);
  __m512i low23 = _mm512_unpacklo_epi32((__m512i)x2, (__m512i)x3), high23 = _mm512_unpackhi_epi32((__m512i)x2, (__m512i)x3);
  _mm512_storeu_si512(out, _mm512_unpacklo_epi64(low01, low23));
  _mm512_storeu_si512(out + VL, _mm512_unpackhi_epi64(low01, low23));
  _mm512_storeu_si512(out + 2 * VL, _mm512_unpacklo_epi64(high01, high23));
  _mm512_storeu_si512(out + 3 * VL, _mm512_unpackhi_epi64(high01, high23));
#elif defined(__AVX2__)
  __m256i low01 = _mm256_unpacklo_epi32((__m256i)x0, (__m256i)x1), high01 = _mm256_unpackhi_epi32((__m256i)x0, (__m256i)x1);
  __m256i low23 = _mm256_unpacklo_epi32((__m256i)x2, (__m256i)x3), high23 = _mm256_unpackhi_epi32((__m256i)x2, (__m256i)x3);
  _mm256_storeu_si256((__m256i *)out, _mm256_unpacklo_epi64(low01, low23));
  _mm256_storeu_si256((__m256i *)(out + VL), _mm256_unpackhi_epi64(low01, low23));
  _mm256_storeu_si256((__m256i *)(out + 2 * VL), _mm256_unpacklo_epi64(high01, high23));
  _mm256_storeu_si256((__m256i *)(out + 3 * VL), _mm256_unpackhi_epi64(high01, high23));
#else
  for (int p = 0; p < 4; p++)
    for (int q = 0; q < VL / 4; q++) {
      uint32_t *block = out + 4 * (p * (VL / 4) + q);
      block[0] = x0[4 * q + p], block[1] = x1[4 * q + p], block[2] = x2[4 * q + p], block[3] = x3[4 * q + p];
    }
#endif
}

/* Words of VL consecutive blocks starting at block `first` (= index >> 2), in index order: out[4·VL]. */
INLINE void random_blocks(uint32_t seed, uint32_t stream, uint32_t step, uint64_t first, uint32_t *out) {
  const vw m0 = (vw){0} + (uint32_t)PHILOX_M0, m1 = (vw){0} + (uint32_t)PHILOX_M1, high = (vw){0} + 0xffffffff00000000u;
  vu block;
  for (int i = 0; i < VL; i++) block[i] = i % 4 * (VL / 4) + i / 4;
  vu x0 = block + (uint32_t)first, carry = (vu)(x0 < block);
  vu x1 = (uint32_t)(first >> 32) - carry, x2 = (vu){0} + step, x3 = {0}; /* a comparison gives -1 where true */
  for (int round = 0; round < 10; round++) {
    vw even0 = vmul_even((vw)x0, m0), odd0 = vmul_even((vw)x0 >> 32, m0), even1 = vmul_even((vw)x2, m1), odd1 = vmul_even((vw)x2 >> 32, m1);
    vu high0 = (vu)(even0 >> 32 | (odd0 & high)), low0 = (vu)((even0 & ~high) | odd0 << 32);
    vu high1 = (vu)(even1 >> 32 | (odd1 & high)), low1 = (vu)((even1 & ~high) | odd1 << 32);
    x0 = high1 ^ x1 ^ seed;
    x1 = low1;
    x2 = high0 ^ x3 ^ stream;
    x3 = low0;
    seed += (uint32_t)PHILOX_W0;
    stream += (uint32_t)PHILOX_W1;
  }
  store_blocks(out, x0, x1, x2, x3);
}

/* Random bits of n values from `index` on: buffer must hold n + 8·VL words; returns where value `index` is. */
INLINE const uint32_t *random_fill(uint32_t seed, uint32_t stream, uint32_t step, int64_t index, int64_t n, uint32_t *buffer) {
  int64_t skip = index & 3;
  for (int64_t done = 0; done < n + skip; done += 4 * VL) random_blocks(seed, stream, step, (uint64_t)(index + done) >> 2, buffer + done);
  return buffer + skip;
}
