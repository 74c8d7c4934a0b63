/** Training as a user sees it: schedule, runs that resume bit for bit, locks, signals, errors that lose nothing. */
import { afterAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { learningRate } from "../src/train-schedule.ts"
import { PROGRAM, sampleText } from "./support.ts"
import { killAndCompare, type Trainer, trainWhole } from "./train-kill.ts"

const runsDir = mkdtempSync(join(tmpdir(), "alpha-train-"))
const data = join(runsDir, "text.txt")
writeFileSync(data, sampleText(20_000))
const trainer = { command: PROGRAM, data, runsDir }
afterAll(() => rmSync(runsDir, { recursive: true, force: true }))

const SMALL = [
  "--tokenizer=char",
  "--nLayer=1",
  "--nHead=2",
  "--nEmbd=16",
  "--context=16",
  "--batch=4",
  "--sampleInterval=none",
  "--device=cpu",
  "--threads=1",
]

function alpha(...flags: string[]) {
  return Bun.spawn([...trainer.command, "train", `--data=${data}`, `--runsDir=${runsDir}`, ...SMALL, ...flags], {
    stdin: flags.includes("--data=-") ? "pipe" : "ignore", // an open pipe never ends: the reader waits
    stdout: "pipe",
    stderr: "pipe",
  })
}

async function outcome(run: ReturnType<typeof alpha>): Promise<{ code: number; out: string; err: string }> {
  const [out, err, code] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text(), run.exited])
  return { code, out, err }
}

describe("learning rate", () => {
  const base = { lr: 1, minLr: 0.1, warmupSteps: 7, decaySteps: 21, wsdDecayFraction: 0.2 }
  test("cosine with warm-up: values computed by hand", () => {
    const at = (step: number) => learningRate(step, { ...base, schedule: "cosine" })
    expect(at(0)).toBeCloseTo(1 / 7, 12)
    expect(at(6)).toBe(1)
    expect(at(7)).toBe(1)
    expect(at(14)).toBeCloseTo(0.55, 12) // half way: (1 + 0.1) / 2
    expect(at(8)).toBeCloseTo(0.1 + 0.45 * (1 + Math.cos(Math.PI / 14)), 12)
    expect(at(21)).toBeCloseTo(0.1, 12)
    expect(at(1000)).toBeCloseTo(0.1, 12)
  })
  test("linear, constant, wsd", () => {
    expect(learningRate(14, { ...base, schedule: "linear" })).toBeCloseTo(0.55, 12)
    expect(learningRate(20, { ...base, schedule: "constant" })).toBe(1)
    const wsd = { ...base, schedule: "wsd" as const, warmupSteps: 0, decaySteps: 100 }
    expect(learningRate(79, wsd)).toBe(1)
    expect(learningRate(85, wsd)).toBeCloseTo(0.1 + 0.9 * (1 - Math.sqrt(0.25)), 12)
    expect(learningRate(100, wsd)).toBeCloseTo(0.1, 12)
  })
})

