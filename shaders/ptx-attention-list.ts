/** The kernels of Hopper's attention that the pack holds. */
import { ptxAttention } from "./ptx-attention.ts"
import { ptxAttentionKeys } from "./ptx-attention-keys.ts"
import { ptxAttentionQueries } from "./ptx-attention-queries.ts"
import type { AttentionTile } from "./ptx-attention-tile.ts"

/** Warpgroups that share what one lane brings: as many as have registers enough. */
export const ATTENTION_GROUPS = {
  forward: { 64: 3, 128: 2 },
  queries: { 64: 3, 128: 2 },
  keys: { 64: 2, 128: 2 },
} as const

/** One of each for a head size, without and with dropout. */
function kernelsOf(D: AttentionTile["D"], drops: boolean) {
  const tile = (pass: keyof typeof ATTENTION_GROUPS): AttentionTile => ({ D, groups: ATTENTION_GROUPS[pass][D], drops })
  return { forward: ptxAttention(tile("forward")), queries: ptxAttentionQueries(tile("queries")), keys: ptxAttentionKeys(tile("keys")) }
}

export const ptxAttentions = {
  64: { plain: kernelsOf(64, false), dropout: kernelsOf(64, true) },
  128: { plain: kernelsOf(128, false), dropout: kernelsOf(128, true) },
} as const

export const ptxAttentionKernels = Object.values(ptxAttentions).flatMap(({ plain, dropout }) => [
  ...Object.values(plain),
  ...Object.values(dropout),
])
