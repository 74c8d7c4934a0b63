/** The CPU device: turns a plan into a flat list of native calls and replays it. */
import type { Pointer } from "bun:ffi"
import { cpus } from "node:os"
import { allocateCommands } from "./cpu-commands.ts"
import { CpuState } from "./cpu-state.ts"
import { allocate, isaLevel, native } from "./native.ts"
import type { Device, Executable, Plan, RunInputs, RunOutputs, State } from "./program.ts"
import { byteLength, elements, type Tensor } from "./tensor.ts"

/**
 * Nanoseconds after which a submit would return between two nodes: never. The native loop can (`commands_run` takes the time and gives the next
 * node), but nothing could use the pause: the Worker runs one job after another and a submit is synchronous, so no other program waits for
 * the device, and a stop is a flag in shared memory that jobs look at between submits. A scheduler that mixes programs gives a time here.
 */
const FOREVER = 2 ** 52

/** Opens the CPU device with `threads` pool threads (results do not depend on it). */
export function openCpu(threads: number = cpus().length): Device {
  native().pool_start(threads)
  return {
    name: "cpu",
    description: `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${threads} threads, ${isaLevel()}`,
    ahead: 0,
    telemetry: () => undefined,
    peakBytes: () => undefined,
    peakFlops: () => undefined,
    arenaBytes: (plan) => plan.arenaBytes,
    memoryBytes: () => process.availableMemory(),
    state: () => new CpuState(),
    compile: (plan, state) => compile(plan, state as CpuState),
    close: () => {},
  }
}

function compile(plan: Plan, state: CpuState): Executable {
  const { program } = plan
  for (const t of program.states.values()) state.ensure(t.name, t.dtype, t.shape)
  const arena = allocate(plan.arenaBytes, `the arena of ${program.name}`)
  const params = placeParams(plan)
  const memory = allocate(params.bytes, `the inputs of ${program.name}`)
  const address = (t: Tensor): number => {
    if (t.role === "state") return state.address(t.name)
    const at = plan.offsets.get(t.id)
    return at === undefined ? memory.address + params.at(t) : arena.address + at
  }
  const commands = allocateCommands(program.nodes, address)
  for (const [t, at] of params.constants) new (t.dtype === "f32" ? Float32Array : Int32Array)(memory.view(at, 4))[0] = t.value ?? 0
  const writers = [...program.inputs, ...program.live].map(([name, t]) => {
    const view = new (t.dtype === "f32" ? Float32Array : Int32Array)(memory.view(params.at(t), byteLength(t)))
    return { name, t, view }
  })
  const fill = (inputs: RunInputs) => {
    for (const { name, t, view } of writers) {
      const value = inputs[name]
      if (typeof value === "number") view[0] = value
      else if (value !== undefined && value.length === elements(t)) view.set(value)
      else throw new TypeError(`${program.name}: input ${name} needs ${elements(t)} values, got ${value?.length ?? "none"}`)
    }
  }
  const outputs: RunOutputs = {
    read(name) {
      const t = program.outputs.get(name)
      if (t === undefined) throw new TypeError(`${program.name} has no output ${name}`)
      const bytes = t.role === "state" ? state.view(t.name) : arena.view(plan.offsets.get(t.id) as number, byteLength(t))
      return t.dtype === "i32" ? new Int32Array(bytes) : new Float32Array(bytes)
    },
  }
  return {
    plan,
    barriers: 0,
    submit(inputs) {
      fill(inputs)
      let at = 0
      while (at < commands.count) at = Number(native().commands_run(commands.address as Pointer, at, commands.count, FOREVER))
      return outputs
    },
    profile(inputs) {
      fill(inputs)
      const begin = Bun.nanoseconds()
      const rows = program.nodes.map((node, i) => {
        const start = Bun.nanoseconds()
        native().commands_run(commands.address as Pointer, i, i + 1, FOREVER)
        const end = Bun.nanoseconds()
        return {
          op: node.op.name,
          startMs: (start - begin) / 1e6,
          ms: (end - start) / 1e6,
          bytes: touched(node.inputs) + touched(node.outputs),
          flops: node.op.flops?.(node.inputs, node.attrs) ?? 0,
        }
      })
      return { rows, outputs }
    },
    free() {
      arena.free()
      memory.free()
      commands.free()
    },
  }
}

const touched = (operands: Readonly<Record<string, Tensor | readonly Tensor[] | undefined>>): number =>
  Object.values(operands)
    .flat()
    .reduce((sum, t) => sum + (t === undefined ? 0 : byteLength(t)), 0)

/** Offsets of live scalars, constants and inputs in one params buffer. */
function placeParams(plan: Plan) {
  const offsets = new Map<number, number>()
  const constants: [Tensor, number][] = []
  let bytes = 0
  const add = (t: Tensor) => {
    if (offsets.has(t.id)) return
    offsets.set(t.id, bytes)
    if (t.role === "constant") constants.push([t, bytes])
    bytes += Math.ceil(byteLength(t) / 64) * 64
  }
  for (const t of [...plan.program.live.values(), ...plan.program.inputs.values()]) add(t)
  for (const node of plan.program.nodes) {
    for (const t of [...Object.values(node.inputs).flat(), ...Object.values(node.accumulate)]) if (t?.role === "constant") add(t)
  }
  return {
    bytes,
    constants,
    at(t: Tensor): number {
      const at = offsets.get(t.id)
      if (at === undefined) throw new TypeError(`${plan.program.name}: ${t.name} (${t.role}) has no memory`)
      return at
    },
  }
}

export type { State }
