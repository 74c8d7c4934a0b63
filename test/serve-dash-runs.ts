/** Run directories as a trainer leaves them: curves with one spike, samples, checkpoints, events; the same bytes every time. */
import { appendFileSync, closeSync, mkdirSync, openSync, utimesSync, writeFileSync, writeSync } from "node:fs"
import { join } from "node:path"
import { writeBeat } from "../src/db-state.ts"

export interface RunTraits {
  readonly id: string
  readonly steps: number
  readonly seed?: number
  readonly lr?: number
  /** Step that the run wants to reach; absent: `steps`. */
  readonly wants?: number
  readonly state?: "running" | "crashed" | "finished"
  readonly notes?: string
  readonly tags?: readonly string[]
  /** On the CPU: no GPU columns. */
  readonly cpu?: boolean
}

const TOKENS = 16_384
const PROMPTS = ["The whale", "Once upon"]

/** Noise in −1 … 1 that is the same every time. */
const noise = (i: number, seed: number): number => {
  const value = Math.sin(i * 12.9898 + seed * 78.233) * 43_758.5453
  return (value - Math.floor(value)) * 2 - 1
}

/** Step at which the loss jumps to 14: two fifths of the way. */
export const spikeOf = (steps: number): number => Math.floor(steps * 0.4)

/** Writes the run's directory under `runsDir`, with so many rows of metrics; the last is of this moment when it runs, else of a day ago. */
export function writeRun(runsDir: string, name: string, traits: RunTraits): { directory: string; rows: number } {
  const { id, steps, seed = 1, lr = 3e-4, wants = steps, state = "finished", notes, tags, cpu = false } = traits
  const directory = join(runsDir, name)
  mkdirSync(join(directory, "checkpoints"), { recursive: true })
  const stepMs = 250
  const end = state === "running" ? Date.now() : Date.now() - 86_400_000
  const start = end - steps * stepMs
  const setting = (value: unknown, layer = "default", from = "") => ({ value, origin: { layer, from } })
  const config = {
    steps: setting(wants, "flag", "--steps"),
    lr: setting(lr, "flag", "--lr"),
    seed: setting(seed),
    batch: setting(16),
    context: setting(1024),
    nLayer: setting(12),
    nEmbd: setting(768),
    optimizer: setting("adamw"),
    preset: setting("novels"),
    data: setting("moby-dick.txt", "flag", "--data"),
  }
  const record = {
    id,
    config,
    seed,
    dataHash: "5a".repeat(32),
    commit: "0123456789ab",
    version: "0.1.0",
    device: cpu ? "cpu" : "NVIDIA H200",
  }
  writeFileSync(join(directory, "config.json"), JSON.stringify(record))
  utimesSync(join(directory, "config.json"), start / 1000, start / 1000)
  if (notes !== undefined || tags !== undefined) writeFileSync(join(directory, "notes.json"), JSON.stringify({ notes, tags }))
  const rows = writeMetrics(join(directory, "metrics.jsonl"), traits, start, stepMs)

  const at = (i: number) => Math.floor((steps * i) / 4)
  const samples = [1, 2, 3, 4].flatMap((i) =>
    PROMPTS.map((prompt) => ({
      type: "sample",
      step: at(i),
      prompt,
      text: ` text ${i} of the sea, and of the ship that ${i > 2 ? "sailed" : "sail"} on it`,
    })),
  )
  const checkpoints = [2, 4].map((i) => {
    const path = `checkpoints/step-${String(at(i)).padStart(6, "0")}`
    mkdirSync(join(directory, path))
    return { type: "checkpoint", step: at(i), path, bytes: 496_000_000, sha256: String(i).repeat(64), best: i === 4 }
  })
  const began = {
    type: "start",
    run: name,
    device: record.device,
    precision: "bf16",
    parameters: 124_439_808,
    flopsPerToken: 8e8,
    steps: wants,
    tokensPerStep: TOKENS,
    step: 0,
  }
  const alert = {
    type: "alert",
    step: spikeOf(steps),
    rule: "spike",
    message: `loss 14.0 at step ${spikeOf(steps)}: 4.1 times its average`,
  }
  const kernels = (
    [
      ["matmul", 0.61],
      ["attention", 0.17],
      ["classifier", 0.11],
      ["rms_norm", 0.06],
      ["adamw", 0.05],
    ] as const
  ).map(([op, share]) => ({ op, kernel: `${op}_bf16`, launches: 24, ms: 240 * share, share, gb_per_s: 900, tflop_per_s: share * 500 }))
  const profile = { type: "profile", step: at(1), ms: 240, launches: 120, kernels }
  const summary = { type: "summary", run: name, status: "completed", steps }
  const endings = state === "finished" ? [summary] : state === "crashed" ? [{ type: "crash", message: "the GPU fell off the bus" }] : []
  const lines = (rows: readonly { readonly type: string; readonly step?: number }[]) =>
    rows.map((row, seq) => `${JSON.stringify({ seq, time: start + (row.step ?? steps) * stepMs, ...row })}\n`).join("")
  writeFileSync(join(directory, "samples.jsonl"), lines(samples))
  writeFileSync(join(directory, "events.jsonl"), lines([began, profile, alert, ...checkpoints, ...endings]))
  if (state === "running") writeBeat(directory, { state: "running", time: Date.now() + 3_600_000, host: "trainer-1", pid: 1 })
  return { directory, rows }
}

