/** Runs `alpha train` on several ranks, by mpirun or by torchrun's variables, and compares runs; for the tests and the soak. */
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs"
import { dirname, join } from "node:path"
import { uniform } from "../src/base-random.ts"
import { freePort } from "./support.ts"
import { rowsOf } from "./train-kill.ts"

/** A model so small that forty steps take a second: tied weights, dropout, accumulation, evaluations, samples. */
export const RUN = [
  ...["--tokenizer=char", "--nLayer=1", "--nHead=2", "--nEmbd=16", "--context=16", "--batch=4", "--accumSteps=4", "--dropout=0.2"],
  ...["--warmupSteps=5", "--evalInterval=8", "--evalSteps=5", "--checkpointInterval=5", "--sampleInterval=20", "--sampleTokens=4"],
  ...["--logInterval=1", "--device=cpu", "--threads=1", "--json"],
]
export const STEPS = 24

/** Who starts the ranks: Open MPI's or MPICH's mpirun, PyTorch's torchrun, or a launcher of our own that sets its variables. */
export type Launcher = "openmpi" | "mpich" | "torchrun" | "variables"

/** torchrun beside the Python that PYTHON names, or in PATH. */
const torchrun = (): string | undefined => {
  const beside = process.env.PYTHON === undefined ? undefined : join(dirname(process.env.PYTHON), "torchrun")
  return beside !== undefined && existsSync(beside) ? beside : (Bun.which("torchrun") ?? undefined)
}

/** Why a launcher cannot be used here. */
export function missing(launcher: Launcher): string | undefined {
  if (launcher === "torchrun" && torchrun() === undefined) return "there is no torchrun (PYTHON names a Python that has it)"
  if (launcher === "openmpi" || launcher === "mpich")
    return Bun.which(`mpirun.${launcher}`) === null ? `there is no mpirun.${launcher}` : undefined
  const found = Bun.spawnSync(["ldconfig", "-p"], { env: { PATH: `${process.env.PATH}:/sbin:/usr/sbin` } }).stdout.toString()
  return found.includes("libmpich.so.12") ? undefined : "there is no libmpich.so.12"
}

export interface RankRun {
  readonly command: readonly string[]
  readonly data: string
  readonly runsDir: string
}

const commandOf = ({ command, data, runsDir }: RankRun, flags: readonly string[]): string[] => [
  ...command,
  "train",
  `--data=${data}`,
  `--runsDir=${runsDir}`,
  ...RUN,
  ...flags,
]

/** Variables of a launcher that the tests themselves were started by mean nothing to the ranks. */
const cleanEnv = () => ({
  ...process.env,
  OMPI_ALLOW_RUN_AS_ROOT: "1",
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
  // Ranks outnumber the processors here: they shall yield while they wait.
  OMPI_MCA_rmaps_base_oversubscribe: "1",
  OMPI_MCA_mpi_yield_when_idle: "1",
})

type Child = Bun.Subprocess<"ignore", "ignore" | "pipe", "pipe">

export interface Started {
  /** The launcher, or the ranks themselves. */
  readonly children: readonly Child[]
  /** Process ids of the ranks that run now. */
  pids(): number[]
  /** What all said on standard error, once all have ended, and their exit codes. */
  end(): Promise<{ codes: number[]; err: string }>
}

const LAUNCHER_MS = 15_000

/** What a rank started by variables has of its own: another program, directory, variables. */
interface Own {
  readonly command?: readonly string[]
  readonly cwd?: string
  readonly env?: Record<string, string>
}

/** Starts `size` ranks; `each` adds flags of one rank, `own` what else is its own. */
export async function startRanks(
  run: RankRun,
  launcher: Launcher,
  size: number,
  flags: readonly string[],
  each: (rank: number) => readonly string[] = () => [],
  own: (rank: number) => Own = () => ({}),
): Promise<Started> {
  const env = cleanEnv()
  const options = { stdin: "ignore", stdout: "ignore", stderr: "pipe" } as const
  const children: Child[] = []
  if (launcher === "variables") {
    const port = await freePort()
    for (let rank = 0; rank < size; rank++) {
      const ranks = { RANK: rank, WORLD_SIZE: size, LOCAL_RANK: rank, LOCAL_WORLD_SIZE: size, MASTER_PORT: port }
      const variables = Object.fromEntries(Object.entries(ranks).map(([name, value]) => [name, String(value)]))
      const { command = run.command, cwd = process.cwd(), env: more } = own(rank)
      const words = commandOf({ ...run, command }, [...flags, ...each(rank)])
      children.push(Bun.spawn(words, { ...options, cwd, env: { ...env, ...variables, MASTER_ADDR: "127.0.0.1", ...more } }))
    }
    // A launcher ends the ranks whose fellow has died; so late that they end by themselves first, once they have met.
    for (const child of children)
      child.exited.then(async (code) => {
        if (code === 0) return
        await Bun.sleep(LAUNCHER_MS)
        for (const other of children) other.kill()
      })
  } else if (launcher === "torchrun") {
    const words = ["--standalone", `--nproc-per-node=${size}`, "--max-restarts=2", "--no-python", "--", ...commandOf(run, flags)]
    children.push(Bun.spawn([torchrun() as string, ...words], { ...options, env }))
  } else {
    const parts = Array.from({ length: size }, (_, rank) => [
      ...(rank > 0 ? [":"] : []),
      "-n",
      "1",
      ...commandOf(run, [...flags, ...each(rank)]),
    ])
    children.push(Bun.spawn([`mpirun.${launcher}`, ...parts.flat()], { ...options, env }))
  }
  return {
    children,
    pids: () => (launcher === "variables" ? children.filter((one) => one.exitCode === null).map(({ pid }) => pid) : ranksOf(run.runsDir)),
    async end() {
      const err = await Promise.all(children.map((child) => new Response(child.stderr).text()))
      const codes = await Promise.all(children.map((child) => child.exited))
      return { codes: codes.map((code, i) => code ?? (children[i]?.signalCode === null ? 0 : 1)), err: err.join("") }
    },
  }
}

