/** Loads, stores and atomics of simulated lanes: bounds, alignment, races and undefined reads are checked. */
import { AlphaError } from "./base-error.ts"
import type { AtomicName, Node, SharedMemory, View } from "./spirv-node.ts"
import type { Lanes, Registers } from "./spirv-simulate-lanes.ts"
import { codec, type DeviceMemory, type Region, type SharedCells } from "./spirv-simulate-memory.ts"
import type { RaceCheck, Toucher } from "./spirv-simulate-race.ts"
import { bytesOf, type Chosen, f32, type Plain, resolve } from "./spirv-type.ts"

type Does = "read" | "write" | "atomic"
type AccessNode<K> = Node & { readonly kind: K; readonly view: View }

/** 32-bit element numbers count as signed in SPIR-V. */
const MOST_ELEMENTS = 2 ** 31

const ATOMICS: Record<AtomicName, (old: number, value: number, expected: number) => number> = {
  add: (old, value) => old + value,
  min: (old, value) => Math.min(old, value),
  max: (old, value) => Math.max(old, value),
  and: (old, value) => old & value,
  or: (old, value) => old | value,
  xor: (old, value) => old ^ value,
  exchange: (_, value) => value,
  compareExchange: (old, value, expected) => (old === expected ? value : old),
}

export class Accesses {
  /** The workgroup that runs, and how many barriers it and those before it have passed. */
  group = 0
  sharedEpoch = 0
  bufferEpoch = 0
  private readonly toucher: { -readonly [N in keyof Toucher]: Toucher[N] } = { lane: 0, group: 0, epoch: 0 }

  constructor(
    private readonly kernel: string,
    private readonly chosen: Chosen,
    private readonly registers: Registers,
    private readonly memory: DeviceMemory,
    private readonly buffers: ReadonlyMap<string, Region>,
    private readonly shared: ReadonlyMap<SharedMemory, SharedCells>,
    /** Whether some lane may write a region, so that races are possible there. */
    private readonly isWritten: (region: Region) => boolean,
  ) {}

  private fault(what: string, lane: number): never {
    throw new AlphaError(`kernel ${this.kernel}: ${what} (lane ${lane} of workgroup ${this.group})`)
  }

  /** A race is at `place` of `kind` memory `name`: put together only when there is one. */
  private touch(
    check: RaceCheck,
    does: Does,
    [first, end]: readonly [number, number],
    epoch: number,
    kind: "shared " | "",
    name: string,
    place: number | string,
    lane: number,
  ): void {
    this.toucher.lane = this.group * this.registers.size + lane + 1
    this.toucher.group = this.group
    this.toucher.epoch = epoch
    for (let unit = first; unit < end; unit++) {
      const race = check[does](unit, this.toucher)
      if (race !== undefined) this.fault(`race: ${kind}${name}${place === "" ? "" : `[${place}]`} ${race}, with no barrier between`, lane)
    }
  }

  /** Calls `use` with the place of each lane's element. */
  private each(view: View, index: Node, does: Does, lanes: Lanes, use: (data: DataView, at: number, lane: number) => void): void {
    const type = resolve(view.element, this.chosen)
    const stride = bytesOf(type) * view.count
    const indices = this.registers.get(index)
    const { memory } = view
    if (memory.kind === "shared") {
      const cells = this.shared.get(memory)!
      for (const lane of lanes) {
        const i = Number(indices[lane])
        if (i >= memory.length) this.fault(`shared ${memory.name}[${i}] is outside its ${memory.length} elements`, lane)
        this.touch(cells.check, does, [i, i + 1], this.sharedEpoch, "shared ", memory.name, i, lane)
        if (does !== "write" && cells.written[i] === 0) this.fault(`shared ${memory.name}[${i}] is read before it is written`, lane)
        cells.written[i] = 1
        use(cells.view, i * stride, lane)
      }
      return
    }
    const addresses = memory.kind === "address" ? this.registers.get(memory.address) : undefined
    const unit = view.count === 1 ? "elements" : `packs of ${view.count}`
    const isNarrow = (index.type as Plain).scalar === "u32"
    for (const lane of lanes) {
      const address = addresses === undefined ? undefined : Number(addresses[lane])
      const region = address === undefined ? this.buffers.get(memory.name) : this.memory.find(address)
      if (region === undefined) this.fault(`${memory.name} at address ${address}, where nothing is`, lane)
      if (address !== undefined && address % 16 !== 0) this.fault(`${memory.name} at address ${address}, not aligned to 16 bytes`, lane)
      const base = address === undefined ? 0 : address - region.address
      const i = Number(indices[lane])
      const at = base + i * stride
      if (at + stride > region.view.byteLength)
        this.fault(`${memory.name}[${i}] is outside its ${Math.floor((region.view.byteLength - base) / stride)} ${unit}`, lane)
      if (isNarrow && i >= MOST_ELEMENTS) this.fault(`${memory.name}[${i}]: from 2^31 elements on the number must be u64`, lane)
      if (this.isWritten(region))
        this.touch(this.memory.check(region), does, this.memory.units(region, at, stride), this.bufferEpoch, "", memory.name, i, lane)
      use(region.view, at, lane)
    }
  }

