/** The models of the serve job: loaded, swapped for newer weights, unloaded, evicted when memory is short, loaded again when asked for. */
import { AlphaError, EXIT } from "./base-error.ts"
import { modelBytes, Resident } from "./engine-serve-model.ts"
import type { ModelFacts, ModelSpec, ServeLimits } from "./engine-serve-protocol.ts"
import { FairQueue } from "./engine-serve-queue.ts"
import { Schedule } from "./engine-serve-schedule.ts"
import type { Sequence } from "./engine-serve-sequence.ts"
import { modelDirectory } from "./gpt.ts"
import type { Device } from "./program.ts"

/** Weights in memory with the requests that run on them. */
export interface Instance {
  readonly resident: Resident
  readonly schedule: Schedule
}

/** A key of requests: what it stands for now, what it stood for while somebody still runs there, who waits. */
export interface Entry {
  spec: ModelSpec
  facts: ModelFacts
  current: Instance | undefined
  readonly old: Instance[]
  readonly queue: FairQueue<Sequence>
  lastUsed: number
  /** It was evicted, and comes back. */
  returning: boolean
}

export class Models {
  readonly entries = new Map<string, Entry>()
  /** Of entries that were unloaded while somebody ran there. */
  readonly #leaving: Entry[] = []
  #loading: Promise<unknown> = Promise.resolve()
  #loads = 0
  #closed = false

  constructor(
    readonly device: Device,
    readonly limits: ServeLimits,
    readonly onEvicted: (key: string) => void,
  ) {}

  /** Loads a key, or swaps its weights: what runs finishes on the old ones. One load at a time. */
  load(spec: ModelSpec): Promise<ModelFacts> {
    this.#loads++
    const loaded = this.#loading.then(() => this.#load(spec)).finally(() => this.#loads--)
    this.#loading = loaded.catch(() => undefined)
    return loaded
  }

  get isLoading(): boolean {
    return this.#loads > 0
  }

  async #load(spec: ModelSpec): Promise<ModelFacts> {
    this.#makeRoom(spec)
    const resident = await Resident.load(this.device, spec, this.limits)
    if (this.#closed) {
      resident.free()
      throw new AlphaError("the engine has stopped")
    }
    const { facts } = resident
    const known = this.entries.get(spec.key)
    const instance = { resident, schedule: new Schedule(resident) }
    if (known === undefined) {
      this.entries.set(spec.key, {
        spec,
        facts,
        current: instance,
        old: [],
        queue: new FairQueue(),
        lastUsed: performance.now(),
        returning: false,
      })
    } else {
      if (known.current !== undefined) known.old.push(known.current)
      Object.assign(known, { spec, facts, current: instance, lastUsed: performance.now() })
    }
    this.sweep()
    return facts
  }

  /** Evicts idle models, the one used least recently first, until another fits. Throws AlphaError where that is not enough. */
  #makeRoom(spec: ModelSpec): void {
    const { memoryBytes } = this.limits
    if (memoryBytes === undefined) return
    const needed = modelBytes(spec, modelDirectory(spec.path), this.device, this.limits)
    const idle = [...this.entries.values()]
      .filter(({ spec: { key }, current, queue }) => key !== spec.key && current?.resident.idle === true && queue.count === 0)
      .sort((a, b) => a.lastUsed - b.lastUsed)
    while (this.bytes + needed > memoryBytes) {
      const entry = idle.shift()
      if (entry?.current === undefined) {
        throw new AlphaError(
          `model ${spec.key} needs ${needed} bytes, ${this.bytes} of ${memoryBytes} are in use by models that are busy`,
          {
            hint: "raise the memory limit, or lower the cache's",
            code: EXIT.failure,
          },
        )
      }
      entry.current.resident.free()
      entry.current = undefined
      this.onEvicted(entry.spec.key)
    }
  }

  /** Bytes of all weights and pages. */
  get bytes(): number {
    return this.#instances().reduce((sum, { resident }) => sum + resident.facts.bytes, 0)
  }

  #instances(): Instance[] {
    return [...this.entries.values(), ...this.#leaving].flatMap(({ current, old }) => (current === undefined ? old : [current, ...old]))
  }

  /** The entry, gone from here; its running requests finish. */
  unload(key: string): Entry {
    const entry = this.entries.get(key)
    if (entry === undefined) throw new AlphaError(`model ${key} is not loaded`, { code: EXIT.usage })
    this.entries.delete(key)
    if (entry.current !== undefined) entry.old.push(entry.current)
    entry.current = undefined
    this.#leaving.push(entry)
    this.sweep()
    return entry
  }

  /** Frees old weights that nobody runs on any more. */
  sweep(): void {
    for (const { old } of [...this.entries.values(), ...this.#leaving]) {
      for (const instance of old.filter(({ resident }) => resident.idle)) {
        old.splice(old.indexOf(instance), 1)
        instance.resident.free()
      }
    }
    for (const entry of this.#leaving.filter(({ old }) => old.length === 0)) this.#leaving.splice(this.#leaving.indexOf(entry), 1)
  }

  /** Everything that can have work, with its queue; only current weights take new requests. */
  *turns(): Iterable<{ entry: Entry; instance: Instance; isCurrent: boolean }> {
    for (const entry of [...this.entries.values(), ...this.#leaving]) {
      for (const instance of entry.old) yield { entry, instance, isCurrent: false }
      if (entry.current !== undefined) yield { entry, instance: entry.current, isCurrent: true }
    }
  }

  free(): void {
    this.#closed = true
    for (const { resident } of this.#instances()) resident.free()
    this.entries.clear()
    this.#leaving.length = 0
  }
}
