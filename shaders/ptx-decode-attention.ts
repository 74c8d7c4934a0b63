/** Attention in the decode kernel: a block takes 128 positions of a head, 16 each warp; the blocks' sums are merged by whoever needs the result. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import {
  addressOf,
  awaitAll,
  FACTS,
  FRESH,
  type Frame,
  HEAD,
  mostUnits,
  ofSequence,
  PAGE,
  SHARE,
  slotBytes,
  THREADS,
  UNIT,
  UNIT_PAGES,
  WARPS,
  workOf,
} from "./ptx-decode-frame.ts"

/** Positions of a warp, and of its lanes: four at a time, 8 channels a lane. */
const OWN = UNIT / WARPS
const TURNS = OWN / 4
/** Units whose sums are read together. */
const TOGETHER = 8
const LOWEST = Number.NEGATIVE_INFINITY

const exp2 = ({ k }: Frame, x: F32): F32 => k.unary("ex2.approx.ftz.f32", x)
const floats = ({ k }: Frame, words: readonly U32[]): F32[] => words.flatMap((word) => [k.unpackBf16(word, 0), k.unpackBf16(word, 1)])

interface Unit {
  readonly b: U32
  readonly h: U32
  readonly part: U32
  readonly length: U32
}

/** body for the units of attention of this block that exist: one head and 128 positions of a sequence each. */
function eachUnit(f: Frame, body: (unit: Unit) => void): void {
  const { k, stack, block, most, lengths, units } = f
  const heads = stack.C / HEAD
  const unit = k.variable("u32", block)
  const all = k.mul(most, stack.rows * heads)
  k.while(
    "UNIT",
    () => k.compare("lt", unit, all),
    () => {
      const [h, rest] = [k.rem(unit, heads), k.div(unit, heads)]
      const [b, part] = stack.rows === 1 ? [k.variable("u32", 0), rest] : [k.div(rest, most), k.rem(rest, most)]
      k.if(k.compare("lt", part, ofSequence(f, units, b)), () => body({ b, h, part, length: ofSequence(f, lengths, b) }))
      k.add(unit, stack.blocks, unit)
    },
  )
}

/** All units of this block: partial outputs, their maxima and sums go to the work memory, the new position into the cache. */
export function attend(f: Frame): void {
  const { k, warp } = f
  k.comment("attention")
  const number = k.variable("u32", 0)
  eachUnit(f, (unit) => {
    const slot = k.mad(k.and(number, 1), slotBytes, f.places.slots)
    prefetchNext(f, unit)
    attendOwn(f, unit, slot)
    k.syncBlock()
    k.if(k.compare("eq", warp, k.and(number, WARPS - 1)), () => mergeWarps(f, unit, slot))
    k.add(number, 1, number)
  })
}

/** Has the keys and values that the next layer's unit needs brought to the L2 cache. */
function prefetchNext(f: Frame, { b, h, part, length }: Unit): void {
  const { k, stack, thread, pages } = f
  const lane = k.sub(thread, THREADS - 32)
  const number = k.mad(part, UNIT_PAGES, k.shr(lane, 1))
  k.if(k.both(k.compare("lt", lane, 2 * UNIT_PAGES), k.compare("le", k.mul(number, PAGE), length)), () => {
    const page = k.register("u32")
    k.load("u32", [page], k.madWide(k.mad(b, stack.maxPages, number), 4, pages))
    const [keys, values] = [addressOf(f, "kPages", f.next), addressOf(f, "vPages", f.next)]
    const memory = k.register("u64")
    k.emit("selp.b64", memory, values, keys, k.compare("ne", k.and(lane, 1), 0))
    k.prefetchBytes(k.madWide(k.mad(page, stack.C / HEAD, h), 2 * PAGE * HEAD, memory), 2 * PAGE * HEAD)
  })
}

