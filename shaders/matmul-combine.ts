/** The end of a matrix product whose sum was split. */
import { f32, kernel, read, u32 } from "../src/spirv.ts"
import { epilogue, finish } from "./matmul-epilogue.ts"

/**
 * c = epilogue(Σ_s parts[s]) (M, N), parts (S, M, ld), in the order of s. Grid: any number of workgroups.
 * Moves 4·(S + 1)·M·N bytes.
 */
export const matmulCombine = kernel({
  name: "matmul_combine",
  workgroup: 256,
  buffers: { parts: read(f32), ...epilogue.buffers },
  push: { M: u32, N: u32, S: u32, ld: u32, ...epilogue.push },
  params: epilogue.params,
  constants: epilogue.constants,
  body(k, { parts, M, N, S, ld, ...e }) {
    const quads = ld.div(4)
    k.for(k.group.mul(k.workgroup).add(k.lane), M.mul(quads), k.groups.mul(k.workgroup), (i) => {
      const [m, n] = [i.div(quads), i.mod(quads).mul(4)]
      const sums = [0, 1, 2, 3].map(() => k.var(f32, 0))
      k.for(0, S, 1, (s) => {
        const part = parts.pack(4).at(s.mul(M.mul(quads)).add(i))
        sums.forEach((sum, j) => sum.add(part[j]!))
      })
      sums.forEach((sum, j) => k.if(n.add(j).lt(N), () => finish(k, e, m, n.add(j), [sum.get()])))
    })
  },
})
