/** Names of devices: what opens, what is refused and how. */
import { expect, test } from "bun:test"
import { deviceNames, openDevice } from "../src/device.ts"
import { gpus } from "../src/gpu.ts"

test("cpu opens, and leaves no choice to tell", () => {
  const { device, choice } = openDevice("cpu", 1)
  expect([device.name, choice, device.ahead]).toEqual(["cpu", undefined, 0])
})

test("auto says once what it took and why", () => {
  const { device, choice } = openDevice("auto", 1)
  const hasGpu = gpus().some(({ isSoftware }) => !isSoftware)
  expect(device.name.startsWith(hasGpu ? "gpu" : "cpu")).toBe(true)
  expect(choice).toMatch(hasGpu ? /^device auto: gpu:\d+ \(/ : /^device auto: cpu \(no GPU: .+\)$/)
  device.close()
})

test("a Vulkan driver that runs on the CPU is no device of its own accord", () => {
  const hardware = gpus().filter(({ isSoftware }) => !isSoftware).length
  expect(deviceNames().length).toBe(1 + hardware)
})

test("what there is not is refused by name, with what there is", () => {
  expect(() => openDevice("gpu:77", undefined)).toThrow(
    /^device gpu:77: (there is one: gpu:0 \(|there are [0-9]+: gpu:0 \(|no usable Vulkan device)/,
  )
  expect(() => openDevice("gpu:0123456789abcdef", undefined)).toThrow("device gpu:0123456789abcdef: ")
  expect(() => openDevice("cuda", undefined)).toThrow("device cuda: expected cpu, gpu, gpu:N, gpu:UUID or auto")
})
