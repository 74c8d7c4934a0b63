/** Kernels whose every output element depends on the elements at its place. */
import {
  act,
  type Body,
  type Choice,
  type F32,
  kernel,
  type ReadBuffer,
  read,
  type U32,
  u32,
  type WriteBuffer,
  write,
} from "../src/spirv.ts"

/** Elements per lane and turn: 16 bytes of bf16, twice 16 of f32. */
const PACK = 8

type Input = ReadBuffer<Choice>

/** y[i] = fn(inputs[i] …) for i < n: packs in a loop over the grid, then the n mod 8 elements that are left, in the first lanes. */
export function eachElement(k: Body, n: U32, inputs: readonly Input[], y: WriteBuffer<Choice>, fn: (...values: F32[]) => F32): void {
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

/** y = a + b, n elements each. Grid: any number of workgroups; ⌈n / 2048⌉ gives each lane one pack. Moves 3·n·s bytes. */
export const add = kernel({
  name: "add",
  workgroup: 256,
  buffers: { a: read(act), b: read(act), y: write(act) },
  push: { n: u32 },
  body: (k, { a, b, y, n }) => eachElement(k, n, [a, b], y, (left, right) => left.add(right)),
})
