/** A run on a Vulkan device: the CPU's losses, the same bytes twice, and the same bytes when it was interrupted. */
import { afterAll, expect } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { gpus } from "../src/gpu.ts"
import { testWith } from "./require.ts"
import { PROGRAM, sampleText } from "./support.ts"

const work = mkdtempSync(join(tmpdir(), "alpha-gpu-train-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))
writeFileSync(join(work, "text.txt"), sampleText(20_000))
const withGpu = testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)

const SMALL = ["--tokenizer=char", "--nLayer=1", "--nHead=2", "--nEmbd=32", "--context=32", "--batch=4", "--dropout=0.1", "--accumSteps=2"]
const RUN = ["--data=text.txt", "--evalInterval=3", "--evalSteps=2", "--sampleInterval=6", "--sampleTokens=8", "--logInterval=1", "--json"]

async function train(...flags: string[]) {
  const command = [...PROGRAM, "train", ...flags]
  const run = Bun.spawn(command, { cwd: work, stdout: "pipe", stderr: "pipe", stdin: "ignore" })
  const [out, err] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()])
  expect([await run.exited, err.split("\n").filter((line) => line.startsWith("alpha:"))]).toEqual([0, []])
  return out.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line)] : []))
}
const start = (name: string, device: string, ...flags: string[]) => train(`--run=${name}`, `--device=${device}`, ...SMALL, ...RUN, ...flags)
const rows = (events: Record<string, unknown>[], type: string, column: string) =>
  events.filter((event) => event.type === type).map((event) => event[column])
const weights = (name: string) => Bun.hash(readFileSync(join(work, "runs", name, "last/model.safetensors")))

withGpu(
  "losses, evaluations and samples are the CPU's; a second run and one that was interrupted end in the same bytes",
  async () => {
    const gpu = await start("gpu", "gpu", "--steps=6")
    const cpu = await start("cpu", "cpu", "--steps=6", "--threads=1")
    const [ours, theirs] = [rows(gpu, "step", "loss"), rows(cpu, "step", "loss")] as [number[], number[]]
    expect(ours.length).toBe(6)
    ours.forEach((loss, i) => expect(Math.abs(loss / (theirs[i] as number) - 1)).toBeLessThan(1e-5))
    expect(rows(gpu, "eval", "step")).toEqual(rows(cpu, "eval", "step"))
    expect(rows(gpu, "sample", "text")).toEqual(rows(cpu, "sample", "text"))
    await start("twice", "gpu", "--steps=6")
    expect(weights("twice")).toBe(weights("gpu"))
    await start("parts", "gpu", "--steps=3", "--decaySteps=6", "--warmupSteps=1")
    await start("whole", "gpu", "--steps=6", "--decaySteps=6", "--warmupSteps=1")
    await train("--resume=parts", "--steps=6", "--device=gpu")
    expect(weights("parts")).toBe(weights("whole"))
  },
  600_000,
)

withGpu(
  "a profiled step begins when those before have ended, and is told before the next, with the bubbles of one before as it ran",
  async () => {
    const events = await start(
      "profiled",
      "gpu",
      "--steps=5",
      "--profile=3",
      "--traceFile=step.json",
      "--evalInterval=none",
      "--sampleInterval=none",
    )
    const told = events.filter(({ type }) => type === "step" || type === "profile").map(({ type, step }) => `${type} ${step}`)
    expect(told).toEqual(["step 1", "step 2", "profile 3", "step 3", "step 4", "step 5"])
    const [, , profile] = events.filter(({ type }) => type === "step" || type === "profile")
    expect(profile.barriers).toBeGreaterThan(0)
    expect(profile.barrier_ms).toBeGreaterThan(0)
    const { step, step_ms, barriers_ms, submits_ms, share } = profile.bubbles
    expect(step).toBe(2)
    expect([barriers_ms > 0, submits_ms > 0, barriers_ms + submits_ms < step_ms]).toEqual([true, true, true])
    expect(share).toBeCloseTo((barriers_ms + submits_ms) / step_ms, 9)
    const { traceEvents } = JSON.parse(readFileSync(join(work, "step.json"), "utf8")) as {
      traceEvents: { tid: number; args: { step?: number } }[]
    }
    expect(traceEvents.filter(({ tid }) => tid === 1).length).toBe(profile.launches)
    const asRun = traceEvents.filter(({ tid }) => tid === 2)
    expect(asRun.length).toBe(2 * (profile.barriers + 3)) // two micro-batches and an update
    expect(new Set(asRun.map(({ args }) => args.step))).toEqual(new Set([1, 2]))
    expect(new Set(rows(events, "step", "loss"))).toEqual(
      new Set(rows(await start("plain", "gpu", "--steps=5", "--evalInterval=none", "--sampleInterval=none"), "step", "loss")),
    )
  },
  600_000,
)

withGpu(
  "what a GPU cannot allocate at once is refused with settings that fit",
  () => {
    const flags = [
      "--nLayer=1",
      "--nHead=2",
      "--nEmbd=16",
      "--context=64",
      "--batch=2000000",
      "--evalInterval=none",
      "--sampleInterval=none",
    ]
    const command = [...PROGRAM, "train", "--run=huge", "--device=gpu", "--data=text.txt"]
    const { exitCode, stderr } = Bun.spawnSync([...command, "--tokenizer=char", ...flags], { cwd: work })
    expect(exitCode).toBe(EXIT.device)
    expect(stderr.toString()).toMatch(
      /embedding\.y takes 7\.6 GiB, a GPU allocates at most 4 GiB at once\nhint: fits with --batch=\d+ --accumSteps=\d+/,
    )
  },
  600_000,
)
