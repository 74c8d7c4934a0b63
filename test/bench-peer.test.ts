/** Peers: shapes, our products against plain loops, taking turns, and the whole command with a stand-in for Python that answers like the script. */
import { expect, test } from "bun:test"
import { chmodSync, mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError } from "../src/base-error.ts"
import { readCsv } from "../src/bench-csv.ts"
import type { Measurement } from "../src/bench-measure.ts"
import { alternate } from "../src/bench-peer.ts"
import { ourProduct, parseShapes } from "../src/bench-peer-gemm.ts"
import { openCpu } from "../src/cpu.ts"
import { missing } from "./dist-ranks.ts"
import { testWith } from "./require.ts"
import { PROGRAM } from "./support.ts"

test("shapes: cubes and M,N,K", () => {
  expect(parseShapes("1024^3;64,128,256")).toEqual([
    [1024, 1024, 1024],
    [64, 128, 256],
  ])
  expect(parseShapes("16^3,32^3")).toEqual([
    [16, 16, 16],
    [32, 32, 32],
  ])
  expect(() => parseShapes("16^3;7,8")).toThrow("--shapes 7,8: expected 1024^3 or M,N,K")
})

const element = (i: number) => (((Math.imul(i, 2654435761) >>> 20) % 256) - 128) / 128

test("our product is right, every product has its time", () => {
  const device = openCpu(1)
  const [M, N, K] = [5, 7, 11]
  for (const precision of ["f32", "bf16"] as const) {
    const { ms, checked } = ourProduct(device, [M, N, K], precision, { iters: 3, warmMs: 0, check: 20 })
    expect(ms).toHaveLength(3)
    checked.forEach((value, i) => {
      const [r, c] = [(i * 7919) % M, (i * 104729) % N]
      let sum = 0
      for (let k = 0; k < K; k++) sum += element(r * K + k + 1) * element(c * K + k + 2)
      expect(Math.abs(value - sum)).toBeLessThanOrEqual(precision === "f32" ? 1e-6 : Math.abs(sum) * 2 ** -8)
    })
  }
})

const plain: Measurement = {
  bench: "train",
  name: "x",
  device: "",
  unit: "tokens/s",
  better: "more",
  samples: [10],
  facts: {},
  command: "",
}

test("they run in turns, the fastest variant counts, and one that cannot run is told", async () => {
  const order: string[] = []
  const variant = (name: string, rate: number) => ({
    name,
    open: () => ({
      run: async () => {
        order.push(name)
        if (rate === 0) throw new AlphaError("no compiler")
        return { samples: [rate], peakBytes: rate * 2 ** 20 }
      },
      close: async () => void order.push(`end of ${name}`),
    }),
  })
  const notes: string[] = []
  const ours = async () => {
    order.push("ours")
    return plain
  }
  const { samples, peer, facts } = await alternate(ours, [variant("eager", 5), variant("compiled", 8), variant("broken", 0)], 3, (note) =>
    notes.push(note),
  )
  expect(order).toEqual(["ours", "eager", "compiled", "end of eager", "broken", "ours", "compiled", "ours", "compiled", "end of compiled"])
  expect(samples).toEqual([10, 10, 10])
  expect(peer).toEqual({ name: "compiled", samples: [8, 8, 8] })
  expect(facts).toEqual({ "its peak MiB": 8 })
  expect(notes).toEqual(["broken is left out: no compiler"])
})

/** A folder, and the command run in it with a stand-in for Python. */
function standIn() {
  const folder = mkdtempSync(join(tmpdir(), "peer-"))
  // Answers for each of the script's works; products agree with ours where they are exact.
  writeFileSync(
    join(folder, "python.ts"),
    `const words = process.argv.slice(2)
const ranks = words[0] === "-m" ? Number(words[3]?.split("=")[1]) : 1
const [, what, ...flags] = ranks > 1 ? words.slice(4) : words
const shapes = flags[flags.indexOf("--shapes") + 1]?.split(",").map((shape) => shape.split("x").map(Number)) ?? []
const count = Number(flags[flags.indexOf("--check") + 1] ?? 0)
const element = (i: number) => (((Math.imul(i, 2654435761) >>> 20) % 256) - 128) / 128
const at = ([M, N, K]: number[], i: number) => {
  let sum = 0
  for (let k = 0; k < K!; k++) sum += element(((i * 7919) % M!) * K! + k + 1) * element(((i * 104729) % N!) * K! + k + 2)
  return sum + Number(process.env.WRONG ?? 0)
}
const results = shapes.map((shape) => ({ shape, ms: [1, 2], checked: flags.includes("--check") ? Array.from({ length: count }, (_, i) => at(shape, i)) : [] }))
const answer = () => console.log(JSON.stringify({ torch: "2.9.0+x", tokens_per_s: [100 * ranks, 200 * ranks], ...(what === "gemm" ? { results } : {}) }))
if (!flags.includes("--turns")) answer()
else for await (const _ of console) answer()
`,
  )
  const python = join(folder, "python")
  writeFileSync(python, `#!/bin/sh\nexec '${process.execPath}' '${join(folder, "python.ts")}' "$@"\n`)
  chmodSync(python, 0o755)
  const run = (args: readonly string[], env: Record<string, string> = {}) => {
    const command = [...PROGRAM, "bench", ...args, `--python=${python}`]
    const { stdout, stderr, exitCode } = Bun.spawnSync([...command, "--device=cpu", "--threads=1", "--json"], {
      cwd: folder,
      env: { ...process.env, ...env },
    })
    return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode }
  }
  return { folder, run }
}

