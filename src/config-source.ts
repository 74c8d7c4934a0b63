/** Where settings come from outside the command line: environment, .env.local, JSON files. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { readJson, readText } from "./base-file.ts"
import { envName, type Fields } from "./config-field.ts"
import type { Entry } from "./config-merge.ts"

/** Value of an environment variable with the place it was set. */
export type Environment = ReadonlyMap<string, { readonly value: string; readonly from: string }>

/** The process environment over the file `.env.local` of the working directory: the only place that reads that file. */
export function readEnvironment(directory: string, variables: Readonly<Record<string, string | undefined>>): Environment {
  const environment = new Map<string, { value: string; from: string }>()
  const path = join(directory, ".env.local")
  if (existsSync(path))
    for (const [name, value] of parseEnvFile(readText(path))) environment.set(name, { value, from: `.env.local: ${name}` })
  for (const [name, value] of Object.entries(variables)) if (value !== undefined) environment.set(name, { value, from: name })
  return environment
}

/** NAME=value lines; `export ` before and quotes around are dropped, `#` starts a comment, \n in double quotes is a line break. */
export function parseEnvFile(content: string): Map<string, string> {
  const values = new Map<string, string>()
  for (const [index, line] of content.split(/\r?\n/).entries()) {
    if (/^\s*(#|$)/.test(line)) continue
    const match = /^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|(.*?))\s*(?:\s#.*)?$/.exec(line)
    if (!match) throw new AlphaError(`.env.local line ${index + 1}: expected NAME=value`, { code: EXIT.usage })
    const [, name, double, single, plain] = match
    values.set(name!, double?.replace(/\\(.)/g, (_, letter: string) => (letter === "n" ? "\n" : letter)) ?? single ?? plain ?? "")
  }
  return values
}

/** Entries of `fields` set in the environment; an ALPHA_ name outside `known` is refused, its value never shown. */
export function environmentEntries(fields: Fields, environment: Environment, known: ReadonlySet<string>): Entry[] {
  for (const [name, { from }] of environment) {
    if (!name.startsWith("ALPHA_") || known.has(name)) continue
    const close = nearest(name, known)
    throw new AlphaError(`environment: unknown variable ${from}`, {
      hint: close ? `did you mean ${close}? Otherwise unset it` : `unset ${name}; alpha help environment lists the known ones`,
      code: EXIT.usage,
    })
  }
  return Object.keys(fields).flatMap((name) => {
    const variable = environment.get(envName(name))
    // An empty variable counts as unset, as shells and CI systems leave them.
    return variable?.value ? [{ name, raw: variable.value, layer: "environment" as const, from: variable.from, secret: true }] : []
  })
}

/** Entries of a JSON file of fields; the output of --print-config --json is one too. */
export function fileEntries(fields: Fields, path: string): Entry[] {
  return objectEntries(fields, readJson(path), "file", path)
}

/**
 * Entries of { field: value } or { field: { value, origin } }; derived values of the second form are left to be derived again.
 * Unknown names are refused with the nearest; aliases are understood.
 */
export function objectEntries(fields: Fields, object: unknown, layer: "file" | "base", from: string): Entry[] {
  if (typeof object !== "object" || object === null || Array.isArray(object)) {
    throw new AlphaError(`${from}: expected a JSON object of fields`, { hint: 'for example {"nLayer": 4, "lr": 1e-3}', code: EXIT.usage })
  }
  return Object.entries(object).flatMap(([key, content]) => {
    if (key === "$schema") return []
    const name = key in fields ? key : Object.keys(fields).find((field) => fields[field]!.aliases.includes(key))
    if (name === undefined) {
      const close = nearest(key, Object.keys(fields))
      throw new AlphaError(`${from}: unknown field ${key}`, { hint: close ? `did you mean ${close}?` : undefined, code: EXIT.usage })
    }
    if (!isRecorded(content)) return [{ name, raw: content, layer, from }]
    return content.origin?.layer === "derived" ? [] : [{ name, raw: content.value ?? null, layer, from }]
  })
}

/** A value as run records and --print-config --json write it. */
function isRecorded(content: unknown): content is { value: unknown; origin?: { layer?: string } } {
  return typeof content === "object" && content !== null && !Array.isArray(content) && "value" in content
}
