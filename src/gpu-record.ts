/** A schedule becomes command buffers: addresses, params blocks, barriers between steps; one recording per slot of the ring. */
import { runDebug, type Span } from "./gpu-debug.ts"
import { type DeviceBuffer, type Driver, HOST, LOCAL, MAX_TIMESTAMPS, type Recording } from "./gpu-driver.ts"
import type { Allocation, Arena, GpuMemory } from "./gpu-memory.ts"
import type { Pipelines } from "./gpu-pipeline.ts"
import type { Schedule, ScheduledLaunch } from "./gpu-schedule.ts"
import type { GpuState } from "./gpu-state.ts"
import type { GpuWatch } from "./gpu-watch.ts"
import { vulkan } from "./native.ts"
import { ARENA_SLAB, type Memory, type Plan, type RunInputs, type Scratch, type Table } from "./program.ts"
import { cellBytes, dynamicBytes } from "./ptx.ts"
import { pushBytes } from "./spirv.ts"
import { byteLength, elements, type Tensor } from "./tensor.ts"

const bytesOf = (memory: Tensor | Scratch): number =>
  "kind" in memory ? memory.elements * (memory.dtype === "bf16" ? 2 : 4) : byteLength(memory)

/** Where a tensor's or scratch's first byte lies. */
interface Place {
  readonly buffer: DeviceBuffer
  readonly offset: number
}

const ALIGN = 64
const aligned = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN

/** What the host writes before every run: inputs and the params blocks of the launches, in one buffer per slot. */
interface HostLayout {
  readonly bytes: number
  readonly inputs: ReadonlyMap<number, number>
  /** Offset of a launch's params block. */
  readonly params: ReadonlyMap<ScheduledLaunch, number>
  /** Cells of live scalars: which, where, as float or integer. */
  readonly live: readonly { readonly name: string; readonly at: number; readonly isFloat: boolean }[]
  /** Cells that never change. */
  readonly fixed: readonly { readonly value: number; readonly at: number; readonly isFloat: boolean }[]
}

function hostLayout(plan: Plan, schedule: Schedule): HostLayout {
  let bytes = 0
  const inputs = new Map<number, number>()
  for (const t of plan.program.inputs.values()) {
    inputs.set(t.id, bytes)
    bytes += aligned(byteLength(t))
  }
  const params = new Map<ScheduledLaunch, number>()
  const live: { name: string; at: number; isFloat: boolean }[] = []
  const fixed: { value: number; at: number; isFloat: boolean }[] = []
  for (const scheduled of schedule.steps.flat()) {
    const fields = Object.entries(scheduled.launch.kernel.params)
    if (fields.length === 0) continue
    params.set(scheduled, bytes)
    fields.forEach(([name, { scalar }], i) => {
      const value = scheduled.launch.params[name]
      const cell = { at: bytes + 4 * i, isFloat: scalar === "f32" }
      if (typeof value === "number") fixed.push({ value, ...cell })
      else if (value?.role === "constant") fixed.push({ value: value.value ?? 0, ...cell })
      else if (value?.role === "live") live.push({ name: value.name, ...cell })
      else throw new TypeError(`${scheduled.launch.variant}: param ${name} is no live scalar or number`)
    })
    bytes += aligned(4 * fields.length)
  }
  return { bytes, inputs, params, live, fixed }
}

/** A slot of the ring: its own inputs, params, results and recording; used again when the device has passed `value`. */
export interface Slot {
  readonly host: DeviceBuffer
  readonly results: DeviceBuffer
  /** One after another they are the program; each ends where `ends` says. */
  readonly recordings: readonly Recording[]
  value: number
}

export class Recorder {
  readonly #layout: HostLayout
  readonly #tables = new Map<Table, number>()
  #tableMemory: Allocation | undefined
  readonly #arena: Arena
  /** Offset of a program output in a slot's results. */
  readonly results = new Map<string, number>()
  readonly #resultBytes: number

