/** Attention backward: probabilities come again from the kept lse, block by block, so that no (T, T) matrix exists. */
#include "cpu-attention.h"

typedef struct AttentionBackward {
  const void *qkv, *y;
  const float *lse;
  const void *dy;
  const int32_t *seed, *step, *row;
  void *dqkv;
  int64_t batch, T, heads, key_heads, D, type;
  double scale, dropout;
  int64_t site, threshold;
} AttentionBackward;

enum { ROWS = 64, KEY_STRIP = 8, ENOUGH_TASKS = 8, SHORTEST_PART = 256 };

/* The work: tasks of one sequence b, key head h and part of the query positions. parts > 1: their dk, dv are f32 sums to be added. */
typedef struct Split {
  const AttentionBackward *a;
  int64_t parts, step, blocks; /* positions of a part, a multiple of KEYS; blocks of keys */
  float *partial;              /* (b, h, part, block): a block of dk, dv (2, KEYS, P) */
} Split;

/* One task. Row r is query head r % group of position first + r / group. */
typedef struct Task {
  const AttentionBackward *a;
  const AttentionDropout *drop;         /* or NULL */
  int64_t b, h, group, first, rows, D, P;
  float *q, *dy, *dq, *lse, *delta;     /* (rows, P): scale·q, dy, dq/scale · (rows): lse, Σ dy·y */
  float *kt, *vt, *k, *dk, *dv;         /* a block of keys: (D, KEYS) twice, (KEYS, P) thrice */
  float *p, *ds;                        /* (ROWS, KEYS): probabilities after dropout, gradient of the scores */
} Task;

INLINE int64_t width_of(const AttentionBackward *a) { return (a->heads + 2 * a->key_heads) * a->D; }
INLINE int64_t position(const Task *t, int64_t r) { return t->first + r / t->group; }
/* row of y (or, in units of its own, qkv) and head of row r */
INLINE int64_t row_of(const Task *t, int64_t r) { return t->b * t->a->T + position(t, r); }
INLINE int64_t head_of(const Task *t, int64_t r) { return t->h * t->group + r % t->group; }

INLINE float dot(const void *x, const void *y, int64_t at, int64_t D, int64_t type) {
  vf sum = {0};
  int64_t d = 0;
  for (; d + VL <= D; d += VL) sum += vload_type(x, at + d, type) * vload_type(y, at + d, type);
  if (d < D) sum += vload_type_part(x, at + d, D - d, type) * vload_type_part(y, at + d, D - d, type);
  return vsum(sum);
}

static void load_queries(const Task *t) {
  const AttentionBackward *a = t->a;
  for (int64_t r = 0; r < t->rows; r += ROWS) {
    int64_t n = MIN(ROWS, t->rows - r), at[ROWS];
    for (int64_t x = 0; x < n; x++) at[x] = row_of(t, r + x) * width_of(a) + head_of(t, r + x) * t->D;
    load_rows(t->q + r * t->P, a->qkv, at, n, t->D, a->scale, a->type);
    for (int64_t x = 0; x < n; x++) {
      at[x] = (row_of(t, r + x) * a->heads + head_of(t, r + x)) * t->D;
      t->delta[r + x] = a->type == F32 ? dot(a->y, a->dy, at[x], t->D, F32) : dot(a->y, a->dy, at[x], t->D, BF16);
      t->lse[r + x] = a->lse[row_of(t, r + x) * a->heads + head_of(t, r + x)];
    }
    load_rows(t->dy + r * t->P, a->dy, at, n, t->D, 1, a->type);
  }
}

