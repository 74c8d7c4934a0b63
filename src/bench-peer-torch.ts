/** Training and generation beside PyTorch: the same model, batches, threads and precision, in turns. */
import { availableParallelism } from "node:os"
import type { Measurement } from "./bench-measure.ts"
import { alternate, type Torch, type TorchAnswer, type TorchFlags, type Turn, type Variant } from "./bench-peer.ts"
import { runWell, selfCommand } from "./bench-process.ts"
import { median } from "./bench-stats.ts"
import { presetModel } from "./bench-step.ts"
import { listed, numbers, precisionsOf } from "./bench-table.ts"
import { benchTrain, quickly, stepsFor } from "./bench-train.ts"
import { type BenchPeerConfig, findPreset } from "./config.ts"

type Tell = (note: string) => void

interface Row {
  readonly case: "train" | "infer"
  readonly preset: string
  readonly precision: "f32" | "bf16"
  readonly batch: number
  readonly context: number | undefined
}
const row = (kind: Row["case"], preset: string, precision: Row["precision"], batch: number, context?: number): Row => ({
  ...{ case: kind, preset, precision, batch, context },
})

/** What is compared where nothing else is asked for: sizes that a device can do in seconds. */
const ROWS: Readonly<Record<"cpu" | "gpu", readonly Row[]>> = {
  cpu: [
    row("train", "cpu-small", "f32", 12),
    row("train", "shakespeare-char", "f32", 8),
    row("train", "gpt2-124m", "f32", 4, 64),
    row("train", "gpt2-124m", "bf16", 4, 64),
    row("infer", "gpt2-124m", "f32", 1),
    row("infer", "gpt2-124m", "bf16", 1),
  ],
  gpu: [
    row("train", "cpu-small", "bf16", 12),
    row("train", "shakespeare-char", "bf16", 64),
    row("train", "gpt2-124m", "bf16", 16),
    row("train", "gpt2-124m", "bf16", 64),
    row("infer", "gpt2-124m", "bf16", 1),
    row("infer", "gpt2-124m", "bf16", 64),
  ],
}

/** The rows that the configuration asks for. */
function rowsOf(config: BenchPeerConfig, kind: "cpu" | "gpu"): Row[] {
  const cases = listed(config.case).filter((name) => name === "train" || (config.gpus ?? 1) === 1)
  const presets = listed(config.preset)
  if (presets.length === 0) return ROWS[kind].filter((one) => cases.includes(one.case))
  return presets.flatMap((preset) =>
    precisionsOf(config.precision).flatMap((precision) =>
      (config.batch.length > 0 ? numbers("batch", config.batch) : [undefined]).flatMap((batch) =>
        cases.map((one) => {
          const own = one === "train" ? Number(findPreset(preset).values({ isRandom: true }).batch ?? 16) : 1
          return row(one as Row["case"], preset, precision, batch ?? own, config.context)
        }),
      ),
    ),
  )
}

/** The peer's model: biases, layer norms, GELU by tanh, learned positions, tied head. */
const FORM = ["--bias=true", "--activation=gelu_tanh", "--norm=layernorm", "--position=learned", "--tie=true", "--qkNorm=false"]

/** Measures every row on `device` ("cpu", "gpu") beside PyTorch; the same row of both comes from one run. `keep` has each when it is done. */
export async function besideTorch(
  torch: Torch,
  config: BenchPeerConfig,
  device: string,
  tell: Tell,
  keep: (measurement: Measurement) => void,
): Promise<void> {
  const isGpu = device.startsWith("gpu")
  const threads = config.threads ?? availableParallelism()
  for (const one of rowsOf(config, isGpu ? "gpu" : "cpu")) {
    const model = presetModel(one.preset)
    const ranks = config.gpus ?? 1
    const shape = {
      ...{ layers: model.nLayer, heads: model.nHead, width: model.nEmbd, vocab: model.vocabSize, batch: one.batch },
      ...{ device: isGpu ? "cuda" : "cpu", threads: isGpu ? undefined : Math.max(1, Math.floor(threads / ranks)), seconds: config.seconds },
    }
    // On a CPU PyTorch's bf16 is often slower than its f32: the faster counts.
    const dtypes = one.precision === "bf16" && !isGpu ? ["bf16", "f32"] : [one.precision]
    const variants = dtypes.flatMap((dtype) =>
      ranks > 1
        ? parallelVariants(torch, one, { ...shape, dtype }, config, model.blockSize, dtypes.length > 1 ? ` ${dtype}` : "")
        : [false, true]
            .filter((compile) => (compile ? config.compile : config.eager))
            .map((compile): Variant => {
              const name = `PyTorch ${torch.version.split("+")[0]} ${compile ? "compiled" : "eager"}${dtypes.length > 1 ? ` ${dtype}` : ""}`
              return { name, open: () => openTorch(torch, one, { ...shape, dtype, compile }, config, model.blockSize) }
            }),
    )
    const ours = one.case === "train" ? await oursToTrain(one, config, device) : () => inferOurs(one, config, device)
    const measured = await alternate(ours, variants, config.rounds, tell)
    const command = `alpha bench peer torch --case=${one.case} --preset=${one.preset} --device=${device} --precision=${one.precision} --batch=${one.batch}${ranks > 1 ? ` --gpus=${ranks}` : ""}`
    const last = { ...measured, command: `${command}${one.context === undefined ? "" : ` --context=${one.context}`}` }
    const { peer } = last
    tell(
      `${last.bench} ${last.name}: ${median(last.samples).toFixed(0)} ${last.unit}, ${peer === undefined ? "no peer" : `${peer.name} ${median(peer.samples).toFixed(0)}`}`,
    )
    keep(last)
  }
}

