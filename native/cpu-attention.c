/** Attention forward in the manner of flash attention: whole sequences in training, chunks on a paged cache in inference, by the same routine. */
#include "cpu-attention.h"

/* Some consecutive positions of one sequence, for the `group` query heads that share a key head. Row r is query head r % group of position first + r / group. */
typedef struct Attend {
  int64_t D, group, first, count, type;
  float scale;
  const void *q;
  int64_t q_at, q_stride; /* elements: where position first, head 0 of the group starts; from one position to the next */
  const void *k, *v;
  int64_t key_at, key_stride;
  const int32_t *pages; /* page of each page_size positions, or NULL: k and v lie in one piece */
  int64_t page_size, page_stride;
  void *y;
  int64_t y_at, y_stride;
  float *lse; /* [position · lse_stride + head], or NULL */
  int64_t lse_stride;
  const AttentionDropout *drop; /* or NULL */
  int64_t sample, head, heads;
} Attend;

/* Memory of one task: rows · padded(D) queries and outputs, one block of keys and values, one strip of scores. */
typedef struct Work {
  float *q, *o, *max, *sum, *kt, *v, *score;
} Work;

INLINE int64_t position(const Attend *a, int64_t r) { return a->first + r / a->group; }

/* Rows r … r + n - 1 against the block of keys that starts at position j: o = o·α + P·V, by a running maximum and sum (lanes apart). */
static void attend_strip(const Attend *a, const Work *w, int64_t r, int64_t n, int64_t j) {
  const int64_t P = padded(a->D), keys = MIN(KEYS, position(a, r + n - 1) + 1 - j), vectors = (keys + VL - 1) / VL;
  float next[STRIP], alpha[MAX(STRIP, VL)];
  product(n, vectors, a->D, w->q + r * P, P, 1, w->kt, KEYS, w->score, KEYS, 0);
  for (int64_t x = 0; x < n; x++) {
    int64_t seen = MIN(keys, position(a, r + x) + 1 - j), whole = seen / VL;
    const float *s = w->score + x * KEYS;
    vf top = vset(-INFINITY);
    for (int64_t v = 0; v < whole; v++) top = vmax(vload(s + v * VL), top);
    if (seen % VL) top = vmax(vfirst_or(vload(s + whole * VL), seen % VL, -INFINITY), top);
    float m = vmaximum(top);
    next[x] = j > 0 && w->max[r + x] > m ? w->max[r + x] : m;
    alpha[x] = j > 0 ? w->max[r + x] - next[x] : 0;
    w->max[r + x] = next[x];
  }
  for (int64_t x = n; x < MAX(STRIP, VL); x++) alpha[x] = 0;
  if (j > 0) for (int64_t x = 0; x < n; x += VL) vstore(alpha + x, vexp_negative(vload(alpha + x)));
  for (int64_t x = 0; x < n; x++) {
    int64_t seen = MIN(keys, position(a, r + x) + 1 - j), whole = seen / VL, v = 0;
    float *s = w->score + x * KEYS, *sum = w->sum + (r + x) * VL;
    vf total = j > 0 ? alpha[x] * vload(sum) : vset(0);
    for (; v < whole; v++) {
      vf e = vexp_negative(vload(s + v * VL) - next[x]);
      vstore(s + v * VL, e);
      total += e;
    }
    if (seen % VL) {
      vf e = vfirst(vexp_negative(vload(s + v * VL) - next[x]), seen % VL);
      vstore(s + v++ * VL, e);
      total += e;
    }
    for (; v < vectors; v++) vstore(s + v * VL, vset(0));
    vstore(sum, total);
    if (a->drop) {
      float factor[KEYS];
      dropout_factors(a->drop, a->sample, a->heads, a->head + (r + x) % a->group, position(a, r + x), j, vectors * VL, factor);
      for (v = 0; v < vectors; v++) vstore(s + v * VL, vload(s + v * VL) * vload(factor + v * VL));
    }
    if (j > 0 && alpha[x] != 1)
      for (int64_t d = 0; d < P; d += VL) vstore(w->o + (r + x) * P + d, alpha[x] * vload(w->o + (r + x) * P + d));
  }
  product(n, P / VL, keys, w->score, KEYS, 1, w->v, P, w->o + r * P, P, j > 0);
}

