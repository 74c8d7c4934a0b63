/** One run over two machines, each with its own sshd and files: started, watched, stopped, resumed as one; what one lacks starts nothing on the other. */
import { afterAll, expect } from "bun:test"
import { chmodSync, existsSync, mkdirSync, readlinkSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { livesHere } from "../src/base-process.ts"
import { hasRecord, readExits, readRecord } from "../src/fleet-host.ts"
import { compareRanks, missing } from "./dist-ranks.ts"
import { missingSsh, sshTest, startFleet, type TestFleet } from "./fleet-hosts.ts"
import { testWith } from "./require.ts"
import { freePort, PROGRAM, sampleText, until } from "./support.ts"

const SMALL = [
  ...["--data=book.txt", "--tokenizer=char", "--nLayer=1", "--nHead=2", "--nEmbd=16", "--context=16", "--batch=4", "--accumSteps=2"],
  ...["--dropout=0.2", "--warmupSteps=5", "--evalInterval=50", "--evalSteps=5", "--sampleInterval=100", "--sampleTokens=4"],
  ...["--logInterval=1", "--checkpointInterval=20", "--device=cpu", "--threads=1"],
]
const HOSTS = ["one", "two"] as const

let opening: Promise<TestFleet> | undefined
/** Two machines with a release each and the same text. */
function fleetOf(): Promise<TestFleet> {
  opening ??= (async () => {
    const fleet = await startFleet({ one: "openssh", two: "openssh" }, { loopback: true })
    for (const { deploy } of fleet.hosts) {
      mkdirSync(join(deploy, "releases/1"), { recursive: true })
      writeFileSync(join(deploy, "releases/1/alpha"), `#!/bin/sh\nexec ${PROGRAM.map((word) => `'${word}'`).join(" ")} "$@"\n`)
      chmodSync(join(deploy, "releases/1/alpha"), 0o755)
      symlinkSync("releases/1/alpha", join(deploy, "current"))
      writeFileSync(join(deploy, "book.txt"), sampleText(8000))
    }
    return fleet
  })()
  return opening
}
afterAll(async () => {
  const fleet = await opening
  for (const { deploy } of fleet?.hosts ?? []) {
    for (const path of new Bun.Glob("jobs/*/record.json").scanSync(deploy)) {
      const { supervisor, child } = readRecord(deploy, path.split("/")[1] as string)
      for (const one of [supervisor, child]) if (one !== undefined && livesHere(one)) process.kill(one.pid, "SIGKILL")
    }
  }
  await fleet?.close()
})

type Told = { code: number; stderr: string; hosts: { state: string; message: string; hint?: string; job?: { state: string } }[] }
async function asked(fleet: TestFleet, verb: string, ...more: string[]): Promise<Told> {
  const { code, stdout, stderr } = await fleet.alpha(["fleet", verb, ...HOSTS, ...more, "--json"])
  return { code, stderr, ...(stdout === "" ? { hosts: [] } : JSON.parse(stdout)) }
}
const start = async (fleet: TestFleet, ...more: string[]) =>
  await asked(fleet, "train", "--nodes", `--masterPort=${await freePort()}`, ...SMALL, ...more)
/** Name of a run's last checkpoint, which counts steps. */
const last = (deploy: string, run: string): string => {
  const link = join(deploy, "runs", run, "last")
  return existsSync(link) ? readlinkSync(link) : ""
}
const causes = (deploy: string, run: string) => readExits(deploy, run).map(({ cause }) => cause)
const rank = (deploy: string, run: string): number => readRecord(deploy, run).child?.pid as number

const rankTest = testWith("mpi", missing("variables") ?? missingSsh)

rankTest(
  "two machines end in the bytes of one, though they are stopped with one checkpoint and go on in between",
  async () => {
    const fleet = await fleetOf()
    const [one, two] = HOSTS.map((name) => fleet.host(name).deploy) as [string, string]
    const starting = start(fleet, "--steps=1000", "--run=first")
    await until(
      "the first steps",
      () => existsSync(join(one, "runs/first/metrics.jsonl")) && statSync(join(one, "runs/first/metrics.jsonl")).size > 0,
    )
    process.kill(rank(one, "first"), "SIGSTOP") // however fast this machine is: the run is not over yet
    const begun = await starting
    expect([begun.code, begun.hosts.map(({ message }) => message.replace(/ is .*/, ""))], begun.stderr).toEqual([
      0,
      ["rank 0 of 2: first", "rank 1 of 2: first"],
    ])
    const stopping = asked(fleet, "stop", "--run=first")
    await until("the wish to stop", () => [one, two].every((deploy) => existsSync(join(deploy, "jobs/first/stop.json"))))
    process.kill(rank(one, "first"), "SIGCONT")
    const stopped = await stopping
    expect([stopped.code, stopped.hosts.map(({ job }) => job?.state)]).toEqual([0, ["stopped", "stopped"]])
    expect(["config.json", "last"].map((name) => existsSync(join(two, "runs/first", name)))).toEqual([false, false])

    expect((await asked(fleet, "resume", "--run=first")).code).toBe(0)
    await until("the end of both", () => [one, two].every((deploy) => causes(deploy, "first").length === 2))
    for (const deploy of [one, two]) expect(causes(deploy, "first")).toEqual(["stopped", "finished"])
    const status = await fleet.alpha(["fleet", "status", ...HOSTS, "--run=first"])
    expect(status.stdout.match(/first +finished/g)?.length).toBe(2)
    const logs = await fleet.alpha(["fleet", "logs", ...HOSTS, "--run=first", "--lines=100000"])
    expect(logs.stdout).toMatch(/^one \| rank 0 of 2 \(node; .*store /m)
    expect(logs.stdout).toMatch(/^two \| rank 1 of 2 \(node; /m)

    const alone = Bun.spawnSync([...PROGRAM, "train", ...SMALL, "--steps=1000", "--run=alone"], { cwd: one, stderr: "pipe" })
    expect(alone.exitCode, alone.stderr.toString()).toBe(0)
    compareRanks(join(one, "runs/alone"), join(one, "runs/first"))
  },
  600_000,
)

rankTest(
  "a killed rank ends all, and all start again from the last checkpoint by themselves",
  async () => {
    const fleet = await fleetOf()
    const [one, two] = HOSTS.map((name) => fleet.host(name).deploy) as [string, string]
    expect((await start(fleet, "--steps=100000000", "--run=killed")).code).toBe(0)
    await until("a checkpoint", () => last(one, "killed") !== "")
    process.kill(rank(two, "killed"), "SIGKILL")
    await until("the end of both", () => [one, two].every((deploy) => causes(deploy, "killed").length === 1))
    const before = last(one, "killed")
    expect([one, two].map((deploy) => causes(deploy, "killed"))).toEqual([["rank-lost"], ["killed"]])
    expect(readExits(one, "killed")[0]?.message).toMatch(/rank 1 \(host .*\) is lost: it ended without a word/)
    await until("a later checkpoint", () => last(one, "killed") > before)
    process.kill(rank(two, "killed"), "SIGTERM") // asked from elsewhere, on the machine that has none of the run's files
    await until("the end of both", () => [one, two].every((deploy) => causes(deploy, "killed").length === 2))
    expect([one, two].map((deploy) => causes(deploy, "killed")[1])).toEqual(["preempted", "preempted"])
  },
  600_000,
)

sshTest(
  "what one machine lacks is named, and nothing starts anywhere; a start that fails on one takes the other back",
  async () => {
    const fleet = await fleetOf()
    const [one, two] = HOSTS.map((name) => fleet.host(name).deploy) as [string, string]
    const refused = async (run: string, says: RegExp, ...more: string[]) => {
      const { code, hosts } = await start(fleet, "--steps=50", `--run=${run}`, ...more)
      expect([run, code]).toEqual([run, 2])
      expect(hosts.map(({ message }) => message).join("\n")).toMatch(says)
      for (const deploy of [one, two]) expect(hasRecord(deploy, run)).toBeFalse()
    }
    writeFileSync(join(one, "only-one.txt"), sampleText(500))
    await refused("nodata", /nothing was started: two is not ready\ndata only-one\.txt is not in .*two/, "--data=only-one.txt")
    await refused("nogpu", /it has \d+ GPUs, 64 are wanted/, "--device=gpu", "--gpus=64", "--accumSteps=128")
    renameSync(join(two, "current"), join(two, "away"))
    await refused("nobinary", /nothing was started: two is not ready\nnothing is deployed in .*two/)
    writeFileSync(join(two, "other"), `#!/bin/sh\n${PROGRAM.join(" ")} "$@" | sed 's/"commit":"[^"]*"/"commit":"other"/'\n`, {
      mode: 0o755,
    })
    symlinkSync("other", join(two, "current"))
    await refused("other", /it has alpha [\d.]+ other, one has [\d.]+ \S+/)
    rmSync(join(two, "current"))
    renameSync(join(two, "away"), join(two, "current"))

    mkdirSync(join(two, "jobs"), { recursive: true })
    writeFileSync(join(two, "jobs/taken"), "no directory")
    const half = await start(fleet, "--steps=1000000", "--run=taken")
    expect(half.code).toBe(2)
    expect(half.hosts[0]?.message).toBe("taken was stopped again: two is not ready")
    const left = readRecord(one, "taken").child
    await until("the end of the rank that did start", () => left === undefined || !livesHere(left))

    const dry = await fleet.alpha(["fleet", "train", ...HOSTS, "--nodes", ...SMALL, "--run=dry", "--masterPort=4711", "--dryRun"])
    expect(dry.code).toBe(0)
    expect(dry.stdout).toContain(`--node=0/2@127.0.0.1:4711'`)
    expect(dry.stdout).toContain("--node=1/2@127.0.0.1:4711'")
    const glob = await fleet.alpha(["fleet", "train", ...HOSTS, "--nodes", "--data=*.bin", "--run=dry", "--dryRun"])
    expect([glob.code, glob.stdout.includes("is not in")]).toEqual([0, false])
    expect([one, two].some((deploy) => hasRecord(deploy, "dry"))).toBeFalse()
    for (const [words, says] of [
      [["one", "--run=x"], "1 machine"],
      [["one", "two"], "the run has no name"],
      [["one", "two", "--run=x", "--dist=none"], "with --dist=none each machine would train alone"],
    ] as const) {
      const { code, stderr } = await fleet.alpha(["fleet", "train", ...words, "--nodes", "--data=book.txt"])
      expect([code, stderr.includes(`fleet train --nodes: ${says}`)]).toEqual([1, true])
    }
    fleet.configure({ train: { precision: "bf16" } }, { one: {}, two: { train: { precision: "f32", threads: 2 } } })
    const words = ["fleet", "train", ...HOSTS, "--nodes", ...SMALL, "--run=x", "--dryRun"]
    const differs = await fleet.alpha(words)
    expect([differs.code, differs.stderr]).toEqual([
      1,
      expect.stringContaining("fleet train --nodes: two has precision f32 in fleet.json, one has precision bf16"),
    ])
    expect((await fleet.alpha([...words, "--precision=f32"])).code).toBe(0) // what is typed is for all; threads are each machine's own
    fleet.configure({})
    const apart = await fleet.alpha(["fleet", "train", ...HOSTS, "--masterPort=4711", "--data=book.txt", "--run=x"])
    expect([apart.code, apart.stderr.includes("--masterPort is for one run over several machines")]).toEqual([1, true])
  },
  600_000,
)