function writeMetrics(path: string, { steps, seed = 1, lr = 3e-4, cpu = false }: RunTraits, start: number, stepMs: number): number {
  const spike = spikeOf(steps)
  const every = Math.max(1, Math.floor(steps / 20))
  const file = openSync(path, "w")
  let text = ""
  let seq = 0
  for (let i = 1; i <= steps; i++) {
    const smooth = 2.6 + seed * 0.08 + 8 / (1 + i / (steps / 100))
    const row = {
      seq: seq++,
      time: start + i * stepMs,
      type: "step",
      step: i,
      loss: i === spike ? 14 : smooth + noise(i, seed) * 0.12,
      lr: lr * Math.min(1, i / (steps / 20)) * (0.55 + 0.45 * Math.cos((Math.PI * i) / steps)),
      gradNorm: 0.6 + 0.3 * Math.abs(noise(i, seed + 2)) + (i === spike ? 30 : 0),
      tokens: i * TOKENS,
      tokens_per_s: 65_000 + 1500 * noise(i, 5),
      ms_per_step: stepMs + 8 * noise(i, 6),
      data_ms: 3 + noise(i, 11),
      submit_ms: 6 + noise(i, 12),
      wait_ms: 240 + 6 * noise(i, 6),
      mfu: 0.41 + 0.01 * noise(i, 7),
      skipped: i >= spike ? 1 : 0,
    }
    const gpu = {
      gpu_utilisation: 0.97 + 0.02 * noise(i, 8),
      gpu_memory_bytes: 11 * 2 ** 30,
      gpu_power_w: 612 + 20 * noise(i, 9),
      gpu_temperature_c: 58 + 2 * noise(i, 10),
      gpu_sm_mhz: 1980 - 15 * Math.abs(noise(i, 13)),
    }
    text += `${JSON.stringify(cpu ? row : { ...row, ...gpu })}\n`
    if (i % every === 0) {
      const val = {
        type: "eval",
        step: i,
        val_loss: smooth + 0.1,
        perplexity: Math.exp(smooth + 0.1),
        bits_per_byte: (smooth + 0.1) / 2.8,
        best: true,
      }
      text += `${JSON.stringify({ seq: seq++, time: start + i * stepMs + 1, ...val })}\n`
    }
    if (text.length > 1 << 22) {
      writeSync(file, text)
      text = ""
    }
  }
  writeSync(file, text)
  closeSync(file)
  return seq
}

/** The next row of a run that trains. */
export function addRow(directory: string, seq: number, row: object): void {
  appendFileSync(join(directory, "metrics.jsonl"), `${JSON.stringify({ seq, time: Date.now(), type: "step", ...row })}\n`)
}
