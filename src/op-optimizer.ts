/** The update of a training step: global norm, the decision to skip, and the elementwise optimizers over all parameters at once. */
import { CONTROL, stepControl as stepControlKernel } from "../shaders/step-control.ts"
import { nativeKernel } from "./native.ts"
import { defineOp } from "./op-define.ts"
import { launch } from "./op-gpu.ts"
import { globalNormLaunches, updateLaunches } from "./op-optimizer-gpu.ts"
import type { View } from "./program.ts"
import { elements, expectShape, type Tensor } from "./tensor.ts"

export { CONTROL }
export const CONTROL_SIZE = 8

const at = (view: View, i: number): number => view.data[i] as number

const globalNormKernel = nativeKernel("global_norm", { tensors: { data: "pointer", size: "int" }, count: "int", norm: "pointer" })

export const globalNorm = defineOp({
  name: "global_norm",
  doc: "norm = √(Σ g²) over all gradients, summed in f64 in an order fixed by the sizes.",
  inputs: { grads: "list" },
  outputs: ["norm"],
  shape: () => ({ norm: { shape: [], dtype: "f32" } }),
  reference({ grads }, { norm }) {
    norm.data[0] = Math.sqrt(grads.reduce((sum, g) => sum + (g.data as Float64Array).reduce((s, x) => s + x * x, 0), 0))
  },
  cpu: ({ grads }, { norm }) =>
    globalNormKernel({ tensors: grads.map((g) => ({ data: g, size: elements(g) })), count: grads.length, norm }),
  gpu: ({ grads }, { norm }) => (norm === undefined ? [] : globalNormLaunches(grads, norm)),
  cases: [
    { inputs: { grads: [[3, 5], [7], [1]] } },
    { inputs: { grads: [[300, 301], [70000]] }, about: "more than 65,536 elements, where an ancestor lost half the sum" },
  ],
})

const controlKernel = nativeKernel("step_control", {
  norm: "pointer",
  targets: "pointer",
  control: "pointer",
  clip: "float",
  spike: "float",
})

/** Steps applied before spikes are judged, and the weight of the newest norm in the running mean. */
const SPIKE_WARMUP = 50
const SPIKE_DECAY = 0.02

export const stepControl = defineOp({
  name: "step_control",
  doc: `Decides a step: n = norm/targets; skipped if n is not finite or (after ${SPIKE_WARMUP} applied steps) n > mean + spike·√variance;
scale = min(1, clip/(n + 1e-6))/targets, 0 when skipped; counts applied and skipped steps. Running statistics with a = ${SPIKE_DECAY}, δ = n − mean:
mean ← mean + a·δ, variance ← (1 − a)·(variance + a·δ²). A spike enters them cut to the limit, so that a lasting rise of the norm is not skipped
for ever; what is not finite does not enter. clip, spike: 0 = off.`,
  inputs: { norm: "state", targets: "state", control: "state" },
  outputs: [],
  writes: ["control"],
  attrs: {} as { clip: number; spike: number },
  shape({ control }) {
    expectShape("step_control", "control", control, [CONTROL_SIZE])
    return {}
  },
  reference({ norm, targets, control }, _, { clip, spike }) {
    const c = control.data
    const n = at(norm, 0) / at(targets, 0)
    const applied = at(control, CONTROL.applied)
    const mean = at(control, CONTROL.meanNorm)
    const variance = at(control, CONTROL.variance)
    const limit = spike > 0 && applied >= SPIKE_WARMUP ? mean + spike * Math.sqrt(variance) : Number.POSITIVE_INFINITY
    const finite = Number.isFinite(n)
    const skip = !finite || n > limit
    c[CONTROL.norm] = n
    c[CONTROL.skip] = skip ? 1 : 0
    c[CONTROL.skipped] = at(control, CONTROL.skipped) + (skip ? 1 : 0)
    c[CONTROL.scale] = skip ? 0 : (clip > 0 ? Math.min(1, clip / (n + 1e-6)) : 1) / at(targets, 0)
    if (!finite) return
    const delta = Math.min(n, limit) - mean
    c[CONTROL.applied] = applied + (skip ? 0 : 1)
    c[CONTROL.meanNorm] = applied === 0 ? n : mean + SPIKE_DECAY * delta
    c[CONTROL.variance] = applied === 0 ? 0 : (1 - SPIKE_DECAY) * (variance + SPIKE_DECAY * delta ** 2)
  },
  cpu: ({ norm, targets, control }, _, { clip, spike }) => controlKernel({ norm, targets, control, clip, spike }),
  gpu: ({ norm, targets, control }, _, { clip, spike }) => [
    launch(stepControlKernel, { norm, targets, control, clip, spike, warmup: SPIKE_WARMUP, decay: SPIKE_DECAY }, 1),
  ],
  cases: [
    {
      inputs: { norm: given([30]), targets: given([10]), control: given([7, 1, 2, 0, 0, 0, 0.5, 0]) },
      attrs: { clip: 1, spike: 0 },
      about: "clipped",
    },
    {
      inputs: { norm: given([3]), targets: given([10]), control: given([0, 0, 0, 0, 0, 0, 0, 0]) },
      attrs: { clip: 1, spike: 5 },
      about: "first",
    },
    {
      inputs: { norm: given([300]), targets: given([10]), control: given([99, 1, 2, 0, 0, 0, 0.5, 0]) },
      attrs: { clip: 1, spike: 5 },
      about: "spike",
    },
  ],
})

