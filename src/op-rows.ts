/** Picks rows of a matrix, for the logits of each sequence's last token. */
import { takeRowsEdge, takeRows as takeRowsShader } from "../shaders/rows.ts"
import { nativeKernel } from "./native.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { launch } from "./op-gpu.ts"
import { DTYPE_BYTES, elements, lastDim } from "./tensor.ts"

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
  gpu({ x, rows }, { y }) {
    const [N, C, pieces] = [elements(rows), lastDim(x), (lastDim(x) * DTYPE_BYTES[x.dtype]) / 16]
    if (!Number.isInteger(pieces)) return [launch(takeRowsEdge, { x, rows, y, C }, [Math.ceil(C / 256), N])]
    return [launch(takeRowsShader, { x, rows, y, pieces }, [Math.ceil(pieces / 256), N])]
  },
  cases: [
    { inputs: { x: [5, 7], rows: { shape: [3], below: 5 } } },
    { inputs: { x: [1, 1], rows: { shape: [1], below: 1 } } },
    { inputs: { x: [9, 2056], rows: { shape: [4], below: 9 } }, about: "whole pieces of 16 bytes" },
  ],
  tolerance: { f32: 0, bf16: 0 },
})

export const rowOps = [takeRows]
