/** Training on several ranks under real launchers: the bytes of one rank, stops, deaths, and ranks that do not mean the same. */
import { beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { compareRanks, type Launcher, missing, RUN, STEPS, type Started, startRanks } from "./dist-ranks.ts"
import { testWith } from "./require.ts"
import { sampleText } from "./support.ts"

const folder = mkdtempSync(join(tmpdir(), "dist-mpi-"))
const data = join(folder, "book.txt")
const command = [process.execPath, join(import.meta.dir, "../src/cli.ts")]
const TIMEOUT = 240_000

/** Each test's runs have a folder of their own, by which its processes are found. */
function place(name: string) {
  const runsDir = join(folder, name)
  mkdirSync(runsDir, { recursive: true })
  return { command, data, runsDir }
}

/** Another model: untied weights, masters beside bf16 copies, two update rules at once. */
const OTHER = ["--nLayer=2", "--no-tie", "--optimizer=muon", "--precision=bf16"]
const want = { tied: join(folder, "one", "tied"), other: join(folder, "one", "other") }

beforeAll(async () => {
  writeFileSync(data, sampleText(8000))
  const { runsDir } = place("one")
  for (const [name, flags] of Object.entries({ tied: [], other: OTHER })) {
    const all = [...command, "train", `--data=${data}`, `--runsDir=${runsDir}`, ...RUN, `--steps=${STEPS}`, `--run=${name}`, ...flags]
    const alone = Bun.spawnSync(all, { stderr: "pipe" })
    expect([alone.exitCode, alone.stderr.toString()]).toEqual([0, ""])
  }
}, TIMEOUT)

const withRanks = (launcher: Launcher) => testWith(launcher === "torchrun" ? "torch" : "mpi", missing(launcher))
const ended = async (started: Started) => await started.end()

/** Waits until a run has a checkpoint, or its ranks have ended. */
async function untilCheckpoint(directory: string, started: Started): Promise<void> {
  while (!existsSync(join(directory, "last")) && started.children.some(({ exitCode }) => exitCode === null)) await Bun.sleep(20)
}

describe("several ranks end in the bytes of one", () => {
  const cases: [Launcher, number, keyof typeof want, string[], string][] = [
    ["openmpi", 2, "tied", [], "two ranks, tied weights"],
    ["openmpi", 3, "tied", [], "three ranks, one of them without work in the second round"],
    ["openmpi", 2, "other", [...OTHER, "--shardOptimizer"], "untied weights in bf16 under muon, the moments shared out"],
    ["mpich", 2, "tied", ["--shardOptimizer"], "the moments shared out"],
    ["torchrun", 2, "tied", [], "PyTorch's own torchrun and its store"],
    ["variables", 2, "tied", [], "torchrun's variables: MPICH's library, our store and process manager"],
  ]
  for (const [launcher, size, model, flags, about] of cases) {
    withRanks(launcher)(
      `${launcher}, ${size} ranks: ${about}`,
      async () => {
        const run = place(`${launcher}-${size}-${model}-${flags.length}`)
        const { codes, err } = await ended(await startRanks(run, launcher, size, [`--steps=${STEPS}`, "--run=run", ...flags]))
        expect([...codes, err.includes("alpha:")], err).toEqual([...codes.map(() => 0), false])
        compareRanks(want[model], join(run.runsDir, "run"))
        expect(readFileSync(join(run.runsDir, "run", "rank-1.jsonl"), "utf8")).toContain('"summary"')
      },
      TIMEOUT,
    )
  }
})

describe("a run that is cut goes on with other ranks and ends in the same bytes", () => {
  const more = [`--steps=${STEPS}`, "--run=run", "--resume=or-start"]
  for (const [launcher, signal, others] of [
    ["openmpi", "SIGTERM", 3],
    ["variables", "SIGUSR1", 1],
  ] as const) {
    withRanks(launcher)(
      `${launcher}: ${signal} to one rank: all end after the same step with one checkpoint, exit 0`,
      async () => {
        const run = place(`stop-${launcher}`)
        const directory = join(run.runsDir, "run")
        const started = await startRanks(run, launcher, 2, more)
        await untilCheckpoint(directory, started)
        const pid = started.pids().at(-1)
        if (pid !== undefined) process.kill(pid, signal)
        const { codes, err } = await ended(started)
        expect(codes, err).toEqual(codes.map(() => 0))
        const next = await ended(await startRanks(run, launcher, others, more))
        expect([...new Set(next.codes), /is complete/.test(next.err)], next.err).toEqual(pid === undefined ? expect.anything() : [0, false])
        compareRanks(want.tied, directory)
      },
      TIMEOUT,
    )
  }

  for (const [launcher, victim] of [
    ["openmpi", 1],
    ["variables", 0],
    ["variables", 1],
  ] as const) {
    withRanks(launcher)(
      `${launcher}: rank ${victim} is killed: the others end with its name, nothing hangs`,
      async () => {
        const run = place(`kill-${launcher}-${victim}`)
        const directory = join(run.runsDir, "run")
        // More steps than there is time for: the kill always comes in the middle.
        const started = await startRanks(run, launcher, 2, ["--steps=1000000", "--warmupSteps=2", "--decaySteps=40", "--run=run"])
        await untilCheckpoint(directory, started)
        process.kill(started.pids()[victim] as number, "SIGKILL")
        const { codes, err } = await ended(started) // a hang ends the test by its timeout
        expect(codes).not.toContain(0)
        if (launcher === "variables") expect(err).toMatch(new RegExp(`rank ${victim} .*is lost: it ended without a word`))
        expect(existsSync(join(directory, "lock")) && victim === 1).toBe(false)
      },
      TIMEOUT,
    )
  }
})

describe("ranks that do not mean the same are refused", () => {
  const cases: [string, (rank: number) => string[], RegExp][] = [
    ["another setting", (rank) => (rank === 1 ? ["--lr=0.5"] : []), /rank 1 has lr 0\.5, rank 0 has 0\.0006/],
    ["other data", (rank) => (rank === 1 ? [`--data=${join(folder, "other.txt")}`] : []), /rank 1 has data /],
  ]
  for (const [about, each, message] of cases) {
    withRanks("variables")(
      about,
      async () => {
        writeFileSync(join(folder, "other.txt"), sampleText(8001))
        const run = place(`refused-${about}`)
        const { codes, err } = await ended(await startRanks(run, "variables", 2, [`--steps=${STEPS}`, "--run=run"], each))
        expect(codes).not.toContain(0)
        expect(err).toMatch(message)
        expect(existsSync(join(run.runsDir, "run", "config.json"))).toBe(false)
      },
      TIMEOUT,
    )
  }

  withRanks("variables")(
    "more ranks than micro-batches",
    async () => {
      const { codes, err } = await ended(await startRanks(place("many"), "variables", 2, ["--accumSteps=1", "--run=run"]))
      expect(codes).toEqual([2, 2])
      expect(err).toContain("accumSteps 1 cannot be shared by 2 ranks")
    },
    TIMEOUT,
  )
})

for (const launcher of ["openmpi", "mpich"] as const) {
  withRanks(launcher)(
    `${launcher}: sums over ranks in pieces have the bits of sums made alone`,
    async () => {
      const env = {
        ...process.env,
        OMPI_ALLOW_RUN_AS_ROOT: "1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
        OMPI_MCA_rmaps_base_oversubscribe: "1",
      }
      const all = [`mpirun.${launcher}`, "-n", "3", process.execPath, join(import.meta.dir, "dist-sum.ts")]
      const child = Bun.spawn(all, { env, stdin: "ignore", stdout: "pipe", stderr: "pipe" })
      const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited])
      expect([out.split("\n").sort().filter(Boolean), code], err).toEqual([[0, 1, 2].map((rank) => `rank ${rank} of 3: equal`), 0])
    },
    TIMEOUT,
  )
}

