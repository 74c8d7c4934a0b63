/** What the two halves of the AMX engine share: the layout of packed tiles. */
#pragma once
#include "cpu-gemm.h"

/* A step is 32 deep. A tile of A holds 16 rows of 16 pairs (of k), a tile of B 16 pairs of 16 columns, 1 KiB each; one is the other transposed as
   16 × 16 words of a pair. An f32 operand is split into PARTS = 3 bf16 (high, middle, low: 24 bits, nothing lost), a bf16 one has 1 part.
   A wide panel (32 rows or columns) is [step][part][2 tiles]; a narrow panel of m ≤ 16 rows (as columns of B tiles) is [step][part][16 pairs][m]. */
enum { STEP = 32, TILE_BYTES = 1024, WIDE = 32, NARROW_COLS = 64 };

INLINE int64_t amx_parts(const Gemm *g) { return g->a_type == F32 && g->b_type == F32 ? 3 : 1; }

/* Packers: `across` names a target laid out with pairs down and indexes across (B tiles), else A tiles. */
typedef struct Source {
  const void *data;
  int64_t ld, type, limit; /* limit: number of indexes (rows of A or columns of B) */
  int along;               /* stored (index, k), else (k, index) */
} Source;
INLINE Source source_a(const Gemm *g) { return (Source){g->a, g->lda, g->a_type, g->m, !g->a_trans}; }
INLINE Source source_b(const Gemm *g) { return (Source){g->b, g->ldb, g->b_type, g->n, !!g->b_trans}; }

/* Packs `tiles` tiles (16 indexes each) from `index` on, over [k, min(k + depth, total)); depth is rounded up to whole steps with zeros. */
void KERNEL(amx_pack)(Source s, int64_t parts, int across, int64_t tiles, int64_t index, int64_t k, int64_t depth, void *out);
/* Packs m ≤ 16 indexes of a source stored (index, k) as a narrow panel. */
void KERNEL(amx_pack_narrow)(Source s, int64_t parts, int64_t k, int64_t depth, void *out);
