/** A preset's training step of one micro-batch on a device, with what it reads: for measurements of its parts. */
import { findPreset, finishTrain, loadConfig, type ModelConfig, resolveModel, TRAIN_FIELDS, type TrainInput } from "./config.ts"
import { initialise, type Precision } from "./gpt.ts"
import type { Device, Executable, RunInputs, State } from "./program.ts"
import { stepPlan } from "./train.ts"

/** Characters of a text without surprises: the vocabulary of random data where a preset names none. */
const CHARACTERS = 65

/** Flags of `alpha train` that make it train on random tokens and do nothing else. */
export function plainTraining(preset: string, precision: string, steps: number): string[] {
  const { vocabSize = CHARACTERS } = findPreset(preset).values({ isRandom: true })
  return [
    ...[`--preset=${preset}`, "--data=random", `--vocabSize=${vocabSize}`, `--precision=${precision}`, `--steps=${steps}`],
    ...["--dropout=0", "--evalInterval=none", "--sampleInterval=none", `--logInterval=${steps}`, `--checkpointInterval=${steps}`],
  ]
}

/** The values that `alpha train` gives a preset on random tokens. */
export function trainingValues(preset: string, precision: Precision, batch?: number): TrainInput {
  const flags = [...plainTraining(preset, precision, 100), ...(batch === undefined ? [] : [`--batch=${batch}`])].map((flag) => {
    const [name, raw] = flag.slice(2).split("=") as [string, string]
    return { name, raw, layer: "flag" as const, from: flag }
  })
  return finishTrain(loadConfig(TRAIN_FIELDS, { flags, environment: new Map() })).values
}

/** The model that a preset trains on random tokens. */
export function presetModel(preset: string): ModelConfig {
  const values = trainingValues(preset, "f32")
  return resolveModel({ ...values, vocabSize: values.vocabSize as number })
}

export interface StepProgram {
  readonly model: ModelConfig
  readonly state: State
  readonly run: Executable
  readonly inputs: RunInputs
  free(): void
}

/** Compiles the step of a preset with fresh weights. */
export function stepProgram(device: Device, preset: string, precision: Precision, batch: number | undefined): StepProgram {
  const values = trainingValues(preset, precision, batch)
  const model = presetModel(preset)
  const [B, T] = [values.batch, values.context]
  const state = device.state()
  initialise(device, state, model, 1)
  const run = device.compile(stepPlan({ model, precision, B, T }, values, false), state)
  const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * 7919 + 1) % model.vocabSize)
  return {
    model,
    state,
    run,
    inputs: { tokens, targets: tokens, seed: 1, step: 0, row: 0, lr: 1e-4 },
    free() {
      run.free()
      state.free()
    },
  }
}
