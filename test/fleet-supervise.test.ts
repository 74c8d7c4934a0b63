/** Jobs under their supervisor, with real processes: every way in which one can end, and what is done about it. */
import { afterAll, expect, test } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Holder, livesHere } from "../src/base-process.ts"
import { readExits, readRecord, writeRecord } from "../src/fleet-host.ts"
import { type JobState, jobReport } from "../src/fleet-host-state.ts"
import { testWith } from "./require.ts"
import { sampleText, until } from "./support.ts"

const BINARY = join(import.meta.dir, "../alpha")
/** The binary starts faster than the source. */
const ALPHA = existsSync(BINARY) ? [BINARY] : [process.execPath, "--no-env-file", join(import.meta.dir, "../src/cli.ts")]
const roots: string[] = []

/** A deploy directory with a text. */
function makeRoot(): string {
  const root = mkdtempSync(join(tmpdir(), "fleet-supervise-"))
  writeFileSync(join(root, "book.txt"), sampleText(5000))
  roots.push(root)
  return root
}

// What a failed test left running ends with the tests.
afterAll(() => {
  for (const root of roots) {
    for (const holder of existsSync(join(root, "jobs")) ? [...new Bun.Glob("*/record.json").scanSync(join(root, "jobs"))] : []) {
      const { supervisor, child } = readRecord(root, holder.split("/")[0]!)
      for (const one of [supervisor, child]) if (one !== undefined && livesHere(one)) process.kill(one.pid, "SIGKILL")
    }
  }
})

const words = (program: readonly string[]) => [...program, ...ALPHA]

async function host(root: string, args: readonly string[], program: readonly string[] = []) {
  const { PATH = "", HOME = "", TMPDIR = "/tmp" } = process.env
  const child = Bun.spawn([...words(program), "host", ...args], {
    cwd: root,
    env: { PATH, HOME, TMPDIR },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited])
  return { stdout, stderr, code }
}

const SMALL = [
  "--data=book.txt",
  "--tokenizer=char",
  "--nLayer=1",
  "--nHead=1",
  "--nEmbd=8",
  "--context=8",
  "--batch=1",
  "--device=cpu",
  "--threads=1",
  "--sampleInterval=none",
  "--evalInterval=none",
  "--logInterval=500",
  "--checkpointInterval=1000",
]
/** Longer than any test. */
const ENDLESS = "--steps=100000000"

const stateIs = (root: string, state: JobState, name = "first") => until(`${name} ${state}`, () => jobReport(root, name).state === state)
const stepped = (root: string, step: number) => until(`step ${step}`, () => (jobReport(root, "first").progress?.step ?? 0) >= step)
const kill = (pid: number | undefined, signal: NodeJS.Signals) => process.kill(pid!, signal)
/** For a process that may have ended meanwhile. */
const signal = (holder: Holder, name: NodeJS.Signals) => void (livesHere(holder) && kill(holder.pid, name))
const last = (root: string, name = "first") => readExits(root, name).at(-1)!
const causes = (root: string) => readExits(root, "first").map(({ cause, restarts }) => [cause, restarts])

const start = (root: string, policy: readonly string[], more: readonly string[], program?: readonly string[]) =>
  host(root, ["start", ...policy, "--json", "--", ...SMALL, "--run=first", ...more], program)

test.concurrent("a crash is written down, and the run goes on from its last checkpoint to the same bytes", async () => {
  const root = makeRoot()
  const { stdout, code } = await start(root, ["--idleCommand=echo off >idle.txt", "--idleAfter=0.1"], ["--steps=12000"])
  expect([code, JSON.parse(stdout)]).toMatchObject([0, { name: "first", state: "running", attempt: 1 }])
  await stepped(root, 2000)
  kill(readRecord(root, "first").child?.pid, "SIGSEGV")
  await stateIs(root, "finished")
  expect(causes(root)).toEqual([
    ["crashed", true],
    ["finished", false],
  ])
  expect(readExits(root, "first")[0]).toMatchObject({ code: null, signal: "SIGSEGV", message: "SIGSEGV: it broke" })
  expect(readFileSync(join(root, "train.log"), "utf8")).toContain(" start 2: alpha train --data=book.txt")
  await until("the idle command", () => existsSync(join(root, "idle.txt")) && readFileSync(join(root, "idle.txt"), "utf8") === "off\n")
  const whole = Bun.spawnSync([...words([]), "train", ...SMALL, "--run=whole", "--steps=12000"], { cwd: root })
  expect(whole.exitCode).toBe(0)
  for (const file of ["model.safetensors", "trainer.safetensors"]) {
    const [one, other] = ["first", "whole"].map((run) => readFileSync(join(root, `runs/${run}/last/${file}`)))
    expect(one!.equals(other!)).toBeTrue()
  }
}, 300_000)

