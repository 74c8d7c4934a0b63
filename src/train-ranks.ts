/** One run on several ranks: what they agree on before it, what they exchange in every step, what rank 0 collects for a checkpoint. */
import { AlphaError } from "./base-error.ts"
import type { ModelConfig } from "./config.ts"
import { gather, type JoinWorld, joinWorld, OrderedSum, requireSame, share, Vote, type World } from "./dist.ts"
import { copyName, type Precision, paramSpecs } from "./gpt.ts"
import type { Device, Executable, State } from "./program.ts"
import { buckets } from "./train-buckets.ts"
import type { TrainJob } from "./train-prepare.ts"
import { type RunPlans, type Sharing, summands, weightPlans } from "./train-step.ts"

/** Fields in which the ranks of a run may differ: where each computes and writes. */
export const LOCAL_FIELDS: ReadonlySet<string> = new Set([
  "device",
  "threads",
  "run",
  "runsDir",
  "config",
  "mpiLibrary",
  "ncclLibrary",
  "gpus",
  "resume",
  "serve",
])

/** How long a stop may wait until all ranks know of it, where asking keeps the host from giving the device steps ahead. */
const STOP_MS = 1000

export class Ranks {
  readonly rank: number
  readonly size: number
  /** Every micro-step starts new sums, which are added in rank order. */
  readonly isOrdered: boolean
  readonly sharing: Sharing
  /** First floats of the buckets in shared memory, and where the last one ends. */
  #bounds: readonly number[] = []
  /** Buckets of this step that have been summed. */
  #summed = 0
  readonly #votes: Readonly<Record<"step" | "evaluation", Vote>>
  #sum: OrderedSum | undefined
  #owners = new Map<string, number>()
  /** Before and after the sum by which weights go round; undefined where they go through host memory. */
  #weights: readonly Executable[] | undefined

  private constructor(
    private readonly world: World,
    readonly directory: string,
    private readonly isSharded: boolean,
  ) {
    this.rank = world.rank
    this.size = world.size
    this.isOrdered = world.transport.sumShared === undefined
    this.#votes = { step: new Vote(world, this.isOrdered ? 0 : STOP_MS), evaluation: new Vote(world, 0) }
    this.sharing = {
      adds: (accumSteps) => !this.isOrdered && accumSteps > this.size,
      owns: (name) => !isSharded || this.#owners.get(name) === this.rank,
    }
  }

  /** Joins the world and makes sure that all ranks mean the same run. Throws AlphaError naming what differs. */
  static join(job: TrainJob, launch: JoinWorld, device: Device): Ranks & { readonly watch: string } {
    const { values, record } = job
    const world = joinWorld(launch, device.uuid)
    const { directory, watch } = share(world, { directory: job.directory, watch: launch.watch })
    const settings = Object.entries(values).filter(([name]) => !LOCAL_FIELDS.has(name))
    const hint = "start every rank with the same program and the same settings"
    requireSame(world, { version: record.version, commit: record.commit, ranks: launch.size }, hint)
    requireSame(world, Object.fromEntries(settings), hint)
    return Object.assign(new Ranks(world, directory, values.shardOptimizer), { watch: watch ?? "" })
  }

  get transport(): string {
    return this.world.transport.name
  }

  /** Runs `work` on rank 0, then on one rank of every other host, then on the rest: each finds in the cache what those before have made. */
  async inTurn<T, P>(work: (known: P | undefined) => Promise<T>, pass: (first: T) => P): Promise<T> {
    const { rank, localRank } = this.world
    const turn = rank === 0 ? 0 : localRank === 0 ? 1 : 2
    let [result, known]: [T | undefined, P | undefined] = [undefined, undefined]
    for (const now of [0, 1, 2]) {
      if (turn === now) result = await work(known)
      this.world.transport.barrier()
      if (now === 0) known = share(this.world, result === undefined ? undefined : pass(result))
    }
    return result as T
  }

  requireSame(values: Readonly<Record<string, unknown>>, hint: string): void {
    requireSame(this.world, values, hint)
  }

  /** Whether any rank was asked to stop; they must stop at the same point. */
  anyOf(mine: boolean, before: "step" | "evaluation"): boolean {
    return this.#votes[before].anyOf(mine)
  }

  /** Rank 0's value, on all. */
  share<T>(value: T | undefined): T {
    return share(this.world, value)
  }

  /** Every rank's bytes (equal lengths), in rank order. */
  allGather(mine: Uint8Array): Uint8Array {
    return this.world.transport.allGather(mine)
  }

  /** Chooses who updates which parameter: the largest first, each to the rank with the fewest elements so far. */
  shardParameters(model: ModelConfig): void {
    const loads = new Array<number>(this.size).fill(0)
    const sizes = paramSpecs(model).map(({ name, shape }) => ({ name, size: shape.reduce((a, b) => a * b, 1) }))
    for (const { name, size } of sizes.toSorted((a, b) => b.size - a.size)) {
      const owner = loads.indexOf(Math.min(...loads))
      this.#owners.set(name, owner)
      loads[owner] = (loads[owner] as number) + size
    }
  }

