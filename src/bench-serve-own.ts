/** A server of one's own under load: random weights or a checkpoint in a process that ends with the measurement, beside the same decoding without a server. */
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Load } from "./bench-load.ts"
import { checkRoom, report, runLoad } from "./bench-load.ts"
import type { Measurement } from "./bench-measure.ts"
import { inTemporary, runWell, selfCommand } from "./bench-process.ts"
import { withServer } from "./bench-serve.ts"
import { median } from "./bench-stats.ts"
import { presetModel } from "./bench-step.ts"
import type { Tell } from "./bench-table.ts"
import type { BenchServeConfig } from "./config.ts"
import { openDevice } from "./device.ts"
import { initialise, modelDirectory, readConfig, saveCheckpoint } from "./gpt.ts"

/** What the load of one concurrency came to: vLLM's keys, and what the server adds to the decoding alone. */
export interface ServeTold extends Readonly<Record<string, unknown>> {
  readonly offline_throughput?: number
  readonly share_of_offline?: number
  readonly added_ttft_ms?: number
  readonly added_tpot_ms?: number
}

/** Decoding without a server: all samples of prompts and answers, tokens/s. */
interface Offline {
  readonly prompt: Measurement
  readonly answer: Measurement
}

/** Random weights of a preset as a checkpoint at `directory`. */
function writeRandom(directory: string, preset: string): void {
  const { device } = openDevice("cpu", undefined)
  const state = device.state()
  const model = presetModel(preset)
  initialise(device, state, model, 1)
  saveCheckpoint(directory, { model, weights: (name) => state.read(name) as Float32Array })
  state.free()
}

/** Serves what the configuration names, and puts each load on it; what is measured is told as soon as it is there. */
export async function serveOwn(
  config: BenchServeConfig,
  concurrencies: readonly number[],
  loadOf: (baseUrl: string, concurrency: number) => Promise<Load>,
  tell: Tell,
  keep: (told: ServeTold, measurement: Measurement) => void,
): Promise<void> {
  const { checkpoint } = config
  const preset = config.preset[0]
  if (preset !== undefined && checkpoint !== undefined) {
    throw new AlphaError("bench serve: --preset and --checkpoint exclude each other", { code: EXIT.usage })
  }
  await inTemporary(async (temporary) => {
    const directory = checkpoint === undefined ? join(temporary, preset as string) : modelDirectory(checkpoint, config.runsDir)
    if (preset !== undefined) writeRandom(directory, preset)
    checkRoom(config, preset ?? (checkpoint as string), readConfig(directory).model.blockSize)
    const where = [`--device=${config.device}`, `--precision=${config.precision}`]
    if (config.threads !== undefined) where.push(`--threads=${config.threads}`)
    const offline = new Map<number, Offline>()
    for (const batch of config.offline ? concurrencies : []) {
      const one = await decodeAlone(directory, where, batch, config)
      offline.set(batch, one)
      tell(`${batch} at a time without a server: ${Math.round(median(one.answer.samples))} tokens/s`)
    }
    const own = [`--slots=${Math.max(...concurrencies)}`, `--batchInvariant=${config.batchInvariant}`]
    const command = [...selfCommand(), "serve", `--model=${directory}`, ...own, ...where]
    await withServer(command, async (baseUrl) => {
      for (const concurrency of concurrencies) {
        const load = await loadOf(baseUrl, concurrency)
        // Programs are compiled when they are first needed, for every number of rows.
        await runLoad({ ...load, requests: 2 * concurrency, seed: load.seed + 1 })
        const rounds: Record<string, unknown>[] = []
        for (let round = 0; round < config.rounds; round++) {
          rounds.push(report(load, await runLoad({ ...load, seed: load.seed + 2 + round })))
        }
        const told = withOffline(rounds.at(-1)!, rounds, offline.get(concurrency), concurrency)
        keep(told, measurement(config, told, rounds, offline.get(concurrency), concurrency))
      }
    })
  })
}

async function decodeAlone(directory: string, where: readonly string[], batch: number, config: BenchServeConfig): Promise<Offline> {
  const sizes = [`--batch=${batch}`, `--prompt=${config.inputTokens}`, `--generate=${config.outputTokens}`, "--seconds=1", "--rounds=3"]
  const { stdout } = await runWell([...selfCommand(), "bench", "infer", `--model=${directory}`, ...where, ...sizes, "--json"])
  const [prompt, answer] = JSON.parse(stdout) as [Measurement, Measurement]
  return { prompt, answer }
}

function withOffline(
  last: Readonly<Record<string, unknown>>,
  rounds: readonly Readonly<Record<string, unknown>>[],
  offline: Offline | undefined,
  concurrency: number,
): ServeTold {
  if (offline === undefined) return last
  const rate = median(offline.answer.samples)
  const [ttft, tpot] = [last.median_ttft_ms, last.median_tpot_ms] as [number, number]
  const prompt = (last.total_input_tokens as number) / Math.max(1, last.completed as number)
  // Latencies are compared where one request has the server for itself.
  const added =
    concurrency > 1 ? {} : { added_ttft_ms: ttft - (1000 * prompt) / median(offline.prompt.samples), added_tpot_ms: tpot - 1000 / rate }
  const throughput = median(rounds.map((round) => round.output_throughput as number))
  return { ...last, offline_throughput: rate, share_of_offline: throughput / rate, ...added }
}

function measurement(
  { preset: [preset], checkpoint, device, precision, inputTokens, outputTokens, batchInvariant }: BenchServeConfig,
  told: ServeTold,
  rounds: readonly Readonly<Record<string, unknown>>[],
  offline: Offline | undefined,
  concurrency: number,
): Measurement {
  const what = preset ?? "a checkpoint"
  const isFree = batchInvariant === "off"
  const source = preset === undefined ? `--checkpoint=${checkpoint}` : `--preset=${preset}`
  const fixed = (name: keyof ServeTold, digits: number) => {
    const value = told[name]
    return typeof value === "number" ? { [String(name).replaceAll("_", " ")]: Number(value.toFixed(digits)) } : {}
  }
  return {
    bench: "serve",
    name: `${what} ${precision}, ${concurrency} at a time, ${inputTokens} + ${outputTokens} tokens${isFree ? ", not batch-invariant" : ""}`,
    device: offline?.answer.device ?? (device === "cpu" ? "" : device),
    unit: "tokens/s",
    better: "more",
    samples: rounds.map((round) => round.output_throughput as number),
    facts: { ...fixed("p50_ttft_ms", 2), ...fixed("p50_tpot_ms", 3), ...fixed("added_ttft_ms", 2), ...fixed("added_tpot_ms", 3) },
    peer: offline && { name: "the same decode offline", samples: offline.answer.samples },
    command: `alpha bench serve ${source} --device=${device} --precision=${precision} --concurrency=${concurrency} --inputTokens=${inputTokens} --outputTokens=${outputTokens}${isFree ? " --batchInvariant=off" : ""}`,
  }
}
