/** One token of a few sequences through all layers in one launch: blocks that stay, and wait for each number that they need. */
import { type F32, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, readWrite, u32, u64, write } from "../src/spirv.ts"
import { ptxActivations } from "./ptx-activation.ts"
import { attend, merge } from "./ptx-decode-attention.ts"
import { type Choosing, choose, see, seenOf, tell } from "./ptx-decode-choose.ts"
import {
  type Address,
  addressesOf,
  addressOf,
  type DecodeStack,
  type Frame,
  GROUP,
  LAYER,
  placesOf,
  THREADS,
  UNIT,
  WARPS,
  workOf,
} from "./ptx-decode-frame.ts"
import { norm } from "./ptx-decode-norm.ts"
import { type Layout, product } from "./ptx-decode-product.ts"
import { awaitPart } from "./ptx-decode-stage.ts"
import { sampleBuffers, sampleBytes } from "./ptx-sample.ts"

const buffers = {
  /** Addresses by layer as LAYER and LAST name them. */
  table: read(u64),
  /** Blocks that have left, 0 before and after, or where tokens are chosen, those that have stored their logits, of all launches; launches so far. */
  sync: readWrite(u32),
  work: readWrite(f32),
  pages: read(u32),
  lengths: read(u32),
  counts: read(u32),
  x: read(f32),
  y: write(bf16),
  logits: write(f32),
  tokens: read(u32),
  positions: read(u32),
}

const buffersOf = ({ allowed }: DecodeStack) => (allowed === undefined ? buffers : { ...buffers, ...sampleBuffers })

export { canChoose } from "./ptx-decode-choose.ts"
export { type DecodeStack, hasRoom, LAYER, workOf } from "./ptx-decode-frame.ts"

/** Tags of a launch. */
const TAGS = 256
/** Bytes of a layer's addresses. */
const ROW = 8 * LAYER.length
type DecodeKernel = PtxKernel<ReturnType<typeof buffersOf>>

/** Addresses of what a launch is given. */
type Given = { readonly [N in "x" | "y" | "logits" | "tokens" | "positions"]: U64 }