/** PyTorch's data parallelism: the compiler cuts at DDP's buckets, or DDP stands around what was compiled; a fresh process for each turn. */
function parallelVariants(
  torch: Torch,
  { context }: Row,
  flags: TorchFlags,
  { compile, eager, gpus }: BenchPeerConfig,
  blockSize: number,
  about: string,
): Variant[] {
  const ways = [
    ...(eager ? [{ name: "DDP eager", more: {} }] : []),
    ...(compile ? [{ name: "DDP compiled", more: { compile: true } }] : []),
    ...(compile ? [{ name: "DDP around compiled", more: { compile: true, static: true } }] : []),
  ]
  return ways.map(({ name, more }) => ({
    name: `PyTorch ${torch.version.split("+")[0]} ${name}${about}`,
    open: () => ({
      run: async () => {
        const answer = await torch.ask("train", { ...flags, ...more, context: context ?? blockSize }, gpus)
        return { samples: answer.tokens_per_s ?? [], peakBytes: answer.peak_bytes }
      },
      close: async () => {},
    }),
  }))
}

function openTorch(torch: Torch, one: Row, flags: TorchFlags, config: BenchPeerConfig, blockSize: number) {
  const process =
    one.case === "train"
      ? torch.open("train", { ...flags, context: one.context ?? blockSize })
      : torch.open("decode", { ...flags, context: blockSize, ...inferSizes(config, blockSize) })
  const run = async (): Promise<Turn> => {
    const { tokens_per_s: samples = [], peak_bytes: peakBytes } = (await process.ask()) as unknown as TorchAnswer
    return { samples, peakBytes }
  }
  return { run, close: process.close }
}

/** Training in a process of its own, as many steps every time. */
async function oursToTrain(one: Row, { threads, seconds, gpus = 1 }: BenchPeerConfig, device: string): Promise<() => Promise<Measurement>> {
  const { preset, precision, batch, context } = one
  const flagsOf = (ranks: number) => (gpus > 1 ? [...FORM, `--accumSteps=${ranks}`, ...(ranks > 1 ? [`--gpus=${ranks}`] : [])] : FORM)
  const own = gpus > 1 && threads !== undefined ? Math.max(1, Math.floor(threads / gpus)) : threads
  const job = { preset, device, precision, threads: own, batch, context, steps: undefined, seconds, flags: flagsOf(gpus) }
  const steps = await stepsFor(selfCommand(), quickly(job))
  if (gpus === 1) return () => benchTrain(selfCommand(), { ...job, steps }, 1)
  const alone = await benchTrain(selfCommand(), { ...job, steps, flags: flagsOf(1) }, 1)
  const rate = median(alone.samples)
  return async () => {
    const measured = await benchTrain(selfCommand(), { ...job, steps }, 1)
    const facts = { ...measured.facts, "one rank": Math.round(rate), efficiency: median(measured.samples) / rate / gpus }
    return { ...measured, name: `${measured.name}, ${gpus} ranks`, facts }
  }
}

/** As `alpha bench infer` cuts them to the model. */
function inferSizes({ prompt, generate }: BenchPeerConfig, blockSize: number) {
  const tokens = Math.min(generate, Math.floor(blockSize / 2))
  return { prompt: Math.min(prompt, blockSize - tokens - 10), generate: tokens }
}

/** Generation in a process of its own; of its figures the one without the prompt. */
async function inferOurs({ preset, precision, batch }: Row, config: BenchPeerConfig, device: string): Promise<Measurement> {
  const flags = [`--preset=${preset}`, `--precision=${precision}`, `--batch=${batch}`, `--device=${device}`, "--rounds=3"]
  const sizes = [`--prompt=${config.prompt}`, `--generate=${config.generate}`, `--seconds=${config.seconds}`]
  const threads = config.threads === undefined ? [] : [`--threads=${config.threads}`]
  const { stdout } = await runWell([...selfCommand(), "bench", "infer", ...flags, ...sizes, ...threads, "--json"])
  return (JSON.parse(stdout) as Measurement[]).find(({ name }) => / tg\d+/.test(name)) as Measurement
}