function given(values: number[]) {
  return { shape: values.length === 1 ? [] : [values.length], values }
}

/** What every elementwise optimizer takes: weight decay per parameter, and which parameters have a bf16 copy (index into `copies`). */
export interface UpdateAttrs {
  readonly decay: readonly number[]
  readonly copies: readonly (number | undefined)[]
}

const ROW = { p: "pointer", g: "pointer", m: "pointer", v: "pointer", copy: "pointer", size: "int", decay: "float" } as const
const FIELDS = { tensors: ROW, count: "int", lr: "pointer", control: "pointer", beta1: "float", beta2: "float", eps: "float" } as const
const adamwKernel = nativeKernel("adamw", FIELDS)
const lionKernel = nativeKernel("lion", FIELDS)
const sgdKernel = nativeKernel("sgd", FIELDS)

type Lists<T> = { readonly params: readonly T[]; readonly grads: readonly T[]; readonly m: readonly T[]; readonly copies: readonly T[] }

/** Table rows of a kernel. */
const tableRows = ({ params, grads, m, copies }: Lists<Tensor>, v: readonly Tensor[] | undefined, attrs: UpdateAttrs) =>
  params.map((p, i) => {
    const copy = attrs.copies[i]
    return {
      p,
      g: grads[i],
      m: m[i],
      v: v?.[i],
      copy: copy === undefined ? undefined : copies[copy],
      size: elements(p),
      decay: attrs.decay[i] ?? 0,
    }
  })

/** Arguments of a kernel: the table, where rate and decision lie, and its constants. */
const kernelArgs = (
  { lr, control, v, ...lists }: Lists<Tensor> & { readonly lr: Tensor; readonly control: Tensor; readonly v?: readonly Tensor[] },
  attrs: UpdateAttrs,
  { beta1, beta2, eps }: { beta1: number; beta2: number; eps: number },
) => ({ tensors: tableRows(lists, v, attrs), count: lists.params.length, lr, control, beta1, beta2, eps })

function checkLists(name: string, lists: Lists<Tensor>): void {
  lists.params.forEach((p, i) => {
    for (const list of [lists.grads, lists.m]) {
      const other = list[i]
      if (other === undefined) throw new TypeError(`${name}: ${p.name} has no gradient or moment`)
      expectShape(name, other.name, other, p.shape, p.name)
    }
  })
}

/** Runs `element(i, g)` over all parameters unless the step is skipped, then refreshes the bf16 copies. */
function updateAll(
  lists: Lists<View>,
  control: View,
  attrs: UpdateAttrs,
  element: (k: number, i: number, g: number, decay: number) => number,
): void {
  const scale = at(control, CONTROL.scale)
  if (scale === 0) return
  lists.params.forEach((p, k) => {
    for (let i = 0; i < p.data.length; i++) p.data[i] = element(k, i, at(lists.grads[k] as View, i) * scale, attrs.decay[k] ?? 0)
    const copy = attrs.copies[k]
    if (copy !== undefined) (lists.copies[copy] as View).data.set(p.data)
  })
}

export const adamw = defineOp({
  name: "adamw",
  doc: `AdamW, decoupled decay (arXiv:1711.05101): m ← β1·m + (1−β1)·g, v ← β2·v + (1−β2)·g², p ← p·(1 − lr·decay) − lr·(m/(1−β1ᵗ))/(√(v/(1−β2ᵗ)) + eps);
g = gradient·scale, t = applied steps (this one counted), both from control. One call for all parameters; 28 bytes moved per parameter.`,
  inputs: { params: "list", grads: "list", m: "list", v: "list", copies: "list", lr: "scalar", control: "state" },
  outputs: [],
  writes: ["params", "m", "v", "copies"],
  attrs: {} as UpdateAttrs & { beta1: number; beta2: number; eps: number },
  shape(lists) {
    checkLists("adamw", lists)
    return {}
  },
  reference({ v, lr, control, ...lists }, _, attrs) {
    const { beta1, beta2, eps } = attrs
    const t = at(control, CONTROL.applied)
    const rate = at(lr, 0)
    updateAll(lists, control, attrs, (k, i, g, decay) => {
      const [m2, v2] = [(lists.m[k] as View).data, (v[k] as View).data]
      m2[i] = beta1 * (m2[i] as number) + (1 - beta1) * g
      v2[i] = beta2 * (v2[i] as number) + (1 - beta2) * g * g
      const step = (m2[i] as number) / (1 - beta1 ** t) / (Math.sqrt((v2[i] as number) / (1 - beta2 ** t)) + eps)
      return at(lists.params[k] as View, i) * (1 - rate * decay) - rate * step
    })
  },
  cpu: (operands, _, attrs) => adamwKernel(kernelArgs(operands, attrs, attrs)),
  gpu: (operands, _, attrs) => updateLaunches("adamw", operands, { ...attrs, copyOf: attrs.copies }),
  cases: [
    {
      inputs: {
        params: [[5, 7], [70003]],
        grads: [[5, 7], [70003]],
        m: [[5, 7], [70003]],
        v: [
          { shape: [5, 7], positive: true },
          { shape: [70003], positive: true },
        ],
        copies: [{ shape: [70003], dtype: "bf16" }],
        lr: 0.01,
        control: given([3, 0, 1, 0.5, 1, 0, 0, 0]),
      },
      attrs: { beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: [0.1, 0], copies: [undefined, 0] },
    },
  ],
})

