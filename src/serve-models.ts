/** The models by name: which checkpoint answers now, loading on demand, swapping without losing a request. */
import { existsSync, statSync } from "node:fs"
import { basename, join, resolve } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import type { Log } from "./base-log.ts"
import { type ModelFacts, type Serving, surroundings } from "./engine.ts"
import { listCheckpoints, modelDirectory, modelPath, type Precision, readChatTemplate, readCheckpointFile, readConfig } from "./gpt.ts"
import { ApiError, badField } from "./serve-error.ts"
import { readTemplate } from "./serve-template.ts"
import type { TextModel } from "./serve-text.ts"
import { parseTokenizer, type Tokenizer } from "./token.ts"

/** A loaded checkpoint with what reads and writes its text. */
export interface Model extends TextModel {
  /** As the engine knows it. */
  readonly key: string
  /** The name that requests used first. */
  readonly name: string
  readonly facts: ModelFacts
  readonly created: number
  /** Ids that can be in an answer. */
  readonly vocabulary: number
}

/** A model that stays until it is given back. */
export interface Lease {
  readonly model: Model
  release(): void
}

interface Version {
  readonly key: string
  readonly directory: string
  readonly pinned: boolean
  model: Promise<Model> | undefined
  /** The loaded model, for who cannot wait. */
  ready: Model | undefined
  leases: number
  /** Goes with its last lease. */
  retired: boolean
  usedAt: number
}

/** One entry of /v1/models. */
export interface ModelEntry {
  readonly id: string
  readonly directory: string
  readonly created: number
  readonly loaded: Model | undefined
  /** Answers under the run's own name. */
  readonly current: boolean
}

export type Follow = "best" | "last"

interface Source {
  readonly name: string
  /** Run, checkpoint or model directory. */
  readonly path: string
  readonly isRun: boolean
  /** Which checkpoint of the run answers: the newest best one (last while there is none), or the newest; undefined: the one found at the start. */
  readonly follow: Follow | undefined
  current: Version | undefined
}

/** Checkpoints that requests pinned and nobody uses now: as many stay in memory. */
const KEPT_PINS = 2

export class Models {
  readonly #sources = new Map<string, Source>()
  readonly #versions = new Map<string, Version>()
  readonly #tokenizers = new Map<string, Tokenizer>()
  #clock = 0
  #started = false

  constructor(
    readonly serving: Serving,
    private readonly options: { readonly precision: Precision; readonly log: Log },
  ) {}

  /** Takes a model up; nothing is loaded yet. A run whose best is followed may have no checkpoint yet; one whose last is, which trains in this process, no directory. */
  add(given: string, runsDir: string, follow?: Follow): void {
    const path = modelPath(given, runsDir)
    if (follow === undefined) modelDirectory(path)
    else if (follow === "best" && !existsSync(join(path, "checkpoints"))) {
      throw new AlphaError(`${given}: no such run`, { hint: `--follow takes a run under ${runsDir}, or its path`, code: EXIT.data })
    }
    const name = basename(resolve(path))
    const known = this.#sources.get(name)
    if (known !== undefined && resolve(known.path) !== resolve(path)) {
      throw new AlphaError(`serve: two models are called ${name}: ${known.path} and ${path}`, {
        hint: "rename one directory",
        code: EXIT.usage,
      })
    }
    const isRun = follow !== undefined || existsSync(join(path, "checkpoints"))
    this.#sources.set(name, { name, path, isRun, follow: follow ?? known?.follow, current: known?.current })
  }

