/** The thread pool of the CPU kernels and each thread's scratch memory. */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "cpu.h"
#include "kernel.h"

/* One job at a time. Tasks are handed out by a counter, so which thread runs a task varies; what a task writes must not.
   `turn` packs the job number (high half) with the tasks left (low half): a worker late for job j can take no task of job j+1,
   and none of job j either, since none was left when it ended. */
enum { MAX_THREADS = 256, SPIN = 2000 }; /* SPIN pauses ≈ 20-80 µs: longer than the gap between the kernels of a step */

static struct {
  _Alignas(64) _Atomic uint64_t turn;
  _Alignas(64) _Atomic uint32_t job;     /* futex: workers wait for it to change */
  _Atomic uint32_t sleeping;             /* workers inside futex wait */
  _Alignas(64) _Atomic uint32_t done;    /* tasks finished; futex: the caller waits for it to reach n */
  _Atomic uint32_t waiting;              /* the caller is in (or about to enter) futex wait */
  _Alignas(64) void (*fn)(void *ctx, int64_t i);
  void *ctx;
  uint32_t n;
  _Atomic int64_t threads;               /* including the caller */
  int64_t started;                       /* workers that exist; those with a number ≥ threads - 1 stay asleep */
} pool = {.threads = 1};

static _Thread_local int in_task;
static pthread_mutex_t one_job = PTHREAD_MUTEX_INITIALIZER;

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0); }
static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

/* Takes tasks of job number `job` until none is left. */
static void work(uint32_t job) {
  in_task = 1;
  for (;;) {
    uint64_t turn = atomic_load(&pool.turn);
    uint32_t left = (uint32_t)turn;
    if (turn >> 32 != job || left == 0) break;
    if (!atomic_compare_exchange_weak(&pool.turn, &turn, turn - 1)) continue;
    uint32_t n = pool.n;
    pool.fn(pool.ctx, n - left);
    if (atomic_fetch_add(&pool.done, 1) + 1 == n && atomic_load(&pool.waiting)) futex_wake(&pool.done);
  }
  in_task = 0;
}

static void *worker(void *arg) {
  int64_t number = (intptr_t)arg;
  uint32_t seen = 0;
  float_mode_flush();
  for (;;) {
    uint32_t job;
    for (int spin = 0; (job = atomic_load(&pool.job)) == seen && spin < SPIN; spin++) relax();
    if (job == seen) {
      atomic_fetch_add(&pool.sleeping, 1);
      while ((job = atomic_load(&pool.job)) == seen) futex_wait(&pool.job, seen);
      atomic_fetch_sub(&pool.sleeping, 1);
    }
    seen = job;
    if (number < pool.threads - 1) work(job);
  }
  return NULL;
}

int64_t pool_start(int64_t threads) {
  pthread_mutex_lock(&one_job);
  threads = MAX(1, MIN(threads, MAX_THREADS));
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  while (pool.started < threads - 1) {
    pthread_t t;
    if (pthread_create(&t, &attr, worker, (void *)(intptr_t)pool.started)) break;
    pool.started++;
  }
  pthread_attr_destroy(&attr);
  pool.threads = MIN(threads, pool.started + 1);
  int64_t running = pool.threads;
  pthread_mutex_unlock(&one_job);
  return running;
}

int64_t pool_threads(void) { return pool.threads; }

void parallel(int64_t n, void (*fn)(void *ctx, int64_t i), void *ctx) {
  if (in_task || n <= 1 || pool.threads == 1) {
    for (int64_t i = 0; i < n; i++) fn(ctx, i);
    return;
  }
  pthread_mutex_lock(&one_job);
  uint32_t job = atomic_load(&pool.job) + 1;
  pool.fn = fn;
  pool.ctx = ctx;
  pool.n = (uint32_t)n;
  atomic_store(&pool.done, 0);
  atomic_store(&pool.turn, (uint64_t)job << 32 | (uint32_t)n);
  atomic_store(&pool.job, job);
  if (atomic_load(&pool.sleeping)) futex_wake(&pool.job);
  work(job);
  for (int spin = 0; spin < SPIN && atomic_load(&pool.done) < n; spin++) relax();
  if (atomic_load(&pool.done) < n) {
    atomic_store(&pool.waiting, 1);
    for (uint32_t done; (done = atomic_load(&pool.done)) < n;) futex_wait(&pool.done, done);
    atomic_store(&pool.waiting, 0);
  }
  pthread_mutex_unlock(&one_job);
}

/* Not freed: threads live as long as the process. */
void *scratch(int slot, size_t bytes) {
  static _Thread_local struct { void *memory; size_t bytes; } slots[SCRATCH_SLOTS];
  if (slots[slot].bytes < bytes) {
    free(slots[slot].memory);
    bytes = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    if (posix_memalign(&slots[slot].memory, 64, bytes)) {
      fprintf(stderr, "cpu: no memory for %zu bytes of kernel scratch\n", bytes);
      abort();
    }
    slots[slot].bytes = bytes;
  }
  return slots[slot].memory;
}
