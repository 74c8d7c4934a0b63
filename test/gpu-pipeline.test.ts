/** Pipelines on a real driver: machine code that it refuses is given to it as text, once and for all. */
import { expect } from "bun:test"
import { Driver } from "../src/gpu-driver.ts"
import { findGpus, targetOf } from "../src/gpu-info.ts"
import { Pipelines } from "../src/gpu-pipeline.ts"
import type { Launch } from "../src/program.ts"
import { ptxEntry, ptxKernel } from "../src/ptx.ts"
import { f32, write } from "../src/spirv.ts"
import { testWith } from "./require.ts"

const [info] = findGpus().usable
const withGpu = testWith("vulkan", info === undefined ? "no usable Vulkan device" : undefined)

withGpu("a driver that refuses machine code is given the text", () => {
  const kernel = ptxKernel({
    name: "none",
    about: "nothing",
    threads: 32,
    sharedBytes: 0,
    buffers: { y: write(f32) },
    body: (k) => k.emit("ret"),
  })
  const launch = { kernel, variant: "none", constants: {} } as unknown as Launch
  const driver = new Driver(info as NonNullable<typeof info>, undefined)
  const asked: string[] = []
  const pipelines = new Pipelines(driver, targetOf(driver.info.facts), undefined, (one) => {
    asked.push(one.name)
    return { ...ptxEntry(one), code: new TextEncoder().encode("\x7fELF, no more") }
  })
  try {
    // A driver without PTX refuses the text as well; one that has it takes that.
    const isThere = driver.info.facts.extensions.includes("VK_NVX_binary_import")
    const layers = [launch, launch]
    if (isThere) pipelines.prepare(layers)
    else expect(() => pipelines.prepare(layers)).toThrow(/refuses kernel none \(VkResult -\d+\)/)
    expect(pipelines.codeRefusal).toMatch(/^VkResult -\d+$/)
    expect(asked).toEqual(["none", "none"])
  } finally {
    pipelines.close()
    driver.close()
  }
})
