/** A matrix product beyond what Vulkan gives a block: a ring of up to 227 KiB, both factors by descriptor, clusters of two blocks that bring b for each other. */
import { eachTile, type Frame, type Place } from "../shaders/ptx-gemm-frame.ts"
import { columnsOf, DESCRIPTOR, type PtxTile, REGISTERS, rowsOf, THREADS } from "../shaders/ptx-gemm-tile.ts"
import { type F32, type Predicate, type Ptx, type PtxKernel, ptxKernel, type TensorMapSpec, type U32, type U64 } from "../src/ptx.ts"
import { list } from "../src/ptx-body.ts"
import { bf16, read, u32, u64, write } from "../src/spirv.ts"

/** 128·units rows by 64·chunks columns, by two warpgroups; a stage holds 64 of K. */
export interface DeepTile extends Pick<PtxTile, "units" | "chunks"> {
  readonly stages: number
  /** Blocks of a cluster: each of two brings half of b's columns to both, whose tiles lie below each other. */
  readonly cluster: 1 | 2
  /** A tile is packed when it is done, and stored during the next one's first steps. */
  readonly isLate: boolean
}

const STEP = 64
/** All that a block may have on Hopper. */
export const ROOM = 232_448
/** Steps that the last tile's stores are spread over. */
const SPREAD = 4
const ROW = 2 * STEP

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
const bytesOfA = (tile: DeepTile): number => rowsOf(plain(tile)) * ROW
const stageBytes = (tile: DeepTile): number => bytesOfA(tile) + columnsOf(plain(tile)) * ROW
const plain = ({ units, chunks }: DeepTile): PtxTile => ({ units, chunks, ringA: 0, ringB: 0 })

export const deepName = (tile: DeepTile): string => {
  const { stages, cluster, isLate } = tile
  return `${rowsOf(plain(tile))}x${columnsOf(plain(tile))}_s${stages}${cluster === 1 ? "" : "_pairs"}${isLate ? "_late" : ""}`
}

const buffers = { maps: read(u64), c: write(bf16) } as const
const push = { M: u32, N: u32, steps: u32, ldc: u32, group: u32 } as const
type DeepKernel = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

/** Maps of a (M, K) and b (N, K) without gaps, 32 | N: b's rows come in the order in which a lane's sums are 8 neighbours. */
export function deepMaps(tile: DeepTile, [M, N, K]: readonly [number, number, number]): readonly [a: TensorMapSpec, b: TensorMapSpec] {
  const common = { element: "bf16", swizzle: "128B" } as const
  const groups = (2 * tile.chunks) / tile.cluster
  return [
    { ...common, size: [K, M], strides: [2 * K], box: [STEP, rowsOf(plain(tile))] },
    { ...common, size: [K, 2, 4, 4, N / 32], strides: [1, 8, 2, 32].map((rows) => 2 * K * rows), box: [STEP, 2, 4, 4, groups] },
  ]
}

/** Blocks of a launch: whole clusters, and as many tiles for both blocks of one. Undefined where the tile does not go with the size. */
export function deepBlocks(tile: DeepTile, [M, N, K]: readonly [number, number, number], units: number, group: number): number | undefined {
  const down = Math.ceil(M / rowsOf(plain(tile)))
  const across = Math.ceil(N / columnsOf(plain(tile)))
  if (N % 32 !== 0 || K % STEP !== 0 || K < STEP * SPREAD) return undefined
  if (tile.cluster === 2 && (down % 2 !== 0 || group % 2 !== 0)) return undefined
  return Math.min(units - (units % tile.cluster), down * across)
}

/** Where a thread's part of a tile lies in c. */
interface Held {
  readonly address: U64
  readonly rowsLeft: U32
  readonly columnsLeft: U32
}

