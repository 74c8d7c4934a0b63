/** The table of benches: what each measures, and in how many processes, since a process holds one device. */
import { AlphaError, EXIT } from "./base-error.ts"
import { readText } from "./base-file.ts"
import { countersOf } from "./bench-counters.ts"
import { benchInfer } from "./bench-infer.ts"
import type { Measurement } from "./bench-measure.ts"
import { benchCases, benchStepOps, measureRoofline } from "./bench-ops.ts"
import { runWell, selfCommand } from "./bench-process.ts"
import type { Sampling } from "./bench-sample.ts"
import { benchServe } from "./bench-serve.ts"
import { benchStartup } from "./bench-startup.ts"
import { benchTokenizer, inventedText } from "./bench-tokenizer.ts"
import { benchTrain } from "./bench-train.ts"
import { type BenchConfig, findPreset } from "./config.ts"
import { checkDeviceName, openDevice } from "./device.ts"
import { machineFacts } from "./engine.ts"
import { modelDirectory, type Precision } from "./gpt.ts"
import type { Device } from "./program.ts"
import { measureBandwidth } from "./train.ts"

/** Tells a person what happens or what was left out. */
export type Tell = (note: string) => void

export interface Bench {
  /** Fields of which every value needs a process of its own. */
  readonly apart: readonly ("device" | "precision" | "preset")[]
  readonly presets: readonly string[]
  measure(config: BenchConfig, tell: Tell): Promise<Measurement[]>
}

/** Values of a list field, each of which may be several with commas. */
export const listed = (values: readonly string[], otherwise: readonly string[] = []): string[] => {
  const all = values.flatMap((value) => value.split(",")).filter((value) => value !== "")
  return all.length > 0 ? all : [...otherwise]
}

/** Whole numbers of a list field. */
export function numbers(name: string, values: readonly string[]): number[] {
  return listed(values).map((value) => {
    if (/^[1-9]\d{0,8}$/.test(value)) return Number(value)
    throw new AlphaError(`--${name} ${value}: expected a whole number of at least 1`, { code: EXIT.usage })
  })
}

/** Precisions of a list field, by either of their names. */
export function precisionsOf(values: readonly string[]): Precision[] {
  return listed(values, ["f32"]).map((value) => {
    const known = { f32: "f32", float32: "f32", bf16: "bf16", bfloat16: "bf16" }[value]
    if (known !== undefined) return known as Precision
    throw new AlphaError(`--precision ${value}: expected f32 or bf16`, { code: EXIT.usage })
  })
}

/** Reads every word of the lists, so that one that nobody knows is told before anything is measured. */
export function checkWords({
  preset,
  device,
  precision,
  batch,
  only,
}: Pick<BenchConfig, "preset" | "device" | "precision" | "batch"> & Partial<Pick<BenchConfig, "only">>): void {
  for (const name of listed(preset)) findPreset(name)
  for (const name of listed(device)) checkDeviceName(name)
  precisionsOf(precision)
  numbers("batch", batch)
  if (only !== undefined) pattern(only)
}

function pattern(text: string): RegExp {
  try {
    return new RegExp(text)
  } catch (cause) {
    throw new AlphaError(`--only ${text}: not a regular expression`, { code: EXIT.usage, cause })
  }
}

const first = (values: readonly string[], otherwise: string): string => listed(values)[0] ?? otherwise
const precisionOf = ({ precision }: BenchConfig): Precision => precisionsOf(precision)[0]!

function open({ device, threads }: BenchConfig, tell: Tell): Device {
  const opened = openDevice(first(device, "auto"), threads)
  if (opened.choice !== undefined) tell(opened.choice)
  return opened.device
}

/** How samples are taken in this process: `share` of the time is one sample's. */
const samplingOf = ({ seconds, rounds }: BenchConfig, device: Device | undefined, share = 1): Sampling => ({
  warmMs: Math.min(300, (seconds * share * 1000) / 3),
  ms: seconds * share * 1000,
  least: rounds,
  clock: () => device?.telemetry()?.smClockMhz,
  now: () => performance.now(),
})

