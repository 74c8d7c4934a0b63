/** Matrix product C = epilogue(A · B + bias) + beta·C: cuts it into tasks, packs panels, lets an engine multiply them. */
#include "cpu-gemm.h"

/* A is packed once, by all threads, for everyone; each task packs the columns of B it needs. What bounds the packed A: */
enum { GROUP_ROWS = 1024, GROUP_BYTES = 32 << 20 };
/* A task's share of C, before it is halved to give the threads enough tasks. */
enum { TASK_ROWS = 256, TASK_COLS = 128, ENOUGH_TASKS = 16 };

/* One group: rows [row, row + rows) of C, over depth [k, k + depth) of the sum. */
typedef struct Job {
  const Gemm *g;
  Engine e;
  int64_t row, rows, k, depth;
  int64_t row_panels, col_panels;   /* of the group */
  int64_t task_rows, task_cols;     /* in panels */
  int64_t tasks_down, tasks_across;
  char *packed_a;                   /* [panel][depth] */
  int64_t panel_a;                  /* bytes of one whole packed panel of A */
  float *tiles;                     /* unfinished C of the group [task][tile], or NULL if this depth is all of k */
} Job;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void store_row(const Gemm *g, int64_t row, int64_t col, int64_t n, const float *sum) {
  int64_t at = row * g->ldc + col;
  for (int64_t j = 0; j < n; j += VL) {
    int64_t w = MIN(VL, n - j);
    vf z = vload(sum + j);
    if (g->bias) z += w == VL ? vload(g->bias + col + j) : vload_part(g->bias + col + j, w);
    if (g->pre) w == VL ? vstore_type(g->pre, at + j, z, g->c_type) : vstore_type_part(g->pre, at + j, z, w, g->c_type);
    if (g->dact_pre) z *= vdact(w == VL ? vload_type(g->dact_pre, at + j, g->c_type) : vload_type_part(g->dact_pre, at + j, w, g->c_type), g->activation);
    else if (g->activation != ACT_NONE) z = vact(z, g->activation);
    if (g->beta != 0) z += (float)g->beta * (w == VL ? vload_type(g->c, at + j, g->c_type) : vload_type_part(g->c, at + j, w, g->c_type));
    w == VL ? vstore_type(g->c, at + j, z, g->c_type) : vstore_type_part(g->c, at + j, z, w, g->c_type);
  }
}

static void pack_task(void *ctx, int64_t i) {
  const Job *j = ctx;
  int64_t panel = i % j->row_panels, k = i / j->row_panels * j->e.k_block, depth = MIN(j->e.k_block, j->depth - k);
  j->e.pack_a(j->g, j->row + panel * j->e.rows, j->k + k, depth, j->packed_a + panel * j->panel_a + k * j->e.a_bytes);
}

static void multiply_task(void *ctx, int64_t i) {
  const Job *j = ctx;
  const Gemm *g = j->g;
  const Engine *e = &j->e;
  int64_t down = i % j->tasks_down, across = i / j->tasks_down, tile = e->rows * e->cols;
  int64_t p0 = down * j->task_rows, p1 = MIN(p0 + j->task_rows, j->row_panels);
  int64_t q0 = across * j->task_cols, q1 = MIN(q0 + j->task_cols, j->col_panels);
  int64_t one_pass = !j->tiles && j->depth <= e->k_block, tiles = one_pass ? 1 : j->task_rows * j->task_cols;
  int64_t panel_b = ceil_div(MIN(e->k_block, j->depth), e->k_step) * e->k_step * e->b_bytes;
  char *packed_b = scratch(SCRATCH_GEMM_B, (size_t)(j->task_cols * panel_b));
  float *c = j->tiles ? j->tiles + i * tiles * tile : scratch(SCRATCH_GEMM_C, (size_t)(tiles * tile) * sizeof(float));
  if (e->begin) e->begin(g);
  for (int64_t k = 0; k == 0 || k < j->depth; k += e->k_block) {
    int64_t depth = MIN(e->k_block, j->depth - k), padded = ceil_div(depth, e->k_step) * e->k_step;
    int first = j->k + k == 0, last = j->k + k + depth >= g->k;
    for (int64_t q = q0; q < q1; q++) e->pack_b(g, q * e->cols, j->k + k, depth, packed_b + (q - q0) * panel_b);
    for (int64_t p = p0; p < p1; p++) {
      int64_t row = j->row + p * e->rows, valid = MIN(e->rows, j->row + j->rows - row);
      for (int64_t q = q0; q < q1; q++) {
        float *sum = one_pass ? c : c + ((p - p0) * j->task_cols + q - q0) * tile;
        e->multiply(j->packed_a + p * j->panel_a + k * e->a_bytes, packed_b + (q - q0) * panel_b, padded, valid, first, last, sum);
        if (!last) continue;
        int64_t col = q * e->cols, n = MIN(e->cols, g->n - col);
        for (int64_t r = 0; r < valid; r++) store_row(g, row + r, col, n, sum + r * e->cols);
      }
    }
  }
  if (e->end) e->end();
}