/* y = softmax(scale · q · kᵀ) · v for every row, each over the keys up to its own position. */
static void attend(const Attend *a) {
  const int64_t D = a->D, P = padded(D), rows = a->count * a->group, end = a->first + a->count;
  Work w;
  w.q = scratch(SCRATCH_TASK, (2 * rows * P + rows * (VL + 1) + KEYS * (P + D + STRIP) + VL) * 4);
  w.o = w.q + rows * P;
  w.v = w.o + rows * P;
  w.kt = w.v + KEYS * P;
  w.score = w.kt + KEYS * D;
  w.sum = w.score + KEYS * STRIP;
  w.max = w.sum + rows * VL;
  int64_t at[KEYS];
  for (int64_t r = 0; r < rows; r += KEYS) {
    int64_t n = MIN(KEYS, rows - r);
    for (int64_t x = 0; x < n; x++) at[x] = a->q_at + (r + x) / a->group * a->q_stride + (r + x) % a->group * D;
    load_rows(w.q + r * P, a->q, at, n, D, a->scale, a->type);
  }
  for (int64_t j = 0; j < end; j += KEYS) {
    int64_t n = MIN(KEYS, end - j);
    int64_t page = a->pages ? j / a->page_size : 0, row = a->pages ? j % a->page_size : j;
    for (int64_t x = 0; x < n; x++, row++) {
      if (a->pages && row == a->page_size) {
        page++;
        row = 0;
      }
      at[x] = a->key_at + (a->pages ? a->pages[page] * a->page_stride : 0) + row * a->key_stride;
    }
    load_transposed(w.kt, a->k, at, n, D, a->type);
    load_rows(w.v, a->v, at, n, D, 1, a->type);
    for (int64_t r = MAX(0, j - a->first) * a->group; r < rows; r += STRIP) attend_strip(a, &w, r, MIN(STRIP, rows - r), j);
  }
  for (int64_t r = 0; r < rows; r++) {
    float sum = vsum(vload(w.sum + r * VL)), inverse = 1 / sum;
    int64_t y = a->y_at + r / a->group * a->y_stride + r % a->group * D, d = 0;
    for (; d + VL <= D; d += VL) vstore_type(a->y, y + d, inverse * vload(w.o + r * P + d), a->type);
    if (d < D) vstore_type_part(a->y, y + d, inverse * vload(w.o + r * P + d), D - d, a->type);
    if (a->lse) a->lse[r / a->group * a->lse_stride + r % a->group] = w.max[r] + logf(sum);
  }
}

/* Positions per task: about 256 rows. */
INLINE int64_t task_positions(int64_t group) { return MAX(16, 256 / group); }

typedef struct Attention {
  const void *qkv;
  const int32_t *seed, *step, *row;
  void *y;
  float *lse;
  int64_t batch, T, heads, key_heads, D, type;
  double scale, dropout;
  int64_t site, threshold;
} Attention;

/* Task i: the chunks of late positions, which cost most, come first. */
static void attention_task(void *ctx, int64_t i) {
  const Attention *a = ctx;
  int64_t group = a->heads / a->key_heads, step = task_positions(group), chunks = (a->T + step - 1) / step, width = (a->heads + 2 * a->key_heads) * a->D;
  int64_t first = (chunks - 1 - i / (a->batch * a->key_heads)) * step, b = i / a->key_heads % a->batch, h = i % a->key_heads;
  AttentionDropout drop = {.seed = a->seed, .step = a->step, .row = a->row, .site = a->site, .threshold = a->threshold, .T = a->T, .scale = 1 / (1 - a->dropout)};
  Attend x = {.D = a->D, .group = group, .first = first, .count = MIN(step, a->T - first), .type = a->type, .scale = a->scale,
              .q = a->qkv, .q_at = (b * a->T + first) * width + h * group * a->D, .q_stride = width,
              .k = a->qkv, .v = (const char *)a->qkv + a->key_heads * a->D * type_bytes(a->type),
              .key_at = b * a->T * width + (a->heads + h) * a->D, .key_stride = width,
              .y = a->y, .y_at = (b * a->T + first) * a->heads * a->D + h * group * a->D, .y_stride = a->heads * a->D,
              .lse = a->lse ? a->lse + (b * a->T + first) * a->heads + h * group : 0, .lse_stride = a->heads,
              .drop = a->dropout > 0 ? &drop : 0, .sample = b, .head = h * group, .heads = a->heads};
  attend(&x);
}

