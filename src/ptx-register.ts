/** Typed registers of a PTX kernel, and how operands are written. */

/** 32 bits (integers of either sign, packed pairs), 64 bits (addresses, descriptors, barriers' states), f32, a truth value. */
export type Kind = "u32" | "u64" | "f32" | "pred"

export interface Register<K extends Kind = Kind> {
  readonly kind: K
  /** As in the text: %r4. */
  readonly name: string
}

export type U32 = Register<"u32">
export type U64 = Register<"u64">
export type F32 = Register<"f32">
export type Predicate = Register<"pred">

/** A register, or a number that is written into the instruction. */
export type Operand<K extends Kind> = Register<K> | (K extends "pred" ? never : K extends "u64" ? number | bigint : number)

/** Letter and type of the declarations. */
export const REGISTERS: Readonly<Record<Kind, readonly [prefix: string, type: string]>> = {
  pred: ["%p", ".pred"],
  u32: ["%r", ".b32"],
  u64: ["%d", ".b64"],
  f32: ["%f", ".f32"],
}

const word = new DataView(new ArrayBuffer(4))

/** The bits of a float as PTX writes them: 0f3f800000. */
function floatText(x: number): string {
  word.setFloat32(0, x)
  return `0f${word.getUint32(0).toString(16).padStart(8, "0")}`
}

/** An operand as text; a plain number is an integer. */
export function operandText(operand: Register | number | bigint | string, kind?: Kind): string {
  if (typeof operand === "object") return operand.name
  if (kind === "f32" && typeof operand === "number") return floatText(operand)
  return typeof operand === "bigint" ? `0x${operand.toString(16)}` : String(operand)
}
