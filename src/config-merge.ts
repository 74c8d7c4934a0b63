/** Merging of configuration layers, weak to strong, with the origin of every value. */
import { type Fields, parseValue, type Values } from "./config-field.ts"

/** From weak to strong. "derived" values follow from others; "base" is the run or model that is continued. */
const LAYERS = ["default", "derived", "preset", "base", "file", "environment", "flag"] as const
export type LayerName = (typeof LAYERS)[number]

/** Where a value came from: { layer: "environment", from: "ALPHA_LR" }. */
export interface Origin {
  readonly layer: LayerName
  readonly from: string
}

/** One value on its way in. Texts of the environment are not quoted in errors (`secret`). */
export interface Entry extends Origin {
  readonly name: string
  readonly raw: unknown
  readonly secret?: boolean
}

/** Says a field with its value and, when known, its origin: "nHead 5 (--nHead)". */
export type Naming = (name: string, value: unknown) => string

/** Merged values of a table; `origins` has an entry for each of its fields. */
export class Loaded<F extends Fields> {
  readonly values: Values<F>
  readonly origins: Readonly<Record<keyof F & string, Origin>>
  readonly #values: Record<string, unknown>
  readonly #origins: Record<string, Origin>

  /** Later entries win within a layer, stronger layers win over weaker ones. */
  constructor(
    readonly fields: F,
    entries: readonly Entry[],
  ) {
    this.#values = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.default]))
    this.#origins = Object.fromEntries(
      Object.entries(fields).map(([name, field]) => [name, { layer: "default", from: field.derive ?? "" }]),
    )
    this.values = this.#values as Values<F>
    this.origins = this.#origins as Record<keyof F & string, Origin>
    for (const layer of LAYERS) {
      for (const entry of entries) {
        if (entry.layer !== layer) continue
        this.#values[entry.name] = parseValue(fields[entry.name]!, entry.raw, sourceOf(entry), !entry.secret)
        this.#origins[entry.name] = { layer, from: entry.from }
      }
    }
  }

  /** Position of the field's layer, weak to strong. */
  strength(name: keyof F & string): number {
    return LAYERS.indexOf(this.origins[name].layer)
  }

  /** True when a person set the field: by file, environment or flag. */
  isGiven(name: keyof F & string): boolean {
    return this.strength(name) >= LAYERS.indexOf("file")
  }

  /** The field with its value and origin, for errors. */
  readonly naming: Naming = (name, value) => {
    const origin = this.#origins[name]
    const from = origin === undefined ? "" : origin.layer === "default" ? " (default)" : origin.from === "" ? "" : ` (${origin.from})`
    return `${name} ${value === undefined ? "none" : value}${from}`
  }

  /** Fills fields that are still absent. */
  derive(values: Partial<Values<F>>): void {
    for (const [name, value] of Object.entries(values)) {
      if (this.#values[name] === undefined && value !== undefined) this.override(name, value, this.fields[name]!.derive ?? "")
    }
  }

  /** Sets a field because of another one. */
  override(name: keyof F & string, value: unknown, from: string): void {
    this.#values[name] = value
    this.#origins[name] = { layer: "derived", from }
  }
}

function sourceOf({ layer, name, from }: Entry): string {
  return layer === "flag" || layer === "environment" ? from : `${from}: ${name}`
}
