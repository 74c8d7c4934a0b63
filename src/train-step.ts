/** The programs of a training step: micro (loss and gradients, summed), update (norm, decision, optimizer) and evaluation. */
import type { ModelConfig, TrainConfig } from "./config.ts"
import { copyName, gptHidden, gptLogits, gptLoss, type ParamSpec, type Precision, paramSpecs } from "./gpt.ts"
import { type GradientTarget, gradients } from "./grad.ts"
import * as op from "./op.ts"
import { type Plan, type Program, plan, type Tracer, trace, writeTo } from "./program.ts"
import { elements, type Tensor, tensor } from "./tensor.ts"

export interface StepShape {
  readonly model: ModelConfig
  readonly precision: Precision
  /** Sequences of a micro-batch and tokens of a sequence. */
  readonly B: number
  readonly T: number
}

export type OptimizerConfig = Pick<
  TrainConfig,
  "optimizer" | "beta1" | "beta2" | "eps" | "momentum" | "weightDecay" | "decayList" | "noDecayList" | "gradClip" | "spikeThreshold"
>

const parameter = (t: Tracer, spec: ParamSpec) => t.state(spec.name, "f32", spec.shape)
const gradient = (t: Tracer, spec: ParamSpec) => t.state(`grad.${spec.name}`, "f32", spec.shape)

/** What is summed over micro-steps and ranks: loss, count and every gradient. */
export const summands = (model: ModelConfig): string[] => ["sum.loss", "sum.count", ...paramSpecs(model).map(({ name }) => `grad.${name}`)]

/** The head's weights have a gradient of several parts: one per chunk of logits, and the embedding's where both share them. */
const hasParts = (model: ModelConfig, { name }: ParamSpec): boolean => name === (model.tie ? "wte.weight" : "head.weight")

/** loss and count of tokens, targets (B·T) i32 (target −1 = not counted), and the gradients where `targetOf` says. */
function differentiate(
  t: Tracer,
  { model, precision, B, T }: StepShape,
  recompute: boolean,
  targetOf: (spec: ParamSpec) => GradientTarget,
): { loss: Tensor; count: Tensor } {
  const tokens = t.input("tokens", "i32", [B * T])
  const targets = t.input("targets", "i32", [B * T])
  const dropout = model.dropout > 0 ? { seed: t.live("seed", "i32"), step: t.live("step", "i32"), row: t.live("row", "i32") } : undefined
  const { loss, count } = gptLoss(model, tokens, targets, { precision, T, dropout, recompute })
  const leaves = paramSpecs(model).map((spec) => {
    const used = spec.matmul && precision === "bf16" ? copyName(spec.name) : spec.name
    return [t.state(used, used === spec.name ? "f32" : "bf16", spec.shape), targetOf(spec)] as const
  })
  gradients(loss, new Map(leaves))
  return { loss, count }
}

/**
 * tokens, targets → adds the sums of loss, targets and gradients; `accumulate` 0 starts new sums.
 * `adds`: it is not 0 in every micro-step; each gradient is then complete before it is added, as if another rank had made it.
 */
export function microPlan(shape: StepShape, recompute: boolean, adds = false): Plan {
  return plan(
    trace("train.micro", (t) => {
      const accumulate = t.live("accumulate")
      const { loss, count } = differentiate(t, shape, recompute, (spec) => ({
        into: gradient(t, spec),
        beta: accumulate,
        ...(adds && hasParts(shape.model, spec) ? { whole: t.state(`grad.whole.${spec.name}`, "f32", spec.shape) } : {}),
      }))
      sum(t, "sum.loss", loss, accumulate)
      sum(t, "sum.count", count, accumulate)
    }),
  )
}

function sum(t: Tracer, name: string, value: Tensor, beta: Tensor): void {
  writeTo(op.assign({ x: value }).y, t.state(name, "f32", []), beta)
}

/** The optimizer step on the summed gradients, of the parameters that `owns` names; outputs: loss and count (sums), control. */
export function updatePlan(
  shape: Pick<StepShape, "model" | "precision">,
  c: OptimizerConfig,
  owns: (name: string) => boolean = () => true,
): Plan {
  return plan(
    trace("train.update", (t) => {
      const sums = { loss: t.state("sum.loss", "f32", []), count: t.state("sum.count", "f32", []) }
      optimize(t, shape, c, owns, sums, (spec) => gradient(t, spec))
    }),
  )
}

