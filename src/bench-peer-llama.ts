/** Generation beside llama.cpp, through node-llama-cpp: the same weights, exported as a GGUF file. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs"
import { availableParallelism, homedir } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Measurement } from "./bench-measure.ts"
import script from "./bench-peer-llama.peer.mjs" with { type: "text" }
import { inTemporary, runWell, selfCommand } from "./bench-process.ts"
import { precisionsOf } from "./bench-table.ts"
import { inventedText } from "./bench-tokenizer.ts"
import type { BenchPeerConfig } from "./config.ts"

const PACKAGE = "node-llama-cpp@3"

/** The directory in whose node_modules the package is; put there by npm where that is asked for. Throws AlphaError where it is not. */
async function packageFolder(install: boolean, tell: (note: string) => void): Promise<string> {
  const folder = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "alpha/peers")
  if (existsSync(join(folder, "node_modules/node-llama-cpp/package.json"))) return folder
  if (!install) {
    throw new AlphaError("bench peer llama: node-llama-cpp is not installed", {
      hint: "add --install: npm puts it into the cache directory",
      code: EXIT.device,
    })
  }
  tell(`npm install ${PACKAGE}`)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, "package.json"), "{}\n")
  await runWell(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE], { cwd: folder })
  return folder
}

/** Trains a step in llama.cpp's GPT-2 form, exports it, and lets both generate from it in turns. */
export async function besideLlama(config: BenchPeerConfig, device: string, tell: (note: string) => void): Promise<Measurement[]> {
  const folder = await packageFolder(config.install, tell)
  const preset = config.preset[0] ?? "cpu-small"
  const threads = config.threads ?? availableParallelism()
  return await inTemporary(async (directory) => {
    const self = selfCommand()
    const text = join(directory, "text.txt")
    writeFileSync(text, inventedText(200_000))
    const runs = [`--runsDir=${directory}`, "--run=model"]
    const form = [
      "--bias=true",
      "--activation=gelu_tanh",
      "--tie=true",
      "--dropout=0",
      "--steps=1",
      "--batch=1",
      "--context=64",
      "--blockSize=1024",
    ]
    const learned = preset.startsWith("gpt2") ? [] : ["--tokenizer=bpe", "--vocabSize=1024"]
    const quiet = ["--evalInterval=none", "--sampleInterval=none", "--json"]
    await runWell([...self, "train", `--preset=${preset}`, `--data=${text}`, ...runs, ...form, ...learned, ...quiet, `--device=${device}`])
    const [model, gguf, peerScript] = ["model", "model.gguf", "llama.mjs"].map((name) => join(directory, name)) as [string, string, string]
    const precision = precisionsOf(config.precision)[0]!
    await runWell([
      ...self,
      "export",
      `--model=${model}`,
      "--format=gguf",
      `--weights=${precision === "bf16" ? "bf16" : "f32"}`,
      `--out=${gguf}`,
    ])
    writeFileSync(peerScript, script)
    const [mine, theirs]: [Measurement[][], Record<string, number[]>[]] = [[], []]
    for (let round = 0; round < config.rounds; round++) {
      const sizes = [
        `--prompt=${config.prompt}`,
        `--generate=${config.generate}`,
        `--seconds=${config.seconds}`,
        "--batch=1",
        `--threads=${threads}`,
      ]
      const where = [`--model=${model}`, `--precision=${precision}`, `--device=${device}`]
      mine.push(JSON.parse((await runWell([...self, "bench", "infer", ...where, ...sizes, "--json"])).stdout) as Measurement[])
      const gpu = device === "cpu" ? "none" : "auto"
      const job = [folder, gguf, String(config.prompt), String(config.generate), String(config.seconds), gpu, String(threads)]
      theirs.push((await runWell(["node", peerScript, ...job])).lines.at(-1) as unknown as Record<string, number[]>)
    }
    const of = (key: string) => theirs.flatMap((one) => one[key] ?? [])
    const peers = [of("prompt_tokens_per_s"), of("tokens_per_s")]
    return (mine[0] ?? []).map((first, i) => ({
      ...first,
      name: first.name.replace(/^\S+/, preset),
      samples: mine.flatMap((round) => round[i]?.samples ?? []),
      peer: { name: "llama.cpp", samples: peers[i] ?? [] },
      command: `alpha bench peer llama --preset=${preset} --precision=${precision} --device=${device}`,
    }))
  })
}
