/** One token of many sequences through all layers in one launch: blocks that stay, and a barrier of all of them between steps. */
import { type F32, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, readWrite, u32, u64, write } from "../src/spirv.ts"
import { ptxActivations } from "./ptx-activation.ts"
import { askAhead, listAhead, turnAhead } from "./ptx-batch-ahead.ts"
import { attend } from "./ptx-batch-attention.ts"
import { type Choosing, choose } from "./ptx-batch-choose.ts"
import {
  addressOf,
  awaitAll,
  type Frame,
  isBatch,
  placeOf,
  placesOf,
  ROW,
  signal,
  spreadsOf,
  stagesOf,
  THREADS,
  TILE,
  workOf,
} from "./ptx-batch-frame.ts"
import { head, storeLast } from "./ptx-batch-head.ts"
import { norm } from "./ptx-batch-norm.ts"
import { bring, product } from "./ptx-batch-product.ts"
import { share } from "./ptx-batch-share.ts"
import { addressesOf, type DecodeStack, HEAD, LAYER } from "./ptx-decode-frame.ts"
import { sampleBuffers } from "./ptx-sample.ts"

const buffers = {
  /** Addresses by layer as LAYER and LAST name them. */
  table: read(u64),
  /** Arrivals at barriers, of all launches; launches so far. */
  sync: readWrite(u32),
  work: readWrite(f32),
  pages: read(u32),
  lengths: read(u32),
  counts: read(u32),
  x: read(f32),
  y: write(bf16),
  tokens: read(u32),
  positions: read(u32),
}
/** With logits, and with tokens chosen of them. */
const headBuffers = { ...buffers, logits: write(f32) }
const choiceBuffers = { ...headBuffers, ...sampleBuffers }
const buffersOf = ({ classes, allowed }: DecodeStack) => (classes === 0 ? buffers : allowed === undefined ? headBuffers : choiceBuffers)
type BatchKernel = PtxKernel<ReturnType<typeof buffersOf>>

export { isBatch, workOf as batchWork } from "./ptx-batch-frame.ts"

/** Blocks that have rows to normalise. */
const normsOf = ({ rows, blocks }: DecodeStack): number => Math.min(rows, blocks)
/**
 * Arrivals of a launch: all blocks seven times in every layer, first behind the norm before it, and with their logits where tokens are chosen; those that
 * have the last norm also before a head.
 */
const arrivalsOf = (stack: DecodeStack): number =>
  (7 * stack.layers + (stack.allowed === undefined ? 0 : 1)) * stack.blocks + (stack.classes === 0 ? 0 : normsOf(stack))
/** q·k in units of the exponent of 2. */
const factorOf = ({ scale }: DecodeStack): number => Math.fround(Math.fround(scale) * Math.fround(Math.LOG2E))

type Given = { readonly [N in "x" | "y" | "pages" | "lengths" | "counts" | "tokens" | "positions"]: U64 } & {
  readonly logits?: U64 | undefined
}

/** Columns of a row of x, or of the embeddings of the row's token and position. */
function begun(f: Frame, { x, tokens, positions }: Given, to: readonly F32[], row: U32, column: U32): void {
  const { k, stack } = f
  const { C, layers } = stack
  if (stack.embeds !== true) {
    k.loadFar(to, k.madWide(k.mad(row, C, column), 4, x), 0)
    return
  }
  const [token, position] = [tokens, positions].map((numbers) => {
    const number = k.register("u32")
    k.load("u32", [number], k.madWide(row, 4, numbers))
    return number
  }) as [U32, U32]
  const words = k.registers("u32", 2)
  const [wte, wpe] = [addressOf(f, "wte", layers), addressOf(f, "wpe", layers)]
  k.load("u32", words, k.madWide(token, 2 * C, k.madWide(column, 2, wte)))
  k.load("f32", to, k.madWide(position, 4 * C, k.madWide(column, 4, wpe)))
  to.forEach((one, e) => k.addFloat(k.unpackBf16(words[e >> 1]!, (e & 1) as 0 | 1), one, one))
}