describe("resume", () => {
  // The soak kills runs of every variant.
  test.each(["adamw", "muon"] as const)(
    "a run killed at random moments ends as an undisturbed one: %s",
    async (variant) => {
      const kind: Trainer = { ...trainer, runsDir: join(runsDir, variant), variant }
      await killAndCompare(kind, 1, 4, await trainWhole(kind))
    },
    300_000,
  )

  test.each(["SIGTERM", "SIGUSR1"] as const)(
    "%s: the step ends, a checkpoint is written, exit 0; the resumed run goes on",
    async (signal) => {
      const run = alpha(
        `--run=${signal}`,
        "--steps=10000000",
        "--evalInterval=none",
        "--checkpointInterval=50000",
        "--logInterval=1",
        "--json",
      )
      const reader = run.stdout.getReader()
      for (let said = ""; !said.includes('"type":"step"'); ) said += new TextDecoder().decode((await reader.read()).value)
      reader.releaseLock()
      run.kill(signal)
      expect(await run.exited).toBe(0)
      const step = Number(/step-(\d+)/.exec(readdirSync(join(runsDir, signal, "checkpoints"))[0] ?? "")?.[1])
      expect(step).toBeGreaterThan(0)
      const { out, code } = await outcome(alpha(`--resume=${signal}`, `--steps=${step + 3}`, "--json"))
      expect(code).toBe(0)
      expect(JSON.parse(out.trim().split("\n").at(-1) as string)).toMatchObject({ type: "summary", steps: step + 3, status: "completed" })
    },
    300_000,
  )

  test("a closed terminal (SIGHUP) stops as SIGTERM does; under nohup training goes on", async () => {
    for (const ignored of [false, true]) {
      const command = [
        ...trainer.command,
        "train",
        `--data=${data}`,
        `--runsDir=${runsDir}`,
        ...SMALL,
        `--run=hup-${ignored}`,
        // Without nohup it must not end by itself, however late the signal comes.
        `--steps=${ignored ? 500 : 10_000_000}`,
      ]
      const script = `${ignored ? "trap '' HUP; " : ""}exec "$@"`
      const flags = ["--evalInterval=none", "--logInterval=1", "--json"]
      const run = Bun.spawn(["sh", "-c", script, "sh", ...command, ...flags], { stdout: "pipe", stderr: "pipe" })
      let out = ""
      for await (const part of run.stdout) {
        const before = out
        out += new TextDecoder().decode(part)
        if (!before.includes('"step":2,') && out.includes('"step":2,')) run.kill("SIGHUP")
      }
      expect(await run.exited).toBe(0)
      const summary = JSON.parse(out.trim().split("\n").at(-1) as string)
      expect(summary).toMatchObject({ type: "summary", status: ignored ? "completed" : "stopped" })
      expect(existsSync(join(runsDir, `hup-${ignored}/last/model.safetensors`))).toBe(true)
    }
  }, 300_000)

  test("a signal while data is prepared: exit 0, no run", async () => {
    const run = alpha("--run=early", "--data=-", "--steps=5") // waits for standard input
    while (!existsSync(join(runsDir, "early"))) await Bun.sleep(10)
    run.kill("SIGTERM")
    const { code, err } = await outcome(run)
    expect([code, err]).toEqual([0, expect.stringContaining("stopped before the first step")])
    expect(existsSync(join(runsDir, "early"))).toBe(false)
  }, 300_000)

  test("more steps: the warm-up stays, the decay follows; the learning rate does not jump back", async () => {
    const rates = async (...flags: string[]) => {
      const { out, code, err } = await outcome(alpha(...flags, "--logInterval=1", "--evalInterval=none", "--json"))
      expect([code, err]).toEqual([0, ""])
      const rows = out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as { type: string; lr: number })
      return rows.filter(({ type }) => type === "step").map(({ lr }) => lr)
    }
    const first = await rates("--run=longer", "--steps=40")
    const more = await rates("--resume=longer", "--steps=400")
    expect(first.slice(0, 2)).toEqual([3e-4, 6e-4]) // 2 steps of warm-up
    const { config } = JSON.parse(readFileSync(join(runsDir, "longer/config.json"), "utf8"))
    expect([config.warmupSteps.value, config.decaySteps.value]).toEqual([2, 400])
    for (let i = 1; i < more.length; i++) expect(more[i]!).toBeLessThan(more[i - 1]!)
    expect(more[0]!).toBeGreaterThan(5.8e-4) // step 40 of a decay of 400
  }, 300_000)

  test("changed batches: told for random windows, refused for sequential ones", async () => {
    const again = (run: string, ...flags: string[]) => outcome(alpha(`--resume=${run}`, "--steps=4", ...flags))
    expect((await outcome(alpha("--run=random", "--steps=2"))).code).toBe(0)
    expect((await outcome(alpha("--run=sequential", "--steps=2", "--order=sequential"))).code).toBe(0)
    const told = await again("random", "--batch=8")
    expect([told.code, told.err]).toEqual([0, expect.stringContaining("goes on with batch 8 instead of 4: other windows")])
    const split = await again("sequential", "--batch=2", "--accumSteps=2")
    expect([split.code, split.err]).toEqual([0, expect.stringContaining("the same windows, sums rounded otherwise")])
    for (const [flag, message] of [
      ["--batch=8", "batch 2, the configuration says 8: sequential data would jump"],
      ["--context=8", "context 16, the configuration says 8: sequential data would jump"],
      ["--order=random", "order sequential, the configuration says random"],
      ["--documentBoundaries", "documentBoundaries false, the configuration says true"],
    ] as const) {
      const refused = await again("sequential", "--accumSteps=2", flag)
      expect([refused.code, refused.err]).toEqual([2, expect.stringContaining(message)])
    }
  }, 300_000)
})

