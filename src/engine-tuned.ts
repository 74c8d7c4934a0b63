/** Settings that the tuner found fastest: one file in the cache directory, an entry per device, preset and precision, good for the driver and program that were measured. */
import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { buildInfo } from "./base-build.ts"
import { makeDirectory, readText, writeAtomic } from "./base-file.ts"
import { gpuNamed } from "./device.ts"
import { machineFacts } from "./engine-machine.ts"

/** What an entry is found by. */
export interface TunedKey {
  /** Processor and its cores, or a GPU's name. */
  readonly device: string
  readonly preset: string
  readonly precision: string
  /** Sequences at a time: other batches have other fastest settings. */
  readonly batch: number
}

export interface Tuned extends TunedKey {
  readonly driver: string
  /** Version and commit of the program. */
  readonly program: string
  readonly date: string
  /** Values of fields of `alpha train`; none where the usual ones were the fastest. They change no bit of a result. */
  readonly settings: Readonly<Record<string, number | string>>
  /** tokens/s with them, and with the usual ones. */
  readonly rate: number
  readonly usual: number
}

/** The file; undefined where there is no place for one. */
export function tunedFile(environment: Readonly<Record<string, string | undefined>> = process.env): string | undefined {
  const { XDG_CACHE_HOME, HOME } = environment
  const folder = XDG_CACHE_HOME || (HOME && join(HOME, ".cache"))
  return folder ? join(folder, "alpha", "tuned.json") : undefined
}

/** What a device is called in the file, and its driver; undefined where it is not there. */
export function tunedDevice(name: string): { device: string; driver: string } | undefined {
  const { processor, cores, best_isa } = machineFacts()
  const cpu = { device: `${processor}, ${cores} cores`, driver: `kernels ${best_isa}` }
  const gpu = gpuNamed(name)
  if (gpu !== undefined) return { device: gpu.name, driver: gpu.driver }
  return ["cpu", "auto"].includes(name) ? cpu : undefined
}

export function tunedProgram(): string {
  const { version, commit } = buildInfo()
  return `${version} ${commit}`
}

const isEntry = (one: unknown): one is Tuned => typeof one === "object" && one !== null && typeof (one as Tuned).settings === "object"

/** All entries; a file that is damaged has none. */
function readAll(file: string): Tuned[] {
  if (!existsSync(file)) return []
  try {
    const all = JSON.parse(readText(file)) as unknown
    return Array.isArray(all) ? all.filter(isEntry) : []
  } catch {
    return []
  }
}

const isSame = (a: TunedKey, b: TunedKey): boolean =>
  a.device === b.device && a.preset === b.preset && a.precision === b.precision && a.batch === b.batch

/** Puts an entry in the place of the one that it renews. */
export function keepTuned(file: string, entry: Tuned): void {
  makeDirectory(dirname(file))
  const others = readAll(file).filter((one) => !isSame(one, entry))
  writeAtomic(file, `${JSON.stringify([...others, entry], null, 2)}\n`)
}

/** The entry for this, and why it is not good any more where it is not. */
export function findTuned(
  file: string | undefined,
  wanted: Omit<TunedKey, "device"> & { readonly device: string },
): { readonly entry: Tuned; readonly stale: string | undefined } | undefined {
  const all = file === undefined ? [] : readAll(file)
  // Looking for GPUs takes time: only where an entry could fit.
  if (!all.some(({ preset, precision, batch }) => preset === wanted.preset && precision === wanted.precision && batch === wanted.batch)) {
    return undefined
  }
  const place = tunedDevice(wanted.device)
  const entry = place && all.find((one) => isSame(one, { ...wanted, device: place.device }))
  if (place === undefined || entry === undefined) return undefined
  const program = tunedProgram()
  const stale =
    entry.driver !== place.driver
      ? `found with driver ${entry.driver}, this is ${place.driver}`
      : entry.program !== program
        ? `found with alpha ${entry.program}, this is ${program}`
        : undefined
  return { entry, stale }
}
