/** The life of a run on other machines, over real ssh: OpenSSH, and dropbear with BusyBox alone. */
import { afterAll, expect } from "bun:test"
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { livesHere } from "../src/base-process.ts"
import { closeConnection, readFleet, readLog } from "../src/fleet.ts"
import { type JobRecord, readExits, readRecord, writeRecord } from "../src/fleet-host.ts"
import { busyboxTest, hasBusybox, sshTest, startFleet, type TestFleet } from "./fleet-hosts.ts"
import { freePort, sampleText, until } from "./support.ts"

const BINARY = join(import.meta.dir, "../alpha")
/** Of 100 in `npm run soak -- cuts`. */
const CUTS = Number(process.env.CUTS ?? 10)

const SMALL = [
  "--data=book.txt",
  "--tokenizer=char",
  "--nLayer=1",
  "--nHead=1",
  "--nEmbd=32",
  "--context=32",
  "--batch=4",
  "--device=cpu",
  "--threads=1",
  "--sampleInterval=none",
  "--evalInterval=500",
  "--evalSteps=2",
  "--logInterval=20",
]
const STEPS = "--steps=6000"
const SECRET = "sk-nobody-may-see-this"
const ENDLESS = "--steps=100000000"

let opening: Promise<TestFleet> | undefined
/** Both hosts, trusted and deployed to. */
function fleetOf(): Promise<TestFleet> {
  opening ??= (async () => {
    const fleet = await startFleet(
      { box: "openssh", ...(hasBusybox ? { small: "busybox" as const } : {}) },
      { fields: { files: ["book.txt"] }, program: [BINARY] },
    )
    writeFileSync(join(fleet.folder, "book.txt"), sampleText(20_000))
    writeFileSync(join(fleet.folder, ".env.local"), `ALPHA_API_KEYS=${SECRET}\n`)
    const deploy = async (name: string) => {
      const { code, stdout, stderr } = await fleet.alpha(["fleet", "deploy", name, `--binary=${BINARY}`])
      if (code !== 0) throw new Error(`deploy fails: ${stdout}${stderr}`)
    }
    if (hasBusybox) {
      // One proof of every operation is enough; the other host has the same files before it is deployed to, which then finds them.
      await deploy("small")
      const [from, to] = [fleet.host("small").deploy, fleet.host("box").deploy]
      mkdirSync(to, { recursive: true })
      if (Bun.spawnSync(["cp", "-al", `${from}/.`, to]).exitCode !== 0) throw new Error("cp fails")
      rmSync(join(to, "audit.jsonl"))
    }
    await deploy("box")
    return fleet
  })()
  return opening
}
afterAll(async () => {
  const fleet = await opening
  for (const { deploy } of fleet?.hosts ?? []) {
    for (const path of new Bun.Glob("jobs/*/record.json").scanSync(deploy)) {
      const { supervisor, child } = readRecord(deploy, path.split("/")[1]!)
      for (const one of [supervisor, child]) if (one !== undefined && livesHere(one)) process.kill(one.pid, "SIGKILL")
    }
  }
  await fleet?.close()
})

/** Processes that `pid` started, and those that they started. */
function below(pid: number): number[] {
  const path = `/proc/${pid}/task/${pid}/children`
  const own = existsSync(path) ? readFileSync(path, "utf8").trim().split(" ").filter(Boolean).map(Number) : []
  return [...own, ...own.flatMap(below)]
}

function kill(pid: number, signal: NodeJS.Signals = "SIGKILL"): void {
  try {
    process.kill(pid, signal)
  } catch {} // it has ended by itself
}

/** What one host makes of a command, as JSON. */
async function asked(fleet: TestFleet, name: string, verb: string, ...more: string[]) {
  const { code, stdout, stderr } = await fleet.alpha(["fleet", verb, name, ...more, "--json"])
  return {
    code,
    stderr,
    ...(stdout === ""
      ? {}
      : (JSON.parse(stdout) as { hosts: { job: { state: string; progress: { step: number } }; message: string }[] }).hosts[0]),
  }
}

