/** What a device must do with a plan: hold state, compile once, replay many times. */
import type { GpuSample } from "./native.ts"
import type { Program } from "./program-op.ts"
import type { Dtype } from "./tensor.ts"

/** A program with every temporary placed in one arena. */
export interface Plan {
  readonly program: Program
  /** Bytes of the arena. */
  readonly arenaBytes: number
  /** Tensor id → byte offset of its temporary. */
  readonly offsets: ReadonlyMap<number, number>
}

/** Values of one run: live scalars as numbers, inputs as arrays. */
export type RunInputs = Readonly<Record<string, number | Int32Array | Float32Array>>

/** Outputs of one run. Reading waits for that run; a value outlives `Device.ahead` more submits of the same executable. */
export interface RunOutputs {
  read(name: string): Float32Array | Int32Array
}

/** State that another API on the same device has mapped, and a semaphore by which the two take turns. */
export interface SharedState {
  readonly floats: number
  /** First float of each buffer. */
  readonly from: ReadonlyMap<string, number>
  /** File descriptors of the memory, whole, and of the timeline semaphore; whoever imports them owns them. */
  readonly memoryFd: number
  readonly memoryBytes: number
  readonly semaphoreFd: number
  /** Moves the semaphore to `value` after all that was submitted before. */
  signal(value: number): void
  /** What is submitted later begins when the semaphore has reached `value`. */
  wait(value: number): void
}

/** Named buffers that outlive runs and are shared by programs. */
export interface State {
  /** Allocates (zeroed) what is not there yet; the same name must keep shape and dtype. */
  ensure(name: string, dtype: Dtype, shape: readonly number[]): void
  has(name: string): boolean
  names(): string[]
  /** Values in the tensor's true shape, bf16 as raw u16 bits; they may be the device's own memory: copy what must outlive the next run. */
  read(name: string): Float32Array | Int32Array | Uint16Array
  write(name: string, values: Float32Array | Int32Array | Uint16Array): void
  /**
   * Calls `work` with a function that gives the place for a buffer's new f32 values; they are on the device when `work` has returned.
   * Where the device's memory is the host's, that place is the buffer itself: no second copy of a large model.
   */
  fill(work: (into: (name: string) => Float32Array) => void): void
  /** Puts new f32 buffers one after another (zeros between them) into memory that another API can map; absent on devices without such memory. */
  share?(buffers: readonly { readonly name: string; readonly shape: readonly number[] }[]): SharedState
  /** Gives one buffer back. */
  drop(name: string): void
  bytes(): number
  free(): void
}

/** What a node took on the CPU, a launch on a GPU. */
export interface ProfileRow {
  readonly op: string
  /** Variant of the kernel, on a GPU. */
  readonly kernel?: string
  /** When it began, from the start of the program, and how long it took. */
  readonly startMs: number
  readonly ms: number
  /** Bytes of what it reads and writes, once each. */
  readonly bytes: number
  /** Floating-point operations; 0 where memory decides. */
  readonly flops: number
}

/** Launches that ran side by side between two barriers. */
export interface Stretch {
  readonly program: string
  readonly kernels: readonly string[]
  /** The first of what the device was given at once: what lies before it is no barrier. */
  readonly isFirst: boolean
  readonly turn: number
  /** By the device's clock, from the beginning of the first of all. */
  readonly startMs: number
  readonly endMs: number
}

/** A device under its own clock while it runs as ever. */
export interface Watch {
  /** What is submitted next belongs to it: a step of training, for example. */
  turn: number
  /** Waits for all that was submitted; what ran when, in order. To be called once; the device times nothing else before. */
  end(): readonly Stretch[]
}

export interface Executable {
  readonly plan: Plan
  /** How often a run makes everything wait for everything before. */
  readonly barriers: number
  /**
   * Runs once; the CPU has finished on return, the GPU has been given the work. A device that is given work in parts calls `onFinal(i)` when it has
   * all that writes to group i of `compile`'s; groups of which it tells nothing are final with the rest. `watch` is the device's.
   */
  submit(inputs: RunInputs, onFinal?: (group: number) => void, watch?: Watch): RunOutputs
  /**
   * Runs `count` times, one after another, given to the device as one piece: the outputs of all are there together, and outlive `kept` more runs.
   * Absent where a submit has finished on return.
   */
  submitAll?(count: number, inputs: (i: number) => RunInputs, kept: number): RunOutputs[]
  /** Runs once, part by part with nothing side by side, and times each. */
  profile(inputs: RunInputs): { readonly rows: readonly ProfileRow[]; readonly outputs: RunOutputs }
  free(): void
}

export interface Device {
  /** "cpu" or "gpu:0". */
  readonly name: string
  /** The GPU's UUID, 32 hexadecimal digits; undefined where there is none. */
  readonly uuid?: string
  /** One line for people: model, cores or memory, path taken. */
  readonly description: string
  /** Runs to give the device before the oldest one's outputs are read, so that it never waits for the host; 0 where a submit has finished on return. */
  readonly ahead: number
  state(): State
  /** Bytes of the arena that `plan` needs here, scratch memory of the kernels included. */
  arenaBytes(plan: Plan): number
  /** Bytes that this process may still allocate; undefined where the device does not tell. */
  memoryBytes(): number | undefined
  /** FLOP/s that its maker names for matrix products in this precision; undefined where it has to be measured. */
  peakFlops(precision: "f32" | "bf16"): number | undefined
  /** Most bytes that this process had on the device at once; undefined where its memory is the host's. */
  peakBytes(): number | undefined
  /** Begins to watch how it really runs what it is given; absent where that is one thing after another. */
  watch?(): Watch
  /** How the device fares right now; undefined where nothing tells. */
  telemetry(): GpuSample | undefined
  /** Begins to compile for `plan` what takes long, beside what the caller does until `compile`; absent where nothing takes long. */
  begin?(plan: Plan): void
  /** `groups`: names of states that others read while the rest still runs, in the order in which the program is done with them. */
  compile(plan: Plan, state: State, groups?: readonly (readonly string[])[]): Executable
  close(): void
}