/* p and ds of rows r … r + n - 1, which are rows s … of the tiles, against the keys from position j on that the last of them sees. */
static void probabilities(const Task *t, int64_t r, int64_t n, int64_t s, int64_t j, int64_t keys) {
  int64_t vectors = (keys + MAX(KEY_STRIP, VL) - 1) / MAX(KEY_STRIP, VL) * MAX(KEY_STRIP, VL) / VL; /* whole strips of keys, as `pair` reads them */
  float factor[KEYS];
  product(n, vectors, t->D, t->q + r * t->P, t->P, 1, t->kt, KEYS, t->p + s * KEYS, KEYS, 0);
  product(n, vectors, t->D, t->dy + r * t->P, t->P, 1, t->vt, KEYS, t->ds + s * KEYS, KEYS, 0);
  for (int64_t x = 0; x < n; x++) {
    int64_t seen = MIN(keys, position(t, r + x) + 1 - j);
    float *p = t->p + (s + x) * KEYS, *ds = t->ds + (s + x) * KEYS, lse = t->lse[r + x], delta = t->delta[r + x];
    if (t->drop) dropout_factors(t->drop, t->b, t->a->heads, head_of(t, r + x), position(t, r + x), j, vectors * VL, factor);
    for (int64_t v = 0; v < vectors; v++) {
      vf e = vexp_negative(vload(p + v * VL) - lse), dp = vload(ds + v * VL);
      if (seen < (v + 1) * VL) e = vfirst(e, seen - v * VL);
      if (t->drop) {
        vf f = vload(factor + v * VL);
        vstore(p + v * VL, e * f);
        dp *= f;
      } else vstore(p + v * VL, e);
      vf gradient = e * (dp - delta);
      vstore(ds + v * VL, seen < (v + 1) * VL ? vfirst(gradient, seen - v * VL) : gradient);
    }
  }
}

/* Rows r … r + n - 1 (n ≤ ROWS) against the `keys` keys from position j on: adds to dk, dv and dq. */
static void pair(const Task *t, int64_t r, int64_t n, int64_t j, int64_t keys) {
  for (int64_t s = 0; s < n; s += STRIP) {
    int64_t m = MIN(STRIP, n - s), seen = MIN(keys, position(t, r + s + m - 1) + 1 - j);
    probabilities(t, r + s, m, s, j, seen);
    product(m, t->P / VL, seen, t->ds + s * KEYS, KEYS, 1, t->k, t->P, t->dq + (r + s) * t->P, t->P, j > 0);
  }
  for (int64_t x = 0; x < keys; x += KEY_STRIP) {
    int64_t start = MAX(0, (j + x - t->first) * t->group - r), m = MIN(KEY_STRIP, keys - x); /* the first row that sees key x */
    if (start >= n) break;
    product(m, t->P / VL, n - start, t->p + start * KEYS + x, 1, KEYS, t->dy + (r + start) * t->P, t->P, t->dv + x * t->P, t->P, 1);
    product(m, t->P / VL, n - start, t->ds + start * KEYS + x, 1, KEYS, t->q + (r + start) * t->P, t->P, t->dk + x * t->P, t->P, 1);
  }
}

/* D elements to `to` + at, scaled */
INLINE void store_row(void *to, int64_t at, const float *from, int64_t D, float scale, int64_t type) {
  int64_t d = 0;
  for (; d + VL <= D; d += VL) vstore_type(to, at + d, scale * vload(from + d), type);
  if (d < D) vstore_type_part(to, at + d, scale * vload(from + d), D - d, type);
}

/* dk, dv of a block (2, KEYS, P) to the keys that start at at[i]. */
static void store_keys(const AttentionBackward *a, const int64_t *at, const float *block, int64_t keys) {
  int64_t P = padded(a->D);
  for (int64_t x = 0; x < keys; x++) {
    store_row(a->dqkv, at[x], block + x * P, a->D, 1, a->type);
    store_row(a->dqkv, at[x] + a->key_heads * a->D, block + (KEYS + x) * P, a->D, 1, a->type);
  }
}

