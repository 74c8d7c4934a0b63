/** Launches of Muon: momentum and update of all matrices at once, the products of equal steps side by side. */
import { MUON_ROW, muonApply, muonMomentum, muonStart } from "../shaders/muon.ts"
import { CHUNK } from "../shaders/tensor-list.ts"
import { groupsForRows, launch, part, scratch, sideBySide, table } from "./op-gpu.ts"
import { gemm } from "./op-matmul-gpu.ts"
import type { GpuTarget, Launches, Memory, Scratch } from "./program.ts"
import type { Tensor } from "./tensor.ts"

/** Elements of the matrices that are orthogonalised side by side: bounds the scratch memory. */
const MOST_ELEMENTS = 2 ** 24
/** Elements to which matrices in scratch memory are aligned: 16 bytes of bf16. */
const ALIGN = 8
const aligned = (n: number): number => Math.ceil(n / ALIGN) * ALIGN

interface Operands {
  readonly params: readonly Tensor[]
  readonly grads: readonly Tensor[]
  readonly m: readonly Tensor[]
  readonly copies: readonly Tensor[]
  readonly lr: Tensor
  readonly control: Tensor
}
interface Numbers {
  readonly momentum: number
  readonly decay: readonly number[]
  /** Which of `copies` belongs to a parameter. */
  readonly copyOf: readonly (number | undefined)[]
  /** Rows of each block of a parameter. */
  readonly blocks: readonly (readonly number[])[]
  /** Newton–Schulz: steps and the factors of x, x³, x⁵. */
  readonly steps: number
  readonly coefficients: readonly [number, number, number]
}

interface Block {
  readonly tensor: number
  readonly offset: number
  readonly rows: number
  readonly columns: number
}

/** Scratch of the products: two places for x, one for the Gram matrices and one for their mixtures. */
interface Places {
  readonly x: readonly [Scratch, Scratch]
  readonly gram: Scratch
  readonly mix: Scratch
}

export function muonLaunches(operands: Operands, numbers: Numbers, target: GpuTarget): Launches {
  const { params, grads, m, copies } = operands
  const addresses = table(
    "u64",
    params.flatMap((p, i) => {
      const copy = numbers.copyOf[i]
      const row = [p, grads[i], m[i], copy === undefined ? undefined : copies[copy]]
      if (row.length !== MUON_ROW) throw new TypeError(`muon: ${row.length} addresses in a row`)
      return row
    }),
  )
  const groups = grouped(blocksOf(params, numbers.blocks))
  const most = (size: (block: Block) => number) => Math.max(...groups.map((group) => group.reduce((sum, b) => sum + aligned(size(b)), 0)))
  // matrix instructions take bf16, which is what Muon's authors use; only where the model's products are bf16 too
  const type = target.matrix !== "none" && copies.length > 0 ? "bf16" : "f32"
  const [elements, squares] = [most(({ rows, columns }) => rows * columns), most(({ rows, columns }) => Math.min(rows, columns) ** 2)]
  const places = {
    x: [scratch(type, elements), scratch(type, elements)],
    gram: scratch(type, squares),
    mix: scratch(type, squares),
  } as const
  return groups.flatMap((group) => groupLaunches(group, addresses, operands, numbers, places, target))
}

/** The matrices that are orthogonalised by themselves. */
function blocksOf(params: readonly Tensor[], rows: Numbers["blocks"]): Block[] {
  return params.flatMap((p, tensor) => {
    const columns = p.shape[1] as number
    let offset = 0
    return (rows[tensor] ?? []).map((count) => {
      const block = { tensor, offset, rows: count, columns }
      offset += count * columns
      return block
    })
  })
}

/** Blocks in their order, so many together as MOST_ELEMENTS allows. */
function grouped(blocks: readonly Block[]): Block[][] {
  const groups: Block[][] = []
  let room = 0
  for (const block of blocks) {
    const size = aligned(block.rows * block.columns)
    if (size > room) {
      groups.push([])
      room = Math.max(MOST_ELEMENTS, size)
    }
    groups.at(-1)?.push(block)
    room -= size
  }
  return groups
}

