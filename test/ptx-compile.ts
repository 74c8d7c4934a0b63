/** Instructions of PTX as functions on the active lanes of a warp, made once for a text. */
import { COMPARE, FLOAT, INTEGER, OWN } from "./ptx-arithmetic.ts"
import { barrier, blockBarrier } from "./ptx-barrier.ts"
import { multiplyAdd, ofLongs, wide } from "./ptx-long.ts"
import { move } from "./ptx-move.ts"
import { multiply, multiplyWarp } from "./ptx-multiply.ts"
import { ALL, LANES, nameOf, Registers } from "./ptx-registers.ts"
import type { Block, Warp } from "./ptx-run.ts"
import { type Instruction, readPtx, type Value } from "./ptx-text.ts"

export type Work = (b: Block, w: Warp, lanes: readonly number[]) => void

export interface Step {
  readonly line: string
  /** Words of a truth value, and what it must be. */
  readonly guard: { readonly at: number; readonly holds: boolean } | undefined
  /** All lanes of the warp must come together. */
  readonly isAligned: boolean
  readonly isPrefetch: boolean
  /** Of a branch: where to. */
  readonly target: number | undefined
  readonly work: Work | "return"
}

export interface Program {
  readonly steps: readonly Step[]
  readonly registers: Registers
}

const programs = new Map<string, Program>()

/** A text is taken apart once, however often it is launched. */
export function programOf(text: string): Program {
  const known = programs.get(text)
  if (known !== undefined) return known
  const { instructions, labels } = readPtx(text)
  const registers = new Registers()
  const steps = instructions.map((instruction): Step => {
    const { line, guard, op, isAligned, operands } = instruction
    return {
      ...{ line, isAligned, isPrefetch: op.startsWith("prefetch") },
      guard: guard === undefined ? undefined : { at: registers.named(guard.name), holds: guard.holds },
      target: op.startsWith("bra") ? labels.get(nameOf(operands[0])) : undefined,
      work: op === "ret" ? "return" : op.startsWith("bra") ? () => {} : workOf(instruction, registers),
    }
  })
  const made = { steps, registers }
  programs.set(text, made)
  return made
}

/** What cannot be done says so when it is come to. */
function workOf(instruction: Instruction, r: Registers): Work {
  try {
    const work = compile(instruction, r)
    const [verb] = instruction.parts
    if (verb !== "mov" && verb !== "xor") return work
    const names = instruction.operands.map(nameOf)
    return (b, w, lanes) => {
      if (w.loads.length > 0 && w.loads.some(({ into }) => names.some((name) => into.has(name)))) loadAll(w)
      work(b, w, lanes)
    }
  } catch (error) {
    return () => {
      throw error
    }
  }
}

/** Matrices whose loads are under way. */
function loadAll(w: Warp): void {
  for (const { load } of w.loads.splice(0)) load()
}