describe("errors", () => {
  test("a reader that closes the pipe ends the run as a signal does: checkpoint, exit 0", async () => {
    const child = alpha("--run=pipe", "--steps=10000000", "--evalInterval=none", "--logInterval=1", "--json")
    const reader = child.stdout.getReader()
    for (let said = ""; !said.includes('"step":3,'); ) said += new TextDecoder().decode((await reader.read()).value)
    await reader.cancel()
    expect(await child.exited).toBe(0)
    expect(existsSync(join(runsDir, "pipe/last/model.safetensors"))).toBe(true)
    expect(existsSync(join(runsDir, "pipe/lock"))).toBe(false)
  }, 300_000)

  test("a second trainer on a run is refused while the first lives", async () => {
    const first = alpha("--run=locked", "--steps=10000000", "--evalInterval=none", "--json")
    await first.stdout.getReader().read()
    const { code, err } = await outcome(alpha("--resume=locked"))
    expect(code).toBe(5)
    expect(err).toContain(`is being trained by process ${first.pid}`)
    first.kill("SIGKILL")
    await first.exited
  }, 300_000)

  test("a run that exists is not overwritten; a finished run says how to go on", async () => {
    expect((await outcome(alpha("--run=done", "--steps=2"))).code).toBe(0)
    const again = await outcome(alpha("--run=done", "--steps=2"))
    expect([again.code, again.err]).toEqual([2, expect.stringContaining("exists")])
    const resumed = await outcome(alpha("--resume=done"))
    expect([resumed.code, resumed.err]).toEqual([2, expect.stringContaining("--steps=4")])
  }, 300_000)

  test("data that changed since the run began is refused, the checkpoint stays", async () => {
    const other = join(runsDir, "other.txt")
    writeFileSync(other, sampleText(9_000))
    expect((await outcome(alpha(`--data=${other}`, "--run=moved", "--steps=2"))).code).toBe(0)
    writeFileSync(other, sampleText(9_100))
    const { code, err } = await outcome(alpha(`--data=${other}`, "--resume=moved", "--steps=4"))
    expect([code, err]).toEqual([3, expect.stringContaining("data changed")])
    expect(existsSync(join(runsDir, "moved/last/model.safetensors"))).toBe(true)
  }, 300_000)

  test("a configuration that contradicts the checkpoint names both values", async () => {
    expect((await outcome(alpha("--run=shape", "--steps=2"))).code).toBe(0)
    const { code, err } = await outcome(alpha("--resume=shape", "--steps=4", "--nEmbd=32"))
    expect([code, err]).toEqual([2, expect.stringContaining("has nEmbd 16, the configuration says 32")])
    const contradicting = {
      "--optimizer=lion": "optimizer adamw, the configuration says lion",
      "--seed=5": "says 5",
      "--run=other": "are two runs",
    }
    for (const [flag, message] of Object.entries(contradicting)) {
      const refused = await outcome(alpha("--resume=shape", "--steps=4", flag))
      expect([refused.code, refused.err]).toEqual([2, expect.stringContaining(message)])
    }
  }, 300_000)

  test("a run that cannot start leaves no directory", async () => {
    const { code, err } = await outcome(alpha("--run=nothing", "--data=no-such-file.txt"))
    expect(code).toBe(3)
    expect(err).toContain("no-such-file.txt")
    expect(existsSync(join(runsDir, "nothing"))).toBe(false)
    const elsewhere = join(runsDir, "made/for/it")
    expect((await outcome(alpha("--run=nothing", "--data=no-such-file.txt", `--runsDir=${elsewhere}`))).code).toBe(3)
    expect(existsSync(join(runsDir, "made"))).toBe(false)
    writeFileSync(join(runsDir, "empty.txt"), "")
    expect((await outcome(alpha("--run=nothing", `--data=${join(runsDir, "empty.txt")}`, `--runsDir=${elsewhere}`))).code).toBe(3)
    expect(existsSync(join(runsDir, "made"))).toBe(false)
  }, 300_000)
})

test("two runs of one seed write the same checkpoint bytes, also with other thread counts", async () => {
  for (const [name, threads] of [
    ["one", 1],
    ["two", 2],
    ["four", 4],
  ] as const) {
    expect((await outcome(alpha(`--run=${name}`, "--steps=5", `--threads=${threads}`, "--nEmbd=32", "--batch=16"))).code).toBe(0)
  }
  const read = (name: string) => readFileSync(join(runsDir, name, "last/trainer.safetensors"))
  expect(read("one").equals(read("two"))).toBe(true)
  expect(read("one").equals(read("four"))).toBe(true)
}, 300_000)
