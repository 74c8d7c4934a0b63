/** fleet.json: read, checked by its tables, and the machines that a command means. */
import { existsSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join, resolve } from "node:path"
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import { readJson, sha256 } from "./base-file.ts"
import { type Fields, FLEET_HOST, type FleetHostFields, jsonSchema, parseValue, TRAIN_FIELDS } from "./config.ts"

/** One machine, with everything that a connection to it takes. */
export interface FleetHost extends FleetHostFields {
  /** Its name in fleet.json. */
  readonly name: string
  /** Settings for `alpha train` by field name, checked. */
  readonly train: Readonly<Record<string, unknown>>
  /** The machine in between. */
  readonly via: FleetHost | undefined
  /** The file of pinned host keys, beside fleet.json. */
  readonly knownHosts: string
  /** The socket of the one connection to this machine. */
  readonly controlPath: string
  /** Folder of fleet.json: paths of local files start there. */
  readonly folder: string
}

export interface FleetConfig {
  readonly path: string
  readonly instances: readonly FleetHost[]
}

const TOP = ["$schema", "defaults", "instances", "sshUser", "sshKey", "deployDir"]
/** Written by older programs; setup can be repeated, so nothing depends on it. */
const IGNORED = ["setupDone"]

type Json = Readonly<Record<string, unknown>>

/** Reads and checks fleet.json. Throws AlphaError (EXIT.usage) that names the file, the instance and the field. */
export function readFleet(file: string): FleetConfig {
  const path = resolve(file)
  if (!existsSync(path)) {
    throw new AlphaError(`${file} does not exist`, {
      hint: "start from fleet.json.example, or name the file with --fleet=FILE",
      code: EXIT.usage,
    })
  }
  return parseFleet(readJson(path), path)
}

/** The same from the parsed JSON; `path` places the pinned keys and local files. */
export function parseFleet(json: unknown, path: string): FleetConfig {
  const top = objectOf(json, path)
  for (const key of Object.keys(top)) if (!TOP.includes(key)) throw unknown(`${path}: unknown field ${key}`, key, TOP)
  const { defaults = {}, instances, sshUser, sshKey, deployDir } = top
  const heritage = Object.fromEntries(Object.entries({ sshUser, sshKey, deployDir }).filter(([, value]) => value !== undefined))
  const base = { ...heritage, ...objectOf(defaults, `${path}: defaults`) }
  const rows = Object.entries(objectOf(instances ?? {}, `${path}: instances`))
  if (rows.length === 0) throw new AlphaError(`${path}: no instances`, { hint: "fleet.json.example shows one", code: EXIT.usage })
  const raw = new Map(rows.map(([name, fields]) => [checkName(name, path), objectOf(fields, `${path}: ${name}`)]))
  const build = (name: string, trail: readonly string[]): FleetHost => {
    if (trail.includes(name)) {
      throw new AlphaError(`${path}: ${[...trail, name].join(" goes through ")}`, {
        hint: "jump must end at a machine that needs none",
        code: EXIT.usage,
      })
    }
    const own = raw.get(name)
    const values = own === undefined ? jumpFields(name, base, path) : merged(base, own, `${path}: ${name}`)
    // A machine in between is reached without the jump that `defaults` gives to those behind it.
    const via = values.fields.jump === undefined || values.fields.jump === name ? undefined : build(values.fields.jump, [...trail, name])
    return complete(name, { ...values.fields, jump: via?.name }, values.train, via, path)
  }
  return { path, instances: [...raw.keys()].map((name) => build(name, [])) }
}

function complete(name: string, fields: FleetHostFields, train: Json, via: FleetHost | undefined, path: string): FleetHost {
  const folder = dirname(path)
  const knownHosts = join(folder, "fleet_known_hosts")
  const key = fields.key === undefined ? undefined : resolve(folder, fields.key.replace(/^~(?=\/)/, homedir()))
  const deployDir = fields.deployDir.replace(/^~\//, "").replace(/(?<=.)\/+$/, "")
  const host = { ...fields, key, deployDir, name, train, via, knownHosts, folder }
  const identity = sha256(JSON.stringify([name, host.host, host.user, host.port, key, via?.controlPath, knownHosts])).slice(0, 16)
  return { ...host, controlPath: join(controlFolder(), identity) }
}

/** Folder of the sockets: short, for their path may have little more than 100 bytes, and the user's own. */
export function controlFolder(): string {
  const { XDG_RUNTIME_DIR, TMPDIR } = process.env
  const own = `alpha-ssh-${process.getuid?.() ?? 0}`
  const folder = [XDG_RUNTIME_DIR, TMPDIR, "/tmp"].find((place) => place !== undefined && place !== "" && place.length <= 50) ?? "/tmp"
  return join(folder, own)
}

/** A machine that is named by `jump` alone: [user@]host[:port]. */
function jumpFields(name: string, base: Json, path: string): { fields: FleetHostFields; train: Json } {
  const match = /^(?:([^@\s]+)@)?(\[[^\]\s]+\]|[^:@\s]+)(?::(\d+))?$/.exec(name)
  if (match === null) throw new AlphaError(`${path}: jump ${name}: expected an instance or [user@]host[:port]`, { code: EXIT.usage })
  const [, user, host, port] = match
  const { jump: _, ...rest } = base
  const own = { host: host!.replace(/^\[(.*)\]$/, "$1"), user: user ?? null, port: port === undefined ? null : Number(port) }
  return merged(rest, own, `${path}: jump ${name}`)
}

