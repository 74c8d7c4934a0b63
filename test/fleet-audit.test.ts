/** Every ssh command line that the program can produce: by property over random machines, and as it is really run by every verb. */
import { afterAll, expect, test } from "bun:test"
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { FLEET_VERBS } from "../src/cli-fleet.ts"
import { FLEET_EXIT, parseFleet, sshArgv } from "../src/fleet.ts"
import { filesOf } from "./file-map.ts"
import { sshTest, startFleet, type TestFleet } from "./fleet-hosts.ts"

/** Options that every connection has, and all values they may have. */
const ALWAYS: Readonly<Record<string, RegExp>> = {
  BatchMode: /^yes$/,
  IdentitiesOnly: /^yes$/,
  ConnectTimeout: /^\d+$/,
  ServerAliveInterval: /^\d+$/,
  ServerAliveCountMax: /^\d+$/,
  StrictHostKeyChecking: /^yes$/,
  UserKnownHostsFile: /^"?\/.*fleet_known_hosts"?$|^\/dev\/null$/,
  GlobalKnownHostsFile: /^\/dev\/null$/,
  KnownHostsCommand: /^none$|^\/bin\/sh "\/.*\/note" %t %K$/,
  HostKeyAlias: /^[\w.-]+$/,
  CheckHostIP: /^no$/,
  UpdateHostKeys: /^no$/,
  VerifyHostKeyDNS: /^no$/,
  ForwardAgent: /^no$/,
  ForwardX11: /^no$/,
  PermitLocalCommand: /^no$/,
  ControlMaster: /^auto$|^no$/,
  ControlPath: /^"?\/.*"?$|^none$/,
  ControlPersist: /^\d+$/,
  EscapeChar: /^none$/,
  LogLevel: /^ERROR$/,
}
const SOMETIMES: Readonly<Record<string, RegExp>> = {
  ClearAllForwardings: /^yes$/,
  User: /^[^-\s]\S*$/,
  Port: /^\d+$/,
  IdentityFile: /^"?\/.*"?$/,
  ProxyCommand: /^ssh /,
}

/** What is wrong with the words after `ssh`; nothing when all is as it must be. */
function faults(words: readonly string[]): string[] {
  const wrong: string[] = []
  const options = new Map<string, string>()
  let at = 0
  for (; words[at] === "-o"; at += 2) {
    const [, name, value] = /^(\w+)=([\s\S]*)$/.exec(words[at + 1] ?? "") ?? []
    if (name === undefined) return [`no option: ${words[at + 1]}`]
    if (options.has(name)) wrong.push(`${name} twice`)
    options.set(name, value!)
    const form = ALWAYS[name] ?? SOMETIMES[name]
    if (form === undefined || !form.test(value!)) wrong.push(`${name}=${value}`)
  }
  for (const name of Object.keys(ALWAYS)) if (!options.has(name)) wrong.push(`${name} is missing`)
  // A program that is told the key comes with no known keys at all; everything else is checked against the pins.
  const isProbe = options.get("KnownHostsCommand") !== "none"
  if (isProbe !== (options.get("UserKnownHostsFile") === "/dev/null")) wrong.push("known hosts")
  if (isProbe && options.get("ControlMaster") !== "no") wrong.push("an open connection would show no key")
  const rest = words.slice(at)
  const mode = rest.slice(0, rest.indexOf("--"))
  if (!["-T", "-tt", "-O check", "-O exit"].includes(mode.join(" ")) && !(mode[0] === "-W" && mode.length === 2))
    wrong.push(`mode ${mode.join(" ")}`)
  if (!rest.includes("--") || rest.slice(rest.indexOf("--") + 1).length > 2) wrong.push("host and one command stand after --")
  const proxy = options.get("ProxyCommand")
  if (proxy !== undefined) {
    // Words as a shell reads them: plain, within single quotes, or a quote behind a backslash.
    const inner = [...proxy.replaceAll("%%", "%").matchAll(/(?:[^\s'\\]+|'[^']*'|\\.)+/g)].map(([word]) =>
      word.replaceAll(/'([^']*)'|\\(.)/g, (_, quoted?: string, escaped?: string) => quoted ?? escaped!),
    )
    wrong.push(...faults(inner.slice(1)).map((fault) => `in between: ${fault}`))
  }
  return wrong
}

test("no machine and no option leads to a connection that is not checked", () => {
  let state = 7
  const random = <T>(values: readonly T[]): T => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return values[Math.floor((state / 2 ** 32) * values.length)]!
  }
  for (let count = 0; count < 300; count++) {
    const fields = () => ({
      host: random(["203.0.113.9", "alias", "fe80::1", "a.b.c"]),
      ...random([{}, { user: random(["ada", "root", "a.b"]) }]),
      ...random([{}, { port: random([22, 2222, 65535]) }]),
      ...random([{}, { key: random(["~/.ssh/id", "k e y", "/k%h/id", "-o"].slice(0, 3)) }]),
      ...random([{}, { connectTimeout: random([1, 60]) }]),
    })
    const json = {
      instances: { a: fields(), b: { ...fields(), jump: random(["a", "bob@gate:22", "[fe80::2]:23"]) }, c: { ...fields(), jump: "b" } },
    }
    for (const host of parseFleet(json, random(["/f/fleet.json", "/my f/100%/fleet.json"])).instances) {
      for (const options of [
        {},
        { tty: true },
        { control: "exit" },
        { control: "check" },
        { forward: "h:22" },
        { keyCommand: '/bin/sh "/t/note" %t %K' },
      ] as const) {
        expect(faults(sshArgv(host, random([undefined, "exec true", "-o x"]), options).slice(1))).toEqual([])
      }
    }
  }
})

