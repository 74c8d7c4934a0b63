/** Training on several ranks under real launchers: the bytes of one rank, stops, deaths, and ranks that do not mean the same. */
import { beforeAll, describe, expect, test } from "bun:test"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { launchTemplate, serveStore } from "../src/dist.ts"
import { gpus } from "../src/gpu.ts"
import { compareRanks, killAndResume, type Launcher, missing, RUN, STEPS, type Started, signal, startRanks } from "./dist-ranks.ts"
import { testWith } from "./require.ts"
import { PROGRAM, sampleText } from "./support.ts"

const folder = mkdtempSync(join(tmpdir(), "dist-mpi-"))
const data = join(folder, "book.txt")
const command = PROGRAM
const TIMEOUT = 600_000

/** Each test's runs have a folder of their own, by which its processes are found. */
function place(name: string) {
  const runsDir = join(folder, name)
  mkdirSync(runsDir, { recursive: true })
  return { command, data, runsDir }
}

/** Another model: untied weights, masters beside bf16 copies, two update rules at once. */
const OTHER = ["--nLayer=2", "--no-tie", "--optimizer=muon", "--precision=bf16"]
/** The same model on a Vulkan device, two micro-batches a step. */
const ON_GPU = [
  "--device=gpu:0",
  "--accumSteps=2",
  "--nEmbd=32",
  "--steps=5",
  "--warmupSteps=1",
  "--evalInterval=none",
  "--sampleInterval=none",
]
const noGpu = gpus().length === 0 ? "no usable Vulkan device" : undefined
const want = { tied: join(folder, "one", "tied"), other: join(folder, "one", "other"), gpu: join(folder, "one", "gpu") }

beforeAll(async () => {
  writeFileSync(data, sampleText(8000))
  const { runsDir } = place("one")
  for (const [name, flags] of Object.entries({ tied: [], other: OTHER, ...(noGpu === undefined ? { gpu: ON_GPU } : {}) })) {
    const all = [...command, "train", `--data=${data}`, `--runsDir=${runsDir}`, ...RUN, `--steps=${STEPS}`, `--run=${name}`, ...flags]
    const alone = Bun.spawnSync(all, { stderr: "pipe" })
    expect([alone.exitCode, alone.stderr.toString()]).toEqual([0, ""])
  }
}, TIMEOUT)

