/** Kills a trainer at random moments, resumes it, and compares the end with that of a run nobody touched; for the tests and the soak. */
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { uniform } from "../src/base-random.ts"

/** A model so small that a run takes about a second, with everything a resume must restore: dropout, accumulation, evaluations, retention. */
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
  "--sampleInterval=none",
  "--logInterval=1",
  "--device=cpu",
  "--threads=1",
  "--json",
]

export interface Trainer {
  /** Command line of alpha. */
  readonly command: readonly string[]
  readonly data: string
  readonly runsDir: string
}

function start({ command, data, runsDir }: Trainer, flags: readonly string[]) {
  return Bun.spawn([...command, "train", `--data=${data}`, `--runsDir=${runsDir}`, ...RUN, ...flags], { stdout: "ignore", stderr: "pipe" })
}

async function finish(trainer: Trainer, flags: readonly string[]): Promise<void> {
  const run = start(trainer, flags)
  if ((await run.exited) !== 0) throw new Error(`alpha train ${flags.join(" ")}: ${await new Response(run.stderr).text()}`)
}

/** Trains the undisturbed run; returns its milliseconds. */
export async function trainWhole(trainer: Trainer, flags: readonly string[] = []): Promise<number> {
  const at = performance.now()
  await finish(trainer, ["--run=whole", ...flags])
  return performance.now() - at
}

/**
 * One run that is killed `kills` times (SIGKILL after up to `ms` milliseconds) and resumed each time, then left to its end.
 * Returns how many kills really hit; throws naming the first file or journal row that differs from the whole run.
 */
export async function killAndCompare(
  trainer: Trainer,
  seed: number,
  kills: number,
  ms: number,
  flags: readonly string[] = [],
): Promise<number> {
  const name = `cut-${seed}`
  const directory = join(trainer.runsDir, name)
  let hits = 0
  for (let k = 0; k < kills && !isComplete(directory); k++) {
    const run = start(trainer, [...again(directory, name), ...flags])
    await Promise.race([Bun.sleep(uniform(seed, 1, 0, k) * ms), run.exited])
    run.kill("SIGKILL")
    await run.exited
    if (run.signalCode === "SIGKILL") hits++
  }
  if (!isComplete(directory)) await finish(trainer, [...again(directory, name), ...flags])
  compare(join(trainer.runsDir, "whole"), directory)
  rmSync(directory, { recursive: true })
  return hits
}

const again = (directory: string, name: string): string[] =>
  existsSync(join(directory, "config.json")) ? [`--resume=${directory}`] : [`--run=${name}`]

const LAST = "checkpoints/step-000040"
const isComplete = (directory: string): boolean => existsSync(join(directory, LAST)) && readlink(directory, "last")
const readlink = (directory: string, name: string): boolean => existsSync(join(directory, name, "trainer.json"))

function compare(whole: string, cut: string): void {
  const [a, b] = [whole, cut].map((dir) => readdirSync(join(dir, "checkpoints")).sort().join(" "))
  if (a !== b) throw new Error(`checkpoints kept: ${b}, want ${a}`)
  for (const file of readdirSync(join(whole, LAST))) {
    if (!readFileSync(join(whole, LAST, file)).equals(readFileSync(join(cut, LAST, file))))
      throw new Error(`${cut}/${LAST}/${file} differs`)
  }
  const rows = (dir: string) =>
    readFileSync(join(dir, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .map(({ type, step, loss, val_loss, lr, gradNorm }) => JSON.stringify({ type, step, loss, val_loss, lr, gradNorm }))
  const [want, got] = [rows(whole), rows(cut)]
  want.forEach((row, i) => {
    if (row !== got[i]) throw new Error(`${cut}/metrics.jsonl row ${i}: ${got[i]}, want ${row}`)
  })
  if (want.length !== got.length) throw new Error(`${cut}/metrics.jsonl has ${got.length} rows, want ${want.length}`)
}
