/** The elementwise operations: per operand type the SPIR-V instruction and what the simulator computes. */
import type { ScalarName } from "./spirv-type.ts"

type Js = (...args: never[]) => number | bigint | boolean

export interface Form {
  /** SPIR-V opcode, or number in GLSL.std.450 when `glsl`. */
  readonly code: number
  readonly glsl?: true
  /** The instruction returns the pair (low, high); the high part is meant. */
  readonly high?: true
  /** Both operands, rounded to bf16, as one word. */
  readonly packs?: true
  /** Result before it is stored in the simulator's typed array, which rounds f32 and wraps integers. */
  readonly js: Js
}

export interface Operation {
  /** Scalar of the result; "same" is the first operand's. */
  readonly result: ScalarName | "same"
  readonly forms: Partial<Record<ScalarName, Form>>
}

const core = (code: number, js: Js): Form => ({ code, js })
const glsl = (code: number, js: Js): Form => ({ code, glsl: true, js })
const same = (forms: Operation["forms"]): Operation => ({ result: "same", forms })
const truth = (forms: Operation["forms"]): Operation => ({ result: "bool", forms })
const to = (result: ScalarName, forms: Operation["forms"]): Operation => ({ result, forms })

const add = (a: number, b: number) => a + b
const sub = (a: number, b: number) => a - b
const div = (a: number, b: number) => Math.trunc(a / b)
const mod = (a: number, b: number) => a % b
const bigAdd = (a: bigint, b: bigint) => a + b
const bigSub = (a: bigint, b: bigint) => a - b
const bigMul = (a: bigint, b: bigint) => a * b
const bigShl = (a: bigint, b: bigint) => a << b
const bigShr = (a: bigint, b: bigint) => a >> b
const and = (a: number, b: number) => a & b
const or = (a: number, b: number) => a | b
const xor = (a: number, b: number) => a ^ b
const not = (a: number) => ~a
const shl = (a: number, b: number) => a << b
type Compared = number | bigint
const eq = (a: Compared, b: Compared) => a === b
const ne = (a: Compared, b: Compared) => a !== b
const lt = (a: Compared, b: Compared) => a < b
const le = (a: Compared, b: Compared) => a <= b
const gt = (a: Compared, b: Compared) => a > b
const ge = (a: Compared, b: Compared) => a >= b
const identity = (a: number) => a

const word = new Uint32Array(1)
const single = new Float32Array(word.buffer)
const bitsOf = (a: number): number => {
  single[0] = a
  return word[0]!
}
const floatOf = (a: number): number => {
  word[0] = a
  return single[0]!
}

function bf16Bits(a: number): number {
  const bits = bitsOf(a)
  return Number.isNaN(a) ? 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16
}

function roundEven(a: number): number {
  const low = Math.floor(a)
  const rest = a - low
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1
  return low % 2 === 0 ? low : low + 1
}

function bitCount(a: number): number {
  let count = 0
  for (let rest = a; rest !== 0; rest = (rest & (rest - 1)) >>> 0) count++
  return count
}

