/** Matrix product C = epilogue(A · B + bias) + beta·C: cuts it into tasks, packs panels, lets an engine multiply them. */
#include "cpu-gemm.h"

/* The smaller operand is packed once, by all threads, for everyone (shared); of the larger one each task packs what it alone needs (own). */
enum { GROUP_WIDTH = 1024, GROUP_BYTES = 8 << 20 }; /* bounds of what is packed as shared at a time */
enum { TASK_WIDTH = 256, CHUNK = 8 };                /* of the own operand; panels of B */

/* One group: panels from `index` on of the shared operand, over depth [k, k + depth) of the sum. */
typedef struct Job {
  const Gemm *g;
  Engine e;
  int shared_a;                   /* the shared operand is A */
  Side shared, own;
  int64_t index, k, depth;
  int64_t shared_panels, own_panels; /* of the group */
  int64_t task_shared, task_own;  /* panels per task */
  int64_t tasks_shared, tasks_own;
  char *packed;                   /* the shared operand [panel][depth] */
  int64_t panel_bytes;            /* of one whole panel of it */
  float *tiles;                   /* unfinished C of the group [task][tile], or NULL if this depth is all of k */
} Job;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Asks for the lines of C that a tile of a weight's gradient will be stored to, while it is computed: they have not been used for a whole
   step. */
static void fetch_tile(const Gemm *g, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  int64_t size = type_bytes(g->c_type);
  for (int64_t r = row; r < row + rows; r++)
    for (int64_t x = 0; x < cols * size; x += 64) __builtin_prefetch((char *)g->c + (r * g->ldc + col) * size + x, 0, 2);
}

static void pack_task(void *ctx, int64_t i) {
  const Job *j = ctx;
  int64_t panel = i % j->shared_panels, k = i / j->shared_panels * j->e.k_block, depth = MIN(j->e.k_block, j->depth - k);
  j->shared.pack(j->g, j->index + panel * j->shared.width, j->k + k, depth, 1, 0, j->packed + panel * j->panel_bytes + k * j->shared.bytes);
}

static void multiply_task(void *ctx, int64_t i) {
  const Job *j = ctx;
  const Gemm *g = j->g;
  const Engine *e = &j->e;
  int64_t s0 = i % j->tasks_shared * j->task_shared, s1 = MIN(s0 + j->task_shared, j->shared_panels);
  int64_t o0 = i / j->tasks_shared * j->task_own, o1 = MIN(o0 + j->task_own, j->own_panels);
  int64_t a0 = j->shared_a ? s0 : o0, a1 = j->shared_a ? s1 : o1, b0 = j->shared_a ? o0 : s0, b1 = j->shared_a ? o1 : s1;
  int64_t tile = e->a.width * e->b.width, one_pass = !j->tiles && j->depth <= e->k_block;
  int64_t tiles = one_pass ? 1 : j->task_shared * j->task_own;
  int64_t own_bytes = ceil_div(MIN(e->k_block, j->depth), e->k_step) * e->k_step * j->own.bytes;
  char *own = scratch(SCRATCH_GEMM_B, (size_t)(j->task_own * own_bytes));
  float *c = j->tiles ? j->tiles + i * tiles * tile : scratch(SCRATCH_GEMM_C, (size_t)(tiles * tile) * sizeof(float));
  if (e->begin) e->begin(g);
  for (int64_t k = 0; k == 0 || k < j->depth; k += e->k_block) {
    int64_t depth = MIN(e->k_block, j->depth - k), padded = ceil_div(depth, e->k_step) * e->k_step;
    int first = j->k + k == 0, last = j->k + k + depth >= g->k;
    j->own.pack(g, o0 * j->own.width, j->k + k, depth, o1 - o0, own_bytes, own);
    /* Along rows of C, so far that what is used of B stays in the second-level cache. */
    for (int64_t b = b0; b < b1; b += CHUNK)
      for (int64_t pa = a0; pa < a1; pa++)
        for (int64_t pb = b; pb < MIN(b + CHUNK, b1); pb++) {
          int64_t s = j->shared_a ? pa : pb, o = j->shared_a ? pb : pa;
          int64_t row = pa * e->a.width + (j->shared_a ? j->index : 0), col = pb * e->b.width + (j->shared_a ? 0 : j->index);
          int64_t rows = MIN(e->a.width, g->m - row), cols = MIN(e->b.width, g->n - col);
          const char *shared_panel = j->packed + s * j->panel_bytes + k * j->shared.bytes;
          const char *own_panel = own + (o - o0) * own_bytes;
          float *sum = one_pass ? c : c + ((s - s0) * j->task_own + o - o0) * tile;
          if (last && g->a_trans) fetch_tile(g, row, rows, col, cols);
          e->multiply(j->shared_a ? shared_panel : own_panel, j->shared_a ? own_panel : shared_panel, padded, rows, first, last, sum);
          if (last) e->store(g, row, rows, col, cols, sum, e->b.width);
        }
  }
  if (e->end) e->end();
}

