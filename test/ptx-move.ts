/** Loads, stores and copies of PTX: registers, shared and global memory. */
import type { Work } from "./ptx-compile.ts"
import { type Barrier, copyBox, readMap } from "./ptx-memory.ts"
import { ALL, LANES, listOf, nameOf, type Place, type Registers } from "./ptx-registers.ts"
import type { Block, Warp } from "./ptx-run.ts"
import type { Instruction, Value } from "./ptx-text.ts"

export function sharedAddress(b: Block, w: Warp, place: Place, lane: number): number {
  const address = w.words[place.at + lane]! + place.bytes
  if (address >= b.sharedBytes) throw new Error(`shared address ${address}`)
  return address
}
const globalAddress = ({ words }: Warp, { at, bytes }: Place, lane: number): number =>
  words[at + LANES + lane]! * 2 ** 32 + words[at + lane]! + bytes

export function barrierAt(b: Block, w: Warp, place: Place, lane: number): Barrier {
  const address = sharedAddress(b, w, place, lane)
  const found = b.barriers.get(address)
  if (found === undefined) throw new Error(`no barrier at ${address}`)
  return found
}

export function move(instruction: Instruction, r: Registers): Work {
  const { op, parts } = instruction
  const [verb] = parts
  if (verb === "ld" && parts[1] === "param") return loadParameter(instruction, r)
  if (verb === "red" || verb === "atom") return add(instruction, r)
  if (verb === "ldmatrix") return loadMatrices(instruction, r)
  if (verb === "cp" || verb === "prefetch") return copy(instruction, r)
  return /^(ld|st)(\.volatile)?\.shared/.test(op) ? sharedAccess(instruction, r) : globalAccess(instruction, r)
}

function loadParameter({ parts, operands }: Instruction, r: Registers): Work {
  const [first, second] = operands as readonly [Value, Value]
  const type = parts.at(-1)!
  const name = nameOf((second as { base: Value }).base)
  const to = type === "u64" ? r.long(first) : r.word(first)
  return (b, { words, floats }, lanes) => {
    const [number, float] = [b.launch.parameters[name], b.launch.floats?.[name]]
    const value = type === "u64" ? BigInt(number!) : 0n
    for (const lane of lanes) {
      if (type === "f32") floats[to + lane] = float!
      else if (type !== "u64") words[to + lane] = Number(number)
      else {
        words[to + lane] = Number(value & 0xffffffffn)
        words[to + LANES + lane] = Number(value >> 32n)
      }
    }
  }
}

function sharedAccess({ op, parts: [verb], operands }: Instruction, r: Registers): Work {
  const [first, second] = operands as readonly [Value, Value]
  if (op === "ld.shared.u64") {
    const [to, place] = [r.long(first), r.shared(second)]
    return (b, w, lanes) => {
      for (const lane of lanes) {
        const address = sharedAddress(b, w, place, lane)
        w.words[to + lane] = b.shared.getUint32(address, true)
        w.words[to + LANES + lane] = b.shared.getUint32(address + 4, true)
      }
    }
  }
  if (op === "ld.shared.u16") {
    const [to, place] = [r.word(first), r.shared(second)]
    return (b, w, lanes) => {
      for (const lane of lanes) w.words[to + lane] = b.shared.getUint16(sharedAddress(b, w, place, lane), true)
    }
  }
  const isLoad = verb === "ld"
  const registers = listOf(isLoad ? first : second).map((one) => r.word(one))
  const place = r.shared(isLoad ? second : first)
  const size = 4 * registers.length
  return (b, w, lanes) => {
    const { words } = w
    for (const lane of lanes) {
      let address = sharedAddress(b, w, place, lane)
      if (address % size !== 0) throw new Error(`shared address ${address} is not aligned`)
      for (const register of registers) {
        if (isLoad) words[register + lane] = b.shared.getUint32(address, true)
        else b.shared.setUint32(address, words[register + lane]!, true)
        address += 4
      }
    }
  }
}

function globalAccess({ parts, operands }: Instruction, r: Registers): Work {
  const [first, second] = operands as readonly [Value, Value]
  const isLoad = parts[0] === "ld"
  const type = parts.at(-1)!
  if (isLoad && type === "u64") {
    const [to, place] = [r.long(first), r.global(second)]
    return (b, w, lanes) => {
      for (const lane of lanes) {
        const { view, offset } = b.launch.memory.at(globalAddress(w, place, lane), 8)
        w.words[to + lane] = view.getUint32(offset, true)
        w.words[to + LANES + lane] = view.getUint32(offset + 4, true)
      }
    }
  }
  const registers = listOf(isLoad ? first : second).map((one) => r.word(one))
  const place = r.global(isLoad ? second : first)
  const isHalf = type === "u16"
  const size = isHalf ? 2 : 4
  const mayWait = isLoad && /volatile|acquire/.test(parts[1]!)
  return (b, w, lanes) => {
    const { words } = w
    if (mayWait) w.isSpinning = true
    for (const lane of lanes) {
      const { view, offset } = b.launch.memory.at(globalAddress(w, place, lane), size * registers.length)
      let at = offset
      for (const register of registers) {
        if (!isLoad && isHalf) view.setUint16(at, words[register + lane]!, true)
        else if (!isLoad) view.setUint32(at, words[register + lane]!, true)
        else {
          const value = isHalf ? view.getUint16(at, true) : view.getUint32(at, true)
          if (words[register + lane] !== value) w.isSpinning = false
          words[register + lane] = value
        }
        at += size
      }
    }
  }
}

