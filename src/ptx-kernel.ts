/** ptxKernel(): a declaration and a body become the text of one PTX module. */
import { Ptx } from "./ptx-hopper.ts"
import type { F32, U32, U64 } from "./ptx-register.ts"
import type { act, bf16, f32, read, u32, u64, write } from "./spirv.ts"

type Access = (ReturnType<typeof read> | ReturnType<typeof write>)["access"] | "readWrite"
/** As spirv.ts's read(), write() and readWrite() declare one. */
interface BufferSpec {
  readonly access: Access
  readonly element: typeof f32 | typeof bf16 | typeof u32 | typeof u64 | typeof act
}
type Buffers = Readonly<Record<string, BufferSpec>>
type Words = Readonly<Record<string, typeof u32 | typeof f32>>
type WordOf<T> = T extends typeof f32 ? F32 : U32

/** What a body is given: addresses of the buffers and of the live numbers, and the numbers fixed when the launch is recorded. */
type Given<B, P> = { readonly [N in keyof B]: U64 } & { readonly [N in keyof P]: WordOf<P[N]> } & { readonly params: U64 }

interface PtxSpec<B extends Buffers, P extends Words, L extends Words> {
  readonly name: string
  /** What it computes, grid and bytes: the comment above the text. */
  readonly about: string
  readonly threads: number
  /** Shared memory of a block; it begins at address 0. Beyond MOST_DYNAMIC there is a kernel only as machine code. */
  readonly sharedBytes: number
  readonly buffers: B
  readonly push?: P
  /** Numbers read when the launch runs, in this order from the address `params` on. */
  readonly params?: L
  body(k: Ptx, given: Given<B, P>): void
}

/** All that VK_NVX_binary_import gives a launch, in bytes. What the machine code itself says that it needs may be more (measured on an H200). */
export const MOST_DYNAMIC = 49_152

/** Bytes of shared memory that a launch asks for; 0 where the machine code says what it needs. */
export const dynamicBytes = ({ sharedBytes }: { readonly sharedBytes: number }): number => (sharedBytes > MOST_DYNAMIC ? 0 : sharedBytes)

/** A kernel of VK_NVX_binary_import; launches name it as they name one of spirv.ts. */
export interface PtxKernel<B extends Buffers = Buffers, P extends Words = Words, L extends Words = Words> {
  readonly name: string
  readonly threads: number
  readonly sharedBytes: number
  readonly buffers: B
  readonly push: P
  readonly params: L
  readonly constants: Readonly<Record<never, never>>
  /** The one there is. */
  readonly variants: readonly [{ readonly name: string; readonly chosen: Readonly<Record<never, never>> }]
  /** Parameters of the entry in order, 8 bytes each. */
  readonly cells: readonly PtxCell[]
  /** The module, written when first asked for. */
  readonly text: string
  /** Made while the program runs, so not in the pack. */
  readonly isMade?: boolean
}

export interface PtxCell {
  readonly name: string
  readonly type: "address" | "u32" | "f32"
}

export function ptxKernel<
  B extends Buffers,
  P extends Words = Readonly<Record<never, never>>,
  L extends Words = Readonly<Record<never, never>>,
>(spec: PtxSpec<B, P, L>): PtxKernel<B, P, L> {
  const [push, params] = [spec.push ?? ({} as P), spec.params ?? ({} as L)]
  const addresses = Object.keys(params).length === 0 ? Object.keys(spec.buffers) : [...Object.keys(spec.buffers), "params"]
  const cells: readonly PtxCell[] = [
    ...addresses.map((name) => ({ name, type: "address" }) as const),
    ...Object.entries(push).map(([name, { scalar }]) => ({ name, type: scalar })),
  ]
  let text: string | undefined
  return {
    name: spec.name,
    threads: spec.threads,
    sharedBytes: spec.sharedBytes,
    buffers: spec.buffers,
    push,
    params,
    constants: {},
    variants: [{ name: spec.name, chosen: {} }],
    cells,
    get text() {
      text ??= moduleText(spec, cells)
      return text
    },
  }
}

function moduleText<B extends Buffers, P extends Words, L extends Words>(spec: PtxSpec<B, P, L>, cells: readonly PtxCell[]): string {
  const k = new Ptx()
  const typeOf = { address: "u64", u32: "u32", f32: "f32" } as const
  const isLarge = spec.sharedBytes > MOST_DYNAMIC
  if (isLarge) k.emit("ld.volatile.shared.u32", k.register("u32"), "[memory]") // what nobody reads is left out of the machine code
  const given = Object.fromEntries(cells.map(({ name, type }) => [name, k.parameter(name, typeOf[type])]))
  spec.body(k, given as Given<B, P>)
  const strange = /[^\t\n -~]/.exec(spec.about + k.text())?.[0]
  if (strange !== undefined) throw new TypeError(`${spec.name}: PTX is ASCII, and has no ${strange}`)
  const parameters = cells.map(({ name, type }) => `\t.param .${typeOf[type]} ${name}`).join(",\n")
  return `// ${spec.about}
.version 8.3
.target sm_90a
.address_size 64

${isLarge ? `// ${spec.sharedBytes} bytes in the machine code\n.shared .align 1024 .b8 memory[1024];` : ".extern .shared .align 1024 .b8 memory[];"}

.visible .entry ${spec.name}(
${parameters}
)
.maxntid ${spec.threads}, 1, 1
.minnctapersm 1
{
${k.text()}
}
`
}

/** The entry's parameters of one launch. Throws a TypeError when a value is missing. */
export function cellBytes(cells: readonly PtxCell[], values: Readonly<Record<string, number | bigint>>): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(8 * cells.length))
  cells.forEach(({ name, type }, i) => {
    const value = values[name]
    if (value === undefined) throw new TypeError(`parameter ${name} is missing`)
    if (type === "address") view.setBigUint64(8 * i, BigInt(value), true)
    else if (type === "f32") view.setFloat32(8 * i, Number(value), true)
    else view.setUint32(8 * i, Number(value), true)
  })
  return new Uint8Array(view.buffer)
}
