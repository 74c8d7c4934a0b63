/** What happens to an element of a matrix product between its sum and memory. */
import {
  type Body,
  choice,
  constant,
  type F32,
  f32,
  type ReadBuffer,
  type ReadWriteBuffer,
  read,
  readWrite,
  type U32,
  u32,
  type Var,
  type WriteBuffer,
  write,
} from "../src/spirv.ts"
import { activate, activationSlope } from "./activation-kind.ts"

/** Type of c, kept and addend. */
export const out = choice("out")
type Out = typeof out

/** What a kernel with this epilogue declares. Buffers that the constants do not call for may be absent. */
export const epilogue = {
  buffers: { bias: read(f32), kept: readWrite(out), addend: read(out), c: write(out) },
  push: { ldc: u32, scale: f32 },
  params: { beta: f32 },
  constants: {
    isScaled: constant(u32, 0),
    hasBias: constant(u32, 0),
    /** Writes the activation's derivative to kept. */
    keepsSlope: constant(u32, 0),
    /** Number of the activation, 0 = none. */
    activation: constant(u32, 0),
    /** What is kept is a factor. */
    multiplies: constant(u32, 0),
    /** Adds beta·addend. */
    adds: constant(u32, 0),
  },
} as const

export interface Epilogue {
  readonly bias: ReadBuffer<typeof f32>
  readonly kept: ReadWriteBuffer<Out>
  readonly addend: ReadBuffer<Out>
  readonly c: WriteBuffer<Out>
  readonly ldc: U32
  readonly scale: F32
  readonly beta: F32
  readonly isScaled: U32
  readonly hasBias: U32
  readonly keepsSlope: U32
  readonly activation: U32
  readonly multiplies: U32
  readonly adds: U32
}

/**
 * c[m, n + j] from sums[j]: z = scale·sum + bias[n + j]; kept ← activation'(z) or z ← z·kept; c ← activation(z) + beta·addend, where beta 0 does
 * not read. Four or eight sums are written as one pack: then n and ldc are multiples of as many. `biases`
 * and `before` are those of the columns and what is kept where they have been read already.
 */
export function finish(
  k: Body,
  e: Epilogue,
  m: U32,
  n: U32,
  sums: readonly F32[],
  { biases, before }: { readonly biases?: readonly Var<typeof f32>[]; readonly before?: () => readonly F32[] } = {},
): void {
  const at = m.mul(e.ldc).add(n)
  const size = sums.length
  const load = (from: ReadBuffer<Out>): readonly F32[] =>
    size === 4 || size === 8 ? from.pack(size).at(at.div(size)) : sums.map((_, j) => from.at(at.add(j)))
  const store = (to: WriteBuffer<Out>, now: readonly F32[]) => {
    if (size === 4 || size === 8) to.pack(size).set(at.div(size), now)
    else now.forEach((one, j) => to.set(at.add(j), one))
  }
  const z = sums.map((sum) => k.var(f32, sum))
  k.if(e.isScaled.ne(0), () => z.forEach((one) => one.update((v) => v.mul(e.scale))))
  k.if(e.hasBias.ne(0), () => z.forEach((one, j) => one.add(biases?.[j]?.get() ?? e.bias.at(n.add(j)))))
  k.if(e.keepsSlope.ne(0), () =>
    store(
      e.kept,
      z.map((one) => activationSlope(k, e.activation, one.get())),
    ),
  )
  k.if(e.activation.ne(0), () => z.forEach((one) => one.update((v) => activate(k, e.activation, v))))
  k.if(e.multiplies.ne(0), () => {
    const factors = before?.() ?? load(e.kept)
    z.forEach((one, j) => one.update((v) => v.mul(factors[j]!)))
  })
  k.if(e.adds.ne(0).and(e.beta.ne(0)), () => {
    const addend = load(e.addend)
    z.forEach((one, j) => one.update((v) => addend[j]!.fma(e.beta, v)))
  })
  store(
    e.c,
    z.map((one) => one.get()),
  )
}
