/** The Vulkan shim against a real driver: facts of the devices, memory, a copy on the timeline. */
import { type Pointer, toArrayBuffer } from "bun:ffi"
import { expect, test } from "bun:test"
import { AlphaError } from "../src/base-error.ts"
import { openVulkan, type VulkanInstance, vulkan, vulkanError } from "../src/native-vulkan.ts"
import { testWith } from "./require.ts"

const opened = openVulkan("libvulkan.so.1", false)
const missing = "reason" in opened ? opened.reason : opened.devices.length === 0 ? "the loader finds no driver" : undefined
const withVulkan = testWith("vulkan", missing)

test("a library that is not there is a reason, not an exception", () => {
  const none = openVulkan("libno-such-vulkan.so", false)
  expect("reason" in none && none.reason).toContain("libno-such-vulkan.so")
})

withVulkan("devices tell what alpha needs to know", () => {
  const [device] = (opened as VulkanInstance).devices
  expect(device?.name.length).toBeGreaterThan(0)
  expect(device?.uuid).toMatch(/^[0-9a-f]{32}$/)
  expect(device?.maxPushBytes).toBeGreaterThanOrEqual(128)
  expect(device?.subgroupSize).toBeGreaterThan(0)
  expect(device?.extensions.length).toBeGreaterThan(0)
})

withVulkan("fill, copy and wait on the timeline: the host reads what the device wrote", () => {
  const v = vulkan()
  const gpu = v.gpu_device((opened as VulkanInstance).handle, 0, new TextEncoder().encode("\0"), null, 0)
  if (gpu === null) throw vulkanError("")
  const [hostVisible, bytes] = [2 | 4, 1024]
  const buffers = [0, 1].map(() => {
    const out = new BigInt64Array(4)
    if (Number(v.gpu_buffer(gpu, bytes, hostVisible, 0, 0, out)) === 0) throw vulkanError("")
    return { handle: out[0] as bigint, memory: out[1] as bigint, mapped: Number(out[3]) }
  })
  const [from, to] = buffers as [(typeof buffers)[0], (typeof buffers)[0]]
  const commands = v.gpu_record(gpu)
  v.gpu_fill(gpu, commands, from.handle, 0, bytes, 0x12345678)
  v.gpu_barrier(gpu, commands)
  v.gpu_copy(gpu, commands, from.handle, 256, to.handle, 0, 512)
  v.gpu_barrier(gpu, commands)
  expect(Number(v.gpu_record_end(gpu, commands))).toBe(1)
  const twice = BigUint64Array.of(BigInt(commands as Pointer), BigInt(commands as Pointer)) // one recording, replayed
  for (const value of [1, 2]) expect(Number(v.gpu_submit(gpu, twice, value, value - 1, value))).toBe(1)
  expect(Number(v.gpu_wait(gpu, 2, 5e9))).toBe(1)
  expect(Number(v.gpu_reached(gpu))).toBe(2)
  const seen = new Uint32Array(toArrayBuffer(to.mapped as Pointer, 0, 512).slice(0))
  expect(seen.every((word) => word === 0x12345678)).toBe(true)
  v.gpu_record_free(gpu, commands)
  for (const b of buffers) v.gpu_buffer_free(gpu, b.handle, b.memory)
  v.gpu_device_close(gpu)
})

withVulkan("a failure is an AlphaError that names the call", () => {
  const v = vulkan()
  const gpu = v.gpu_device((opened as VulkanInstance).handle, 0, new TextEncoder().encode("VK_NO_such_extension\0"), null, 0)
  expect(gpu).toBeNull()
  const error = vulkanError("use another device")
  expect(error).toBeInstanceOf(AlphaError)
  expect(error.message).toContain("vkCreateDevice")
})