/* The cut depends on sizes alone, so that no sum depends on the number of threads. */
static void choose_tasks(Job *j) {
  j->task_rows = MAX(1, MIN(TASK_ROWS / j->e.rows, j->row_panels));
  j->task_cols = MAX(1, MIN(TASK_COLS / j->e.cols, j->col_panels));
  for (;;) {
    j->tasks_down = ceil_div(j->row_panels, j->task_rows);
    j->tasks_across = ceil_div(j->col_panels, j->task_cols);
    if (j->tasks_down * j->tasks_across >= ENOUGH_TASKS || (j->task_rows == 1 && j->task_cols == 1)) return;
    if (j->task_cols * j->e.cols * 4 > j->task_rows * j->e.rows && j->task_cols > 1) j->task_cols = ceil_div(j->task_cols, 2);
    else if (j->task_rows > 1) j->task_rows = ceil_div(j->task_rows, 2);
    else j->task_cols = ceil_div(j->task_cols, 2);
  }
}

static void alone(int64_t n, void (*fn)(void *ctx, int64_t i), void *ctx) {
  for (int64_t i = 0; i < n; i++) fn(ctx, i);
}

static Engine choose_engine(const Gemm *g) {
#if defined(__AVX512F__)
  if (KERNEL(amx_ready)()) return KERNEL(engine_amx)(g);
#endif
  return KERNEL(engine_fma)(g);
}

static void run(const Gemm *g, void (*run_tasks)(int64_t n, void (*fn)(void *ctx, int64_t i), void *ctx)) {
  if (g->m <= 0 || g->n <= 0) return;
  Job j = {.g = g, .e = choose_engine(g)};
  int64_t group = ceil_div(MIN(g->m, GROUP_ROWS), j.e.rows) * j.e.rows;
  int64_t deepest = MAX(1, GROUP_BYTES / (group / j.e.rows * j.e.a_bytes) / j.e.k_block) * j.e.k_block;
  j.col_panels = ceil_div(g->n, j.e.cols);
  for (j.row = 0; j.row < g->m; j.row += j.rows) {
    j.rows = MIN(group, g->m - j.row);
    j.row_panels = ceil_div(j.rows, j.e.rows);
    choose_tasks(&j);
    int64_t tasks = j.tasks_down * j.tasks_across;
    j.tiles = NULL;
    if (g->k > deepest) j.tiles = scratch(SCRATCH_GEMM_D, (size_t)(tasks * j.task_rows * j.task_cols * j.e.rows * j.e.cols) * sizeof(float));
    for (j.k = 0; j.k == 0 || j.k < g->k; j.k += deepest) {
      j.depth = MIN(deepest, g->k - j.k);
      j.panel_a = ceil_div(j.depth, j.e.k_step) * j.e.k_step * j.e.a_bytes;
      j.packed_a = scratch(SCRATCH_GEMM_A, (size_t)(j.row_panels * j.panel_a) + 64); /* 64: a packer may write a vector past the end */
      run_tasks(j.row_panels * ceil_div(j.depth, j.e.k_block), pack_task, &j);
      run_tasks(tasks, multiply_task, &j);
    }
  }
}

void KERNEL(gemm)(const Gemm *g) { run(g, parallel); }
void KERNEL(gemm_task)(const Gemm *g) { run(g, alone); }