/** Query, key and value of the new position, when they are there, to shared memory. */
function awaitFresh(f: Frame, { b, h }: Unit, slot: U32): void {
  const { k, stack, thread, work, tag } = f
  const { C } = stack
  const [which, pair] = [k.shr(thread, 4), k.and(thread, 15)] // two words each, of q, k and v in turn
  k.if(k.compare("lt", which, 3), () => {
    const column = k.mad(which, C, k.mad(h, HEAD, k.shl(pair, 2)))
    const from = k.madWide(k.mad(b, 3 * C, column), 4, k.addLong(work, workOf(stack).qkv))
    const [words, tags] = [k.registers("u32", 2), k.registers("u32", 2)]
    awaitAll(f, tag, tags, () => k.loadVolatile([words[0]!, tags[0]!, words[1]!, tags[1]!], from))
    k.storeShared({ base: k.mad(thread, 8, slot), bytes: FRESH }, words)
  })
  k.syncBlock()
}

/** This warp's 16 positions. */
function attendOwn(f: Frame, unit: Unit, slot: U32): void {
  const { k, stack, warp, lane, pages } = f
  const { b, h, part, length } = unit
  const { C, maxPages } = stack
  const eighth = k.and(lane, 7)
  const start = k.mad(part, UNIT, k.mul(warp, OWN))
  const distance = k.sub(length, start) // of the new position from this warp's first
  const out = Array.from({ length: 8 }, () => k.variable("f32", 0))
  const [top, total] = [k.variable("f32", LOWEST), k.variable("f32", 0)]
  // where there are none, the last ones: nobody wants them
  const first = k.min(start, k.sub(length, k.and(length, OWN - 1)))
  const page = k.register("u32")
  k.load("u32", [page], k.madWide(k.mad(b, maxPages, k.div(first, PAGE)), 4, pages))
  const line = k.add(k.mad(k.mad(page, C / HEAD, h), PAGE, k.and(first, PAGE - 1)), k.shr(lane, 3))
  const cell = k.mad(line, HEAD, k.shl(eighth, 3))
  const [keys, values] = (["kPages", "vPages"] as const).map((name) => {
    const from = k.madWide(cell, 2, addressOf(f, name))
    return Array.from({ length: TURNS }, (_, i) => {
      const words = k.registers("u32", 4)
      k.loadVolatile(words, from, 2 * HEAD * 4 * i)
      return words
    })
  }) as [U32[][], U32[][]]
  awaitFresh(f, unit, slot)
  k.if(k.compare("le", start, length), () => {
    const [q, ...fresh] = [0, 1, 2].map((which) => {
      const words = k.registers("u32", 4)
      k.loadSharedWords(words, { base: k.mad(eighth, 16, slot), bytes: FRESH + 2 * HEAD * which })
      return words
    }) as [U32[], U32[], U32[]]
    k.if(k.both(k.compare("lt", distance, OWN), k.compare("lt", lane, 8)), () => {
      const own = k.mad(distance, HEAD, cell)
      k.store("u32", k.madWide(own, 2, addressOf(f, "kPages")), 0, fresh[0]!)
      k.store("u32", k.madWide(own, 2, addressOf(f, "vPages")), 0, fresh[1]!)
    })
    k.syncWarp()
    const factor = Math.fround(Math.fround(stack.scale) * Math.fround(Math.LOG2E))
    const query = floats(f, q).map((value) => k.mulFloat(value, factor))
    const scores = keys.map((words, i) => {
      const place = k.add(k.shr(lane, 3), 4 * i)
      const [isFresh, isSeen] = [k.compare("eq", place, distance), k.compare("le", place, distance)]
      const chosen = words.map((word, j) => k.select(isFresh, fresh[0]![j]!, word, "u32"))
      const products = floats(f, chosen).map((value, e) => [value, query[e]!] as const)
      let score = k.mulFloat(...products[0]!)
      for (const [value, other] of products.slice(1)) score = k.fma(value, other, score)
      for (const mask of [1, 2, 4]) score = k.addFloat(score, k.exchangeFloat(score, mask))
      // what lies behind the newest position is anything, also no number
      values[i]!.forEach((word, j) => k.select(isSeen, k.select(isFresh, fresh[1]![j]!, word, "u32"), 0, "u32", word))
      return k.select(isSeen, score, LOWEST, "f32")
    })
    let most = scores.reduce((a, c) => k.maxFloat(a, c))
    for (const mask of [8, 16]) most = k.maxFloat(most, k.exchangeFloat(most, mask))
    const weights = scores.map((score) => exp2(f, k.subFloat(score, most)))
    let sum = weights.reduce((a, c) => k.addFloat(a, c))
    for (const mask of [8, 16]) sum = k.addFloat(sum, k.exchangeFloat(sum, mask))
    weights.forEach((weight, i) => floats(f, values[i]!).forEach((value, e) => k.fma(value, weight, out[e]!, out[e]!)))
    k.copy(top, most)
    k.copy(total, sum)
  })
  k.syncWarp()
  const two = gathered(f, out)
  const share = k.mad(warp, SHARE, slot)
  const channels = k.add(k.shl(eighth, 3), k.add(k.shl(k.shr(lane, 4), 2), k.shl(k.and(k.shr(lane, 3), 1), 1)))
  k.storeShared({ base: k.mad(channels, 4, share), bytes: 0 }, two)
  k.when(k.compare("eq", lane, 0), () => k.storeShared({ base: factsOf(f, slot, warp), bytes: FACTS }, [top, total]))
}
const factsOf = ({ k }: Frame, slot: U32, warp: U32): U32 => k.mad(warp, 8, slot)

