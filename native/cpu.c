/** Runs a list of kernel calls and lends memory: all that TypeScript needs to know of the CPU. */
#define _GNU_SOURCE
#include "kernel.h"
#include <string.h>
#include <sys/mman.h>
#include <time.h>

extern const KernelEntry __start_alpha_kernels[], __stop_alpha_kernels[];

typedef struct Command {
  KernelFunction run;
  const void *args;
} Command;

/** Best level of this processor: "v4" (AVX-512), "v3" (AVX2 + FMA) or "base". */
const char *cpu_isa(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  return v4 ? "v4" : v3 ? "v3" : "base";
#else
  return "base";
#endif
}

int amx_ready_v4(void) __attribute__((weak)); // cpu-amx.c, compiled for x86-64 only

/** Whether the matrix products of level v4 run on AMX tiles on this processor. */
int64_t cpu_amx(void) { return amx_ready_v4 && amx_ready_v4(); }

/** The kernel of this name at this level; a file compiled once registers under "any". NULL if there is none. */
void *kernel_find(const char *name, const char *isa) {
  for (const KernelEntry *e = __start_alpha_kernels; e < __stop_alpha_kernels; e++)
    if (!strcmp(e->name, name) && (!strcmp(e->isa, isa) || !strcmp(e->isa, "any"))) return (void *)e->run;
  return 0;
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/** Runs commands [from, to) in order; stops early once `budget` nanoseconds have passed. Returns the index after the last one run. */
int64_t commands_run(const Command *commands, int64_t from, int64_t to, int64_t budget) {
  int64_t end = now() + budget;
  uint64_t mode = float_mode_flush();
  while (from < to) {
    commands[from].run(commands[from].args);
    from++;
    if (now() >= end) break;
  }
  float_mode_set(mode);
  return from;
}

/** Zeroed memory, page-aligned, on huge pages where the system grants them. NULL when there is none. */
void *memory_alloc(int64_t bytes) {
  void *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return 0;
  madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

void memory_free(void *p, int64_t bytes) { munmap(p, bytes); }
