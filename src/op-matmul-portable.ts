/** Matrix products by the portable kernels: which one, on what grid, with what epilogue. */
import { matmuls } from "../shaders/matmul.ts"
import { matmulCombine } from "../shaders/matmul-combine.ts"
import { FEW_LANES, FEW_ROWS, FEW_SIDE, matmulFew } from "../shaders/matmul-few.ts"
import { CHUNK } from "../shaders/matmul-order.ts"
import { activationIndex } from "./op-activation.ts"
import { dtypeOf, type GpuTarget, groupsFor, type Launches, launch, scratch } from "./op-gpu.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** Rows up to which a product with a weight reads the weight by itself instead of sharing tiles. */
const FEW = 16
/** Workgroups along x. */
const MOST_GROUPS = 65535
/** Sums are split so that a device's processors have about so many workgroups each, into parts of at least so many k. */
const GROUPS_PER_UNIT = 2
const SHORTEST_SPLIT = 256

/** Rows beginning at multiples of so many elements can be read in packs. */
const PACK = 8
const isWhole = (...sizes: number[]): boolean => sizes.every((size) => size % PACK === 0)
const up = (size: number, to: number): number => Math.ceil(size / to) * to

export type Sized = Gemm & { readonly lda: number; readonly ldb: number; readonly ldc: number }

/** With every row's length. */
export function sized(given: Gemm): Sized {
  const { layout, M, N, K } = given
  return { ...given, lda: given.lda ?? (layout === "tn" ? M : K), ldb: given.ldb ?? (layout === "nt" ? K : N), ldc: given.ldc ?? N }
}

export function portableGemm(given: Gemm, target: GpuTarget): Launches {
  const { layout, M, N, K } = given
  const g = sized(given)
  if (layout === "nt" && M <= FEW && N <= FEW_SIDE * MOST_GROUPS) return [few(g, target)]
  const splitK = g.order === "any" ? splitOf(g, target) : K
  if (splitK >= K) return [tiles(g, epilogueOf(g), K, target)]
  const [splits, ld] = [Math.ceil(K / splitK), up(N, 4)]
  const parts = scratch("f32", splits * M * ld)
  const bare = { layout, a: g.a, b: g.b, c: parts, M, N, K, lda: g.lda, ldb: g.ldb, ldc: ld, order: "any" } as const
  const { values, constants } = epilogueOf(g)
  return [
    tiles({ ...bare, isPadded: g.isPadded === true }, epilogueOf(bare), splitK, target),
    launch(matmulCombine, { parts, ...values, M, N, S: splits, ld }, groupsFor(M * ld, 4, target), constants),
  ]
}

/** The part of a launch that all kernels with the epilogue share. */
export function epilogueOf({ c, bias, slope, activation, factor, addend, beta, scale, ldc }: Sized) {
  const buffers = { bias, kept: factor ?? slope, addend: beta === undefined ? undefined : (addend ?? c), c }
  const constants = {
    isScaled: scale === undefined ? 0 : 1,
    hasBias: bias === undefined ? 0 : 1,
    keepsSlope: slope === undefined ? 0 : 1,
    activation: activationIndex(activation ?? "none"),
    multiplies: factor === undefined ? 0 : 1,
    adds: beta === undefined ? 0 : 1,
  }
  return { values: { ...buffers, ldc, scale: scale ?? 1, beta: beta ?? 0 }, constants }
}

/** k per part of a sum: all of them where the tiles fill the device. */
function splitOf({ M, N, K }: Sized, target: GpuTarget): number {
  const wanted = Math.floor((target.units * GROUPS_PER_UNIT) / (Math.ceil(M / 64) * Math.ceil(N / 64)))
  const splits = Math.min(wanted, Math.floor(K / SHORTEST_SPLIT))
  return splits < 2 ? K : up(Math.ceil(K / splits), CHUNK)
}

/** By tiles in shared memory. */
function tiles(g: Sized, { values, constants }: ReturnType<typeof epilogueOf>, splitK: number, target: GpuTarget) {
  const { layout, a, b, M, N, K, lda, ldb, ldc, isPadded } = g
  const kernels = matmuls[layout]
  const isPacked =
    isWhole(lda, ldb) && ldc % 4 === 0 && (isPadded === true || isWhole(layout === "tn" ? M : K)) && isWhole(layout === "nt" ? K : N)
  const isLarge = isPacked && Math.min(M, N) >= 256 && Math.ceil(M / 128) * Math.ceil(N / 128) * Math.ceil(K / splitK) >= target.units
  const hasLarge = kernels.large.variants.some(({ chosen }) => chosen.act === dtypeOf(a) && chosen.out === dtypeOf(g.c))
  const tile = isLarge && hasLarge ? 128 : 64
  const kernel = tile === 128 ? kernels.large : isPacked ? kernels.small : kernels.any
  const grid = [Math.ceil(N / tile), Math.ceil(M / tile), Math.ceil(K / splitK)] as const
  return launch(kernel, { a, b, ...values, M, N, K, lda, ldb, splitK }, grid, constants)
}

/** By reading b once for few rows of a. */
function few(g: Sized, target: GpuTarget) {
  const { a, b, M, N, K, lda, ldb } = g
  const { values, constants } = epilogueOf(g)
  const rows = FEW_ROWS.find((size) => size >= M) ?? 8
  const { packed, any } = matmulFew.find((of) => of.rows === rows) as (typeof matmulFew)[number]
  const span = Math.min(Math.ceil(K / CHUNK), FEW_LANES)
  const most = Math.min(Math.floor(FEW_LANES / span), FEW_LANES / (FEW_SIDE * rows))
  const wanted = Math.ceil(N / FEW_SIDE / (target.units * GROUPS_PER_UNIT)) // a narrow matrix is spread over all processors
  const teams = Math.max(1, Math.min(most, wanted))
  const kernel = K % CHUNK === 0 && isWhole(lda, ldb) ? packed : any
  const grid = [Math.ceil(N / (FEW_SIDE * teams)), Math.ceil(M / rows)] as const
  return launch(kernel, { a, b, ...values, M, N, K, lda, ldb, span, teams }, grid, constants)
}