static void backward_task(void *ctx, int64_t i) {
  const Split *split = ctx;
  const AttentionBackward *a = split->a;
  int64_t D = a->D, P = padded(D), part = split->parts - 1 - i % split->parts, owner = i / split->parts, first = part * split->step; /* late positions first */
  int64_t last = MIN(a->T, first + split->step), group = a->heads / a->key_heads, rows = (last - first) * group;
  AttentionDropout drop = {.seed = a->seed, .step = a->step, .row = a->row, .site = a->site, .threshold = a->threshold, .T = a->T, .scale = 1 / (1 - a->dropout)};
  Task t = {.a = a, .drop = a->dropout > 0 ? &drop : 0, .b = owner / a->key_heads, .h = owner % a->key_heads, .group = group, .first = first, .rows = rows, .D = D, .P = P};
  t.q = scratch(SCRATCH_TASK, (3 * rows * P + (2 * D + 3 * P + 2 * ROWS) * KEYS + 2 * rows) * 4);
  t.dy = t.q + rows * P;
  t.dq = t.dy + rows * P;
  t.kt = t.dq + rows * P;
  t.vt = t.kt + D * KEYS;
  t.k = t.vt + D * KEYS;
  t.dk = t.k + P * KEYS;
  t.dv = t.dk + P * KEYS;
  t.p = t.dv + P * KEYS;
  t.ds = t.p + ROWS * KEYS;
  t.lse = t.ds + ROWS * KEYS;
  t.delta = t.lse + rows;
  load_queries(&t);
  for (int64_t j = 0; j < last; j += KEYS) {
    int64_t keys = MIN(KEYS, last - j), at[KEYS];
    for (int64_t x = 0; x < keys; x++) at[x] = (t.b * a->T + j + x) * width_of(a) + (a->heads + a->key_heads + t.h) * D;
    load_transposed(t.vt, a->qkv, at, keys, D, a->type);
    for (int64_t x = 0; x < keys; x++) at[x] -= a->key_heads * D;
    load_transposed(t.kt, a->qkv, at, keys, D, a->type);
    load_rows(t.k, a->qkv, at, keys, D, 1, a->type);
    memset(t.dk, 0, 2 * P * KEYS * 4);
    for (int64_t r = MAX(0, j - first) * group; r < rows; r += ROWS) pair(&t, r, MIN(ROWS, rows - r), j, keys);
    if (split->parts > 1) memcpy(split->partial + ((owner * split->parts + part) * split->blocks + j / KEYS) * 2 * KEYS * P, t.dk, 2 * KEYS * P * 4);
    else store_keys(a, at, t.dk, keys);
  }
  for (int64_t r = 0; r < rows; r++) store_row(a->dqkv, row_of(&t, r) * width_of(a) + head_of(&t, r) * D, t.dq + r * P, D, a->scale, a->type);
}

/* dk, dv of block i: the parts' sums in order. */
static void sum_parts(void *ctx, int64_t i) {
  const Split *split = ctx;
  const AttentionBackward *a = split->a;
  int64_t owner = i / split->blocks, j = i % split->blocks * KEYS, keys = MIN(KEYS, a->T - j), size = 2 * KEYS * padded(a->D), at[KEYS];
  float *sum = scratch(SCRATCH_TASK, size * 4);
  memset(sum, 0, size * 4);
  for (int64_t part = j / split->step; part < split->parts; part++) {
    const float *from = split->partial + ((owner * split->parts + part) * split->blocks + j / KEYS) * size;
    for (int64_t e = 0; e < size; e += VL) vstore(sum + e, vload(sum + e) + vload(from + e));
  }
  for (int64_t x = 0; x < keys; x++) at[x] = (owner / a->key_heads * a->T + j + x) * width_of(a) + (a->heads + owner % a->key_heads) * a->D;
  store_keys(a, at, sum, keys);
}

/** dqkv (B·T, (H + 2·Hkv)·D) of attention, from qkv, its outputs y, lse and dy (B·T, H·D). */
void KERNEL(attention_backward)(const AttentionBackward *a) {
  int64_t owners = a->batch * a->key_heads, wanted = MIN((ENOUGH_TASKS + owners - 1) / owners, MAX(1, a->T / SHORTEST_PART)); /* by sizes only */
  Split split = {.a = a, .blocks = (a->T + KEYS - 1) / KEYS};
  split.step = (split.blocks + wanted - 1) / wanted * KEYS;
  split.parts = (a->T + split.step - 1) / split.step;
  if (split.parts > 1) split.partial = scratch(SCRATCH_SHARED, owners * split.parts * split.blocks * 2 * KEYS * padded(a->D) * 4);
  parallel(owners * split.parts, backward_task, &split);
  if (split.parts > 1) parallel(owners * split.blocks, sum_parts, &split);
}
EXPORT_KERNEL(attention_backward);
