/** The f64 reference as a machine that replays golden runs. */
import type { Machine } from "../src/engine-golden.ts"
import { runReference, type Values } from "../src/op.ts"

export function referenceMachine(): Machine {
  const state: Values = new Map()
  return {
    slack: 1,
    write: (name, _, __, values) => void state.set(name, Float64Array.from(values)),
    read: (name) => state.get(name) ?? [],
    run(plan, inputs, output) {
      const outputs = runReference(plan.program, state, inputs)
      return output === undefined ? [] : (outputs.get(output) ?? [])
    },
  }
}
