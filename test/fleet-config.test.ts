/** fleet.json: its fields, what is refused and how, and which machines a command means. */
import { expect, test } from "bun:test"
import { join } from "node:path"
import { exitOf, fleetSchema, HostError, onHosts, parseFleet, selectHosts, summary } from "../src/fleet.ts"
import { type Json, type Schema, violation } from "./json-schema.ts"

const parse = (json: unknown) => parseFleet(json, "/f/fleet.json")
const refusal = (json: unknown): string => {
  try {
    parse(json)
  } catch (error) {
    const { message, hint } = error as { message: string; hint?: string }
    return `${message} | ${hint}`
  }
  return "accepted"
}

test("own fields win over defaults, defaults over what is built in, and the older file's names are understood", () => {
  const { instances } = parse({
    sshUser: "ubuntu",
    sshKey: "~/.ssh/box",
    deployDir: "~/work/",
    defaults: { port: 2222, train: { lr: 1e-3, nLayer: 4 } },
    instances: {
      a: { host: "203.0.113.1", train: { nLayer: 8 } },
      b: { user: "root", port: 22, key: "keys/b", zone: "z", setupDone: true },
    },
  })
  const [a, b] = instances
  expect(a).toMatchObject({ name: "a", host: "203.0.113.1", user: "ubuntu", port: 2222, deployDir: "work", train: { lr: 1e-3, nLayer: 8 } })
  expect(a!.key).toEndWith("/.ssh/box")
  expect(b).toMatchObject({
    host: undefined,
    user: "root",
    port: 22,
    key: "/f/keys/b",
    train: { lr: 1e-3, nLayer: 4 },
    knownHosts: join("/f", "fleet_known_hosts"),
  })
  expect(a!.controlPath).not.toBe(b!.controlPath)
})

test("what is wrong is named with its place and the nearest right name", () => {
  const one = (fields: object) => ({ instances: { box: fields } })
  expect(refusal(one({ hots: "h" }))).toBe("/f/fleet.json: box: unknown field hots | did you mean host?")
  expect(refusal({ ...one({}), default: {} })).toContain("unknown field default | did you mean defaults?")
  expect(refusal(one({ train: { nLayers: 3 } }))).toContain("unknown field nLayers | did you mean nLayer?")
  expect(refusal(one({ port: 70000 }))).toContain("box: port 70000: expected a whole number from 1 to 65535")
  expect(refusal(one({ user: "x y" }))).toContain("box: user x y: expected a word without spaces and quotes")
  expect(refusal(one({ host: "-oProxyCommand=x" }))).toContain("expected a word")
  expect(refusal(one({ train: { lr: "fast" } }))).toContain("train: lr fast: expected a number")
  expect(refusal({ instances: { "a b": {} } })).toContain('instance "a b": expected letters')
  expect(refusal({ instances: {} })).toContain("no instances")
  expect(refusal([])).toContain("expected a JSON object")
  expect(refusal({ instances: { a: { jump: "b" }, b: { jump: "a" } } })).toContain("a goes through b goes through a")
  expect(refusal(one({ deployDir: "a\nb" }))).toContain("control characters")
})

test("a machine in between is an instance or an address, with the defaults of the file", () => {
  const { instances } = parse({
    defaults: { user: "ada", key: "/k", jump: "gate" },
    instances: { gate: { host: "g", port: 23 }, a: {}, b: { jump: "bob@[fe80::1]:24" } },
  })
  expect(instances.map(({ via }) => via && { host: via.host, user: via.user, port: via.port, key: via.key, via: via.via })).toEqual([
    undefined,
    { host: "g", user: "ada", port: 23, key: "/k", via: undefined },
    { host: "fe80::1", user: "bob", port: 24, key: "/k", via: undefined },
  ])
})

test("names, labels and --all select; nothing selects the only machine, or everything where only looked at", () => {
  const fleet = parse({ instances: { a: { labels: ["x"], gpu: "l4" }, b: { role: "x" }, c: {} } })
  const names = (selection: object, otherwise?: "all") =>
    selectHosts(fleet, { instances: [], all: false, label: [], ...selection }, otherwise).map(({ name }) => name)
  expect(names({ instances: ["c", "a"] })).toEqual(["a", "c"])
  expect(names({ label: ["x"] })).toEqual(["a", "b"])
  expect(names({ label: ["l4"], instances: ["c"] })).toEqual(["a", "c"])
  expect(names({ all: true })).toEqual(["a", "b", "c"])
  expect(names({}, "all")).toEqual(["a", "b", "c"])
  expect(() => names({})).toThrow("which machines?")
  expect(() => names({ instances: ["aa"] })).toThrow("no instance aa")
  expect(() => names({ label: ["y"] })).toThrow("no instance has the label y")
})

test("the schema accepts the example and refuses what the program refuses", async () => {
  const schema = fleetSchema() as Schema
  const validate = (document: Json) => violation(document, schema, schema)
  const example = await Bun.file(join(import.meta.dir, "../fleet.json.example")).json()
  expect(parse(example).instances.length).toBe(3)
  expect(validate(example)).toBeUndefined()
  expect(validate({ instances: { a: { hots: "h" } } })).toBeDefined()
  expect(validate({ instances: { a: { port: 0 } } })).toBeDefined()
  expect(validate({})).toBeDefined()
})

test("work on many machines is bounded, loses no outcome, and its exit code is the truth", async () => {
  const hosts = parse({ instances: Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`h${i}`, {}])) }).instances
  let [running, most] = [0, 0]
  const seen: string[] = []
  const outcomes = await onHosts(
    hosts,
    3,
    async ({ name }) => {
      most = Math.max(most, ++running)
      await Bun.sleep(name.length)
      running--
      if (name === "h3") throw new HostError("unreachable", "gone")
      if (name === "h4") throw new HostError("locked", "bob")
      return { message: "done", value: name }
    },
    ({ host }) => void seen.push(host),
  )
  expect([most, seen.toSorted(), outcomes.map(({ host }) => host)]).toEqual([
    3,
    hosts.map(({ name }) => name).toSorted(),
    hosts.map(({ name }) => name),
  ])
  expect(summary(outcomes)).toBe("18 of 20 done; 1 unreachable (h3); 1 locked (h4)")
  const exit = (...states: ("ok" | "failed" | "unreachable" | "locked")[]) => exitOf(states.map((state) => ({ state })))
  expect([exit("ok"), exit("ok", "failed"), exit("unreachable", "ok"), exit("locked"), exit("locked", "unreachable")]).toEqual([
    0, 2, 4, 5, 2,
  ])
  await expect(onHosts(hosts, 3, async () => await Promise.reject(new TypeError("a fault of ours")))).rejects.toThrow("a fault of ours")
})
