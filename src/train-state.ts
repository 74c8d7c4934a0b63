/** Weights and optimizer state on the device: first values, loading and saving. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { ModelConfig } from "./config.ts"
import { loadParameters, loadTrainer, type NamedTensor, type Precision, paramSpecs, saveCheckpoint, type TokenIds } from "./gpt.ts"
import type { Plan, State } from "./program.ts"
import { momentSizes, trainerStates } from "./train-step.ts"

/** What a run must remember beside tensors; JSON. */
export interface TrainerState {
  /** Optimizer steps done; the next step has this number. */
  readonly step: number
  readonly tokens: number
  readonly best: { readonly loss: number; readonly step: number } | null
  /** Evaluations since the best one. */
  readonly stale: number
  readonly dataHash: string
  /** Key of every random number: with `step` it says where batches, dropout and samples go on. */
  readonly seed: number
  /** What was due after `step` when the run was stopped; absent when nothing is. */
  readonly owed?: readonly ("evaluation" | "samples")[] | undefined
}

const bytesOf = (values: Float32Array | Int32Array | Uint16Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/** Writes a checkpoint directory; returns its bytes. In bf16 the model file holds bf16 and the trainer file the f32 masters. */
export function saveState(
  dir: string,
  state: State,
  update: Plan,
  content: {
    /** Values of an optimizer state of so many elements. */
    moment: (name: string, length: number) => Float32Array
    model: ModelConfig
    precision: Precision
    ids: TokenIds
    tokenizerJson: string | undefined
    chatTemplate: string | undefined
    trainer: TrainerState
  },
): number {
  const { model, precision, ids, tokenizerJson, chatTemplate, trainer, moment } = content
  const shapes = new Map([...update.program.states.values()].map((t) => [t.name, t.shape]))
  const masters = precision === "bf16" ? paramSpecs(model).map((s) => s.name) : []
  const tensor = (name: string, data: () => Uint8Array): NamedTensor => ({ name, shape: shapes.get(name) ?? [], dtype: "F32", data })
  const tensors = [
    ...masters.map((name) => tensor(name, () => bytesOf(state.read(name)))),
    ...momentSizes(update.program).map(([name, length]) => tensor(name, () => bytesOf(moment(name, length)))),
  ]
  return saveCheckpoint(dir, {
    model,
    ids,
    ...(tokenizerJson === undefined ? {} : { tokenizerJson }),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    dtype: precision === "bf16" ? "BF16" : "F32",
    weights: (name) => state.read(name) as Float32Array,
    trainer: { tensors, state: trainer },
  })
}

/** Restores weights, moments and counters of a checkpoint, every byte verified. */
export function loadState(dir: string, state: State, update: Plan, model: ModelConfig, precision: Precision): TrainerState {
  loadParameters(state, model, dir)
  const { tensors, state: trainer } = loadTrainer(dir)
  const masters = precision === "bf16" ? paramSpecs(model).map((s) => s.name) : []
  for (const name of [...masters, ...trainerStates(update.program)]) {
    const stored = tensors.get(name)
    if (stored === undefined) {
      throw new AlphaError(`${dir}: trainer.safetensors has no ${name}`, {
        hint: "it was made with another --optimizer or --precision: use that one, or start anew with --init",
        code: EXIT.data,
      })
    }
    const t = update.program.states.get(name)
    state.ensure(name, "f32", t?.shape ?? stored.shape)
    const bytes = stored.data()
    state.write(name, new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer))
  }
  return trainer as unknown as TrainerState
}