function groupLaunches(
  group: readonly Block[],
  addresses: Memory,
  { lr, control }: Operands,
  { momentum, decay, steps, coefficients }: Numbers,
  places: Places,
  target: GpuTarget,
): Launches {
  const sizes = group.map(({ rows, columns }) => rows * columns)
  const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, size) => sum + aligned(size), 0))
  const chunks = sizes.flatMap((size, block) => Array.from({ length: Math.ceil(size / CHUNK) }, (_, j) => [block, j * CHUNK]))
  const firsts = [...group.keys(), group.length].map((block) => chunks.filter(([owner]) => (owner as number) < block).length)
  const rows = group.flatMap(({ tensor, offset }, i) => [tensor, offset, starts[i] as number, firsts[i] as number])
  const lists = {
    addresses,
    blocks: table("u32", [...rows, 0, 0, 0, chunks.length]),
    sizes: table("u32", sizes),
    chunks: table("u32", chunks.flat()),
    control,
    n: chunks.length,
  }
  const constants = { packed: group.every(({ offset }) => offset % ALIGN === 0) ? 1 : 0 }
  const [sums, grid] = [scratch("f32", chunks.length), groupsForRows(chunks.length)]
  const rates = { beta: momentum, rest: 1 - momentum }
  const products = group.map((block, i) =>
    orthogonalise(block, starts[i] as number, squareStart(group, i), places, steps, coefficients, target),
  )
  return [
    launch(muonMomentum, { ...lists, sums, ...rates }, grid, constants),
    launch(muonStart, { ...lists, sums, x: places.x[0], ...rates }, grid, constants),
    ...sideBySide(...products),
    launch(
      muonApply,
      {
        ...lists,
        decays: table(
          "f32",
          group.map(({ tensor }) => decay[tensor] ?? 0),
        ),
        factors: table(
          "f32",
          group.map(({ rows, columns }) => 0.2 * Math.sqrt(Math.max(rows, columns))),
        ),
        x: places.x[steps % 2] as Scratch,
        lr,
      },
      grid,
      constants,
    ),
  ]
}

/** First element of block i's Gram matrix. */
const squareStart = (group: readonly Block[], i: number): number =>
  group.slice(0, i).reduce((sum, { rows, columns }) => sum + aligned(Math.min(rows, columns) ** 2), 0)

/** x ← a·x + (b·G + c·G²)·x, G = x·xᵀ of the shorter side, so many times; from one place for x to the other. */
function orthogonalise(
  { rows, columns }: Block,
  start: number,
  square: number,
  { x, gram, mix }: Places,
  steps: number,
  [a, b, c]: Numbers["coefficients"],
  target: GpuTarget,
): Launches {
  const isTall = rows > columns
  const [r, long] = isTall ? [columns, rows] : [rows, columns]
  const [G, mixed] = [part(gram, square), part(mix, square)]
  const order = "any"
  return Array.from({ length: steps }, (_, step) => {
    const [from, to] = [part(x[step % 2] as Scratch, start), part(x[(step + 1) % 2] as Scratch, start)]
    return [
      ...gemm({ layout: isTall ? "tn" : "nt", a: from, b: from, c: G, M: r, N: r, K: long, order }, target),
      ...gemm({ layout: "nn", a: G, b: G, c: mixed, M: r, N: r, K: r, scale: c, beta: b, addend: G, order }, target),
      ...(isTall
        ? gemm({ layout: "nn", a: from, b: mixed, c: to, M: rows, N: columns, K: r, beta: a, addend: from, order }, target)
        : gemm({ layout: "nn", a: mixed, b: from, c: to, M: rows, N: columns, K: r, beta: a, addend: from, order }, target)),
    ]
  }).flat()
}
