/** Training keeps nothing of its steps, evaluations, samples and checkpoints in memory; `npm run soak -- memory` has the full numbers. */
import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { PROGRAM, sampleText } from "./support.ts"
import { residentAt, trainMemory } from "./train-memory.ts"

const folder = mkdtempSync(join(tmpdir(), "alpha-train-memory-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test("the resident memory of 4,000 steps stays where it was after 1,000", async () => {
  const data = join(folder, "text.txt")
  writeFileSync(data, sampleText(20_000))
  // About 26,000 parameters: whoever keeps one copy of the weights, gradients or moments per step adds 100 KB each time, 300 MB in the end.
  const model = ["--tokenizer=char", "--nLayer=2", "--nHead=2", "--nEmbd=32", "--context=16", "--batch=4"]
  const busy = ["--evalInterval=20", "--evalSteps=2", "--sampleInterval=20", "--sampleTokens=8", "--checkpointInterval=20"]
  const where = [`--data=${data}`, `--runsDir=${folder}`, "--device=cpu", "--threads=1"]
  const run = await trainMemory(PROGRAM, [...model, ...busy, ...where, "--steps=1000000", "--logInterval=1"], 4000)
  expect(run.resident.filter((bytes) => bytes > 0).length).toBe(4000)
  // The heap of the script engine moves by some 10 MB, whatever the number of steps; a leak of 20 KB per step is beyond it.
  expect(residentAt(run, 4000) - residentAt(run, 1000)).toBeLessThan(60e6)
}, 300_000)