export function deepGemm(tile: DeepTile): DeepKernel {
  const { units, chunks, stages, cluster, isLate } = tile
  const stage = stageBytes(tile)
  const [full, empty] = [stages * stage, stages * stage + 8 * stages]
  const sharedBytes = empty + 8 * stages
  if (sharedBytes > ROOM) throw new TypeError(`deep gemm: ${deepName(tile)} needs ${sharedBytes} bytes of ${ROOM}`)

  function produce(k: Ptx, f: Frame, maps: U64, isBringer: Predicate): void {
    k.comment("---- the warpgroup that brings: one lane of it")
    k.registerBudget("dec", REGISTERS.producer)
    const end = k.label("PRODUCED")
    k.jump(end, isBringer, false)
    const mapB = k.addLong(maps, 128)
    for (const map of [maps, mapB]) k.acquireMap(map)
    const [slot, parity] = [k.variable("u32", 0), k.variable("u32", 1)]
    const rank = cluster === 2 ? k.special("%cluster_ctarank") : undefined
    const half = (columnsOf(plain(tile)) * ROW) / cluster
    eachTile(k, f, (place) => {
      const kx = k.variable("u32", 0)
      const last = k.mul(place.stepCount, STEP)
      k.while(
        "BRING",
        () => k.compare("lt", kx, last),
        () => {
          const barrier = k.add(k.base, k.shl(slot, 3))
          const memory = k.add(k.base, k.mul(slot, stage))
          k.wait({ base: barrier, bytes: empty }, parity)
          k.expect({ base: barrier, bytes: full }, stage)
          k.copyBox({ base: memory, bytes: 0 }, maps, { base: barrier, bytes: full }, [kx, place.row])
          const firstGroup = k.shr(place.column, 5)
          if (rank === undefined)
            k.copyBox({ base: memory, bytes: bytesOfA(tile) }, mapB, { base: barrier, bytes: full }, [kx, 0, 0, 0, firstGroup])
          else {
            const own = k.mad(rank, half, k.add(memory, bytesOfA(tile)))
            const group = k.mad(rank, chunks, firstGroup)
            const how = "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
            k.emit(how, `[${own.name}]`, `[${mapB.name}, {${kx.name}, 0, 0, 0, ${group.name}}]`, `[${barrier.name}+${full}]`, 3)
          }
          k.add(slot, 1, slot)
          const isRound = k.compare("eq", slot, stages)
          k.when(isRound, () => {
            k.copy(slot, 0)
            k.xor(parity, 1, parity)
          })
          k.add(kx, STEP, kx)
        },
      )
    })
    k.place(end)
  }

  function consume(k: Ptx, f: Frame, warpgroup: U32, { c, ldc }: { readonly c: U64; readonly ldc: U32 }): void {
    k.comment("---- the warpgroups that multiply")
    k.registerBudget("inc", REGISTERS.consumer)
    const sums = range(units).map(() => k.registers("f32", 32 * chunks))
    const items = range(units).flatMap((unit) =>
      range(2 * chunks).flatMap((group) => [0, 1].map((h) => ({ unit, group, h, words: isLate ? k.registers("u32", 4) : [] }))),
    )
    const [always, slot, parity] = [k.compare("eq", k.variable("u32", 0), 0), k.variable("u32", 0), k.variable("u32", 0)]
    const never = k.not(always)
    const before = k.variable("u32", 0)
    // A lane of every warp gives a stage back to each block of the cluster.
    const gives = k.compare("lt", f.lane, cluster)
    const others = k.register("u32")
    if (cluster === 2) k.emit("mapa.shared::cluster.u32", others, k.base, k.and(f.lane, 1))
    const release = (slot8: U32) => {
      k.syncWarp()
      if (cluster === 1) k.when(gives, () => k.arrive({ base: slot8, bytes: empty }))
      else {
        const there = k.add(others, k.sub(slot8, k.base))
        k.when(gives, () => k.emit("mbarrier.arrive.release.cluster.shared::cluster.b64", "_", `[${there.name}+${empty}]`))
      }
    }
    const rowOf = k.add(k.mul(warpgroup, 64 * units), k.add(k.shl(f.warp, 4), k.shr(f.lane, 2)))
    const laneByte = k.shl(k.and(f.lane, 3), 4)
    const rowBytes = k.shl(ldc, 1)
    const held: Held = { address: k.variable("u64", 0), rowsLeft: k.variable("u32", 0), columnsLeft: k.variable("u32", 0) }
    const hold = ({ row, column }: Place) => {
      const first = k.add(row, rowOf)
      k.copy(held.address, k.madLong(first, rowBytes, k.addLong(c, k.long(k.add(k.shl(column, 1), laneByte)))))
      k.sub(f.M, k.min(first, f.M), held.rowsLeft)
      k.sub(f.N, k.min(column, f.N), held.columnsLeft)
    }
    const wordsOf = ({ unit, group, h }: (typeof items)[number], into: readonly U32[]) =>
      range(4).map((j) => {
        const at = 16 * group + 4 * j + 2 * h
        return k.packBf16(sums[unit]![at] as F32, sums[unit]![at + 1] as F32, into[j])
      })
    const store = ({ unit, group, h }: (typeof items)[number], words: readonly U32[]) => {
      const isThere = k.both(k.compare("gt", held.rowsLeft, 64 * unit + 8 * h), k.compare("gt", held.columnsLeft, 32 * group))
      const address = unit + h === 0 ? held.address : k.madLong(rowBytes, 64 * unit + 8 * h, held.address)
      k.when(isThere, () => k.store("u32", address, 64 * group, words))
    }
    /** One stage; `meanwhile` while its products are under way. */
    const step = (isFirst: boolean, adds: Predicate, meanwhile: () => void) => {
      const slot8 = k.add(k.base, k.shl(slot, 3))
      k.wait({ base: slot8, bytes: full }, parity)
      const at = k.long(k.shr(k.add(k.base, k.mul(slot, stage)), 4))
      const left = range(units).map((unit) =>
        k.addLong(k.madWide(warpgroup, (units * 64 * ROW) >> 4, at), DESCRIPTOR.alongN + BigInt((unit * 64 * ROW) >> 4)),
      )
      const right = k.addLong(at, DESCRIPTOR.alongN + BigInt(bytesOfA(tile) >> 4))
      k.multiplyFence()
      for (const quarter of range(STEP / 16)) {
        const more = BigInt(2 * quarter)
        const b = quarter === 0 ? right : k.addLong(right, more)
        sums.forEach((sum, unit) => {
          const how = `wgmma.mma_async.sync.aligned.m64n${64 * chunks}k16.f32.bf16.bf16`
          const a = quarter === 0 ? left[unit]! : k.addLong(left[unit]!, more)
          k.emit(how, list(sum), a, b, quarter === 0 ? adds : always, 1, 1, 0, 0)
        })
      }
      k.multiplyCommit()
      meanwhile()
      k.multiplyWait(1)
      if (!isFirst) release(before)
      k.copy(before, slot8)
      k.add(slot, 1, slot)
      const isRound = k.compare("eq", slot, stages)
      k.when(isRound, () => {
        k.copy(slot, 0)
        k.xor(parity, 1, parity)
      })
    }
    eachTile(k, f, (place) => {
      const perStep = Math.ceil(items.length / SPREAD)
      for (const i of range(SPREAD))
        step(i === 0, i === 0 ? never : always, () => {
          if (isLate) for (const item of items.slice(perStep * i, perStep * (i + 1))) store(item, item.words)
        })
      const i = k.variable("u32", SPREAD)
      k.while(
        "STEP",
        () => k.compare("lt", i, place.stepCount),
        () => {
          step(false, always, () => undefined)
          k.add(i, 1, i)
        },
      )
      k.multiplyWait(0)
      release(before)
      hold(place)
      for (const item of items)
        if (isLate) wordsOf(item, item.words)
        else store(item, wordsOf(item, []))
    })
    if (isLate) for (const item of items) store(item, item.words)
  }

  return ptxKernel({
    name: `deep_matmul_${deepName(tile)}`,
    about: `c = a*b: tiles of ${rowsOf(plain(tile))} x ${columnsOf(plain(tile))}, ${stages} stages of ${STEP} of K, clusters of ${cluster}`,
    threads: THREADS,
    sharedBytes,
    buffers,
    push,
    body(k, { maps, c, M, N, steps, ldc, group }) {
      const thread = k.special("%tid.x")
      const warpgroup = k.uniform(k.shr(thread, 7))
      const warp = k.uniform(k.and(k.shr(thread, 5), 3))
      const lane = k.and(thread, 31)
      const down = k.div(k.add(M, rowsOf(plain(tile)) - 1), rowsOf(plain(tile)))
      const across = k.div(k.add(N, columnsOf(plain(tile)) - 1), columnsOf(plain(tile)))
      const tiles = k.mul(down, across)
      const [one, none] = [k.variable("u32", 1), k.variable("u32", 0)]
      const f: Frame = {
        gemm: { layout: "ntp", out: "bf16", tile: plain(tile), finish: "none" },
        places: { a: 0, b: 0, fullA: 0, emptyA: 0, fullB: full, emptyB: empty, end: sharedBytes },
        ...{
          warp,
          lane,
          down,
          across,
          perSplit: tiles,
          tiles,
          M,
          N,
          steps,
          splitSteps: steps,
          splits: one,
          rest: none,
          span: one,
          from: none,
          group,
        },
      }
      const meet = () => {
        if (cluster === 1) return k.syncBlock()
        k.emit("barrier.cluster.arrive.release")
        k.emit("barrier.cluster.wait.acquire")
      }
      k.if(k.compare("eq", thread, 0), () => {
        for (const i of range(stages)) {
          k.barrierInit(full + 8 * i, 1)
          k.barrierInit(empty + 8 * i, 8 * cluster)
        }
        k.fenceBarrierInit()
      })
      meet()
      k.if(
        k.compare("eq", warpgroup, 2),
        () => produce(k, f, maps, k.compare("eq", thread, 256)),
        () => consume(k, f, warpgroup, { c, ldc }),
      )
      if (cluster === 2) meet() // a block must not end while the other gives stages back to it
      k.emit("ret")
    },
  })
}
