/** The kernels of Hopper's attention that the pack holds. */
import { ptxAttention } from "./ptx-attention.ts"
import { ptxAttentionKeys } from "./ptx-attention-keys.ts"
import { ptxAttentionQueries } from "./ptx-attention-queries.ts"
import type { AttentionTile } from "./ptx-attention-tile.ts"

/** Warpgroups that share what one lane brings: as many as have registers enough. */
const GROUPS = {
  forward: { 64: { plain: 3, dropout: 2 }, 128: { plain: 2, dropout: 2 } },
  queries: { 64: { plain: 3, dropout: 3 }, 128: { plain: 2, dropout: 2 } },
  keys: { 64: { plain: 2, dropout: 2 }, 128: { plain: 2, dropout: 2 } },
} as const

/** One of each for a head size, without or with dropout. */
function kernelsOf(D: AttentionTile["D"], drops: boolean, isWide: boolean) {
  const tile = (pass: keyof typeof GROUPS): AttentionTile => ({ D, groups: GROUPS[pass][D][drops ? "dropout" : "plain"], drops, isWide })
  return { forward: ptxAttention(tile("forward")), queries: ptxAttentionQueries(tile("queries")), keys: ptxAttentionKeys(tile("keys")) }
}
const made = (isWide: boolean) => ({
  64: { plain: kernelsOf(64, false, isWide), dropout: kernelsOf(64, true, isWide) },
  128: { plain: kernelsOf(128, false, isWide), dropout: kernelsOf(128, true, isWide) },
})

export type PtxAttentionKernels = ReturnType<typeof kernelsOf>

/** By a block's shared memory and head size. */
export const ptxAttentions = { narrow: made(false), wide: made(true) } as const

export const ptxAttentionKernels = Object.values(ptxAttentions).flatMap((sizes) =>
  Object.values(sizes).flatMap((all) => Object.values(all).flatMap((kernels) => Object.values(kernels))),
)
