/** kernel(): a declaration and a body become a recording with its variants. */
import { value } from "./spirv-expression.ts"
import { Matrices } from "./spirv-matrix.ts"
import { type BufferOf, type BufferSpec, MemoryValue } from "./spirv-memory.ts"
import type { BufferMemory, Constant, Recording } from "./spirv-node.ts"
import { Recorder } from "./spirv-record.ts"
import { type Chosen, type Plain, u32 } from "./spirv-type.ts"
import type { ValueOf } from "./spirv-value.ts"

/** What a push constant, parameter or specialization constant may be: four bytes. */
export type Word = Plain<"u32" | "i32" | "f32", 1>
type Buffers = Readonly<Record<string, BufferSpec>>
type Words = Readonly<Record<string, Word>>
type Constants = Readonly<Record<string, ConstantSpec>>
type None = Readonly<Record<never, never>>

export interface ConstantSpec<T extends Word = Word> {
  readonly type: T
  readonly value: number
}
/** A specialization constant and its default. */
export const constant = <T extends Word>(type: T, value: number): ConstantSpec<T> => ({ type, value })

type Arguments<B, P, L, C> = { readonly [N in keyof B]: BufferOf<B[N]> } & { readonly [N in keyof P]: ValueOf<P[N]> } & {
  readonly [N in keyof L]: ValueOf<L[N]>
} & { readonly [N in keyof C]: C[N] extends ConstantSpec<infer T> ? ValueOf<T> : never }

export interface KernelSpec<B extends Buffers, P extends Words, L extends Words, C extends Constants> {
  readonly name: string
  /** Lanes per workgroup: a number, or the name of a specialization constant. */
  readonly workgroup: number | (keyof C & string)
  /** Each is an address in the push constants, aligned to 16 bytes. */
  readonly buffers: B
  /** Numbers that are fixed when the dispatch is recorded. */
  readonly push?: P
  /** Numbers read when the dispatch runs, from a block of words whose address is the push constant `params`. */
  readonly params?: L
  /** Numbers fixed when the pipeline is made. Their SpecIds are 1, 2, … in this order; 0 is the subgroup size. */
  readonly constants?: C
  /** Types of the choices (`act`) that are wanted; by default all combinations of f32 and bf16. */
  readonly variants?: readonly Chosen[]
  /** Most shared memory in KiB; 48 where a device that lacks it is given another kernel. */
  readonly sharedKiB?: 32 | 48
  /** Recorded once. TypeScript around the recorded calls is compile-time code. */
  body(k: Matrices, values: Arguments<B, P, L, C>): void
}

export interface Variant {
  /** Name in the pack: rms_norm_forward.bf16. */
  readonly name: string
  readonly chosen: Chosen
}

export interface Kernel<B extends Buffers = Buffers, P extends Words = Words, L extends Words = Words, C extends Constants = Constants> {
  readonly name: string
  readonly workgroup: number | string
  readonly buffers: B
  readonly push: P
  readonly params: L
  readonly constants: C
  readonly sharedKiB: 32 | 48
  readonly variants: readonly Variant[]
  /** What the body recorded, when first asked for. */
  readonly recording: Recording
}

/** A kernel from its declaration. */
export function kernel<B extends Buffers, P extends Words = None, L extends Words = None, C extends Constants = None>(
  spec: KernelSpec<B, P, L, C>,
): Kernel<B, P, L, C> {
  let recording: Recording | undefined
  return {
    name: spec.name,
    workgroup: spec.workgroup,
    buffers: spec.buffers,
    push: spec.push ?? ({} as P),
    params: spec.params ?? ({} as L),
    constants: spec.constants ?? ({} as C),
    sharedKiB: spec.sharedKiB ?? 32,
    variants: variantsOf(spec.name, spec.buffers, spec.variants),
    get recording() {
      recording ??= record(spec)
      return recording
    },
  }
}

/** The specialization constants of a kernel with their SpecIds. */
export function constantsOf(constants: Constants): Constant[] {
  return Object.entries(constants).map(([name, { type, value }], i) => ({ name, id: i + 1, type, value }))
}

function variantsOf(name: string, buffers: Buffers, wanted: readonly Chosen[] | undefined): Variant[] {
  const choices = [...new Set(Object.values(buffers).flatMap(({ element }) => ("choice" in element ? [element.choice] : [])))]
  const all = choices.reduce<Chosen[]>(
    (list, choice) => list.flatMap((chosen) => (["f32", "bf16"] as const).map((type) => ({ ...chosen, [choice]: type }))),
    [{}],
  )
  return (wanted ?? all).map((chosen) => ({ name: [name, ...choices.map((choice) => chosen[choice])].join("."), chosen }))
}

function record<B extends Buffers, P extends Words, L extends Words, C extends Constants>(spec: KernelSpec<B, P, L, C>): Recording {
  const recorder = new Recorder(spec.name)
  const values: Record<string, unknown> = {}
  const define = (name: string, made: unknown) => {
    if (name in values || name === "params") recorder.fail(`the name ${name} is taken`)
    values[name] = made
  }
  for (const [name, { access, element }] of Object.entries(spec.buffers)) {
    const memory: BufferMemory = { kind: "buffer", name, access, element }
    define(name, new MemoryValue(recorder, { memory, element, count: 1 }))
  }
  for (const kind of ["push", "param"] as const) {
    for (const [name, type] of Object.entries((kind === "push" ? spec.push : spec.params) ?? {}))
      define(name, value(recorder, recorder.global(`${kind} ${name}`, { kind, name }, type)))
  }
  for (const constant of constantsOf(spec.constants ?? {}))
    define(constant.name, value(recorder, recorder.global(`constant ${constant.name}`, { kind: "constant", constant }, constant.type)))
  const { workgroup } = spec
  const size =
    typeof workgroup === "number"
      ? recorder.literal(u32, workgroup)
      : (values[workgroup] as { readonly node: ReturnType<Recorder["literal"]> }).node
  spec.body(new Matrices(recorder, size), values as never)
  const { block, shared, exchangesBuffers } = recorder
  return { root: block, shared, exchangesBuffers }
}
