/** Sampling by one block inside a kernel in PTX: the next token of a row of logits, and ln of its probability. */
import type { F32, Ptx, U32, U64 } from "../src/ptx.ts"
import { f32, read, u32, write } from "../src/spirv.ts"
import { uniformAt } from "./ptx-random.ts"
import { type Block, NONE, SLOTS_BYTES } from "./ptx-sample-block.ts"
import { CUT_BYTES, cut, type Known } from "./ptx-sample-cut.ts"
import { factsOf } from "./ptx-sample-facts.ts"
import { spotsOf } from "./ptx-sample-list.ts"
import { plain, plainBytes } from "./ptx-sample-plain.ts"
import { type Row, sliceOf } from "./ptx-sample-row.ts"
import { STREAM } from "./sample.ts"

/** What a kernel that samples is given beside the logits, per row, as the ops sample and logprobs have it. */
export const sampleBuffers = {
  temperature: read(f32),
  topK: read(u32),
  topP: read(f32),
  minP: read(f32),
  seed: read(u32),
  draw: read(u32),
  token: write(u32),
  logprob: write(f32),
  /** The same for the host, which reads them where they lie. */
  toldToken: write(u32),
  toldLogprob: write(f32),
}
type Given = { readonly [N in keyof typeof sampleBuffers]: U64 }

/** Shared memory of a block of 256 or 512 threads. */
export const sampleBytes = (threads: number): number => SLOTS_BYTES + Math.max(CUT_BYTES, plainBytes(threads))
/** Whether so many threads choose of so many tokens. */
export const canSample = (threads: number, allowed: number): boolean => allowed <= threads * sliceOf(threads)

interface Sampling {
  readonly k: Ptx
  /** 256 or 512. */
  readonly threads: number
  readonly thread: U32
  /** Bytes of shared memory before sampleBytes of it, a multiple of 16. */
  readonly shared: number
  /** f32 logits of a row. */
  readonly classes: number
  /** Only ids below this are chosen. */
  readonly allowed: number
}

/**
 * token[row] and logprob[row] of the logits (classes) at an address, by all threads of a block. The block has acquired what others wrote of the row, and nobody
 * needs the shared memory any more. The same bits alone and in company. `known`: what the block knows of the row without reading it.
 */
export function sample(
  { k, threads, thread: number, shared, classes, allowed }: Sampling,
  logits: U64,
  row: U32,
  given: Given,
  known?: (block: Block) => Known,
): void {
  k.comment("---- sampling")
  // the same number, unknown to the assembler: what it has computed of it before would live until here
  const thread = k.pick(number, k.and(number, 31))
  const block: Block = {
    ...{ k, threads, thread, shared },
    lane: k.and(thread, 31),
    warp: k.uniform(k.shr(thread, 5)),
    turn: k.variable("u32", 0),
  }
  const of = <K extends "u32" | "f32">(kind: K, from: U64) => {
    const value = k.register(kind)
    k.load(kind, [value], k.madWide(row, 4, from))
    return value
  }
  const temperature: F32 = of("f32", given.temperature)
  const [topP, minP] = [of("f32", given.topP), of("f32", given.minP)] as const
  const [most, seed, draw] = [of("u32", given.topK), of("u32", given.seed), of("u32", given.draw)] as const
  const all: Row = { block, logits, classes, allowed }
  const found = known?.(block) ?? { facts: factsOf(all), spots: spotsOf(all) }
  const { facts } = found
  const token = k.variable("u32", k.select(k.compare("eq", facts.first, NONE), 0, facts.first, "u32"))
  const isDrawn = k.both(k.compare("gt", temperature, 0), k.compare("lt", k.unary("abs.f32", facts.top), 2 ** 127))
  k.if(isDrawn, () => {
    const topK = k.select(k.compare("lt", k.sub(most, 1), 2 ** 31 - 1), most, 1, "u32") // 1 for what is less, as an i32
    const settings = {
      ...{ sharpness: k.unary("rcp.rn.f32", temperature), topK, topP, minP },
      uniform: uniformAt(k, seed, STREAM, draw),
    }
    const from = shared + SLOTS_BYTES
    k.if(
      k.either(k.compare("lt", topK, allowed), k.compare("lt", topP, 1)),
      () => cut(all, found, settings, from, token),
      () => plain(all, facts, settings, from, token),
    )
  })
  k.if(k.compare("eq", thread, 0), () => {
    const at = k.madWide(token, 4, logits)
    const z = k.variable("f32", facts.top)
    k.when(k.compare("ne", token, facts.first), () => k.load("f32", [z], at))
    const logprob = k.subFloat(k.subFloat(z, facts.max), facts.logSum)
    for (const to of [given.token, given.toldToken]) k.store("u32", k.madWide(row, 4, to), 0, [token])
    for (const to of [given.logprob, given.toldLogprob]) k.store("f32", k.madWide(row, 4, to), 0, [logprob])
  })
}
