/** One token of a few sequences through all layers in one launch: blocks that stay, and wait for each number that they need. */
import { type F32, type Predicate, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, readWrite, u32, u64, write } from "../src/spirv.ts"
import { ptxActivations } from "./ptx-activation.ts"
import { attend, mergeOutputs } from "./ptx-decode-attention.ts"
import { bring } from "./ptx-decode-bring.ts"
import {
  addressesOf,
  addressOf,
  awaitAll,
  type DecodeStack,
  type Frame,
  LAYER,
  PAGE,
  pitchOf,
  placesOf,
  syncWorkers,
  THREADS,
  WORKERS,
  workOf,
} from "./ptx-decode-frame.ts"
import { product } from "./ptx-decode-linear.ts"
import { norm } from "./ptx-decode-norm.ts"

const buffers = {
  /** Addresses by layer as LAYER and LAST name them. */
  table: read(u64),
  /** Blocks that have left, 0 before and after; launches so far. */
  sync: readWrite(u32),
  work: readWrite(f32),
  pages: read(u32),
  lengths: read(u32),
  counts: read(u32),
  x: read(f32),
  y: write(bf16),
}

export { type DecodeStack, hasRoom, LAYER, workOf } from "./ptx-decode-frame.ts"

/** Tags of a launch. */
const TAGS = 256
export type DecodeKernel = PtxKernel<typeof buffers>

/** Packs of 8 numbers of a row of x to shared memory. */
const toShared =
  ({ k, lane, places, stack }: Frame) =>
  (row: U32, pack: number, words: readonly U32[]): void =>
    k.storeShared({ base: k.mad(row, pitchOf(stack.C), k.shl(lane, 4)), bytes: places.x + 512 * pack }, words)

/** Rows of K numbers in bf16, when they are there, from the work memory to shared memory. */
function stage(f: Frame, from: U64, K: number, isWanted: Predicate): void {
  const { k, stack, thread, places, tag } = f
  const perRow = K / 4
  const all = stack.rows * perRow
  const held = Array.from({ length: Math.ceil(all / (32 * WORKERS)) }, (_, i) => {
    const at = k.add(thread, 32 * WORKERS * i)
    return {
      at,
      words: [k.variable("u32", 0), k.variable("u32", 0)],
      tags: [k.variable("u32", tag), k.variable("u32", tag)],
      isThere: k.compare("lt", at, all),
    }
  })
  const tags = held.flatMap((one) => one.tags)
  k.if(isWanted, () =>
    awaitAll(f, tag, tags, () => {
      for (const { at, words, tags, isThere } of held) {
        const address = k.madWide(at, 16, from)
        k.when(isThere, () => k.loadVolatile([words[0]!, tags[0]!, words[1]!, tags[1]!], address))
      }
    }),
  )
  syncWorkers(f)
  for (const { at, words, isThere } of held) {
    const base = k.mad(k.div(at, perRow), pitchOf(K), k.shl(k.rem(at, perRow), 3))
    k.when(isThere, () => k.storeShared({ base, bytes: places.x }, words))
  }
}