/** Fields of one machine over the defaults; each is parsed by its row. */
function merged(base: Json, own: Json, from: string): { fields: FleetHostFields; train: Json } {
  const fields: Record<string, unknown> = Object.fromEntries(Object.entries(FLEET_HOST).map(([name, field]) => [name, field.default]))
  const train: Record<string, unknown> = {}
  for (const [layer, where] of [
    [base, `${from} (defaults)`],
    [own, from],
  ] as const) {
    for (const [key, value] of Object.entries(layer)) {
      if (IGNORED.includes(key)) continue
      if (key === "train") Object.assign(train, parsed(TRAIN_FIELDS, objectOf(value, `${where}: train`), `${where}: train`))
      else Object.assign(fields, parsed(FLEET_HOST, { [key]: value }, where))
    }
  }
  checkPlain(fields, from)
  return { fields: fields as unknown as FleetHostFields, train }
}

function parsed(rows: Fields, object: Json, from: string): Json {
  return Object.fromEntries(
    Object.entries(object).map(([key, value]) => {
      const name = key in rows ? key : Object.keys(rows).find((row) => rows[row]!.aliases.includes(key))
      if (name === undefined) throw unknown(`${from}: unknown field ${key}`, key, [...Object.keys(rows), "train"])
      return [name, parseValue(rows[name]!, value, `${from}: ${key}`)]
    }),
  )
}

/** What goes into ssh's options must not be read as one: no leading dash, no line breaks, no quotes. */
function checkPlain(fields: Json, from: string): void {
  for (const name of ["host", "user", "key", "jump"]) {
    const value = fields[name]
    if (typeof value !== "string" || /^[^-\s"'\\`$\p{Cc}][^"\\`$\p{Cc}]*$/u.test(value)) continue
    throw new AlphaError(`${from}: ${name} ${JSON.stringify(value)}: expected a plain word or path`, { code: EXIT.usage })
  }
  if (/\p{Cc}/u.test(String(fields.deployDir))) throw new AlphaError(`${from}: deployDir has control characters`, { code: EXIT.usage })
}

function checkName(name: string, path: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) return name
  throw new AlphaError(`${path}: instance ${JSON.stringify(name)}: expected letters, digits, dots, dashes and underscores`, {
    code: EXIT.usage,
  })
}

function objectOf(value: unknown, from: string): Json {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json
  throw new AlphaError(`${from}: expected a JSON object`, { hint: "fleet.json.example shows the form", code: EXIT.usage })
}

function unknown(message: string, name: string, names: readonly string[]): AlphaError {
  const close = nearest(name, names)
  return new AlphaError(message, { hint: close ? `did you mean ${close}?` : "alpha fleet schema lists the fields", code: EXIT.usage })
}

export interface Selection {
  readonly instances: readonly string[]
  readonly all: boolean
  readonly label: readonly string[]
}

/**
 * The machines that a command line means, in the order of fleet.json. Where it names none: the only one there is, every one if
 * `otherwise` is "all" (what only looks), else AlphaError (EXIT.usage).
 */
export function selectHosts(config: FleetConfig, { instances, all, label }: Selection, otherwise: "all" | "ask" = "ask"): FleetHost[] {
  const names = config.instances.map(({ name }) => name)
  for (const name of instances) {
    if (names.includes(name)) continue
    throw new AlphaError(`no instance ${name} in ${config.path}`, {
      hint: `${nearest(name, names) ? `did you mean ${nearest(name, names)}? ` : ""}There are ${names.join(", ")}`,
      code: EXIT.usage,
    })
  }
  if (instances.length === 0 && label.length === 0 && !all) {
    if (otherwise === "all" || config.instances.length === 1) return [...config.instances]
    throw new AlphaError("which machines?", { hint: `name some of ${names.join(", ")}, or --all, or --label=WORD`, code: EXIT.usage })
  }
  const words = ({ labels, gpu, role, zone, machine }: FleetHost) => [...labels, gpu, role, zone, machine]
  const chosen = config.instances.filter(
    (host) => all || instances.includes(host.name) || (label.length > 0 && label.some((word) => words(host).includes(word))),
  )
  if (chosen.length > 0) return chosen
  throw new AlphaError(`no instance has the label ${label.join(" or ")}`, {
    hint: "labels, gpu, role, zone and machine count",
    code: EXIT.usage,
  })
}

/** JSON Schema of fleet.json, for editors. */
export function fleetSchema(): Json {
  const part = (rows: Fields) => {
    const { $schema: _, title: __, ...schema } = jsonSchema(rows, "") as { properties: Record<string, Record<string, unknown>> } & Json
    // None of these is read from the environment.
    for (const field of Object.values(schema.properties)) delete field["x-env"]
    return schema as { properties: Record<string, object> }
  }
  const machine = part(FLEET_HOST)
  const heritage = {
    sshUser: machine.properties.user!,
    sshKey: machine.properties.key!,
    setupDone: { description: "not needed", type: "boolean" },
  }
  const host = {
    ...machine,
    properties: { ...machine.properties, ...heritage, train: { ...part(TRAIN_FIELDS), description: "defaults of alpha train" } },
  }
  const { properties } = machine
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "fleet.json of alpha",
    type: "object",
    additionalProperties: false,
    required: ["instances"],
    properties: {
      $schema: { type: "string" },
      defaults: { ...host, description: "fields of every machine that does not give its own" },
      instances: {
        type: "object",
        minProperties: 1,
        propertyNames: { pattern: "^[A-Za-z0-9][A-Za-z0-9._-]*$" },
        additionalProperties: host,
      },
      sshUser: properties.user,
      sshKey: properties.key,
      deployDir: properties.deployDir,
    },
  }
}
