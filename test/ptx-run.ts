/** Runs PTX text for sm_90a on the CPU, warp by warp: asynchronous copies and products take effect as late, as early or as randomly as the rules allow. */
import { Barrier, copyBox, factorAddress, type GlobalMemory, readMap } from "./ptx-memory.ts"
import { type Instruction, type PtxText, readPtx, type Value } from "./ptx-text.ts"

/** When copies arrive and products are summed: at once, at random, or only when somebody waits for them. */
export type Timing = "early" | "random" | "late"

export interface PtxLaunch {
  readonly text: string
  readonly threads: number
  /** Along x, y, z. */
  readonly blocks: readonly [number, number, number]
  readonly parameters: Readonly<Record<string, number | bigint>>
  readonly floats?: Readonly<Record<string, number>>
  readonly memory: GlobalMemory
  readonly timing: Timing
  readonly seed?: number
}

const LANES = 32
const ALL = Array.from({ length: LANES }, (_, i) => i)
const word = new DataView(new ArrayBuffer(8))
const bitsOf = (x: number): number => {
  word.setFloat32(0, x)
  return word.getUint32(0)
}
const floatOf = (bits: number): number => {
  word.setUint32(0, bits)
  return word.getFloat32(0)
}
const toBf16 = (x: number): number => {
  const bits = bitsOf(x)
  return Number.isNaN(x) ? 0x7fff : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

interface Warp {
  readonly number: number
  readonly words: Map<string, Uint32Array>
  readonly longs: Map<string, BigUint64Array>
  readonly pc: Int32Array
  /** Those that have not returned, and whether all are at one instruction. */
  lanes: readonly number[]
  isTogether: boolean
  /** Loads of matrices whose registers nobody has used yet. */
  loads: (() => void)[]
  /** Products by group, the newest last; the last group is open. */
  products: (() => void)[][]
  isWaiting: boolean
}

class Block {
  readonly shared = new DataView(new ArrayBuffer(49152 + 1024))
  readonly barriers = new Map<number, Barrier>()
  copies: (() => void)[] = []
  readonly warps: Warp[]
  readonly arrived = new Map<string, Set<number>>()
  #random: number
  readonly #factors = new Map<string, Float64Array>()

  constructor(
    readonly ptx: PtxText,
    readonly launch: PtxLaunch,
    readonly block: readonly [number, number, number],
  ) {
    this.#random = (launch.seed ?? 1) + block[0] + 97 * block[1] + 389 * block[2]
    for (let i = 0; i < this.shared.byteLength; i += 2) this.shared.setUint16(i, 0x7fc0, true)
    this.warps = Array.from({ length: launch.threads / LANES }, (_, number) => ({
      number,
      words: new Map(),
      longs: new Map(),
      pc: new Int32Array(LANES),
      lanes: ALL,
      isTogether: true,
      loads: [],
      products: [[]],
      isWaiting: false,
    }))
  }

  /** Shared memory was written by a copy. */
  wasWritten(): void {
    this.#factors.clear()
  }
  /** The second factor of a product, 16 of k for each column. */
  factor(descriptor: bigint, width: number, alongN: boolean): Float64Array {
    const key = `${descriptor} ${alongN}`
    const known = this.#factors.get(key)
    if (known !== undefined) return known
    const address = factorAddress(descriptor, alongN)
    const made = new Float64Array(16 * width)
    for (let i = 0; i < made.length; i++) made[i] = floatOf(this.shared.getUint16(address(i & 15, i >> 4), true) << 16)
    this.#factors.set(key, made)
    return made
  }

  random(): number {
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0
    return this.#random / 2 ** 32
  }

  run(): void {
    for (let idle = 0; this.warps.some(({ lanes }) => lanes.length > 0); ) {
      let moved = false
      const order = this.launch.timing === "early" ? this.warps : this.warps.toSorted(() => this.random() - 0.5)
      for (const warp of order) {
        const most = this.launch.timing === "random" ? 1 + Math.floor(this.random() * 400) : 4000
        warp.isWaiting = false
        for (let i = 0; i < most && warp.lanes.length > 0 && !warp.isWaiting; i++) {
          this.#step(warp)
          moved ||= !warp.isWaiting
        }
      }
      // Late copies come when nothing else can move; random ones also by themselves.
      const due = this.copies.filter(() => (this.launch.timing === "late" ? !moved : this.random() < 0.4))
      if (due.length > 0) {
        this.copies = this.copies.filter((copy) => !due.includes(copy))
        for (const copy of due) copy()
      }
      idle = moved || due.length > 0 || this.copies.length > 0 ? 0 : idle + 1
      if (idle > 2) throw new Error(`deadlock: ${this.#where()}`)
    }
    if (this.copies.length > 0) throw new Error("the block ended while copies were under way")
  }

  #where(): string {
    const at = ({ lanes, pc }: Warp) => this.ptx.instructions[Math.min(...lanes.map((lane) => pc[lane]!))]?.line
    return this.warps.flatMap((warp) => (warp.lanes.length === 0 ? [] : [`warp ${warp.number} at ${at(warp)}`])).join("; ")
  }

  #step(warp: Warp): void {
    const { lanes } = warp
    let pc = warp.pc[lanes[0]!]!
    let here = lanes
    if (!warp.isTogether) {
      for (const lane of lanes) pc = Math.min(pc, warp.pc[lane]!)
      here = lanes.filter((lane) => warp.pc[lane] === pc)
      if (here.length === lanes.length) warp.isTogether = true
    }
    const instruction = this.ptx.instructions[pc]
    if (instruction === undefined) throw new Error("ran past the end")
    const { guard, op } = instruction
    const condition = guard === undefined ? undefined : this.word(warp, guard.name)
    const active = condition === undefined ? here : here.filter((lane) => (condition[lane] !== 0) === guard!.holds)
    if (op.startsWith("bra")) {
      const target = this.ptx.labels.get((instruction.operands[0] as { name: string }).name)!
      for (const lane of here) warp.pc[lane] = pc + 1
      for (const lane of active) warp.pc[lane] = target
      if (active.length > 0 && active.length < here.length) warp.isTogether = false
      return
    }
    if (op === "ret") {
      for (const lane of here) warp.pc[lane] = pc + 1
      warp.lanes = lanes.filter((lane) => !active.includes(lane))
      return
    }
    if (instruction.isAligned && active.length !== lanes.length)
      throw new Error(`only ${active.length} of ${lanes.length} lanes come to ${instruction.line}`)
    try {
      if (active.length > 0) execute(this, warp, instruction, active)
    } catch (error) {
      throw new Error(`warp ${warp.number}, ${instruction.line}: ${(error as Error).message}`)
    }
    if (!warp.isWaiting) for (const lane of here) warp.pc[lane] = pc + 1
  }

  word(warp: Warp, name: string): Uint32Array {
    const known = warp.words.get(name) ?? new Uint32Array(LANES)
    warp.words.set(name, known)
    return known
  }
  long(warp: Warp, name: string): BigUint64Array {
    const known = warp.longs.get(name) ?? new BigUint64Array(LANES)
    warp.longs.set(name, known)
    return known
  }
}

