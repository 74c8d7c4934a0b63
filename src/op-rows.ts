/** Picks rows of a matrix, for the logits of each sequence's last token. */
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { elements, lastDim } from "./tensor.ts"

const takeRowsKernel = nativeKernel("take_rows", { x: "pointer", rows: "pointer", y: "pointer", count: "int", cols: "int", type: "int" })

export const takeRows = defineOp({
  name: "take_rows",
  doc: "y[i, :] = x[rows[i], :]: x (R, C), rows (N) i32 in [0, R), y (N, C). No gradient.",
  inputs: { x: "state", rows: "index" },
  outputs: ["y"],
  act: ["x"],
  shape: ({ x, rows }) => ({ y: { shape: [elements(rows), lastDim(x)], dtype: x.dtype } }),
  reference({ x, rows }, { y }) {
    const C = lastDim(x)
    rows.data.forEach((row, i) => {
      for (let c = 0; c < C; c++) y.data[i * C + c] = x.data[row * C + c] as number
    })
  },
  cpu: ({ x, rows }, { y }) => takeRowsKernel({ x, rows, y, count: elements(rows), cols: lastDim(x), type: typeOf(x) }),
  cases: [{ inputs: { x: [5, 7], rows: { shape: [3], below: 5 } } }, { inputs: { x: [1, 1], rows: { shape: [1], below: 1 } } }],
  tolerance: { f32: 0, bf16: 0 },
})

export const rowOps = [takeRows]