/** y (B·T, H·D) = causal attention of qkv (B·T, (H + 2·Hkv)·D); lse (B·T, H) = ln Σ e^score. */
void KERNEL(attention)(const Attention *a) {
  int64_t step = task_positions(a->heads / a->key_heads);
  parallel(a->batch * a->key_heads * ((a->T + step - 1) / step), attention_task, (void *)a);
}
EXPORT_KERNEL(attention);

typedef struct AttentionCached {
  const void *qkv;
  void *k_pages, *v_pages;
  const int32_t *pages, *lengths, *counts;
  void *y;
  int64_t batch, T, heads, key_heads, D, type, page_size, max_pages;
  double scale;
} AttentionCached;

/* Copies keys and values of sequence b into its pages (key_heads, page_size, D); zeroes y of the rows beyond its count. */
static void append_task(void *ctx, int64_t b) {
  const AttentionCached *a = ctx;
  int64_t size = type_bytes(a->type), head = a->D * size, width = (a->heads + 2 * a->key_heads) * head;
  for (int64_t i = 0; i < a->counts[b]; i++) {
    int64_t position = a->lengths[b] + i, page = a->pages[b * a->max_pages + position / a->page_size];
    for (int64_t h = 0; h < a->key_heads; h++) {
      int64_t to = ((page * a->key_heads + h) * a->page_size + position % a->page_size) * head;
      const char *from = (const char *)a->qkv + (b * a->T + i) * width + (a->heads + h) * head;
      memcpy((char *)a->k_pages + to, from, head);
      memcpy((char *)a->v_pages + to, from + a->key_heads * head, head);
    }
  }
  if (!a->y) return;
  int64_t row = a->heads * a->D * size;
  memset((char *)a->y + (b * a->T + a->counts[b]) * row, 0, (a->T - a->counts[b]) * row);
}

static void cached_task(void *ctx, int64_t i) {
  const AttentionCached *a = ctx;
  int64_t group = a->heads / a->key_heads, step = task_positions(group), width = (a->heads + 2 * a->key_heads) * a->D;
  int64_t from = i / (a->batch * a->key_heads) * step, b = i / a->key_heads % a->batch, h = i % a->key_heads;
  if (from >= a->counts[b]) return;
  Attend x = {.D = a->D, .group = group, .first = a->lengths[b] + from, .count = MIN(step, a->counts[b] - from), .type = a->type, .scale = a->scale,
              .q = a->qkv, .q_at = (b * a->T + from) * width + h * group * a->D, .q_stride = width,
              .k = a->k_pages, .v = a->v_pages, .key_at = h * a->page_size * a->D, .key_stride = a->D,
              .pages = a->pages + b * a->max_pages, .page_size = a->page_size, .page_stride = a->key_heads * a->page_size * a->D,
              .y = a->y, .y_at = (b * a->T + from) * a->heads * a->D + h * group * a->D, .y_stride = a->heads * a->D};
  attend(&x);
}

/** Appends the chunk's keys and values to the pages, then y (B·Tc, H·D) = attention of its queries over everything cached. */
void KERNEL(attention_cached)(const AttentionCached *a) {
  int64_t step = task_positions(a->heads / a->key_heads);
  parallel(a->batch, append_task, (void *)a);
  if (!a->y) return; /* the last layer of a chunk that only fills the cache */
  parallel(a->batch * a->key_heads * ((a->T + step - 1) / step), cached_task, (void *)a);
}
EXPORT_KERNEL(attention_cached);
