/** What a machine says of its jobs: causes, states, slots, frames, profiles; each from what it is a function of. */
import { expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { FrameReader, frameHead, MARK } from "../src/fleet-frame.ts"
import { type Exit, type JobRecord, jobPolicy } from "../src/fleet-host.ts"
import { CAUSE_NAMES, causeOf, causesOf, type Ending, evidenceOf, kernelLines, messageOf, restartDelay } from "../src/fleet-host-cause.ts"
import { oomCount } from "../src/fleet-host-evidence.ts"
import { launcher, systemdRun } from "../src/fleet-host-launch.ts"
import { parseNvidia } from "../src/fleet-host-report.ts"
import { takeSlot, takeSlots } from "../src/fleet-host-slot.ts"
import { type JobFacts, jobState } from "../src/fleet-host-state.ts"
import { commandOf } from "../src/fleet-host-supervise.ts"
import { trainWords } from "../src/fleet-profile.ts"

const folder = mkdtempSync(join(tmpdir(), "fleet-host-"))
const NOTHING: Ending = {
  code: 0,
  signal: null,
  asked: undefined,
  run: "finished",
  oomKills: 0,
  kernel: { oom: [], gpu: [] },
  tail: "",
}
const XID = "[  812.5] NVRM: Xid (PCI:0000:00:04): 79, pid=912, GPU has fallen off the bus."
const OOM = "[  812.5] Out of memory: Killed process 912 (alpha) total-vm:9000kB"

const KILLED = { code: null, signal: "SIGKILL" } as const
const ENDINGS: readonly [string, Partial<Ending>][] = [
  ["finished", {}],
  ["finished", { asked: "stop" }],
  ["stopped", { asked: "stop", run: "stopped" }],
  ["stopped", { asked: "now", ...KILLED }],
  ["expired", { asked: "expired", run: "stopped" }],
  ["preempted", { run: "stopped" }],
  ["stalled", { asked: "stalled", ...KILLED }],
  ["out-of-memory", { ...KILLED, oomKills: 1 }],
  ["out-of-memory", { ...KILLED, kernel: { oom: [OOM], gpu: [] } }],
  ["killed", KILLED],
  ["killed", { ...KILLED, oomKills: undefined }],
  ["killed", { code: 130 }],
  ["crashed", { code: null, signal: "SIGSEGV" }],
  ["gpu-error", { code: null, signal: "SIGSEGV", kernel: { oom: [], gpu: [XID] } }],
  ["gpu-error", { code: 4, tail: "alpha: the device NVIDIA L4 failed during a submit: VK_ERROR_DEVICE_LOST\n" }],
  ["gpu-memory", { code: 4, tail: "alpha: arena of 30 GiB: VK_ERROR_OUT_OF_DEVICE_MEMORY\n" }],
  ["failed", { code: 1 }],
  ["usage", { code: 2 }],
  ["data", { code: 3 }],
  ["device", { code: 4 }],
  ["busy", { code: 5 }],
  ["failed", { code: 77 }],
  ["rank-lost", { code: 1, tail: "step 3\nrank 1 (host gpu7, process 4711) is lost: it ended without a word; all ranks end" }],
  ["data", { code: 3, tail: "rank 1 (host gpu7, process 4711) is lost: data x.txt does not exist; all ranks end" }],
]

test("every cause is told from exit code, signal, kernel and log", () => {
  for (const [cause, ending] of ENDINGS) expect([cause, causeOf({ ...NOTHING, ...ending })]).toEqual([cause, cause])
  expect(new Set(ENDINGS.map(([cause]) => cause))).toEqual(new Set(CAUSE_NAMES))
  const oom: Ending = { ...NOTHING, ...KILLED, oomKills: 2, kernel: { oom: [OOM], gpu: [] } }
  expect(messageOf(oom, "out-of-memory")).toBe("SIGKILL: the kernel killed it for memory")
  expect(evidenceOf(oom)).toEqual(["memory cgroup: oom_kill +2", OOM])
  const own = { ...NOTHING, code: 3, tail: "step 1\nalpha: data x.txt: 0 bytes\nhint: more\n" }
  expect(messageOf(own, "data")).toBe("exit code 3: data x.txt: 0 bytes")
  expect([1, 2, 3, 20].map(restartDelay)).toEqual([2, 4, 8, 300])
})

test("of the kernel's log what is new and about this job counts", () => {
  const log = ["[  10.0] Out of memory: Killed process 912 (alpha)", OOM, "[  900.1] Out of memory: Killed process 5 (firefox)", XID].join(
    "\n",
  )
  expect(kernelLines(log, 800, 912)).toEqual({ oom: [OOM], gpu: [XID] })
  expect(kernelLines(log, 800, 1)).toEqual({ oom: [OOM], gpu: [XID] }) // in a container the kernel knows the process by another number
  expect(kernelLines(log, 9000, 912)).toEqual({ oom: [], gpu: [] })
})

test("memory kills are counted in groups of both versions", () => {
  mkdirSync(join(folder, "v2/user/job"), { recursive: true })
  writeFileSync(join(folder, "v2/user/job/memory.events"), "low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
  expect(oomCount("0::/user/job\n", join(folder, "v2"))).toBe(3)
  mkdirSync(join(folder, "v1/memory"), { recursive: true })
  writeFileSync(join(folder, "v1/memory/memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
  expect(oomCount("9:name=systemd:/\n4:memory:/docker/abc\n0::/\n", join(folder, "v1"))).toBe(7)
  expect(oomCount("0::/\n", folder)).toBeUndefined()
})

const record: JobRecord = {
  id: "x",
  name: "first",
  kind: "train",
  argv: ["train", "--data=a b"],
  run: join(folder, "runs/first"),
  configHash: "",
  environment: ["HOME"],
  slots: [],
  force: false,
  policy: jobPolicy({ restart: ["crashed"], restarts: 3, maxDuration: 2, stallAfter: 60, idleCommand: undefined, idleAfter: 1 }),
  createdAt: 1000,
  startedAt: 1000,
  resumed: false,
  launcher: "session",
  version: "",
  commit: "",
  supervisor: { pid: 1, started: "1", host: "h", boot: "now" },
  child: { pid: 2, started: "2", host: "h", boot: "now" },
  attempt: 1,
}

const facts: JobFacts = {
  record,
  beat: { time: 0, phase: "running" },
  exit: undefined,
  boot: "now",
  supervisorLives: true,
  childLives: true,
  quietSince: 500_000,
  msPerStep: null,
  now: 501_000,
}
const exit = (cause: Exit["cause"], restarts = false, attempt = 1): Exit => ({
  time: 2000,
  attempt,
  pid: 2,
  code: 1,
  signal: null,
  cause,
  message: cause,
  evidence: [],
  seconds: 1,
  restarts,
})
const dead = { supervisorLives: false, childLives: false }

test("the state of a job is a function of its record, its last words and its processes", () => {
  const states: readonly [string, Partial<JobFacts>][] = [
    ["running", {}],
    ["running", { exit: exit("crashed", true, 0) }], // of the attempt before
    ["running", { exit: { ...exit("stopped"), time: 999 } }], // of the start before
    ["running", { supervisorLives: false }],
    ["running", { record: { ...record, supervisor: undefined, child: undefined }, ...dead, now: 2000 }],
    ["crashed", { record: { ...record, supervisor: undefined, child: undefined }, ...dead }],
    ["stalled", { now: 560_001 }],
    ["running", { now: 560_001, msPerStep: 7000 }], // ten steps have more patience
    ["running", { now: 560_001, record: { ...record, kind: "serve" } }],
    ["restarting", { exit: exit("crashed", true), childLives: false }],
    ["crashed", { exit: exit("crashed", true), ...dead }],
    ["rebooted", { exit: exit("crashed", true), ...dead, boot: "later" }],
    ["rebooted", { ...dead, boot: "later" }],
    ["crashed", dead],
    ["finished", { exit: exit("finished"), ...dead, boot: "later" }],
    ["finished", { exit: exit("finished"), childLives: false }],
    ["stopped", { exit: exit("stopped"), ...dead }],
    ["stopped", { exit: exit("expired"), ...dead }],
    ["stopped", { exit: exit("preempted"), ...dead }],
    ["crashed", { exit: exit("out-of-memory"), ...dead }],
    ["crashed", { exit: exit("killed"), ...dead }],
  ]
  for (const [state, change] of states) expect([state, jobState({ ...facts, ...change }).state]).toEqual([state, state])
  expect(jobState({ ...facts, supervisorLives: false }).reason).toBe("its supervisor is gone")
})

test("a resume replays the stored words, and goes on where the run has begun", () => {
  const again = { ...record, resumed: true }
  expect(commandOf(folder, again, true)).toEqual(record.argv as string[])
  mkdirSync(record.run!, { recursive: true })
  writeFileSync(join(record.run!, "config.json"), "{}")
  expect(commandOf(folder, record, true)).toEqual(["train", "--data=a b"])
  expect(commandOf(folder, record, false)).toEqual(["train", "--data=a b", "--resume=runs/first"])
  expect(commandOf(folder, again, true)).toEqual(["train", "--data=a b", "--resume=runs/first"])
  const own = { ...again, argv: ["train", "--resume=runs/first", "--steps=9"] }
  expect(commandOf(folder, own, true)).toEqual(own.argv)
})

test("a slot has one holder, who is named, and is free when the holder lets go", async () => {
  const name = `test:${folder}:${"long".repeat(50)}`
  const first = await takeSlot(name, "job a")
  if (typeof first === "string") throw new Error(first)
  expect(await takeSlot(name, "job b")).toBe("job a")
  await expect(takeSlots([`${folder}:free`, name], "job b")).rejects.toThrow("is taken by job a")
  expect(typeof (await takeSlot(`${folder}:free`, "job c"))).toBe("object") // what was taken before the refusal is given back
  first.release()
  expect(typeof (await takeSlot(name, "job b"))).toBe("object")
})

test("frames that are cut anywhere bring every byte once", () => {
  const file = Uint8Array.from({ length: 5000 }, (_, i) => (i * i * 31) % 251)
  const whole = Buffer.concat([
    Buffer.from(`motd\n${MARK.slice(0, 5)}noise ${MARK}`),
    frameHead({ kind: "file", id: "a", size: 5000 }),
    ...[0, 700, 2000].flatMap((from, i) => {
      const bytes = file.subarray(from, [700, 2000, 5000][i])
      return [frameHead({ kind: "data", offset: from, bytes }), bytes, frameHead({ kind: "beat" })]
    }),
    frameHead({ kind: "end", state: "finished" }),
  ])
  for (let seed = 1; seed <= 50; seed++) {
    const got: number[] = []
    let end = ""
    const reader = new FrameReader((frame) => {
      if (frame.kind === "end") end = frame.state
      if (frame.kind !== "data") return
      expect(frame.offset).toBe(got.length)
      got.push(...frame.bytes)
    })
    for (let at = 0, x = seed; at < whole.length; ) {
      x = (x * 48271) % 2147483647
      const size = 1 + (x % (seed * 20))
      reader.push(whole.subarray(at, at + size))
      at += size
    }
    expect([end, Buffer.from(got).equals(file)]).toEqual(["finished", true])
  }
  expect(() => new FrameReader(() => {}).push(Buffer.from(`${MARK}hello there\n`))).toThrow("where a frame begins")
})

test("systemd has the job where its manager answers and outlives the login; no value is in the command", () => {
  const user = { name: "ada", uid: 1000 }
  const bin = join(folder, "bin")
  mkdirSync(bin)
  writeFileSync(join(bin, "systemd-run"), "#!/bin/sh\n", { mode: 0o755 })
  const environment = { XDG_RUNTIME_DIR: folder, PATH: bin }
  expect(launcher(environment, user, folder)).toBe("session")
  writeFileSync(join(folder, "bus"), "")
  expect(launcher(environment, user, folder)).toBe("session")
  writeFileSync(join(folder, "ada"), "")
  expect(launcher(environment, user, folder)).toBe("systemd")
  expect(launcher({ ...environment, PATH: "/nowhere" }, user, folder)).toBe("session")
  const words = systemdRun(["/x/alpha", "host", "supervise", "first"], "/x", {
    name: "first",
    environment: ["HOME", "odd-name"],
    id: "0123456789",
  })
  expect(words.slice(0, 4)).toEqual(["systemd-run", "--user", "--quiet", "--collect"])
  expect(words).toContain("--setenv=HOME")
  expect(words).toContain("--property=KillMode=mixed")
  expect(words.join(" ")).not.toContain("odd-name")
  expect(words.slice(-5)).toEqual(["--", "/x/alpha", "host", "supervise", "first"])
})

test("defaults of a GPU's kind give way to fleet.json, to what is typed and to a preset, and are told", () => {
  expect(trainWords("l4", {}, { steps: 5 })).toEqual({
    words: ["--device=gpu", "--precision=bf16", "--logInterval=25", "--gpuMetricsSampleEvery=25", "--steps=5"],
    note: "l4 defaults: --device=gpu --precision=bf16 --logInterval=25 --gpuMetricsSampleEvery=25",
  })
  expect(trainWords("NVIDIA_H200", { precision: "f32", steps: 3 }, { steps: 5 }).words).toEqual([
    "--device=gpu",
    "--logInterval=50",
    "--adaptiveSyncMinInterval=4",
    "--gpuMetricsSampleEvery=200",
    "--precision=f32",
    "--steps=5",
  ])
  expect(trainWords("l4", {}, { resume: "first" })).toEqual({ words: ["--resume=first"], note: undefined })
  expect(trainWords("l4", {}, { device: "cpu" })).toEqual({ words: ["--device=cpu"], note: undefined })
  expect(trainWords("l40s", {}, {})).toEqual({ words: [], note: undefined })
  const odd = { gradClip: undefined, minLr: undefined, samplePrompts: ["a 'b'", "$(c)"], bias: false }
  expect(trainWords(undefined, {}, odd).words).toEqual([
    "--gradClip=none",
    "--minLr=auto",
    `--samplePrompts=["a 'b'","$(c)"]`,
    "--bias=false",
  ])
})

test("what nvidia-smi says becomes numbers, and what it does not know is null", () => {
  const text =
    "0, GPU-1f0c4b5a-22aa-33bb-44cc-0123456789ab, NVIDIA L4, 23034, 512, 97, 68.20, 61\n1, GPU-2, NVIDIA H200, 143771, [N/A], [N/A], [N/A], 40\n"
  expect(parseNvidia(text)).toEqual([
    {
      index: 0,
      uuid: "1f0c4b5a22aa33bb44cc0123456789ab",
      name: "NVIDIA L4",
      memoryBytes: 23034 * 2 ** 20,
      memoryUsedBytes: 512 * 2 ** 20,
      utilisation: 0.97,
      watts: 68.2,
      celsius: 61,
    },
    {
      index: 1,
      uuid: "2",
      name: "NVIDIA H200",
      memoryBytes: 143771 * 2 ** 20,
      memoryUsedBytes: null,
      utilisation: null,
      watts: null,
      celsius: 40,
    },
  ])
})

test("a policy names causes, none for none; a wrong one is refused with the nearest", () => {
  const fields = { restarts: 1, maxDuration: undefined, stallAfter: 1, idleCommand: undefined, idleAfter: 1 }
  expect(jobPolicy({ ...fields, restart: ["none"] }).restart).toEqual([])
  expect(jobPolicy({ ...fields, maxDuration: 1.5, restart: ["stalled"] })).toMatchObject({ restart: ["stalled"], maxDuration: 5400 })
  expect(() => causesOf(["gpu-eror"])).toThrow("restart gpu-eror: expected one of")
  expect(() => causesOf(["finished"])).toThrow("restart finished")
})
