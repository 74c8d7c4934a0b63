/** Counters and histograms, written as Prometheus reads them. */

type Labels = Readonly<Record<string, string>>

interface Family {
  readonly name: string
  readonly help: string
  readonly type: "counter" | "gauge" | "histogram"
  lines(): string[]
}

const escaped = (value: string): string => value.replace(/\\/g, "\\\\").replace(/\n/g, "\\n").replace(/"/g, '\\"')
/** Labels of a request are written once, though every token counts under them. */
const written = new WeakMap<Labels, string>()
const labelled = (labels: Labels): string => {
  const known = written.get(labels)
  if (known !== undefined) return known
  const text = labelText(labels)
  written.set(labels, text)
  return text
}
const labelText = (labels: Labels): string => {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`)
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`
}

/** A sum that only grows, by labels. */
export class Counter implements Family {
  readonly type = "counter"
  readonly #values = new Map<string, number>()

  constructor(
    readonly name: string,
    readonly help: string,
  ) {}

  add(labels: Labels, amount = 1): void {
    const key = labelled(labels)
    this.#values.set(key, (this.#values.get(key) ?? 0) + amount)
  }

  lines = (): string[] => [...this.#values].map(([labels, value]) => `${this.name}${labels} ${value}`)
}

/** Values that are read when somebody asks. */
export function sampled(type: "counter" | "gauge", name: string, help: string, samples: readonly (readonly [Labels, number])[]): Family {
  return { type, name, help, lines: () => samples.map(([labels, value]) => `${name}${labelled(labels)} ${value}`) }
}

/** How often a value fell under each bound, by labels. */
export class Histogram implements Family {
  readonly type = "histogram"
  readonly #series = new Map<string, { labels: Labels; counts: number[]; sum: number; count: number }>()

  constructor(
    readonly name: string,
    readonly help: string,
    readonly bounds: readonly number[],
  ) {}

  observe(labels: Labels, value: number): void {
    const key = labelled(labels)
    let series = this.#series.get(key)
    if (series === undefined) {
      series = { labels, counts: this.bounds.map(() => 0), sum: 0, count: 0 }
      this.#series.set(key, series)
    }
    const at = this.bounds.findIndex((bound) => value <= bound)
    if (at >= 0) series.counts[at]!++
    series.sum += value
    series.count++
  }

  /** The same numbers under another name. */
  as(name: string): Family {
    return { type: this.type, name, help: this.help, lines: () => this.#lines(name) }
  }

  lines = (): string[] => this.#lines(this.name)

  #lines(name: string): string[] {
    return [...this.#series.values()].flatMap(({ labels, counts, sum, count }) => {
      let below = 0
      const buckets = this.bounds.map((bound, i) => {
        below += counts[i]!
        return `${name}_bucket${labelled({ ...labels, le: String(bound) })} ${below}`
      })
      return [
        ...buckets,
        `${name}_bucket${labelled({ ...labels, le: "+Inf" })} ${count}`,
        `${name}_sum${labelled(labels)} ${sum}`,
        `${name}_count${labelled(labels)} ${count}`,
      ]
    })
  }
}

/** The text format, version 0.0.4. A family without samples is left out. */
export function exposition(families: readonly Family[]): string {
  return families
    .map((family) => ({ family, lines: family.lines() }))
    .filter(({ lines }) => lines.length > 0)
    .map(({ family: { name, help, type }, lines }) => `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("\n")}\n`)
    .join("")
}

const SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120]

/** What the server itself counts; the engine's numbers are added when somebody asks. */
export const serverMetrics = () => ({
  requests: new Counter("alpha_http_requests_total", "Requests answered, by route and status."),
  finished: new Counter("alpha_answers_total", "Answers that ended, by model and reason."),
  promptTokens: new Counter("alpha_prompt_tokens_total", "Prompt tokens of answered requests, by model."),
  answerTokens: new Counter("alpha_generation_tokens_total", "Tokens generated, by model."),
  firstToken: new Histogram("alpha_time_to_first_token_seconds", "From the request's arrival to its first token.", SECONDS),
  betweenTokens: new Histogram("alpha_inter_token_latency_seconds", "Between two tokens of an answer.", SECONDS),
  perToken: new Histogram("alpha_time_per_output_token_seconds", "Mean time per token of an answer after its first.", SECONDS),
  whole: new Histogram("alpha_request_duration_seconds", "From the request's arrival to the end of its answer.", SECONDS),
  queued: new Histogram("alpha_request_queue_seconds", "From the request's arrival to its start.", SECONDS),
})
export type Metrics = ReturnType<typeof serverMetrics>