/** Returns by whom logits were seen, where tokens are chosen of them. */
function work(f: Frame, given: Given): Layout | undefined {
  const { k, stack, layer, next, later, tag } = f
  const { C, F, layers } = stack
  const at = workOf(stack)
  const placeOf = (bytes: number) => k.addLong(f.work, bytes)
  const [branch, stream, qkvs] = [placeOf(at.branch), placeOf(at.stream), placeOf(at.qkv)]
  const [attendeds, hiddens] = [placeOf(at.attended), placeOf(at.hidden)]
  const place = (row: U32, width: number, column: U32, bytes: number, from: U64) => k.madWide(k.mad(row, width, column), bytes, from)
  /** A product that is added to what `before` holds. */
  const added = (weights: Address, bias: Address, K: number, before: U64, after: U64) => {
    const old = [k.variable("f32", 0), k.variable("f32", 0)] as const
    const ignored = k.registers("u32", 2)
    return product(f, {
      ...{ N: C, K, weights, bias },
      // this block has seen it
      early: ({ row, column }) => k.loadVolatile([old[0], ignored[0]!, old[1], ignored[1]!], place(row, C, column, 8, before)),
      finish({ row, column }, sums) {
        const sum = k.packBf16(...sums)
        const [first, second] = old.map((one, i) => k.addFloat(one, k.unpackBf16(sum, i as 0 | 1))) as [F32, F32]
        k.storeVolatile(place(row, C, column, 8, after), 0, [first, tag, second, tag])
      },
    })
  }
  const stored = (N: number, weights: Address, bias: Address, to: U64, isHidden: boolean) =>
    product(f, {
      ...{ N, K: C, weights, bias },
      finish({ row, column }, sums) {
        const { activation } = stack
        const out = isHidden && activation !== "none" ? sums.map((sum) => ptxActivations[activation].value(k, sum)) : sums
        k.storeVolatile(place(row, N, column, 4, to), 0, [k.packBf16(out[0]!, out[1]!), tag])
      },
    })
  const qkv = stored(3 * C, "qkvW", "qkvB", qkvs, false)
  const proj = added("projW", "projB", C, stream, branch)
  const up = stored(F, "upW", "upB", hiddens, true)
  const down = added("downW", "downB", F, branch, stream)
  const before = k.sub(tag, 1)
  qkv.load(layer, next)
  copyIn(f, given, stream, before)
  const left = k.variable("u32", layers)
  k.while(
    "LAYER",
    () => k.compare("gt", left, 0),
    () => {
      proj.load(layer, next)
      k.if(qkv.isWanted, () => {
        const attnNorm = norm(f, "attnNormW", "attnNormB")
        qkv.prepare()
        qkv.run(attnNorm(stream, before))
      })
      attend(f)
      merge(f, attendeds)
      up.load(layer, next)
      k.if(proj.isWanted, () => {
        proj.prepare()
        proj.run(awaitPart(f, attendeds, C))
      })
      // What is loaded while numbers are awaited delays them: the largest weights are asked for when those are there.
      const loadDown = () => down.load(layer, next, up.newest)
      k.if(
        up.isWanted,
        () => {
          const mlpNorm = norm(f, "mlpNormW", "mlpNormB")
          up.prepare()
          const x = mlpNorm(branch, tag)
          loadDown()
          up.run(x)
        },
        loadDown,
      )
      const loadQkv = () => qkv.load(next, later, down.newest)
      k.if(
        down.isWanted,
        () => {
          down.prepare()
          const x = awaitPart(f, hiddens, F)
          loadQkv()
          down.run(x)
        },
        loadQkv,
      )
      prefetchSmall(f)
      k.copy(layer, next)
      k.copy(next, later)
      k.copy(later, k.min(k.add(later, ROW), ROW * (layers - 1)))
      k.copy(before, tag)
      k.add(tag, 1, tag)
      k.sub(left, 1, left)
    },
  )
  k.copy(layer, ROW * layers)
  if (stack.classes > 0) {
    const seen = stack.allowed === undefined ? undefined : seenOf(f)
    const head = product(f, {
      ...{ N: stack.classes, K: C, weights: "headW" },
      finish({ row, column }, sums) {
        const to = k.madWide(k.mad(row, stack.classes, column), 4, given.logits)
        k.store("f32", to, 0, [sums[0]])
        k.when(k.compare("lt", column, stack.classes - 1), () => k.store("f32", to, 4, [sums[1]]))
        if (seen !== undefined) see(f, seen, column, sums)
      },
    })
    head.load(layer)
    head.prepare()
    head.run(norm(f, "normW", "normB")(stream, before))
    if (seen === undefined) return undefined
    tell(f, seen, head.layout)
    return head.layout
  }
  k.if(k.compare("eq", f.block, 0), () => {
    const words = norm(f, "normW", "normB")(stream, before)
    k.if(k.compare("lt", f.row, stack.rows), () => {
      const column = k.mad(f.warp, C / WARPS, k.shl(f.quarter, 3))
      const to = k.madWide(k.mad(f.row, C, column), 2, given.y)
      words.forEach((four, j) => k.store("u32", to, 2 * GROUP * j, four))
    })
  })
  return undefined
}

/** Has the next layer's norms and biases brought to the L2 cache, by a block that has the least to do. */
function prefetchSmall(f: Frame): void {
  const { k, stack, thread, block, next } = f
  const { C, F, hasBias } = stack
  const weights = [["attnNormW", C] as const, ["mlpNormW", C] as const]
  const biases = [
    ["attnNormB", C],
    ["qkvB", 3 * C],
    ["projB", C],
    ["mlpNormB", C],
    ["upB", F],
    ["downB", C],
  ] as const
  k.if(k.both(k.compare("eq", block, stack.blocks - 1), k.compare("eq", thread, 0)), () => {
    for (const [name, count] of hasBias ? [...weights, ...biases] : weights) k.prefetchBytes(addressOf(f, name, next), 4 * count)
  })
}

