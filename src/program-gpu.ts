/** How an op runs on a GPU: launches of kernels over tensors, scratch memory and constant tables. */
import type { PtxKernel } from "./ptx.ts"
import type { Kernel } from "./spirv.ts"
import type { Tensor } from "./tensor.ts"

/** Memory of one node alone; holds anything before it is written. */
export interface Scratch {
  readonly kind: "scratch"
  readonly dtype: "f32" | "bf16" | "u32" | "i32"
  readonly elements: number
}

/** Numbers that are fixed when the plan is compiled; u64 holds addresses of memory, other tables too, and numbers of 64 bits. */
export interface Table {
  readonly kind: "table"
  readonly dtype: "f32" | "u32" | "i32" | "u64"
  readonly values: readonly (number | bigint | Memory | undefined)[]
}

/** A tensor or scratch from its element `from` on; the address must stay aligned to 16 bytes. */
export interface Part {
  readonly kind: "part"
  readonly of: Tensor | Scratch
  readonly from: number
}

export type Memory = Tensor | Scratch | Table | Part

/** One dispatch, with what it reads and writes still symbolic. */
export interface Launch {
  readonly kernel: Kernel | PtxKernel
  /** Name in the pack: rms_norm_forward.bf16. */
  readonly variant: string
  /** Undefined = address 0; the kernel must know that it may not look there. */
  readonly buffers: Readonly<Record<string, Memory | undefined>>
  /** Buffers beside these by which the launch writes a tensor a second time: where the host reads it, if it is an output of the program. */
  readonly told?: Readonly<Record<string, Tensor>>
  readonly push: Readonly<Record<string, number>>
  /** Live scalars or numbers, read from memory when the dispatch runs. */
  readonly params: Readonly<Record<string, Tensor | number>>
  readonly constants: Readonly<Record<string, number>>
  /** Workgroups along x, y, z. */
  readonly groups: readonly [number, number, number]
  /** Bytes that it moves, where that is not each of its buffers once. */
  readonly bytes?: number
}

/** Steps in order, each waiting for the one before; the launches of one step run side by side. */
export type Launches = readonly (Launch | readonly Launch[])[]

/** What an op may know of the device when it chooses kernels and grids. */
export interface GpuTarget {
  /** Lanes per subgroup, 4 to 64. */
  readonly subgroupSize: number
  /** Matrix instructions: none, VK_KHR_cooperative_matrix, or VK_NV_cooperative_matrix2 with tensor addressing beside it. */
  readonly matrix: "none" | "khr" | "nv2"
  /** Hopper's own instructions, by kernels in PTX. */
  readonly ptx: boolean
  /** Per-element functions, reductions and conversions of VK_NV_cooperative_matrix2 on matrices of a subgroup. */
  readonly hasMatrixFunctions: boolean
  /** Processors that run workgroups at once (SMs); an estimate where the driver does not tell. */
  readonly units: number
  readonly sharedBytes: number
  /** The same of a block of a kernel in PTX; 48 KiB where it is not told. */
  readonly ptxRoom?: number
  /** Blocks of kernels in PTX, one for each unit, may wait for each other: a model's layers are one launch. */
  readonly stacks?: boolean
}
