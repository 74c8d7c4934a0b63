/** First values of parameters. */
import { f32, i32, kernel, u32, write } from "../src/spirv.ts"
import { normals, randomBlock } from "./random.ts"

/**
 * y[i] = std·normal(seed, stream, 0, i), n elements f32, four to a lane and turn. Grid: any; ⌈n / 1024⌉ workgroups give each lane one turn.
 * Moves 4·n bytes. Source: Box and Muller 1958.
 */
export const randomNormal = kernel({
  name: "random_normal",
  workgroup: 256,
  buffers: { y: write(f32) },
  push: { n: u32, stream: u32, std: f32 },
  params: { seed: i32 },
  body(k, { y, n, stream, std, seed }) {
    k.for(k.group.mul(k.workgroup).add(k.lane), n.add(3).div(4), k.groups.mul(k.workgroup), (block) => {
      const values = normals(k, randomBlock(k, { seed: seed.toU32(), stream, step: k.u32(0) }, block, k.u32(0))).map((v) => v.mul(std))
      const first = block.mul(4)
      k.if(
        first.add(4).le(n),
        () => y.pack(4).set(block, values),
        () => values.forEach((value, i) => k.if(first.add(i).lt(n), () => y.set(first.add(i), value))),
      )
    })
  },
})
