/** Speed of generation in llama-bench's columns: pp512 (prompt of 512 tokens), tg128 (128 tokens generated), for one and for several sequences. */
import type { Measurement } from "./bench-measure.ts"
import type { Sampling } from "./bench-sample.ts"
import { median } from "./bench-stats.ts"
import { presetModel } from "./bench-step.ts"
import type { ModelConfig } from "./config.ts"
import { createGenerator, initialise, loadModel, type Precision, paramSpecs, refreshCopies } from "./gpt.ts"
import type { Device, State } from "./program.ts"

export interface InferBench {
  /** A preset, with random weights, or the directory of a model. */
  readonly preset: string
  readonly model: string | undefined
  readonly precision: Precision
  /** Tokens of the prompt and of the answer, cut to what the model can hold. */
  readonly prompt: number
  readonly generate: number
  /** Sequences that run together. */
  readonly batches: readonly number[]
}

const GREEDY = { temperature: 0, topK: 1, topP: 1, minP: 0, repetitionPenalty: 1, seed: 1 }
/** Steps before the clock starts: programs are compiled, caches filled. */
const WARM_STEPS = 8

/** Weights of a preset, drawn at random, in the form that generation reads. */
function randomModel(device: Device, preset: string, precision: Precision): { model: ModelConfig; state: State } {
  const model = presetModel(preset)
  const state = device.state()
  initialise(device, state, model, 1)
  refreshCopies(device, state, model, precision)
  if (precision === "bf16") for (const { name, matmul } of paramSpecs(model)) if (matmul) state.drop(name)
  return { model, state }
}

/** Bytes of weights that every step reads. */
const weightBytes = (model: ModelConfig, precision: Precision): number =>
  paramSpecs(model).reduce((sum, { name, shape, matmul }) => {
    const isRead = matmul && !(name === "wte.weight" && !model.tie)
    return sum + (isRead ? (precision === "bf16" ? 2 : 4) * shape.reduce((n, d) => n * d, 1) : 0)
  }, 0)

/** Measures prefill and decoding for every batch; `bandwidth` is what the device reads at best, bytes/s. */
export function benchInfer(device: Device, job: InferBench, { warmMs, ms, least, now }: Sampling, bandwidth: number): Measurement[] {
  const loaded = job.model === undefined ? randomModel(device, job.preset, job.precision) : loadModel(device, job.model, job.precision)
  const { model, state } = loaded
  const room = model.position === "learned" ? model.blockSize : Number.POSITIVE_INFINITY
  const generate = Math.min(job.generate, Math.floor(room / 2))
  const prompt = Math.min(job.prompt, room - generate - WARM_STEPS - 2)
  const what = job.model ?? job.preset
  const measurements: Measurement[] = []
  for (const batch of job.batches) {
    const length = prompt + generate + WARM_STEPS + 2
    const generator = createGenerator(device, state, model, {
      precision: job.precision,
      slots: batch,
      length,
      vocabulary: model.vocabSize,
      order: "layers",
    })
    const row = (seed: number) => Array.from({ length: prompt }, (_, i) => (i * 7919 + seed * 104729 + 1) % model.vocabSize)
    let round = 0
    let last: number[] = []
    const prefill = () => {
      round++ // other ids, or the cache would have them
      last = Array.from(
        { length: batch },
        (_, slot) => generator.prefill({ slot, ids: row(round * batch + slot), sampling: GREEDY, draw: 0 }).id,
      )
    }
    /** Steps that the device was given ahead are all read within. */
    const grow = (count: number, from: number) => {
      for (let i = 0; i < count; i++) {
        const turns = last.map((id, slot) => ({ slot, id, sampling: GREEDY, draw: from + i }))
        last = generator.decode(turns, count - i - 1).map(({ id }) => id)
      }
    }
    const timed = (work: () => void): number => {
      const from = now()
      work()
      return (now() - from) / 1000
    }
    const [pp, tg]: [number[], number[]] = [[], []]
    const start = now()
    while (pp.length < least + 1 || now() - start < warmMs + ms) {
      pp.push((batch * prompt) / timed(prefill))
      grow(WARM_STEPS, 1)
      tg.push((batch * generate) / timed(() => grow(generate, WARM_STEPS + 1)))
    }
    generator.free()
    const about = (name: string, samples: number[], facts: Measurement["facts"]): Measurement => ({
      bench: "infer",
      name: `${what} ${job.precision} ${name}${batch === 1 ? "" : ` batch ${batch}`}`,
      device: device.description,
      unit: "tokens/s",
      better: "more",
      samples: samples.slice(1), // the first compiles
      facts,
      command: `alpha bench infer --${job.model === undefined ? "preset" : "model"}=${what} --precision=${job.precision} --batch=${batch}`,
    })
    const stepsPerSecond = median(tg.slice(1)) / batch
    const ofBandwidth = `${((100 * weightBytes(model, job.precision) * stepsPerSecond) / bandwidth).toPrecision(3)} %`
    measurements.push(
      about(`pp${prompt}`, pp, {}),
      about(`tg${generate}`, tg, { "ms/step": 1000 / stepsPerSecond, "of bandwidth": ofBandwidth }),
    )
  }
  state.free()
  return measurements
}
