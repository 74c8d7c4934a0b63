/** Defaults for training by kind of GPU, applied where nobody chose otherwise. */
import { AlphaError, EXIT } from "./base-error.ts"
import { type Field, findPreset, TRAIN_FIELDS } from "./config.ts"

export interface Profile {
  readonly name: string
  /** How the GPU is called in fleet.json or by its driver. */
  readonly pattern: RegExp
  readonly values: Readonly<Record<string, unknown>>
}

/** `device` is no `auto`: a driver that is missing after a reboot must not become a month on the CPU. */
export const PROFILES: readonly Profile[] = [
  {
    name: "l4",
    pattern: /\bl4\b/i,
    // 24 GB and 300 GB/s: steps are long, so that a line for every 25 is enough.
    values: { device: "gpu", precision: "bf16", logInterval: 25, gpuMetricsSampleEvery: 25 },
  },
  {
    name: "h100/h200",
    pattern: /\bh[12]00\b|\bgh200\b/i,
    // Steps are short: results are read four at a time, and looks at the GPU are rare.
    values: { device: "gpu", precision: "bf16", logInterval: 50, adaptiveSyncMinInterval: 4, gpuMetricsSampleEvery: 200 },
  },
]

export const profileOf = (gpu: string | undefined): Profile | undefined =>
  gpu === undefined ? undefined : PROFILES.find(({ pattern }) => pattern.test(gpu.replaceAll(/[_-]/g, " ")))

export interface TrainWords {
  /** Flags for `alpha train`, weakest first. */
  readonly words: readonly string[]
  /** What was added by the GPU's profile, for people; undefined where nothing was. */
  readonly note: string | undefined
}

/**
 * The words of a training job: the GPU's profile, then fleet.json's `train`, then what was typed. A later one replaces an earlier; the
 * profile gives way to a preset too. A resumed run keeps its own settings.
 */
export function trainWords(
  gpu: string | undefined,
  fromFile: Readonly<Record<string, unknown>>,
  typed: Readonly<Record<string, unknown>>,
): TrainWords {
  const isResumed = typed.resume !== undefined
  const chosen: Record<string, unknown> = isResumed ? { ...typed } : { ...fromFile, ...typed }
  const preset = typeof chosen.preset === "string" ? findPreset(chosen.preset).values({ isRandom: chosen.data === "random" }) : {}
  const profile = isResumed || chosen.device === "cpu" ? undefined : profileOf(gpu)
  const added = Object.entries(profile?.values ?? {}).filter(([name]) => !(name in chosen) && !(name in preset))
  const flags = (values: readonly (readonly [string, unknown])[]) => values.flatMap(([name, value]) => flag(name, value))
  const defaults = flags(added)
  return {
    words: [...defaults, ...flags(Object.entries(chosen))],
    note: defaults.length === 0 ? undefined : `${profile?.name} defaults: ${defaults.join(" ")}`,
  }
}

/** A field as the command line takes it; what is absent on purpose is `none` or `auto`. */
export function flag(name: string, value: unknown): string[] {
  const field: Field | undefined = (TRAIN_FIELDS as Readonly<Record<string, Field>>)[name]
  if (value === undefined || value === null) return [`--${name}=${field?.presence === "derived" ? "auto" : "none"}`]
  const text = typeof value === "object" ? JSON.stringify(value) : String(value)
  if (text.includes("\0")) throw new AlphaError(`--${name}: a NUL byte`, { code: EXIT.usage })
  return [`--${name}=${text}`]
}
