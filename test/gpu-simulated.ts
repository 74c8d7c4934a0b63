/** A device that runs every launch of a plan in the kernel simulator: bounds, races and barriers are checked lane by lane. */

import { CpuState } from "../src/cpu-state.ts"
import { type Schedule, schedule } from "../src/gpu-schedule.ts"
import type { Device, GpuTarget, Memory, Plan, RunInputs, Scratch } from "../src/program.ts"
import { DeviceMemory, type Kernel, simulate } from "../src/spirv.ts"
import { byteLength, elements, type Tensor } from "../src/tensor.ts"
import { runPtxLaunch } from "./ptx-launch.ts"

/** A device of `subgroupSize` lanes; a portable one unless it has matrices. `ptx`: whether it has, or how much shared memory its kernels may have. */
export function simulatedDevice(
  subgroupSize: number,
  matrix: GpuTarget["matrix"] = "none",
  ptx: boolean | number = false,
  stacks = false,
): Device {
  const isPortable = matrix === "none"
  const target: GpuTarget = {
    subgroupSize,
    matrix,
    ptx: ptx !== false,
    ...(typeof ptx === "number" && { ptxRoom: ptx }),
    stacks,

    hasMatrixFunctions: !isPortable,
    units: 2,
    sharedBytes: isPortable ? 32768 : 49152,
  }
  return {
    name: "simulated",
    description: `simulated, subgroups of ${subgroupSize}`,
    ahead: 0,
    telemetry: () => undefined,
    peakBytes: () => undefined,
    peakFlops: () => undefined,
    arenaBytes: (plan) => schedule(plan, target).arenaBytes,
    memoryBytes: () => undefined,
    state: () => new CpuState(),
    compile(plan, state) {
      for (const t of plan.program.states.values()) state.ensure(t.name, t.dtype, t.shape)
      const steps = schedule(plan, target)
      return {
        plan,
        barriers: steps.steps.length - 1,
        submit: (inputs) => run(plan, steps, state as CpuState, inputs, subgroupSize),
        profile: (inputs) => ({ rows: [], outputs: run(plan, steps, state as CpuState, inputs, subgroupSize) }),
        free() {},
      }
    },
    close() {},
  }
}

/** Every tensor and scratch has a buffer of its own, so that each access outside one is noticed; in-place outputs share their input's. */
function run(plan: Plan, { steps }: Schedule, state: CpuState, inputs: RunInputs, subgroupSize: number) {
  const { program } = plan
  const buffers = new Map<Tensor | Scratch, Uint8Array<ArrayBuffer>>()
  const temps = new Map<number, Uint8Array<ArrayBuffer>>()
  const bytesOf = (memory: Tensor | Scratch): Uint8Array<ArrayBuffer> => {
    const known = buffers.get(memory)
    if (known !== undefined) return known
    const made = make(memory)
    buffers.set(memory, made)
    return made
  }
  const make = (memory: Tensor | Scratch): Uint8Array<ArrayBuffer> => {
    if ("kind" in memory) return poisoned(memory.elements * (memory.dtype === "bf16" ? 2 : 4))
    if (memory.role === "state") return new Uint8Array(state.view(memory.name))
    if (memory.role === "temp") {
      const made = temps.get(memory.id) ?? poisoned(byteLength(memory))
      temps.set(memory.id, made)
      return made
    }
    const value = inputs[memory.name]
    const values = typeof value === "number" ? [value] : Array.from(value as ArrayLike<number>)
    return new Uint8Array((memory.dtype === "f32" ? Float32Array.from(values) : Int32Array.from(values)).buffer)
  }
  for (const step of steps) {
    for (const { launch } of step) {
      const memory = new DeviceMemory()
      const viewOf = (given: Memory | undefined): Uint8Array<ArrayBuffer> => {
        if (given === undefined) return new Uint8Array(0)
        if (!("kind" in given) || given.kind === "scratch") return bytesOf(given as Tensor | Scratch)
        if (given.kind === "part") return bytesOf(given.of).subarray(given.from * (given.of.dtype === "bf16" ? 2 : 4))
        if (given.dtype !== "u64") {
          const array = { f32: Float32Array, u32: Uint32Array, i32: Int32Array }[given.dtype]
          return new Uint8Array(array.from(given.values as number[]).buffer)
        }
        const addresses = given.values.map((value) => {
          if (value === undefined) return 0n
          if (typeof value === "number") return BigInt(value)
          if (typeof value === "bigint") return value
          return BigInt(memory.place("kind" in value ? value.kind : value.name, viewOf(value)))
        })
        return new Uint8Array(BigUint64Array.from(addresses).buffer)
      }
      const live = (value: Tensor | number | undefined): number =>
        typeof value === "number" ? value : value?.role === "constant" ? (value.value ?? 0) : Number(inputs[value?.name ?? ""])
      if ("text" in launch.kernel) {
        runPtxLaunch(launch, bytesOf, live, "random")
        continue
      }
      const names = Object.keys(launch.kernel.buffers)
      simulate(
        launch.kernel as unknown as Kernel<Record<never, never>>,
        {
          variant: launch.variant,
          grid: launch.groups,
          buffers: Object.fromEntries(names.map((name) => [name, viewOf(launch.buffers[name])])),
          push: launch.push,
          params: Object.fromEntries(Object.entries(launch.params).map(([name, value]) => [name, live(value)])),
          constants: launch.constants,
          subgroupSize,
          memory,
        } as never,
      )
    }
  }
  return {
    read(name: string) {
      const t = program.outputs.get(name) as Tensor
      const { buffer } = bytesOf(t)
      return t.dtype === "i32" ? new Int32Array(buffer, 0, elements(t)) : new Float32Array(buffer, 0, elements(t))
    },
  }
}

/** Memory full of NaN: what nobody wrote must not look like a number. */
const poisoned = (bytes: number): Uint8Array<ArrayBuffer> => new Uint8Array(Math.ceil(bytes / 4) * 4).fill(0xff)