function compile(instruction: Instruction, r: Registers): Work {
  const { op, parts, operands } = instruction
  const [first, second, third, fourth] = operands as readonly [Value, Value, Value, Value]
  const [verb = ""] = parts
  const type = parts.at(-1)!
  if (verb === "setp") return compare(instruction, r)
  if (verb === "selp" && type === "b64") {
    const [to, x, y, chosen] = [r.long(first), r.long(second), r.long(third), r.word(fourth)]
    return (_, { words }, lanes) => {
      for (const lane of lanes) {
        const from = words[chosen + lane] !== 0 ? x : y
        words[to + lane] = words[from + lane]!
        words[to + LANES + lane] = words[from + LANES + lane]!
      }
    }
  }
  if (verb === "selp") {
    const [to, x, y, chosen] = [r.word(first), r.word(second), r.word(third), r.word(fourth)]
    return (_, { words }, lanes) => {
      for (const lane of lanes) words[to + lane] = words[(words[chosen + lane] !== 0 ? x : y) + lane]!
    }
  }
  if (/^(ld|st|red|atom|prefetch|cp|ldmatrix)$/.test(verb)) return move(instruction, r)
  if (verb === "mma") return multiplyWarp(operands, r)
  if (verb === "nanosleep")
    return (_, w) => {
      w.isSpinning = true
    }
  if (op === "cvt.rn.bf16x2.f32") {
    const [to, high, low] = [r.word(first), r.word(second), r.word(third)]
    return (_, { words }, lanes) => {
      for (const lane of lanes) words[to + lane] = (toBf16(words[high + lane]!) << 16) | toBf16(words[low + lane]!)
    }
  }
  if (op === "mul.rn.bf16x2") {
    const [to, one, other] = [r.word(first), r.word(second), r.word(third)]
    const bits = new Uint32Array(2)
    const floats = new Float32Array(bits.buffer)
    const product = (a: number, b: number): number => {
      bits.set([a, b])
      floats[0]! *= floats[1]!
      return toBf16(bits[0]!)
    }
    return (_, { words }, lanes) => {
      for (const lane of lanes) {
        const [a, b] = [words[one + lane]!, words[other + lane]!]
        words[to + lane] = (product(a & 0xffff0000, b & 0xffff0000) << 16) | product(a << 16, b << 16)
      }
    }
  }
  if (op === "cvt.u64.u32") {
    const [to, from] = [r.long(first), r.word(second)]
    return (_, { words }, lanes) => {
      for (const lane of lanes) {
        words[to + lane] = words[from + lane]!
        words[to + LANES + lane] = 0
      }
    }
  }
  if (op === "cvt.rn.f32.u32") {
    const [to, from] = [r.word(first), r.word(second)]
    return (_, { words, floats }, lanes) => {
      for (const lane of lanes) floats[to + lane] = words[from + lane]!
    }
  }
  if (/^cvt\.r[zp]i\.u32\.f32$/.test(op)) {
    const [to, from] = [r.word(first), r.word(second)]
    const whole = parts[1] === "rzi" ? Math.trunc : Math.ceil
    return (_, { words, floats }, lanes) => {
      for (const lane of lanes) {
        const value = floats[from + lane]!
        words[to + lane] = Number.isNaN(value) ? 0 : Math.min(Math.max(whole(value), 0), 2 ** 32 - 1)
      }
    }
  }
  if (op === "mul.hi.u32") {
    const [to, x, y] = [r.word(first), r.word(second), r.word(third)]
    return (_, { words }, lanes) => {
      for (const lane of lanes) {
        multiplyAdd(words[x + lane]!, words[y + lane]!, 0, 0)
        words[to + lane] = wide.high
      }
    }
  }
  if (op === "mad.wide.u32" || op === "mul.wide.u32") {
    const [to, x, y] = [r.long(first), r.word(second), r.word(third)]
    const z = verb === "mad" ? r.long(fourth) : r.long({ kind: "number", value: 0n })
    return (_, { words }, lanes) => {
      for (const lane of lanes) {
        multiplyAdd(words[x + lane]!, words[y + lane]!, words[z + lane]!, words[z + LANES + lane]!)
        words[to + lane] = wide.low
        words[to + LANES + lane] = wide.high
      }
    }
  }
  if (/64$/.test(type) && !verb.startsWith("mbarrier") && !verb.startsWith("fence")) return ofLongs(instruction, r)
  if (verb === "shfl") {
    const [to, from, by] = [r.word(first), r.word(second), r.word(third)]
    const way = parts[2]!
    return (_, { words }, lanes) => {
      const given = words.slice(from, from + LANES)
      for (const lane of lanes) {
        const step = words[by + lane]!
        const source = way === "bfly" ? lane ^ step : way === "idx" ? step : lane < step ? lane : lane - step
        words[to + lane] = given[source]!
      }
    }
  }
  if (verb === "vote") {
    const [to, from] = [r.word(first), r.word(second)]
    return (_, { words }, lanes) => {
      const any = ALL.some((lane) => words[from + lane] !== 0)
      for (const lane of lanes) words[to + lane] = any ? 1 : 0
    }
  }
  if (verb === "bar" && parts[1] === "sync") {
    const id = r.word(first)
    const threads = second === undefined ? undefined : r.word(second)
    return (b, w) => blockBarrier(b, w, w.words[id]!, threads === undefined ? b.launch.threads : w.words[threads]!)
  }
  if (op === "fence.proxy.async.shared::cta") return (_, w) => loadAll(w)
  // order and budgets: nothing to compute
  if (/^(bar|setmaxnreg|fence|wgmma)/.test(verb) && !/mma_async|wait_group|commit/.test(op)) return () => {}
  if (verb === "mbarrier") return barrier(instruction, r)
  if (op.startsWith("wgmma.mma_async")) return multiply(operands, r)
  if (op.startsWith("wgmma.commit")) return (_, w) => void w.products.push([])
  if (op.startsWith("wgmma.wait_group")) {
    const pending = r.word(first)
    return (_, w) => {
      for (const group of w.products.splice(0, Math.max(0, w.products.length - 1 - w.words[pending]!)))
        for (const product of group) product()
    }
  }
  const isFloat = type === "f32"
  const compute = OWN[op] ?? (isFloat ? FLOAT : INTEGER)[verb]
  if (compute === undefined) throw new Error("unknown instruction")
  const to = r.word(first)
  const [x, y, z] = [second, third, fourth].map((one) => r.word(one ?? { kind: "number", value: 0n })) as [number, number, number]
  // Two loops: a JavaScript engine makes one fast that meets arrays of one kind only.
  if (isFloat)
    return (_, { floats }, lanes) => {
      for (const lane of lanes) floats[to + lane] = compute(floats[x + lane]!, floats[y + lane]!, floats[z + lane]!)
    }
  return (_, { words }, lanes) => {
    for (const lane of lanes) words[to + lane] = compute(words[x + lane]!, words[y + lane]!, words[z + lane]!)
  }
}

function compare({ parts, operands }: Instruction, r: Registers): Work {
  const [first, second, third] = operands as readonly [Value, Value, Value]
  const type = parts.at(-1)!
  const test = COMPARE[parts[1]!]!
  const to = r.word(first)
  if (/64$/.test(type)) {
    const [x, y] = [r.long(second), r.long(third)]
    const of = (words: Uint32Array, at: number) => (BigInt(words[at + LANES]!) << 32n) | BigInt(words[at]!)
    return (_, { words }, lanes) => {
      for (const lane of lanes) words[to + lane] = test(of(words, x + lane), of(words, y + lane)) ? 1 : 0
    }
  }
  const [x, y] = [r.word(second), r.word(third)]
  if (type === "s32")
    return (_, { words }, lanes) => {
      for (const lane of lanes) words[to + lane] = test(words[x + lane]! | 0, words[y + lane]! | 0) ? 1 : 0
    }
  if (type === "f32")
    return (_, { words, floats }, lanes) => {
      for (const lane of lanes) words[to + lane] = test(floats[x + lane]!, floats[y + lane]!) ? 1 : 0
    }
  return (_, { words }, lanes) => {
    for (const lane of lanes) words[to + lane] = test(words[x + lane]!, words[y + lane]!) ? 1 : 0
  }
}

/** Of the bits of an f32. */
function toBf16(bits: number): number {
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}