test("the audit finds what it must", () => {
  const [host] = parseFleet({ instances: { a: { host: "h" } } }, "/f/fleet.json").instances
  const good = sshArgv(host!, "true").slice(1)
  const spoiled = (from: string, to: string) => faults(good.map((word) => (word === from ? to : word)))
  for (const value of ["no", "accept-new", "off", "ask"])
    expect(spoiled("StrictHostKeyChecking=yes", `StrictHostKeyChecking=${value}`)).not.toEqual([])
  expect(spoiled("ForwardAgent=no", "ForwardAgent=yes")).not.toEqual([])
  expect(spoiled("-T", "-A")).not.toEqual([])
  expect(faults(good.filter((word) => !/^BatchMode/.test(word)))).not.toEqual([])
  expect(faults([...good.slice(0, 2), "-o", "BatchMode=no", ...good.slice(2)])).not.toEqual([])
})

test("only fleet-ssh starts ssh, and no source names a weaker way", () => {
  const sources = filesOf("src", ".ts").map(({ path }) => ({ path, text: readFileSync(join(import.meta.dir, "..", path), "utf8") }))
  const weak = /StrictHostKeyChecking\W+(no|off|ask|accept-new)|ForwardAgent\W+yes|accept-new|sshpass|paramiko/i
  expect(sources.filter(({ text }) => weak.test(text)).map(({ path }) => path)).toEqual([])
  const starters = sources.filter(({ text }) => /sshArgv\(/.test(text) && /\bspawn(Sync)?\(|launch\(/.test(text)).map(({ path }) => path)
  expect(starters).toEqual(["src/fleet-ssh.ts"])
  expect(sources.filter(({ text }) => /spawn(Sync)?\(\s*\[\s*["'`](ssh|scp|sftp|rsync)\b/.test(text)).map(({ path }) => path)).toEqual([])
})

/** What a verb needs beside its machine. Every verb of the table is run; one that is missing here runs with the machine alone. */
const MORE: Readonly<Record<string, readonly string[]>> = {
  "fleet run": ["--", "printf", "%s", "it's $(id)"],
  "fleet upload": ["--file=note.txt"],
  "fleet sync-keys": ["--publicKey=id.pub"],
  "fleet deploy": ["--binary=program"],
  "fleet train": ["--data=book.txt", "--steps=1", "--run=x"],
  "fleet serve": ["--model=x"],
}

let fleet: TestFleet | undefined
afterAll(async () => await fleet?.close())

sshTest(
  "every verb, run and dry, sends only what was audited, and no secret in it",
  async () => {
    fleet = await startFleet({ box: "openssh" })
    const { folder, environment } = fleet
    const { address, port } = fleet.host("box")
    fleet.configure({}, { inner: { host: address, port, jump: "box", deployDir: fleet.host("box").deploy } })
    const secret = "hunter2-and-more"
    writeFileSync(join(folder, ".env.local"), `UPLOAD_SECRET=${secret}\n`)
    writeFileSync(join(folder, "note.txt"), "note")
    writeFileSync(join(folder, "program"), '#!/bin/sh\n[ "$1" = --version ] && echo alpha 0; [ "$1" = doctor ] && echo fine; exit 0\n')
    chmodSync(join(folder, "program"), 0o755)
    // A program that stands before ssh and writes down what it is given.
    const log = join(folder, "log")
    const programs = join(folder, "bin")
    for (const path of [log, programs]) mkdirSync(path)
    const real = Bun.which("ssh", { PATH: environment.PATH! })
    writeFileSync(join(programs, "ssh"), `#!/bin/sh\nprintf '%s\\0' "$@" > "$AUDIT/$$"\nexec ${real} "$@"\n`)
    chmodSync(join(programs, "ssh"), 0o755)
    const options = { environment: { PATH: `${programs}:${environment.PATH}`, AUDIT: log } }
    const said: string[] = []
    for (const { name } of FLEET_VERBS.toSorted((a, b) => Number(b.name === "fleet deploy") - Number(a.name === "fleet deploy"))) {
      const words = name.split(" ")
      const more = MORE[name] ?? []
      const machine = ["fleet", "fleet schema"].includes(name)
        ? []
        : name === "fleet trust" || name === "fleet deploy"
          ? ["box", "inner"]
          : ["inner"]
      const dash = more.indexOf("--") < 0 ? more.length : more.indexOf("--")
      for (const mode of name === "fleet"
        ? [["--once"]]
        : name === "fleet schema"
          ? [[]]
          : [name === "fleet logs" ? ["--dryRun"] : ["--dryRun", "--json"], []]) {
        const { stdout, stderr, code } = await fleet.alpha(
          [...words, ...machine, ...more.slice(0, dash), ...mode, ...more.slice(dash)],
          options,
        )
        said.push(stdout, stderr)
        expect([name, code === FLEET_EXIT.usage ? stderr : ""]).toEqual([name, ""])
        if (!mode.includes("--json")) continue
        for (const { argv } of JSON.parse(stdout).steps) if (argv !== undefined) expect(faults(argv.slice(1))).toEqual([])
      }
    }
    const logged = readdirSync(log).map((name) => readFileSync(join(log, name), "utf8"))
    // Every verb but schema, with its connection in between.
    expect(logged.length).toBeGreaterThan(FLEET_VERBS.length)
    for (const text of logged) expect(faults(text.split("\0").slice(0, -1))).toEqual([])
    expect(logged.some((text) => text.includes("-W\0"))).toBe(true)
    for (const text of [...logged, ...said, readFileSync(join(fleet.host("box").deploy, "audit.jsonl"), "utf8")])
      expect(text).not.toContain(secret)
  },
  300_000,
)
