/** Writes the instructions of a PTX kernel: arithmetic on typed registers, predication, structured control flow, memory. */
import {
  type F32,
  type Kind,
  type Operand,
  operandText,
  type Predicate,
  REGISTERS,
  type Register,
  type U32,
  type U64,
} from "./ptx-register.ts"

type Number = "u32" | "u64" | "f32"
type Comparison = "eq" | "ne" | "lt" | "le" | "gt" | "ge"
/** Type of the elements of a memory access, and the registers they are in. */
type Element = "u32" | "u64" | "f32" | "u16"

/** A place in the text. */
interface Label {
  readonly name: string
}

const BITS: Readonly<Record<Kind, string>> = { pred: "pred", u32: "b32", u64: "b64", f32: "f32" }

/** The text of a body while it is written. Every method appends; those that compute return the register with the result. */
export class PtxBody {
  readonly #lines: string[] = []
  readonly #counts: Record<Kind, number> = { pred: 0, u32: 0, u64: 0, f32: 0 }
  #labels = 0
  #guard = ""

  /** Declarations of the registers and the instructions. */
  text(): string {
    const declared = (Object.keys(REGISTERS) as Kind[]).flatMap((kind) => {
      const [prefix, type] = REGISTERS[kind]
      return this.#counts[kind] === 0 ? [] : [`\t.reg ${type} ${prefix}<${this.#counts[kind]}>;`]
    })
    return [...declared, ...this.#lines].join("\n")
  }

  register<K extends Kind>(kind: K): Register<K> {
    return { kind, name: `${REGISTERS[kind][0]}${this.#counts[kind]++}` }
  }
  registers<K extends Kind>(kind: K, count: number): Register<K>[] {
    return Array.from({ length: count }, () => this.register(kind))
  }

  comment(text: string): void {
    this.#lines.push(`\t// ${text}`)
  }
  /** One instruction; operands in the order of the text. */
  emit(instruction: string, ...operands: readonly (Register | number | bigint | string)[]): void {
    const list = operands.map((operand) => operandText(operand)).join(", ")
    this.#lines.push(`\t${this.#guard}${instruction}${list === "" ? "" : ` ${list}`};`)
  }
  /** Instructions of `body` take effect only where `p` holds (or does not). */
  when(p: Predicate, body: () => void, holds = true): void {
    if (this.#guard !== "") throw new TypeError("PTX: a predicated instruction inside another")
    this.#guard = `@${holds ? "" : "!"}${p.name} `
    body()
    this.#guard = ""
  }

  // ---- arithmetic ----

  copy<K extends Kind>(to: Register<K>, from: Operand<K>): void {
    this.emit(`mov.${BITS[to.kind]}`, to, operandText(from, to.kind))
  }
  /** A register that holds a number, to be changed later. */
  variable<K extends Number>(kind: K, value: Operand<K>): Register<K> {
    const made = this.register(kind)
    this.copy(made, value)
    return made
  }
  #two<K extends Kind>(instruction: string, kind: K, a: Operand<K>, b: Operand<Kind>, into?: Register<K>): Register<K> {
    const made = into ?? this.register(kind)
    this.emit(instruction, made, operandText(a, kind), operandText(b, kind))
    return made
  }
  add(a: U32, b: Operand<"u32">, into?: U32): U32 {
    return this.#two("add.u32", "u32", a, b, into)
  }
  addLong(a: U64, b: Operand<"u64">, into?: U64): U64 {
    return this.#two("add.u64", "u64", a, b, into)
  }
  sub(a: Operand<"u32">, b: Operand<"u32">, into?: U32): U32 {
    return this.#two("sub.u32", "u32", a, b, into)
  }
  mul(a: U32, b: Operand<"u32">, into?: U32): U32 {
    return this.#two("mul.lo.u32", "u32", a, b, into)
  }
  /** The upper 32 bits of a·b. */
  mulHigh(a: U32, b: Operand<"u32">): U32 {
    return this.#two("mul.hi.u32", "u32", a, b)
  }
  div(a: U32, b: Operand<"u32">): U32 {
    return this.#two("div.u32", "u32", a, b)
  }
  rem(a: U32, b: Operand<"u32">): U32 {
    return this.#two("rem.u32", "u32", a, b)
  }
  min(a: U32, b: Operand<"u32">): U32 {
    return this.#two("min.u32", "u32", a, b)
  }
  and(a: U32, b: Operand<"u32">): U32 {
    return this.#two("and.b32", "u32", a, b)
  }
  or(a: U32, b: Operand<"u32">): U32 {
    return this.#two("or.b32", "u32", a, b)
  }
  xor(a: U32, b: Operand<"u32">, into?: U32): U32 {
    return this.#two("xor.b32", "u32", a, b, into)
  }
  shl(a: U32, bits: number, into?: U32): U32 {
    return this.#two("shl.b32", "u32", a, bits, into)
  }
  shr(a: U32, bits: number): U32 {
    return this.#two("shr.u32", "u32", a, bits)
  }
  /** a·b + c. */
  mad(a: U32, b: Operand<"u32">, c: Operand<"u32">): U32 {
    const made = this.register("u32")
    this.emit("mad.lo.u32", made, a, b, c)
    return made
  }
  /** a·b in 64 bits, + c. */
  madWide(a: U32, b: Operand<"u32">, c: Operand<"u64">): U64 {
    const made = this.register("u64")
    this.emit("mad.wide.u32", made, a, b, c)
    return made
  }
  /** a·b + c for an address c; a and b below 2^32. */
  madLong(a: U32, b: Operand<"u32">, c: U64): U64 {
    return this.madWide(a, b, c)
  }
  /** a << bits, bits below 32. */
  shiftLeft(a: Operand<"u32">, bits: U32): U32 {
    return this.#two("shl.b32", "u32", a, bits)
  }
  /** a >> bits, bits below 32. */
  shiftRight(a: U32, bits: U32): U32 {
    return this.#two("shr.u32", "u32", a, bits)
  }
  long(a: U32): U64 {
    const made = this.register("u64")
    this.emit("cvt.u64.u32", made, a)
    return made
  }

  addFloat(a: F32, b: Operand<"f32">, into?: F32): F32 {
    return this.#two("add.rn.f32", "f32", a, b, into)
  }
  subFloat(a: Operand<"f32">, b: Operand<"f32">, into?: F32): F32 {
    return this.#two("sub.rn.f32", "f32", a, b, into)
  }
  mulFloat(a: F32, b: Operand<"f32">, into?: F32): F32 {
    return this.#two("mul.rn.f32", "f32", a, b, into)
  }
  maxFloat(a: F32, b: Operand<"f32">, into?: F32): F32 {
    return this.#two("max.NaN.f32", "f32", a, b, into)
  }
  /** The larger one; of a number and NaN the number. */
  maxNumber(a: F32, b: Operand<"f32">): F32 {
    return this.#two("max.f32", "f32", a, b)
  }
  negate(a: F32, into?: F32): F32 {
    return this.unary("neg.f32", a, into)
  }
  /** a·b + c, rounded once. */
  fma(a: F32, b: Operand<"f32">, c: Operand<"f32">, into?: F32): F32 {
    const made = into ?? this.register("f32")
    this.emit("fma.rn.f32", made, a, operandText(b, "f32"), operandText(c, "f32"))
    return made
  }
  /** One operand, one result: ex2.approx.ftz.f32 and its like. */
  unary(instruction: string, a: F32, into?: F32): F32 {
    const made = into ?? this.register("f32")
    this.emit(instruction, made, a)
    return made
  }
  /** Two bf16 in 32 bits, rounded to nearest even. */
  packBf16(low: F32, high: F32, into?: U32): U32 {
    const made = into ?? this.register("u32")
    this.emit("cvt.rn.bf16x2.f32", made, high, low)
    return made
  }
  /** The f32 of the lower or upper bf16 of a pair. */
  unpackBf16(pair: U32, half: 0 | 1): F32 {
    const bits = half === 0 ? this.shl(pair, 16) : this.and(pair, 0xffff0000)
    const made = this.register("f32")
    this.emit("mov.b32", made, bits)
    return made
  }

  /** The products of two pairs of bf16, each rounded to nearest even. */
  mulBf16(a: U32, b: U32): U32 {
    return this.#two("mul.rn.bf16x2", "u32", a, b)
  }
  /** The bits of a float. */
  bits(a: F32): U32 {
    const made = this.register("u32")
    this.emit("mov.b32", made, a)
    return made
  }
  toFloat(a: U32): F32 {
    const made = this.register("f32")
    this.emit("cvt.rn.f32.u32", made, a)
    return made
  }
  /** The integer below ("rzi") or above ("rpi") a, 0 for NaN and what is negative, 2^32 − 1 for what is too large. */
  toInteger(a: F32, rounding: "rzi" | "rpi" = "rzi"): U32 {
    const made = this.register("u32")
    this.emit(`cvt.${rounding}.u32.f32`, made, a)
    return made
  }

  // ---- truth ----

  compare(how: Comparison, a: U32 | U64 | F32, b: Operand<"u32"> | Operand<"u64"> | Operand<"f32">, into?: Predicate): Predicate {
    const made = into ?? this.register("pred")
    this.emit(`setp.${how}.${a.kind}`, made, a, operandText(b as Operand<"u32">, a.kind))
    return made
  }
  both(a: Predicate, b: Predicate): Predicate {
    return this.#two("and.pred", "pred", a, b)
  }
  either(a: Predicate, b: Predicate): Predicate {
    return this.#two("or.pred", "pred", a, b)
  }
  not(a: Predicate): Predicate {
    const made = this.register("pred")
    this.emit("not.pred", made, a)
    return made
  }
  select<K extends Number>(p: Predicate, a: Operand<K>, b: Operand<K>, kind: K, into?: Register<K>): Register<K> {
    const made = into ?? this.register(kind)
    this.emit(`selp.${BITS[kind]}`, made, operandText(a, kind), operandText(b, kind), p)
    return made
  }

  // ---- control flow ----

  label(what: string): Label {
    return { name: `${what}_${this.#labels++}` }
  }
  place(label: Label): void {
    this.#lines.push(`${label.name}:`)
  }
  /** A jump; `uniform`: all lanes of the warp jump or none. */
  jump(label: Label, p?: Predicate, holds = true): void {
    this.#lines.push(`\t${p === undefined ? "" : `@${holds ? "" : "!"}${p.name} `}bra ${label.name};`)
  }
  if(p: Predicate, then: () => void, otherwise?: () => void): void {
    const [other, end] = [this.label("ELSE"), this.label("END")]
    this.jump(other, p, false)
    then()
    if (otherwise !== undefined) this.jump(end)
    this.place(other)
    otherwise?.()
    if (otherwise !== undefined) this.place(end)
  }
  /** Repeats `body` while `condition`, asked before each turn, holds. */
  while(what: string, condition: () => Predicate, body: () => void): void {
    const [begin, end] = [this.label(what), this.label(`${what}_END`)]
    this.place(begin)
    this.jump(end, condition(), false)
    body()
    this.jump(begin)
    this.place(end)
  }

  // ---- memory ----

  special(name: string): U32 {
    const made = this.register("u32")
    this.emit("mov.u32", made, name)
    return made
  }
  parameter<K extends "u32" | "u64" | "f32">(name: string, kind: K): Register<K> {
    const made = this.register(kind)
    this.emit(`ld.param.${kind}`, made, `[${name}]`)
    return made
  }
  /** Loads as many neighbours as `to` has registers; "wide": what lies around, 256 bytes, shall come to the L2 cache too. */
  load(element: Element, to: readonly Register[], address: U64, bytes = 0, reach: "wide" | "" = ""): void {
    this.emit(`ld.global${reach === "wide" ? ".L2::256B" : ""}${vector(to)}.${element}`, list(to), at(address, bytes))
  }
  /** Has the line of an address brought to the L2 cache. */
  prefetch(address: U64, bytes = 0): void {
    this.emit("prefetch.global.L2", at(address, bytes))
  }
  store(element: Element, address: U64, bytes: number, from: readonly Register[]): void {
    this.emit(`st.global${vector(from)}.${element}`, at(address, bytes), list(from))
  }
}

const vector = (registers: readonly Register[]): string => (registers.length === 1 ? "" : `.v${registers.length}`)
/** A vector operand: {%r1, %r2}. */
export const list = (registers: readonly Register[]): string =>
  registers.length === 1 ? operandText(registers[0]!) : `{${registers.map((one) => one.name).join(", ")}}`
/** An address operand: [%r1+16]. */
export const at = (address: Register, bytes = 0): string => `[${address.name}${bytes === 0 ? "" : `+${bytes}`}]`