export const OPERATIONS = {
  add: same({ f32: core(129, add), u32: core(128, add), i32: core(128, add), u64: core(128, bigAdd) }),
  sub: same({ f32: core(131, sub), u32: core(130, sub), i32: core(130, sub), u64: core(130, bigSub) }),
  mul: same({
    f32: core(133, (a: number, b: number) => a * b),
    u32: core(132, Math.imul),
    i32: core(132, Math.imul),
    u64: core(132, bigMul),
  }),
  div: same({ f32: core(136, (a: number, b: number) => a / b), u32: core(134, div), i32: core(135, div) }),
  mod: same({ u32: core(137, mod), i32: core(138, mod) }),
  fma: same({ f32: glsl(50, (a: number, b: number, c: number) => a * b + c) }),
  mulHigh: same({ u32: { code: 151, high: true, js: (a: number, b: number) => Number((BigInt(a) * BigInt(b)) >> 32n) } }),
  min: same({ f32: glsl(37, Math.min), u32: glsl(38, Math.min), i32: glsl(39, Math.min) }),
  max: same({ f32: glsl(40, Math.max), u32: glsl(41, Math.max), i32: glsl(42, Math.max) }),
  and: same({ bool: core(167, and), u32: core(199, and), i32: core(199, and) }),
  or: same({ bool: core(166, or), u32: core(197, or), i32: core(197, or) }),
  xor: same({ u32: core(198, xor), i32: core(198, xor) }),
  not: same({ bool: core(168, (a: number) => a === 0), u32: core(200, not), i32: core(200, not) }),
  shl: same({ u32: core(196, shl), i32: core(196, shl), u64: core(196, bigShl) }),
  shr: same({
    u32: core(194, (a: number, b: number) => a >>> b),
    i32: core(195, (a: number, b: number) => a >> b),
    u64: core(194, bigShr),
  }),
  bitCount: same({ u32: core(205, bitCount) }),
  eq: truth({ f32: core(180, eq), u32: core(170, eq), i32: core(170, eq), u64: core(170, eq) }),
  ne: truth({ f32: core(183, ne), u32: core(171, ne), i32: core(171, ne), u64: core(171, ne), bool: core(165, ne) }),
  lt: truth({ f32: core(184, lt), u32: core(176, lt), i32: core(177, lt), u64: core(176, lt) }),
  le: truth({ f32: core(188, le), u32: core(178, le), i32: core(179, le), u64: core(178, le) }),
  gt: truth({ f32: core(186, gt), u32: core(172, gt), i32: core(173, gt), u64: core(172, gt) }),
  ge: truth({ f32: core(190, ge), u32: core(174, ge), i32: core(175, ge), u64: core(174, ge) }),
  isNan: truth({ f32: core(156, Number.isNaN) }),
  isInf: truth({ f32: core(157, (a: number) => Math.abs(a) === Number.POSITIVE_INFINITY) }),
  neg: same({ f32: core(127, (a: number) => -a), i32: core(126, (a: number) => -a) }),
  abs: same({ f32: glsl(4, Math.abs), i32: glsl(5, Math.abs) }),
  floor: same({ f32: glsl(8, Math.floor) }),
  ceil: same({ f32: glsl(9, Math.ceil) }),
  round: same({ f32: glsl(2, roundEven) }),
  sin: same({ f32: glsl(13, Math.sin) }),
  cos: same({ f32: glsl(14, Math.cos) }),
  tanh: same({ f32: glsl(21, Math.tanh) }),
  pow: same({ f32: glsl(26, Math.pow) }),
  exp: same({ f32: glsl(27, Math.exp) }),
  log: same({ f32: glsl(28, Math.log) }),
  exp2: same({ f32: glsl(29, (a: number) => 2 ** a) }),
  log2: same({ f32: glsl(30, Math.log2) }),
  sqrt: same({ f32: glsl(31, Math.sqrt) }),
  rsqrt: same({ f32: glsl(32, (a: number) => 1 / Math.sqrt(a)) }),
  toF32: to("f32", { u32: core(112, identity), i32: core(111, identity) }),
  toU32: to("u32", { f32: core(109, Math.trunc), i32: core(124, identity), u64: core(113, (a: bigint) => Number(a & 0xffffffffn)) }),
  toI32: to("i32", { f32: core(110, Math.trunc), u32: core(124, identity) }),
  toU64: to("u64", { u32: core(113, (a: number) => BigInt(a)) }),
  bits: to("u32", { f32: core(124, bitsOf) }),
  packBf16: to("u32", { f32: { code: 115, packs: true, js: (a: number, b: number) => bf16Bits(a) | (bf16Bits(b) << 16) } }),
  asF32: to("f32", { u32: core(124, floatOf) }),
} as const satisfies Record<string, Operation>

export type OperationName = keyof typeof OPERATIONS

/** The form of an operation for operands of a scalar type. */
export const formOf = (name: OperationName, scalar: ScalarName): Form | undefined => (OPERATIONS[name] as Operation).forms[scalar]

/** Operations over the lanes of a subgroup: opcode per scalar type; `group` is the group operation (0 reduce, 1 inclusive, 2 exclusive scan). */
export interface GroupOperation {
  readonly group: 0 | 1 | 2
  readonly codes: Partial<Record<ScalarName, number>>
  readonly combine: (a: number, b: number) => number
  readonly identity: Partial<Record<ScalarName, number>>
}

const sums = { f32: 350, u32: 349, i32: 349 }
const zeros = { f32: 0, u32: 0, i32: 0 }
export const GROUP_OPERATIONS = {
  subgroupAdd: { group: 0, codes: sums, combine: add, identity: zeros },
  subgroupMin: {
    group: 0,
    codes: { f32: 355, u32: 354, i32: 353 },
    combine: Math.min,
    identity: { f32: Number.POSITIVE_INFINITY, u32: 0xffffffff, i32: 0x7fffffff },
  },
  subgroupMax: {
    group: 0,
    codes: { f32: 358, u32: 357, i32: 356 },
    combine: Math.max,
    identity: { f32: Number.NEGATIVE_INFINITY, u32: 0, i32: -0x80000000 },
  },
  subgroupInclusiveAdd: { group: 1, codes: sums, combine: add, identity: zeros },
  subgroupExclusiveAdd: { group: 2, codes: sums, combine: add, identity: zeros },
} as const satisfies Record<string, GroupOperation>

export type GroupOperationName = keyof typeof GROUP_OPERATIONS
