/** The gradient of causal attention by KHR matrices of 16 × 16 per subgroup: dq, and dk with dv or each alone. bf16. */
import { bf16, type F32, f32, kernel, read, write } from "../src/spirv.ts"
import { keepOfKeys, keepOfQueries, keptKey, keptQuery } from "./attention-matrix-keep.ts"
import {
  apart,
  Fragments,
  headPlaces,
  LOWEST,
  lanesOf,
  masks,
  ownRows,
  pitchOf,
  push,
  range,
  type Shape,
  SIDE,
  type Sum,
  splitRow,
} from "./attention-matrix-tile.ts"

const shaped = (size: number, subgroups: number, others: number): Shape => ({ size, subgroups, blocks: 1, others })
const buffers = { qkv: read(bf16), dy: read(bf16), lse: read(f32), delta: read(f32), ...masks, dqkv: write(bf16) } as const

/** e^(score − lse), from −lse/ln 2. */
const exp = (x: F32, log: F32, scale2: F32): F32 => x.fma(scale2, log).exp2()
const times = (a: F32, b: F32): F32 => a.mul(b)
const from = (x: F32, distance: F32, least: F32): F32 => distance.ge(least).select(x, 0)
const upTo = (x: F32, distance: F32, most: F32): F32 => distance.le(most).select(x, 0)
const logOf = (lse: F32): F32 => lse.mul(-Math.LOG2E)

/** The gradient of a score, from −δ, where the weight is kept times x. */
const slopeOf = (weight: F32, x: F32, delta: F32): F32 => weight.mul(x.add(delta))

function queries(shape: Shape, drops: boolean) {
  const { size, others, subgroups } = shape
  const halves = range(others / 32)
  const values = others * pitchOf(shape)
  return kernel({
    name: `attention_matrix_backward_q_${size}_${subgroups}x${others}${drops ? "_dropout" : ""}`,
    workgroup: lanesOf(shape),
    sharedKiB: 48,
    buffers,
    push,
    body(k, { qkv, dy, lse, delta, mask, dqkv, T, H, K, scale, factor }) {
      const tile = new Fragments(k, shape, halves.length)
      const [logs, deltas] = [k.shared("logs", f32, ownRows(shape)), k.shared("deltas", f32, ownRows(shape))]
      const [h, b] = [k.group, k.groupZ]
      const q0 = k.groupsY.sub(k.groupY).sub(1).mul(ownRows(shape)) // late positions, which cost most, first
      const mine = k.subgroup.mul(SIDE)
      const own = q0.add(mine)
      const at = headPlaces(size, { T, H, K }, b, h)
      const scale2 = scale.mul(Math.LOG2E)
      const rows = { memory: qkv, width: at.width, count: T }

      k.if(k.lane.lt(ownRows(shape)), () => {
        const position = q0.add(k.lane)
        const place = at.row(position.min(T.sub(1)))
        logs.set(k.lane, logOf(lse.at(place)))
        deltas.set(k.lane, delta.at(place).neg())
      })
      tile.stage({ ...rows, first: at.query }, q0)
      const query = tile.staged(0)
      tile.stage({ memory: dy, first: at.output, width: at.outputWidth, count: T }, q0)
      const gradient = tile.staged(0)
      const [log, known] = [tile.along("columns", logs, mine), tile.along("columns", deltas, mine)]
      const start = drops ? k.fill(tile.S, 0) : known
      const keep = drops ? keepOfQueries(tile, mask, T, at.number, q0) : undefined
      const sums = range(size / SIDE).map(() => k.var(tile.S, 0))
      const [keyRows, valueRows] = [tile.ahead(rows, 0, "plain"), tile.ahead(rows, values, "split")]
      const bring = (block: typeof q0) => {
        keyRows.load(block, { ...rows, first: at.key })
        valueRows.load(block, { ...rows, first: at.value })
        keep?.load(block)
      }
      const end = q0.add(ownRows(shape)).min(T)
      bring(k.u32(0))
      k.for(0, end, others, (block) => {
        k.barrier()
        keyRows.store()
        valueRows.store()
        keep?.store()
        k.barrier()
        k.if(block.add(others).lt(end), () => bring(block.add(others)))
        for (const half of halves) {
          const first = block.add(32 * half)
          k.if(first.lt(own.add(SIDE)), () => {
            const bits = keep?.of(half, mine)
            const slopes = [0, 1].map((p) => {
              const [scores] = tile.scores([query], 0, 32 * half + p, 2, [k.fill(tile.S, 0)]) as [Sum]
              const [products] = tile.scores([gradient], values, 32 * half + p * SIDE, 1, [start]) as [Sum]
              const weights = scores.each(exp, log, scale2)
              if (bits === undefined) return k.var(tile.S, weights.each(times, products))
              return k.var(tile.S, weights.each(slopeOf, products.each(keptKey(p), ...bits, tile.columnNumbers, factor), known))
            })
            k.if(first.add(32).gt(own), () => {
              slopes.forEach((slope, p) => {
                slope.update((all) => all.each(from, tile.distances, apart(first.add(p), own)))
              })
            })
            tile.putWeights(half, slopes[0]!.get(), slopes[1]!.get())
            k.subgroupBarrier()
            tile.weigh([tile.weights(half)], 0, 32 * half, [sums])
          })
        }
      })
      tile.leave(
        sums.map((sum) => sum.get().scale(scale)),
        (r, pack, out) => {
          const row = own.add(r)
          k.if(row.lt(T), () => dqkv.pack(8).set(at.query.add(row.mul(at.width)).div(8).add(pack), out))
        },
      )
    },
  })
}