  /** Gives all ranks rank 0's weights, and the optimizer state that each keeps; rank 0 forgets what others keep. */
  spread(state: State, model: ModelConfig, moments: readonly string[]): void {
    for (const { name, shape } of paramSpecs(model)) {
      state.ensure(name, "f32", shape)
      this.#broadcast(state, name, 0)
    }
    const kept = this.share(this.rank === 0 ? moments.filter((name) => state.has(name)) : undefined)
    const shapes = this.share(
      this.rank === 0 ? Object.fromEntries(kept.map((name) => [name, (state.read(name) as Float32Array).length])) : undefined,
    )
    const shapeOf = new Map(paramSpecs(model).map(({ name, shape }) => [name, shape]))
    for (const name of kept) {
      state.ensure(name, "f32", shapeOf.get(parameterOf(name)) ?? [shapes[name] as number])
      this.#broadcast(state, name, 0)
      if (!this.#keeps(name)) state.drop(name)
    }
  }

  #keeps(moment: string): boolean {
    return moment === "control" || this.sharing.owns(parameterOf(moment))
  }

  #broadcast(state: State, name: string, root: number): void {
    const values = state.read(name)
    this.world.transport.broadcast(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), root)
    if (this.rank !== root) state.write(name, values)
  }

  /** After a micro-step of every rank that had one: `active` ranks, from rank 0 on. */
  endRound(state: State, model: ModelConfig, round: number, active: number, isLast: boolean): void {
    if (this.isOrdered) {
      this.#sum ??= new OrderedSum(this.world, state, summands(model))
      this.#sum.round(active, round > 0, isLast)
      return
    }
    if (isLast) this.#sumRest()
  }

  #sumRest(): void {
    while (this.#summed < this.#bounds.length - 1) this.sumBucket()
    this.#summed = 0
  }

  /**
   * Before the programs are compiled: where gradients are summed on the device, they get memory that the transport can map. Returns the buckets,
   * in the order in which `micro` is done with them; none where they wait for the end of a step.
   */
  shareGradients(device: Device, state: State, { micro, shape }: RunPlans, bucketMiB: number): readonly (readonly string[])[] {
    const { model } = shape
    if (this.isOrdered) return []
    if (state.share === undefined) throw new AlphaError("this device cannot share its memory", { hint: "use --dist=mpi" })
    if (micro === undefined) throw new TypeError("ranks sum the gradients of a micro-step")
    const all = buckets(micro.program, summands(model), bucketMiB === 0 ? Number.POSITIVE_INFINITY : bucketMiB * 2 ** 20)
    const shapes = new Map(paramSpecs(model).map(({ name, shape }) => [`grad.${name}`, shape]))
    const shared = state.share(all.flat().map((name) => ({ name, shape: shapes.get(name) ?? [] })))
    this.#bounds = [...all.map(([first]) => shared.from.get(first as string) as number), shared.floats]
    this.world.transport.attach?.(shared)
    if (this.isSharded) this.#weights = weightPlans(shape, this.sharing.owns).map((plan) => device.compile(plan, state))
    return all
  }

  /** The next bucket has its last values on the way: it is summed over ranks while the device goes on. */
  sumBucket(): void {
    const [from, to] = this.#bounds.slice(this.#summed) as [number, number]
    this.#summed++
    this.world.transport.sumShared?.(from, to, this.#summed === this.#bounds.length - 1)
  }

  /** After the update: what each rank updated goes to all. */
  endStep(state: State, model: ModelConfig, precision: Precision): void {
    if (!this.isSharded) return
    if (this.#weights !== undefined) {
      const [give, take] = this.#weights as [Executable, Executable]
      give.submit({})
      this.#sumRest()
      take.submit({})
      return
    }
    for (const { name, matmul } of paramSpecs(model)) {
      const owner = this.#owners.get(name) as number
      this.#broadcast(state, name, owner)
      if (precision === "bf16" && matmul) this.#broadcast(state, copyName(name), owner)
    }
  }

  /** Throws AlphaError naming the rank whose weights are not rank 0's, bit for bit. */
  requireSameWeights(state: State, model: ModelConfig, step: number): void {
    let hash = 0n
    for (const { name } of paramSpecs(model)) {
      const values = state.read(name)
      hash = Bun.hash.xxHash64(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), hash)
    }
    const all = gather(this.world, String(hash))
    const other = all.findIndex((one) => one !== all[0])
    if (other >= 0)
      throw new AlphaError(`step ${step}: the weights of rank ${other} are not those of rank 0`, {
        hint: "a memory or network fault, or processors that round differently: resume from the last checkpoint on like hosts",
      })
  }

  /** Values of an optimizer state, on rank 0; the others call it for the same names in the same order. */
  collect(state: State, moment: string, length: number): Float32Array {
    const owner = this.#owners.get(parameterOf(moment))
    if (!this.isSharded || owner === undefined) return state.read(moment) as Float32Array
    const values = owner === this.rank ? (state.read(moment) as Float32Array) : new Float32Array(length)
    this.world.transport.broadcast(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), owner)
    return values
  }

  /** The run is over, on all ranks. */
  close(): void {
    this.world.transport.barrier()
    this.world.transport.close()
  }
}

/** "m.wte.weight" → "wte.weight". */
const parameterOf = (moment: string): string => moment.replace(/^[mv]\./, "")

/** Ranks that compute differently would not keep the same weights. */
export const computesLike = ({ name, description }: Device): string =>
  name === "cpu" ? `cpu, ${description.split(", ").at(-1)}` : description