test.concurrent("a second job on the same device is refused unless forced; stop saves, --now kills, resume replays", async () => {
  const root = makeRoot()
  expect((await start(root, [], [ENDLESS])).code).toBe(0)
  // Jobs that need do nothing rest, so that they take no time from others.
  const rest = (name: string, word: NodeJS.Signals = "SIGSTOP") => signal(readRecord(root, name).child!, word)
  rest("first")
  const second = ["start", "--json", "--", ...SMALL, "--run=second", ENDLESS]
  const refused = await host(root, second)
  expect([refused.code, refused.stderr]).toEqual([5, expect.stringContaining("the CPU is taken by job first in")])
  expect((await host(root, ["start", "--", ...SMALL, "--run=first", ENDLESS])).stderr).toContain("first is there already (running)")
  expect((await host(root, ["start", "--force", ...second.slice(1)])).code).toBe(0)
  rest("second")
  expect((await host(root, ["stop"])).stderr).toContain("2 jobs run in")
  expect((await host(root, ["stop", "--run=second", "--now"])).code).toBe(0)
  expect(last(root, "second")).toMatchObject({
    cause: "stopped",
    signal: "SIGKILL",
    message: "SIGKILL: killed on request, without a checkpoint",
  })
  rest("first", "SIGCONT")
  await stepped(root, 1)
  const stopped = await host(root, ["stop", "--json"])
  expect(JSON.parse(stopped.stdout)).toMatchObject({
    name: "first",
    state: "stopped",
    wasRunning: true,
    exit: { code: 0, cause: "stopped" },
  })
  const { step } = jobReport(root, "first").progress!
  expect(existsSync(join(root, `runs/first/checkpoints/step-${String(step).padStart(6, "0")}/model.safetensors`))).toBeTrue()
  expect(JSON.parse((await host(root, ["stop", "--run=first", "--json"])).stdout)).toMatchObject({ wasRunning: false })
  const { argv, environment, configHash } = readRecord(root, "first")
  expect(argv).toEqual(["train", ...SMALL, "--run=first", ENDLESS])
  expect(environment).toEqual(["HOME", "PATH", "TMPDIR"])
  expect(configHash).toMatch(/^[0-9a-f]{64}$/)
  expect((await host(root, ["resume", "--run=first"])).code).toBe(0)
  expect(readRecord(root, "first").argv).toEqual(argv)
  await stepped(root, step + 500)
  expect((await host(root, ["stop", "--now"])).code).toBe(0)
}, 300_000)

test.concurrent("what is wrong from the start is told at once, and is no job that runs", async () => {
  const root = makeRoot()
  const flag = await start(root, [], ["--stpes=9"])
  expect([flag.code, flag.stderr]).toEqual([2, expect.stringContaining("did you mean --steps?")])
  expect(existsSync(join(root, "jobs"))).toBeFalse()
  const data = await start(root, ["--restart=data", "--restarts=1"], ["--data=missing.txt", ENDLESS])
  expect(data.code).toBe(0) // it is to be started again
  await stateIs(root, "crashed")
  expect(causes(root)).toEqual([
    ["data", true],
    ["data", false],
  ])
  const other = await host(root, ["start", "--", ...SMALL, "--data=missing.txt", "--run=other"])
  expect([other.code, other.stderr]).toEqual([1, expect.stringMatching(/other ended at once: exit code 3: .*missing\.txt/)])
}, 300_000)

test.concurrent("time over ends a job with a checkpoint; silence is told, and is an end where the policy says so", async () => {
  const root = makeRoot()
  expect((await start(root, ["--maxDuration=0.0015"], [ENDLESS])).code).toBe(0)
  const silent = makeRoot()
  expect((await start(silent, ["--stallAfter=1"], [ENDLESS])).code).toBe(0)
  kill(readRecord(silent, "first").child?.pid, "SIGSTOP")
  await stateIs(silent, "stalled")
  kill(readRecord(silent, "first").child?.pid, "SIGCONT")
  await stateIs(silent, "running")
  expect((await host(silent, ["stop", "--now"])).code).toBe(0)
  const other = makeRoot()
  expect((await start(other, ["--restart=stalled", "--stallAfter=1"], [ENDLESS])).code).toBe(0)
  signal(readRecord(other, "first").child!, "SIGSTOP")
  await until("another start", () => readRecord(other, "first").attempt >= 2)
  expect(causes(other)[0]).toEqual(["stalled", true])
  expect((await host(other, ["stop", "--now"])).code).toBe(0)
  await stateIs(root, "stopped")
  expect(last(root)).toMatchObject({ cause: "expired", code: 0 })
  expect(existsSync(join(root, "runs/first/last/model.safetensors"))).toBe((jobReport(root, "first").progress?.step ?? 0) > 0)
}, 300_000)

