/** A model directory on a device: weights in the precision that will compute. */

import { existsSync } from "node:fs"
import type { ModelConfig } from "./config.ts"
import { finish, loadWeights, readChatTemplate, readCheckpointFile, readConfig, weightSteps } from "./gpt-checkpoint.ts"
import type { TokenIds } from "./gpt-family.ts"
import { copyName } from "./gpt-forward.ts"
import { modelDirectory } from "./gpt-keep.ts"
import { initPlan, type ParamSpec, paramSpecs } from "./gpt-params.ts"
import { cast } from "./op.ts"
import { type Device, plan, type State, trace, writeTo } from "./program.ts"

export interface LoadedModel {
  /** The directory itself: of a run, its best checkpoint. */
  readonly directory: string
  readonly model: ModelConfig
  readonly state: State
  readonly ids: TokenIds
  /** Text of tokenizer.json, where there is one. */
  readonly tokenizerJson: string | undefined
  readonly chatTemplate: string | undefined
}

/** Loads a run, checkpoint or Hugging Face directory for inference; in bf16 only the bf16 copies of the matrices stay in memory. */
export function loadModel(device: Device, path: string, precision: "f32" | "bf16"): LoadedModel {
  for (let attempt = 1; ; attempt++) {
    const directory = modelDirectory(path)
    try {
      return finish(loadSteps(device, directory, precision))
    } catch (error) {
      // The run's trainer deletes a checkpoint that is the best no longer, also while it is read here; then there is a newer one.
      if (existsSync(directory) || directory === path || attempt === 5) throw error
    }
  }
}

/** Loads a model directory in steps of a file's piece or a parameter each, for those who have something else to do in between. */
export function* loadSteps(device: Device, directory: string, precision: "f32" | "bf16"): Generator<void, LoadedModel> {
  const state = device.state()
  let loaded = false
  try {
    const { model, ids } = readConfig(directory)
    for (const spec of paramSpecs(model)) state.ensure(spec.name, "f32", spec.shape)
    yield* weightSteps(directory, model, (name, _, fill) => state.fill((into) => fill(into(name))))
    if (precision === "bf16") {
      for (const spec of paramSpecs(model).filter(({ matmul }) => matmul)) {
        copy(device, state, [spec])
        state.drop(spec.name)
        yield
      }
    }
    loaded = true
    return {
      directory,
      model,
      state,
      ids,
      tokenizerJson: readCheckpointFile(directory, "tokenizer.json"),
      chatTemplate: readChatTemplate(directory),
    }
  } finally {
    if (!loaded) state.free()
  }
}

/** Gives every parameter of a new model its first value. */
export function initialise(device: Device, state: State, model: ModelConfig, seed: number): void {
  const run = device.compile(initPlan(model), state)
  run.submit({ seed: seed | 0 })
  run.free()
}

/** Fills the f32 parameters from a model directory. */
export function loadParameters(state: State, model: ModelConfig, dir: string): void {
  for (const spec of paramSpecs(model)) state.ensure(spec.name, "f32", spec.shape)
  state.fill((into) => loadWeights(dir, model, into))
}

/** Computes the bf16 copies from the f32 parameters; does nothing in f32. */
export function refreshCopies(device: Device, state: State, model: ModelConfig, precision: "f32" | "bf16"): void {
  if (precision === "f32") return
  copy(
    device,
    state,
    paramSpecs(model).filter(({ matmul }) => matmul),
  )
}

function copy(device: Device, state: State, specs: readonly ParamSpec[]): void {
  const program = trace("copy", (t) => {
    for (const { name, shape } of specs) {
      writeTo(cast({ x: t.state(name, "f32", shape) }, { to: "bf16" }).y, t.state(copyName(name), "bf16", shape))
    }
  })
  const run = device.compile(plan(program), state)
  run.submit({})
  run.free()
}