/** 32-bit value of an operand in a lane. */
function read(b: Block, w: Warp, value: Value, lane: number): number {
  if (value.kind === "register") return b.word(w, value.name)[lane]!
  if (value.kind === "number") return Number(BigInt.asUintN(32, value.value))
  if (value.kind === "float") return value.bits
  if (value.kind === "name") {
    const special: Record<string, number> = {
      "%tid.x": 32 * w.number + lane,
      "%ctaid.x": b.block[0],
      "%ctaid.y": b.block[1],
      "%ctaid.z": b.block[2],
      "%nctaid.x": b.launch.blocks[0],
      sm: 0,
      memory: 0,
    }
    const found = special[value.name]
    if (found !== undefined) return found
  }
  throw new Error(`cannot read ${JSON.stringify(value)}`)
}
const readLong = (b: Block, w: Warp, value: Value, lane: number): bigint =>
  value.kind === "number" ? BigInt.asUintN(64, value.value) : b.long(w, (value as { name: string }).name)[lane]!
const readFloat = (b: Block, w: Warp, value: Value, lane: number): number => floatOf(read(b, w, value, lane))
const nameOf = (value: Value | undefined): string => (value as { name: string }).name
const listOf = (value: Value): readonly Value[] => (value.kind === "list" ? value.of : [value])

function sharedAddress(b: Block, w: Warp, value: Value, lane: number): number {
  const { base, bytes } = value as Extract<Value, { kind: "address" }>
  const address = read(b, w, base, lane) + bytes
  if (address >= 49152) throw new Error(`shared address ${address}`)
  return address
}
function globalAddress(b: Block, w: Warp, value: Value, lane: number): number {
  const { base, bytes } = value as Extract<Value, { kind: "address" }>
  return Number(readLong(b, w, base, lane)) + bytes
}
function barrierAt(b: Block, w: Warp, value: Value, lane: number): Barrier {
  const address = sharedAddress(b, w, value, lane)
  const found = b.barriers.get(address)
  if (found === undefined) throw new Error(`no barrier at ${address}`)
  return found
}

