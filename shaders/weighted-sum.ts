/** Projection on a fixed random direction, which makes a scalar of any tensor for the gradient check. */
import { act, type Body, type F32, f32, kernel, read, type U32, u32, write } from "../src/spirv.ts"
import { normals, randomBlock } from "./random.ts"

/** normal(1, stream, 0, …) of the four elements of a block. */
const direction = (k: Body, stream: U32, block: U32): readonly F32[] =>
  normals(k, randomBlock(k, { seed: k.u32(1), stream, step: k.u32(0) }, block, k.u32(0)))

/** y () = Σ x[i]·normal(1, stream, 0, i), n elements, in a fixed order. Grid: 1 workgroup; for the small tensors of a check. */
export const weightedSum = kernel({
  name: "weighted_sum",
  workgroup: 256,
  buffers: { x: read(act), y: write(f32) },
  push: { n: u32, stream: u32 },
  body(k, { x, y, n, stream }) {
    const sum = k.var(f32, 0)
    k.for(k.lane, n.add(3).div(4), k.workgroup, (block) =>
      direction(k, stream, block).forEach((weight, i) => {
        const at = block.mul(4).add(i)
        k.if(at.lt(n), () => sum.add(x.at(at).mul(weight)))
      }),
    )
    const total = k.workgroupSum(sum.get())
    k.if(k.lane.eq(0), () => y.set(0, total))
  },
})

/** dx[i] = dy·normal(1, stream, 0, i), n elements. Grid: any; ⌈n / 1024⌉ workgroups give each lane one block. Moves n·s bytes. */
export const weightedSumBackward = kernel({
  name: "weighted_sum_backward",
  workgroup: 256,
  buffers: { dy: read(f32), dx: write(act) },
  push: { n: u32, stream: u32 },
  body(k, { dy, dx, n, stream }) {
    k.for(k.group.mul(k.workgroup).add(k.lane), n.add(3).div(4), k.groups.mul(k.workgroup), (block) =>
      direction(k, stream, block).forEach((weight, i) => {
        const at = block.mul(4).add(i)
        k.if(at.lt(n), () => dx.set(at, dy.at(0).mul(weight)))
      }),
    )
  },
})
