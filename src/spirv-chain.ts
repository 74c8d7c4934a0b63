/** chain(): kernels recorded into one that runs them in the order of a table, with a barrier of the whole grid between steps. */
import { nodeOf } from "./spirv-expression.ts"
import { type Kernel, kernel } from "./spirv-kernel.ts"
import { Matrices } from "./spirv-matrix.ts"
import { type BufferSpec, MemoryValue, read, readWrite, type SharedArray, type SharedElement } from "./spirv-memory.ts"
import type { SharedMemory } from "./spirv-node.ts"
import type { Recorder } from "./spirv-record.ts"
import { type Chosen, resolve, typeName, u32, u64, vec4 } from "./spirv-type.ts"
import type { Bool, U32, U64 } from "./spirv-value.ts"

/** A kernel as one kind of step: everything but addresses is fixed. */
export interface ChainPart {
  readonly kernel: Kernel
  readonly chosen: Chosen
  /** Values of push constants, params and specialization constants; what is missing has its default. */
  readonly numbers: Readonly<Record<string, number>>
  readonly groups: readonly [number, number, number]
  /**
   * Where each buffer is: "table": its address stands in the row; "none": nowhere; else the name of an input of the chain. Memory that no part
   * writes is read through faster caches.
   */
  readonly buffers: Readonly<Record<string, { readonly at: string; readonly isWritten: boolean }>>
}

/** A body sees its own grid, whose workgroups the chain's take in turns. */
class Part extends Matrices {
  #taken = 0

  constructor(
    recorder: Recorder,
    size: ConstructorParameters<typeof Matrices>[1],
    private readonly place: readonly [U32, U32, U32],
    private readonly extent: readonly [number, number, number],
    private readonly space: SharedMemory,
  ) {
    super(recorder, size)
  }
  override get group(): U32 {
    return this.place[0]
  }
  override get groupY(): U32 {
    return this.place[1]
  }
  override get groupZ(): U32 {
    return this.place[2]
  }
  override get groups(): U32 {
    return this.u32(this.extent[0])
  }
  override get groupsY(): U32 {
    return this.u32(this.extent[1])
  }
  /** Parts run one after the other, so each takes the chain's shared memory from the beginning; matrices are loaded from what comes first. */
  override shared<T extends SharedElement>(name: string, element: T, length: number): SharedArray<T> {
    const { recorder, space } = this
    const from = this.#taken
    this.#taken += quads(element, length)
    const isFirst = from === 0 && typeName(element) === typeName(space.element)
    const memory: SharedMemory = isFirst ? space : { kind: "shared", name, element, length, within: { memory: space, from } }
    if (!isFirst) recorder.shared.push(memory)
    return new MemoryValue(recorder, { memory, element, count: 1 }) as unknown as SharedArray<T>
  }
  /** What is known while recording is decided here. */
  override if(condition: Bool, yes: () => void, no?: () => void): void {
    const node = nodeOf(condition)
    if (node.kind !== "literal") super.if(condition, yes, no)
    else if (node.value === true) yes()
    else no?.()
  }
}

/** Elements of vec4<u32> that hold an array. */
const quads = ({ size }: SharedElement, length: number): number => Math.ceil((size * length) / 4)

const mostQuads = (kernels: readonly Kernel[]): number =>
  Math.max(
    1,
    ...kernels.map(({ recording }) =>
      recording.shared.reduce((sum, { element, length }) => sum + quads(element as SharedElement, length), 0),
    ),
  )

/** Bytes of shared memory of a chain with parts of these kernels. */
export const chainSharedBytes = (kernels: readonly Kernel[]): number => 16 * mostQuads(kernels)

/** Cells of a row: the kind, whether the next step waits for this one, then an address for each of `most` buffers. */
export const chainRow = (most: number): number => 2 + most

/**
 * A kernel of `rows` steps: row i of `table` (chainRow(most) numbers) names a part and the addresses of its buffers in their order. `sync`: two
 * words, 0 before the first launch and after every. All workgroups of the grid must run at the same time; any grid does everything.
 */
export function chain(name: string, parts: readonly ChainPart[], most: number, inputs: readonly string[]): Kernel {
  const lanes = parts[0]!.kernel.workgroup as number
  const declared = Object.fromEntries(inputs.map((input) => [input, read(u32)]))
  const made = kernel({
    name,
    workgroup: lanes,
    sharedKiB: 48,
    buffers: { table: read(u64), sync: readWrite(u32), ...declared },
    push: { rows: u32 },
    body(k, { table, sync, rows, ...given }) {
      const { recorder } = k
      const length = mostQuads(parts.map((part) => part.kernel))
      const space: SharedMemory = { kind: "shared", name: "the parts' memory", element: vec4(u32), length }
      recorder.shared.push(space)
      const waits = k.var(u32, 0)
      k.for(0, rows, 1, (row) => {
        const cell = (i: number) => table.at(row.mul(chainRow(most)).add(i))
        const kind = cell(0).toU32()
        parts.forEach((part, number) => {
          k.if(kind.eq(number), () => {
            const [X, Y, Z] = part.groups
            k.for(k.group, X * Y * Z, k.groups, (at) => {
              const place = [at.mod(X), at.div(X).mod(Y), at.div(X * Y)] as const
              const own = new Part(recorder, recorder.literal(u32, lanes), place, part.groups, space)
              part.kernel.body(own, valuesOf(own, part, given as never, (i) => cell(2 + i)) as never)
              k.barrier() // shared memory is free again
            })
          })
        })
        k.if(cell(1).toU32().ne(0), () => {
          waits.add(1)
          k.gridBarrier(sync, waits.get().mul(k.groups))
        })
      })
      // The last to leave makes the counters 0 for the next launch.
      k.if(k.lane.eq(0), () => {
        k.if(sync.atomicAdd(1, 1).eq(k.groups.sub(1)), () => {
          sync.atomicExchange(0, 0)
          sync.atomicExchange(1, 0)
        })
      })
    },
  })
  return Object.assign(made as unknown as Kernel, { isMade: true })
}

/** What a body is given: memory by address or input, and numbers that are known. */
function valuesOf(
  k: Part,
  { kernel, chosen, numbers, buffers }: ChainPart,
  inputs: Readonly<Record<string, MemoryValue>>,
  address: (i: number) => U64,
) {
  const values: Record<string, unknown> = {}
  Object.entries(kernel.buffers).forEach(([name, { access, element }], i) => {
    const { at, isWritten } = buffers[name]!
    const type = resolve(element, chosen) as BufferSpec["element"]
    const input = inputs[at]
    if (input !== undefined) values[name] = input.as(type)
    else values[name] = k.memoryAt(name, address(i), isWritten ? readWrite(type) : { access, element: type })
  })
  for (const [name, { scalar }] of Object.entries({ ...kernel.push, ...kernel.params }))
    values[name] = literal(k, scalar, numbers[name] ?? 0)
  for (const [name, { type, value }] of Object.entries(kernel.constants)) values[name] = literal(k, type.scalar, numbers[name] ?? value)
  return values
}

const literal = (k: Part, scalar: "u32" | "i32" | "f32", value: number) =>
  scalar === "f32" ? k.f32(value) : scalar === "i32" ? k.i32(value) : k.u32(value)
