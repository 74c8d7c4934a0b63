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