/** Operands of the optimizers with one moment, and a case of them. */
const oneMoment = {
  inputs: { params: "list", grads: "list", m: "list", copies: "list", lr: "scalar", control: "state" },
  outputs: [],
  writes: ["params", "m", "copies"],
} as const
const oneMomentCase = {
  params: [[5, 7], [9]],
  grads: [[5, 7], [9]],
  m: [[5, 7], [9]],
  copies: [],
  lr: 0.01,
  control: given([3, 0, 1, 0.5, 1, 0, 0, 0]),
}

export const lion = defineOp({
  name: "lion",
  doc: "Lion (arXiv:2302.06675): p ← p·(1 − lr·decay) − lr·sign(β1·m + (1−β1)·g), m ← β2·m + (1−β2)·g; g = gradient·scale.",
  ...oneMoment,
  attrs: {} as UpdateAttrs & { beta1: number; beta2: number },
  shape(lists) {
    checkLists("lion", lists)
    return {}
  },
  reference({ lr, control, ...lists }, _, attrs) {
    const { beta1, beta2 } = attrs
    const rate = at(lr, 0)
    updateAll(lists, control, attrs, (k, i, g, decay) => {
      const m = (lists.m[k] as View).data
      const step = Math.sign(beta1 * (m[i] as number) + (1 - beta1) * g)
      m[i] = beta2 * (m[i] as number) + (1 - beta2) * g
      return at(lists.params[k] as View, i) * (1 - rate * decay) - rate * step
    })
  },
  cpu: (operands, _, attrs) => lionKernel(kernelArgs(operands, attrs, { ...attrs, eps: 0 })),
  gpu: (operands, _, attrs) => updateLaunches("lion", operands, { ...attrs, copyOf: attrs.copies, eps: 0 }),
  cases: [{ inputs: oneMomentCase, attrs: { beta1: 0.9, beta2: 0.99, decay: [0.1, 0], copies: [undefined, undefined] } }],
})

export const sgd = defineOp({
  name: "sgd",
  doc: "SGD with momentum β1 and decoupled decay: m ← β1·m + g, p ← p·(1 − lr·decay) − lr·m; g = gradient·scale.",
  ...oneMoment,
  attrs: {} as UpdateAttrs & { momentum: number },
  shape(lists) {
    checkLists("sgd", lists)
    return {}
  },
  reference({ lr, control, ...lists }, _, attrs) {
    const rate = at(lr, 0)
    updateAll(lists, control, attrs, (k, i, g, decay) => {
      const m = (lists.m[k] as View).data
      m[i] = attrs.momentum * (m[i] as number) + g
      return at(lists.params[k] as View, i) * (1 - rate * decay) - rate * (m[i] as number)
    })
  },
  cpu: (operands, _, attrs) => sgdKernel(kernelArgs(operands, attrs, { beta1: attrs.momentum, beta2: 0, eps: 0 })),
  gpu: (operands, _, attrs) => updateLaunches("sgd", operands, { ...attrs, copyOf: attrs.copies, beta1: attrs.momentum, beta2: 0, eps: 0 }),
  cases: [
    {
      inputs: oneMomentCase,
      attrs: { momentum: 0.9, decay: [0.1, 0], copies: [undefined, undefined] },
    },
    {
      inputs: { params: [[5, 7]], grads: [[5, 7]], m: [[5, 7]], copies: [], lr: 0.01, control: given([3, 0, 1, 0, 1, 1, 0, 0]) },
      attrs: { momentum: 0.9, decay: [0.1], copies: [undefined] },
      about: "skipped: nothing changes",
    },
  ],
})

export const optimizerOps = [globalNorm, stepControl, adamw, lion, sgd]
