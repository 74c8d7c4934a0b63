// llama.cpp through node-llama-cpp: node bench-peer-llama.peer.mjs PACKAGE MODEL.gguf PROMPT GENERATE BATCH SECONDS GPU THREADS
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"

const [folder, model, prompt, generate, seconds, gpu, threads] = process.argv.slice(2)
const entry = createRequire(`${folder}/package.json`).resolve("node-llama-cpp")
const { getLlama, readGgufFileInfo } = await import(pathToFileURL(entry).href)
void readGgufFileInfo
const llama = await getLlama({ gpu: gpu === "none" ? false : gpu, build: "never", logLevel: "error" })
const loaded = await llama.loadModel({ modelPath: model, gpuLayers: gpu === "none" ? 0 : "max" })
const length = Number(prompt) + Number(generate) + 16
const context = await loaded.createContext({ contextSize: length, batchSize: Number(prompt), threads: Number(threads) || undefined })
const sequence = context.getSequence()
const vocabulary = loaded.fileInfo.metadata?.tokenizer?.ggml?.tokens?.length ?? 256
const ids = (seed) => Array.from({ length: Number(prompt) }, (_, i) => (i * 7919 + seed * 104729 + 1) % vocabulary)
const [pp, tg] = [[], []]
const start = performance.now()
for (let round = 0; pp.length < 4 || performance.now() - start < Number(seconds) * 1000; round++) {
  await sequence.clearHistory()
  const begun = performance.now()
  await sequence.evaluateWithoutGeneratingNewTokens(ids(round).slice(0, -1))
  pp.push(((Number(prompt) - 1) * 1000) / (performance.now() - begun))
  let made = 0
  let from = 0
  for await (const _ of sequence.evaluate([ids(round).at(-1)], { temperature: 0, yieldEogToken: true })) {
    if (made === 0) from = performance.now()
    if (++made > Number(generate)) break
  }
  tg.push(((made - 1) * 1000) / (performance.now() - from))
}
console.log(JSON.stringify({ prompt_tokens_per_s: pp.slice(1), tokens_per_s: tg.slice(1), gpu: llama.gpu }))
process.exit(0)
