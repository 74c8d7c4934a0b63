/** Compiles pipelines on threads of their own: a driver takes a good part of a second for one. */
import { availableParallelism } from "node:os"
import { isMainThread, parentPort, Worker } from "node:worker_threads"
import { hostAddress, vulkan } from "../src/native-vulkan.ts"

export interface Job {
  readonly gpu: number
  /** SPIR-V; or PTX text that ends in a zero, with subgroup -1. */
  readonly code: Uint32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>
  readonly entry?: string
  readonly push: number
  readonly constants: Uint32Array<ArrayBuffer>
  readonly subgroup: number
}
interface Compiled {
  readonly handle: bigint
  readonly layout: bigint
  /** Of the driver; then there is no pipeline. */
  readonly error: string
  readonly seconds: number
}

function compile({ gpu, code, entry: name = "main", push, constants, subgroup }: Job): Compiled {
  const start = performance.now()
  const entry = new TextEncoder().encode(`${name}\0`)
  const row = BigInt64Array.from(
    [hostAddress(code), code.byteLength, hostAddress(entry), push, hostAddress(constants), constants.length, subgroup, 0, 0, 0].map(BigInt),
  )
  vulkan().gpu_pipelines_made(vulkan().gpu_pipelines(gpu as never, row, 1, 0))
  const seconds = (performance.now() - start) / 1000
  return { handle: row[7]!, layout: row[8]!, error: row[9] === 0n ? "" : `VkResult ${row[9]}`, seconds }
}

/** Every job's pipeline, in their order; those that are not done after `limit` seconds have an error instead. */
export async function compileAll(jobs: readonly Job[], limit: number): Promise<Compiled[]> {
  const results: Compiled[] = jobs.map(() => ({ handle: 0n, layout: 0n, error: `not compiled within ${limit} s`, seconds: limit }))
  const until = performance.now() + 1000 * limit
  let next = 0
  const threads = Math.min(jobs.length, availableParallelism(), 16)
  const work = (): Promise<void> =>
    new Promise((done) => {
      const worker = new Worker(new URL(import.meta.url))
      const timer = setTimeout(done, limit * 1000)
      let current = -1
      const give = () => {
        current = next++
        if (current < jobs.length && performance.now() < until) return worker.postMessage(jobs[current])
        clearTimeout(timer)
        void worker.terminate()
        done()
      }
      worker.on("message", (compiled: Compiled) => {
        results[current] = compiled
        give()
      })
      worker.on("error", (error) => {
        console.log(`a compiling thread failed: ${String(error)}`)
        done()
      })
      give()
    })
  await Promise.all(Array.from({ length: threads }, work))
  if (next <= threads) for (const [i, job] of jobs.entries()) if (performance.now() < until) results[i] = compile(job) // no thread came up
  return results
}

if (!isMainThread) parentPort?.on("message", (job: Job) => parentPort?.postMessage(compile(job)))