/**
 * Two programs around a sum of all ranks' gradients, which the update is done with: in their memory each rank first puts the weights that it
 * `owns` and zeros for the others, afterwards every rank takes all weights, and their bf16 copies, from there.
 */
export function weightPlans({ model, precision }: Pick<StepShape, "model" | "precision">, owns: (name: string) => boolean): [Plan, Plan] {
  const specs = paramSpecs(model)
  const give = trace("train.give", (t) => {
    for (const spec of specs) {
      const own = owns(spec.name) ? op.assign({ x: parameter(t, spec) }) : op.fill({}, { shape: spec.shape, value: 0 })
      writeTo(own.y, gradient(t, spec))
    }
  })
  const take = trace("train.take", (t) => {
    for (const spec of specs) {
      const x = gradient(t, spec)
      writeTo(op.assign({ x }).y, parameter(t, spec))
      if (spec.matmul && precision === "bf16") writeTo(op.cast({ x }, { to: "bf16" }).y, t.state(copyName(spec.name), "bf16", spec.shape))
    }
  })
  return [plan(give), plan(take)]
}

/** A step of one micro-batch as one program: its gradients need memory only from when they are made, where activations lay that are done with. */
export function stepPlan(shape: StepShape, c: OptimizerConfig, recompute: boolean): Plan {
  return plan(
    trace("train.step", (t) => {
      const made = new Map(paramSpecs(shape.model).map(({ name, shape }) => [name, tensor(`grad.${name}`, shape, "f32", "temp")]))
      const gradientOf = ({ name }: ParamSpec) => made.get(name) as Tensor
      const sums = differentiate(t, shape, recompute, (spec) => ({ into: gradientOf(spec), beta: t.constant(0) }))
      optimize(t, shape, c, () => true, sums, gradientOf)
    }),
  )
}

function optimize(
  t: Tracer,
  { model, precision }: Pick<StepShape, "model" | "precision">,
  c: OptimizerConfig,
  owns: (name: string) => boolean,
  { loss, count }: { readonly loss: Tensor; readonly count: Tensor },
  gradientOf: (spec: ParamSpec) => Tensor,
): void {
  const specs = paramSpecs(model)
  const control = t.state("control", "f32", [op.CONTROL_SIZE])
  const { norm } = op.globalNorm({ grads: specs.map(gradientOf) })
  op.stepControl({ norm, targets: count, control }, { clip: c.gradClip ?? 0, spike: c.spikeThreshold ?? 0 })
  const isMuon = (s: ParamSpec) => c.optimizer === "muon" && s.muon !== undefined
  const owned = specs.filter(({ name }) => owns(name))
  const rest = owned.filter((s) => !isMuon(s))
  update(t, owned.filter(isMuon), "muon", precision, c, control, gradientOf)
  update(t, rest, c.optimizer === "muon" ? "adamw" : c.optimizer, precision, c, control, gradientOf)
  for (const [name, value] of Object.entries({ loss, count, control })) t.output(name, value)
}

function update(
  t: Tracer,
  specs: readonly ParamSpec[],
  kind: OptimizerConfig["optimizer"],
  precision: Precision,
  c: OptimizerConfig,
  control: Tensor,
  gradientOf: (spec: ParamSpec) => Tensor,
): void {
  if (specs.length === 0) return
  const copied = specs.filter((s) => s.matmul && precision === "bf16")
  const state = (prefix: string) => specs.map((s) => t.state(`${prefix}.${s.name}`, "f32", s.shape))
  const inputs = {
    params: specs.map((s) => parameter(t, s)),
    grads: specs.map(gradientOf),
    m: state("m"),
    copies: copied.map((s) => t.state(copyName(s.name), "bf16", s.shape)),
    lr: t.live("lr"),
    control,
  }
  const attrs = {
    decay: specs.map((s) => decayOf(s, c)),
    copies: specs.map((s) => (copied.includes(s) ? copied.indexOf(s) : undefined)),
  }
  if (kind === "muon") op.muon(inputs, { ...attrs, momentum: c.momentum, blocks: specs.map((s) => s.muon ?? []) })
  else if (kind === "lion") op.lion(inputs, { ...attrs, beta1: c.beta1, beta2: c.beta2 })
  else if (kind === "sgd") op.sgd(inputs, { ...attrs, momentum: c.momentum })
  else op.adamw({ ...inputs, v: state("v") }, { ...attrs, beta1: c.beta1, beta2: c.beta2, eps: c.eps })
}

