/** What a run tells of itself: the profile of a step with its timeline, its memory before it begins, and what would make it fit. */
import { afterAll, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { PROGRAM, sampleText } from "./support.ts"

const work = mkdtempSync(join(tmpdir(), "alpha-profile-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))
writeFileSync(join(work, "text.txt"), sampleText(20_000))
const SMALL = ["--tokenizer=char", "--nLayer=1", "--nHead=2", "--nEmbd=16", "--context=16", "--batch=4", "--device=cpu", "--threads=1"]
const QUIET = ["--evalInterval=none", "--sampleInterval=none", "--data=text.txt"]

async function alpha(...flags: string[]) {
  const command = [...PROGRAM, "train", ...SMALL, ...QUIET, ...flags]
  const run = Bun.spawn(command, { cwd: work, stdout: "pipe", stderr: "pipe", stdin: "ignore" })
  const [out, err] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()])
  const events = out.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line)] : []))
  return { code: await run.exited, err, events }
}

test("a profiled step changes nothing, its kernels add up, its timeline is Chrome's format", async () => {
  const plain = await alpha("--run=plain", "--steps=5", "--logInterval=1", "--json")
  const { code, events } = await alpha("--run=timed", "--steps=5", "--logInterval=1", "--profile=3", "--traceFile=step.json", "--json")
  expect(code).toBe(0)
  const losses = (of: typeof events) => of.filter(({ type }) => type === "step").map(({ loss }) => loss)
  expect(losses(events)).toEqual(losses(plain.events))
  const profile = events.find(({ type }) => type === "profile")
  expect(profile).toMatchObject({ step: 3, traceFile: "step.json" })
  expect([profile.barriers, profile.barrier_ms]).toEqual([0, undefined])
  const names = profile.kernels.map(({ op }: { op: string }) => op)
  expect(names).toContain("linear")
  expect(names).toContain("adamw")
  const sum = (of: string) => profile.kernels.reduce((all: number, row: Record<string, number>) => all + (row[of] as number), 0)
  expect(sum("ms")).toBeCloseTo(profile.ms, 6)
  expect(sum("share")).toBeCloseTo(1, 6)
  expect(sum("launches")).toBe(profile.launches)
  const { traceEvents } = JSON.parse(readFileSync(join(work, "step.json"), "utf8"))
  expect(traceEvents.length).toBe(profile.launches)
  expect(traceEvents[0]).toMatchObject({ ph: "X", pid: 1, tid: 1, cat: "train.step" })
})

test("--dryRun tells every part of the memory and leaves nothing behind", async () => {
  const { code, events } = await alpha("--run=dry", "--steps=5", "--dryRun", "--json")
  expect(code).toBe(0)
  const memory = events.find(({ type }) => type === "memory")
  const { weights, gradients, moments, copies, arena, cache, total, parameters } = memory
  expect([weights >= 4 * parameters, gradients, moments, copies, cache]).toEqual([true, 0, 8 * parameters, 0, 0])
  expect(arena).toBeGreaterThan(4 * parameters) // of gradients, beside what is left of activations
  expect(weights + gradients + moments + copies + arena + cache).toBe(total)
  expect(memory.fits).toBe(true)
  expect(existsSync(join(work, "runs/dry"))).toBe(false)
})

test("a run that cannot fit is refused with settings that would, before anything is written", async () => {
  const huge = ["--nLayer=24", "--nEmbd=2048", "--nHead=16", "--context=1024", "--batch=256"]
  const { code, err } = await alpha(...huge, "--run=huge", "--steps=5")
  expect(code).not.toBe(0)
  expect(err).toMatch(/the run needs [\d.]+ [GT]iB on .*, [\d.]+ [MG]iB are free/)
  expect(err).toMatch(/fits with .*--batch=\d+ --accumSteps=\d+|use a smaller model or a shorter context/)
  expect(readdirSync(join(work, "runs"))).not.toContain("huge")
})
