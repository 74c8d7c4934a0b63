/** The cases of an op: their inputs as tensors of a program, and their values. */
import { normal } from "./base-random.ts"
import type { Values } from "./op-reference.ts"
import type { CaseDescription, CaseInput, Op, OpCase, Tracer } from "./program.ts"
import { elements, type Tensor } from "./tensor.ts"

/** A case input in its long form; a number is a scalar's value. */
const described = (value: CaseInput): CaseDescription =>
  typeof value === "number" ? { shape: [], values: [value] } : "shape" in value ? value : { shape: value }

/** Declares a case's inputs as state (floats) or inputs (indices, scalars) of the program being traced. */
export function caseInputs(t: Tracer, op: Op, opCase: OpCase, act: "f32" | "bf16"): Record<string, Tensor | Tensor[] | undefined> {
  const declared: Record<string, Tensor | Tensor[] | undefined> = {}
  for (const [name, kind] of Object.entries(op.inputs)) {
    const value = opCase.inputs[name]
    if (value === undefined) continue
    if (kind === "list") {
      declared[name] = (value as readonly CaseInput[])
        .map(described)
        .map((item, i) => t.state(`${name}.${i}`, item.dtype ?? "f32", item.shape))
    } else if (kind.startsWith("scalar")) declared[name] = t.live(name, described(value as CaseInput).dtype ?? "f32")
    else {
      const given = described(value as CaseInput)
      if (kind.startsWith("index")) declared[name] = t.input(name, "i32", given.shape)
      else declared[name] = t.state(name, given.dtype ?? (op.act.includes(name) ? act : "f32"), given.shape)
    }
  }
  return declared
}

/** Values for a case: floats normal(0, 1) unless given, indices uniform in [from, below). Deterministic in (seed, name). */
export function caseValues(op: Op, opCase: OpCase, seed: number): { state: Values; inputs: Record<string, number | Int32Array> } {
  const state: Values = new Map()
  const inputs: Record<string, number | Int32Array> = {}
  Object.entries(op.inputs).forEach(([name, kind], stream) => {
    const value = opCase.inputs[name]
    if (value === undefined) return
    if (kind.startsWith("scalar")) {
      inputs[name] = described(value as CaseInput).values?.[0] ?? 0
      return
    }
    const given = described(value as CaseInput)
    const random = ({ shape, positive, values }: CaseDescription, sub: number) => {
      const drawn = Float64Array.from({ length: elements({ shape }) }, (_, i) => Math.fround(normal(seed, stream, sub, i)))
      return values === undefined ? drawn.map((x) => (positive === true ? Math.abs(x) : x)) : Float64Array.from(values)
    }
    if (kind === "list") (value as readonly CaseInput[]).map(described).forEach((item, i) => state.set(`${name}.${i}`, random(item, i)))
    else if (kind.startsWith("index")) {
      const { from = 0, below = 0 } = given
      const drawn = random({ shape: given.shape }, 0).map((x) => from + (Math.floor(Math.abs(x) * 7919) % (below - from)))
      inputs[name] = Int32Array.from(given.values ?? drawn)
    } else state.set(name, random(given, 0))
  })
  return { state, inputs }
}