test("one rank alone opens no library, store or port", () => {
  const run = place("alone")
  const flags = [`--data=${data}`, `--runsDir=${run.runsDir}`, "--run=run", ...RUN, "--steps=2", "--warmupSteps=1"]
  const program = `
    const { main } = await import(${JSON.stringify(join(import.meta.dir, "../src/cli.ts"))})
    const code = await main(${JSON.stringify(["train", ...flags])})
    const maps = await Bun.file("/proc/self/maps").text()
    process.stderr.write(JSON.stringify([code, /libmpi|libmpich|libnccl|libcuda/.test(maps)]))
    process.exit(0)`
  const child = Bun.spawnSync([process.execPath, "-e", program], {
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, OMPI_COMM_WORLD_RANK: "0", OMPI_COMM_WORLD_SIZE: "1" },
  })
  expect(child.stderr.toString()).toBe("[0,false]")
})

withRanks("variables")(
  "NCCL asked for on the CPU, or where its library is not: refused by name",
  async () => {
    const flags = ["--run=run", `--steps=${STEPS}`, "--dist=nccl", "--ncclLibrary=libnowhere.so"]
    const { codes, err } = await ended(await startRanks(place("nccl"), "variables", 2, flags))
    expect(codes).not.toContain(0)
    expect(err).toContain("libnowhere.so")
  },
  TIMEOUT,
)
