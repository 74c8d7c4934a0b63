/** Speed of the server: a small model is trained, served by a process of its own, and put under load. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { isCompiled } from "./base-build.ts"
import { AlphaError } from "./base-error.ts"
import { type Load, runLoad } from "./bench-load.ts"
import type { Measurement } from "./bench-measure.ts"
import { inTemporary, runWell } from "./bench-process.ts"
import { inventedText } from "./bench-tokenizer.ts"

const [REQUESTS, CONCURRENCY, INPUT, OUTPUT] = [64, 16, 64, 32]

export async function benchServe(program: readonly string[], device: string, rounds: number): Promise<Measurement[]> {
  return await inTemporary(async (directory) => {
    const text = join(directory, "text.txt")
    writeFileSync(text, inventedText(100_000))
    const model = [`--runsDir=${directory}`, `--device=${device}`]
    const training = [
      "--preset=cpu-small",
      "--tokenizer=char",
      "--context=128",
      "--steps=5",
      "--evalInterval=none",
      "--sampleInterval=none",
    ]
    await runWell([...program, "train", `--data=${text}`, "--run=small", ...training, ...model, "--json"])
    return await withServer([...program, "serve", "--model=small", ...model], async (baseUrl) => {
      const load: Load = {
        ...{ baseUrl, model: "small", key: undefined, requests: REQUESTS, inputTokens: INPUT, outputTokens: OUTPUT, vocabSize: 16 },
        ...{ rate: Number.POSITIVE_INFINITY, burstiness: 1, concurrency: CONCURRENCY, seed: 1, goodput: {} },
      }
      await runLoad({ ...load, requests: CONCURRENCY, seed: 0 })
      const samples: number[] = []
      for (let round = 0; round < rounds; round++) {
        const { outcomes, seconds } = await runLoad({ ...load, seed: round + 1 })
        const failed = outcomes.find(({ error }) => error !== undefined)?.error
        if (failed !== undefined) throw new AlphaError(`bench serve: a request fails: ${failed}`)
        samples.push((REQUESTS * OUTPUT) / seconds)
      }
      const name = `cpu-small, ${CONCURRENCY} requests at a time`
      const command = `alpha bench serve --requests=${REQUESTS} --concurrency=${CONCURRENCY} --inputTokens=${INPUT} --outputTokens=${OUTPUT}`
      return [{ bench: "serve", name, device: "", unit: "tokens/s", better: "more", samples, facts: { on: device }, command }]
    })
  })
}

/** Starts a server with this command on a free port, calls `work` when it is ready, and ends it. */
export async function withServer<T>(command: readonly string[], work: (baseUrl: string) => Promise<T>): Promise<T> {
  const server = Bun.spawn([...command, "--port=0", "--json"], {
    env: { ...process.env, BUN_BE_BUN: isCompiled ? undefined : process.env.BUN_BE_BUN },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  const stderr = server.stderr.text()
  try {
    const baseUrl = await firstUrl(server.stdout)
    while (!(await fetch(`${baseUrl}/ready`)).ok) await Bun.sleep(20)
    return await work(baseUrl)
  } catch (error) {
    server.kill()
    const said = (await stderr).trim().split("\n").slice(-3).join("\n")
    throw said === "" ? error : new AlphaError(`bench serve: ${(error as Error).message}; the server said: ${said}`)
  } finally {
    server.kill()
    await server.exited
  }
}

/** The address in the first line of JSON that a server prints. */
async function firstUrl(stdout: ReadableStream<Uint8Array>): Promise<string> {
  let text = ""
  for await (const bytes of stdout) {
    text += new TextDecoder().decode(bytes)
    if (text.includes("\n")) return (JSON.parse(text.split("\n", 1)[0]!) as { url: string }).url
  }
  throw new AlphaError("bench serve: the server ends before it listens")
}
