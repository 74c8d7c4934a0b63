/** Command line → configuration entries, by the tables; what is not in a table is refused. */
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { camelName, type Entry, type Field, type Fields } from "./config.ts"

/** Flags of every command that are no configuration. */
export const SWITCHES = {
  help: "what the command does and takes; --help GROUP for one group of flags",
  json: "print the result as JSON",
  printConfig: "print every value with where it came from, and stop",
} as const

export interface Flags {
  readonly entries: readonly Entry[]
  readonly json: boolean
  readonly printConfig: boolean
  /** --help was given; the text is the group after it, or "". What stands before it is not looked at. */
  readonly help: string | undefined
  /** What stood after `--`, where the command takes it. */
  readonly rest: readonly string[]
}

/**
 * Reads `--name=value`, `--name value`, `--switch`, `--no-switch` in camelCase, kebab-case or snake_case. Everything after `--` and
 * everything that is no flag fills `positionals` (field names) in order; with `takesRest` what follows `--` is handed on instead. Values are texts; the
 * configuration parses them.
 */
export function parseFlags(argv: readonly string[], fields: Fields, positionals: readonly string[], takesRest = false): Flags {
  const found: Entry[] = []
  const loose: string[] = []
  const rest: string[] = []
  const switches = { help: false, json: false, printConfig: false }
  let beforeHelp = 0
  for (let i = 0; i < argv.length; i++) {
    const argument = longForm(argv[i]!, fields)
    if (argument === "--") {
      ;(takesRest ? rest : loose).push(...argv.slice(i + 1))
      break
    }
    if (["-h", "--help"].includes(argument)) beforeHelp = loose.length
    if (argument === "-h") switches.help = true
    else if (!argument.startsWith("--")) loose.push(refuseShort(argument))
    else {
      const equals = argument.indexOf("=")
      const flag = equals < 0 ? argument : argument.slice(0, equals)
      const value = equals < 0 ? undefined : argument.slice(equals + 1)
      const meaning = lookUp(flag, fields)
      if (meaning.kind === "switch") switches[meaning.name] = switchValue(flag, value)
      else {
        const taken = fieldValue(flag, value, meaning, argv[i + 1])
        if (taken.usedNext) i++
        found.push({ name: meaning.name, raw: taken.raw, layer: "flag", from: flag })
      }
    }
  }
  if (switches.help) return { entries: [], ...switches, help: loose.slice(beforeHelp).join(" "), rest }
  const entries = placed(loose, positionals, fields)
  for (const { name, raw } of entries) {
    const flag = found.find((entry) => entry.name === name)
    if (flag === undefined) continue
    throw new AlphaError(`argument ${raw} and ${flag.from} ${flag.raw} both set ${name}`, { hint: "give one of the two", code: EXIT.usage })
  }
  return { entries: gathered([...entries, ...found], fields), ...switches, help: undefined, rest }
}

/** A letter that is another name of a field is a flag with one dash: -n 20 is --lines 20. */
function longForm(argument: string, fields: Fields): string {
  const isKnown = /^-[A-Za-z]$/.test(argument) && Object.values(fields).some(({ aliases }) => aliases.includes(argument.slice(1)))
  return isKnown ? `-${argument}` : argument
}

type Meaning =
  | { kind: "switch"; name: keyof typeof SWITCHES }
  /** `fixed`: the alias stands for this value ("--packed" = order sequential); `negated`: --no-name. */
  | { kind: "field"; name: string; field: Field; fixed?: string; negated?: boolean }

function lookUp(flag: string, fields: Fields): Meaning {
  const name = camelName(flag.slice(2))
  if (Object.hasOwn(SWITCHES, name)) return { kind: "switch", name: name as keyof typeof SWITCHES }
  const direct = byName(name, fields)
  if (direct) return direct
  const positive = /^no[A-Z]/.test(name) ? byName(name[2]!.toLowerCase() + name.slice(3), fields) : undefined
  if (positive?.kind === "field" && positive.field.kind === "bool") return { ...positive, negated: true }
  const names = Object.entries(fields).flatMap(([key, field]) => [key, ...field.aliases.map((alias) => alias.split("=")[0]!)])
  const close = nearest(name, [...names, ...Object.keys(SWITCHES)])
  throw new AlphaError(`unknown flag ${flag}`, { hint: close ? `did you mean --${close}?` : "--help lists the flags", code: EXIT.usage })
}

