/** Muon around its matrix products: momentum, the matrix that is orthogonalised, the update. */
import {
  type Body,
  bf16,
  choice,
  constant,
  f32,
  kernel,
  type ReadBuffer,
  read,
  readWrite,
  type U32,
  u32,
  u64,
  vec2,
  vec4,
  write,
} from "../src/spirv.ts"
import { CONTROL } from "./step-control.ts"
import { eachChunk, loadPack, type PackSize, storePack } from "./tensor-list.ts"

/** Addresses in a row of the table: p, g, m, copy. */
export const MUON_ROW = 4

/**
 * The tables. addresses (tensors, 4). blocks (·): number of the tensor, the block's first element there, its first element in x, its first chunk;
 * sizes (·): its elements. chunks (n): number of the block, its element where the chunk starts.
 */
const LIST = { addresses: read(u64), blocks: read(vec4(u32)), sizes: read(u32), chunks: read(vec2(u32)) }
interface Tables {
  readonly addresses: ReadBuffer<typeof u64>
  readonly blocks: ReadBuffer<ReturnType<typeof vec4<"u32">>>
  readonly sizes: ReadBuffer<typeof u32>
  readonly chunks: ReadBuffer<ReturnType<typeof vec2<"u32">>>
  readonly n: U32
  readonly packed: U32
}
const constants = { packed: constant(u32, 1) }

interface Part {
  readonly i: U32
  readonly block: U32
  readonly firstChunk: U32
  readonly endChunk: U32
  address(column: number): ReturnType<ReadBuffer<typeof u64>["at"]>
  /** Calls body(index in the tensor, index in x, pack). */
  each(body: (index: U32, xIndex: U32, pack: PackSize) => void): void
}

function eachPart(k: Body, { addresses, blocks, sizes, chunks, n, packed }: Tables, body: (part: Part) => void): void {
  eachChunk(
    k,
    chunks,
    sizes,
    n,
    ({ i, tensor: block, each }) => {
      const { x: tensor, y: offset, z: xOffset, w: firstChunk } = blocks.at(block)
      body({
        i,
        block,
        firstChunk,
        endChunk: blocks.at(block.add(1)).w,
        address: (column) => addresses.at(tensor.mul(MUON_ROW).add(column)),
        each: (inner) => each((index, pack) => inner(offset.div(pack).add(index), xOffset.div(pack).add(index), pack)),
      })
    },
    packed,
  )
}

/**
 * m ← β·m + (1 − β)·g; sums[i] = Σ u² over chunk i with u = (1 − β)·g + β·m; g = gradient·scale; nothing when scale is 0.
 * Tables as above, blocks with one more row that ends the last; packed: all first elements are multiples of 8. sums (n) f32.
 * Grid: any. Moves 12 bytes per element. Source: Jordan et al. 2024, "Muon".
 */
export const muonMomentum = kernel({
  name: "muon_momentum",
  workgroup: 256,
  buffers: { ...LIST, control: read(f32), sums: write(f32) },
  push: { n: u32, beta: f32, rest: f32 },
  constants,
  body(k, { control, sums, beta, rest, ...tables }) {
    const scale = control.at(CONTROL.scale)
    eachPart(k, tables, ({ i, address, each }) => {
      const [g, m] = [k.memoryAt("g", address(1), read(f32)), k.memoryAt("m", address(2), readWrite(f32))]
      const sum = k.var(f32, 0)
      each((index, _, pack) => {
        const gs = loadPack(g, pack, index).map((value) => value.mul(scale).mul(rest))
        const next = loadPack(m, pack, index).map((value, j) => value.mul(beta).add(gs[j]!))
        k.if(scale.ne(0), () => storePack(m, pack, index, next))
        next.forEach((value, j) => {
          const u = value.mul(beta).add(gs[j]!)
          sum.add(u.mul(u))
        })
      })
      const total = k.workgroupSum(sum.get())
      k.if(k.lane.eq(0), () => sums.set(i, total))
    })
  },
})

/** x = u/max(1e-7, ‖u‖ of its block), u and the tables as for `muon_momentum`, m already updated. Moves 8 bytes per element and those of x. */
export const muonStart = kernel({
  name: "muon_start",
  workgroup: 256,
  buffers: { ...LIST, control: read(f32), sums: read(f32), x: write(choice("x")) },
  push: { n: u32, beta: f32, rest: f32 },
  constants,
  body(k, { control, sums, x, beta, rest, ...tables }) {
    const scale = control.at(CONTROL.scale)
    eachPart(k, tables, ({ firstChunk, endChunk, address, each }) => {
      const own = k.var(f32, 0)
      k.for(firstChunk.add(k.lane), endChunk, k.workgroup, (chunk) => own.add(sums.at(chunk)))
      const factor = k.f32(1).div(k.workgroupSum(own.get()).sqrt().max(1e-7))
      const [g, m] = [k.memoryAt("g", address(1), read(f32)), k.memoryAt("m", address(2), read(f32))]
      each((index, xIndex, pack) => {
        const gs = loadPack(g, pack, index).map((value) => value.mul(scale).mul(rest))
        const us = loadPack(m, pack, index).map((value, j) => value.mul(beta).add(gs[j]!).mul(factor))
        storePack(x, pack, xIndex, us)
      })
    })
  },
})

/**
 * p ← p·(1 − lr·decay) − lr·factor·x, copy ← p; nothing when scale is 0. Tables as above; decays, factors per block, x as the products left it.
 * Moves 8 bytes per element, those of x and of the copy.
 */
export const muonApply = kernel({
  name: "muon_apply",
  workgroup: 256,
  buffers: { ...LIST, control: read(f32), decays: read(f32), factors: read(f32), x: read(choice("x")) },
  push: { n: u32 },
  params: { lr: f32 },
  constants,
  body(k, { control, decays, factors, x, lr, ...tables }) {
    k.if(control.at(CONTROL.scale).ne(0), () => {
      eachPart(k, tables, ({ block, address, each }) => {
        const p = k.memoryAt("p", address(0), readWrite(f32))
        const copy = k.memoryAt("copy", address(3), write(bf16))
        const [keep, step] = [k.f32(1).sub(lr.mul(decays.at(block))), lr.mul(factors.at(block))]
        each((index, xIndex, pack) => {
          const xs = loadPack(x, pack, xIndex)
          const values = loadPack(p, pack, index).map((value, j) => value.mul(keep).sub(step.mul(xs[j]!)))
          storePack(p, pack, index, values)
          k.if(address(3).ne(0), () => storePack(copy, pack, index, values))
        })
      })
    })
  },
})
