/** A configuration field as one row: the kinds of rows, the types derived from them, how one value is parsed. */

import { AlphaError, EXIT, nearest } from "./base-error.ts"

/** "set": always has a value. "optional": may be absent (the word `none`). "derived": computed from other fields unless given (the word `auto`). */
export type Presence = "set" | "optional" | "derived"

/** One row of a table; `name` is the key it stands under. */
export interface Field<T = unknown, P extends Presence = Presence> {
  readonly kind: "int" | "float" | "bool" | "choice" | "text" | "list"
  readonly presence: P
  readonly default: T | undefined
  /** Heading in the help. */
  readonly group: string
  /** One sentence for help, schema and documentation. */
  readonly doc: string
  /** In words: where an absent value comes from ("4·nEmbd", "all cores"). */
  readonly derive: string | undefined
  readonly unit: string | undefined
  /** Inclusive bounds. */
  readonly min: number | undefined
  readonly max: number | undefined
  /** Exclusive bounds. */
  readonly above: number | undefined
  readonly below: number | undefined
  readonly choices: readonly string[] | undefined
  /** What a text must look like: a pattern and the same in words. */
  readonly form: { readonly pattern: RegExp; readonly words: string } | undefined
  /** Other spellings of a value: { cpu_ref: "cpu" }. */
  readonly spellings: Readonly<Record<string, string>>
  /** Other flag names; "packed=sequential" is a switch that gives the field that value. */
  readonly aliases: readonly string[]
  /** The value of the flag without `=value`; such a flag never takes the next argument. */
  readonly bare: string | undefined
}

export type Fields = Readonly<Record<string, Field>>

type ValueOf<F> = F extends Field<infer T, Presence> ? T : never
type PresenceOf<F> = F extends Field<unknown, infer P> ? P : never

/** Values after merging: derived fields may still be absent. */
export type Values<F extends Fields> = { [K in keyof F]: PresenceOf<F[K]> extends "set" ? ValueOf<F[K]> : ValueOf<F[K]> | undefined }

/** Values after derivation: only optional fields may be absent. */
export type Resolved<F extends Fields> = {
  [K in keyof F]: PresenceOf<F[K]> extends "optional" ? ValueOf<F[K]> | undefined : ValueOf<F[K]>
}

interface Options<T> {
  default?: T
  optional?: true
  derive?: string
  group?: string
  unit?: string
  aliases?: readonly string[]
}
interface NumberOptions extends Options<number> {
  min?: number
  max?: number
  above?: number
  below?: number
}
interface TextOptions extends Options<string> {
  form?: { pattern: RegExp; words: string }
  spellings?: Record<string, string>
  bare?: string
}

type PresenceBy<O> = O extends { optional: true }
  ? "optional"
  : O extends { default: unknown }
    ? "set"
    : O extends { derive: string }
      ? "derived"
      : "optional"

type Row<T, O> = Field<T, PresenceBy<O>>

function row<T, O extends Options<T>>(kind: Field["kind"], doc: string, options: O): Row<T, O> {
  const presence =
    options.optional || (options.default === undefined && !options.derive) ? "optional" : options.default === undefined ? "derived" : "set"
  const blank = {
    default: undefined,
    derive: undefined,
    unit: undefined,
    min: undefined,
    max: undefined,
    above: undefined,
    below: undefined,
    choices: undefined,
    form: undefined,
    bare: undefined,
    spellings: {},
    aliases: [],
    group: "General",
  }
  return { ...blank, ...options, kind, doc, presence } as unknown as Row<T, O>
}

/** A whole number. */
export const int = <const O extends NumberOptions>(doc: string, options: O): Row<number, O> => row("int", doc, options)
/** A number. */
export const float = <const O extends NumberOptions>(doc: string, options: O): Row<number, O> => row("float", doc, options)
/** true or false: `--name`, `--name=false`, `--no-name`. */
export const bool = <const O extends Options<boolean>>(doc: string, options: O): Row<boolean, O> => row("bool", doc, options)
/** Free text, or text of a given form. */
export const text = <const O extends TextOptions>(doc: string, options: O): Row<string, O> => row("text", doc, options)
/** Texts: the flag may be repeated, or its value be a JSON array. */
export const list = <const O extends Options<readonly string[]>>(doc: string, options: O): Row<readonly string[], O> =>
  row("list", doc, options)
/** One of a few words. */
export const choice = <const C extends readonly string[], const O extends Options<C[number]> & { spellings?: Record<string, string> }>(
  doc: string,
  choices: C,
  options: O,
): Row<C[number], O> => row("choice", doc, { ...options, choices })

/** Puts rows under one heading of the help. */
export function inGroup<const F extends Fields>(group: string, fields: F): F {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, { ...field, group }])) as unknown as F
}

