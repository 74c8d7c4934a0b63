/** More shared memory than 48 KiB: the machine code says it, and a kernel tries whether it is there. */
import { expect, test } from "bun:test"
import { withRoom } from "../build-ptx-room.ts"
import { ptxRoom, ROOM } from "../shaders/ptx-room.ts"
import { dynamicBytes, MOST_DYNAMIC } from "../src/ptx.ts"
import { GlobalMemory } from "./ptx-memory.ts"
import { runPtx } from "./ptx-run.ts"

/** An ELF file of 64 bits with sections of these names and a segment for the last one. */
function elf(sections: readonly string[], memoryBytes: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(1024))
  const names = ["", ".shstrtab", ...sections]
  const text = new TextEncoder().encode(`${names.join("\0")}\0`)
  new Uint8Array(view.buffer).set(text, 600)
  view.setBigUint64(0x20, 500n, true)
  view.setBigUint64(0x28, 64n, true)
  ;[56, 1, 64, names.length, 1].forEach((value, i) => view.setUint16(0x36 + 2 * i, value, true))
  names.forEach((name, i) => {
    const row = 64 + 64 * i
    view.setUint32(row, new TextDecoder().decode(text).indexOf(`${name}\0`), true)
    view.setBigUint64(row + 0x18, BigInt(i === 1 ? 600 : 900), true)
    view.setBigUint64(row + 0x20, BigInt(i === names.length - 1 ? 1024 : 0), true)
  })
  view.setBigUint64(508, 900n, true)
  view.setBigUint64(540, BigInt(memoryBytes), true)
  return new Uint8Array(view.buffer)
}

test("machine code is told how much shared memory its kernel has: in the section's row and in the segment's", () => {
  const code = elf([".text.one", ".nv.shared.one"], 1024)
  const made = withRoom(code, "one", ROOM)
  const changed = [...made.keys()].filter((i) => made[i] !== code[i])
  const view = new DataView(made.buffer)
  expect([view.getBigUint64(64 + 3 * 64 + 0x20, true), view.getBigUint64(540, true)]).toEqual([BigInt(ROOM), BigInt(ROOM)])
  expect(changed.every((i) => (i >= 288 && i < 296) || (i >= 540 && i < 548))).toBe(true)
  expect(() => withRoom(code, "other", ROOM)).toThrow("other: its machine code has no shared memory of its own")
  expect(() => withRoom(elf([".nv.shared.one"], 2048), "one", ROOM)).toThrow("one: its machine code has no segment for its shared memory")
})

test("the kernel that tries it finds all words, and tells of memory that is not there", () => {
  const { text, threads, sharedBytes } = ptxRoom
  expect([dynamicBytes(ptxRoom), dynamicBytes({ sharedBytes: MOST_DYNAMIC })]).toEqual([0, MOST_DYNAMIC])
  expect(text).toContain(`// ${ROOM} bytes in the machine code\n.shared .align 1024 .b8 memory[1024];`)
  const memory = new GlobalMemory()
  const counts = new Uint32Array(threads).fill(7)
  const parameters = { wrong: memory.place(new Uint8Array(counts.buffer)) }
  const run = (shared: number) => runPtx({ text, threads, blocks: [1, 1, 1], parameters, memory, timing: "late", shared })
  run(sharedBytes)
  expect(counts.every((count) => count === 0)).toBe(true)
  expect(() => run(MOST_DYNAMIC)).toThrow("shared address")
})