  /** Takes up a run of `runsDir` by its name, when it is there with a checkpoint and not served yet; loaded when it is asked for. */
  adopt(name: string, runsDir: string): void {
    const path = join(runsDir, name)
    if (this.#sources.has(name) || name.startsWith(".") || basename(name) !== name || !hasCheckpoint(path)) return
    this.add(path, runsDir)
    const source = this.#sources.get(name) as Source
    source.current = this.#version(source, modelDirectory(path), false)
  }

  /** Loads what answers now, for all models in turn; `isReady` from then on. */
  async start(): Promise<void> {
    for (const source of this.#sources.values()) {
      if (source.isRun && !hasCheckpoint(source.path)) continue
      source.current = this.#version(source, newest(source), false)
      await this.#load(source.current)
    }
    this.#started = true
  }

  /** Whether every name has something to answer with, in memory or, where it gave way to others, again when it is asked for. */
  get isReady(): boolean {
    return this.#started && [...this.#sources.values()].every(({ current }) => current !== undefined)
  }

  /** Swaps followed runs to their newest checkpoint. New requests go there; those under way end where they began. */
  async followOnce(): Promise<void> {
    for (const source of this.#sources.values()) {
      if (source.follow === undefined || !hasCheckpoint(source.path)) continue
      const directory = newest(source)
      if (resolve(directory) === resolve(source.current?.directory ?? "")) continue
      const next = this.#version(source, directory, false)
      const before = source.current
      try {
        const model = await this.#load(next)
        source.current = next
        next.retired = false
        if (before !== undefined) this.#retire(before)
        this.options.log("info", "follow", { model: source.name, checkpoint: next.key, fingerprint: model.facts.fingerprint })
      } catch (error) {
        // A trainer may delete what it wrote a moment ago; the next look finds what replaced it.
        this.#versions.delete(next.key)
        this.options.log("warn", "follow", { model: source.name, checkpoint: next.key, error: (error as Error).message })
      }
    }
  }

  /** The model a request names; undefined: the first. Loads it where it is not in memory. Throws 404. */
  async lease(name: string | undefined, param = "model"): Promise<Lease> {
    const version = this.#find(name, param)
    version.leases++
    version.usedAt = ++this.#clock
    let open = true
    const release = () => {
      if (!open) return
      open = false
      version.leases--
      this.#tidy(version)
    }
    try {
      return { model: await this.#load(version), release }
    } catch (error) {
      release()
      if (error instanceof ApiError) throw error
      const { message } = error as Error
      throw new ApiError(503, `model ${version.key} cannot be loaded: ${message}`, { param, code: "model_unavailable" })
    }
  }

  /** Drops a model from memory; requests under way end first. */
  async unload(name: string): Promise<void> {
    const version = this.#find(name, "model")
    version.retired = true
    this.#tidy(version)
  }

  /** The engine dropped it to make room. */
  evicted(key: string): void {
    const version = this.#versions.get(key)
    if (version === undefined) return
    version.model = undefined
    version.ready = undefined
  }

  /** All names with their checkpoints, the first first. */
  entries(): ModelEntry[] {
    return [...this.#sources.values()].flatMap((source) => {
      const entry = (id: string, directory: string, current: boolean): ModelEntry => {
        const key = source.isRun ? `${source.name}@${stepOf(directory)}` : source.name
        return { id, directory, created: createdAt(directory), loaded: this.#versions.get(key)?.ready, current }
      }
      const now = source.current?.directory
      const steps = source.isRun ? listCheckpoints(source.path) : []
      return [
        ...(now === undefined ? [] : [entry(source.name, now, true)]),
        ...steps.map(({ step, dir }) => entry(`${source.name}@${step}`, dir, false)),
      ]
    })
  }

  #find(name: string | undefined, param: string): Version {
    const first = this.#sources.keys().next().value
    const [, plain, step] = /^(.*?)(?:@(\d+))?$/s.exec(name ?? first ?? "")!
    const source = this.#sources.get(plain!)
    const missing = (message: string) => new ApiError(404, message, { type: "invalid_request_error", param, code: "model_not_found" })
    if (source === undefined)
      throw missing(`model ${JSON.stringify((name ?? "").slice(0, 100))} is not served here: GET /v1/models lists what is`)
    if (step === undefined) {
      if (source.current !== undefined) return source.current
      throw new ApiError(503, `run ${source.name} has no checkpoint yet`, {
        param,
        code: "model_not_ready",
        headers: { "retry-after-ms": "2000" },
      })
    }
    if (!source.isRun) throw badField(param, `${source.name} is one checkpoint, not a run with steps`, "model_not_found")
    const found = listCheckpoints(source.path).find((one) => one.step === Number(step))
    if (found === undefined) throw missing(`run ${source.name} has no checkpoint of step ${step}`)
    return this.#version(source, found.dir, true)
  }

  #version(source: Source, directory: string, pinned: boolean): Version {
    const key = source.isRun ? `${source.name}@${stepOf(directory)}` : source.name
    const known = this.#versions.get(key)
    if (known !== undefined) {
      known.retired = false
      return known
    }
    const version = { key, directory, pinned, model: undefined, ready: undefined, leases: 0, retired: false, usedAt: ++this.#clock }
    this.#versions.set(key, version)
    return version
  }

  #load(version: Version): Promise<Model> {
    version.model ??= this.#open(version).then(
      (model) => {
        version.ready = model
        return model
      },
      (error) => {
        version.model = undefined
        throw error
      },
    )
    return version.model
  }

  async #open({ key, directory }: Version): Promise<Model> {
    const facts = await this.serving.load({ key, path: directory, precision: this.options.precision })
    const { ids } = readConfig(directory)
    const tokenizerJson = readCheckpointFile(directory, "tokenizer.json")
    const tokenizer = tokenizerJson === undefined ? undefined : this.#tokenizer(tokenizerJson)
    const config = JSON.parse(readCheckpointFile(directory, "tokenizer_config.json") ?? "{}") as Record<string, unknown>
    return {
      key,
      name: key,
      facts,
      tokenizer,
      template: readTemplate(readChatTemplate(directory), config, tokenizer),
      around: surroundings(tokenizerJson),
      begin: ids.bos ?? [ids.eos ?? []].flat()[0],
      vocabSize: facts.vocabSize,
      vocabulary: facts.vocabulary,
      blockSize: facts.blockSize,
      created: createdAt(directory),
    }
  }

  /** Checkpoints of a run have one tokenizer; parsing it takes long. */
  #tokenizer(json: string): Tokenizer {
    const hash = Bun.hash(json).toString(36)
    const known = this.#tokenizers.get(hash)
    if (known !== undefined) return known
    const made = parseTokenizer(json)
    this.#tokenizers.set(hash, made)
    return made
  }

  #retire(version: Version): void {
    if (version.pinned) return
    version.retired = true
    this.#tidy(version)
  }

  /** Unloads what is retired and unused, and pins beyond those kept. */
  #tidy(version: Version): void {
    const idle = [...this.#versions.values()].filter(
      (one) => one.pinned && one.leases === 0 && one.model !== undefined && !this.#isCurrent(one),
    )
    idle.sort((a, b) => b.usedAt - a.usedAt)
    for (const one of idle.slice(KEPT_PINS)) this.#drop(one)
    if (version.retired && version.leases === 0) this.#drop(version)
  }

  #isCurrent = (version: Version): boolean => [...this.#sources.values()].some(({ current }) => current === version)

  #drop(version: Version): void {
    version.retired = false
    if (version.model === undefined) return
    version.model = undefined
    version.ready = undefined
    if (!this.#isCurrent(version)) this.#versions.delete(version.key)
    this.serving.unload(version.key).catch(() => {
      // Evicted meanwhile: it is gone, as it should be.
    })
  }
}

/** The checkpoint that answers for a source now. */
const newest = ({ path, follow }: Source): string => modelDirectory(follow === "last" ? join(path, "last") : path)

const hasCheckpoint = (run: string): boolean => ["best", "last"].some((name) => existsSync(join(run, name)))
const stepOf = (directory: string): number => Number(/step-(\d+)\/*$/.exec(directory)?.[1] ?? 0)
const createdAt = (directory: string): number => Math.floor((statSync(directory, { throwIfNoEntry: false })?.mtimeMs ?? 0) / 1000)
