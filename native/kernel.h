/** How a kernel is declared: its name carries the ISA level it was compiled for, and a linker section lists all of them. */
#pragma once
#include <stdint.h>

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)

/** Symbol of a kernel at the level of this translation unit: KERNEL(gemm) is gemm_v4 under -DISA=v4. */
#ifndef KERNEL
#define KERNEL(name) JOIN(name, ISA)
#endif

/** A kernel takes one struct whose every field is 8 bytes: pointer, int64_t or double. */
typedef void (*KernelFunction)(const void *args);

typedef struct KernelEntry {
  const char *name, *isa;
  KernelFunction run;
} KernelEntry;

/** Lists KERNEL(name) under its plain name; native.ts looks it up at start. */
#define EXPORT_KERNEL(name)                                                                                     \
  static const KernelEntry JOIN(entry, name) __attribute__((used, section("alpha_kernels"), aligned(8))) = {    \
      #name, TEXT(ISA), (KernelFunction)KERNEL(name)}

/**
 * Kernels run with subnormal numbers taken as 0 and flushed to 0: softmax tails and squared gradients are full of them, and each costs a
 * processor about a hundred times an ordinary operation (attention backward of a peaked GPT-2: 10 ms instead of 1). AMX does so always.
 * Returns the mode to put back: JavaScript, on the same thread, needs its own.
 */
static inline uint64_t float_mode_flush(void) {
  uint64_t old = 0;
#if defined(__x86_64__)
  uint32_t mode;
  __asm__ volatile("stmxcsr %0" : "=m"(mode));
  old = mode;
  mode |= 0x8040; // flush to zero, denormals are zero
  __asm__ volatile("ldmxcsr %0" : : "m"(mode));
#elif defined(__aarch64__)
  __asm__ volatile("mrs %0, fpcr" : "=r"(old));
  __asm__ volatile("msr fpcr, %0" : : "r"(old | 1ull << 24));
#endif
  return old;
}

static inline void float_mode_set(uint64_t old) {
#if defined(__x86_64__)
  uint32_t mode = (uint32_t)old;
  __asm__ volatile("ldmxcsr %0" : : "m"(mode));
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"(old));
#endif
}