/** This program under another version's name. */
function otherVersion(): string[] {
  const [from, to] = [join(import.meta.dir, ".."), join(folder, "other")]
  mkdirSync(to, { recursive: true })
  // Of .bun-out only what is read: other files come and go there while other tests build. The library is newer than its sources then.
  for (const name of ["src", "shaders", "native", "build-native.ts", ".bun-out/libalpha.so"])
    cpSync(join(from, name), join(to, name), { recursive: true })
  symlinkSync(realpathSync(join(from, "node_modules")), join(to, "node_modules"))
  const about = JSON.parse(readFileSync(join(from, "package.json"), "utf8"))
  writeFileSync(join(to, "package.json"), JSON.stringify({ ...about, version: "99.0.0" }))
  return [process.execPath, join(to, "src/cli.ts")]
}

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

  withRanks("mpich")(
    "mpich, 2 ranks: a library of the standard ABI",
    async () => {
      const library = join(folder, "libmpi_abi.so")
      const built = Bun.spawnSync(["cc", "-shared", "-fPIC", "-o", library, join(import.meta.dir, "mpi-abi.c"), "-ldl"], { stderr: "pipe" })
      expect(built.stderr.toString()).toBe("")
      const run = place("standard")
      const flags = [`--steps=${STEPS}`, "--run=run", `--mpiLibrary=${library}`]
      const { codes, err } = await ended(await startRanks(run, "mpich", 2, flags))
      expect(codes, err).toEqual(codes.map(() => 0))
      compareRanks(want.tied, join(run.runsDir, "run"))
    },
    TIMEOUT,
  )

  /** Variables of launchers that set no RANK, for one process of a host each. */
  const others: Record<string, (rank: number) => Record<string, string>> = {
    Slurm: (rank) => ({
      ...{ SLURM_JOB_ID: "7", SLURM_STEP_ID: "0", SLURM_STEP_NODELIST: "localhost", SLURM_STEP_TASKS_PER_NODE: "2" },
      ...{ SLURM_STEP_NUM_TASKS: "2", SLURM_PROCID: String(rank), SLURM_LOCALID: String(rank), SLURM_NODEID: "0" },
    }),
    "Indexed Job": (rank) => ({ JOB_COMPLETION_INDEX: String(rank), WORLD_SIZE: "2" }),
    SkyPilot: (rank) => ({ SKYPILOT_NODE_RANK: String(rank), SKYPILOT_NUM_NODES: "2", SKYPILOT_NODE_IPS: "127.0.0.1\n127.0.0.1" }),
    dstack: (rank) => ({ DSTACK_NODE_RANK: String(rank), DSTACK_NODES_NUM: "2", DSTACK_MASTER_NODE_IP: "127.0.0.1" }),
  }
  for (const [source, variables] of Object.entries(others)) {
    withRanks("variables")(
      `${source}'s variables, 2 ranks`,
      async () => {
        const run = place(`by-${source}`)
        const own = (rank: number) => ({ env: { RANK: "", ...variables(rank) } })
        const { codes, err } = await ended(await startRanks(run, "variables", 2, [`--steps=${STEPS}`, "--run=run"], undefined, own))
        expect(codes, err).toEqual([0, 0])
        expect(err).toContain(`rank 1 of 2 (${source}; `)
        compareRanks(want.tied, join(run.runsDir, "run"))
      },
      TIMEOUT,
    )
  }

  withRanks("variables")(
    "an agent that serves the store itself, as torchrun's: the ranks are its clients, before and after it has started them again",
    async () => {
      const agent = serveStore(0)
      const run = place("agent")
      const attempt = async (count: number) => {
        const elastic = { TORCHELASTIC_RUN_ID: "job", TORCHELASTIC_USE_AGENT_STORE: "True", TORCHELASTIC_RESTART_COUNT: String(count) }
        const own = () => ({ env: { ...elastic, MASTER_PORT: String(agent.port) } })
        return await startRanks(run, "variables", 2, [`--steps=${STEPS}`, "--run=run", "--resume=or-start"], undefined, own)
      }
      const first = await attempt(0)
      await untilCheckpoint(join(run.runsDir, "run"), first)
      const pid = first.pids()[1]
      signal(pid, "SIGKILL")
      await ended(first)
      const { codes, err } = await ended(await attempt(1))
      expect([...new Set(codes)], err).toEqual([0])
      expect(err).toContain(`store 127.0.0.1:${agent.port} of torchrun`)
      compareRanks(want.tied, join(run.runsDir, "run"))
      agent.stop()
    },
    TIMEOUT,
  )

  const canShare = missing("openmpi") ?? noGpu
  testWith(noGpu === undefined ? "mpi" : "vulkan", canShare)(
    "openmpi, 2 ranks of one GPU",
    async () => {
      const run = place("openmpi-gpu")
      const { codes, err } = await ended(await startRanks(run, "openmpi", 2, [`--steps=${STEPS}`, "--run=run", ...ON_GPU]))
      expect([...codes, err.includes("alpha:")], err).toEqual([...codes.map(() => 0), false])
      for (const file of ["model.safetensors", "trainer.safetensors"])
        expect([file, Bun.hash(readFileSync(join(run.runsDir, "run/last", file)))]).toEqual([
          file,
          Bun.hash(readFileSync(join(want.gpu, "last", file))),
        ])
    },
    TIMEOUT,
  )
})

