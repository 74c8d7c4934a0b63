/** Random JSON schemas, and a plain validator that shares no code with the constraints. */
import { randomBits } from "../src/base-random.ts"

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }
export type Schema = boolean | { [key: string]: Json | Schema | Schema[] | { [key: string]: Schema } }

/** A stream of random numbers. */
export function dice(seed: number): (n: number) => number {
  let i = 0
  return (n) => randomBits(seed, 31, 0, i++) % n
}

const NAMES = ["a", "b", "name", "näme", 'quo"te', "a b", "id", "x\\y", ""]
const VALUES: Json[] = ["x", "", 'q"\\', "ü", 0, -3, 2.5, true, false, null, [], [1, "a"], { k: [null] }]

/** A schema of every kind that is supported; `depth` bounds nesting, `$ref` leads to the definitions tree and list. */
export function randomSchema(roll: (n: number) => number, depth = 3): Schema {
  const kind = roll(depth > 0 ? 16 : 9)
  const maybe = (key: string, value: () => Json): { [key: string]: Json } => (roll(2) === 0 ? {} : { [key]: value() })
  switch (kind) {
    case 0: {
      const min = roll(4)
      return { type: "string", ...maybe("minLength", () => min), ...maybe("maxLength", () => min + roll(5)) }
    }
    case 1:
      return { type: "string", pattern: ["^[a-c]+$", "x\\d{2}", "^(foo|ba[rz])*$", "^\"[^\\\\]?\"$", "^\\w+@\\w+\\.(com|org)$"][roll(5)]! } // biome-ignore format: one line
    case 2:
      return { type: "string", format: Object.keys(FORMATS)[roll(Object.keys(FORMATS).length)]! }
    case 3: {
      const low = roll(2000) - 1000
      const above = roll(2) === 0 ? { minimum: low } : { exclusiveMinimum: low }
      const below = roll(2) === 0 ? { maximum: low + 1 + roll(3000) } : { exclusiveMaximum: low + 2 + roll(30) }
      return { type: "integer", ...(roll(3) > 0 ? above : {}), ...(roll(3) > 0 ? below : {}) }
    }
    case 4: {
      const low = roll(30) - 15
      const above = roll(2) === 0 ? { minimum: low } : { exclusiveMinimum: low }
      const below = roll(2) === 0 ? { maximum: low + 1 + roll(20) } : { exclusiveMaximum: low + 1 + roll(3) }
      return { type: "number", ...(roll(3) > 0 ? above : {}), ...(roll(3) > 0 ? below : {}) }
    }
    case 5:
      return { type: ["boolean", "null", "integer", "string"].slice(roll(4)) }
    case 6:
      return { enum: VALUES.filter(() => roll(3) === 0).concat("last") }
    case 7:
      return { const: VALUES[roll(VALUES.length)]! }
    case 8:
      return roll(2) === 0 ? {} : { description: "anything", type: "object" }
    case 9:
    case 10: {
      const min = roll(3)
      const sizes = { ...maybe("minItems", () => min), ...maybe("maxItems", () => min + roll(3)) }
      if (roll(3) > 0) return { type: "array", items: randomSchema(roll, depth - 1), ...sizes }
      const prefixItems = Array.from({ length: 1 + roll(3) }, () => randomSchema(roll, depth - 1))
      return { type: "array", prefixItems, items: roll(2) === 0 ? false : randomSchema(roll, depth - 1) }
    }
    case 11:
      return { anyOf: Array.from({ length: 1 + roll(3) }, () => randomSchema(roll, depth - 1)) }
    case 15: {
      if (roll(2) === 0) return { oneOf: [{ type: "string", maxLength: 4 }, { type: ["integer", "null"] }, { type: "array", items: randomSchema(roll, depth - 1) }] } // biome-ignore format: one line
      const kinds = ["a", "b"].map((kind) => ({
        type: "object",
        properties: { kind: { const: kind }, [kind]: randomSchema(roll, depth - 1) },
        required: ["kind", kind],
        additionalProperties: false,
      }))
      return { oneOf: kinds }
    }
    case 12:
      return { $ref: ["#/$defs/tree", "#/$defs/list"][roll(2)]! }
    default: {
      const names = NAMES.filter(() => roll(3) === 0)
      const properties = Object.fromEntries(names.map((name) => [name, randomSchema(roll, depth - 1)]))
      const required = names.filter(() => roll(2) === 0)
      const additional = [{}, { additionalProperties: false }, { additionalProperties: randomSchema(roll, depth - 1) }][roll(3)]!
      return { type: "object", properties, ...(roll(4) > 0 ? { required } : {}), ...additional }
    }
  }
}

