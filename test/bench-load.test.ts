/** The load generator: arrivals, percentiles, and a report with vLLM's keys. */
import { afterAll, expect, test } from "bun:test"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { readCsv } from "../src/bench-csv.ts"
import { gammaGap, type Load, percentile, report, runLoad } from "../src/bench-load.ts"
import { startTest, workFolder, writeModel } from "./serve-fake.ts"
import { PROGRAM } from "./support.ts"

const work = workFolder()
afterAll(() => work.remove())

test("percentiles are NumPy's", () => {
  expect([0, 25, 50, 90, 100].map((p) => percentile([1, 2, 3, 4], p))).toEqual([1, 1.75, 2.5, 3.7, 4])
  expect(percentile([], 50)).toBe(0)
})

test("gaps have mean 1, and a spread by their shape", () => {
  for (const shape of [0.5, 1, 4]) {
    const gaps = Array.from({ length: 20_000 }, (_, i) => gammaGap(shape, 3, i))
    const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length
    const variance = gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length
    expect(Math.abs(mean - 1)).toBeLessThan(0.03)
    expect(Math.abs(variance * shape - 1)).toBeLessThan(0.1)
  }
})

test("closed and open loops count what was answered", async () => {
  const server = await startTest([writeModel(join(work.path, "tiny"))])
  try {
    const load: Load = {
      baseUrl: server.url,
      model: "tiny",
      key: undefined,
      requests: 12,
      inputTokens: 8,
      outputTokens: 4,
      vocabSize: 256,
      rate: Number.POSITIVE_INFINITY,
      burstiness: 1,
      concurrency: 3,
      seed: 0,
      goodput: { ttft: 1e6 },
    }
    const closed = await runLoad(load)
    expect(closed.most).toBe(3)
    const told = report(load, closed)
    expect(told).toMatchObject({
      completed: 12,
      failed: 0,
      total_input_tokens: 96,
      total_output_tokens: 48,
      max_concurrency: 3,
      request_rate: "inf",
    })
    expect(told.request_goodput).toBe(told.request_throughput)
    for (const name of ["ttft", "tpot", "itl", "e2el"])
      for (const part of ["mean", "median", "std", "p99"]) expect(told).toHaveProperty(`${part}_${name}_ms`)
    expect(server.engine.requests.every(({ ignoreEnd, maxTokens, prompt }) => ignoreEnd && maxTokens === 4 && prompt.length === 8)).toBe(
      true,
    )
    const run = async (...flags: string[]) => {
      const args = [...PROGRAM, "bench", "serve", server.url, "--requests=6", "--outputTokens=4", ...flags]
      const child = Bun.spawn(args, {
        cwd: work.path,
        env: { PATH: process.env.PATH ?? "" },
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
      })
      const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
      return { out, err, code: await child.exited }
    }
    const shown = await run("--json", "--goodput=ttft:100000,e2el:100000", "--rate=1000")
    expect([shown.code, JSON.parse(shown.out)]).toMatchObject([
      0,
      { completed: 6, failed: 0, num_prompts: 6, request_rate: 1000, model_id: "tiny" },
    ])
    expect((await run()).out).toMatch(/^6 answered, 0 failed in .*\n[\d.]+ requests\/s/)
    expect((await run("--goodput=fast:1")).code).toBe(EXIT.usage)
    expect((await run("--model=other")).code).toBe(EXIT.usage)
    expect(await run("--inputTokens=100000")).toMatchObject({
      code: EXIT.usage,
      err: expect.stringContaining("tokens, the requests are of 100000 + "),
    })
    server.engine.script = () => ({ code: "queue_full", message: "full", retryAfterMs: 5 })
    const open = report(load, await runLoad({ ...load, rate: 500, concurrency: 100 }))
    expect(open).toMatchObject({ completed: 0, failed: 12, output_throughput: 0 })
    expect((open.errors as string[])[0]).toStartWith("429")
  } finally {
    await server.close()
  }
})

test("a server of its own: random weights, several loads, beside decoding without a server", () => {
  const args = [
    "bench",
    "serve",
    "--preset=cpu-small",
    "--device=cpu",
    "--threads=1",
    "--concurrency=1,2",
    "--requests=4",
    "--inputTokens=4",
  ]
  const { stdout, exitCode } = Bun.spawnSync([...PROGRAM, ...args, "--outputTokens=4", "--record=history.csv", "--json"], {
    cwd: work.path,
    env: { PATH: process.env.PATH ?? "" },
  })
  expect(exitCode).toBe(0)
  const [one, two] = JSON.parse(stdout.toString())
  expect(one).toMatchObject({ completed: 4, failed: 0, max_concurrency: 1, total_output_tokens: 16 })
  expect(one.share_of_offline).toBeCloseTo(one.output_throughput / one.offline_throughput, 6)
  expect(one).toHaveProperty("added_ttft_ms")
  expect(two).toMatchObject({ completed: 4, max_concurrent_requests: 2 })
  expect(two.added_ttft_ms).toBeUndefined()
  const rows = readCsv(join(work.path, "history.csv"))
  expect(rows.map(({ what, beside }) => [what, beside])).toEqual([
    ["serve cpu-small f32, 1 at a time, 4 + 4 tokens", "the same decode offline"],
    ["serve cpu-small f32, 2 at a time, 4 + 4 tokens", "the same decode offline"],
  ])
}, 300_000)
