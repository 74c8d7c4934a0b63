/** Kills a trainer at random moments, resumes it, and compares the end with that of a run nobody touched; for the tests and the soak. */
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs"
import { join } from "node:path"
import { uniform } from "../src/base-random.ts"

/** A model so small that a run takes about a second, with everything a resume must restore: dropout, accumulation, evaluations, samples, retention. */
const RUN = [
  "--tokenizer=char",
  "--nLayer=1",
  "--nHead=2",
  "--nEmbd=16",
  "--context=16",
  "--batch=4",
  "--accumSteps=2",
  "--dropout=0.2",
  "--steps=40",
  "--warmupSteps=5",
  "--evalInterval=8",
  "--evalSteps=4",
  "--checkpointInterval=5",
  "--keepCheckpoints=2",
  "--sampleInterval=7",
  "--sampleTokens=8",
  "--logInterval=1",
  "--device=cpu",
  "--json",
]

/** What else a run may have to restore, each with its flags: other moments, masters beside bf16 weights, data order, recomputation, schedules. */
export const VARIANTS = {
  adamw: ["--threads=1"],
  muon: ["--threads=1", "--optimizer=muon", "--precision=bf16", "--order=sequential"],
  lion: ["--threads=1", "--optimizer=lion", "--activationCheckpointing", "--position=rope", "--activation=swiglu"],
  sgd: ["--threads=1", "--optimizer=sgd", "--softCap=15", "--schedule=wsd"],
  threads: ["--threads=2"],
} as const satisfies Record<string, readonly string[]>
export type Variant = keyof typeof VARIANTS

export interface Trainer {
  /** Command line of alpha. */
  readonly command: readonly string[]
  readonly data: string
  /** Holds the runs of this trainer only. */
  readonly runsDir: string
  readonly variant: Variant
}

function start({ command, data, runsDir, variant }: Trainer, flags: readonly string[]) {
  const all = [...command, "train", `--data=${data}`, `--runsDir=${runsDir}`, ...RUN, ...VARIANTS[variant], ...flags]
  return Bun.spawn(all, { stdout: "ignore", stderr: "pipe" })
}

async function finish(trainer: Trainer, flags: readonly string[]): Promise<void> {
  const run = start(trainer, flags)
  if ((await run.exited) !== 0)
    throw new Error(`alpha train of variant ${trainer.variant} ${flags.join(" ")}: ${await new Response(run.stderr).text()}`)
}

/** Trains the undisturbed run; returns its milliseconds. */
export async function trainWhole(trainer: Trainer): Promise<number> {
  mkdirSync(trainer.runsDir, { recursive: true })
  const at = performance.now()
  await finish(trainer, ["--run=whole"])
  return performance.now() - at
}

/**
 * One run that is killed `kills` times (SIGKILL after up to `ms` milliseconds) and resumed each time, then left to its end.
 * Returns how many kills hit a living process, and how many of those a run that had a checkpoint; throws naming the first file, link or journal row that differs from the whole run.
 */
export async function killAndCompare(trainer: Trainer, seed: number, kills: number, ms: number): Promise<{ hits: number; late: number }> {
  const name = `cut-${seed}`
  const directory = join(trainer.runsDir, name)
  let [hits, late] = [0, 0]
  for (let k = 0; k < kills && !isComplete(directory); k++) {
    const run = start(trainer, again(directory, name))
    await Promise.race([Bun.sleep(uniform(seed, 1, 0, k) * ms), run.exited])
    run.kill("SIGKILL")
    await run.exited
    if (run.signalCode !== "SIGKILL") continue
    hits++
    if (existsSync(join(directory, "last"))) late++
  }
  if (!isComplete(directory)) await finish(trainer, again(directory, name))
  compareRuns(join(trainer.runsDir, "whole"), directory)
  rmSync(directory, { recursive: true })
  return { hits, late }
}

const again = (directory: string, name: string): string[] =>
  existsSync(join(directory, "config.json")) ? [`--resume=${directory}`] : [`--run=${name}`]

const LAST = "checkpoints/step-000040"
/** At its end, so that a resume would be refused: `last` points at the last step's checkpoint. */
const isComplete = (directory: string): boolean => existsSync(join(directory, "last")) && readlinkSync(join(directory, "last")) === LAST