/** Atomic sums of whole numbers. */
function add({ parts: [verb, space], operands }: Instruction, r: Registers): Work {
  const [first, second, third] = operands as readonly [Value, Value, Value]
  const isTold = verb === "atom"
  const to = isTold ? r.word(first) : undefined
  const [target, value] = isTold ? [second, r.word(third)] : [first, r.word(second)]
  const isShared = space === "shared"
  const place = isShared ? r.shared(target) : r.global(target)
  return (b, w, lanes) => {
    for (const lane of lanes) {
      const { view, offset } = isShared
        ? { view: b.shared, offset: sharedAddress(b, w, place, lane) }
        : b.launch.memory.at(globalAddress(w, place, lane), 4)
      const before = view.getUint32(offset, true)
      if (to !== undefined) w.words[to + lane] = before
      view.setUint32(offset, before + w.words[value + lane]!, true)
    }
  }
}

function copy({ op, parts, operands }: Instruction, r: Registers): Work {
  const [first, second, third, fourth] = operands as readonly [Value, Value, Value, Value]
  if (op.startsWith("cp.async.bulk.shared")) {
    const [to, from, bytes, done] = [r.shared(first), r.global(second), r.word(third), r.shared(fourth)]
    return (b, w, lanes) => {
      for (const lane of lanes)
        copyBytes(b, sharedAddress(b, w, to, lane), globalAddress(w, from, lane), w.words[bytes + lane]!, barrierAt(b, w, done, lane))
    }
  }
  if (!op.startsWith("cp.async.bulk.tensor")) {
    const place = r.global(first)
    const bytes = parts[0] === "prefetch" || parts.includes("tensor") ? undefined : r.word(second)
    return (b, w, lanes) => {
      for (const lane of lanes) {
        const address = globalAddress(w, place, lane)
        if (parts.includes("tensor")) readMap(b.launch.memory, address)
        else if (bytes === undefined) b.launch.memory.at(address, 1)
        else b.launch.memory.at(address + w.words[bytes + lane]! - 16, 16)
      }
    }
  }
  const [to, map, done] = [r.shared(first), r.global(second), r.shared(third)]
  const places = (second as Extract<Value, { kind: "address" }>).coordinates.flatMap(listOf).map((one) => r.word(one))
  return (b, w, lanes) => {
    for (const lane of lanes) {
      const [target, from, barrier] = [sharedAddress(b, w, to, lane), globalAddress(w, map, lane), barrierAt(b, w, done, lane)]
      const coordinates = places.map((place) => w.words[place + lane]!)
      later(b, () => barrier.complete(copyBox(b.launch.memory, readMap(b.launch.memory, from), coordinates, b.shared, target)))
    }
  }
}

function copyBytes(b: Block, to: number, from: number, bytes: number, done: Barrier): void {
  if (to % 16 !== 0 || bytes % 16 !== 0) throw new Error("a copy is not aligned")
  later(b, () => {
    for (let i = 0; i < bytes; i += 16) {
      const { view, offset } = b.launch.memory.at(from + i, 16)
      for (let j = 0; j < 16; j += 4) b.shared.setUint32(to + i + j, view.getUint32(offset + j, true), true)
    }
    done.complete(bytes)
  })
}

/** Does a copy to shared memory when it is due. */
function later(b: Block, copy: () => void): void {
  const due = () => {
    copy()
    b.wasWritten()
  }
  if (b.launch.timing === "early") due()
  else b.copies.push(due)
}

function loadMatrices({ parts, operands: [first, second] }: Instruction, r: Registers): Work {
  const isTransposed = parts.includes("trans")
  const place = r.shared(second!)
  const registers = listOf(first!).map((one) => r.word(one))
  const into = new Set(listOf(first!).map(nameOf))
  return (b, w) => {
    const rows = ALL.map((lane) => sharedAddress(b, w, place, lane))
    const load = () =>
      registers.forEach((to, matrix) => {
        const element = (row: number, column: number) => b.shared.getUint16(rows[8 * matrix + row]! + 2 * column, true)
        for (const lane of ALL) {
          const [row, pair] = [lane >> 2, 2 * (lane & 3)]
          w.words[to + lane] = isTransposed
            ? element(pair, row) | (element(pair + 1, row) << 16)
            : b.shared.getUint32(rows[8 * matrix + row]! + 2 * pair, true)
        }
      })
    if (rows.some((row) => row % 16 !== 0)) throw new Error("a row of a matrix is not aligned")
    if (b.launch.timing === "early") load()
    else w.loads.push({ into, load })
  }
}