/** x, or the tokens' embeddings, to where the layers look for it, a part by each block. */
function copyIn(f: Frame, { x, tokens, positions }: Given, stream: U64, tag: U32): void {
  const { k, stack, block, thread } = f
  const at = k.mad(block, THREADS, thread)
  const all = stack.rows * stack.C
  const rowOf = (numbers: U64, b: U32): U32 => {
    const number = k.register("u32")
    k.load("u32", [number], k.madWide(b, 4, numbers))
    return number
  }
  const first = k.variable("u32", ROW * stack.layers)
  const embedded = (): F32 => {
    const [b, column] = [k.div(at, stack.C), k.rem(at, stack.C)]
    const [word, place] = [k.register("u32"), k.register("f32")]
    const [token, position] = [rowOf(tokens, b), rowOf(positions, b)]
    k.load("u16", [word], k.madWide(token, 2 * stack.C, k.madWide(column, 2, addressOf(f, "wte", first))))
    k.load("f32", [place], k.madWide(position, 4 * stack.C, k.madWide(column, 4, addressOf(f, "wpe", first))))
    return k.addFloat(k.unpackBf16(word, 0), place)
  }
  k.while(
    "COPY",
    () => k.compare("lt", at, all),
    () => {
      const value = stack.embeds === true ? embedded() : k.register("f32")
      if (stack.embeds !== true) k.load("f32", [value], k.madWide(at, 4, x))
      k.storeVolatile(k.madWide(at, 8, stream), 0, [value, tag])
      k.add(at, THREADS * stack.blocks, at)
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

/** Lengths of the sequences, and how many units of attention they have with the new position. */
function lengthsOf(k: Ptx, { rows }: DecodeStack, lengths: U64, counts: U64): Pick<Frame, "lengths" | "units" | "most"> {
  const found = Array.from({ length: rows }, (_, b) => {
    const [length, count] = [k.register("u32"), k.register("u32")]
    k.load("u32", [length], lengths, 4 * b)
    k.load("u32", [count], counts, 4 * b)
    return { length, units: k.select(k.compare("gt", count, 0), k.add(k.div(length, UNIT), 1), 0, "u32") }
  })
  const most = found.slice(1).reduce((top, { units }) => k.select(k.compare("gt", units, top), units, top, "u32"), found[0]!.units)
  const atLeastOne = k.select(k.compare("gt", most, 0), most, 1, "u32")
  return { lengths: found.map(({ length }) => length), units: found.map(({ units }) => units), most: atLeastOne }
}

/**
 * y (rows, C) bf16 = last norm of x (rows, C) f32 (or the tokens' embeddings) behind all layers, or logits (rows, classes) f32 = y·headWᵀ, and the token
 * chosen of each row with ln of its probability; the new position's keys and values go into the cache. A row's bits do not depend on the others. Grid:
 * one block for each processor, all of which must run at the same time. Reads all weights once.
 */
export function ptxDecode(name: string, stack: DecodeStack): DecodeKernel {
  const places = placesOf(stack)
  return ptxKernel({
    name,
    about: `one token of ${stack.rows} sequences through ${stack.layers} layers of ${stack.C} and ${stack.F}; ${stack.blocks} blocks that wait for each other`,
    threads: THREADS,
    sharedBytes: stack.allowed === undefined ? places.bytes : Math.max(places.bytes, sampleBytes(THREADS)),
    buffers: buffersOf(stack),
    body(k, given) {
      const thread = k.special("%tid.x")
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
      const lane = k.and(thread, 31)
      const rowOf = (layer: number) => k.variable("u32", ROW * Math.min(layer, stack.layers - 1))
      const frame: Frame = {
        ...{ k, stack, places, thread, lane, work: given.work, pages: given.pages },
        warp: k.uniform(k.shr(thread, 5)),
        row: k.shr(lane, 2),
        quarter: k.and(lane, 3),
        block: k.special("%ctaid.x"),
        zero: k.special("%ctaid.y"),
        ...{ layer: rowOf(0), next: rowOf(1), later: rowOf(2) },
        tag: k.add(k.mul(launch, TAGS), 2),
        turn: k.variable("u32", 0),
        ...lengthsOf(k, stack, given.lengths, given.counts),
      }
      const told = work(frame, given)
      if (told !== undefined) choose(frame, given.sync, launch, told, given as typeof given & Choosing)
      else leave(k, stack, thread, given.sync, launch)
      k.emit("ret")
    },
  })
}
