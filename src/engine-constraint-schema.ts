/** JSON Schema → a grammar of the JSON texts that meet it; what cannot be written so is refused by name. */
import { refusal } from "./engine-constraint-automaton.ts"
import { choice, type Expression, type Grammar, literal, nothing, repeat, rule, sequence } from "./engine-constraint-grammar.ts"
import {
  boundedString,
  colon,
  comma,
  integerRange,
  JSON_RULES,
  jsonCharacter,
  listOf,
  numberRange,
  otherString,
} from "./engine-constraint-json.ts"
import { parseRegex } from "./engine-constraint-regex.ts"
import {
  ANNOTATIONS,
  bothSchemas,
  bounds,
  excludeEachOther,
  impliedTypes,
  isHarmless,
  isObject,
  type Json,
  KEYWORDS,
  listOfNames,
  meet,
  type Schema,
  type Type,
  typeOf,
  typesOf,
} from "./engine-constraint-schema-parts.ts"

const LABEL = "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?"
const HOST = `${LABEL}(\\.${LABEL}){0,4}`
const LEAP_YEAR = "(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
const DAY = "((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))"
const DATE = `(\\d{4}-${DAY}|${LEAP_YEAR}-02-29)`
const TIME = "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
const BYTE = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
/** Texts of a format; of some a part, every one of which is right. */
const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE}T${TIME}`,
  duration: "P(\\d{1,4}W|(\\d{1,4}Y)?(\\d{1,3}M)?\\d{1,4}D(T\\d{1,4}H(\\d{1,4}M(\\d{1,4}S)?)?)?|T\\d{1,4}[HMS])",
  uuid: "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
  ipv4: `(${BYTE}\\.){3}${BYTE}`,
  ipv6: "([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
  hostname: HOST,
  email: `[A-Za-z0-9_+-]{1,30}(\\.[A-Za-z0-9_+-]{1,30})?@${LABEL}(\\.${LABEL}){1,4}`,
  uri: `https?://${HOST}(/[A-Za-z0-9._~-]{0,40}){0,8}`,
}

/**
 * Texts of JSON values that meet `schema` (draft 2020-12): type, enum, const, strings (minLength, maxLength, or pattern, or format), numbers with
 * bounds (whole ones where they are not integers), arrays (items, prefixItems, minItems, maxItems), objects (properties in their order, required,
 * additionalProperties), anyOf, oneOf whose alternatives exclude each other, allOf of parts that say different things, $ref within the document.
 * Throws AlphaError naming any other keyword.
 */
export function schemaGrammar(schema: unknown): Grammar {
  return new SchemaCompiler(schema as Json).compile()
}

/** Any JSON object. */
export const objectGrammar = (): Grammar => ({ root: rule("object"), rules: JSON_RULES })

class SchemaCompiler {
  readonly #rules = new Map<string, Expression>(JSON_RULES)

  constructor(readonly document: Json) {}

  compile(): Grammar {
    return { root: this.#value(this.document, "#"), rules: this.#rules }
  }

  /** `where` is the JSON pointer of the schema, for messages. */
  #value(schema: Json, where: string): Expression {
    if (schema === true) return rule("value")
    if (schema === false) throw refusal(`${where}: the schema false allows nothing`)
    if (!isObject(schema)) throw refusal(`${where}: a schema is an object, true or false`)
    const own = Object.keys(schema).filter((key) => !ANNOTATIONS.has(key))
    if (own.length === 0) return rule("value")
    if ("$ref" in schema) return this.#reference(schema, own, where)
    if ("allOf" in schema) return this.#value(this.#merged(schema, where), where)
    for (const key of ["anyOf", "oneOf"]) if (key in schema) return this.#alternatives(schema, key, where)
    if ("const" in schema || "enum" in schema) return this.#listed(schema, own, where)
    return this.#typed(schema, own, where)
  }

