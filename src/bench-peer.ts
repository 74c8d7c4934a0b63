/** Peers: other programs that run alternately with us on one machine, from scripts that are part of this program. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Measurement } from "./bench-measure.ts"
import script from "./bench-peer.py" with { type: "text" }
import { type Answering, inTemporary, runCommand, runWell, startAnswering } from "./bench-process.ts"
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
export interface Torch {
  readonly version: string
  /** `ranks` of it by its own launcher, one GPU each; rank 0 answers. */
  ask(what: string, flags: TorchFlags, ranks?: number): Promise<TorchAnswer>
  /** A process that measures again whenever it is asked. */
  open(what: string, flags: TorchFlags): Answering
}
export type TorchFlags = Readonly<Record<string, string | number | boolean | undefined>>

/**
 * Calls `work` with a PyTorch that runs in processes of its own; what it compiles stays in its cache, so that only the first of its processes waits
 * for that. Throws AlphaError where there is none.
 */
export async function withTorch<T>(python: string, work: (torch: Torch) => Promise<T>): Promise<T> {
  return await inTemporary(async (directory) => {
    const path = join(directory, "bench-peer.py")
    writeFileSync(path, script)
    const launcher = (ranks: number) => ["-m", "torch.distributed.run", "--standalone", `--nproc-per-node=${ranks}`]
    const command = (what: string, flags: TorchFlags, ranks = 1) => [
      ...[python, ...(ranks > 1 ? launcher(ranks) : []), path, what],
      ...Object.entries(flags).flatMap(([name, value]) =>
        value === undefined || value === false ? [] : [`--${name}`, ...(value === true ? [] : [String(value)])],
      ),
    ]
    const found = await runCommand([python, path, "version"])
    if (found.code !== 0) {
      const why = found.stderr.trim().split("\n").at(-1)
      throw new AlphaError(`bench peer: ${python} has no PyTorch: ${why}`, {
        hint: "pip install torch, or name another interpreter: --python=PATH",
        code: EXIT.device,
      })
    }
    return await work({
      version: (found.lines.at(-1) as unknown as TorchAnswer).torch,
      ask: async (what, flags, ranks) => (await runWell(command(what, flags, ranks))).lines.at(-1) as unknown as TorchAnswer,
      open: (what, flags) => startAnswering(command(what, { ...flags, turns: true })),
    })
  })
}

/** What one turn of the peer told: its samples, and most bytes on the device where it tells. */
export interface Turn {
  readonly samples: readonly number[]
  readonly peakBytes?: number | null | undefined
}

/** One way in which the peer can be asked; the fastest counts. */
export interface Variant {
  readonly name: string
  readonly open: () => { readonly run: () => Promise<Turn>; readonly close: () => Promise<void> }
}

/**
 * Runs ours and the peer in turns. The first round tries every variant of the peer; the fastest stays open and is asked again in later ones. A variant
 * that cannot run is told and left out.
 */
export async function alternate(
  ours: () => Promise<Measurement>,
  variants: readonly Variant[],
  rounds: number,
  tell: (note: string) => void,
): Promise<Measurement> {
  const mine = [await ours()]
  let best: { name: string; turns: Turn[]; process: ReturnType<Variant["open"]> } | undefined
  for (const { name, open } of variants) {
    const process = open()
    try {
      const turn = await process.run()
      const isFaster = best === undefined || median(turn.samples) > median(samplesOf(best.turns))
      await (isFaster ? best?.process : process)?.close()
      if (isFaster) best = { name, turns: [turn], process }
    } catch (error) {
      if (!(error instanceof AlphaError)) throw error
      tell(`${name} is left out: ${error.message}`)
    }
  }
  for (let round = 1; round < rounds; round++) {
    mine.push(await ours())
    if (best !== undefined) best.turns.push(await best.process.run())
  }
  await best?.process.close()
  const [first] = mine
  const peer = best === undefined ? undefined : { name: best.name, samples: samplesOf(best.turns) }
  const peak = best?.turns.at(-1)?.peakBytes
  const facts = { ...first?.facts, ...(typeof peak === "number" ? { "its peak MiB": Math.round(peak / 2 ** 20) } : {}) }
  return { ...(first as Measurement), samples: samplesOf(mine), facts, peer }
}

const samplesOf = (turns: readonly Pick<Turn, "samples">[]): number[] => turns.flatMap(({ samples }) => samples)
