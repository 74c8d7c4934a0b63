/** defineOp: gives an op its types, so that a forgotten gradient or a misspelt input does not compile. */
import type { NativeCall } from "./native.ts"
import { apply, type Beta, type GpuTarget, type InputKind, type Launches, type Op, type OpCase, type View } from "./program.ts"
import type { Tensor, TensorType } from "./tensor.ts"

type Inputs = Readonly<Record<string, InputKind>>
type Of<K extends InputKind, T> = K extends "list" ? readonly T[] : K extends `${string}?` ? T | undefined : T
type Optional<I extends Inputs> = { [N in keyof I]: I[N] extends `${string}?` ? N : never }[keyof I]
/** Inputs as an op's functions see them. */
type Named<I extends Inputs, T> = { readonly [N in keyof I]: Of<I[N], T> }
/** Inputs as a caller gives them: optional ones may be left out. */
type Given<I extends Inputs> = { readonly [N in Exclude<keyof I, Optional<I>>]: Of<I[N], Tensor> } & {
  readonly [N in Optional<I>]?: Tensor | undefined
}
type GradName<I extends Inputs> = { [N in keyof I]: I[N] extends "grad" | "grad?" ? N : never }[keyof I]

export interface OpSpec<I extends Inputs, O extends readonly string[], A extends object> {
  readonly name: string
  /** Formula, shapes, source. */
  readonly doc: string
  readonly inputs: I
  /** The first is the value, the rest is kept for backward. */
  readonly outputs: O
  /** Type of the attributes: `{} as { eps: number }`. */
  readonly attrs?: A
  readonly writes?: readonly (keyof I & string)[]
  readonly accumulates?: readonly O[number][]
  readonly differentiable?: readonly O[number][]
  readonly inPlace?: { readonly [N in O[number]]?: keyof I & string }
  /** Throws ShapeError naming both shapes; an output left out does not exist for these inputs. */
  shape(inputs: Named<I, Tensor>, attrs: A): { [N in O[number]]?: TensorType }
  /** Plain loops: the f64 oracle. An output is undefined when nobody reads it. */
  reference(inputs: Named<I, View>, outputs: { [N in O[number]]: View }, attrs: A, beta: Beta<number>): void
  cpu(inputs: Named<I, Tensor>, outputs: { [N in O[number]]: Tensor | undefined }, attrs: A, beta: Beta<Tensor>): NativeCall<Tensor>
  gpu?(
    inputs: Named<I, Tensor>,
    outputs: { [N in O[number]]: Tensor | undefined },
    attrs: A,
    beta: Beta<Tensor>,
    target: GpuTarget,
  ): Launches
  /** Floating-point operations, for ops that are bound by them. */
  flops?(inputs: Named<I, Tensor>, attrs: A): number
  /** Nodes that compute the gradient of every "grad" input from the gradient of the outputs; undefined only where the input is absent. */
  backward?(
    inputs: Named<I, Tensor>,
    outputs: { [N in O[number]]: Tensor },
    grads: { [N in O[number]]: Tensor | undefined },
    attrs: A,
  ): { [N in GradName<I>]: I[N] extends "grad" ? Tensor : Tensor | undefined }
  readonly cases: readonly (Omit<OpCase, "attrs"> & { readonly attrs?: NoInfer<A> })[]
  readonly act?: readonly (keyof I & string)[]
  readonly tolerance?: { readonly f32?: number; readonly bf16?: number }
}

/** An op: applied like a function, looked up like an object. */
export type OpFunction<I extends Inputs, O extends readonly string[], A extends object> = Op &
  ((inputs: Given<I>, ...attrs: object extends A ? [attrs?: A] : [attrs: A]) => { [N in O[number]]: Tensor })

export function defineOp<const I extends Inputs, const O extends readonly string[], A extends object = Record<never, never>>(
  spec: OpSpec<I, O, A>,
): OpFunction<I, O, A> {
  const call = (inputs: Given<I>, attrs?: A) => apply(op as unknown as Op, inputs as never, (attrs ?? {}) as never)
  const op = Object.defineProperties(call, {
    ...Object.getOwnPropertyDescriptors({
      writes: [],
      accumulates: [],
      inPlace: {},
      act: [],
      differentiable: spec.outputs.slice(0, 1),
      ...spec,
      tolerance: { f32: 1e-5, bf16: 8e-3, ...spec.tolerance },
    }),
    name: { value: spec.name },
  })
  return op as unknown as OpFunction<I, O, A>
}

/** Type field of a kernel: 0 f32, 1 bf16. */
export const typeOf = (t: Tensor): number => (t.dtype === "bf16" ? 1 : 0)
