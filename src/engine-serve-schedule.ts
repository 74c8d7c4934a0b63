/** One turn of a model: waiting requests get slots, all that decode grow by a token, then a chunk of what is still to be computed. */
import { AlphaError } from "./base-error.ts"
import type { Counters } from "./engine-serve-counters.ts"
import { CHUNK, CHUNK_LEAST, type Resident } from "./engine-serve-model.ts"
import type { RequestEvent, RequestFailure, ServeFinish } from "./engine-serve-protocol.ts"
import type { FairQueue } from "./engine-serve-queue.ts"
import type { Sequence } from "./engine-serve-sequence.ts"
import { type Choice, chunkSize, type Row, type StepResult } from "./gpt.ts"

/** How long a chunk may take: others decode, who wait for it; nobody does, but somebody may come or cancel. */
const STALL_MS = 40
const ALONE_MS = 250
/** A chunk of so many tokens costs little more than a smaller one: it takes any others along. */
const CHUNK_CHEAP = 32
/** Most logits of a step that scores every token, on the CPU and on a GPU. */
const LOGITS = { cpu: 2 ** 24, gpu: 2 ** 26 }
/** Alternatives that a step computes when anyone wants some: the most that can be asked for. */
export const TOP = 20

/** What a turn is given: who waits, how to tell events, what to count. */
export interface Turn {
  readonly slots: number
  /** Whether requests that wait may start on these weights. */
  readonly isCurrent: boolean
  readonly queue: FairQueue<Sequence>
  readonly counters: Counters
  tell(sequence: Sequence, event: RequestEvent): void
  fail(sequence: Sequence, code: RequestFailure["code"], error: AlphaError, param?: string): void
}

export class Schedule {
  readonly #resident: Resident
  /** Milliseconds that a prompt token takes, lately. */
  #tokenMs = 1
  /** The step of decoding that the device has already. */
  #next: Running | undefined

  constructor(resident: Resident) {
    this.#resident = resident
  }

