/** Statistics with known answers, forms of output, CSV files, warming up by a simulated clock, and every bench once, short. */
import { describe, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { normal } from "../src/base-random.ts"
import { countersOf } from "../src/bench-counters.ts"
import { appendCsv, csvText, parseCsv, readCsv } from "../src/bench-csv.ts"
import { deviceClass, logEntries } from "../src/bench-history.ts"
import { benchInfer } from "../src/bench-infer.ts"
import { figure, formatMeasurements, type Measurement, withStatistics } from "../src/bench-measure.ts"
import { benchCases, benchStepOps } from "../src/bench-ops.ts"
import { collect, type Sampling, warmUp } from "../src/bench-sample.ts"
import { blockRatio, bootstrap, median, medianInterval, quantile, ratioOf } from "../src/bench-stats.ts"
import { flagsOf, listed, numbers, runBench } from "../src/bench-table.ts"
import { benchTokenizer, inventedText } from "../src/bench-tokenizer.ts"
import { BENCH, BENCH_STARTUP, type BenchConfig } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { ops } from "../src/op.ts"

const folder = mkdtempSync(join(tmpdir(), "bench-"))

describe("statistics", () => {
  test("known answers", () => {
    expect(median([3, 1, 2])).toBe(2)
    expect(median([4, 1, 3, 2])).toBe(2.5)
    expect(median([])).toBeNaN()
    expect(quantile([1, 2, 3, 4, 5], 0.25)).toBe(2)
    expect(blockRatio([100, 110, 110, 100])).toBeCloseTo(Math.log(1.1), 12)
    expect(medianInterval([7])).toEqual({ low: 7, high: 7 })
  })

  test("intervals hold the truth about as often as they claim, small and large", () => {
    for (const count of [15, 200]) {
      let held = 0
      for (let i = 0; i < 200; i++) {
        const { low, high } = medianInterval(Array.from({ length: count }, (_, j) => normal(9, 1, i, j)))
        if (low <= 0 && high >= 0) held++
      }
      expect(held).toBeGreaterThanOrEqual(170) // 95 % of 200; a bootstrap of few samples is a little narrow
      expect(held).toBeLessThan(200)
    }
  })

  test("the same samples give the same interval, and a real difference leaves 1", () => {
    const a = [100, 101, 99, 102, 98]
    expect(bootstrap([a], ([x]) => median(x!))).toEqual(bootstrap([a], ([x]) => median(x!)))
    expect(ratioOf(a, a)).toMatchObject({ ratio: 1 })
    const { ratio, low } = ratioOf(
      a.map((x) => 2 * x),
      a,
    )
    expect(ratio).toBe(2)
    expect(low).toBeGreaterThan(1.5)
  })
})

describe("warming up", () => {
  /** Time that passes by working; a clock that rises to `top` within `rise` ms. */
  const simulated = (rise: number, top: number) => {
    let now = 0
    return {
      now: () => now,
      work: () => {
        now += 10
      },
      clock: () => (rise === 0 ? undefined : Math.min(top, 500 + ((top - 500) * now) / rise)),
    }
  }
  test("goes on until the clock has settled", () => {
    const { now, work, clock } = simulated(250, 1980)
    expect(warmUp(work, { warmMs: 100, clock, now })).toBe(400)
  })
  test("ends with its time where nothing tells a clock, and is patient but not forever", () => {
    const plain = simulated(0, 0)
    expect(warmUp(plain.work, { warmMs: 100, clock: plain.clock, now: plain.now })).toBe(100)
    const slow = simulated(1e6, 1e9)
    expect(warmUp(slow.work, { warmMs: 100, clock: slow.clock, now: slow.now })).toBe(400)
  })
  test("every sample is kept", () => {
    let now = 0
    const samples = collect(() => (now += 10), { warmMs: 20, ms: 50, least: 2, clock: () => undefined, now: () => now })
    expect(samples).toEqual([30, 40, 50, 60, 70])
  })
})

describe("output", () => {
  const m: Measurement = {
    ...{ bench: "train", name: "a|b", device: "D", unit: "tokens/s", better: "more" },
    ...{ samples: [1200, 1210, 1190], facts: { loss: "4.1" }, command: "alpha bench train" },
  }
  test("numbers for people", () => {
    expect([1234567.8, 12.3456, 0.00012349, 7].map(figure)).toEqual(["1,234,568", "12.35", "0.0001235", "7"])
  })
  test("a table, Markdown and CSV hold the same cells; ~ stands for no difference", () => {
    const same = { ...m, peer: { name: "PyTorch", samples: [1195, 1205, 1200] } }
    const better = { ...m, better: "less" as const, peer: { name: "PyTorch", samples: [2400, 2410, 2390] } }
    const table = formatMeasurements([same, better], "table")
    expect(table).toStartWith("D\nbench  what  median")
    expect(table).toMatch(/~ 1\.00/)
    expect(table).toMatch(/ 2\.00 /)
    expect(formatMeasurements([same], "markdown")).toContain(
      "| train | a\\|b | 1,200 | tokens/s | 1,190 … 1,210 | 3 | PyTorch | 1,200 | ~ 1.00 |",
    )
    expect(formatMeasurements([same], "csv")).toContain('"1,200"')
    expect(withStatistics(better).ratio?.ratio).toBe(2)
  })
  test("CSV comes back as it was; rows are added under a header that may grow", () => {
    const rows = [
      ["a", "b"],
      ['say "x"', "1,2\n3"],
      ["", ""],
    ]
    expect(parseCsv(csvText(rows))).toEqual(rows)
    expect(() => parseCsv('a,"b')).toThrow("bad quotes at offset 2")
    const path = join(folder, "new/history.csv")
    appendCsv(path, ["when", "value"], [{ when: "now", value: 1 }])
    appendCsv(path, ["when", "unit", "value"], [{ when: "later", value: 2, unit: "ms" }])
    expect(readFileSync(path, "utf8")).toBe("when,value,unit\nnow,1,\nlater,2,ms\n")
    expect(readCsv(path)[1]).toEqual({ when: "later", value: "2", unit: "ms" })
  })
})

test("the history names a device by its class, never by its host", () => {
  expect(deviceClass("NVIDIA H200, 139 GiB, NVIDIA 580.159, NV cooperative matrices 2", false)).toEqual({
    device: "H200",
    driver: "580.159",
  })
  expect(deviceClass("Intel(R) Xeon(R) Processor, 2 threads, v4", true)).toEqual({ device: "2 x Xeon AMX", driver: "" })
  expect(deviceClass("AMD EPYC 7763 64-Core Processor, 8 threads, v3", false).device).toBe("8 x EPYC 7763")
})

test("entries of perf/LOG.md follow its template", () => {
  const m: Measurement = {
    bench: "gemm",
    name: "4096",
    device: "NVIDIA H200, 139 GiB, NVIDIA 580.1, x",
    unit: "TFLOP/s",
    better: "more",
    samples: [300, 301],
    facts: {},
    command: "alpha bench cuda",
  }
  const [head, ...rest] = logEntries([{ ...m, peer: { name: "cuBLAS", samples: [600, 602] } }]).split("\n")
  expect(head).toBe("## gemm 4096")
  expect(rest.map((line) => line.slice(0, 11).trim())).toEqual(["date", "commit", "device", "command", "alpha", "peer", "ratio"])
  expect(rest[4]).toBe("alpha      300 301 TFLOP/s")
  expect(rest[5]).toBe("peer       600 602 TFLOP/s (cuBLAS)")
  expect(rest[6]).toStartWith("ratio      0.5 (")
})

describe("benches, short", () => {
  const device = openCpu(1)
  const sampling: Sampling = { warmMs: 0, ms: 0, least: 2, clock: () => undefined, now: () => performance.now() }
  const roof = { bytes: 1e10, flops: { f32: 1e11, bf16: 1e11 } }

  test("every op has rows, each with all its samples", () => {
    const rows = benchCases(device, / 0 f32$/, sampling, roof, (note) => expect(note).toBe("nothing"))
    expect(new Set(rows.map(({ name }) => name.split(" ")[0]!))).toEqual(new Set(ops.map(({ name }) => name)))
    for (const { samples } of rows) expect(samples.length).toBe(2)
  })
  test("ops of a step at their true sizes, and counters that never change", () => {
    const rows = benchStepOps(
      device,
      { preset: "cpu-small", precision: "bf16", batch: 1, program: "train", only: /linear/ },
      sampling,
      roof,
    )
    const generation = { preset: "cpu-small", precision: "f32" as const, batch: 2, program: "decode" as const, only: /./ }
    expect(benchStepOps(device, generation, sampling, roof).find(({ name }) => name === "linear")?.facts.launches).toBe(17)
    expect(rows.find(({ name }) => name === "linear")?.facts.launches).toBe(16)
    const counters = countersOf(device, "cpu-small", "f32", 1)
    expect(counters).toEqual(countersOf(device, "cpu-small", "f32", 1))
    expect(counters.dispatches).toBeGreaterThan(50)
    expect(counters.bytes_up).toBe(2 * 64 * 4)
  })
  test("generation in llama-bench's columns", () => {
    const job = { preset: "cpu-small", model: undefined, precision: "f32" as const, prompt: 512, generate: 4, batches: [1, 2] }
    const rows = benchInfer(device, job, sampling, 1e10)
    const names = ["pp50", "tg4", "pp50 batch 2", "tg4 batch 2"].map((name) => `cpu-small f32 ${name}`)
    expect(rows.map(({ name }) => name)).toEqual(names)
    for (const { samples } of rows) for (const sample of samples) expect(sample).toBeGreaterThan(0)
  })
  test("tokenizers", () => {
    expect(inventedText(1000)).toBe(inventedText(2000).slice(0, 1000))
    expect(benchTokenizer(inventedText(50_000), "invented", sampling).map(({ unit }) => unit)).toEqual(Array(5).fill("MB/s"))
  })
})

const usual = Object.fromEntries(Object.entries(BENCH).map(([name, field]) => [name, field.default])) as unknown as BenchConfig

test("lists take commas, numbers are checked, values become flags again", () => {
  expect(listed(["cpu,gpu", "gpu:1"])).toEqual(["cpu", "gpu", "gpu:1"])
  expect(numbers("batch", ["1,64"])).toEqual([1, 64])
  expect(() => numbers("batch", ["x"])).toThrow("--batch x: expected a whole number")
  expect(flagsOf({ device: ["cpu", "gpu"], rounds: 2, only: "", format: "csv" })).toEqual(["--device=cpu", "--device=gpu", "--rounds=2"])
})

test("training has the same loss in every process, and processes of their own measure devices apart", async () => {
  writeFileSync(join(folder, "x"), "")
  const config = {
    ...usual,
    preset: ["cpu-small"],
    device: ["cpu"],
    precision: ["f32", "bf16"],
    threads: 1,
    batch: ["1"],
    steps: 3,
    rounds: 1,
  }
  const [f32, bf16] = await runBench("train", config, [], () => {})
  expect(f32!.facts.loss).not.toBe(bf16!.facts.loss)
  const [again] = await runBench("train", { ...config, precision: ["f32"] }, [], () => {})
  expect(again!.facts.loss).toBe(f32!.facts.loss)
  const counters = await runBench("counters", config, ["preset", "device", "precision", "threads", "batch"], () => {})
  expect(counters.filter(({ name }) => name === "dispatches")).toHaveLength(2)
  expect(Object.keys(BENCH_STARTUP)).toContain("device")
})