function keys(shape: Shape, makes: "both" | "keys" | "values", drops: boolean) {
  const { size, others, subgroups } = shape
  const halves = range(others / 32)
  const gradients = others * pitchOf(shape)
  /** The halves of a tile put their weights in the same place. */
  const isTight = subgroups > 4
  const [makesKeys, makesValues] = [makes !== "values", makes !== "keys"]
  const perHalf = makes === "both" ? 2 : 1
  return kernel({
    name: `attention_matrix_backward_${{ both: "kv", keys: "k", values: "v" }[makes]}_${size}_${subgroups}x${others}${drops ? "_dropout" : ""}`,
    workgroup: lanesOf(shape),
    sharedKiB: 48,
    buffers,
    push,
    body(k, { qkv, dy, lse, delta, mask, dqkv, T, H, K, scale, factor }) {
      const tile = new Fragments(k, shape, (isTight ? 1 : halves.length) * perHalf)
      const [logs, deltas] = [k.shared("logs", f32, others), k.shared("deltas", f32, others)]
      const [keyHead, b] = [k.group, k.groupZ]
      const k0 = k.groupY.mul(ownRows(shape)) // early keys, which cost most, first
      const own = k0.add(k.subgroup.mul(SIDE))
      const group = H.div(K)
      const head = keyHead.mul(group)
      const shared = headPlaces(size, { T, H, K }, b, head)
      const scale2 = scale.mul(Math.LOG2E)
      const rows = { memory: qkv, width: shared.width, count: T }
      tile.stage({ ...rows, first: shared.key }, k0)
      const key = tile.staged(0)
      if (makesKeys) tile.stage({ ...rows, first: shared.value }, k0)
      const value = makesKeys ? tile.staged(0) : []
      const [dKeys, dValues] = [makesKeys, makesValues].map((isMade) => (isMade ? range(size / SIDE).map(() => k.var(tile.S, 0)) : []))
      const [queryRows, gradientRows] = [tile.ahead(rows, 0, "plain"), tile.ahead({ memory: dy }, gradients, "plain")]
      const [log, slope] = [k.var(f32, 0), k.var(f32, 0)]
      const keep = drops ? keepOfKeys(tile, mask, T, k0) : undefined
      const isStatistic = k.lane.lt(others)
      k.for(head, head.add(group), 1, (h) => {
        const at = headPlaces(size, { T, H, K }, b, h)
        const bring = (block: typeof h) => {
          queryRows.load(block, { ...rows, first: at.query })
          gradientRows.load(block, { first: at.output, width: at.outputWidth, count: T })
          keep?.load(block, at.number)
          k.if(isStatistic, () => {
            const position = block.add(k.lane)
            const place = at.row(position.min(T.sub(1)))
            log.set(position.lt(T).select(logOf(lse.at(place)), LOWEST))
            slope.set(delta.at(place).neg())
          })
        }
        bring(k0)
        k.for(k0, T, others, (block) => {
          k.barrier()
          queryRows.store()
          gradientRows.store()
          keep?.store()
          k.if(isStatistic, () => {
            const place = splitRow(k.lane)
            logs.set(place, log.get())
            deltas.set(place, slope.get())
          })
          k.barrier()
          k.if(block.add(others).lt(T), () => bring(block.add(others)))
          for (const half of halves) {
            const first = block.add(32 * half)
            const place = isTight ? 0 : perHalf * half
            k.if(first.add(32).gt(own), () => {
              if (isTight) k.subgroupBarrier()
              const side = (p: number) => k.u32(32 * half + p * SIDE)
              const weights = [0, 1].map((p) => {
                const [scores] = tile.scores([key], 0, 32 * half + p, 2, [k.fill(tile.S, 0)]) as [Sum]
                return k.var(tile.S, scores.each(exp, tile.along("rows", logs, side(p)), scale2))
              })
              k.if(first.lt(own.add(SIDE)), () => {
                weights.forEach((weight, p) => {
                  weight.update((all) => all.each(upTo, tile.distances, apart(first.add(p), own)))
                })
              })
              const [even, odd] = weights.map((weight) => weight.get()) as [Sum, Sum]
              const kept = (x: Sum, p: number) => (keep === undefined ? x : x.each(keptQuery, keep.of(half, p), tile.rowNumbers, factor))
              if (makesValues) tile.putWeights(place, kept(even, 0), kept(odd, 1))
              if (makesKeys) {
                const slopes = [even, odd].map((weight, p) => {
                  const known = tile.along("rows", deltas, side(p))
                  const start = drops ? k.fill(tile.S, 0) : known
                  const [products] = tile.scores([value], gradients, 32 * half + p, 2, [start]) as [Sum]
                  return drops ? weight.each(slopeOf, kept(products, p), known) : weight.each(times, products)
                })
                tile.putWeights(place + perHalf - 1, slopes[0]!, slopes[1]!)
              }
              k.subgroupBarrier()
              if (makesValues) tile.weigh([tile.weights(place)], gradients, 32 * half, [dValues!])
              if (makesKeys) tile.weigh([tile.weights(place + perHalf - 1)], 0, 32 * half, [dKeys!])
            })
          }
        })
      })
      const leave = (first: typeof k0, sums: readonly Sum[]) =>
        tile.leave(sums, (r, pack, out) => {
          const row = own.add(r)
          k.if(row.lt(T), () => dqkv.pack(8).set(first.add(row.mul(shared.width)).div(8).add(pack), out))
        })
      leave(
        shared.key,
        dKeys!.map((sum) => sum.get().scale(scale)),
      )
      leave(
        shared.value,
        dValues!.map((sum) => sum.get()),
      )
    },
  })
}
const kinds = <T>(make: (drops: boolean) => T) => ({ plain: make(false), dropout: make(true) })
const both = (shape: Shape) => ({ shape, ...kinds((drops) => [keys(shape, "both", drops)]) })
const apartFrom = (shape: Shape) => ({ shape, ...kinds((drops) => [keys(shape, "keys", drops), keys(shape, "values", drops)]) })
const alone = (shape: Shape) => ({ shape, ...kinds((drops) => [queries(shape, drops)]) })