/** Weight decay of a parameter: matrices decay unless a list names a part of theirs. */
export function decayOf(spec: ParamSpec, c: Pick<OptimizerConfig, "weightDecay" | "decayList" | "noDecayList">): number {
  const named = (list: readonly string[]) => list.some((part) => spec.name.includes(part))
  return (spec.decay || named(c.decayList)) && !named(c.noDecayList) ? c.weightDecay : 0
}

/** Bytes of logits that exist at the same time in an evaluation. */
const LOGIT_BYTES = 64 << 20

/** How many of an evaluation's rows are scored at a time. */
export const scoredTogether = ({ model, B, T }: StepShape): number =>
  Math.min(B * T, Math.max(16, Math.floor(LOGIT_BYTES / 4 / model.vocabSize)))

/**
 * tokens (B·T) → outputs logprob.0, logprob.1 …: of targets.0, targets.1 … (−1: 0), which follow the tokens rows.0, rows.1 …: every row once,
 * `scoredTogether` at a time. By the op that scores prompts and answers: their numbers and these are the same bits.
 */
export function evaluationPlan(shape: StepShape): Plan {
  const { model, precision, B, T } = shape
  return plan(
    trace("evaluate", (t) => {
      const pass = { precision, T, isInvariant: true }
      const hidden = gptHidden(model, t.input("tokens", "i32", [B * T]), pass) // (B·T, C)
      const most = scoredTogether(shape)
      for (let i = 0; i * most < B * T; i++) {
        const R = Math.min(most, B * T - i * most)
        const x = R === B * T ? hidden : op.takeRows({ x: hidden, rows: t.input(`rows.${i}`, "i32", [R]) }).y // (R, C)
        const targets = t.input(`targets.${i}`, "i32", [R])
        t.output(`logprob.${i}`, op.logprobs({ logits: gptLogits(model, x, pass), targets }, { top: 0 }).logprob)
      }
    }),
  )
}

/** Names of the state a checkpoint keeps beside the weights, in a fixed order. */
export const trainerStates = (update: Program): string[] =>
  [...update.states.keys()].filter((name) => name.startsWith("m.") || name.startsWith("v.") || name === "control")

/** The same with their elements. */
export const momentSizes = (update: Program): [string, number][] =>
  trainerStates(update).map((name) => [name, elements(update.states.get(name) as Tensor)])

/** How the ranks of a run share its work. */
export interface Sharing {
  /** Whether a rank adds up several micro-steps before the ranks' sums are made. */
  readonly adds: (accumSteps: number) => boolean
  /** Parameters that this rank updates. */
  readonly owns: (name: string) => boolean
}

/** The programs of a run. */
export interface RunPlans {
  readonly shape: StepShape
  /** Undefined where a step has one micro-batch and is one program. */
  readonly micro: Plan | undefined
  /** The last program of a step. */
  readonly update: Plan
  /** The update of all parameters: what a checkpoint holds. */
  readonly whole: Plan
  /** Undefined where nothing is evaluated. */
  readonly evaluation: Plan | undefined
}

export function planRun(
  model: ModelConfig,
  values: OptimizerConfig & Pick<TrainConfig, "precision" | "batch" | "accumSteps" | "context" | "activationCheckpointing">,
  evaluates: boolean,
  sharing?: Sharing,
): RunPlans {
  const shape = { model, precision: values.precision, B: values.batch, T: values.context }
  const { accumSteps, activationCheckpointing } = values
  const evaluation = evaluates ? evaluationPlan(shape) : undefined
  if (sharing === undefined && accumSteps === 1) {
    const update = stepPlan(shape, values, activationCheckpointing)
    return { shape, micro: undefined, update, whole: update, evaluation }
  }
  const whole = updatePlan(shape, values)
  const micro = microPlan(shape, activationCheckpointing, sharing?.adds(accumSteps) ?? true)
  return { shape, micro, update: sharing === undefined ? whole : updatePlan(shape, values, sharing.owns), whole, evaluation }
}
