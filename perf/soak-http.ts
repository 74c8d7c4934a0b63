/** 1,000 random requests over HTTP one by one, then 64 at a time in another order by another server: equal bytes. */
import { join } from "node:path"
import { uniform } from "../src/base-random.ts"
import { formatDuration } from "../src/base-term.ts"
import { chatTemplate } from "../src/data.ts"
import { workFolder, writeModel } from "../test/serve-fake.ts"
import { answerTo, randomRequest } from "../test/serve-random.ts"

const [count = 1000, together = 64, seed = 1] = process.argv.slice(2).map(Number)
const work = workFolder()
const model = writeModel(join(work.path, "tiny"), { chatTemplate, nLayer: 2, nEmbd: 64 })
const requests = Array.from({ length: count }, (_, i) => randomRequest(seed, i))

/** Starts a server, sends the requests of `order`, `width` at a time, and returns answers by request. */
async function answers(order: readonly number[], width: number): Promise<string[]> {
  const begun = performance.now()
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, "../src/cli.ts"), "serve", "--json", "--port=0", "--device=cpu", `--model=${model}`],
    { cwd: work.path, stdin: "ignore", stdout: "pipe", stderr: "inherit" },
  )
  const { url } = JSON.parse(new TextDecoder().decode((await child.stdout.getReader().read()).value)) as { url: string }
  const found: string[] = []
  let next = 0
  const worker = async () => {
    for (let at = next++; at < order.length; at = next++) found[order[at] as number] = await answerTo(url, requests[order[at] as number]!)
  }
  await Promise.all(Array.from({ length: width }, worker))
  child.kill("SIGTERM")
  await child.exited
  console.log(`${order.length} requests, ${width} at a time: ${formatDuration(performance.now() - begun)}`)
  return found
}

const plain = requests.map((_, i) => i)
const alone = await answers(plain, 1)
const shuffled = plain.map((i) => ({ i, at: uniform(seed, 22, 0, i) })).sort((a, b) => a.at - b.at)
const crowd = await answers(
  shuffled.map(({ i }) => i),
  together,
)
work.remove()
const different = plain.filter((i) => alone[i] !== crowd[i])
for (const i of different.slice(0, 3)) {
  const at = [...alone[i]!].findIndex((letter, k) => letter !== [...crowd[i]!][k])
  console.log(
    `${JSON.stringify(requests[i])}\n  alone:    … ${alone[i]!.slice(at - 80, at + 80)}\n  together: … ${crowd[i]!.slice(at - 80, at + 80)}`,
  )
}
const statuses = Object.entries(Object.groupBy(alone, (text) => text.slice(0, 3))).map(([status, all]) => `${all!.length} × ${status}`)
const bytes = alone.reduce((sum, text) => sum + text.length, 0)
console.log(`${count} requests (${statuses.join(", ")}), ${bytes} bytes of answers: ${different.length} differ`)
process.exit(different.length === 0 ? 0 : 1)