  /** What the elements of a view are in this variant. */
  typeOf({ element }: View): ReturnType<typeof resolve> {
    return resolve(element, this.chosen)
  }

  /** Where `bytes` bytes from byte `offset` of a view on lie, checked as an access of `lane`. */
  span(view: View, offset: number, bytes: number, does: "read" | "write", lane: number): { data: DataView; at: number } {
    const { memory } = view
    if (memory.kind === "shared") {
      const cells = this.shared.get(memory)!
      const size = bytesOf(memory.element)
      const [first, end] = [Math.floor(offset / size), Math.ceil((offset + bytes) / size)]
      if (end > memory.length) this.fault(`shared ${memory.name}[${end - 1}] is outside its ${memory.length} elements`, lane)
      this.touch(cells.check, does, [first, end], this.sharedEpoch, "shared ", memory.name, `${first}…${end - 1}`, lane)
      for (let i = first; i < end; i++) {
        if (does === "read" && cells.written[i] === 0) this.fault(`shared ${memory.name}[${i}] is read before it is written`, lane)
        cells.written[i] = 1
      }
      return { data: cells.view, at: offset }
    }
    const address = memory.kind === "address" ? Number(this.registers.get(memory.address)[lane]) : undefined
    const region = address === undefined ? this.buffers.get(memory.name) : this.memory.find(address)
    if (region === undefined) this.fault(`${memory.name} at address ${address}, where nothing is`, lane)
    const at = (address === undefined ? 0 : address - region.address) + offset
    if (at + bytes > region.view.byteLength)
      this.fault(`byte ${at + bytes - 1} of ${memory.name} is outside its ${region.view.byteLength}`, lane)
    if (this.isWritten(region))
      this.touch(this.memory.check(region), does, this.memory.units(region, at, bytes), this.bufferEpoch, "", memory.name, "", lane)
    return { data: region.view, at }
  }

  load(node: AccessNode<"load">, lanes: Lanes): void {
    const { view } = node
    const type = resolve(view.element, this.chosen)
    const { read, bytes } = codec(type)
    const size = view.count > 1 ? view.count : "stored" in type ? 1 : type.size
    const out = this.registers.of(node, { scalar: "stored" in type ? "f32" : type.scalar, size })
    this.each(view, node.args[0]!, "read", lanes, (data, at, lane) => {
      for (let c = 0; c < size; c++) out[lane * size + c] = read(data, at + c * bytes)
    })
  }

  /** One float of a pack. */
  part(node: Node & { readonly kind: "part" }, lanes: Lanes): void {
    const pack = node.args[0] as AccessNode<"load">
    const { count } = pack.view
    this.registers.extract(node, this.registers.of(pack, { scalar: f32.scalar, size: count }), count, node.component, lanes)
  }

  store(node: AccessNode<"store">, lanes: Lanes): void {
    const { view } = node
    const type = resolve(view.element, this.chosen)
    const { write, bytes } = codec(type)
    const [index, ...values] = node.args
    const size = view.count > 1 || "stored" in type ? 1 : type.size
    const from = values.map((value) => this.registers.get(value))
    this.each(view, index!, "write", lanes, (data, at, lane) => {
      from.forEach((register, i) => {
        for (let c = 0; c < size; c++) write(data, at + (i * size + c) * bytes, register[lane * size + c]!)
      })
    })
  }

  atomic(node: AccessNode<"atomic"> & { readonly name: AtomicName }, lanes: Lanes): void {
    const { read, write } = codec(node.type as Plain)
    const [index, ...operands] = node.args
    const [value, expected] = operands.map((operand) => this.registers.get(operand))
    const out = this.registers.get(node)
    this.each(node.view, index!, "atomic", lanes, (data, at, lane) => {
      const old = Number(read(data, at))
      out[lane] = old
      write(data, at, ATOMICS[node.name](old, Number(value![lane]), Number(expected?.[lane])))
    })
  }
}
