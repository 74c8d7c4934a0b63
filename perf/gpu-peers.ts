/**
 * Training and decoding on a GPU beside PyTorch, alternating in one run: bun perf/gpu-peers.ts [ROW …] [--rounds=3] [--no-peer] [--no-compile].
 * ALPHA names the binary, PYTHON an interpreter with torch, PEERS the folder with torch_train.py and torch_decode.py.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { median } from "../src/train-metrics.ts"

const { values: flags, positionals: wanted } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "3" },
    "no-peer": { type: "boolean", default: false },
    "no-compile": { type: "boolean", default: false },
  },
})
const root = join(import.meta.dir, "..")
const peers = process.env.PEERS ?? join(root, "../shared/peers")
const python = process.env.PYTHON ?? "python3"
const alpha = process.env.ALPHA ?? join(root, "alpha")

/** The peer's model: biases, layer norm, GELU by tanh, tied head; random tokens, nothing but steps. */
const FORM = [
  ...["--bias", "--activation=gelu_tanh", "--dropout=0", "--precision=bf16", "--device=gpu", "--data=random"],
  ...["--evalInterval=none", "--sampleInterval=none", "--logInterval=1000", "--checkpointInterval=1000000"],
]

interface Row {
  readonly name: string
  /** Name of the rate in both results. */
  readonly rate: "tokens_per_s" | "decode_tokens_per_s"
  readonly alpha: (folder: string) => readonly string[]
  readonly peer: readonly string[]
}

const training = (preset: string, vocabSize: number, batch: number, steps: number): Row => ({
  name: `train ${preset} batch ${batch}`,
  rate: "tokens_per_s",
  alpha: (folder) => [
    alpha,
    "train",
    `--preset=${preset}`,
    `--vocabSize=${vocabSize}`,
    `--batch=${batch}`,
    `--steps=${steps}`,
    `--runsDir=${folder}`,
    ...FORM,
    "--json",
  ],
  peer: ["torch_train.py", "--preset", preset, "--batch", String(batch)],
})
const decoding = (batch: number): Row => ({
  name: `decode gpt2-124m batch ${batch}`,
  rate: "decode_tokens_per_s",
  alpha: () => [
    ...[process.execPath, join(root, "perf/decode.ts"), "--device=gpu", "--precision=bf16"],
    ...[`--batch=${batch}`, "--prompt=128", "--new=256"],
  ],
  peer: ["torch_decode.py", "--preset", "gpt2-124m", "--batch", String(batch), "--prompt", "128", "--new", "256"],
})

const ROWS: readonly Row[] = [
  training("gpt2-124m", 50304, 64, 40),
  training("gpt2-124m", 50304, 16, 120),
  training("shakespeare-char", 65, 64, 500),
  decoding(1),
  decoding(64),
]

async function json(command: readonly string[]): Promise<Record<string, number> | undefined> {
  const { BUN_BE_BUN: _, ...plain } = process.env // set where the binary itself is the Bun that runs this file
  const run = Bun.spawn([...command], { cwd: root, stdout: "pipe", stderr: "pipe", env: command[0] === alpha ? plain : process.env })
  const [out, err] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()])
  if ((await run.exited) === 0) return JSON.parse(out.trim().split("\n").at(-1) ?? "") as Record<string, number>
  console.error(`${command.join(" ")} fails:\n${err.slice(-2000)}`)
  return undefined
}

for (const row of ROWS.filter(({ name }) => wanted.length === 0 || wanted.some((word) => name.includes(word)))) {
  const folder = mkdtempSync(join(tmpdir(), "alpha-perf-"))
  const [ours, theirs]: [number[], number[]] = [[], []]
  let memory = ""
  for (let round = 0; round < Number(flags.rounds); round++) {
    const mine = await json([...row.alpha(folder)])
    if (mine !== undefined) ours.push(mine[row.rate] as number)
    if (flags["no-peer"]) continue
    const peer = await json([
      python,
      join(peers, row.peer[0] as string),
      ...row.peer.slice(1),
      ...(flags["no-compile"] ? ["--no-compile"] : []),
    ])
    if (peer === undefined) continue
    theirs.push(peer[row.rate] as number)
    if (peer.peak_gib !== undefined)
      memory = `, peak GiB ${mine?.peak_gpu_bytes === undefined ? "?" : (mine.peak_gpu_bytes / 2 ** 30).toFixed(1)} and ${peer.peak_gib}`
  }
  rmSync(folder, { recursive: true })
  const ratio = theirs.length === 0 ? "no peer" : (median(ours) / median(theirs)).toFixed(3)
  console.log(
    `${row.name}: ratio ${ratio}  alpha ${ours.map(Math.round).join(" ")}  torch ${theirs.map(Math.round).join(" ")} tokens/s${memory}`,
  )
}