function work(f: Frame, given: { x: U64; y: U64 }): void {
  const { k, stack, layer, lane, tag } = f
  const { C, F, hasBias } = stack
  const at = workOf(stack)
  const [branch, stream, qkvs, hiddens] = [at.branch, at.stream, at.qkv, at.hidden].map((bytes) => k.addLong(f.work, bytes)) as Four
  const biasOf = (name: "attnNormB" | "qkvB" | "projB" | "mlpNormB" | "upB" | "downB" | "normB") =>
    hasBias ? addressOf(f, name) : undefined
  const place = (row: U32, width: number, column: U32, bytes: number, from: U64) => k.madWide(k.mad(row, width, column), bytes, from)
  /** A product that is added to what `before` holds. */
  const added = (name: "projB" | "downB", K: number, before: U64, after: U64) => {
    const old = [k.variable("f32", 0), k.variable("f32", 0)] as const
    const ignored = k.registers("u32", 2)
    return product(f, {
      N: C,
      K,
      bias: biasOf(name),
      // this block has seen it, or written it itself
      early: ({ row, column }) => k.loadVolatile([old[0], ignored[0]!, old[1], ignored[1]!], place(row, C, column, 8, before)),
      finish({ row, column }, sums) {
        const sum = k.packBf16(...sums)
        const [first, second] = old.map((one, i) => k.addFloat(one, k.unpackBf16(sum, i as 0 | 1))) as [F32, F32]
        k.storeVolatile(place(row, C, column, 8, after), 0, [first, tag, second, tag])
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
        k.storeVolatile(place(row, N, column, 4, to), 0, [k.packBf16(out[0]!, out[1]!), tag])
      },
    })
  const before = k.sub(tag, 1)
  copyIn(f, given.x, stream, before)
  const left = k.variable("u32", stack.layers)
  k.while(
    "LAYER",
    () => k.compare("gt", left, 0),
    () => {
      const attnNorm = norm(f, addressOf(f, "attnNormW"), biasOf("attnNormB"))
      const qkv = stored(3 * C, biasOf("qkvB"), qkvs, false)
      attnNorm(stream, before, qkv.isWanted, toShared(f))
      syncWorkers(f)
      qkv.run()
      attend(f)
      const proj = added("projB", C, stream, branch)
      mergeOutputs(f, proj.isWanted)
      syncWorkers(f)
      proj.run()
      const mlpNorm = norm(f, addressOf(f, "mlpNormW"), biasOf("mlpNormB"))
      const up = stored(F, biasOf("upB"), hiddens, true)
      mlpNorm(branch, tag, up.isWanted, toShared(f))
      syncWorkers(f)
      up.run()
      const down = added("downB", F, branch, stream)
      stage(f, hiddens, F, down.isWanted)
      syncWorkers(f)
      down.run()
      k.add(layer, 8 * LAYER.length, layer)
      k.copy(before, tag)
      k.add(tag, 1, tag)
      k.sub(left, 1, left)
    },
  )
  const last = norm(f, addressOf(f, "normW"), biasOf("normB"))
  last(stream, before, k.compare("eq", f.block, 0), (row, pack, words) =>
    k.store("u32", k.madWide(k.mad(row, C / 8, lane), 16, given.y), 512 * pack, words),
  )
}
type Four = [U64, U64, U64, U64]

/** x to where the layers look for it, a part by each block. */
function copyIn({ k, stack, block, thread }: Frame, x: U64, stream: U64, tag: U32): void {
  const at = k.mad(block, 32 * WORKERS, thread)
  const all = stack.rows * stack.C
  k.while(
    "COPY",
    () => k.compare("lt", at, all),
    () => {
      const value = k.register("f32")
      k.load("f32", [value], k.madWide(at, 4, x))
      k.storeVolatile(k.madWide(at, 8, stream), 0, [value, tag])
      k.add(at, 32 * WORKERS * stack.blocks, at)
    },
  )
}

/** The last block to come counts the launch, so that the next one has tags of its own. */
function leave(k: Ptx, { blocks }: DecodeStack, thread: U32, sync: U64, launch: U32): void {
  k.if(k.compare("eq", thread, 0), () => {
    const before = k.fetchAdd(sync, 1)
    k.if(k.compare("eq", before, blocks - 1), () => k.store("u32", sync, 0, [k.variable("u32", 0), k.add(launch, 1)]))
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
      const launch = k.register("u32")
      k.load("u32", [launch], given.sync, 4)
      k.syncBlock()
      const frame: Frame = {
        ...{ k, stack, places, thread, warp, work: given.work, pages: given.pages },
        lane: k.and(thread, 31),
        block: k.special("%ctaid.x"),
        zero: k.special("%ctaid.y"),
        layer: k.variable("u32", 0),
        tag: k.add(k.mul(launch, TAGS), 2),
        visits: k.variable("u32", 0),
        ...lengthsOf(k, stack, given.lengths, given.counts),
      }
      k.if(
        k.compare("eq", warp, WORKERS),
        () => bring(frame),
        () => {
          work(frame, given)
          leave(k, stack, thread, given.sync, launch)
        },
      )
      k.emit("ret")
    },
  })
}
