/**
 * Decode speed of gpt2-124m on the CPU beside PyTorch, alternating in one run: bun perf/decode-peers.ts [--batch=1] [--prompt=128] [--new=32] [--threads=2];
 * PYTHON names an interpreter with torch. Medians of three rounds and all values; both precisions are compared with PyTorch's f32.
 */
import { join } from "node:path"
import { parseArgs } from "node:util"
import { median } from "../src/train-metrics.ts"

const { values: flags } = parseArgs({
  options: {
    batch: { type: "string", default: "1" },
    prompt: { type: "string", default: "128" },
    new: { type: "string", default: "32" },
    threads: { type: "string", default: "2" },
  },
})
const ROUNDS = 3
const shape = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value])
const alpha = (precision: string) => [process.execPath, join(import.meta.dir, "decode.ts"), `--precision=${precision}`, ...shape]
const peer = join(import.meta.dir, "../../shared/peers/torch_decode.py")
const torch = [
  process.env.PYTHON ?? "python3",
  peer,
  "--preset",
  "gpt2-124m",
  "--device",
  "cpu",
  "--dtype",
  "float32",
  "--no-compile",
  ...shape,
]

interface Result {
  readonly ms_per_token: number
  readonly bandwidth_share?: number
}
async function json(command: readonly string[]): Promise<Result> {
  const run = Bun.spawn([...command], { stdout: "pipe", stderr: "inherit" })
  const out = (await new Response(run.stdout).text()).trim()
  if ((await run.exited) !== 0) throw new Error(`${command.join(" ")} failed`)
  return JSON.parse(out) as Result
}

const rows: Record<"f32" | "bf16" | "torch", Result[]> = { f32: [], bf16: [], torch: [] }
for (let round = 0; round < ROUNDS; round++) {
  rows.f32.push(await json(alpha("f32")))
  rows.torch.push(await json(torch))
  rows.bf16.push(await json(alpha("bf16")))
}
const times = (name: keyof typeof rows) => rows[name].map((row) => row.ms_per_token)
for (const name of ["f32", "bf16"] as const) {
  const ratio = (median(times("torch")) / median(times(name))).toFixed(2)
  const share = median(rows[name].map((row) => row.bandwidth_share ?? 0)).toFixed(2)
  console.log(
    `decode ${name}: ratio ${ratio}, ${share} of the measured bandwidth  alpha ${times(name).join(" ")}  torch f32 ${times("torch").join(" ")} ms/token`,
  )
}