const INTEGER: Record<string, (a: number, b: number, c: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => Math.imul(a, b),
  mad: (a, b, c) => Math.imul(a, b) + c,
  div: (a, b) => Math.floor(a / b),
  rem: (a, b) => a % b,
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  shl: (a, b) => a << b,
  shr: (a, b) => a >>> b,
  mov: (a) => a,
  not: (a) => (a === 0 ? 1 : 0), // of truth values
}
const FLOAT: Record<string, (a: number, b: number, c: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  fma: (a, b, c) => a * b + c,
  max: (a, b) => Math.max(a, b),
  min: (a, b) => Math.min(a, b),
  abs: (a) => Math.abs(a),
  ex2: (a) => 2 ** a,
  lg2: (a) => Math.log2(a),
  rcp: (a) => 1 / a,
  mov: (a) => a,
}
const COMPARE: Record<string, (a: number | bigint, b: number | bigint) => boolean> = {
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
}

function execute(b: Block, w: Warp, { op, parts, operands }: Instruction, lanes: readonly number[]): void {
  const [first, second, third, fourth] = operands as readonly [Value, Value, Value, Value]
  const [verb = ""] = parts
  const type = parts.at(-1)!
  if (verb === "setp") {
    const to = b.word(w, nameOf(first))
    const of = /64$/.test(type) ? readLong : type === "f32" ? readFloat : read
    const sign = type === "s32" ? (x: number | bigint) => Number(x) | 0 : (x: number | bigint) => x
    for (const lane of lanes) to[lane] = COMPARE[parts[1]!]!(sign(of(b, w, second, lane)), sign(of(b, w, third, lane))) ? 1 : 0
  } else if (verb === "selp") {
    for (const lane of lanes) {
      const chosen = read(b, w, fourth, lane) !== 0 ? second : third
      if (type === "b64") b.long(w, nameOf(first))[lane] = readLong(b, w, chosen, lane)
      else b.word(w, nameOf(first))[lane] = read(b, w, chosen, lane)
    }
  } else if (verb === "ld" && parts[1] === "param") {
    const name = nameOf((second as { base: Value }).base)
    const [number, float] = [b.launch.parameters[name], b.launch.floats?.[name]]
    for (const lane of lanes) {
      if (type === "u64") b.long(w, nameOf(first))[lane] = BigInt(number!)
      else b.word(w, nameOf(first))[lane] = type === "f32" ? bitsOf(float!) : Number(number)
    }
  } else if (op.startsWith("ld.shared")) {
    for (const lane of lanes) {
      const address = sharedAddress(b, w, second, lane)
      const registers = listOf(first)
      if (address % (4 * registers.length) !== 0) throw new Error(`shared address ${address} is not aligned`)
      registers.forEach((register, i) => {
        b.word(w, nameOf(register))[lane] = b.shared.getUint32(address + 4 * i, true)
      })
    }
  } else if (verb === "ld" || verb === "st") {
    const [registers, place] = verb === "ld" ? [listOf(first), second] : [listOf(second), first]
    const size = type === "u16" ? 2 : 4
    for (const lane of lanes) {
      const { view, offset } = b.launch.memory.at(globalAddress(b, w, place, lane), size * registers.length)
      registers.forEach((register, i) => {
        const at = offset + size * i
        if (verb === "st")
          size === 2 ? view.setUint16(at, read(b, w, register, lane), true) : view.setUint32(at, read(b, w, register, lane), true)
        else b.word(w, nameOf(register))[lane] = size === 2 ? view.getUint16(at, true) : view.getUint32(at, true)
      })
    }
  } else if (verb === "cvt" && op === "cvt.rn.bf16x2.f32") {
    for (const lane of lanes)
      b.word(w, nameOf(first))[lane] = ((toBf16(readFloat(b, w, second, lane)) << 16) | toBf16(readFloat(b, w, third, lane))) >>> 0
  } else if (op === "cvt.u64.u32") {
    for (const lane of lanes) b.long(w, nameOf(first))[lane] = BigInt(read(b, w, second, lane))
  } else if (op === "mad.wide.u32" || op === "mul.wide.u32") {
    for (const lane of lanes) {
      const product = BigInt(read(b, w, second, lane)) * BigInt(read(b, w, third, lane))
      b.long(w, nameOf(first))[lane] = product + (op.startsWith("mad") ? readLong(b, w, fourth, lane) : 0n)
    }
  } else if (/64$/.test(type) && !verb.startsWith("mbarrier") && !verb.startsWith("fence")) {
    for (const lane of lanes) {
      const [x, y] = [
        readLong(b, w, second, lane),
        third === undefined ? 0n : verb === "shl" || verb === "shr" ? BigInt(read(b, w, third, lane)) : readLong(b, w, third, lane),
      ]
      const value = {
        mov: x,
        add: x + y,
        sub: x - y,
        mad: fourth === undefined ? 0n : x * y + readLong(b, w, fourth, lane),
        or: x | y,
        shl: x << (y & 63n),
        shr: x >> (y & 63n),
      }[verb]
      if (value === undefined) throw new Error("unknown instruction")
      b.long(w, nameOf(first))[lane] = BigInt.asUintN(64, value)
    }
  } else if (verb === "shfl") {
    const from = Uint32Array.from(ALL, (lane) => read(b, w, second, lane))
    for (const lane of lanes)
      b.word(w, nameOf(first))[lane] = from[parts[2] === "bfly" ? lane ^ read(b, w, third, lane) : read(b, w, third, lane)]!
  } else if (verb === "vote") {
    const any = ALL.some((lane) => read(b, w, second, lane) !== 0)
    for (const lane of lanes) b.word(w, nameOf(first))[lane] = any ? 1 : 0
  } else if (verb === "bar" && parts[1] === "sync") {
    blockBarrier(b, w, read(b, w, first, 0), second === undefined ? b.launch.threads : read(b, w, second, 0))
  } else if (op === "fence.proxy.async.shared::cta") {
    for (const load of w.loads.splice(0)) load()
  } else if (/^(bar|setmaxnreg|fence|wgmma)/.test(verb) && !/mma_async|wait_group|commit/.test(op)) {
    // order and budgets: nothing to compute
  } else if (verb === "mbarrier") barrier(b, w, op, operands, lanes)
  else if (op.startsWith("cp.async.bulk.shared")) {
    for (const lane of lanes) {
      const [to, from, bytes] = [sharedAddress(b, w, first, lane), globalAddress(b, w, second, lane), read(b, w, third, lane)]
      const done = barrierAt(b, w, fourth, lane)
      if (to % 16 !== 0 || bytes % 16 !== 0) throw new Error("a copy is not aligned")
      later(b, () => {
        for (let i = 0; i < bytes; i += 16) {
          const { view, offset } = b.launch.memory.at(from + i, 16)
          for (let j = 0; j < 16; j += 4) b.shared.setUint32(to + i + j, view.getUint32(offset + j, true), true)
        }
        done.complete(bytes)
      })
    }
  } else if (verb === "cp") {
    for (const lane of lanes) {
      const [to, map, done] = [sharedAddress(b, w, first, lane), globalAddress(b, w, second, lane), barrierAt(b, w, third, lane)]
      const coordinates = (second as Extract<Value, { kind: "address" }>).coordinates.flatMap(listOf).map((one) => read(b, w, one, lane))
      later(b, () => done.complete(copyBox(b.launch.memory, readMap(b.launch.memory, map), coordinates, b.shared, to)))
    }
  } else if (verb === "ldmatrix") {
    const isTransposed = parts.includes("trans")
    const rows = ALL.map((lane) => sharedAddress(b, w, second, lane))
    const load = () =>
      listOf(first).forEach((register, matrix) => {
        const to = b.word(w, nameOf(register))
        const element = (row: number, column: number) => b.shared.getUint16(rows[8 * matrix + row]! + 2 * column, true)
        for (const lane of ALL) {
          const [row, pair] = [lane >> 2, 2 * (lane & 3)]
          to[lane] = isTransposed
            ? element(pair, row) | (element(pair + 1, row) << 16)
            : element(row, pair) | (element(row, pair + 1) << 16)
        }
      })
    if (rows.some((row) => row % 16 !== 0)) throw new Error("a row of a matrix is not aligned")
    if (b.launch.timing === "early") load()
    else w.loads.push(load)
  } else if (op.startsWith("wgmma.mma_async")) multiply(b, w, operands)
  else if (op.startsWith("wgmma.commit")) w.products.push([])
  else if (op.startsWith("wgmma.wait_group")) {
    const pending = read(b, w, first, 0)
    for (const group of w.products.splice(0, Math.max(0, w.products.length - 1 - pending))) for (const product of group) product()
  } else {
    const isFloat = type === "f32"
    const compute = (isFloat ? FLOAT : INTEGER)[verb]
    if (compute === undefined) throw new Error("unknown instruction")
    const to = b.word(w, nameOf(first))
    const of = isFloat ? readFloat : read
    for (const lane of lanes) {
      const value = compute(
        of(b, w, second, lane),
        third === undefined ? 0 : of(b, w, third, lane),
        fourth === undefined ? 0 : of(b, w, fourth, lane),
      )
      to[lane] = isFloat ? bitsOf(value) : value
    }
  }
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

function blockBarrier(b: Block, w: Warp, id: number, threads: number): void {
  const key = `${id}`
  const arrived = b.arrived.get(key) ?? new Set()
  b.arrived.set(key, arrived)
  if (arrived.has(-1 - w.number)) {
    arrived.delete(-1 - w.number) // released
    return
  }
  arrived.add(w.number)
  if ([...arrived].filter((one) => one >= 0).length * LANES < threads) {
    w.isWaiting = true
    return
  }
  for (const one of [...arrived]) {
    if (one < 0) continue
    arrived.delete(one)
    if (one !== w.number) arrived.add(-1 - one)
  }
}

function barrier(b: Block, w: Warp, op: string, operands: readonly Value[], lanes: readonly number[]): void {
  for (const lane of lanes) {
    if (op.startsWith("mbarrier.init")) b.barriers.set(sharedAddress(b, w, operands[0]!, lane), new Barrier(read(b, w, operands[1]!, lane)))
    else if (op.includes("expect_tx")) barrierAt(b, w, operands[1]!, lane).arrive(read(b, w, operands[2]!, lane))
    else if (op.startsWith("mbarrier.arrive")) barrierAt(b, w, operands[1]!, lane).arrive()
    else {
      const isOver = barrierAt(b, w, operands[1]!, lane).isOver(read(b, w, operands[2]!, lane))
      b.word(w, nameOf(operands[0]))[lane] = isOver ? 1 : 0
      if (!isOver) w.isWaiting = true
    }
  }
}

/** 16 rows of a product of 64 × N × 16: those of this warp. */
function multiply(b: Block, w: Warp, [sum, a, descriptor, adds, , , along]: readonly Value[]): void {
  for (const load of w.loads.splice(0)) load()
  const registers = listOf(sum!).map((one) => b.word(w, nameOf(one)))
  const left = listOf(a!).map((one) => b.word(w, nameOf(one)))
  const place = readLong(b, w, descriptor!, 0)
  const isSum = read(b, w, adds!, 0) !== 0
  const alongN = Number((along as { value: bigint }).value) !== 0
  const width = registers.length * 2
  const product = () => {
    const right = b.factor(place, width, alongN)
    const values = new Float64Array(16)
    for (let row = 0; row < 16; row++) {
      for (let k = 0; k < 16; k++) {
        const pair = left[(row >> 3) + 2 * (k >> 3)]![4 * (row & 7) + ((k & 7) >> 1)]!
        values[k] = floatOf(k & 1 ? pair & 0xffff0000 : pair << 16)
      }
      for (let n = 0; n < width; n++) {
        const to = registers[4 * (n >> 3) + 2 * (row >> 3) + (n & 1)]!
        const lane = 4 * (row & 7) + ((n & 7) >> 1)
        let total = isSum ? floatOf(to[lane]!) : 0
        for (let k = 0; k < 16; k++) total += values[k]! * right[16 * n + k]!
        to[lane] = bitsOf(total)
      }
    }
  }
  const isNow =
    b.launch.timing === "early" || (b.launch.timing === "random" && b.random() < 0.5 && w.products.every((group) => group.length === 0))
  if (isNow) product()
  else w.products.at(-1)!.push(product)
}

/** Runs a launch, block after block. Throws where it would hang, stray, or leave lanes of a warp behind. */
export function runPtx(launch: PtxLaunch): void {
  const ptx = readPtx(launch.text)
  const [X, Y, Z] = launch.blocks
  for (let z = 0; z < Z; z++) for (let y = 0; y < Y; y++) for (let x = 0; x < X; x++) new Block(ptx, launch, [x, y, z]).run()
}
