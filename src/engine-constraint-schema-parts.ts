/** What JSON schemas say in general: their keywords and types, two of them at once, two that exclude each other. */
import { refusal } from "./engine-constraint-automaton.ts"

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }
export type Schema = { readonly [key: string]: Json }

/** Keywords that say nothing about what is allowed. */
export const ANNOTATIONS = new Set(
  "title description default examples deprecated readOnly writeOnly $comment $schema $id $defs definitions".split(" "),
)
const TYPES = ["string", "number", "integer", "boolean", "null", "array", "object"] as const
export type Type = (typeof TYPES)[number]
/** Keywords by the type they speak of. */
export const KEYWORDS: Readonly<Record<Type, readonly string[]>> = {
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  boolean: [],
  null: [],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  object: ["properties", "required", "additionalProperties"],
}

export const isObject = (value: Json | undefined): value is Schema => typeof value === "object" && value !== null && !Array.isArray(value)

export const listOfNames = (value: Json | undefined): string[] => (Array.isArray(value) ? (value as readonly Json[]).map(String) : [])

export const typeOf = (value: Json): Type => {
  if (value === null) return "null"
  if (Array.isArray(value)) return "array"
  return typeof value === "number" ? (Number.isInteger(value) ? "integer" : "number") : (typeof value as Type)
}

export const meet = (a: Type, b: Type): boolean => a === b || (a === "integer" && b === "number") || (a === "number" && b === "integer")

const typesAre = (types: readonly Type[] | undefined, only: Type): boolean => types?.every((type) => type === only) === true

/** The types a schema names; undefined: any. */
export function typesOf(schema: Schema): Type[] | undefined {
  if (!("type" in schema)) return undefined
  const list = [schema.type].flat() as string[]
  const wrong = list.find((name) => !(TYPES as readonly string[]).includes(name))
  if (wrong !== undefined || list.length === 0) throw refusal(`type ${JSON.stringify(wrong ?? [])} is none of ${TYPES.join(", ")}`)
  return list as Type[]
}

/** Without a type every type is allowed, and those that keywords speak of must meet them. */
export const impliedTypes = (own: readonly string[]): Type[] => {
  const spoken = TYPES.filter((type) => KEYWORDS[type].some((key) => own.includes(key)))
  // Whoever describes properties without a type means an object, and so on; a number may be whole.
  const kinds = spoken.filter((type) => type !== "integer")
  return kinds.length === 1 ? kinds : [...TYPES.filter((type) => type !== "integer")]
}

/** Keywords whose value makes them say nothing. */
export const isHarmless = (key: string, value: Json): boolean =>
  (key === "uniqueItems" && value === false) || (key === "minProperties" && value === 0) || (key === "nullable" && value === false)

export function bounds(schema: Schema, low: string, high: string, where: string): [number, number | undefined] {
  const [min, max] = [schema[low] ?? 0, schema[high]]
  for (const [key, value] of [[low, min] as const, [high, max] as const]) {
    if (value !== undefined && !(typeof value === "number" && Number.isInteger(value) && value >= 0))
      throw refusal(`${where}: ${key} is a whole number`)
  }
  if (max !== undefined && (min as number) > (max as number)) throw refusal(`${where}: ${low} ${min} is above ${high} ${max}`)
  return [min as number, max as number | undefined]
}

/** What meets both schemas, where they speak of different things. */
export function bothSchemas(a: Schema, b: Schema, where: string): Schema {
  for (const [one, other] of [[a, b] as const, [b, a] as const]) {
    const own = isObject(one.properties) ? one.properties : {}
    const strange = Object.keys(isObject(other.properties) ? other.properties : {}).find((name) => !Object.hasOwn(own, name))
    if (strange !== undefined && "additionalProperties" in one && one.additionalProperties !== true) {
      throw refusal(`${where}: additionalProperties beside property ${strange} of another part is not supported`)
    }
    if ("items" in one && "prefixItems" in other && !("prefixItems" in one)) {
      throw refusal(`${where}: items beside prefixItems of another part is not supported`)
    }
  }
  const out: Record<string, Json> = { ...a }
  for (const [key, value] of Object.entries(b)) {
    const known = out[key]
    if (known === undefined || ANNOTATIONS.has(key) || JSON.stringify(known) === JSON.stringify(value)) out[key] = value
    else if (key === "required") out[key] = [...new Set([...(known as Json[]), ...(value as Json[])])]
    else if (key === "properties" && isObject(known) && isObject(value)) {
      const twice = Object.keys(value).filter((name) => name in known && JSON.stringify(known[name]) !== JSON.stringify(value[name]))
      if (twice.length > 0) throw refusal(`${where}: property ${twice[0]} is described twice`)
      out[key] = { ...known, ...value }
    } else throw refusal(`${where}: ${key} is given twice and differs`)
  }
  return out
}

/** Whether no value meets both: their types or listed values differ, or those of a property that both require. */
export function excludeEachOther(a: Json, b: Json, followed: (schema: Json) => Json, depth = 0): boolean {
  const [x, y] = [followed(a), followed(b)]
  if (!isObject(x) || !isObject(y) || depth > 3) return false
  const values = [x, y].map((s) => ("const" in s ? [s.const!] : Array.isArray(s.enum) ? (s.enum as Json[]) : undefined))
  const types = [x, y].map((s, i) => values[i]?.map(typeOf) ?? typesOf(s))
  if (values[0] !== undefined && values[1] !== undefined) {
    const texts = new Set(values[0].map((value) => JSON.stringify(value)))
    if (!values[1].some((value) => texts.has(JSON.stringify(value)))) return true
  }
  if (types[0] !== undefined && types[1] !== undefined && !types[0].some((t) => types[1]!.some((u) => meet(t, u)))) return true
  const [p, q] = [x.properties, y.properties]
  if (!isObject(p) || !isObject(q) || !typesAre(types[0], "object") || !typesAre(types[1], "object")) return false
  const required = listOfNames(x.required).filter((name) => listOfNames(y.required).includes(name))
  return required.some((name) => name in p && name in q && excludeEachOther(p[name]!, q[name]!, followed, depth + 1))
}