/** Throws naming the first thing in which a run that was killed and resumed differs from one that was not. */
export function compareRuns(whole: string, cut: string): void {
  const [kept, found] = [whole, cut].map((dir) =>
    readdirSync(join(dir, "checkpoints"))
      .filter((name) => !name.startsWith("."))
      .sort(),
  )
  // A kill after `last` moved to the last step may leave a checkpoint that retention was about to delete.
  const wasEnded = rowsOf(cut, "events").at(-1)?.type === "summary"
  const compared = wasEnded ? found : found!.filter((name) => kept!.includes(name))
  if (String(kept) !== String(compared)) throw new Error(`${cut}: checkpoints kept: ${found}, want ${kept}`)
  for (const link of ["best", "last"]) {
    const [want, got] = [whole, cut].map((dir) => readlinkSync(join(dir, link)))
    if (want !== got) throw new Error(`${cut}/${link} points at ${got}, want ${want}`)
  }
  for (const step of kept!) {
    const [want, got] = [whole, cut].map((dir) => join(dir, "checkpoints", step))
    if (String(readdirSync(want!).sort()) !== String(readdirSync(got!).sort())) throw new Error(`${got} has other files than ${want}`)
    for (const file of readdirSync(want!)) {
      if (!readFileSync(join(want!, file)).equals(readFileSync(join(got!, file)))) throw new Error(`${got}/${file} differs`)
    }
  }
  for (const journal of ["metrics", "samples"]) {
    const [want, got] = [whole, cut].map((dir) => rowsOf(dir, journal).map((row) => JSON.stringify(row)))
    want!.forEach((row, i) => {
      if (row !== got![i]) throw new Error(`${cut}/${journal}.jsonl row ${i}: ${got![i]}, want ${row}`)
    })
    if (want!.length !== got!.length) throw new Error(`${cut}/${journal}.jsonl has ${got!.length} rows, want ${want!.length}`)
  }
  compareEvents(whole, cut)
}

const PHASES = ["data_ms", "submit_ms", "wait_ms", "eval_ms", "ms"]
/** Measured anew by every process, or where the run lies. */
const CHANGING = new Set(["time", "seq", "run", "path", "tokens_per_s", "ms_per_step", "mfu", "elapsed_s", "eta_s", "peakFlops", ...PHASES])
export type Row = Record<string, unknown>

export function rowsOf(dir: string, journal: string): Row[] {
  const lines = readFileSync(join(dir, `${journal}.jsonl`), "utf8")
    .trimEnd()
    .split("\n")
  return lines.map((line) => Object.fromEntries(Object.entries(JSON.parse(line) as Row).filter(([name]) => !CHANGING.has(name))))
}

/**
 * Alerts, which may tell of the machine, aside, the events of both runs are the same but for three things that belong to the processes: each resume adds a start row; a process killed
 * between writing a checkpoint and saying so leaves no row of it, and the next one starts at its step; the summary tells of one process, and
 * is missing when the kill came after the last checkpoint.
 */
function compareEvents(whole: string, cut: string): void {
  const [want, got] = [whole, cut].map((dir) => rowsOf(dir, "events"))
  const starts = got!.filter(({ type }) => type === "start")
  const [first] = want!
  for (const row of starts) {
    const expected = { ...first, step: row.step }
    if (JSON.stringify(row) !== JSON.stringify(expected))
      throw new Error(`${cut}/events.jsonl: ${JSON.stringify(row)}, want ${JSON.stringify(expected)}`)
  }
  const resumed = new Set([...starts.map(({ step }) => step), 40])
  const others = (rows: Row[]) => rows.filter(({ type }) => type !== "start" && type !== "summary" && type !== "alert")
  let at = 0
  const rest = others(got!).map((row) => JSON.stringify(row))
  for (const row of others(want!)) {
    if (rest[at] === JSON.stringify(row)) at++
    else if (row.type !== "checkpoint" || !resumed.has(row.step))
      throw new Error(`${cut}/events.jsonl: ${rest[at]}, want ${JSON.stringify(row)}`)
  }
  if (at !== rest.length) throw new Error(`${cut}/events.jsonl: ${rest[at]} is in it, but not in that of ${whole}`)
}