test.concurrent("without its supervisor a job is known, keeps its device and can be stopped; a reboot is seen, and resumed from", async () => {
  const root = makeRoot()
  expect((await start(root, [], [ENDLESS])).code).toBe(0)
  const { supervisor } = readRecord(root, "first")
  kill(supervisor?.pid, "SIGKILL")
  await until("the supervisor's end", () => !livesHere(supervisor!))
  expect(jobReport(root, "first")).toMatchObject({ state: "running", reason: "its supervisor is gone" })
  expect((await host(root, ["start", "--", ...SMALL, "--run=second", ENDLESS])).code).toBe(5)
  await stepped(root, 1000)
  expect((await host(root, ["stop"])).code).toBe(0)
  expect(last(root)).toMatchObject({ cause: "stopped", message: "stopped on request, after its supervisor was gone" })
  expect((await host(root, ["resume"])).code).toBe(0)
  const before = readRecord(root, "first")
  await stepped(root, (jobReport(root, "first").progress?.step ?? 0) + 2000)
  for (const one of [before.supervisor, before.child]) kill(one?.pid, "SIGKILL")
  await until("both ends", () => ![before.supervisor, before.child].some((one) => livesHere(one!)))
  expect(jobReport(root, "first")).toMatchObject({ state: "crashed", reason: "it and its supervisor vanished without a word" })
  const boot = "0e0e0e0e-0000-4000-8000-000000000000"
  writeRecord(root, { ...before, supervisor: { ...before.supervisor!, boot }, child: { ...before.child!, boot } })
  expect(jobReport(root, "first").state).toBe("rebooted")
  const again = JSON.parse((await host(root, ["resume", "--json"])).stdout)
  expect(again).toMatchObject({ state: "running", attempt: 1 })
  expect(again.progress.step).toBeGreaterThanOrEqual(1000)
  expect((await host(root, ["stop", "--now"])).code).toBe(0)
}, 300_000)

function removed(group: string): boolean {
  try {
    rmdirSync(group)
    return true
  } catch {
    return false // the last process is still on its way out
  }
}

/** A group that may have 300 MB, or why there is none. */
function makeGroup(): { enter: string; remove: () => boolean } | string {
  const name = `alpha-test-${process.pid}`
  for (const [parent, limits] of [
    ["/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]],
    ["/sys/fs/cgroup", ["memory.max", "memory.swap.max"]],
  ] as const) {
    const group = join(parent, name)
    try {
      if (!existsSync(join(parent, "cgroup.procs"))) continue
      mkdirSync(group)
      for (const [i, limit] of limits.entries())
        if (existsSync(join(group, limit))) writeFileSync(join(group, limit), i === 0 || parent.endsWith("memory") ? "300000000" : "0")
      if (existsSync(join(group, limits[0]))) return { enter: join(group, "cgroup.procs"), remove: () => removed(group) }
      rmdirSync(group)
    } catch {}
  }
  return "no memory group may be made here"
}

const group = makeGroup()
testWith("cgroup", typeof group === "string" ? group : undefined)(
  "a job that the kernel kills for memory is told from others that are killed",
  async () => {
    const root = makeRoot()
    const { enter, remove } = group as Exclude<typeof group, string>
    const inside = ["sh", "-c", `echo $$ >${enter} && exec "$@"`, "sh"]
    await start(root, [], ["--nEmbd=2048", "--nLayer=8", ENDLESS], inside)
    await stateIs(root, "crashed")
    expect(last(root)).toMatchObject({ cause: "out-of-memory", signal: "SIGKILL", restarts: false })
    expect(last(root).evidence[0]).toMatch(/oom_kill \+\d/)
    await until("the end of the supervisor", () => !livesHere(readRecord(root, "first").supervisor!))
    await until("an empty group", remove)
  },
  300_000,
)

const small = mkdtempSync(join(tmpdir(), "fleet-full-"))
const isMounted =
  process.getuid?.() === 0 && Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=3m", "none", small], { stderr: "ignore" }).success
afterAll(() => void (isMounted && Bun.spawnSync(["umount", "-l", small])))

testWith("tmpfs", isMounted ? undefined : "no tmpfs may be mounted here")(
  "a full disk ends the job, not its supervisor, which writes down how it ended as soon as there is room",
  async () => {
    writeFileSync(join(small, "book.txt"), sampleText(5000))
    writeFileSync(join(small, "filler"), new Uint8Array(1 << 20))
    roots.push(small)
    await start(small, [], ["--logInterval=1", ENDLESS])
    const { supervisor, child } = readRecord(small, "first")
    await until("the end of the job", () => child !== undefined && !livesHere(child))
    // The end may just have found room; else the supervisor waits for some.
    await until("the end on record, or a supervisor that waits", () => readExits(small, "first").length > 0 || livesHere(supervisor!))
    rmSync(join(small, "filler"))
    await stateIs(small, "crashed")
    expect(last(small)).toMatchObject({ cause: "failed", code: 1 })
  },
  300_000,
)
