/** One-direction gradient check in f64: compares ⟨c, J·t⟩ by finite differences with ⟨Jᵀ·c, t⟩ by backward. */
import { normal } from "./base-random.ts"
import { gradients } from "./grad.ts"
import { add, weightedSum } from "./op.ts"
import { runReference, type Values } from "./op-reference.ts"
import { type CaseDescription, type CaseInput, type Op, type OpCase, plan, type Tracer, trace } from "./program.ts"
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
      declared[name] = (value as readonly CaseInput[]).map(described).map((item, i) => t.state(`${name}.${i}`, item.dtype ?? "f32", item.shape))
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

/**
 * Relative error |finite difference − backward| / max(1, |finite difference|) along one random direction of all "grad" inputs.
 * A right op scores below 1e-6; an error of 0.01 % in a gradient scores about 1e-4.
 */
export function gradCheck(op: Op, opCase: OpCase, seed = 1): number {
  const names = Object.entries(op.inputs)
    .filter(([name, kind]) => kind.startsWith("grad") && opCase.inputs[name] !== undefined)
    .map(([name]) => name)
  const program = (backward: boolean) =>
    plan(
      trace(`check ${op.name}`, (t) => {
        const inputs = caseInputs(t, op, opCase, "f32")
        const outputs = (op as unknown as (i: object, a: object) => Record<string, Tensor>)(inputs, opCase.attrs ?? {})
        const loss = differentiable(op, outputs).map((y, i) => (y.shape.length === 0 ? y : weightedSum({ x: y }, { stream: i + 77 }).y))
        const total = loss.reduce((a, b) => add({ a, b }).y)
        t.output("loss", total)
        if (!backward) return
        const leaves = names.map((name) => [inputs[name] as Tensor, target(t, inputs[name] as Tensor)] as const)
        gradients(total, new Map(leaves))
      }),
    ).program
  const { state, inputs } = caseValues(op, opCase, seed)
  const forward = program(false)
  const at = (h: number): number => {
    const moved: Values = new Map([...state].map(([name, v]) => [name, v.slice()]))
    names.forEach((name, k) => {
      const v = moved.get(name) as Float64Array
      v.forEach((x, i) => {
        v[i] = x + h * normal(seed + 1, k, 0, i)
      })
    })
    return runReference(forward, moved, inputs).get("loss")?.[0] as number
  }
  const h = 1e-4
  const numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
  runReference(program(true), state, inputs)
  const exact = names.reduce((sum, name, k) => {
    const g = state.get(`grad.${name}`) as Float64Array
    return sum + g.reduce((s, x, i) => s + x * normal(seed + 1, k, 0, i), 0)
  }, 0)
  return Math.abs(numeric - exact) / Math.max(1, Math.abs(numeric))
}

const differentiable = (op: Op, outputs: Record<string, Tensor>): Tensor[] => op.differentiable.map((name) => outputs[name] as Tensor)

const target = (t: Tracer, leaf: Tensor) => ({ into: t.state(`grad.${leaf.name}`, "f32", leaf.shape), beta: t.constant(0) })
