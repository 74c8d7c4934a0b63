/** Kernels whose every output element depends on the elements at its place. */
import {
  act,
  type Body,
  choice,
  type F32,
  f32,
  type Index,
  kernel,
  type PackReads,
  type PackWrites,
  read,
  readWrite,
  type U32,
  u32,
  write,
} from "../src/spirv.ts"

/** Elements per lane and turn: 16 bytes of bf16, twice 16 of f32. */
export const PACK = 8

/** What a lane reads from, and writes to, one element or pack at a time, whatever the type. */
interface Input {
  at(index: Index): F32
  pack(count: 8): PackReads
}
interface Output {
  set(index: Index, value: F32): void
  pack(count: 8): PackWrites
}

/** y[i] = fn(inputs[i] …) for i < n: packs in a loop over the grid, then the n mod 8 elements that are left, in the first lanes. */
export function eachElement(k: Body, n: U32, inputs: readonly Input[], y: Output, fn: (...values: F32[]) => F32): void {
  const first = k.group.mul(k.workgroup).add(k.lane)
  const stride = k.groups.mul(k.workgroup)
  const packs = n.div(PACK)
  k.for(first, packs, stride, (i) => {
    const values = inputs.map((input) => input.pack(PACK).at(i))
    y.pack(PACK).set(
      i,
      Array.from({ length: PACK }, (_, j) => fn(...values.map((pack) => pack[j]!))),
    )
  })
  k.for(packs.mul(PACK).add(first), n, stride, (i) => y.set(i, fn(...inputs.map((input) => input.at(i)))))
}

/** y = a + b, n elements each; y is f32 unless both are bf16. Grid: any; ⌈n / 2048⌉ workgroups give each lane one pack. Moves n·(sa + sb + sy) bytes. */
export const add = kernel({
  name: "add",
  workgroup: 256,
  buffers: { a: read(choice("a")), b: read(choice("b")), y: write(choice("y")) },
  push: { n: u32 },
  variants: [
    { a: "f32", b: "f32", y: "f32" },
    { a: "bf16", b: "bf16", y: "bf16" },
    { a: "f32", b: "bf16", y: "f32" },
    { a: "bf16", b: "f32", y: "f32" },
  ],
  body: (k, { a, b, y, n }) => eachElement(k, n, [a, b], y, (left, right) => left.add(right)),
})

/** y = a·b, n elements. Grid as add. Moves 3·n·s bytes. */
export const multiply = kernel({
  name: "multiply",
  workgroup: 256,
  buffers: { a: read(act), b: read(act), y: write(act) },
  push: { n: u32 },
  body: (k, { a, b, y, n }) => eachElement(k, n, [a, b], y, (left, right) => left.mul(right)),
})

/** y = x in y's type, n elements. Grid as add. Moves n·(sx + sy) bytes. */
export const cast = kernel({
  name: "cast",
  workgroup: 256,
  buffers: { x: read(choice("x")), y: write(choice("y")) },
  push: { n: u32 },
  body: (k, { x, y, n }) => eachElement(k, n, [x], y, (v) => v),
})

/** y = x + beta·y, n elements, y f32; beta 0 does not read y. Grid as add. Moves n·(s + 4) bytes, n·(s + 8) where y is read. */
export const assign = kernel({
  name: "assign",
  workgroup: 256,
  buffers: { x: read(act), y: readWrite(f32) },
  push: { n: u32 },
  params: { beta: f32 },
  body(k, { x, y, n, beta }) {
    k.if(
      beta.eq(0),
      () => eachElement(k, n, [x], y, (v) => v),
      () => eachElement(k, n, [x, y], y, (v, before) => before.mul(beta).add(v)),
    )
  },
})

/** y = value, n elements. Grid as add. Moves 4·n bytes. */
export const fill = kernel({
  name: "fill",
  workgroup: 256,
  buffers: { y: write(f32) },
  push: { n: u32, value: f32 },
  body: (k, { y, n, value }) => eachElement(k, n, [], y, () => value),
})

/** tanh x from e^(−2|x|), which cannot overflow; below 0.55 by its series, where 1 − e would cancel. The fit is native/cpu-math.h's. */
export function tanh(k: Body, x: F32): F32 {
  const s = x.mul(x)
  const p = [2.1077754e-2, -5.38538578e-2, 1.33326024e-1, -3.33333194e-1].reduce((sum, c) => sum.mul(s).add(c), k.f32(-6.28246693e-3))
  const e = x.abs().mul(-2).exp()
  const large = k.f32(1).sub(e).div(e.add(1))
  return x.abs().lt(0.55).select(x.mul(s).mul(p).add(x), x.lt(0).select(large.neg(), large))
}

/** y = cap·tanh(x/cap), n elements. Grid as add. Moves 2·n·s bytes. Source: arXiv:2408.00118. */
export const softCap = kernel({
  name: "soft_cap",
  workgroup: 256,
  buffers: { x: read(act), y: write(act) },
  push: { n: u32, cap: f32, inverse: f32 },
  body: (k, { x, y, n, cap, inverse }) => eachElement(k, n, [x], y, (v) => tanh(k, v.mul(inverse)).mul(cap)),
})

/** dx = dy·(1 − tanh²(x/cap)), n elements. Grid as add. Moves 3·n·s bytes. */
export const softCapBackward = kernel({
  name: "soft_cap_backward",
  workgroup: 256,
  buffers: { x: read(act), dy: read(act), dx: write(act) },
  push: { n: u32, inverse: f32 },
  body: (k, { x, dy, dx, n, inverse }) =>
    eachElement(k, n, [x, dy], dx, (v, d) => {
      const t = tanh(k, v.mul(inverse))
      return d.mul(k.f32(1).sub(t.mul(t)))
    }),
})