/** ALPHA_ name of a field: nKvHead → ALPHA_N_KV_HEAD. */
export function envName(name: string): string {
  return `ALPHA_${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

/** camelCase of a flag spelled in kebab-case or snake_case: n-kv-head → nKvHead. */
export function camelName(name: string): string {
  return name.replace(/[-_]+([a-zA-Z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

/** kebab-case of a field: nKvHead → n-kv-head. */
export function kebabName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** What the field expects, in words: "a whole number from 1 to 64", "one of f32, bf16". */
export function expected(field: Field): string {
  switch (field.kind) {
    case "int":
      return `a whole number${range(field)}`
    case "float":
      return `a number${range(field)}`
    case "bool":
      return "true or false"
    case "choice":
      return `one of ${field.choices!.join(", ")}`
    case "list":
      return "a text or a JSON array of texts"
    case "text":
      return field.form?.words ?? "a text that is not empty"
  }
}

function range({ min, max, above, below }: Field): string {
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`
  const parts: string[] = []
  if (min !== undefined) parts.push(`of at least ${min}`)
  if (above !== undefined) parts.push(`above ${above}`)
  if (max !== undefined) parts.push(`of at most ${max}`)
  if (below !== undefined) parts.push(`below ${below}`)
  return parts.length === 0 ? "" : ` ${parts.join(" and ")}`
}

const NUMBER = /^[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?$/i
const WORDS: Record<string, boolean> = { true: true, false: false, yes: true, no: false, on: true, off: false, "1": true, "0": false }

/** Thrown inside `parseValue` with the reason alone; the caller knows the source. */
const INVALID = Symbol("invalid")

/**
 * The value of `field` from a flag's or variable's text, or from JSON. `source` names where it came from in errors ("--lr", "run.json: lr").
 * A text from the environment is never quoted in an error (`quote: false`): it may be secret.
 */
export function parseValue(field: Field, raw: unknown, source: string, quote = true): unknown {
  if (field.presence !== "set" && (raw === null || raw === "none" || raw === "auto")) return undefined
  const value = convert(field, raw)
  if (value !== INVALID) return value
  const shown = quote ? ` ${typeof raw === "string" ? (raw === "" ? '""' : raw) : JSON.stringify(raw)}` : ""
  const close = field.choices && typeof raw === "string" ? nearest(raw, field.choices) : undefined
  throw new AlphaError(`${source}${shown}: expected ${expected(field)}`, {
    hint: close ? `did you mean ${close}?` : field.presence === "set" ? undefined : absentHint(field),
    code: EXIT.usage,
  })
}

function absentHint(field: Field): string | undefined {
  if (field.presence === "derived" || field.derive) return `auto means: ${field.derive}`
  if (field.kind === "choice") return undefined
  return field.kind === "text" ? "leave it out, or say none, where there is none" : "none switches it off"
}

function convert(field: Field, raw: unknown): unknown {
  switch (field.kind) {
    case "int":
    case "float": {
      const number = typeof raw === "string" && NUMBER.test(raw) ? Number(raw.replaceAll("_", "")) : raw
      if (typeof number !== "number" || !Number.isFinite(number)) return INVALID
      if (field.kind === "int" && !Number.isSafeInteger(number)) return INVALID
      const { min = -Infinity, max = Infinity, above = -Infinity, below = Infinity } = field
      return number >= min && number <= max && number > above && number < below ? number : INVALID
    }
    case "bool":
      return typeof raw === "boolean" ? raw : typeof raw === "string" ? (WORDS[raw.toLowerCase()] ?? INVALID) : INVALID
    case "choice": {
      const word = typeof raw === "string" ? (field.spellings[raw] ?? raw) : raw
      return field.choices!.includes(word as string) ? word : INVALID
    }
    case "text": {
      if (typeof raw !== "string" || raw === "") return INVALID
      const word = field.spellings[raw] ?? raw
      return !field.form || field.form.pattern.test(word) ? word : INVALID
    }
    case "list":
      return toList(raw)
  }
}

/** A text is one entry unless it is a JSON array; an array may come from a repeated flag. */
function toList(raw: unknown): readonly string[] | typeof INVALID {
  if (typeof raw === "string") {
    if (!raw.startsWith("[")) return [raw]
    try {
      return toList(JSON.parse(raw))
    } catch {
      return [raw]
    }
  }
  return Array.isArray(raw) && raw.every((entry) => typeof entry === "string") ? (raw as string[]) : INVALID
}

/** JSON Schema (2020-12) of a table, for editors of `--config` files and for `alpha help COMMAND --json`. */
export function jsonSchema(fields: Fields, title: string): Record<string, unknown> {
  const properties = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, fieldSchema(name, field)]))
  return { $schema: "https://json-schema.org/draft/2020-12/schema", title, type: "object", additionalProperties: false, properties }
}

function fieldSchema(name: string, field: Field): Record<string, unknown> {
  const type = { int: "integer", float: "number", bool: "boolean", choice: "string", text: "string", list: "array" }[field.kind]
  const facts: Record<string, unknown> = {
    type: field.presence === "set" ? type : [type, "null"],
    description: field.doc,
    enum: field.choices && (field.presence === "set" ? field.choices : [...field.choices, null]),
    items: field.kind === "list" ? { type: "string" } : undefined,
    default: field.default,
    minimum: field.min,
    maximum: field.max,
    exclusiveMinimum: field.above,
    exclusiveMaximum: field.below,
    pattern: field.form?.pattern.source,
    "x-group": field.group,
    "x-unit": field.unit,
    "x-derive": field.derive,
    "x-aliases": field.aliases.length > 0 ? field.aliases : undefined,
    "x-env": envName(name),
  }
  return Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined))
}
