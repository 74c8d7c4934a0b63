/** Embeddings, forward: rows of the tables by token and position. */
import { act, constant, f32, i32, kernel, read, u32, write } from "../src/spirv.ts"

function embedding(pack: 1 | 8) {
  return kernel({
    name: pack === 8 ? "embedding" : "embedding_uneven",
    workgroup: 256,
    buffers: { tokens: read(i32), positions: read(i32), wte: read(act), wpe: read(f32), y: write(f32) },
    push: { n: u32, width: u32, T: u32 },
    constants: { adds: constant(u32, 1), given: constant(u32, 0) },
    body(k, { tokens, positions, wte, wpe, y, n, width, T, adds, given }) {
      k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) => {
        const r = i.div(width)
        const c = i.sub(r.mul(width))
        const from = tokens.at(r).toU32().mul(width).add(c)
        const values = (pack === 8 ? wte.pack(8).at(from) : [wte.at(from)]).map((value) => k.var(f32, value))
        k.if(adds.ne(0), () => {
          const position = k.var(u32, 0)
          k.if(
            given.ne(0),
            () => position.set(positions.at(r).toU32()),
            () => position.set(r.mod(T)),
          )
          const at = position.get().mul(width).add(c)
          const added = pack === 8 ? wpe.pack(8).at(at) : [wpe.at(at)]
          added.forEach((value, j) => values[j]!.add(value))
        })
        const out = values.map((value) => value.get())
        if (pack === 8) y.pack(8).set(i, out)
        else y.set(i, out[0]!)
      })
    },
  })
}

/**
 * y[r] = wte[tokens[r]] + wpe[position r], the position being positions[r] when `given`, else r mod T; without wpe when `adds` is 0.
 * tokens, positions (R), wte (V, C), wpe (≥ T, C) f32, y (R, C) f32, in n packs, `width` to a row: of 8, or of 1 where C is no multiple of 8.
 * Grid: any. Moves R·C·(wte + 4) bytes, wpe through the cache.
 */
export const embeddings = { packed: embedding(8), uneven: embedding(1) }
