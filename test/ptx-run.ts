/** Runs PTX text for sm_90a on the CPU, warp by warp: asynchronous copies and products take effect as late, as early or as randomly as the rules allow. */
import { type Program, programOf } from "./ptx-compile.ts"
import { type Barrier, factorAddress, type GlobalMemory } from "./ptx-memory.ts"
import { ALL, LANES } from "./ptx-registers.ts"

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
/** Instructions that one of a warp that asks again and again counts for: others may have the answer. */
const SPIN = 40
export interface Warp {
  readonly number: number
  /** Registers and constants, where the program's `registers` say; and the same memory as floats. */
  readonly words: Uint32Array
  readonly floats: Float32Array
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

export class Block {
  readonly shared: DataView
  readonly sharedBytes: number
  readonly barriers = new Map<number, Barrier>()
  copies: (() => void)[] = []
  readonly warps: Warp[]
  readonly arrived = new Map<string, Set<number>>()
  #random: number
  readonly #factors = new Map<string, Float32Array>()

  constructor(
    readonly program: Program,
    readonly launch: PtxLaunch,
    readonly block: readonly [number, number, number],
  ) {
    this.sharedBytes = launch.shared ?? 49152
    this.shared = new DataView(new Uint16Array((this.sharedBytes + 1024) / 2).fill(0x7fc0).buffer)
    this.#random = (launch.seed ?? 1) + block[0] + 97 * block[1] + 389 * block[2]
    const values: Record<string, number> = {
      ...{ "%ctaid.x": block[0], "%ctaid.y": block[1], "%ctaid.z": block[2], "%nctaid.x": launch.blocks[0] },
      ...{ sm: 0, memory: 0 },
    }
    this.warps = Array.from({ length: launch.threads / LANES }, (_, number) => {
      const words = program.registers.fresh((name, lane) => (name === "%tid.x" ? LANES * number + lane : values[name]))
      return {
        ...{ number, words, floats: new Float32Array(words.buffer), pc: new Int32Array(LANES), lanes: ALL, isTogether: true },
        ...{ loads: [], products: [[]], isWaiting: false, isSpinning: false },
      }
    })
  }

  /** Shared memory was written by a copy. */
  wasWritten(): void {
    this.#factors.clear()
  }
  /** The second factor of a product, 16 of k for each column; its descriptor in two words. */
  factor(low: number, high: number, width: number, alongN: boolean): Float32Array {
    const key = `${low} ${high} ${width} ${alongN}`
    const known = this.#factors.get(key)
    if (known !== undefined) return known
    const address = factorAddress(low, high, alongN)
    const bits = new Uint32Array(16 * width)
    for (let i = 0; i < bits.length; i++) bits[i] = this.shared.getUint16(address(i & 15, i >> 4), true) << 16
    const made = new Float32Array(bits.buffer)
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
      for (let i = 0; i < most && warp.lanes.length > 0 && !warp.isWaiting; i += warp.isSpinning ? SPIN : 1) {
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
    const at = ({ lanes, pc }: Warp) => this.program.steps[Math.min(...lanes.map((lane) => pc[lane]!))]?.line
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
    const step = this.program.steps[pc]
    if (step === undefined) throw new Error("ran past the end")
    if (step.isPrefetch) warp.isSpinning = false // what a warp slept for has come
    const active = step.guard === undefined ? here : allowed(warp.words, step.guard, here)
    if (step.target !== undefined) {
      goTo(warp, here, pc + 1)
      goTo(warp, active, step.target)
      if (active.length > 0 && active.length < here.length) warp.isTogether = false
      return
    }
    if (step.work === "return") {
      goTo(warp, here, pc + 1)
      warp.lanes = lanes.filter((lane) => !active.includes(lane))
      return
    }
    if (step.isAligned && active.length !== lanes.length)
      throw new Error(`only ${active.length} of ${lanes.length} lanes come to ${step.line}`)
    try {
      if (active.length > 0) step.work(this, warp, active)
    } catch (error) {
      throw new Error(`warp ${warp.number}, ${step.line}: ${(error as Error).message}`)
    }
    if (!warp.isWaiting) goTo(warp, here, pc + 1)
  }
}

const NONE: readonly number[] = []

/** Those of some lanes that a guard lets through. */
function allowed(
  words: Uint32Array,
  { at, holds }: { readonly at: number; readonly holds: boolean },
  here: readonly number[],
): readonly number[] {
  let count = 0
  for (const lane of here) if ((words[at + lane] !== 0) === holds) count++
  if (count === here.length) return here
  return count === 0 ? NONE : here.filter((lane) => (words[at + lane] !== 0) === holds)
}

function goTo(warp: Warp, lanes: readonly number[], pc: number): void {
  if (lanes === warp.lanes)
    warp.pc.fill(pc) // of lanes that have returned too: nobody asks
  else for (const lane of lanes) warp.pc[lane] = pc
}

/** Runs a launch, block after block, or all at once where they wait for each other. Throws where it would hang, stray, or leave lanes of a warp behind. */
export function runPtx(launch: PtxLaunch): void {
  const program = programOf(launch.text)
  const [X, Y, Z] = launch.blocks
  const blockAt = (i: number) => new Block(program, launch, [i % X, Math.floor(i / X) % Y, Math.floor(i / (X * Y))])
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