/** The checkpoint of a run that nothing interrupted. */
function uninterrupted(fleet: TestFleet): string {
  const last = join(fleet.folder, "runs/whole/last")
  if (existsSync(last)) return last
  const { exitCode, stderr } = Bun.spawnSync([BINARY, "train", ...SMALL, STEPS, "--run=whole"], { cwd: fleet.folder })
  if (exitCode !== 0) throw new Error(stderr.toString())
  return last
}

async function life(name: string): Promise<void> {
  const fleet = await fleetOf()
  const { deploy } = fleet.host(name)
  const ask = (verb: string, ...more: string[]) => asked(fleet, name, verb, ...more)
  expect((await fleet.alpha(["fleet", "status", name])).stdout).toContain("no jobs")

  const begun = ask("train", ...SMALL, STEPS, "--run=first")
  await until("the first steps", () => statSync(join(deploy, "runs/first/metrics.jsonl"), { throwIfNoEntry: false })?.size)
  const child = readRecord(deploy, "first").child!
  kill(child.pid, "SIGSTOP") // however fast this machine is: the run is not over yet
  expect(await begun).toMatchObject({ code: 0, job: { name: "first", state: "running" } })
  expect(await ask("train", ...SMALL, ENDLESS, "--run=second")).toMatchObject({
    code: 5,
    state: "locked",
    message: expect.stringContaining("is taken by job first"),
  })
  expect((await fleet.alpha(["fleet", "status", name])).stdout).toMatch(/\bfirst +running +\d+\/6000 /)
  kill(child.pid, "SIGCONT")

  const stopped = await ask("stop")
  expect(stopped).toMatchObject({ code: 0, job: { state: "stopped", wasRunning: true, exit: { cause: "stopped", code: 0 } } })
  expect(existsSync(join(deploy, `runs/first/checkpoints/step-${String(stopped.job!.progress.step).padStart(6, "0")}`))).toBeTrue()
  expect((await fleet.alpha(["fleet", "logs", name, "-n", "1"])).stdout).toMatch(
    /^alpha host: \S+ end 1: stopped, exit code 0: it was asked to stop\n$/,
  )

  const { argv } = readRecord(deploy, "first")
  expect(await ask("resume", "--run=first")).toMatchObject({ code: 0, job: { name: "first" } })
  expect(readRecord(deploy, "first").argv).toEqual(argv)
  const followed = await fleet.alpha(["fleet", "logs", name, "--whole", "-f"])
  expect([followed.code, followed.stdout]).toEqual([0, readFileSync(join(deploy, "train.log"), "utf8")])
  expect(readExits(deploy, "first").map(({ cause }) => cause)).toEqual(["stopped", "finished"])
  expect((await fleet.alpha(["fleet", "status", name])).stdout).toMatch(/\bfirst +finished +6000\/6000 /)

  const to = join(fleet.folder, `from-${name}`)
  const first = await ask("download", "--run=first", `--to=${to}`)
  expect(first).toMatchObject({ code: 0, message: expect.stringMatching(/first: \d+ files, .*, verified$/) })
  expect(await ask("download", "--run=first", `--to=${to}`)).toMatchObject({ code: 0, fetched: 0 })
  const damaged = ["metrics.jsonl", "last/model.safetensors"].map((path) => join(to, "first", path))
  for (const path of damaged) writeFileSync(path, readFileSync(path).fill(7, 100, 120))
  const lengths = damaged.map((path) => readFileSync(path).length)
  expect(await ask("download", "--run=first", `--to=${to}`)).toMatchObject({ code: 0, fetched: lengths[0]! + lengths[1]! })
  writeFileSync(join(to, "first/config.json"), '{"id":"another"}')
  expect(await ask("download", "--run=first", `--to=${to}`)).toMatchObject({
    code: 2,
    message: expect.stringContaining("is another run than first"),
  })
  rmSync(join(to, "first"), { recursive: true })
  expect((await ask("download", "--run=first", "--part=best", `--to=${to}`)).code).toBe(0)
  expect([existsSync(join(to, "first/best/config.json")), existsSync(join(to, "first/last"))]).toEqual([true, false])
  expect((await ask("download", "--run=first", `--to=${to}`)).code).toBe(0)
  const whole = uninterrupted(fleet)
  for (const file of ["model.safetensors", "trainer.safetensors", "tokenizer.json"]) {
    expect([file, readFileSync(join(to, "first/last", file)).equals(readFileSync(join(whole, file)))]).toEqual([file, true])
  }
  const audit = readFileSync(join(deploy, "audit.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).verb)
  expect(audit.filter((verb) => verb !== "deploy")).toEqual(["train", "train", "stop", "resume"])
}

sshTest("trust, deploy, train, status, logs, stop, resume, download: OpenSSH", () => life("box"), 600_000)
busyboxTest("trust, deploy, train, status, logs, stop, resume, download: dropbear and BusyBox", () => life("small"), 600_000)

sshTest(
  `${CUTS} network cuts while a log is followed, a dead laptop, a reboot: nothing is lost, and nothing of it reaches the run`,
  async () => {
    const fleet = await fleetOf()
    const { deploy } = fleet.host("box")
    const ask = (verb: string, ...more: string[]) => asked(fleet, "box", verb, ...more)
    const record = (): JobRecord => readRecord(deploy, "noise")
    expect((await ask("train", ...SMALL, ENDLESS, "--logInterval=5", "--run=noise")).code).toBe(0)

    const follower = fleet.start(["fleet", "logs", "box", "--run=noise", "--whole", "-f"])
    let text = ""
    const reading = (async () => {
      const decoder = new TextDecoder()
      for await (const bytes of follower.stdout) text += decoder.decode(bytes, { stream: true })
    })()
    for (let cut = 0; cut < CUTS; cut++) {
      const before = text.length
      await until("more of the log", () => text.length > before)
      await until("a connection", () => below(follower.pid).length > 0)
      // At times all connections of the machine, the shared one among them.
      for (const pid of cut % 5 === 4 ? connections(fleet) : below(follower.pid)) kill(pid)
    }

    const notes: string[] = []
    const parts: Uint8Array[] = []
    const host = readFleet(fleet.file).instances.find((one) => one.name === "box")!
    const read = { run: "noise", lines: 0, from: 0, follow: true, silenceMs: 3000 }
    const held = readLog(host, { ...read, take: (bytes) => void parts.push(bytes.slice()), note: (text) => notes.push(text) })
    await until("the log", () => parts.length > 0)
    if (hasBusybox) {
      // Without root there is no cable to cut.
      fleet.host("box").cut()
      await until("word of the dead line", () => notes.length > 0)
      fleet.host("box").restore()
    }
    const before = parts.length
    await until("the log again", () => parts.length > before)

    const laptop = fleet.start(["fleet", "logs", "box", "--run=noise", "-f"])
    await until("a second reader", () => below(laptop.pid).length > 0)
    for (const pid of [laptop.pid, ...below(laptop.pid), ...connections(fleet)]) kill(pid)
    expect(livesHere(record().child!)).toBeTrue()

    expect(await ask("stop", "--run=noise")).toMatchObject({ code: 0, job: { state: "stopped" } })
    expect(await follower.exited).toBe(0)
    await reading
    const log = readFileSync(join(deploy, "jobs/noise/train.log"), "utf8")
    expect([text.length, text === log]).toEqual([log.length, true])
    expect(await held).toBe("stopped")
    expect(Buffer.concat(parts).toString() === log).toBeTrue()
    if (hasBusybox) expect(notes[0]).toMatch(/^connection lost after byte \d+; it is made again$/)
    await closeConnection(host)

    expect((await ask("resume", "--run=noise")).code).toBe(0)
    const { supervisor, child } = record()
    for (const one of [supervisor!, child!]) kill(one.pid)
    await until("the end of both", () => !livesHere(supervisor!) && !livesHere(child!))
    expect((await fleet.alpha(["fleet", "status", "box"])).stdout).toContain("noise: it and its supervisor vanished without a word")
    const boot = "0e0e0e0e-0000-4000-8000-000000000000"
    writeRecord(deploy, { ...record(), supervisor: { ...supervisor!, boot }, child: { ...child!, boot } })
    const rebooted = (await fleet.alpha(["fleet", "status", "box", "--run=noise"])).stdout
    expect(rebooted).toMatch(/\bnoise +rebooted /)
    expect(rebooted).toContain("noise: the host has been restarted since; resume goes on from the last checkpoint")
  },
  600_000,
)

/** Every ssh of this fleet, by its control socket. */
function connections(fleet: TestFleet): number[] {
  return [...new Bun.Glob("[0-9]*/cmdline").scanSync("/proc")].flatMap((path) => {
    try {
      const line = readFileSync(join("/proc", path), "utf8")
      return line.startsWith("ssh") && line.includes(fleet.environment.XDG_RUNTIME_DIR!) ? [Number(path.split("/")[0])] : []
    } catch {
      return [] // it has ended meanwhile
    }
  })
}

sshTest(
  "a served model answers; a benchmark is fetched and the machine let go; exit codes are as documented",
  async () => {
    const fleet = await fleetOf()
    const host = fleet.host("box")
    const ask = (verb: string, ...more: string[]) => asked(fleet, "box", verb, ...more)
    const port = await freePort()
    const served = await ask("serve", "--model=first", `--port=${port}`, `--host=${host.address}`, "--device=cpu")
    expect(served).toMatchObject({
      code: 0,
      job: { name: `serve-${port}`, state: "running" },
      message: expect.stringContaining(`ssh -N -L ${port}:`),
    })
    await until("an answer", async () => {
      const headers = { authorization: `Bearer ${SECRET}` }
      return (await fetch(`http://${host.address}:${port}/v1/models`, { headers }).catch(() => undefined))?.ok === true
    })
    expect(readRecord(host.deploy, `serve-${port}`).environment).toContain("HOME")
    for (const path of [`jobs/serve-${port}/record.json`, `jobs/serve-${port}/train.log`, "audit.jsonl"])
      expect(readFileSync(join(host.deploy, path), "utf8")).not.toContain(SECRET)
    expect(await ask("stop", `--run=serve-${port}`)).toMatchObject({ code: 0, job: { state: "stopped" } })

    expect(await fleet.alpha(["fleet", "bench-cuda", "box", "--shutdown=stop"])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("box has no stopCommand"),
    })
    fleet.configure({ stopCommand: 'echo "$INSTANCE at $HOST" >stopped.txt' })
    const bench = await ask("bench-cuda", "--shutdown=stop", "--no-deploy", "--bench=version", `--to=${fleet.folder}/figures`)
    expect(bench).toMatchObject({ code: 0, result: { version: expect.any(String) } })
    expect(existsSync((bench as unknown as { path: string }).path)).toBeTrue()
    expect(readFileSync(join(fleet.folder, "stopped.txt"), "utf8")).toBe(`box at ${host.address}\n`)

    const code = async (...words: string[]) => (await fleet.alpha(["fleet", ...words])).code
    expect(await code("status", "nobody")).toBe(1)
    expect(await code("train", "box", "--stpes=3")).toBe(1)
    expect(await code("resume", "box", "--run=nothing")).toBe(2)
    expect(await code("train", "box", ...SMALL, "--data=missing.txt", "--run=bad")).toBe(2)
    expect(await code("download", "box", "--run=first", `--to=${join(fleet.folder, "from-box")}`)).toBe(0)
    writeFileSync(join(fleet.folder, "away.json"), JSON.stringify({ instances: { box: { host: host.address, port: 1 } } }))
    expect(await code("status", "--fleet=away.json")).toBe(4)
    expect(await code("--fleet=away.json")).toBe(4) // the live view without a terminal
  },
  600_000,
)
