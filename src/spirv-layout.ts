/** Where a kernel's push constants lie: addresses of its buffers, address of its params, then its numbers. */
import type { Kernel, Word } from "./spirv-kernel.ts"

export interface PushField {
  readonly name: string
  /** "address" is 8 bytes, the others 4. */
  readonly type: "address" | Word["scalar"]
  /** In bytes from the start of the push constants. */
  readonly offset: number
}

/** Name of the push constant with the address of the params block. */
export const PARAMS = "params"

/** The push constants in order; an address comes before every number, so nothing needs padding. */
export function pushLayout({ buffers, params, push }: Pick<Kernel, "buffers" | "params" | "push">): PushField[] {
  const addresses = Object.keys(params).length === 0 ? Object.keys(buffers) : [...Object.keys(buffers), PARAMS]
  return [
    ...addresses.map((name, i) => ({ name, type: "address", offset: 8 * i }) as const),
    ...Object.entries(push).map(([name, { scalar }], i) => ({ name, type: scalar, offset: 8 * addresses.length + 4 * i })),
  ]
}

/** Bytes of the push constants. */
export const pushSize = (fields: readonly PushField[]): number => fields.reduce((sum, { type }) => sum + (type === "address" ? 8 : 4), 0)

/** The bytes of the push constants. Throws a TypeError when a value is missing. */
export function pushBytes(fields: readonly PushField[], values: Readonly<Record<string, number | bigint>>): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(pushSize(fields)))
  for (const { name, type, offset } of fields) {
    const value = values[name]
    if (value === undefined) throw new TypeError(`push constant ${name} is missing`)
    if (type === "address") view.setBigUint64(offset, BigInt(value), true)
    else if (type === "f32") view.setFloat32(offset, Number(value), true)
    else if (type === "u32") view.setUint32(offset, Number(value), true)
    else view.setInt32(offset, Number(value), true)
  }
  return new Uint8Array(view.buffer)
}
