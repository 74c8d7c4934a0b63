/** Runs a few ops on given values, on the CPU and in f64, for known answers. */
import { expect } from "bun:test"
import { openCpu } from "../src/cpu.ts"
import { runReference, type Values } from "../src/op-reference.ts"
import { plan, trace } from "../src/program.ts"
import type { Tensor } from "../src/tensor.ts"

openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

/** A matrix or vector of floats; `ints` makes indices. */
export type Given = readonly number[] | readonly (readonly number[])[] | { readonly ints: readonly number[] }

export interface Result {
  readonly cpu: Float64Array
  readonly exact: Float64Array
}

/** Values of the tensors that `body` returns, from inputs of these values. */
export function evaluate<I extends Readonly<Record<string, Given>>>(
  given: I,
  body: (inputs: { readonly [N in keyof I]: Tensor }) => Readonly<Record<string, Tensor>>,
): Record<string, Result> {
  const values: Values = new Map()
  const shapes = new Map<string, readonly number[]>()
  for (const [name, value] of Object.entries(given)) {
    const list = "ints" in value ? value.ints : value.flat()
    const isMatrix = !("ints" in value) && Array.isArray(value[0])
    shapes.set(name, isMatrix ? [value.length, (value[0] as readonly number[]).length] : [list.length])
    values.set(name, "ints" in value ? Int32Array.from(list) : Float64Array.from(list))
  }
  const made = plan(
    trace("known answer", (t) => {
      const inputs = Object.fromEntries(
        [...shapes].map(([name, shape]) => [name, t.state(name, values.get(name) instanceof Int32Array ? "i32" : "f32", shape)]),
      )
      for (const [name, out] of Object.entries(body(inputs as never))) t.output(name, out)
    }),
  )
  const exact = runReference(made.program, new Map(values), {})
  const device = openCpu(2)
  const state = device.state()
  const run = device.compile(made, state)
  for (const [name, value] of values) state.write(name, value instanceof Int32Array ? value : Float32Array.from(value))
  const outputs = run.submit({})
  return Object.fromEntries(
    [...made.program.outputs.keys()].map((name) => [
      name,
      { cpu: Float64Array.from(outputs.read(name)), exact: exact.get(name) as Float64Array },
    ]),
  )
}

/** Every value within `tolerance` of `want`, on the CPU and in f64 (a result of PyTorch's f32 needs the tolerance there too). */
export function expectValues(got: Result | undefined, want: readonly number[], tolerance = 1e-6): void {
  for (const values of [got?.cpu, got?.exact]) {
    expect(values?.length).toBe(want.length)
    want.forEach((x, i) => {
      expect(Math.abs((values?.[i] as number) - x)).toBeLessThanOrEqual(tolerance * Math.max(1, Math.abs(x)))
    })
  }
}
