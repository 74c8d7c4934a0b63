/** Runs PTX text for sm_90a on the CPU, warp by warp: asynchronous copies and products take effect as late, as early or as randomly as the rules allow. */
import { COMPARE, FLOAT, INTEGER, OWN } from "./ptx-arithmetic.ts"
import { barrier, blockBarrier } from "./ptx-barrier.ts"
import { type Barrier, copyBox, factorAddress, type GlobalMemory, readMap } from "./ptx-memory.ts"
import { multiply, multiplyWarp } from "./ptx-multiply.ts"
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
  /** Bytes of a block's shared memory, where they are not all that Vulkan gives. */
  readonly shared?: number
}

/** Turns in which no warp gets on until a block counts as hanging. */
const IDLE = 20
export const LANES = 32
export const ALL = Array.from({ length: LANES }, (_, i) => i)
const word = new DataView(new ArrayBuffer(8))
export const bitsOf = (x: number): number => {
  word.setFloat32(0, x)
  return word.getUint32(0)
}
export const floatOf = (bits: number): number => {
  word.setUint32(0, bits)
  return word.getFloat32(0)
}
const toBf16 = (x: number): number => {
  const bits = bitsOf(x)
  return Number.isNaN(x) ? 0x7fff : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

export interface Warp {
  readonly number: number
  readonly words: Map<string, Uint32Array>
  readonly longs: Map<string, BigUint64Array>
  readonly pc: Int32Array
  /** Those that have not returned, and whether all are at one instruction. */
  lanes: readonly number[]
  isTogether: boolean
  /** Loads of matrices whose registers nobody has used yet. */
  loads: { readonly into: ReadonlySet<string>; readonly load: () => void }[]
  /** Products by group, the newest last; the last group is open. */
  products: (() => void)[][]
  isWaiting: boolean
  /** Asks again and again for what another block has to say. */
  isSpinning: boolean
}

const sharedBytes = ({ shared = 49152 }: PtxLaunch): number => shared

export class Block {
  readonly shared: DataView
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
    this.shared = new DataView(new ArrayBuffer(sharedBytes(launch) + 1024))
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
      isSpinning: false,
    }))
  }

  /** Shared memory was written by a copy. */
  wasWritten(): void {
    this.#factors.clear()
  }
  /** The second factor of a product, 16 of k for each column. */
  factor(descriptor: bigint, width: number, alongN: boolean): Float64Array {
    const key = `${descriptor} ${width} ${alongN}`
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
    for (let idle = 0; this.isRunning; ) {
      idle = this.turn() ? 0 : idle + 1
      if (idle > IDLE) throw new Error(`deadlock: ${this.where()}`)
    }
  }
  get isRunning(): boolean {
    if (this.warps.some(({ lanes }) => lanes.length > 0)) return true
    if (this.copies.length > 0) throw new Error("the block ended while copies were under way")
    return false
  }

  /** Lets every warp go on for a while; whether anything happened. */
  turn(): boolean {
    let moved = false
    const order = this.launch.timing === "early" ? this.warps : this.warps.toSorted(() => this.random() - 0.5)
    for (const warp of order) {
      const most = this.launch.timing === "random" ? 1 + Math.floor(this.random() * 400) : 4000
      warp.isWaiting = false
      for (let i = 0; i < most && warp.lanes.length > 0 && !warp.isWaiting; i++) {
        this.#step(warp)
        moved ||= !warp.isWaiting && !warp.isSpinning
      }
    }
    // Late copies come when nothing else can move; random ones also by themselves.
    const due = this.copies.filter(() => (this.launch.timing === "late" ? !moved : this.random() < 0.4))
    if (due.length > 0) {
      this.copies = this.copies.filter((copy) => !due.includes(copy))
      for (const copy of due) copy()
    }
    return moved || due.length > 0 || this.copies.length > 0
  }

  where(): string {
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
    if (op.startsWith("prefetch")) warp.isSpinning = false // what a warp slept for has come
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
export function read(b: Block, w: Warp, value: Value, lane: number): number {
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
export const readLong = (b: Block, w: Warp, value: Value, lane: number): bigint =>
  value.kind === "number" ? BigInt.asUintN(64, value.value) : b.long(w, (value as { name: string }).name)[lane]!
const readFloat = (b: Block, w: Warp, value: Value, lane: number): number => floatOf(read(b, w, value, lane))
export const nameOf = (value: Value | undefined): string => (value as { name: string }).name
export const listOf = (value: Value): readonly Value[] => (value.kind === "list" ? value.of : [value])

export function sharedAddress(b: Block, w: Warp, value: Value, lane: number): number {
  const { base, bytes } = value as Extract<Value, { kind: "address" }>
  const address = read(b, w, base, lane) + bytes
  if (address >= sharedBytes(b.launch)) throw new Error(`shared address ${address}`)
  return address
}
function globalAddress(b: Block, w: Warp, value: Value, lane: number): number {
  const { base, bytes } = value as Extract<Value, { kind: "address" }>
  return Number(readLong(b, w, base, lane)) + bytes
}
export function barrierAt(b: Block, w: Warp, value: Value, lane: number): Barrier {
  const address = sharedAddress(b, w, value, lane)
  const found = b.barriers.get(address)
  if (found === undefined) throw new Error(`no barrier at ${address}`)
  return found
}

function execute(b: Block, w: Warp, { op, parts, operands }: Instruction, lanes: readonly number[]): void {
  const [first, second, third, fourth] = operands as readonly [Value, Value, Value, Value]
  const [verb = ""] = parts
  if (w.loads.length > 0 && (verb === "mov" || verb === "xor") && operands.some((one) => w.loads.some(({ into }) => into.has(nameOf(one)))))
    for (const { load } of w.loads.splice(0)) load()
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
  } else if (op === "ld.shared.u64") {
    for (const lane of lanes) b.long(w, nameOf(first))[lane] = b.shared.getBigUint64(sharedAddress(b, w, second, lane), true)
  } else if (op === "ld.shared.u16") {
    for (const lane of lanes) b.word(w, nameOf(first))[lane] = b.shared.getUint16(sharedAddress(b, w, second, lane), true)
  } else if (/^(ld|st)(\.volatile)?\.shared/.test(op)) {
    const [registers, place] = verb === "ld" ? [listOf(first), second] : [listOf(second), first]
    for (const lane of lanes) {
      const address = sharedAddress(b, w, place, lane)
      if (address % (4 * registers.length) !== 0) throw new Error(`shared address ${address} is not aligned`)
      registers.forEach((register, i) => {
        if (verb === "st") b.shared.setUint32(address + 4 * i, read(b, w, register, lane), true)
        else b.word(w, nameOf(register))[lane] = b.shared.getUint32(address + 4 * i, true)
      })
    }
  } else if ((verb === "red" || verb === "atom") && parts[1] === "shared") {
    const [place, value] = verb === "red" ? [first, second] : [second, third]
    for (const lane of lanes) {
      const address = sharedAddress(b, w, place, lane)
      const before = b.shared.getUint32(address, true)
      if (verb === "atom") b.word(w, nameOf(first))[lane] = before
      b.shared.setUint32(address, before + read(b, w, value, lane), true)
    }
  } else if (verb === "red" || verb === "atom") {
    const [place, value] = verb === "red" ? [first, second] : [second, third]
    for (const lane of lanes) {
      const { view, offset } = b.launch.memory.at(globalAddress(b, w, place, lane), 4)
      const before = view.getUint32(offset, true)
      if (verb === "atom") b.word(w, nameOf(first))[lane] = before
      view.setUint32(offset, before + read(b, w, value, lane), true)
    }
  } else if (verb === "ld" && type === "u64") {
    for (const lane of lanes) {
      const { view, offset } = b.launch.memory.at(globalAddress(b, w, second, lane), 8)
      b.long(w, nameOf(first))[lane] = view.getBigUint64(offset, true)
    }
  } else if (verb === "mma") multiplyWarp(b, w, operands)
  else if (verb === "nanosleep") w.isSpinning = true
  else if (verb === "prefetch") {
    for (const lane of lanes) b.launch.memory.at(globalAddress(b, w, first, lane), 1)
  } else if (verb === "ld" || verb === "st") {
    const [registers, place] = verb === "ld" ? [listOf(first), second] : [listOf(second), first]
    const size = type === "u16" ? 2 : 4
    if (/volatile|acquire/.test(parts[1]!) && verb === "ld") w.isSpinning = true
    for (const lane of lanes) {
      const { view, offset } = b.launch.memory.at(globalAddress(b, w, place, lane), size * registers.length)
      registers.forEach((register, i) => {
        const at = offset + size * i
        if (verb === "st")
          size === 2 ? view.setUint16(at, read(b, w, register, lane), true) : view.setUint32(at, read(b, w, register, lane), true)
        else {
          const value = size === 2 ? view.getUint16(at, true) : view.getUint32(at, true)
          if (b.word(w, nameOf(register))[lane] !== value) w.isSpinning = false
          b.word(w, nameOf(register))[lane] = value
        }
      })
    }
  } else if (verb === "cvt" && op === "cvt.rn.bf16x2.f32") {
    for (const lane of lanes)
      b.word(w, nameOf(first))[lane] = ((toBf16(readFloat(b, w, second, lane)) << 16) | toBf16(readFloat(b, w, third, lane))) >>> 0
  } else if (op === "cvt.u64.u32") {
    for (const lane of lanes) b.long(w, nameOf(first))[lane] = BigInt(read(b, w, second, lane))
  } else if (op === "cvt.rn.f32.u32") {
    for (const lane of lanes) b.word(w, nameOf(first))[lane] = bitsOf(read(b, w, second, lane))
  } else if (/^cvt\.r[zp]i\.u32\.f32$/.test(op)) {
    for (const lane of lanes) {
      const value = readFloat(b, w, second, lane)
      const whole = parts[1] === "rzi" ? Math.trunc(value) : Math.ceil(value)
      b.word(w, nameOf(first))[lane] = Number.isNaN(value) ? 0 : Math.min(Math.max(whole, 0), 2 ** 32 - 1)
    }
  } else if (op === "mul.hi.u32") {
    for (const lane of lanes) {
      const product = BigInt(read(b, w, second, lane)) * BigInt(read(b, w, third, lane))
      b.word(w, nameOf(first))[lane] = Number(product >> 32n)
    }
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
    for (const lane of lanes) {
      const by = read(b, w, third, lane)
      const source = { bfly: lane ^ by, idx: by, up: lane < by ? lane : lane - by }[parts[2]!]!
      b.word(w, nameOf(first))[lane] = from[source]!
    }
  } else if (verb === "vote") {
    const any = ALL.some((lane) => read(b, w, second, lane) !== 0)
    for (const lane of lanes) b.word(w, nameOf(first))[lane] = any ? 1 : 0
  } else if (verb === "bar" && parts[1] === "sync") {
    blockBarrier(b, w, read(b, w, first, 0), second === undefined ? b.launch.threads : read(b, w, second, 0))
  } else if (op === "fence.proxy.async.shared::cta") {
    for (const { load } of w.loads.splice(0)) load()
  } else if (/^(bar|setmaxnreg|fence|wgmma|nanosleep)/.test(verb) && !/mma_async|wait_group|commit/.test(op)) {
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
  } else if (op.startsWith("cp.async.bulk.prefetch")) {
    for (const lane of lanes) {
      const address = globalAddress(b, w, first, lane)
      if (parts.includes("tensor")) readMap(b.launch.memory, address)
      else b.launch.memory.at(address + read(b, w, second, lane) - 16, 16)
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
    else w.loads.push({ into: new Set(listOf(first).map(nameOf)), load })
  } else if (op.startsWith("wgmma.mma_async")) multiply(b, w, operands)
  else if (op.startsWith("wgmma.commit")) w.products.push([])
  else if (op.startsWith("wgmma.wait_group")) {
    const pending = read(b, w, first, 0)
    for (const group of w.products.splice(0, Math.max(0, w.products.length - 1 - pending))) for (const product of group) product()
  } else {
    const isFloat = type === "f32"
    const compute = OWN[op] ?? (isFloat ? FLOAT : INTEGER)[verb]
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

/** Runs a launch, block after block, or all at once where they wait for each other. Throws where it would hang, stray, or leave lanes of a warp behind. */
export function runPtx(launch: PtxLaunch): void {
  const ptx = readPtx(launch.text)
  const [X, Y, Z] = launch.blocks
  const blockAt = (i: number) => new Block(ptx, launch, [i % X, Math.floor(i / X) % Y, Math.floor(i / (X * Y))])
  const count = X * Y * Z
  if (!/ld\.(volatile\.global|acquire)/.test(launch.text)) {
    for (let i = 0; i < count; i++) blockAt(i).run()
    return
  }
  let running = Array.from({ length: count }, (_, i) => blockAt(i))
  for (let turns = 0; running.length > 0; turns++) {
    for (const block of running) block.turn()
    running = running.filter((block) => block.isRunning)
    if (turns > MOST_TURNS) throw new Error(`deadlock: ${running.map((block) => block.where()).join("; ")}`)
  }
}
/** Turns of blocks that wait for each other; a spin is a turn. */
const MOST_TURNS = 1e5