export const BENCHES: Readonly<Record<"ops" | "train" | "infer" | "serve" | "tokenizer" | "startup" | "counters", Bench>> = {
  ops: {
    apart: ["device", "precision"],
    presets: [],
    async measure(config, tell) {
      const device = open(config, tell)
      const only = pattern(config.only)
      const roof = measureRoofline(device)
      const rate = (value: number) => (value / 1e9).toPrecision(3)
      tell(`roofline: ${rate(roof.bytes)} GB/s, f32 ${rate(roof.flops.f32)}, bf16 ${rate(roof.flops.bf16)} GFLOP/s`)
      const presets = listed(config.preset)
      // There are many cases: a hundredth of the time for each.
      if (presets.length === 0) return benchCases(device, only, samplingOf(config, device, 0.01), roof, tell)
      const [batch] = numbers("batch", config.batch)
      const step = { precision: precisionOf(config), batch, program: config.program, only }
      return presets.flatMap((preset) => benchStepOps(device, { ...step, preset }, samplingOf(config, device), roof))
    },
  },
  train: {
    apart: [],
    presets: ["cpu-small"],
    async measure(config) {
      const measurements: Measurement[] = []
      for (const preset of listed(config.preset, this.presets))
        for (const device of listed(config.device, ["auto"]))
          for (const precision of precisionsOf(config.precision))
            for (const batch of config.batch.length === 0 ? [undefined] : numbers("batch", config.batch)) {
              const { threads, context, steps, seconds } = config
              const job = { preset, device, precision, threads, batch, context, steps, seconds, flags: [] }
              measurements.push(await benchTrain(selfCommand(), job, config.rounds))
            }
      return measurements
    },
  },
  infer: {
    apart: ["device", "precision", "preset"],
    presets: ["cpu-small"],
    async measure(config, tell) {
      const device = open(config, tell)
      const bandwidth = measureBandwidth(device, machineFacts().cache_bytes, device.memoryBytes() ?? 2 ** 33)
      const batches = numbers("batch", config.batch)
      const job = {
        preset: first(config.preset, "cpu-small"),
        model: config.model === undefined ? undefined : modelDirectory(config.model, config.runsDir),
        precision: precisionOf(config),
        prompt: config.prompt,
        generate: config.generate,
        batches: batches.length > 0 ? batches : [1, 8],
      }
      return benchInfer(device, job, samplingOf(config, device), bandwidth)
    },
  },
  serve: {
    apart: ["device"],
    presets: [],
    measure: (config) => benchServe(selfCommand(), first(config.device, "auto"), config.rounds),
  },
  tokenizer: {
    apart: [],
    presets: [],
    async measure(config) {
      const text = config.data === undefined ? inventedText(2_000_000) : readText(config.data)
      return benchTokenizer(text, config.data ?? "invented", samplingOf(config, undefined))
    },
  },
  startup: {
    apart: ["device"],
    presets: [],
    measure: (config) => benchStartup(selfCommand(), first(config.device, "auto"), config.rounds),
  },
  counters: {
    apart: ["device", "precision", "preset"],
    presets: ["cpu-small"],
    async measure(config, tell) {
      const device = open(config, tell)
      const preset = first(config.preset, "cpu-small")
      const [batch] = numbers("batch", config.batch)
      const precision = precisionOf(config)
      return Object.entries(countersOf(device, preset, precision, batch)).map(([counter, value]): Measurement => {
        const command = `alpha bench counters --preset=${preset} --precision=${precision}`
        return {
          bench: "counters",
          name: counter,
          device: device.description,
          unit: "",
          better: "less",
          samples: [value],
          facts: {},
          command,
        }
      })
    },
  },
}
export type BenchName = keyof typeof BENCHES

/** Every combination of the values that a bench needs processes for. */
function combinations(bench: Bench, config: BenchConfig): Partial<BenchConfig>[] {
  return bench.apart.reduce<Partial<BenchConfig>[]>(
    (all, name) => {
      const values = listed(config[name], name === "preset" ? bench.presets : [])
      return values.length === 0 ? all : all.flatMap((one) => values.map((value) => ({ ...one, [name]: [value] })))
    },
    [{}],
  )
}

/** The flags that give a process these values. */
export const flagsOf = (config: Readonly<Record<string, unknown>>): string[] =>
  Object.entries(config).flatMap(([name, value]) => {
    if (["format", "record", "config"].includes(name) || value === undefined || value === "") return []
    return [value].flat().map((one) => `--${name}=${one}`)
  })

/** Runs a bench: here where one process is enough, else in a process for each combination of devices, precisions and presets. */
export async function runBench(name: BenchName, config: BenchConfig, fields: readonly string[], tell: Tell): Promise<Measurement[]> {
  const bench = BENCHES[name]
  const each = combinations(bench, config)
  if (each.length === 1) return await bench.measure({ ...config, ...each[0] }, tell)
  const measurements: Measurement[] = []
  for (const own of each) {
    const values = Object.fromEntries(Object.entries({ ...config, ...own }).filter(([field]) => fields.includes(field)))
    const { stdout, stderr } = await runWell([...selfCommand(), "bench", name, ...flagsOf(values), "--json"])
    for (const line of stderr.split("\n")) if (line !== "") tell(line)
    measurements.push(...(JSON.parse(stdout) as Measurement[]))
  }
  return measurements
}
