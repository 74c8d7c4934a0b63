/** Picking rows of a matrix. */
import { act, i32, kernel, read, u32, vec4, write } from "../src/spirv.ts"

/**
 * y[i,:] = x[rows[i],:], bit by bit: x (R, C), y (N, C) in pieces of 16 bytes, `pieces` to a row. Grid (x, N): ⌈pieces / 256⌉ workgroups along
 * x give each lane one. Moves twice the bytes of y.
 */
export const takeRows = kernel({
  name: "take_rows",
  workgroup: 256,
  buffers: { x: read(vec4(u32)), rows: read(i32), y: write(vec4(u32)) },
  push: { pieces: u32 },
  body(k, { x, rows, y, pieces }) {
    const from = rows.at(k.groupY).toU32().mul(pieces)
    k.for(k.group.mul(k.workgroup).add(k.lane), pieces, k.groups.mul(k.workgroup), (i) =>
      y.set(k.groupY.mul(pieces).add(i), x.at(from.add(i))),
    )
  },
})

/** As take_rows, for rows that are not whole pieces: C elements one by one. Grid (⌈C / 256⌉, N). */
export const takeRowsEdge = kernel({
  name: "take_rows_edge",
  workgroup: 256,
  buffers: { x: read(act), rows: read(i32), y: write(act) },
  push: { C: u32 },
  body(k, { x, rows, y, C }) {
    const from = rows.at(k.groupY).toU32().mul(C)
    k.for(k.group.mul(k.workgroup).add(k.lane), C, k.groups.mul(k.workgroup), (c) => y.set(k.groupY.mul(C).add(c), x.at(from.add(c))))
  },
})
