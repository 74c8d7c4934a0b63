/** Token and position embeddings: rows gathered forward, gradients of equal rows added in a fixed order backward. */
#include "cpu-flat.h"
#include "kernel.h"

enum { SCRATCH_SORTED = SCRATCH_FREE, SCRATCH_SPARE, SCRATCH_KEYS };

typedef struct Embedding {
  const int32_t *tokens, *positions; /* positions NULL: row mod T */
  const void *wte;
  const float *wpe; /* or NULL */
  float *y;
  int64_t rows, columns, T, wte_type;
} Embedding;

INLINE void embedding_rows(Embedding s, int64_t from, int64_t to, int64_t wte_type) {
  const int64_t C = s.columns;
  for (int64_t row = from; row < to; row++) {
    const int64_t token = s.tokens[row] * C, position = (s.positions ? s.positions[row] : row % s.T) * C;
    float *y = s.y + row * C;
    if (s.wpe) EACH_VECTOR(0, C, vput(y, i, vget(s.wte, token + i, n, wte_type) + vget(s.wpe, position + i, n, F32), n, F32));
    else EACH_VECTOR(0, C, vput(y, i, vget(s.wte, token + i, n, wte_type), n, F32));
  }
}

static void embedding_task(void *ctx, int64_t task) {
  const Embedding s = *(const Embedding *)ctx;
  const int64_t each = task_items(s.columns), from = task * each, to = MIN(from + each, s.rows);
  if (s.wte_type == F32) embedding_rows(s, from, to, F32);
  else embedding_rows(s, from, to, BF16);
}

/** y (rows, columns) = wte[tokens[row]] + wpe[position of row]; indices are in range. */
void KERNEL(embedding)(const Embedding *a) { parallel(task_count(a->rows, task_items(a->columns)), embedding_task, (void *)a); }
EXPORT_KERNEL(embedding);

/* A table's gradient: dw[key] += the rows of dy with that key. `sorted` holds key << 32 | row in rising order. */
typedef struct Scatter {
  const float *dy;
  float *dw;
  const uint64_t *sorted;
  int64_t rows, columns, entries;
  float beta;
} Scatter;

enum { BLOCK_COLUMNS = 128, GROUP_ROWS = TASK_ELEMENTS / BLOCK_COLUMNS };

static void scale_task(void *ctx, int64_t task) {
  const Scatter s = *(const Scatter *)ctx;
  const int64_t from = task * TASK_ELEMENTS, to = MIN(from + TASK_ELEMENTS, s.entries * s.columns);
  if (s.beta == 0) memset(s.dw + from, 0, (to - from) * sizeof(float));
  else EACH_VECTOR(from, to, vput(s.dw, i, vget(s.dw, i, n, F32) * s.beta, n, F32));
}

/* The keys whose first row is in one group of the sorted rows, one block of columns: each key is one task's, its rows in order. */
static void scatter_task(void *ctx, int64_t task) {
  const Scatter s = *(const Scatter *)ctx;
  const int64_t C = s.columns, blocks = task_count(C, BLOCK_COLUMNS);
  const int64_t first = task / blocks * GROUP_ROWS, last = MIN(first + GROUP_ROWS, s.rows);
  const int64_t from = task % blocks * BLOCK_COLUMNS, to = MIN(from + BLOCK_COLUMNS, C);
  for (int64_t start = first; start < last; start++) {
    const uint64_t key = s.sorted[start] >> 32;
    if (start > 0 && s.sorted[start - 1] >> 32 == key) continue;
    int64_t end = start + 1;
    while (end < s.rows && s.sorted[end] >> 32 == key) end++;
    float *dw = s.dw + (int64_t)key * C;
    EACH_VECTOR(from, to, ({
      vf sum_ = vget(s.dy + (int64_t)(uint32_t)s.sorted[start] * C, i, n, F32);
      for (int64_t r = start + 1; r < end; r++) sum_ += vget(s.dy + (int64_t)(uint32_t)s.sorted[r] * C, i, n, F32);
      vput(dw, i, vget(dw, i, n, F32) + sum_, n, F32);
    }));
  }
}

/* Rows in the order of (key, row): a radix sort, eight bits at a time. Keys are below `entries`. */
static const uint64_t *sort_rows(const int32_t *keys, int64_t rows, int64_t entries) {
  uint64_t *sorted = scratch(SCRATCH_SORTED, rows * sizeof(uint64_t)), *spare = scratch(SCRATCH_SPARE, rows * sizeof(uint64_t));
  for (int64_t r = 0; r < rows; r++) sorted[r] = (uint64_t)keys[r] << 32 | (uint64_t)r;
  for (int shift = 32; (entries - 1) >> (shift - 32); shift += 8) {
    int64_t place[257] = {0};
    for (int64_t r = 0; r < rows; r++) place[(sorted[r] >> shift & 255) + 1]++;
    for (int b = 0; b < 256; b++) place[b + 1] += place[b];
    for (int64_t r = 0; r < rows; r++) spare[place[sorted[r] >> shift & 255]++] = sorted[r];
    uint64_t *swap = sorted;
    sorted = spare;
    spare = swap;
  }
  return sorted;
}

/* dw (entries, columns) = beta·dw, then dw[keys[row]] += dy[row] for every row. */
static void scatter(const int32_t *keys, const float *dy, float *dw, const float *beta, int64_t rows, int64_t columns, int64_t entries) {
  Scatter s = {.dy = dy, .dw = dw, .rows = rows, .columns = columns, .entries = entries, .beta = beta ? *beta : 0};
  if (s.beta != 1) parallel(task_count(entries * columns, TASK_ELEMENTS), scale_task, &s);
  s.sorted = sort_rows(keys, rows, entries);
  parallel(task_count(rows, GROUP_ROWS) * task_count(columns, BLOCK_COLUMNS), scatter_task, &s);
}

typedef struct EmbeddingBackward {
  const int32_t *tokens, *positions;
  const float *dy;
  float *dwte, *dwpe;
  const float *beta_wte, *beta_wpe;
  int64_t rows, columns, T, vocab_size, wpe_rows;
} EmbeddingBackward;

/** dwte[t] = Σ rows of dy whose token is t, dwpe[p] = Σ rows at position p, + beta·the old; added in the order of the rows. */
void KERNEL(embedding_backward)(const EmbeddingBackward *a) {
  if (a->dwte) scatter(a->tokens, a->dy, a->dwte, a->beta_wte, a->rows, a->columns, a->vocab_size);
  if (!a->dwpe) return;
  const int32_t *keys = a->positions;
  if (!keys) {
    int32_t *made = scratch(SCRATCH_KEYS, a->rows * sizeof(int32_t));
    for (int64_t r = 0; r < a->rows; r++) made[r] = (int32_t)(r % a->T);
    keys = made;
  }
  scatter(keys, a->dy, a->dwpe, a->beta_wpe, a->rows, a->columns, a->wpe_rows);
}
EXPORT_KERNEL(embedding_backward);
