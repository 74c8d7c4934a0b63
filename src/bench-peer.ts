/** Peers: other programs that run alternately with us on one machine, from scripts that are part of this program. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Measurement } from "./bench-measure.ts"
import script from "./bench-peer.py" with { type: "text" }
import { inTemporary, runCommand, runWell } from "./bench-process.ts"
import { median } from "./bench-stats.ts"

/** What the script answers: every sample. */
export interface TorchAnswer {
  readonly torch: string
  readonly tokens_per_s?: readonly number[]
  readonly prompt_tokens_per_s?: readonly number[]
  readonly peak_bytes?: number | null
  readonly results?: readonly {
    readonly shape: readonly [number, number, number]
    readonly ms: readonly number[]
    readonly checked: readonly number[]
  }[]
}

/** PyTorch, run with flags of the script. */
export type Torch = (what: string, flags: Readonly<Record<string, string | number | boolean | undefined>>) => Promise<TorchAnswer>

/**
 * Calls `work` with a PyTorch that runs in processes of its own, and its version; what it compiles stays in its cache, so that only the first of its
 * processes waits for that. Throws AlphaError where there is none.
 */
export async function withTorch<T>(python: string, work: (torch: Torch, version: string) => Promise<T>): Promise<T> {
  return await inTemporary(async (directory) => {
    const path = join(directory, "bench-peer.py")
    writeFileSync(path, script)
    const torch: Torch = async (what, flags) => {
      const words = Object.entries(flags).flatMap(([name, value]) =>
        value === undefined || value === false ? [] : [`--${name}`, ...(value === true ? [] : [String(value)])],
      )
      const { lines } = await runWell([python, path, what, ...words])
      return lines.at(-1) as unknown as TorchAnswer
    }
    const found = await runCommand([python, path, "version"])
    if (found.code !== 0) {
      const why = found.stderr.trim().split("\n").at(-1)
      throw new AlphaError(`bench peer: ${python} has no PyTorch: ${why}`, {
        hint: "pip install torch, or name another interpreter: --python=PATH",
        code: EXIT.device,
      })
    }
    return await work(torch, (found.lines.at(-1) as unknown as TorchAnswer).torch)
  })
}

/** One way in which the peer can be asked; the fastest counts. */
export interface Variant {
  readonly name: string
  /** All samples of one process, and most bytes on the device where it tells. */
  readonly run: () => Promise<{ readonly samples: readonly number[]; readonly peakBytes?: number | null | undefined }>
}

/**
 * Runs ours and the peer in turns. The first round tries every variant of the peer; later ones repeat the fastest. A variant that cannot run is told
 * and left out.
 */
export async function alternate(
  ours: () => Promise<Measurement>,
  variants: readonly Variant[],
  rounds: number,
  tell: (note: string) => void,
): Promise<Measurement> {
  const mine: Measurement[] = []
  const theirs = new Map<string, number[]>()
  const peaks = new Map<string, number>()
  const fastest = () => [...theirs].toSorted((a, b) => median(b[1]) - median(a[1]))[0]
  for (let round = 0; round < rounds; round++) {
    mine.push(await ours())
    const best = fastest()?.[0]
    for (const { name, run } of variants.filter((one) => round === 0 || one.name === best)) {
      try {
        const { samples, peakBytes } = await run()
        theirs.set(name, [...(theirs.get(name) ?? []), ...samples])
        if (typeof peakBytes === "number") peaks.set(name, peakBytes)
      } catch (error) {
        if (!(error instanceof AlphaError)) throw error
        tell(`${name} is left out: ${error.message}`)
      }
    }
  }
  const [first] = mine
  const best = fastest()
  const peer = best === undefined ? undefined : { name: best[0], samples: best[1] }
  const peak = best === undefined ? undefined : peaks.get(best[0])
  const facts = { ...first?.facts, ...(peak === undefined ? {} : { "its peak MiB": Math.round(peak / 2 ** 20) }) }
  return { ...(first as Measurement), samples: mine.flatMap(({ samples }) => samples), facts, peer }
}