  #reference(schema: Schema, own: readonly string[], where: string): Expression {
    if (own.length > 1) throw refusal(`${where}: $ref beside ${own.filter((key) => key !== "$ref").join(", ")} is not supported`)
    const name = `ref ${schema.$ref}`
    if (!this.#rules.has(name)) {
      this.#rules.set(name, nothing) // taken: a schema may refer to itself
      this.#rules.set(name, this.#value(this.#resolve(schema.$ref!, where), String(schema.$ref)))
    }
    return rule(name)
  }

  /** What a $ref leads to; anything else is what it is. */
  #followed(schema: Json, where: string): Json {
    return isObject(schema) && "$ref" in schema ? this.#resolve(schema.$ref!, where) : schema
  }

  #resolve(pointer: Json, where: string): Json {
    if (typeof pointer !== "string" || !/^#(\/|$)/.test(pointer)) {
      throw refusal(`${where}: $ref ${JSON.stringify(pointer)} is outside this document`)
    }
    let at: Json | undefined = this.document
    for (const part of pointer.split("/").slice(1)) {
      const key = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")
      at = isObject(at) && Object.hasOwn(at, key) ? at[key] : Array.isArray(at) ? (at as readonly Json[])[Number(key)] : undefined
    }
    if (at === undefined) throw refusal(`${where}: $ref ${pointer} leads nowhere`)
    return at
  }

  /** The schema without allOf: its parts in one. */
  #merged(schema: Schema, where: string): Json {
    const { allOf, ...rest } = schema
    if (!Array.isArray(allOf)) throw refusal(`${where}: allOf is a list`)
    let merged: Schema = rest
    for (const part of allOf as readonly Json[]) {
      const resolved = this.#followed(part, where)
      if (resolved === true) continue
      if (!isObject(resolved)) throw refusal(`${where}: allOf of something that is no object`)
      merged = bothSchemas(merged, "allOf" in resolved ? (this.#merged(resolved, where) as Schema) : resolved, `${where}/allOf`)
    }
    return merged
  }

  #alternatives(schema: Schema, key: string, where: string): Expression {
    const { [key]: list, ...rest } = schema
    if (!Array.isArray(list) || list.length === 0) throw refusal(`${where}: ${key} is a list of schemas`)
    const shared = Object.fromEntries(Object.entries(rest).filter(([name]) => !ANNOTATIONS.has(name)))
    const parts = (list as readonly Json[]).filter((part) => part !== false)
    const full = parts.map((part, i) => {
      if (Object.keys(shared).length === 0) return part
      const resolved = this.#followed(part, where)
      return !isObject(resolved) ? resolved : bothSchemas(shared, resolved, `${where}/${key}/${i}`)
    })
    if (key === "oneOf") {
      const clash = full.findIndex((a, i) =>
        full.slice(i + 1).some((b) => !excludeEachOther(a, b, (schema) => this.#followed(schema, where))),
      )
      if (clash >= 0)
        throw refusal(`${where}: oneOf whose alternatives may hold together is not supported`, "anyOf would do, or a constant in each")
    }
    return choice(...full.map((part, i) => this.#value(part, `${where}/${key}/${i}`)))
  }

  #listed(schema: Schema, own: readonly string[], where: string): Expression {
    const other = own.find((key) => !["const", "enum", "type"].includes(key))
    if (other !== undefined) throw refusal(`${where}: ${other} beside ${"const" in schema ? "const" : "enum"} is not supported`)
    if ("enum" in schema && !Array.isArray(schema.enum)) throw refusal(`${where}: enum is a list`)
    const types = typesOf(schema)
    let values = "const" in schema ? [schema.const!] : (schema.enum as readonly Json[])
    if ("const" in schema && "enum" in schema) {
      values = (schema.enum as readonly Json[]).filter((value) => JSON.stringify(value) === JSON.stringify(schema.const))
    }
    if (types !== undefined) values = values.filter((value) => types.some((type) => meet(typeOf(value), type)))
    if (values.length === 0) throw refusal(`${where}: no listed value has the type`)
    return choice(...values.map((value) => literal(JSON.stringify(value))))
  }

  #typed(schema: Schema, own: readonly string[], where: string): Expression {
    const known = new Set(["type", ...Object.values(KEYWORDS).flat()])
    for (const key of own) {
      if (!known.has(key) && !isHarmless(key, schema[key]!)) throw refusal(`${where}: the keyword ${key} is not supported`)
    }
    const types = typesOf(schema) ?? impliedTypes(own)
    return choice(...types.map((type) => this.#ofType(type, schema, where)))
  }

  #ofType(type: Type, schema: Schema, where: string): Expression {
    if (type === "string") return this.#string(schema, where)
    if (type === "integer") return this.#integer(schema, where)
    if (type === "number") return this.#number(schema, where)
    if (type === "array") return this.#array(schema, where)
    return type === "object" ? this.#object(schema, where) : rule(type)
  }

  #string(schema: Schema, where: string): Expression {
    const given = KEYWORDS.string.filter((key) => key in schema)
    const hasLength = "minLength" in schema || "maxLength" in schema
    if (given.length === 0) return rule("string")
    const pattern = "pattern" in schema ? schema.pattern : FORMATS[String(schema.format)]
    if (!hasLength && typeof pattern === "string" && given.length === 1) {
      return sequence(literal('"'), parseRegex(pattern, jsonCharacter, "format" in schema), literal('"'))
    }
    if (hasLength && !("pattern" in schema) && !("format" in schema)) {
      const [min, max] = bounds(schema, "minLength", "maxLength", where)
      return boundedString(min, max)
    }
    if (given.length === 1) throw refusal(`${where}: format ${JSON.stringify(schema.format)} is not supported`)
    throw refusal(`${where}: ${given.join(" beside ")} is not supported`)
  }

  #bounds(schema: Schema, where: string): (number | undefined)[] {
    return KEYWORDS.integer.map((key) => {
      const value = schema[key]
      if (value !== undefined && typeof value !== "number") throw refusal(`${where}: ${key} is a number`)
      return value as number | undefined
    })
  }

  #number(schema: Schema, where: string): Expression {
    const [least, most, above, below] = this.#bounds(schema, where)
    const given = [least, most, above, below].filter((bound) => bound !== undefined)
    if (given.length === 0) return rule("number")
    const odd = given.find((bound) => !Number.isInteger(bound) || Math.abs(bound) >= 10 ** 9)
    if (odd !== undefined) throw refusal(`${where}: the bound ${odd} of a number is not supported`, "whole bounds below 10^9 are")
    const min =
      above !== undefined && above >= (least ?? above)
        ? { at: above, open: true }
        : least === undefined
          ? undefined
          : { at: least, open: false }
    const max =
      below !== undefined && below <= (most ?? below)
        ? { at: below, open: true }
        : most === undefined
          ? undefined
          : { at: most, open: false }
    if (min !== undefined && max !== undefined && (min.at > max.at || (min.at === max.at && (min.open || max.open)))) {
      throw refusal(`${where}: no number lies in the bounds`)
    }
    return numberRange(min, max)
  }

  #integer(schema: Schema, where: string): Expression {
    if (!KEYWORDS.integer.some((key) => key in schema)) return rule("integer")
    const [least, most, above, below] = this.#bounds(schema, where)
    const lows = [least === undefined ? [] : Math.ceil(least), above === undefined ? [] : Math.floor(above) + 1].flat()
    const highs = [most === undefined ? [] : Math.floor(most), below === undefined ? [] : Math.ceil(below) - 1].flat()
    const min = lows.length === 0 ? undefined : Math.max(...lows)
    const max = highs.length === 0 ? undefined : Math.min(...highs)
    if ((min ?? Number.NEGATIVE_INFINITY) > (max ?? Number.POSITIVE_INFINITY)) throw refusal(`${where}: no integer lies in the bounds`)
    if (Math.max(Math.abs(min ?? 0), Math.abs(max ?? 0)) >= 10 ** 15)
      throw refusal(`${where}: bounds of more than 15 digits are not supported`)
    return integerRange(min, max)
  }

  #array(schema: Schema, where: string): Expression {
    const [min, max] = bounds(schema, "minItems", "maxItems", where)
    const prefix = (schema.prefixItems ?? []) as readonly Json[]
    if (!Array.isArray(prefix)) throw refusal(`${where}: prefixItems is a list`)
    const rest = schema.items ?? true
    const last = rest === false ? Math.min(max ?? prefix.length, prefix.length) : max
    if (last !== undefined && min > last) throw refusal(`${where}: minItems ${min} is more than there can be`)
    const item = rest === false || last === 0 ? nothing : this.#named(`${where}/items`, rest)
    const first = prefix.slice(0, last).map((one, i) => this.#value(one, `${where}/prefixItems/${i}`))
    // From the last position back: what may follow i items.
    const after = prefix.length
    const free = last === undefined ? undefined : last - after
    let tail: Expression = nothing
    if (rest !== false && (free === undefined || free > 0)) {
      tail = after === 0 ? nothing : repeat(sequence(comma(), item), Math.max(0, min - after), free)
    }
    if (after === 0) {
      if (last === 0 || rest === false) return literal("[]")
      const list = listOf(item, Math.max(1, min), last)
      return sequence(literal("["), rule("ws"), min === 0 ? choice(nothing, list) : list, rule("ws"), literal("]"))
    }
    for (let i = first.length - 1; i >= 0; i--) {
      const one = i === 0 ? first[i]! : sequence(comma(), first[i]!)
      tail = min > i ? sequence(one, tail) : choice(nothing, sequence(one, tail))
    }
    return sequence(literal("["), rule("ws"), tail, rule("ws"), literal("]"))
  }

  /** A schema used in several places, as a rule. */
  #named(where: string, schema: Json): Expression {
    if (schema === true) return rule("value")
    if (!this.#rules.has(where)) this.#rules.set(where, this.#value(schema, where))
    return rule(where)
  }

  #object(schema: Schema, where: string): Expression {
    if (!KEYWORDS.object.some((key) => key in schema)) return rule("object")
    const properties = (schema.properties ?? {}) as Schema
    if (!isObject(properties)) throw refusal(`${where}: properties is an object`)
    if ("required" in schema && !Array.isArray(schema.required)) throw refusal(`${where}: required is a list of names`)
    const required = new Set(listOfNames(schema.required))
    const additional = schema.additionalProperties ?? Object.keys(properties).length === 0
    const names = [...Object.keys(properties), ...[...required].filter((name) => !Object.hasOwn(properties, name))]
    const pairs = names.flatMap((name) => {
      const isDescribed = Object.hasOwn(properties, name)
      const own = isDescribed ? properties[name]! : (schema.additionalProperties ?? true)
      if (own === false) {
        if (required.has(name)) throw refusal(`${where}: property ${name} is required and not allowed`)
        return []
      }
      const value = this.#value(own, isDescribed ? `${where}/properties/${name}` : `${where}/additionalProperties`)
      return [{ name, pair: sequence(literal(JSON.stringify(name)), colon(), value) }]
    })
    const extra = additional === false ? undefined : this.#extra(names, additional, where)
    // Two rules per property: what may follow from here on, as the first pair or after others.
    const prefix = `${where} ${this.#rules.size}`
    const at = (i: number, isFirst: boolean) => `${prefix} ${i} ${isFirst}`
    for (const isFirst of [true, false]) {
      const more = extra === undefined ? nothing : choice(nothing, isFirst ? listOf(extra, 1) : repeat(sequence(comma(), extra), 0))
      this.#rules.set(at(pairs.length, isFirst), more)
      pairs.forEach(({ name, pair }, i) => {
        const taken = sequence(...(isFirst ? [] : [comma()]), pair, rule(at(i + 1, false)))
        this.#rules.set(at(i, isFirst), required.has(name) ? taken : choice(taken, rule(at(i + 1, isFirst))))
      })
    }
    return sequence(literal("{"), rule("ws"), rule(at(0, true)), rule("ws"), literal("}"))
  }

  #extra(names: readonly string[], schema: Json, where: string): Expression {
    const key = names.length === 0 ? rule("string") : otherString(names)
    return sequence(key, colon(), this.#named(`${where}/additionalProperties`, schema))
  }
}
