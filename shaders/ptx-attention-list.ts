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
function kernelsOf(D: AttentionTile["D"], drops: boolean) {
  const tile = (pass: keyof typeof GROUPS): AttentionTile => ({ D, groups: GROUPS[pass][D][drops ? "dropout" : "plain"], drops })
  return { forward: ptxAttention(tile("forward")), queries: ptxAttentionQueries(tile("queries")), keys: ptxAttentionKeys(tile("keys")) }
}

type Kernels = ReturnType<typeof kernelsOf>

/** By head size. */
export const ptxAttentions: Readonly<Record<AttentionTile["D"], { readonly plain: Kernels; readonly dropout: Kernels }>> = {
  64: { plain: kernelsOf(64, false), dropout: kernelsOf(64, true) },
  128: { plain: kernelsOf(128, false), dropout: kernelsOf(128, true) },
}

export const ptxAttentionKernels = Object.values(ptxAttentions).flatMap((all) =>
  Object.values(all).flatMap((kernels) => Object.values(kernels)),
)
