/** Shapes of JSON values: what they are in words, as JSON Schema, and how a value is checked. */
import { nearest } from "./base-error.ts"
import { badField } from "./serve-error.ts"

/** A kind of value. `parse` returns it or throws ApiError 400 naming `path`. */
export interface Shape<T> {
  /** "a number from 0 to 2" */
  readonly words: string
  /** JSON Schema 2020-12. */
  readonly schema: Readonly<Record<string, unknown>>
  parse(value: unknown, path: string): T
}

export type ShapeOf<S> = S extends Shape<infer T> ? T : never

const refuse = (path: string, words: string, value: unknown) => badField(path, `expected ${words}, got ${shown(value)}`)

/** A value for an error message: short, and never a whole prompt. */
function shown(value: unknown): string {
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === "object" && value !== null) return "an object"
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 60 ? `${text.slice(0, 57)}…` : text
}

const range = (min: number, max: number) => (max >= Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`)
const bounds = (min: number, max: number) => ({ minimum: min, ...(max >= Number.MAX_SAFE_INTEGER ? {} : { maximum: max }) })

export function number(min: number, max = Number.MAX_VALUE): Shape<number> {
  const words = `a number ${range(min, max)}`
  return {
    words,
    schema: { type: "number", ...bounds(min, max) },
    parse(value, path) {
      if (typeof value === "number" && Number.isFinite(value) && value >= min && value <= max) return value
      throw refuse(path, words, value)
    },
  }
}

export function whole(min: number, max = Number.MAX_SAFE_INTEGER): Shape<number> {
  const words = `a whole number ${range(min, max)}`
  return {
    words,
    schema: { type: "integer", ...bounds(min, max) },
    parse(value, path) {
      if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max) return value as number
      throw refuse(path, words, value)
    },
  }
}

export const flag: Shape<boolean> = {
  words: "true or false",
  schema: { type: "boolean" },
  parse(value, path) {
    if (typeof value === "boolean") return value
    throw refuse(path, "true or false", value)
  },
}

/** A string of at most `max` UTF-16 units. */
export function string({
  min = 0,
  max = Number.MAX_SAFE_INTEGER,
  pattern,
}: {
  min?: number
  max?: number
  pattern?: RegExp
} = {}): Shape<string> {
  const length = min === 1 ? " that is not empty" : ""
  const words = `a string${length}${max < Number.MAX_SAFE_INTEGER ? ` of at most ${max} characters` : ""}${pattern ? ` of the form ${pattern.source}` : ""}`
  return {
    words,
    schema: {
      type: "string",
      ...(min > 0 ? { minLength: min } : {}),
      ...(max < Number.MAX_SAFE_INTEGER ? { maxLength: max } : {}),
      ...(pattern ? { pattern: pattern.source } : {}),
    },
    parse(value, path) {
      if (typeof value === "string" && value.length >= min && value.length <= max && (pattern?.test(value) ?? true)) return value
      throw refuse(path, words, value)
    },
  }
}

/** One of a few words or numbers. */
export function word<const W extends readonly (string | number | boolean)[]>(...all: W): Shape<W[number]> {
  const words = all.length === 1 ? JSON.stringify(all[0]) : `one of ${all.map((one) => JSON.stringify(one)).join(", ")}`
  return {
    words,
    schema: all.length === 1 ? { const: all[0] } : { enum: all },
    parse(value, path) {
      if (all.includes(value as W[number])) return value as W[number]
      throw refuse(path, words, value)
    },
  }
}

export function list<T>(item: Shape<T>, { min = 0, max = Number.MAX_SAFE_INTEGER }: { min?: number; max?: number } = {}): Shape<T[]> {
  const count = max === 0 ? "no" : max < Number.MAX_SAFE_INTEGER ? `${min} to ${max}` : min > 0 ? `at least ${min}` : ""
  const words = `an array of ${count}${count ? " items, each " : ""}${item.words}`
  return {
    words,
    schema: {
      type: "array",
      items: item.schema,
      ...(min > 0 ? { minItems: min } : {}),
      ...(max < Number.MAX_SAFE_INTEGER ? { maxItems: max } : {}),
    },
    parse(value, path) {
      if (!Array.isArray(value)) throw refuse(path, words, value)
      if (value.length < min || value.length > max) throw badField(path, `expected ${words}, got ${value.length} items`)
      return value.map((one, i) => item.parse(one, `${path}[${i}]`))
    },
  }
}

/** An object whose keys match `key`. */
export function record<T>(
  key: { pattern: RegExp; words: string },
  item: Shape<T>,
  max = Number.MAX_SAFE_INTEGER,
): Shape<Record<string, T>> {
  const words = `an object of ${key.words} → ${item.words}`
  return {
    words,
    schema: { type: "object", propertyNames: { pattern: key.pattern.source }, additionalProperties: item.schema },
    parse(value, path) {
      if (!isObject(value)) throw refuse(path, words, value)
      const entries = Object.entries(value)
      if (entries.length > max) throw badField(path, `expected at most ${max} entries, got ${entries.length}`)
      return Object.fromEntries(
        entries.map(([name, one]) => {
          if (!key.pattern.test(name)) throw badField(`${path}.${name.slice(0, 60)}`, `expected ${key.words} as key`)
          return [name, item.parse(one, `${path}.${name}`)]
        }),
      )
    },
  }
}

/** Any JSON object, passed on as it is. */
export const anyObject: Shape<Record<string, unknown>> = {
  words: "an object",
  schema: { type: "object" },
  parse(value, path) {
    if (isObject(value)) return value
    throw refuse(path, "an object", value)
  },
}

/** The first of several shapes that `test` picks by a look at the value; the error is that shape's own. */
export function either<A, B>(a: Shape<A>, isA: (value: unknown) => boolean, b: Shape<B>): Shape<A | B> {
  return {
    words: `${a.words}, or ${b.words}`,
    schema: { anyOf: [a.schema, b.schema] },
    parse: (value, path) => (isA(value) ? a.parse(value, path) : b.parse(value, path)),
  }
}

/** A shape whose value is turned into another one. */
export const mapped = <A, B>(shape: Shape<A>, turn: (value: A, path: string) => B): Shape<B> => ({
  ...shape,
  parse: (value, path) => turn(shape.parse(value, path), path),
})

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)
export const isString = (value: unknown): boolean => typeof value === "string"

/** honoured: it does what its documentation says · neutral: only values that ask for nothing are accepted · refused: any value is an error. */
export type Status = "honoured" | "neutral" | "refused"

/** One field of an endpoint. P: whether a value is always there after parsing. */
export interface Row<T = unknown, P extends boolean = boolean> {
  readonly shape: Shape<T>
  readonly status: Status
  readonly doc: string
  readonly default: T | undefined
  readonly required: boolean
  /** Not in OpenAI's API. */
  readonly extension: boolean
  readonly present: P
}
export type Rows = Readonly<Record<string, Row>>
/** What parsing a table of rows gives. */
export type Parsed<R extends Rows> = {
  [K in keyof R]: R[K] extends Row<infer T, infer P> ? (P extends true ? T : T | undefined) : never
}

interface Options<T> {
  default?: T
  required?: true
  extension?: true
}
type PresentBy<O> = O extends { required: true } ? true : O extends { default: unknown } ? true : false

/** A field that is honoured. null means absent. */
export function field<T, const O extends Options<NoInfer<T>> = Record<never, never>>(
  shape: Shape<T>,
  doc: string,
  options?: O,
): Row<T, PresentBy<O>> {
  const { default: usual, required = false, extension = false } = (options ?? {}) as Options<T>
  return { shape, status: "honoured", doc, default: usual, required, extension, present: (required || usual !== undefined) as PresentBy<O> }
}

/** A field of OpenAI's API that is accepted only where it asks for what happens anyway. */
export const neutral = <T>(shape: Shape<T>, doc: string): Row<T, false> => ({
  shape,
  status: "neutral",
  doc,
  default: undefined,
  required: false,
  extension: false,
  present: false,
})

/** A field of OpenAI's API that is always an error, with the reason. */
export const refused = (reason: string): Row<never, false> => ({
  shape: {
    words: "nothing",
    schema: { type: "null" },
    parse: (_, path) => {
      throw badField(path, reason, "unsupported_parameter")
    },
  },
  status: "refused",
  doc: reason,
  default: undefined,
  required: false,
  extension: false,
  present: false,
})

/** Checks an object by its table: every key must have a row. `path` is "" for a request body. */
export function parseRows<R extends Rows>(rows: R, value: unknown, path = ""): Parsed<R> {
  if (!isObject(value)) throw path === "" ? badField("body", "expected a JSON object") : refuse(path, "an object", value)
  const at = (name: string) => (path === "" ? name : `${path}.${name}`)
  for (const name of Object.keys(value)) {
    if (Object.hasOwn(rows, name)) continue
    const close = nearest(name, Object.keys(rows))
    throw badField(at(name.slice(0, 60)), `unknown field${close ? `, did you mean ${close}?` : ""}`, "unknown_parameter")
  }
  return Object.fromEntries(
    Object.entries(rows).map(([name, row]) => {
      const given = value[name]
      if (given !== undefined && given !== null) return [name, parseRow(row, given, at(name))]
      if (row.required) throw badField(at(name), "is required", "missing_required_parameter")
      return [name, row.default]
    }),
  ) as Parsed<R>
}

function parseRow(row: Row, value: unknown, path: string): unknown {
  if (row.status !== "neutral") return row.shape.parse(value, path)
  try {
    return row.shape.parse(value, path)
  } catch {
    throw badField(path, `only ${row.shape.words} is supported: ${row.doc}`, "unsupported_value")
  }
}

/** JSON Schema of a table. */
export function rowsSchema(rows: Rows): Record<string, unknown> {
  const properties = Object.fromEntries(
    Object.entries(rows).map(([name, row]) => [
      name,
      { description: row.doc, ...row.shape.schema, ...(row.default === undefined ? {} : { default: row.default }) },
    ]),
  )
  const required = Object.keys(rows).filter((name) => rows[name]!.required)
  return { type: "object", properties, required, additionalProperties: false }
}

/** A nested table as a shape. */
export const object = <R extends Rows>(rows: R): Shape<Parsed<R>> => ({
  words: `an object of ${Object.keys(rows).join(", ")}`,
  schema: rowsSchema(rows),
  parse: (value, path) => parseRows(rows, value, path),
})
