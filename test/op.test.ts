/** One loop over the op table: gradients in f64, the CPU against the reference, bits against thread count. */
import { describe, expect, test } from "bun:test"
import { openCpu } from "../src/cpu.ts"
import { caseInputs, caseValues, gradCheck } from "../src/grad-check.ts"
import { ops } from "../src/op.ts"
import { runReference, type Values } from "../src/op-reference.ts"
import { type Op, type OpCase, plan, type Tracer, trace } from "../src/program.ts"
import { elements, type Tensor } from "../src/tensor.ts"
import { fromBf16, relativeL2, toBf16 } from "./support.ts"

openCpu(2) // builds the library where it is out of date, before the clock of the first test starts

/** Traces one application; outputs become states "out.*" (accumulating ones add to what is there). */
function program(op: Op, opCase: OpCase, act: "f32" | "bf16") {
  return plan(
    trace(`case ${op.name}`, (t: Tracer) => {
      const inputs = caseInputs(t, op, opCase, act)
      const outputs = (op as unknown as (i: object, a: object) => Record<string, Tensor>)(inputs, opCase.attrs ?? {})
      const node = t.program.nodes.at(-1)
      for (const [name, out] of Object.entries(outputs)) {
        const into = t.state(`out.${name}`, out.dtype, out.shape)
        if (node === undefined) continue
        node.outputs[name] = into
        if (op.accumulates.includes(name)) node.accumulate[name] = t.live("beta")
      }
    }),
  )
}

/** Runs a case on the CPU; returns every state afterwards as f64. */
function onCpu(op: Op, opCase: OpCase, act: "f32" | "bf16", start: Values, inputs: Record<string, number | Int32Array>, threads: number): Map<string, Float64Array> {
  const cpu = openCpu(threads) // sets the size of the one pool
  const state = cpu.state()
  const plan = program(op, opCase, act)
  for (const t of plan.program.states.values()) {
    state.ensure(t.name, t.dtype, t.shape)
    const values = start.get(t.name) ?? new Float64Array(elements(t))
    state.write(t.name, t.dtype === "bf16" ? toBf16(values) : t.dtype === "i32" ? Int32Array.from(values) : Float32Array.from(values))
  }
  const run = cpu.compile(plan, state)
  run.submit(inputs)
  const after = new Map([...plan.program.states.values()].map((t) => [t.name, toF64(state.read(t.name), t)]))
  run.free()
  state.free()
  return after
}

const toF64 = (values: Float32Array | Int32Array | Uint16Array, t: Tensor): Float64Array =>
  t.dtype === "bf16" ? fromBf16(values as Uint16Array) : Float64Array.from(values)

for (const op of ops) {
  describe(op.name, () => {
    op.cases.forEach((opCase, index) => {
      const about = `${index}${opCase.about === undefined ? "" : ` ${opCase.about}`}`
      if (op.backward !== undefined) {
        test(`gradient, case ${about}`, () => expect(gradCheck(op, opCase)).toBeLessThan(1e-6))
      }
      for (const act of op.act.length > 0 ? (["f32", "bf16"] as const) : (["f32"] as const)) {
        for (const beta of op.accumulates.length > 0 ? [0, 1] : [0]) {
          test(`cpu = reference, ${act}${beta ? ", adding" : ""}, case ${about}`, () => {
            const { state, inputs } = caseValues(op, opCase, index + 1)
            const traced = program(op, opCase, act).program
            for (const t of traced.states.values()) {
              const values = state.get(t.name)
              if (t.name.startsWith("out.")) state.set(t.name, new Float64Array(elements(t)).fill(beta ? 0.5 : Number.NaN))
              else if (t.dtype === "bf16" && values !== undefined) state.set(t.name, fromBf16(toBf16(values)))
            }
            const run = traced.live.has("beta") ? { ...inputs, beta } : inputs
            const got = onCpu(op, opCase, act, state, run, 2)
            const single = onCpu(op, opCase, act, state, run, 1)
            const want: Values = new Map([...state].map(([name, v]) => [name, v.slice()]))
            for (const name of want.keys()) if (name.startsWith("out.") && !beta) want.get(name)?.fill(0)
            runReference(traced, want, run)
            for (const [name, values] of got) {
              const dtype = traced.states.get(name)?.dtype
              const limit = dtype === "i32" ? 0 : op.tolerance[act === "bf16" || dtype === "bf16" ? "bf16" : "f32"]
              expect(relativeL2(values, want.get(name) as Float64Array)).toBeLessThanOrEqual(limit)
              expect(Buffer.from(values.buffer).equals(Buffer.from((single.get(name) as Float64Array).buffer))).toBe(true)
            }
          })
        }
      }
    })
  })
}