function byName(name: string, fields: Fields): Meaning | undefined {
  if (Object.hasOwn(fields, name)) return { kind: "field", name, field: fields[name]! }
  for (const [key, field] of Object.entries(fields)) {
    for (const alias of field.aliases) {
      const [word, fixed] = alias.split("=") as [string, string?]
      if (word === name) return { kind: "field", name: key, field, ...(fixed === undefined ? {} : { fixed }) }
    }
  }
  return undefined
}

function switchValue(flag: string, value: string | undefined): boolean {
  if (value === undefined || value === "true") return true
  if (value === "false") return false
  throw new AlphaError(`${flag}=${value}: takes no value`, { code: EXIT.usage })
}

/** The raw value of a field's flag: after `=`, implied, or the next argument. */
function fieldValue(
  flag: string,
  value: string | undefined,
  { field, fixed, negated }: Extract<Meaning, { kind: "field" }>,
  next: string | undefined,
): { raw: string; usedNext: boolean } {
  if (fixed !== undefined) {
    if (switchValue(flag, value)) return { raw: fixed, usedNext: false }
    throw new AlphaError(`${flag}=false: leave the flag out instead`, { code: EXIT.usage })
  }
  if (negated) {
    if (value === undefined) return { raw: "false", usedNext: false }
    throw new AlphaError(`${flag}=${value}: takes no value`, { code: EXIT.usage })
  }
  if (value !== undefined) return { raw: value, usedNext: false }
  if (field.kind === "bool") {
    if (next !== "true" && next !== "false") return { raw: "true", usedNext: false }
    throw new AlphaError(`${flag} ${next}: a switch takes its value after =`, { hint: `write ${flag}=${next}`, code: EXIT.usage })
  }
  if (field.bare !== undefined) {
    if (next === undefined || next.startsWith("-")) return { raw: field.bare, usedNext: false }
    throw new AlphaError(`${flag} ${next}: its value stands after =`, { hint: `write ${flag}=${next}`, code: EXIT.usage })
  }
  if (next !== undefined && (!next.startsWith("-") || next === "-" || /^-[\d.]/.test(next))) return { raw: next, usedNext: true }
  throw new AlphaError(`${flag}: a value is missing`, { hint: `write ${flag}=VALUE`, code: EXIT.usage })
}

function refuseShort(argument: string): string {
  if (!/^-[A-Za-z]/.test(argument)) return argument
  throw new AlphaError(`unknown flag ${argument}`, {
    hint: "flags start with two dashes; text that starts with one goes after --",
    code: EXIT.usage,
  })
}

function placed(loose: readonly string[], positionals: readonly string[], fields: Fields): Entry[] {
  const last = positionals.at(-1)
  const more = last !== undefined && fields[last]!.kind === "list" ? last : undefined
  return loose.map((raw, index) => {
    const name = positionals[index] ?? more
    if (name !== undefined) return { name, raw, layer: "flag", from: `argument ${index + 1}` }
    throw new AlphaError(`unexpected argument ${raw}`, {
      hint: positionals.length === 0 ? "flags start with two dashes" : `only ${positionals.join(" and ")} can stand without a flag`,
      code: EXIT.usage,
    })
  })
}

/** Repeated flags of a list become one entry; of other fields the last one wins, as in a script that appends its own. */
function gathered(found: readonly Entry[], fields: Fields): Entry[] {
  const entries = new Map<string, Entry>()
  for (const entry of found) {
    const before = fields[entry.name]!.kind === "list" ? entries.get(entry.name) : undefined
    entries.set(entry.name, before ? { ...entry, raw: [before.raw, entry.raw].flat() } : entry)
  }
  return [...entries.values()]
}
