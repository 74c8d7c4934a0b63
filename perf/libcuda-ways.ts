/** The products that perf/libcuda.ts measures, the tiles and rings beside the one in use, and what a launch of them is given. */
import { ptxGemm } from "../shaders/ptx-gemm.ts"
import { PTX_TILE } from "../shaders/ptx-gemm-list.ts"
import type { PtxTile } from "../shaders/ptx-gemm-tile.ts"
import { ptxLaunchesOf } from "../src/op-matmul-ptx.ts"
import type { GpuTarget, Launch, Scratch, Table } from "../src/program.ts"
import { cellBytes, type PtxKernel, tensorMapWords } from "../src/ptx.ts"
import { SHAPES } from "./gemm-shapes.ts"
import { type DeepTile, deepBlocks, deepGemm, deepMaps, ROOM } from "./libcuda-gemm.ts"

export type Size = readonly [M: number, N: number, K: number]
/** The bar's, but for the one of 50,304 along k, which no step asks for. */
export const SIZES: readonly Size[] = SHAPES.bar.filter(({ K }) => K !== 50304).map(({ M, N, K }) => [M, N, K])
/** Rings of the generator in use: a step is 4 units of a and 3 chunks of b; 6 steps, and 9 of a with 10 of b. */
export const RINGS: readonly PtxTile[] = [
  { ...PTX_TILE, room: ROOM, ringA: 6, ringB: 9 },
  { ...PTX_TILE, room: ROOM, ringA: 12, ringB: 30 },
]
export const DEEP: readonly DeepTile[] = [
  { units: 1, chunks: 4, stages: 4, cluster: 1, isLate: false },
  { units: 2, chunks: 3, stages: 4, cluster: 1, isLate: false },
  { units: 1, chunks: 4, stages: 4, cluster: 1, isLate: true },
  { units: 2, chunks: 2, stages: 4, cluster: 1, isLate: true },
  { units: 1, chunks: 4, stages: 4, cluster: 2, isLate: true },
  { units: 2, chunks: 2, stages: 4, cluster: 2, isLate: true },
  { units: 2, chunks: 3, stages: 4, cluster: 2, isLate: false },
]
/** Tiles along M that lie side by side; more where they are flat. */
const groupOf = ({ units }: DeepTile): number => (units === 1 ? 16 : 8)

/** Addresses of x, w and y. */
export type Places = readonly [x: bigint, w: bigint, y: bigint]
export interface CudaWay {
  readonly kernel: PtxKernel
  readonly blocks: number
  readonly cluster: number
  /** The entry's parameters; `place` gives words of tensor maps an address. */
  readonly cells: (places: Places, place: (words: readonly bigint[]) => bigint) => Uint8Array<ArrayBuffer>
}

/** What a product has no use for is at 0. */
const cellsOf = ({ cells }: PtxKernel, values: Readonly<Record<string, number | bigint>>): Uint8Array<ArrayBuffer> =>
  cellBytes(cells, { ...Object.fromEntries(cells.map(({ name }) => [name, 0])), ...values })

/** The generator in use, with any ring. */
export function ringWay([M, N, K]: Size, tile: PtxTile, target: GpuTarget): CudaWay {
  const stand = (elements: number): Scratch => ({ kind: "scratch", dtype: "bf16", elements })
  const [a, b, c] = [stand(M * K), stand(N * K), stand(M * N)]
  const request = { layout: "nt", M, N, K, lda: K, ldb: K, ldc: N, a, b, c, order: "forward" } as const
  const way = { tile, splits: 1, rest: 0, span: 1, group: 8 }
  const launch = ptxLaunchesOf(request, way, target, { kernelFor: (wanted) => ptxGemm({ ...wanted, tile }) })[0] as Launch
  const kernel = launch.kernel as PtxKernel
  return {
    kernel,
    blocks: launch.groups[0],
    cluster: 1,
    cells: ([x, w, y], place) => {
      const words = (launch.buffers.maps as Table).values.map((value) =>
        value === a ? x : value === b ? w : BigInt((value as bigint) ?? 0),
      )
      return cellsOf(kernel, { ...launch.push, maps: place(words), c: y })
    },
  }
}

/** Undefined where the tile does not go with the size. */
export function deepWay(size: Size, tile: DeepTile, units: number): CudaWay | undefined {
  const [M, N, K] = size
  const group = groupOf(tile)
  const blocks = deepBlocks(tile, size, units, group)
  if (blocks === undefined) return undefined
  const kernel = deepGemm(tile)
  const [left, right] = deepMaps(tile, size)
  const cells: CudaWay["cells"] = ([x, w, y], place) => {
    const maps = place([x, ...tensorMapWords(left), w, ...tensorMapWords(right)])
    return cellsOf(kernel, { maps, c: y, M, N, steps: K / 64, ldc: N, group })
  }
  return { kernel, blocks, cluster: tile.cluster, cells }
}