/** All layers, then the head. */
function work(frame: Frame, given: Given): void {
  const f: Frame = { ...frame, meanwhile: () => askAhead(frame) }
  const { k, stack, places, block, layer } = f
  const { C, F } = stack
  const at = workOf(stack)
  const { qkv, proj, up, down } = spreadsOf(stack)
  const place = (row: U32, width: number, column: U32, from: U64) => k.madWide(k.mad(row, width, column), 4, from)
  /** To x, or to the hidden channels. */
  const store = (to: number, K: number) => (row: U32, column: U32, words: readonly [U32, U32]) => {
    const address = k.madWide(placeOf(f, row, column, K), 1, k.addLong(f.work, to))
    words.forEach((word, i) => k.store("u32", address, 16 * i, [word]))
  }
  const stream = (to: readonly F32[], row: U32, column: U32) => k.loadFar(to, place(row, C, column, k.addLong(f.work, at.stream)), 0)
  const toX = store(at.x, C)
  const toHidden = store(at.hidden, F)

  /** The norm behind a layer. */
  const normNext = (store: Parameters<ReturnType<typeof norm>>[0]) => {
    const next = norm(f, { w: "attnNormW", b: "attnNormB", layersOn: 1, parts: down.parts, bias: "downB", load: stream })
    awaitAll(f)
    next(store)
  }

  bring(f, "qkvW", qkv)
  const begin = norm(f, { w: "attnNormW", b: "attnNormB", layersOn: 0, parts: 0, load: (...where) => begun(f, given, ...where) })
  const own = share(f, given)
  listAhead(f, own)
  begin(toX)
  const left = k.variable("u32", stack.layers)
  const [again, end] = [k.label("LAYER"), k.label("LAYERS_END")]
  k.place(again)
  {
    signal(f)
    const first = product(f, {
      ...{ weights: "qkvW", spread: qkv, x: at.x, bias: "qkvB" },
      finish({ row, column }, sums) {
        const part = k.div(column, C)
        const inPart = k.sub(column, k.mul(part, C))
        k.if(
          k.compare("eq", part, 0),
          () => {
            const query = sums.map((sum) => k.mulFloat(sum, factorOf(stack)))
            k.store("f32", place(row, C, inPart, k.addLong(f.work, at.q)), 0, query)
          },
          () => {
            const cell = k.register("u32")
            k.loadSharedWords([cell], { base: k.shl(row, 2), bytes: places.cells })
            const [keys, values] = [addressOf(f, "kPages"), addressOf(f, "vPages")]
            const memory = k.select(k.compare("eq", part, 1), keys, values, "u64")
            const inHead = k.and(inPart, HEAD - 1)
            const to = k.madWide(k.add(cell, k.sub(inPart, inHead)), ROW, k.madWide(inHead, 2, memory))
            const words = [k.packBf16(sums[0]!, sums[1]!), k.packBf16(sums[2]!, sums[3]!)]
            k.when(k.compare("ne", cell, 0xffffffff), () => k.store("u32", to, 0, words))
          },
        )
      },
    })
    awaitAll(f)
    first()
    signal(f)
    bring(f, "projW", proj)
    attend(f, own, () => {
      awaitAll(f)
      turnAhead(f)
    })
    signal(f)
    const toParts =
      (width: number) =>
      ({ row, column, part }: { row: U32; column: U32; part: U32 }, sums: readonly F32[]) =>
        k.store("f32", place(k.mad(part, stack.rows, row), width, column, k.addLong(f.work, at.parts)), 0, sums)
    const second = product(f, { weights: "projW", spread: proj, x: at.y, finish: toParts(C) })
    awaitAll(f)
    second()
    signal(f)
    bring(f, "upW", up)
    const middle = norm(f, { w: "mlpNormW", b: "mlpNormB", layersOn: 0, parts: proj.parts, bias: "projB", load: stream })
    awaitAll(f)
    middle(toX)
    signal(f)
    const third = product(f, {
      ...{ weights: "upW", spread: up, x: at.x, bias: "upB" },
      finish({ row, column }, sums) {
        const { activation } = stack
        const [a, b, c, d] = activation === "none" ? sums : sums.map((sum) => ptxActivations[activation].value(k, sum))
        toHidden(row, column, [k.packBf16(a!, b!), k.packBf16(c!, d!)])
      },
    })
    awaitAll(f)
    third()
    signal(f)
    bring(f, "downW", down)
    const fourth = product(f, { weights: "downW", spread: down, x: at.hidden, finish: toParts(C) })
    awaitAll(f)
    fourth()
    signal(f)
    const isLast = k.compare("eq", left, 1)
    if (given.logits !== undefined) k.jump(end, isLast)
    k.if(k.not(isLast), () => bring(f, "qkvW", qkv, 1))
    normNext((row, column, words) =>
      k.if(
        isLast,
        () => k.store("u32", k.madWide(k.mad(row, C, column), 2, given.y), 0, words),
        () => toX(row, column, words),
      ),
    )
    k.jump(end, isLast)
    k.add(layer, 8 * LAYER.length, layer)
    k.sub(left, 1, left)
    k.jump(again)
  }
  k.place(end)
  if (given.logits === undefined) return
  k.if(
    k.compare("lt", block, normsOf(stack)),
    () => {
      normNext((...four) => storeLast(f, ...four))
      signal(f, normsOf(stack))
    },
    () => k.add(f.target, normsOf(stack), f.target),
  )
  const told = head(f, given.logits)
  awaitAll(f)
  told()
}

/**
 * y (rows, C) bf16 = last norm of x (rows, C) f32 (or the tokens' embeddings) behind all layers, or logits (rows, classes) f32 = y·headWᵀ, and the
 * token chosen of each row with ln of its probability; the new position's keys and values go into the cache.
 * Grid: blocks that all run at the same time. They read the weights of all layers once, and keys and values once.
 */
export function ptxBatch(name: string, stack: DecodeStack): BatchKernel {
  if (!isBatch(stack)) throw new TypeError("ptxBatch: sizes")
  const places = placesOf(stack)
  return ptxKernel({
    name,
    about: `one token of ${stack.rows} sequences through ${stack.layers} layers of ${stack.C} and ${stack.F}; ${stack.blocks} blocks with barriers of all`,
    threads: THREADS,
    sharedBytes: places.bytes,
    buffers: buffersOf(stack),
    body(k, given) {
      const thread = k.special("%tid.x")
      const warp = k.uniform(k.shr(thread, 5))
      const block = k.special("%ctaid.x")
      k.if(k.compare("eq", thread, 0), () => {
        for (let stage = 0; stage < stagesOf(stack); stage++) k.barrierInit(places.full + 8 * stage, TILE) // an arrival for each row
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
        ...{ k, stack, places, thread, warp, block, work: given.work, arrivals: given.sync },
        lane: k.and(thread, 31),
        layer: k.variable("u32", 0),
        target: k.mul(launch, arrivalsOf(stack)),
        parity: k.variable("u32", 0),
      }
      work(frame, given)
      if (stack.allowed !== undefined) choose(frame, given as typeof given & Choosing)
      k.comment("all have read the number of launches long ago")
      const isFirst = k.both(k.compare("eq", thread, 0), k.compare("eq", block, 0))
      const next = k.add(launch, 1)
      k.when(isFirst, () => k.store("u32", given.sync, 4, [next]))
      k.emit("ret")
    },
  })
}