test("alpha bench peer: one command writes rows with the ratios of the same run", () => {
  const { folder, run } = standIn()
  const train = [
    "peer",
    "torch",
    "--preset=cpu-small",
    "--batch=1",
    "--rounds=1",
    "--seconds=0.01",
    "--generate=2",
    "--prompt=2",
    "--record",
  ]
  expect(run(train)).toMatchObject({ exitCode: 0 })
  const rows = readCsv(join(folder, "perf/history.csv"))
  expect(rows.map(({ what, beside }) => `${what}: ${beside}`)).toEqual([
    "train cpu-small batch 1 f32: PyTorch 2.9.0 eager",
    "infer cpu-small f32 tg2: PyTorch 2.9.0 eager",
  ])
  for (const row of rows) {
    expect(Number(row.ratio)).toBeCloseTo(Number(row.value) / 150, 1)
    expect(row.beside_samples).toBe("100 200")
    expect(row.command).toStartWith("alpha bench peer torch --case=")
  }

  const products = ["cuda", "--shapes=16^3", "--iters=2", "--rounds=1", "--warmup=0", "--check", "--checkShape=16^3"]
  const right = run(products)
  expect([right.exitCode, right.stderr]).toEqual([0, expect.stringContaining("256 elements of 16^3 agree")])
  expect(JSON.parse(right.stdout)[0].peer.samples).toHaveLength(2)
  expect(run(products, { WRONG: "0.5" })).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/product 16×16×16: element \d+ is/) })
  const { exitCode, stderr } = Bun.spawnSync([...PROGRAM, "bench", "peer", "torch", "--device=cpu", "--python=false"], { cwd: folder })
  expect([exitCode, stderr.toString()]).toEqual([4, expect.stringContaining("false has no PyTorch")])
})

test("a wrong word is told before any program is looked for", () => {
  const wrong = {
    "--preset=gpt3": "preset gpt3: unknown",
    "--case=eval": "--case eval: expected train or infer",
    "--precision=f64": "--precision f64: expected f32 or bf16",
    "--batch=many": "--batch many: expected a whole number",
    "--batch=4": "--batch and --context are of a preset",
    "--device=tpu": "device tpu: expected cpu",
  }
  for (const [flag, message] of Object.entries(wrong)) {
    const flags = ["--python=false", flag]
    const { exitCode, stderr } = Bun.spawnSync([...PROGRAM, "bench", "peer", ...flags])
    expect([exitCode, stderr.toString()]).toEqual([2, expect.stringContaining(message)])
  }
})

testWith("mpi", missing("variables"))("several ranks beside PyTorch's own launcher and data parallelism", () => {
  const { folder, run } = standIn()
  const sizes = ["--preset=cpu-small", "--batch=1", "--rounds=1", "--seconds=0.01"]
  const { exitCode, stdout, stderr } = run(["peer", "torch", ...sizes, "--gpus=2", "--record"])
  expect(exitCode, stderr).toBe(0)
  const [row, ...others] = readCsv(join(folder, "perf/history.csv"))
  expect(others).toEqual([])
  expect(row).toMatchObject({ what: "train cpu-small batch 1 f32, 2 ranks", beside: "PyTorch 2.9.0 DDP eager", beside_samples: "200 400" })
  expect(row?.command).toEndWith("--batch=1 --gpus=2")
  expect(JSON.parse(stdout)[0].facts).toMatchObject({ "one rank": expect.any(Number), efficiency: expect.any(Number) })
})
