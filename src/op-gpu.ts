/** Builders of GPU launches that check names and types of a kernel's buffers, numbers and live scalars. */
import type { GpuTarget, Launch, Launches, Memory, Part, Scratch, Table } from "./program.ts"
import type { PtxKernel } from "./ptx.ts"
import type { Kernel } from "./spirv.ts"
import type { Tensor } from "./tensor.ts"

type Values<B, P, L> = { readonly [N in keyof B]: Memory | undefined } & { readonly [N in keyof P]: number } & {
  readonly [N in keyof L]: Tensor | number
}
type Declared<B, P, L, C> = { readonly buffers: B; readonly push: P; readonly params: L; readonly constants: C }

/**
 * A dispatch of `kernel`: every buffer, push constant and param by name, workgroups (x, or x, y, z), specialization constants where they
 * differ from the defaults. The variant is the one of the buffers' dtypes. Throws a TypeError where there is none.
 */
export function launch<B, P, L, C>(
  kernel: Declared<B, P, L, C>,
  values: NoInfer<Values<B, P, L>>,
  groups: number | readonly [number, number?, number?],
  constants: { readonly [N in keyof NoInfer<C>]?: number } = {},
): Launch {
  const declared = kernel as unknown as Kernel | PtxKernel
  const given = values as Readonly<Record<string, Memory | Tensor | number | undefined>>
  const only = <T>(names: object) => Object.fromEntries(Object.keys(names).map((name) => [name, given[name]])) as Record<string, T>
  const [x, y = 1, z = 1] = typeof groups === "number" ? [groups] : groups
  const buffers = only<Memory | undefined>(declared.buffers)
  return {
    kernel: declared,
    variant: variantOf(declared, buffers),
    buffers,
    push: only(declared.push),
    params: only(declared.params),
    constants: constants as Record<string, number>,
    groups: [x, y, z],
  }
}

/** Type of the memory's elements. */
export const dtypeOf = (memory: Memory): string => ("kind" in memory && memory.kind === "part" ? memory.of.dtype : (memory as Tensor).dtype)

function variantOf(kernel: Kernel | PtxKernel, buffers: Readonly<Record<string, Memory | undefined>>): string {
  const chosen: Record<string, string> = {}
  for (const [name, { element }] of Object.entries(kernel.buffers)) {
    const memory = buffers[name]
    if (memory === undefined || !("choice" in element)) continue
    const dtype = dtypeOf(memory)
    const before = chosen[element.choice] ?? dtype
    if (before !== dtype) throw new TypeError(`${kernel.name}: ${name} is ${dtype}, another ${element.choice} buffer is ${before}`)
    chosen[element.choice] = dtype
  }
  const variants = kernel.variants as Kernel["variants"]
  const fits = variants.find((variant) => Object.entries(chosen).every(([choice, dtype]) => variant.chosen[choice] === dtype))
  if (fits === undefined) throw new TypeError(`${kernel.name}: no variant for ${JSON.stringify(chosen)}`)
  return fits.name
}

/** Independent launches, step by step together. */
export function sideBySide(...parts: readonly Launches[]): Launches {
  const steps = Math.max(...parts.map((part) => part.length))
  return Array.from({ length: steps }, (_, i) => parts.flatMap((part) => part[i] ?? []))
}

/** Memory of this node alone, `count` elements. */
export const scratch = (dtype: Scratch["dtype"], count: number): Scratch => ({ kind: "scratch", dtype, elements: count })

/** Constant numbers, or addresses and bigints ("u64"; undefined = 0). */
export const table = (dtype: Table["dtype"], values: Table["values"]): Table => ({ kind: "table", dtype, values })

/** `of` from its element `from` on. Throws a TypeError where that is not aligned to 16 bytes. */
export function part(of: Tensor | Scratch, from: number): Part {
  const bytes = from * (of.dtype === "bf16" ? 2 : 4)
  if (bytes % 16 !== 0) throw new TypeError(`part: element ${from} of ${of.dtype} is not aligned to 16 bytes`)
  return { kind: "part", of, from }
}

/** Workgroups so that each lane of `workgroup` takes about `perLane` of `count` elements, at most what fills the device eight times. */
export function groupsFor(count: number, perLane: number, target: GpuTarget, workgroup = 256): number {
  return Math.max(1, Math.min(Math.ceil(count / (workgroup * perLane)), target.units * (2048 / workgroup) * 8, 65535))
}

/** Workgroups for `count` rows that a kernel takes in turns: one each up to the limit of a grid. */
export const groupsForRows = (count: number): number => Math.min(count, 65535)

export type { GpuTarget, Launch, Launches } from "./program.ts"