/**
 * The columns of dqkv as in attention-backward.ts, from its δ; weights and their gradients are bf16 where they are factors. Kernels by head size, best
 * first. dq: grid (H, ⌈T / rows⌉, B), 3·B·T·T·H·D FLOP. dk and dv: grid (K, ⌈T / rows⌉, B), 4·B·T·T·H·D FLOP, or by a kernel each with 5 where
 * the registers do not hold both. B·T·(H + 2K)·D below 2^31.
 */
export const matrixBackward = {
  queries: {
    32: [alone(shaped(32, 4, 64))],
    64: [alone(shaped(64, 4, 64)), alone(shaped(64, 8, 64)), alone(shaped(64, 4, 32))],
    128: [alone(shaped(128, 4, 32)), alone(shaped(128, 8, 32))],
  } as Readonly<Record<number, readonly ReturnType<typeof alone>[]>>,
  keys: {
    32: [both(shaped(32, 4, 64))],
    64: [both(shaped(64, 4, 64)), both(shaped(64, 8, 64)), both(shaped(64, 4, 32)), apartFrom(shaped(64, 4, 64))],
    128: [apartFrom(shaped(128, 4, 32)), both(shaped(128, 4, 32)), apartFrom(shaped(128, 8, 32))],
  } as Readonly<Record<number, readonly ReturnType<typeof both>[]>>,
}
