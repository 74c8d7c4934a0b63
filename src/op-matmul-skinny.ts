/** Matrix products of few rows by matrix instructions. */
import { matmulSkinny, SKINNY_ROWS, SKINNY_TILES } from "../shaders/matmul-skinny.ts"
import { dtypeOf, type GpuTarget, type Launches, launch } from "./op-gpu.ts"
import { epilogueOf, sized } from "./op-matmul-portable.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** Workgroups along x. */
const MOST_GROUPS = 65535

/** Whether a product is one of few rows. */
export const isSkinny = ({ M }: Gemm): boolean => M <= SKINNY_ROWS

/** Undefined where these kernels do not do it, which does not depend on M. More rows than few are done by reading b again. */
export function skinnyGemm(given: Gemm, { matrix, subgroupSize, sharedBytes, units }: GpuTarget): Launches | undefined {
  const g = sized(given)
  const { layout, a, b, M, N, K, lda, ldb, ldc, order } = g
  if (order !== "forward" || layout !== "nt" || dtypeOf(a) !== "bf16" || dtypeOf(b) !== "bf16") return undefined
  if (matrix === "none" || subgroupSize !== 32 || sharedBytes < 48 * 1024) return undefined
  if ([K, lda, ldb].some((size) => size % 8 !== 0) || Math.ceil(N / 16) > MOST_GROUPS) return undefined
  const place = SKINNY_TILES.findIndex(({ narrow }) => narrow.rows >= M || narrow.rows === SKINNY_ROWS)
  const kind = Math.ceil(N / 64) >= 0.75 * units ? "wide" : "narrow"
  const { rows, columns } = (SKINNY_TILES[place] as (typeof SKINNY_TILES)[number])[kind]
  const { values, constants } = epilogueOf(g)
  const kernel = (matmulSkinny[place] as (typeof matmulSkinny)[number])[kind]
  const sizes = { M, N, K, LDA: lda, LDB: ldb, NARROW: N % 4 === 0 && ldc % 4 === 0 ? 0 : 1 }
  return [launch(kernel, { a, b, ...values }, [Math.ceil(N / columns), Math.ceil(M / rows)], { ...constants, ...sizes })]
}