/** Sums of 8 channels over the four lanes that have other positions; each keeps two. */
function gathered({ k, lane }: Frame, out: readonly F32[]): F32[] {
  let list = out
  for (const mask of [16, 8]) {
    const isUpper = k.compare("ne", k.and(lane, mask), 0)
    const half = list.length / 2
    const [lower, upper] = [list.slice(0, half), list.slice(half)]
    list = lower.map((low, i) => {
      const [kept, sent] = [k.select(isUpper, upper[i]!, low, "f32"), k.select(isUpper, low, upper[i]!, "f32")]
      return k.addFloat(kept, k.exchangeFloat(sent, mask))
    })
  }
  return [...list]
}

/** Weights of parts by their maxima, and the sum of all weights. */
function sharesOf(f: Frame, tops: readonly F32[], totals: readonly F32[]): { top: F32; shares: F32[]; total: F32 } {
  const { k } = f
  let list = tops
  while (list.length > 1)
    list = Array.from({ length: Math.ceil(list.length / 2) }, (_, i) =>
      list[2 * i + 1] === undefined ? list[2 * i]! : k.maxFloat(list[2 * i]!, list[2 * i + 1]!),
    )
  const top = list[0]!
  const shares = tops.map((one) => exp2(f, k.subFloat(one, top)))
  const total = k.mulFloat(shares[0]!, totals[0]!)
  shares.slice(1).forEach((share, i) => k.fma(share, totals[i + 1]!, total, total))
  return { top, shares, total }
}

/** The sums of all warps, two channels a lane. */
function mergeWarps(f: Frame, { b, h, part }: Unit, slot: U32): void {
  const { k, stack, lane, work, tag } = f
  const at = workOf(stack)
  const facts = Array.from({ length: WARPS / 2 }, (_, i) => {
    const four = k.registers("f32", 4)
    k.loadShared(four, { base: slot, bytes: FACTS + 16 * i })
    return four
  })
  const sums = Array.from({ length: WARPS }, (_, w) => {
    const two = k.registers("f32", 2)
    k.loadShared(two, { base: k.mad(lane, 8, slot), bytes: w * SHARE })
    return two
  })
  const both = (first: 0 | 1) => facts.flatMap((four) => [four[first]!, four[first + 2]!])
  const { top, shares, total } = sharesOf(f, both(0), both(1))
  const out = [0, 1].map((e) => {
    const one = k.mulFloat(sums[0]![e]!, shares[0]!)
    sums.slice(1).forEach((two, w) => k.fma(two[e]!, shares[w + 1]!, one, one))
    return one
  }) as [F32, F32]
  const index = k.mad(k.mad(b, mostUnits(stack), part), stack.C / HEAD, h)
  k.storeVolatile(k.madWide(k.mad(index, HEAD, k.shl(lane, 1)), 8, k.addLong(work, at.outputs)), 0, [out[0], tag, out[1], tag])
  const statistics = k.madWide(index, 16, k.addLong(work, at.statistics))
  k.when(k.compare("eq", lane, 0), () => k.storeVolatile(statistics, 0, [top, tag, total, tag]))
}

