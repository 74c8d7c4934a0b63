/** What it costs to hand work over between Vulkan and CUDA by a timeline semaphore that both have. */
import { type Driver, LOCAL } from "../src/gpu-driver.ts"
import { vulkan } from "../src/native-vulkan.ts"
import { cellBytes, ptxKernel } from "../src/ptx.ts"
import { u32, write } from "../src/spirv.ts"
import type { Cuda } from "./libcuda-driver.ts"

/** Microseconds of a turn Vulkan → CUDA → Vulkan, each with a little work, many queued in a row. */
export function handOver(cuda: Cuda, driver: Driver, turns: number): string {
  const kernel = ptxKernel({
    name: "one_word",
    about: "a word is written",
    threads: 32,
    sharedBytes: 0,
    buffers: { to: write(u32) },
    body(k, { to }) {
      k.store("u32", to, 0, [k.variable("u32", 1)])
      k.emit("ret")
    },
  })
  const cells = cellBytes(kernel.cells, { to: cuda.words([0n]) })
  const { launch } = cuda.prepare(cuda.load(kernel.text, kernel.name, 0), { blocks: 1, threads: 32, sharedBytes: 0, cluster: 1, cells })
  const word = driver.buffer(256, LOCAL, 0, "a word")
  const v = vulkan()
  const commands = driver.record((to) => v.gpu_fill(driver.gpu, to, word.handle, 0, 256, 1))
  const { fd, step } = driver.sharedSemaphore()
  const cudaStep = cuda.semaphore(fd)
  let value = 0
  const microseconds = (hands: boolean): number => {
    const start = performance.now()
    for (let i = 0; i < turns; i++) {
      driver.submit(commands)
      if (hands) {
        step(++value, true)
        cudaStep(value, false)
      }
      launch()
      if (hands) {
        cudaStep(++value, true)
        step(value, false)
      }
    }
    driver.submit(commands)
    driver.idle("turns")
    cuda.wait()
    return (1e3 * (performance.now() - start)) / turns
  }
  const taken = [true, false, true, false, true, false].map((hands) => microseconds(hands).toFixed(1))
  return `a turn Vulkan, CUDA, Vulkan: ${[0, 2, 4].map((i) => taken[i]).join(", ")} µs; both without waiting for each other: ${[1, 3, 5].map((i) => taken[i]).join(", ")} µs`
}