/** With the definitions that $ref leads to. */
export function randomDocument(seed: number): Schema {
  const schema = randomSchema(dice(seed)) as { [key: string]: Json }
  return {
    ...schema,
    $defs: {
      tree: {
        type: "object",
        properties: { value: { type: "integer" }, children: { type: "array", items: { $ref: "#/$defs/tree" } } },
        required: ["value"],
        additionalProperties: false,
      },
      list: {
        anyOf: [
          { type: "null" },
          { type: "array", prefixItems: [{ type: "boolean" }, { $ref: "#/$defs/list" }], items: false, minItems: 2 },
        ],
      },
    },
  }
}

const FORMATS: { [name: string]: (text: string) => boolean } = {
  date: (text) => /^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(Date.parse(text)),
  time: (text) => /^\d\d:\d\d:\d\d/.test(text) && !Number.isNaN(Date.parse(`2020-01-01T${text}`)),
  "date-time": (text) => text.includes("T") && !Number.isNaN(Date.parse(text)),
  uuid: (text) => /^[0-9a-f-]{36}$/.test(text),
  duration: (text) => /^P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)$/.test(text),
  ipv6: (text) => new URL(`http://[${text}]/`).hostname.startsWith("["),
  hostname: (text) => text.length < 254 && text.split(".").every((label) => /^[a-z0-9-]{1,63}$/.test(label) && !/^-|-$/.test(label)),
  email: (text) => /^[^@.][^@]*@[^@]+\.[^@]+$/.test(text) && !text.includes("..") && !text.includes(".@"),
  uri: (text) => URL.canParse(text) || /^https?:\/\/\d/.test(text), // WHATWG reads hosts that end in a number as addresses
  ipv4: (text) => text.split(".").length === 4 && text.split(".").every((part) => String(Number(part)) === part && Number(part) < 256),
}

/** Why `value` does not meet `schema`; undefined when it does. */
export function violation(value: Json, schema: Schema, document: Schema, path = ""): string | undefined {
  if (typeof schema === "boolean") return schema ? undefined : `${path}: not allowed`
  // biome-ignore lint/suspicious/noExplicitAny: schemas of any shape
  const s = schema as { [key: string]: any }
  const fail = (what: string) => `${path || "/"}: ${JSON.stringify(value)} against ${what}`
  if (s.$ref !== undefined) {
    const at = s.$ref
      .split("/")
      .slice(1)
      .reduce((x: { [key: string]: unknown }, key: string) => x[key], document)
    return violation(value, at, document, path)
  }
  const type = value === null ? "null" : Array.isArray(value) ? "array" : typeof value
  if (s.type !== undefined) {
    const types: string[] = [s.type].flat()
    if (!types.some((t) => t === type || (t === "integer" && Number.isInteger(value)))) return fail(`type ${types}`)
  }
  const same = (a: unknown) => JSON.stringify(a) === JSON.stringify(value)
  if (s.enum !== undefined && !s.enum.some(same)) return fail("enum")
  if (s.const !== undefined && !same(s.const)) return fail("const")
  if (s.anyOf !== undefined) {
    const all = s.anyOf.map((one: Schema) => violation(value, one, document, path))
    if (!all.includes(undefined)) return all[0]
  }
  if (s.oneOf !== undefined) {
    const all = s.oneOf.map((one: Schema) => violation(value, one, document, path))
    const met = all.filter((one: string | undefined) => one === undefined).length
    if (met !== 1) return fail(`oneOf, of which ${met} hold: ${all.join("; ")}`)
  }
  if (typeof value === "string") {
    const length = Array.from(value).length
    if (length < (s.minLength ?? 0) || length > (s.maxLength ?? 1e9)) return fail("length")
    if (s.pattern !== undefined && !new RegExp(s.pattern, "u").test(value)) return fail(`pattern ${s.pattern}`)
    if (s.format !== undefined && !FORMATS[s.format]!(value)) return fail(s.format)
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return fail("finite")
    if (value < (s.minimum ?? -1e300) || value > (s.maximum ?? 1e300)) return fail("bounds")
    if (value <= (s.exclusiveMinimum ?? -1e300) || value >= (s.exclusiveMaximum ?? 1e300)) return fail("exclusive bounds")
  }
  if (Array.isArray(value)) {
    if (value.length < (s.minItems ?? 0) || value.length > (s.maxItems ?? 1e9)) return fail("items")
    for (const [i, item] of value.entries()) {
      const wrong = violation(item, s.prefixItems?.[i] ?? s.items ?? true, document, `${path}/${i}`)
      if (wrong !== undefined) return wrong
    }
  } else if (type === "object") {
    const object = value as { [key: string]: Json }
    const missing = (s.required ?? []).find((name: string) => !Object.hasOwn(object, name))
    if (missing !== undefined) return fail(`required ${missing}`)
    for (const [name, item] of Object.entries(object)) {
      const own = Object.hasOwn(s.properties ?? {}, name) ? s.properties[name] : (s.additionalProperties ?? true)
      const wrong = violation(item, own, document, `${path}/${name}`)
      if (wrong !== undefined) return wrong
    }
  }
  return undefined
}
