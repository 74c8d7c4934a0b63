/** One token of a few sequences through all layers in one launch: blocks that stay, a barrier of all of them between steps. */
import { type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, readWrite, u32, u64, write } from "../src/spirv.ts"
import { ptxActivations } from "./ptx-activation.ts"
import { attend, mergeOutputs } from "./ptx-decode-attention.ts"
import { bring } from "./ptx-decode-bring.ts"
import {
  ALL_WORKERS,
  addressesOf,
  addressOf,
  type DecodeStack,
  type Frame,
  gridBarrier,
  LAYER,
  PAGE,
  pitchOf,
  placesOf,
  THREADS,
  WORKERS,
  workOf,
} from "./ptx-decode-frame.ts"
import { product } from "./ptx-decode-linear.ts"
import { norm } from "./ptx-decode-norm.ts"

const buffers = {
  /** Addresses by layer as LAYER and LAST name them. */
  table: read(u64),
  /** Two words, 0 before and after. */
  sync: readWrite(u32),
  work: readWrite(f32),
  pages: read(u32),
  lengths: read(u32),
  counts: read(u32),
  x: read(f32),
  y: write(bf16),
}

export { type DecodeStack, LAYER, workOf } from "./ptx-decode-frame.ts"
export type DecodeKernel = PtxKernel<typeof buffers>

const workers = ({ k }: Frame) => k.syncBlock(ALL_WORKERS, 32 * WORKERS)

/** Packs of 8 numbers of a row of x to shared memory. */
const toShared =
  ({ k, lane, places, stack }: Frame) =>
  (row: U32, pack: number, words: readonly U32[]): void =>
    k.storeShared({ base: k.mad(row, pitchOf(stack.C), k.shl(lane, 4)), bytes: places.x + 512 * pack }, words)

/** Rows of K numbers in bf16 from the work memory to shared memory. */
function stage({ k, stack, thread, places }: Frame, from: U64, K: number): void {
  const perRow = K / 8
  const held: { at: U32; words: U32[]; first: number }[] = []
  const all = stack.rows * perRow
  const isThere = (at: U32, first: number, body: () => void) =>
    first + 32 * WORKERS <= all ? body() : k.if(k.compare("lt", at, all), body)
  for (let first = 0; first < all; first += 32 * WORKERS) {
    const at = k.add(thread, first)
    const words = k.registers("u32", 4)
    isThere(at, first, () => k.loadFresh(words, k.madWide(at, 16, from)))
    held.push({ at, words, first })
  }
  for (const { at, words, first } of held)
    isThere(at, first, () => {
      const base = k.mad(k.div(at, perRow), pitchOf(K), k.shl(k.rem(at, perRow), 4))
      k.storeShared({ base, bytes: places.x }, words)
    })
}

function work(f: Frame, given: { x: U64; y: U64 }): void {
  const { k, stack, layer, lane } = f
  const { C, F, hasBias } = stack
  const at = workOf(stack)
  const [stream, qkvs, hiddens] = [at.stream, at.qkv, at.hidden].map((bytes) => k.addLong(f.work, bytes)) as [U64, U64, U64]
  const biasOf = (name: "attnNormB" | "qkvB" | "projB" | "mlpNormB" | "upB" | "downB") => (hasBias ? addressOf(f, name) : undefined)
  const place = (row: U32, width: number, column: U32, bytes: number, from: U64) => k.madWide(k.mad(row, width, column), bytes, from)
  /** What is added to: x at first. */
  const source = k.variable("u64", given.x)
  const added = (name: "projB" | "downB", K: number) => {
    const before = [k.variable("f32", 0), k.variable("f32", 0)]
    return product(f, {
      N: C,
      K,
      bias: biasOf(name),
      early: ({ row, column }) => k.loadFresh(before, place(row, C, column, 4, source)),
      finish({ row, column }, sums) {
        const branch = k.packBf16(...sums)
        const after = before.map((one, i) => k.addFloat(one, k.unpackBf16(branch, i as 0 | 1)))
        k.store("f32", place(row, C, column, 4, stream), 0, after)
      },
    })
  }
  const stored = (N: number, bias: U64 | undefined, to: U64, isHidden: boolean) =>
    product(f, {
      N,
      K: C,
      bias,
      finish({ row, column }, sums) {
        const { activation } = stack
        const out = isHidden && activation !== "none" ? sums.map((sum) => ptxActivations[activation].value(k, sum)) : sums
        k.store("u32", place(row, N, column, 2, to), 0, [k.packBf16(out[0]!, out[1]!)])
      },
    })
  const left = k.variable("u32", stack.layers)
  k.while(
    "LAYER",
    () => k.compare("gt", left, 0),
    () => {
      const attnNorm = norm(f, addressOf(f, "attnNormW"), biasOf("attnNormB"))
      const qkv = stored(3 * C, biasOf("qkvB"), qkvs, false)
      gridBarrier(f)
      attnNorm(source, toShared(f))
      workers(f)
      qkv()
      gridBarrier(f)
      attend(f)
      const proj = added("projB", C)
      gridBarrier(f)
      mergeOutputs(f)
      workers(f)
      proj()
      k.copy(source, stream)
      const mlpNorm = norm(f, addressOf(f, "mlpNormW"), biasOf("mlpNormB"))
      const up = stored(F, biasOf("upB"), hiddens, true)
      gridBarrier(f)
      mlpNorm(stream, toShared(f))
      workers(f)
      up()
      const down = added("downB", F)
      gridBarrier(f)
      stage(f, hiddens, F)
      workers(f)
      down()
      k.add(layer, 8 * LAYER.length, layer)
      k.sub(left, 1, left)
    },
  )
  const last = norm(f, addressOf(f, "normW"), hasBias ? addressOf(f, "normB") : undefined)
  gridBarrier(f)
  k.if(k.compare("eq", f.block, 0), () =>
    last(stream, (row, pack, words) => k.store("u32", k.madWide(k.mad(row, C / 8, lane), 16, given.y), 512 * pack, words)),
  )
  leave(f)
}

