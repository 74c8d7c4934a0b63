/** The instructions of Hopper: asynchronous copies and their barriers, matrix products of a warpgroup, registers that change hands. */
import { at, list, PtxBody } from "./ptx-body.ts"
import type { F32, Operand, Predicate, Register, U32, U64 } from "./ptx-register.ts"

/** A place in shared memory: a register and bytes, or bytes from its beginning. */
export type Shared = number | { readonly base: U32; readonly bytes: number }

/** A body with Hopper's instructions. */
export class Ptx extends PtxBody {
  /** Where shared memory begins: at 0, as VK_NVX_binary_import reserves none of it; so the assembler knows every address. */
  readonly base: U32 = this.variable("u32", 0)

  #at(place: Shared): string {
    return typeof place === "number" ? at(this.base, place) : at(place.base, place.bytes)
  }

  // ---- who am I ----

  /** Value of lane 0 in all lanes of the warp, which the assembler then knows to be uniform. */
  uniform(a: U32): U32 {
    const made = this.register("u32")
    this.emit("shfl.sync.idx.b32", made, a, 0, 31, -1)
    return made
  }
  /** Value of lane number `from`. */
  pick(a: U32, from: Operand<"u32">): U32 {
    const made = this.register("u32")
    this.emit("shfl.sync.idx.b32", made, a, from, 31, -1)
    return made
  }
  pickFloat(a: F32, from: Operand<"u32">): F32 {
    const made = this.register("f32")
    this.emit("shfl.sync.idx.b32", made, a, from, 31, -1)
    return made
  }
  /** Value of the lane whose number differs by `mask`. */
  exchange(a: U32, mask: number, into?: U32): U32 {
    const made = into ?? this.register("u32")
    this.emit("shfl.sync.bfly.b32", made, a, mask, 31, -1)
    return made
  }
  exchangeFloat(a: F32, mask: number): F32 {
    const made = this.register("f32")
    this.emit("shfl.sync.bfly.b32", made, a, mask, 31, -1)
    return made
  }
  /** Value of the lane whose number is less by `by`; the own one where there is none. */
  earlier<K extends "u32" | "f32">(a: Register<K>, by: number): Register<K> {
    const made = this.register(a.kind)
    this.emit("shfl.sync.up.b32", made, a, by, 0, -1)
    return made
  }
  /** Whether p holds in any lane of the warp. */
  any(p: Predicate): Predicate {
    const made = this.register("pred")
    this.emit("vote.sync.any.pred", made, p, -1)
    return made
  }
  syncWarp(): void {
    this.emit("bar.warp.sync", -1)
  }
  /** All threads of the block, or `threads` at the named barrier `id` (1 … 15). */
  syncBlock(id = 0, threads?: number): void {
    this.emit("bar.sync", ...(threads === undefined ? [id] : [id, threads]))
  }
  /** Registers per thread from here on; every warp of the warpgroup must come by. */
  registerBudget(change: "dec" | "inc", count: number): void {
    this.emit(`setmaxnreg.${change}.sync.aligned.u32`, count)
  }

  // ---- barriers in shared memory ----

  barrierInit(place: Shared, count: number): void {
    this.emit("mbarrier.init.shared.b64", this.#at(place), count)
  }
  /** After barrierInit, before the block's other threads or copies use the barriers. */
  fenceBarrierInit(): void {
    this.emit("fence.mbarrier_init.release.cluster")
    this.emit("fence.proxy.async")
  }
  /** What this thread has read of shared memory has been read before a copy that a later arrival lets go writes there. */
  fenceCopies(): void {
    this.emit("fence.proxy.async.shared::cta")
  }
  /** Waits until the phase of this parity is over. */
  wait(place: Shared, parity: Operand<"u32">): void {
    const [again, p] = [this.label("WAIT"), this.register("pred")]
    this.place(again)
    this.emit("mbarrier.try_wait.parity.shared::cta.b64", p, this.#at(place), parity)
    this.jump(again, p, false)
  }
  arrive(place: Shared): void {
    this.emit("mbarrier.arrive.release.cta.shared::cta.b64", "_", this.#at(place), 1)
  }
  /** Arrives, and holds the phase open until so many bytes have come. */
  expect(place: Shared, bytes: number): void {
    this.emit("mbarrier.arrive.expect_tx.shared::cta.b64", "_", this.#at(place), bytes)
  }

  // ---- copies ----

  /** Before the first copy by a tensor map: the copy engine may still keep what another program had at its address. */
  acquireMap(map: U64): void {
    this.emit("fence.proxy.tensormap::generic.acquire.gpu", at(map), 128)
  }
  /** A box of a tensor map to shared memory; its bytes count for `barrier`. Coordinates: fastest dimension first. */
  copyBox(to: Shared, map: U64, barrier: Shared, coordinates: readonly Operand<"u32">[]): void {
    const names = coordinates.map((one) => (typeof one === "number" ? String(one) : one.name)).join(", ")
    const source = `[${map.name}, {${names}}]`
    const how = `cp.async.bulk.tensor.${coordinates.length}d.shared::cluster.global.mbarrier::complete_tx::bytes`
    this.emit(how, this.#at(to), source, this.#at(barrier))
  }
  /** Has a box of a tensor map brought to the L2 cache. */
  prefetchBox(map: U64, coordinates: readonly Operand<"u32">[]): void {
    const names = coordinates.map((one) => (typeof one === "number" ? String(one) : one.name)).join(", ")
    this.emit(`cp.async.bulk.prefetch.tensor.${coordinates.length}d.L2.global`, `[${map.name}, {${names}}]`)
  }
  /** The same for neighbouring bytes, a multiple of 16. */
  prefetchBytes(from: U64, bytes: number): void {
    this.emit("cp.async.bulk.prefetch.L2.global", at(from), bytes)
  }
  /** Neighbouring bytes, a multiple of 16, to shared memory; they count for `barrier`. */
  copyBytes(to: Shared, from: U64, bytes: number, barrier: Shared): void {
    const how = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
    this.emit(how, this.#at(to), at(from), bytes, this.#at(barrier))
  }
  /** Loads as many neighbours as `to` has registers. */
  loadShared(to: readonly F32[], place: Shared): void {
    this.emit(`ld.shared${to.length === 1 ? "" : `.v${to.length}`}.f32`, list(to), this.#at(place))
  }
  loadSharedWords(to: readonly (U32 | F32)[], place: Shared): void {
    this.emit(`ld.shared${to.length === 1 ? "" : `.v${to.length}`}.b32`, list(to), this.#at(place))
  }
  loadSharedLong(to: U64, place: Shared): void {
    this.emit("ld.shared.u64", to, this.#at(place))
  }
  /** 16 bits, zeros above them. */
  loadSharedHalf(to: U32, place: Shared): void {
    this.emit("ld.shared.u16", to, this.#at(place))
  }
  storeShared(place: Shared, from: readonly (U32 | F32)[]): void {
    this.emit(`st.shared${from.length === 1 ? "" : `.v${from.length}`}.b32`, this.#at(place), list(from))
  }
  addShared(place: Shared, count: U32 | number): void {
    this.emit("red.shared.add.u32", this.#at(place), count)
  }
  /** Adds to a counter, whose value before it gives. */
  fetchAddShared(place: Shared, count: number): U32 {
    const made = this.register("u32")
    this.emit("atom.shared.add.u32", made, this.#at(place), count)
    return made
  }
  /** A word by which warps tell each other how far they are. */
  storeSharedVolatile(place: Shared, from: U32): void {
    this.emit("st.volatile.shared.u32", this.#at(place), from)
  }
  loadSharedVolatile(to: U32, place: Shared): void {
    this.emit("ld.volatile.shared.u32", to, this.#at(place))
  }
  /** Lets the warp sleep for about so many nanoseconds. */
  sleep(nanoseconds: number): void {
    this.emit("nanosleep.u32", nanoseconds)
  }
  /** Four 8 × 8 matrices of 16-bit elements; each lane names one row of 16 bytes. */
  loadMatrix(to: readonly U32[], place: Shared, isTransposed: boolean): void {
    this.emit(`ldmatrix.sync.aligned.m8n8.x4${isTransposed ? ".trans" : ""}.shared.b16`, list(to), this.#at(place))
  }

  // ---- between blocks ----

  /** Loads what other blocks write while this one runs; words that were stored together by twos are seen together. */
  loadVolatile(to: readonly (U32 | F32)[], address: U64, bytes = 0): void {
    this.emit(`ld.volatile.global.v${to.length}.b32`, list(to), at(address, bytes))
  }
  /** Stores two or four words for blocks that wait for them. */
  storeVolatile(address: U64, bytes: number, from: readonly (U32 | F32)[]): void {
    this.emit(`st.volatile.global.v${from.length}.b32`, at(address, bytes), list(from))
  }
  /** Adds to a counter, whose value before it gives. */
  fetchAdd(counter: U64, count: number): U32 {
    const made = this.register("u32")
    this.emit("atom.acq_rel.gpu.global.add.u32", made, at(counter), count)
    return made
  }

  /** Loads four words from the L2 cache: what other blocks have written before a barrier. */
  loadFar(to: readonly (U32 | F32)[], address: U64, bytes: number): void {
    this.emit(`ld.global.cg.v${to.length}.b32`, list(to), at(address, bytes))
  }
  /** Loads what nobody here will read again; "wide": what lies around, 256 bytes, shall come to the L2 cache too. */
  loadOnce(to: readonly (U32 | F32)[], address: U64, bytes: number, reach: "wide" | "" = ""): void {
    this.emit(`ld.global.L1::no_allocate${reach === "wide" ? ".L2::256B" : ""}.v${to.length}.b32`, list(to), at(address, bytes))
  }
  /** Loads a word, behind which all is seen that was written before it was. */
  loadAcquire(to: U32, address: U64): void {
    this.emit("ld.acquire.gpu.global.b32", to, at(address))
  }

  // ---- matrix products ----

  /** A warp's sum (16 × 8) += a (16 × 16)·b (16 × 8), b stored along K. */
  multiplyWarp(sum: readonly F32[], a: readonly (U32 | number)[], b: readonly U32[]): void {
    const left = `{${a.map((one) => (typeof one === "number" ? one : one.name)).join(", ")}}`
    this.emit("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", list(sum), left, list(b), list(sum))
  }

  multiplyFence(): void {
    this.emit("wgmma.fence.sync.aligned")
  }
  multiplyCommit(): void {
    this.emit("wgmma.commit_group.sync.aligned")
  }
  /** Waits until at most `pending` committed groups are under way. */
  multiplyWait(pending: number): void {
    this.emit("wgmma.wait_group.sync.aligned", pending)
  }
  /** sum (64 × N) ← a·b, or + where `adds`: a (64 × 16) in registers, b (16 × N) by descriptor, stored along N where `isAlongN`. */
  multiply(sum: readonly F32[], a: readonly U32[], b: U64, adds: Predicate, isAlongN: boolean): void {
    const how = `wgmma.mma_async.sync.aligned.m64n${sum.length * 2}k16.f32.bf16.bf16`
    this.emit(how, list(sum), list(a), b, adds, 1, 1, isAlongN ? 1 : 0)
  }
  /** The same with a by descriptor too, stored along M where `isAlongM`; a sum of up to 64 × 256. */
  multiplyShared(
    sum: readonly F32[],
    a: U64,
    b: U64,
    adds: Predicate,
    { isAlongM, isAlongN }: { isAlongM: boolean; isAlongN: boolean },
  ): void {
    const how = `wgmma.mma_async.sync.aligned.m64n${sum.length * 2}k16.f32.bf16.bf16`
    this.emit(how, list(sum), a, b, adds, 1, 1, isAlongM ? 1 : 0, isAlongN ? 1 : 0)
  }
}