interface Read {
  readonly values: F32[]
  readonly top: F32
  readonly total: F32
}

/** The merged outputs of `count` units, in their order and 8 at a time: those of two neighbouring channels. `at`: bytes of the first unit's. */
function mergeUnits(f: Frame, count: U32, at: { readonly outputs: U64; readonly statistics: U64 }): F32[] {
  const { k, stack, tag } = f
  const { C } = stack
  const [top, sum] = [k.variable("f32", LOWEST), k.variable("f32", 0)]
  const out = Array.from({ length: 2 }, () => k.variable("f32", 0))
  const from = k.variable("u32", 0)
  k.while(
    "MERGE",
    () => k.compare("lt", from, count),
    () => {
      const tags = Array.from({ length: TOGETHER }, () => Array.from({ length: 4 }, () => k.variable("u32", tag)))
      const read = tags.map((): Read => {
        const values = Array.from({ length: 2 }, () => k.variable("f32", 0))
        return { values, top: k.variable("f32", LOWEST), total: k.variable("f32", 0) }
      })
      const areThere = read.map((_, i) => k.compare("lt", k.add(from, i), count))
      awaitAll(f, tag, tags.flat(), () =>
        read.forEach(({ values, top, total }, i) =>
          k.when(areThere[i]!, () => {
            const own = tags[i]!
            k.loadVolatile([top, own[0]!, total, own[1]!], at.statistics, (16 * i * C) / HEAD)
            k.loadVolatile([values[0]!, own[2]!, values[1]!, own[3]!], at.outputs, 8 * i * C)
          }),
        ),
      )
      const merged = sharesOf(f, [top, ...read.map((one) => one.top)], [sum, ...read.map(({ total }) => total)])
      out.forEach((one, e) => {
        k.mulFloat(one, merged.shares[0]!, one)
        read.forEach(({ values }, i) => k.fma(values[e]!, merged.shares[i + 1]!, one, one))
      })
      k.copy(top, merged.top)
      k.copy(sum, merged.total)
      k.add(from, TOGETHER, from)
      k.addLong(at.outputs, 8 * TOGETHER * C, at.outputs)
      k.addLong(at.statistics, (16 * TOGETHER * C) / HEAD, at.statistics)
    },
  )
  const share = k.unary("rcp.approx.ftz.f32", sum)
  return out.map((one) => k.select(k.compare("gt", count, 0), k.mulFloat(one, share), 0, "f32"))
}

/** Where the outputs of sequence b from `column` on lie, and their maxima. */
function outputsOf({ k, stack, work }: Frame, b: U32, column: U32) {
  const at = workOf(stack)
  const start = k.mul(b, mostUnits(stack))
  const outputs = k.madWide(k.mad(start, stack.C, column), 8, k.addLong(work, at.outputs))
  const statistics = k.madWide(k.mad(start, stack.C / HEAD, k.div(column, HEAD)), 16, k.addLong(work, at.statistics))
  return { outputs, statistics }
}

/** y in bf16 with tags to the work memory: a warp for each head of a sequence, in those blocks first that have the fewest units. */
export function merge(f: Frame, to: U64): void {
  const { k, stack, block, warp, lane, units, tag } = f
  const { C, rows, blocks } = stack
  k.comment("outputs of attention, merged")
  const pair = k.mad(warp, blocks, k.sub(blocks - 1, block))
  k.while(
    "PAIR",
    () => k.compare("lt", pair, (rows * C) / HEAD),
    () => {
      const b = k.div(pair, C / HEAD)
      const column = k.mad(k.rem(pair, C / HEAD), HEAD, k.shl(lane, 1))
      const [x, y] = mergeUnits(f, ofSequence(f, units, b), outputsOf(f, b, column)) as [F32, F32]
      k.storeVolatile(k.madWide(k.mad(b, C, column), 4, to), 0, [k.packBf16(x, y), tag])
      k.add(pair, WARPS * blocks, pair)
    },
  )
}