describe("a run that is cut goes on with other ranks and ends in the same bytes", () => {
  const more = [`--steps=${STEPS}`, "--run=run", "--resume=or-start"]
  for (const [launcher, name, asked, others] of [
    ["openmpi", "SIGTERM", 1, 3],
    ["variables", "SIGUSR1", 1, 1],
    ["variables", "SIGTERM", 0, 2],
  ] as const) {
    withRanks(launcher)(
      `${launcher}: ${name} to rank ${asked}: all end after the same step with one checkpoint, exit 0`,
      async () => {
        const run = place(`stop-${launcher}-${asked}`)
        const directory = join(run.runsDir, "run")
        const started = await startRanks(run, launcher, 2, more)
        await untilCheckpoint(directory, started)
        const pid = started.pids()[asked]
        signal(pid, name)
        const { codes, err } = await ended(started)
        expect(codes, err).toEqual(codes.map(() => 0))
        const next = await ended(await startRanks(run, launcher, others, more))
        expect(new Set(next.codes), next.err).toEqual(new Set([0]))
        compareRanks(want.tied, directory)
        if (launcher !== "openmpi") return
        // A launcher that starts a complete run again has nothing to do and hears of no error.
        const again = await ended(await startRanks(run, launcher, 2, more))
        expect([new Set(again.codes), again.err]).toEqual([new Set([0]), expect.stringContaining(`is complete: step ${STEPS} of ${STEPS}`)])
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

withRanks("openmpi")(
  "the script for mpirun: SIGTERM to it ends all after one checkpoint, exit 0",
  async () => {
    const run = place("script")
    const [bin, script] = [join(run.runsDir, "alpha"), join(run.runsDir, "train.sh")]
    writeFileSync(bin, `#!/bin/sh\nexec ${command.map((word) => `'${word}'`).join(" ")} "$@" ${RUN.join(" ")} --steps=1000000\n`, {
      mode: 0o755,
    })
    writeFileSync(join(run.runsDir, "hosts.txt"), "localhost slots=2\n")
    writeFileSync(script, launchTemplate("mpirun", { nodes: 1, gpus: 2, run: "run", data }))
    const as = { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1", PATH: `${run.runsDir}:${process.env.PATH}` }
    const child = Bun.spawn(["bash", script], { cwd: run.runsDir, env: { ...process.env, ...as }, stdout: "ignore", stderr: "pipe" })
    const directory = join(run.runsDir, "runs/run")
    while (!existsSync(join(directory, "last")) && child.exitCode === null) await Bun.sleep(20)
    child.kill("SIGTERM")
    const err = await child.stderr.text()
    expect(await child.exited, err).toBe(0)
    expect(readFileSync(join(directory, "events.jsonl"), "utf8")).toContain('"status":"stopped"')
  },
  TIMEOUT,
)

withRanks("torchrun")(
  "torchrun starts the ranks again after one was killed: they go on from the last checkpoint and end in the bytes of one rank",
  async () => {
    const run = place("restarted")
    const started = await startRanks(run, "torchrun", 2, [`--steps=${STEPS}`, "--run=run", "--resume=or-start"])
    await untilCheckpoint(join(run.runsDir, "run"), started)
    const pid = started.pids()[1]
    signal(pid, "SIGKILL")
    const { codes, err } = await ended(started)
    expect(codes, err).toEqual([0])
    compareRanks(want.tied, join(run.runsDir, "run"))
  },
  TIMEOUT,
)

testWith("mpi", missing("openmpi") ?? missing("variables"))(
  "random ranks killed at random steps, started again by other launchers with other numbers of ranks: no hang, the bytes of one rank",
  async () => {
    const run = place("random")
    await killAndResume(run, ["openmpi", "variables"], 4, 5)
    compareRanks(want.tied, join(run.runsDir, "run"))
  },
  TIMEOUT,
)

withRanks("variables")(
  "--gpus: where the process that started the ranks is killed, they end too",
  async () => {
    const run = place("orphans")
    const flags = [`--data=${data}`, `--runsDir=${run.runsDir}`, "--run=run", ...RUN, "--steps=1000000", "--gpus=2"]
    const parent = Bun.spawn([...command, "train", ...flags], { stdout: "ignore", stderr: "pipe" })
    while (!existsSync(join(run.runsDir, "run/last")) && parent.exitCode === null) await Bun.sleep(20)
    parent.kill("SIGKILL")
    expect(await parent.stderr.text()).toContain("the process that started it is gone") // ends when both ranks have
    expect(existsSync(join(run.runsDir, "run/lock"))).toBe(false)
  },
  TIMEOUT,
)

describe("ranks that do not mean the same are refused", () => {
  type Case = { flags?: (rank: number) => string[]; own?: Parameters<typeof startRanks>[5]; says: RegExp }
  const cases: Record<string, () => Case> = {
    "another setting": () => ({
      flags: (rank) => (rank === 1 ? ["--lr=0.5"] : []),
      says: /rank 1 has lr 0\.5, rank 0 has 0\.0006/,
    }),
    "another file": () => ({
      flags: (rank) => (rank === 1 ? [`--data=${join(folder, "other.txt")}`] : []),
      says: /rank 1 has data ".*other\.txt", rank 0 has ".*book\.txt"/,
    }),
    "other data under the same name": () => {
      const places = [0, 1].map((rank) => {
        const own = join(folder, `host-${rank}`)
        mkdirSync(own, { recursive: true })
        writeFileSync(join(own, "here.txt"), "and ".repeat(rank) + sampleText(8000))
        return own
      })
      return {
        flags: () => ["--data=here.txt", "--tokenizer=char"],
        own: (rank) => ({ cwd: places[rank] as string }),
        says: /rank 1 has dataHash "[0-9a-f]+", rank 0 has "[0-9a-f]+"/,
      }
    },
    "another version": () => {
      const other = otherVersion()
      return { own: (rank) => (rank === 1 ? { command: other } : {}), says: /rank 1 has version "99\.0\.0", rank 0 has "[\d.]+"/ }
    },
    "another number of ranks": () => ({
      own: (rank) => (rank === 1 ? { env: { WORLD_SIZE: "3" } } : {}),
      says: /rank 1 is one of 3 \(WORLD_SIZE\), rank 0 of 2/,
    }),
  }
  const isRefused = async (about: string, { flags, own, says }: Case) => {
    writeFileSync(join(folder, "other.txt"), sampleText(8001))
    const run = place(`refused-${about}`)
    const { codes, err } = await ended(await startRanks(run, "variables", 2, [`--steps=${STEPS}`, "--run=run"], flags, own))
    expect(codes).not.toContain(0)
    expect(err).toMatch(says)
    expect(existsSync(join(run.runsDir, "run", "config.json"))).toBe(false)
  }
  for (const [about, of] of Object.entries(cases)) withRanks("variables")(about, () => isRefused(about, of()), TIMEOUT)

  const canMix = missing("variables") ?? noGpu
  testWith("vulkan", canMix)(
    "another kind of device",
    () =>
      isRefused("device", {
        flags: (rank) => (rank === 1 ? ["--device=gpu:0"] : []),
        says: /rank 1 has device "(?!cpu).*", rank 0 has "cpu, /,
      }),
    TIMEOUT,
  )

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