  /** Gives free slots to those that lost theirs, then to those that wait. */
  admit(turn: Turn): void {
    const { running, paused, pool } = this.#resident
    while (running.length < turn.slots) {
      const next = paused[0] ?? (turn.isCurrent ? turn.queue.peek() : undefined)
      if (next === undefined) return
      if (!next.suits(this.#resident.facts)) {
        turn.queue.take(next, false)
        turn.fail(next, "model", new AlphaError("the model was replaced by one of another size"))
        continue
      }
      next.enter({ pool, ends: this.#resident.ends })
      if (running.length > 0 && next.lacking(next.left) + 1 > pool.available) {
        next.leave()
        return
      }
      if (paused[0] === next) paused.shift()
      else if (!this.#begin(next, turn)) continue
      running.push(next)
    }
  }

  /** False where it turns out that the request cannot run. */
  #begin(sequence: Sequence, turn: Turn): boolean {
    turn.queue.take(sequence, true)
    sequence.started = performance.now()
    try {
      sequence.constrain(() => this.#resident.vocabulary(), this.#resident.ends)
    } catch (error) {
      this.#refuse(sequence, error, turn)
      return false
    }
    turn.counters.prefixQueries += sequence.request.prompt.length
    const queueMs = sequence.started - sequence.submitted
    turn.tell(sequence, { type: "started", fingerprint: this.#resident.facts.fingerprint, cachedTokens: sequence.cached, queueMs })
    return true
  }

  /** Takes a sequence out, wherever it is. */
  remove(sequence: Sequence, turn: Turn): void {
    for (const list of [this.#resident.running, this.#resident.paused]) {
      const at = list.indexOf(sequence)
      if (at >= 0) list.splice(at, 1)
    }
    this.#drop(sequence, turn)
  }

  /** Its constraint turned out to be more than can be met. */
  #refuse(sequence: Sequence, error: unknown, turn: Turn): void {
    if (!(error instanceof AlphaError)) throw error
    this.remove(sequence, turn)
    turn.fail(sequence, "request", error, "constraint")
  }

  #drop(sequence: Sequence, turn: Turn): void {
    this.#forget(sequence)
    sequence.release()
    turn.queue.ended(sequence.client)
  }

  /** What the device has already is not for this sequence any more. */
  #forget(sequence: Sequence): void {
    const parts = this.#next?.parts
    const at = parts?.findIndex((part) => part?.sequence === sequence) ?? -1
    if (at >= 0) parts![at] = undefined
  }

  /** A token for each sequence that lacks only its last token in the cache. */
  decode(turn: Turn): boolean {
    const from = performance.now()
    const ready = this.#resident.running.filter((sequence) => sequence.left === 1 && sequence.request.kind === "generate")
    const known = this.#next
    const step =
      known ??
      this.#start(
        this.#placed(
          ready.map((sequence) => ({ sequence, count: 1 })),
          turn,
        ),
        1,
        turn,
      )
    if (step === undefined) return false
    // The device goes on while the host looks at the tokens.
    this.#next = this.#follow(step, ready)
    const count = step.parts.filter((part) => part !== undefined).length
    this.#finish(step, turn)
    turn.counters.decodeMs += performance.now() - from
    turn.counters.decodeSteps++
    turn.counters.decodeTokens += count
    return true
  }

  /** Starts the step after `step`, of the same rows with the tokens chosen there; undefined where others wait to join, or more is needed than the device has. */
  #follow({ parts, isLast }: Running, ready: readonly Sequence[]): Running | undefined {
    const { ahead, pool } = this.#resident
    const known = parts.flatMap((part) => part ?? [])
    const isPlain = ({ sequence }: Part) => sequence.adjusted === undefined && sequence.request.topLogprobs === 0
    if (ahead === 0 || !isLast || known.length !== ready.length || !known.every(isPlain)) return undefined
    const going = parts.map((part) => (part?.sequence.rowAfter() === undefined ? undefined : part))
    const count = going.filter((part) => part !== undefined).length
    if (count === 0 || rowsOf(count) < rowsOf(parts.length)) return undefined
    for (const part of going) {
      if (part === undefined || part.sequence.lacking(2) === 0) continue
      const page = pool.take()
      if (page === undefined) return undefined
      part.sequence.addPage(page)
    }
    const rows = going.map((part) => part?.sequence.rowAfter())
    const shape = { B: rowsOf(parts.length), T: 1, chooses: true, adjusted: undefined, top: 0, scores: false, hidden: false, follows: true }
    return { parts: going, rows, T: 1, isLast: true, read: this.#resident.submit(rows, shape) }
  }

  /** The next chunks of prompts, in turn; as much as those that decode can be made to wait for. */
  prefill(turn: Turn): boolean {
    const { running } = this.#resident
    const open = running.filter((sequence) => sequence.left > 1 || sequence.request.kind === "embed")
    if (open.length === 0) return false
    const { vocabSize, device } = this.#resident.facts
    const logits = device === "cpu" ? LOGITS.cpu : LOGITS.gpu
    const scored = open.some(({ scores }) => scores) ? Math.max(CHUNK_LEAST, 2 ** Math.floor(Math.log2(logits / vocabSize))) : CHUNK
    const most = Math.min(scored, this.#patience(running.length === open.length ? ALONE_MS : STALL_MS))
    for (const sequence of open) sequence.findPages()
    const first = open[0]!
    const T = Math.max(CHUNK_LEAST, chunkSize(first.left, most))
    const chosen: Part[] = []
    const pages = new Set<string>()
    for (const sequence of open) {
      if ((chosen.length + 1) * T > Math.max(most, T)) break
      // Of several with the same next page one computes it, for all.
      const page = sequence.nextPage
      if (page !== undefined && this.#resident.pool.reuse && pages.has(page)) continue
      if (page !== undefined) pages.add(page)
      if (sequence === first || T <= CHUNK_CHEAP || sequence.left * 2 > T) chosen.push({ sequence, count: Math.min(T, sequence.left) })
    }
    const whole = 2 ** Math.floor(Math.log2(chosen.length))
    const rows = this.#placed(chosen.slice(0, whole), turn)
    if (rows.length === 0) return true
    const from = performance.now()
    const step = this.#start(rows, T, turn)
    // What it chooses may lie where the step that the device has already left its tokens.
    if (this.#next !== undefined) this.#next.isLast = false
    if (step !== undefined) this.#finish(step, turn)
    const ms = performance.now() - from
    const tokens = rows.reduce((sum, { count }) => sum + count, 0)
    turn.counters.prefillMs += ms
    turn.counters.prefillTokens += tokens
    this.#tokenMs += (ms / (T * rows.length) - this.#tokenMs) / 8
    this.#rotate(rows)
    return true
  }

  /** Tokens of a chunk that takes so long. */
  #patience(ms: number): number {
    return Math.min(CHUNK, Math.max(CHUNK_CHEAP, 2 ** Math.floor(Math.log2(ms / this.#tokenMs))))
  }

  /** Those that had a chunk and are not done go behind the others that wait for one. */
  #rotate(rows: readonly Part[]): void {
    const { running } = this.#resident
    for (const { sequence } of rows) {
      const at = running.indexOf(sequence)
      if (at >= 0 && sequence.left > 1) running.push(...running.splice(at, 1))
    }
  }

  /** The parts whose tokens have pages; who came last gives up its pages where there are none left. */
  #placed(parts: readonly Part[], turn: Turn): Part[] {
    const { running, paused, pool } = this.#resident
    for (const { sequence, count } of parts) {
      while (running.includes(sequence) && sequence.lacking(count) > 0) {
        const page = pool.take()
        if (page !== undefined) sequence.addPage(page)
        else {
          const youngest = running.reduce((a, b) => (b.started >= a.started ? b : a))
          running.splice(running.indexOf(youngest), 1)
          this.#forget(youngest)
          youngest.pause()
          paused.push(youngest)
          paused.sort((a, b) => a.started - b.started)
          turn.counters.preemptions++
        }
      }
    }
    return parts.filter(({ sequence }) => running.includes(sequence))
  }

  /** Gives the device the next tokens of some sequences; undefined where none of them can go on. */
  #start(parts: readonly Part[], T: number, turn: Turn): Running | undefined {
    const good: Part[] = []
    const rows = parts.flatMap((part) => {
      try {
        const row = part.sequence.row(part.count)
        good.push(part)
        return [row]
      } catch (error) {
        this.#refuse(part.sequence, error, turn)
        return []
      }
    })
    if (good.length === 0) return undefined
    const sequences = good.map(({ sequence }) => sequence)
    // A few rows of logits that nobody needs cost less than twice as many programs.
    const chooses = sequences.some((sequence) => sequence.chooses)
    const lists = rows.flatMap(({ adjust }) => (adjust === undefined ? [] : [adjust]))
    const read = this.#resident.submit(rows, {
      B: rowsOf(rows.length),
      T,
      chooses,
      adjusted: lists.length === 0 ? undefined : listSize(Math.max(...lists.map(({ ids }) => ids.length))),
      top: sequences.some(({ request, scores }, i) => request.topLogprobs > 0 && (scores || rows[i]!.draw !== undefined)) ? TOP : 0,
      scores: sequences.some(({ scores }) => scores),
      hidden: sequences.some(({ request }) => request.kind === "embed"),
    })
    return { parts: good, rows, T, isLast: true, read }
  }

  /** Waits for a step and tells what it found. */
  #finish({ parts, rows, T, read }: Running, turn: Turn): void {
    const result = read()
    parts.forEach((part, b) => {
      if (part === undefined) return
      const { sequence, count } = part
      const from = sequence.computed
      if (sequence.scores && result.scores[b] !== undefined) {
        for (const event of sequence.tellScores(from, result.scores[b])) turn.tell(sequence, event)
      }
      if (sequence.request.kind === "embed") {
        const C = result.hidden!.length / (rowsOf(rows.length) * T)
        sequence.addHidden(result.hidden!.subarray(b * T * C, (b * T + count) * C), count)
      }
      sequence.advance(count)
      turn.queue.serve(sequence.client, count)
      if (sequence.left === 0) this.#settle(sequence, rows[b]!.draw === undefined ? undefined : result.choices[b], turn)
    })
  }

  /** All its tokens are computed: it says the next one, or ends. */
  #settle(sequence: Sequence, choice: Choice | undefined, turn: Turn): void {
    let reason: ServeFinish | undefined = "length"
    if (choice !== undefined) {
      if (Number.isNaN(choice.logprob)) {
        this.remove(sequence, turn)
        const hint = "the model is damaged or diverged in training: use another checkpoint"
        turn.fail(sequence, "damaged", new AlphaError(`the logits are not numbers after ${sequence.computed} tokens`, { hint }))
        return
      }
      try {
        reason = sequence.take(choice)
      } catch (error) {
        this.#refuse(sequence, error, turn)
        return
      }
      turn.tell(sequence, { type: "token", id: choice.id, logprob: choice.logprob, top: sequence.alternatives(choice.top) })
    } else if (sequence.request.kind === "embed") turn.tell(sequence, { type: "embedding", values: sequence.embedding })
    if (reason === undefined) return
    this.remove(sequence, turn)
    turn.counters.prefixHits += sequence.cached
    turn.counters.finished[reason]++
    turn.tell(sequence, sequence.finished(reason))
  }
}

interface Part {
  readonly sequence: Sequence
  /** Tokens it computes in this step. */
  readonly count: number
}

/** A step that the device has. */
interface Running {
  /** By row; undefined: the row is nobody's any more. */
  readonly parts: (Part | undefined)[]
  readonly rows: readonly (Row | undefined)[]
  readonly T: number
  /** Whether no step was started since. */
  isLast: boolean
  /** Waits for it. */
  read(): StepResult
}

/** Rows of the program for so many sequences. */
const rowsOf = (count: number): number => 2 ** Math.ceil(Math.log2(count))

/** Sizes of lists that programs are made for: 16, 64, 256 … */
const listSize = (longest: number): number => 4 ** Math.max(2, Math.ceil(Math.log2(Math.max(1, longest)) / 2))