/** Processes of alpha whose command line names this folder; the launcher's names it too, and is none. */
function ranksOf(runsDir: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")
        return words.includes(`--runsDir=${runsDir}`) && !/mpirun|mpiexec|orterun|hydra|python/.test(words[0] ?? "")
      } catch {
        return false // ended meanwhile
      }
    })
    .map(Number)
    .sort((a, b) => a - b)
}

/** Sends a signal to a rank; false where it has ended meanwhile. */
export function signal(pid: number | undefined, name: NodeJS.Signals): boolean {
  try {
    return pid !== undefined && process.kill(pid, name)
  } catch {
    return false
  }
}

/** Steps that the journal of a run tells. */
function stepOf(directory: string): number {
  const path = join(directory, "metrics.jsonl")
  if (!existsSync(path)) return 0
  return Math.max(0, ...[...readFileSync(path, "utf8").matchAll(/"type":"step","step":(\d+)/g)].map(([, step]) => Number(step)))
}

/** Longest time from a kill to the end of the last rank. */
export const END_MS = 120_000

/**
 * One run of `STEPS` steps to its end: a random rank is killed at a random step, at most `most` times, and every start draws launcher and number
 * of ranks anew. The milliseconds from each kill to the end of the last rank. Throws where a start ends in another way.
 */
export async function killAndResume(run: RankRun, launchers: readonly Launcher[], seed: number, most: number): Promise<number[]> {
  const ends: number[] = []
  for (let start = 0; ; start++) {
    const draw = (what: number, below: number) => Math.floor(uniform(seed, what, 0, start) * below)
    const launcher = launchers[draw(1, launchers.length)] as Launcher
    const size = 2 + draw(2, 2)
    const started = await startRanks(run, launcher, size, [`--steps=${STEPS}`, "--run=run", "--resume=or-start"])
    const [victim, step] = [draw(3, size), ends.length < most && draw(5, 4) > 0 ? 1 + draw(4, STEPS) : STEPS + 1]
    const isRunning = () => started.children.every(({ exitCode }) => exitCode === null)
    while (isRunning() && stepOf(join(run.runsDir, "run")) < step) await Bun.sleep(10)
    const pid = started.pids()[victim]
    const isHit = isRunning() && signal(pid, "SIGKILL")
    const at = performance.now()
    const { codes, err } = await started.end()
    if (codes.every((code) => code === 0)) return ends
    if (!isHit) throw new Error(`${launcher}, ${size} ranks: exit codes ${codes}\n${err}`)
    ends.push(performance.now() - at)
    if ((ends.at(-1) as number) > END_MS)
      throw new Error(`${launcher}, ${size} ranks, rank ${victim} at step ${step}: ${ends.at(-1)} ms until all had ended\n${err}`)
  }
}

/** Throws naming the first checkpoint file, link, metrics or samples row in which `other` differs from `one`. */
export function compareRanks(one: string, other: string): void {
  for (const link of ["best", "last"]) {
    const [want, got] = [one, other].map((dir) => readlinkSync(join(dir, link)))
    if (want !== got) throw new Error(`${other}/${link} points at ${got}, want ${want}`)
    for (const file of readdirSync(join(one, link))) {
      if (!readFileSync(join(one, link, file)).equals(readFileSync(join(other, link, file))))
        throw new Error(`${other}/${link}/${file} differs`)
    }
  }
  for (const journal of ["metrics", "samples"]) {
    const [want, got] = [one, other].map((dir) => rowsOf(dir, journal).map((row) => JSON.stringify(row)))
    want?.forEach((row, i) => {
      if (row !== got?.[i]) throw new Error(`${other}/${journal}.jsonl row ${i}: ${got?.[i]}, want ${row}`)
    })
    if (want?.length !== got?.length) throw new Error(`${other}/${journal}.jsonl has ${got?.length} rows, want ${want?.length}`)
  }
}
