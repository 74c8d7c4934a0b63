/** Training speed on the CPU beside PyTorch, alternating in one run: bun perf/cpu-peers.ts [ROW …]; PYTHON names an interpreter with torch. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { median } from "../src/train-metrics.ts"

const root = join(import.meta.dir, "..")
const peers = join(root, "../shared/peers")
const python = process.env.PYTHON ?? "python3"
const ROUNDS = 3
/** The peer's model: biases, layer norm, GELU by tanh, tied head. */
const FORM = [
  "--bias",
  "--activation=gelu_tanh",
  "--dropout=0",
  "--evalInterval=none",
  "--sampleInterval=none",
  "--logInterval=1000",
  "--checkpointInterval=1000000",
]

interface Row {
  readonly name: string
  readonly alpha: readonly string[]
  readonly torch: readonly string[]
  /** PyTorch variants; the fastest counts. */
  readonly variants: readonly (readonly string[])[]
}

const both = [["--no-compile"], []]
const train = (name: string, alpha: readonly string[], torch: readonly string[], variants: Row["variants"]): Row => ({
  name,
  alpha,
  torch,
  variants,
})
const GPT2 = ["--preset=gpt2-124m", "--vocabSize=50304", "--batch=4", "--context=64", "--blockSize=1024", "--steps=16"]
const GPT2_PEER = ["--preset", "gpt2-124m", "--batch", "4", "--context", "64", "--steps", "4"]
const f32 = (variants: Row["variants"]) => variants.map((v) => ["--dtype", "float32", ...v])
const bf16 = (variants: Row["variants"]) => variants.map((v) => ["--dtype", "bfloat16", ...v])

const ROWS: readonly Row[] = [
  train("cpu-small f32", ["--preset=cpu-small", "--vocabSize=65", "--steps=300"], ["--preset", "cpu-small", "--steps", "60"], f32(both)),
  train(
    "shakespeare-char batch 8 f32",
    ["--preset=shakespeare-char", "--vocabSize=65", "--batch=8", "--steps=30"],
    ["--preset", "shakespeare-char", "--batch", "8", "--steps", "6"],
    f32(both),
  ),
  train("gpt2-124m f32", GPT2, GPT2_PEER, f32(both)),
  train("gpt2-124m bf16", [...GPT2, "--precision=bf16"], GPT2_PEER, [...bf16(both), ...f32(both)]),
]

async function json(command: readonly string[]): Promise<Record<string, number> | undefined> {
  const run = Bun.spawn([...command], { cwd: root, stdout: "pipe", stderr: "pipe" })
  const out = (await new Response(run.stdout).text()).trim().split("\n").at(-1) ?? ""
  return (await run.exited) === 0 ? (JSON.parse(out) as Record<string, number>) : undefined
}

const wanted = process.argv.slice(2)
for (const row of ROWS.filter((r) => wanted.length === 0 || wanted.some((w) => r.name.startsWith(w)))) {
  const runsDir = mkdtempSync(join(tmpdir(), "alpha-perf-"))
  const ours: number[] = []
  const theirs = new Map<string, number[]>()
  for (let round = 0; round < ROUNDS; round++) {
    const alpha = await json([
      join(root, "alpha"),
      "train",
      "--data=random",
      `--runsDir=${runsDir}`,
      `--run=r${round}`,
      "--device=cpu",
      "--threads=2",
      "--json",
      ...FORM,
      ...row.alpha,
    ])
    if (alpha === undefined) throw new Error(`${row.name}: alpha failed`)
    ours.push(Math.round(alpha.tokens_per_s as number))
    // The first round tries every variant; the rest repeat what was fastest.
    const fastest = [...theirs].toSorted((a, b) => median(b[1]) - median(a[1]))[0]?.[0]
    for (const variant of row.variants.filter((v) => round === 0 || v.join(" ") === fastest)) {
      const torch = await json([python, join(peers, "torch_train.py"), "--device", "cpu", "--threads", "2", ...row.torch, ...variant])
      const key = variant.join(" ")
      if (torch !== undefined) theirs.set(key, [...(theirs.get(key) ?? []), torch.tokens_per_s as number])
    }
  }
  rmSync(runsDir, { recursive: true })
  const best = [...theirs].toSorted((a, b) => median(b[1]) - median(a[1]))[0]
  const ratio = best === undefined ? "no peer" : (median(ours) / median(best[1])).toFixed(2)
  console.log(
    `${row.name}: ratio ${ratio}  alpha ${ours.join(" ")}  ${[...theirs].map(([k, v]) => `torch ${k}: ${v.join(" ")}`).join("  ")} tokens/s`,
  )
}