  constructor(
    readonly plan: Plan,
    readonly schedule: Schedule,
    readonly memory: GpuMemory,
    readonly pipelines: Pipelines,
    readonly state: GpuState,
    /** Steps after which a recording ends, the last of all included. */
    readonly ends: readonly number[],
  ) {
    const { program } = plan
    this.#arena = memory.arena(schedule.arenaBytes, program.name)
    this.#layout = hostLayout(plan, schedule)
    let bytes = 0
    for (const [name, t] of program.outputs) {
      this.results.set(name, bytes)
      bytes += aligned(byteLength(t))
    }
    this.#resultBytes = bytes
    this.#writeTables()
    pipelines.prepare(schedule.steps.flat().map(({ launch }) => launch))
  }

  get driver(): Driver {
    return this.memory.driver
  }

  #arenaPlace(offset: number): Place {
    const buffer = this.#arena.buffers[Math.floor(offset / ARENA_SLAB)] as DeviceBuffer
    return { buffer, offset: offset % ARENA_SLAB }
  }

  /** Where a tensor lies; inputs lie in the slot's host buffer. */
  place(t: Tensor, host: DeviceBuffer): Place {
    if (t.role === "state") return this.state.at(t.name)
    const at = this.plan.offsets.get(t.id)
    if (at !== undefined) return this.#arenaPlace(at)
    const input = this.#layout.inputs.get(t.id)
    if (input === undefined) throw new TypeError(`${this.plan.program.name}: ${t.name} (${t.role}) has no memory`)
    return { buffer: host, offset: input }
  }

  #address(memory: Memory, host: DeviceBuffer): number {
    if ("kind" in memory) {
      if (memory.kind === "table") return (this.#tableMemory as Allocation).address + (this.#tables.get(memory) as number)
      if (memory.kind === "part") return this.#address(memory.of, host) + memory.from * (memory.of.dtype === "bf16" ? 2 : 4)
      const { buffer, offset } = this.#arenaPlace(this.schedule.scratch.get(memory as Scratch) as number)
      return buffer.address + offset
    }
    const { buffer, offset } = this.place(memory, host)
    return buffer.address + offset
  }

  #writeTables(): void {
    let bytes = 0
    const add = (memory: Table["values"][number]) => {
      if (typeof memory !== "object" || !("kind" in memory) || memory.kind !== "table" || this.#tables.has(memory)) return
      this.#tables.set(memory, bytes)
      bytes += aligned(memory.values.length * (memory.dtype === "u64" ? 8 : 4))
      memory.values.forEach(add)
    }
    for (const { launch } of this.schedule.steps.flat()) Object.values(launch.buffers).forEach(add)
    if (bytes === 0) return
    const memory = this.memory.allocate(bytes, `the tables of ${this.plan.program.name}`)
    this.#tableMemory = memory
    const image = new DataView(new ArrayBuffer(bytes))
    for (const [{ dtype, values }, start] of this.#tables) {
      values.forEach((value, i) => {
        if (dtype === "u64") image.setBigUint64(start + 8 * i, BigInt(this.#entry(value)), true)
        else if (dtype === "f32") image.setFloat32(start + 4 * i, value as number, true)
        else if (dtype === "u32") image.setUint32(start + 4 * i, value as number, true)
        else image.setInt32(start + 4 * i, value as number, true)
      })
    }
    this.memory.upload(memory, new Uint8Array(image.buffer))
  }

  #entry(value: Table["values"][number]): number | bigint {
    if (value === undefined) return 0
    if (typeof value === "number" || typeof value === "bigint") return value
    if (!("kind" in value) && value.role === "input") throw new TypeError(`${value.name}: an input's address differs from run to run`)
    return this.#address(value, undefined as unknown as DeviceBuffer)
  }

  /** A new slot with its recordings. */
  slot(): Slot {
    const { program } = this.plan
    const what = `the inputs of ${program.name}`
    const host = this.driver.buffer(this.#layout.bytes, HOST, HOST | LOCAL, what)
    const results = this.driver.buffer(this.#resultBytes, HOST, HOST | 8, `the outputs of ${program.name}`)
    const view = new DataView(host.view(0, host.bytes))
    for (const { value, at, isFloat } of this.#layout.fixed) setCell(view, at, value, isFloat)
    return { host, results, recordings: this.#record({ host, results }), value: 0 }
  }

  /** Recordings of a slot that tell a watch when their steps run. */
  watched(slot: Slot, watch: GpuWatch): Recording[] {
    const recordings = this.#record(slot, watch)
    watch.keep(recordings)
    return recordings
  }

  #record({ host, results }: Pick<Slot, "host" | "results">, watch?: GpuWatch): Recording[] {
    return this.ends.map((end, i) =>
      this.driver.record((commands) => {
        this.schedule.steps.slice(this.ends[i - 1] ?? 0, end).forEach((step, at) => {
          if (at > 0) vulkan().gpu_kernel_barrier(this.driver.gpu, commands)
          const launch = (): void => {
            for (const scheduled of step) this.#dispatch(commands, scheduled, { host, results })
          }
          if (watch === undefined) launch()
          else watch.around(commands, this.plan.program.name, step, at === 0, launch)
        })
        if (end === this.schedule.steps.length) this.#copyOutputs(commands, { host, results })
      }),
    )
  }

  /** Copies what no launch has written where the host reads it. */
  #copyOutputs(commands: Recording, { host, results }: Pick<Slot, "host" | "results">): void {
    const told = new Set(this.schedule.steps.flat().flatMap(({ launch }) => Object.values(launch.told ?? {}).map(({ id }) => id)))
    const wanted = [...this.plan.program.outputs].filter(([, { id }]) => !told.has(id))
    if (wanted.length > 0) vulkan().gpu_barrier(this.driver.gpu, commands)
    for (const [name, t] of wanted) {
      const { buffer, offset } = this.place(t, host)
      const to = this.results.get(name) as number
      vulkan().gpu_copy(this.driver.gpu, commands, buffer.handle, offset, results.handle, to, byteLength(t))
    }
  }

  /** Where the host reads an output; any other tensor's own place. */
  #toldAddress(t: Tensor, { host, results }: Pick<Slot, "host" | "results">): number {
    const [name] = [...this.plan.program.outputs].find(([, { id }]) => id === t.id) ?? []
    return name === undefined ? this.#address(t, host) : results.address + (this.results.get(name) as number)
  }

  #dispatch(commands: Recording, scheduled: ScheduledLaunch, slot: Pick<Slot, "host" | "results">): void {
    const { host } = slot
    const { launch } = scheduled
    const { module, handle, layout } = this.pipelines.of(launch)
    const values: Record<string, number> = { ...launch.push }
    for (const name of Object.keys(launch.kernel.buffers)) {
      const [memory, told] = [launch.buffers[name], launch.told?.[name]]
      if (told !== undefined) values[name] = this.#toldAddress(told, slot)
      else values[name] = memory === undefined ? 0 : this.#address(memory, host)
    }
    const block = this.#layout.params.get(scheduled)
    if (block !== undefined) values.params = host.address + block
    const [x, y, z] = launch.groups
    if ("text" in module) {
      const cells = cellBytes(module.cells, values)
      vulkan().gpu_launch(
        this.driver.gpu,
        commands,
        handle,
        BigInt64Array.of(BigInt(x), BigInt(y), BigInt(z)),
        module.threads,
        dynamicBytes(module),
        cells,
        module.cells.length,
      )
      return
    }
    const push = pushBytes(module.push, values)
    vulkan().gpu_dispatch(this.driver.gpu, commands, handle, layout, push, push.length, x, y, z)
  }

  /** Writes the inputs of one run into a slot. Throws a TypeError where one is missing or of another size. */
  fill(slot: Slot, inputs: RunInputs): void {
    const { program } = this.plan
    const view = new DataView(slot.host.view(0, slot.host.bytes))
    for (const { name, at, isFloat } of this.#layout.live) {
      const value = inputs[name]
      if (typeof value !== "number")
        throw new TypeError(`${program.name}: ${name} needs a number, got ${value === undefined ? "none" : "several"}`)
      setCell(view, at, value, isFloat)
    }
    for (const [name, t] of program.inputs) {
      const value = inputs[name]
      const length = typeof value === "number" ? 1 : value?.length
      if (value === undefined || length !== elements(t))
        throw new TypeError(`${program.name}: input ${name} needs ${elements(t)} values, got ${length ?? "none"}`)
      const place = slot.host.view(this.#layout.inputs.get(t.id) as number, byteLength(t))
      const target = t.dtype === "f32" ? new Float32Array(place) : new Int32Array(place)
      if (typeof value === "number") target[0] = value
      else target.set(value)
    }
  }

  /** Runs once with a timestamp after every launch; start and length of each in milliseconds, in the order they ran. */
  profile(slot: Slot): { launch: ScheduledLaunch; startMs: number; ms: number }[] {
    const { driver } = this
    const launches = this.schedule.steps.flat()
    const unit = driver.info.facts.timestampFemtoseconds / 1e12
    const rows: { launch: ScheduledLaunch; startMs: number; ms: number }[] = []
    let startMs = 0
    for (let from = 0; from < launches.length; from += MAX_TIMESTAMPS - 1) {
      const some = launches.slice(from, from + MAX_TIMESTAMPS - 1)
      driver.now(`a profile of ${this.plan.program.name}`, (commands) => {
        vulkan().gpu_timestamp(driver.gpu, commands, -(some.length + 1))
        vulkan().gpu_timestamp(driver.gpu, commands, 0)
        some.forEach((scheduled, i) => {
          this.#dispatch(commands, scheduled, slot)
          vulkan().gpu_kernel_barrier(driver.gpu, commands)
          vulkan().gpu_timestamp(driver.gpu, commands, i + 1)
        })
      })
      const ticks = new BigUint64Array(some.length + 1)
      vulkan().gpu_timestamps(driver.gpu, ticks.length, ticks)
      some.forEach((launch, i) => {
        const ms = Number((ticks[i + 1] as bigint) - (ticks[i] as bigint)) * unit
        rows.push({ launch, startMs, ms })
        startMs += ms
      })
    }
    driver.now(`the outputs of ${this.plan.program.name}`, (commands) => this.#copyOutputs(commands, slot))
    return rows
  }

  /** Runs once, launch by launch under the eyes of --debugGpu. */
  debug(slot: Slot): void {
    const steps = this.schedule.steps.flat().map((scheduled) => ({
      scheduled,
      dispatch: (commands: Recording) => this.#dispatch(commands, scheduled, slot),
      writes: this.#writes(scheduled, slot.host),
    }))
    runDebug(this.memory, this.#arena.buffers, steps)
    this.driver.now(`the outputs of ${this.plan.program.name}`, (commands) => this.#copyOutputs(commands, slot))
  }

  #tableSpan(of: Table): Span {
    const { buffer, offset } = this.#tableMemory as Allocation
    const from = offset + (this.#tables.get(of) as number)
    return { buffer, from, to: from + of.values.length * (of.dtype === "u64" ? 8 : 4) }
  }

  /** What a launch may write: its written buffers, tables among them, and everything that its tables point at. */
  #writes({ launch }: ScheduledLaunch, host: DeviceBuffer): Span[] {
    const spans: Span[] = []
    const add = (memory: Tensor | Scratch, from = 0) => {
      const { buffer, offset } = "kind" in memory ? this.#arenaPlace(this.schedule.scratch.get(memory) as number) : this.place(memory, host)
      spans.push({ buffer, from: offset + from, to: offset + bytesOf(memory) })
    }
    const addPart = (memory: Memory): void => {
      if (!("kind" in memory) || memory.kind === "scratch") add(memory as Tensor | Scratch)
      else if (memory.kind === "part") add(memory.of, memory.from * (memory.of.dtype === "bf16" ? 2 : 4))
    }
    for (const [name, { access }] of Object.entries(launch.kernel.buffers)) {
      const memory = launch.buffers[name]
      if (memory === undefined) continue
      if ("kind" in memory && memory.kind === "table") {
        for (const value of memory.values) if (typeof value === "object") addPart(value)
        if (access !== "read") spans.push(this.#tableSpan(memory))
      } else if (access === "read") continue
      else addPart(memory)
    }
    return spans
  }

  free(slots: readonly Slot[]): void {
    for (const { host, results, recordings } of slots) {
      for (const recording of recordings) this.driver.freeRecording(recording)
      host.free()
      results.free()
    }
    this.#tableMemory?.free()
    this.memory.leave(this.#arena)
  }
}

function setCell(view: DataView, at: number, value: number, isFloat: boolean): void {
  if (isFloat) view.setFloat32(at, value, true)
  else if (value < 0) view.setInt32(at, value, true)
  else view.setUint32(at, value, true)
}