/* Tasks as wide as they can be, yet four for every thread; where the own operand is too narrow for two, the shared one is cut as well,
   although its tasks then pack the same. No sum is cut, so the bits do not depend on this. */
static void choose_tasks(Job *j, int64_t threads) {
  int64_t tasks = MAX(threads == 1 ? 1 : 4 * threads, ceil_div(j->own_panels, MAX(1, TASK_WIDTH / j->own.width)));
  j->task_own = ceil_div(j->own_panels, MIN(j->own_panels, tasks));
  j->tasks_own = ceil_div(j->own_panels, j->task_own);
  int64_t cuts = threads == 1 ? 1 : ceil_div(2 * threads, j->tasks_own);
  j->task_shared = ceil_div(j->shared_panels, MIN(j->shared_panels, cuts));
  j->tasks_shared = ceil_div(j->shared_panels, j->task_shared);
}

static Engine choose_engine(const Gemm *g) {
#if defined(__AVX512F__)
  if (KERNEL(amx_ready)()) return KERNEL(engine_amx)(g);
  if ((g->a_type == BF16 || g->b_type == BF16) && KERNEL(dot_ready)()) return KERNEL(engine_dot)();
#endif
  return KERNEL(engine_fma)(g);
}

void KERNEL(gemm)(const Gemm *g) {
  if (g->m <= 0 || g->n <= 0) return;
#if defined(__AVX512F__)
  if (g->m <= AMX_FEW_ROWS && !g->a_trans && g->b_trans && KERNEL(amx_ready)()) {
    KERNEL(amx_few_rows)(g);
    return;
  }
#endif
  Job j = {.g = g, .e = choose_engine(g), .shared_a = g->m <= g->n};
  j.shared = j.shared_a ? j.e.a : j.e.b;
  j.own = j.shared_a ? j.e.b : j.e.a;
  int64_t shared_width = j.shared_a ? g->m : g->n;
  j.own_panels = ceil_div(j.shared_a ? g->n : g->m, j.own.width);
  int64_t group = ceil_div(MIN(shared_width, GROUP_WIDTH), j.shared.width) * j.shared.width;
  int64_t deepest = MAX(1, GROUP_BYTES / (group / j.shared.width * j.shared.bytes) / j.e.k_block) * j.e.k_block;
  for (j.index = 0; j.index < shared_width; j.index += group) {
    j.shared_panels = ceil_div(MIN(group, shared_width - j.index), j.shared.width);
    choose_tasks(&j, pool_threads());
    int64_t tasks = j.tasks_shared * j.tasks_own, tiles = tasks * j.task_shared * j.task_own;
    j.tiles = g->k > deepest ? scratch(SCRATCH_GEMM_D, (size_t)(tiles * j.e.a.width * j.e.b.width) * sizeof(float)) : NULL;
    for (j.k = 0; j.k == 0 || j.k < g->k; j.k += deepest) {
      j.depth = MIN(deepest, g->k - j.k);
      j.panel_bytes = ceil_div(j.depth, j.e.k_step) * j.e.k_step * j.shared.bytes;
      j.packed = scratch(SCRATCH_GEMM_A, (size_t)(j.shared_panels * j.panel_bytes));
      parallel(j.shared_panels * ceil_div(j.depth, j.e.k_block), pack_task, &j);
      parallel(tasks, multiply_task, &j);
    }
  }
}