/** The last block to come makes the counters 0 for the next launch. */
function leave({ k, stack, thread, sync }: Frame): void {
  k.if(k.compare("eq", thread, 0), () => {
    const before = k.fetchAdd(k.addLong(sync, 4), 1)
    k.if(k.compare("eq", before, stack.blocks - 1), () => k.store("u32", sync, 0, [k.variable("u32", 0), k.variable("u32", 0)]))
  })
}

/** Lengths of the sequences, and how many pages they have with the new position. */
function lengthsOf(k: Ptx, { rows }: DecodeStack, lengths: U64, counts: U64): Pick<Frame, "lengths" | "blocks" | "most"> {
  const found = Array.from({ length: rows }, (_, b) => {
    const [length, count] = [k.register("u32"), k.register("u32")]
    k.load("u32", [length], lengths, 4 * b)
    k.load("u32", [count], counts, 4 * b)
    return { length, blocks: k.select(k.compare("gt", count, 0), k.add(k.div(length, PAGE), 1), 0, "u32") }
  })
  const most = found.slice(1).reduce((top, { blocks }) => k.select(k.compare("gt", blocks, top), blocks, top, "u32"), found[0]!.blocks)
  const atLeastOne = k.select(k.compare("gt", most, 0), most, 1, "u32")
  return { lengths: found.map(({ length }) => length), blocks: found.map(({ blocks }) => blocks), most: atLeastOne }
}

/**
 * y (rows, C) bf16 = last norm of x (rows, C) f32 behind all layers; the new position's keys and values go into the cache. Bits of products and norms are
 * those of matmul_skinny and norm. Grid: one block for each processor, all of which must run at the same time. Reads all weights once.
 */
export function ptxDecode(name: string, stack: DecodeStack): DecodeKernel {
  const places = placesOf(stack)
  return ptxKernel({
    name,
    about: `one token of ${stack.rows} sequences through ${stack.layers} layers of ${stack.C} and ${stack.F}; ${stack.blocks} blocks that wait for each other`,
    threads: THREADS,
    sharedBytes: places.bytes,
    buffers,
    body(k, given) {
      const thread = k.special("%tid.x")
      const warp = k.uniform(k.shr(thread, 5))
      k.if(k.compare("eq", thread, 0), () => {
        for (let i = 0; i < places.count; i++) for (const first of [places.full, places.empty]) k.barrierInit(first + 8 * i, 1)
        k.fenceBarrierInit()
      })
      for (let first = 0; first < addressesOf(stack); first += THREADS) {
        const [at, words] = [k.add(thread, first), k.registers("u32", 2)]
        k.if(k.compare("lt", at, addressesOf(stack)), () => {
          k.load("u32", words, k.madWide(at, 8, given.table))
          k.storeShared({ base: k.shl(at, 3), bytes: places.table }, words)
        })
      }
      k.syncBlock()
      const frame: Frame = {
        ...{ k, stack, places, thread, warp, work: given.work, sync: given.sync, pages: given.pages },
        lane: k.and(thread, 31),
        block: k.special("%ctaid.x"),
        zero: k.special("%ctaid.y"),
        layer: k.variable("u32", 0),
        target: k.variable("u32", 0),
        visits: k.variable("u32", 0),
        ...lengthsOf(k, stack, given.lengths, given.counts),
      }
      k.if(
        k.compare("eq", warp, WORKERS),
        () => bring(frame),
        () => work(frame, given),
      )
      k.emit("ret")
    },
  })
}
