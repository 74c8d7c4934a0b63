/** Device memory in pieces: those of a program's states lie side by side, in buffers that go with their last piece. */
import { expect, test } from "bun:test"
import type { DeviceBuffer, Driver } from "../src/gpu-driver.ts"
import { GpuMemory } from "../src/gpu-memory.ts"

const MIB = 2 ** 20

/** A driver whose buffers are numbers. */
function counted() {
  const live = new Map<number, number>()
  let next = MIB
  const driver = {
    buffer(bytes: number) {
      const address = next
      next += bytes + MIB
      live.set(address, bytes)
      return { address, bytes, free: () => live.delete(address) } as unknown as DeviceBuffer
    },
  } as unknown as Driver
  const total = () => [...live.values()].reduce((sum, bytes) => sum + bytes, 0)
  return { memory: new GpuMemory(driver), total }
}

test("large pieces that are asked for together have no gaps between them and no piece in common", () => {
  const { memory, total } = counted()
  const sizes = Array.from({ length: 60 }, (_, i) => [25 * MIB, 5000, 19 * MIB + 256, 6 * MIB, 300 * MIB][i % 5] as number)
  const pieces = memory.allocateAll(sizes.map((bytes) => ({ bytes, what: "a state" })))
  const places = pieces.map(({ address, bytes }) => [address, address + bytes] as const).sort((a, b) => a[0] - b[0])
  expect(pieces.every(({ bytes }, i) => bytes >= (sizes[i] as number))).toBe(true)
  expect(places.slice(1).every(([from], i) => from >= (places[i] as readonly [number, number])[1])).toBe(true)
  const large = sizes.filter((bytes) => bytes >= MIB).reduce((sum, bytes) => sum + bytes, 0)
  expect(total() - large).toBeLessThanOrEqual(32 * MIB) // the slab of the small ones
})

test("a buffer of several pieces is given back with the last of them, once", () => {
  const { memory, total } = counted()
  const pieces = memory.allocateAll([4, 3, 2].map((size) => ({ bytes: size * MIB, what: "a state" })))
  expect(total()).toBe(9 * MIB)
  for (const piece of pieces.slice(0, 2)) for (let i = 0; i < 2; i++) piece.free()
  expect(total()).toBe(9 * MIB)
  pieces[2]!.free()
  expect(total()).toBe(0)
  pieces[0]!.free()
  const alone = memory.allocateAll([{ bytes: 20 * MIB, what: "a state" }])
  expect(total()).toBe(20 * MIB)
  alone[0]!.free()
  expect(total()).toBe(0)
})
