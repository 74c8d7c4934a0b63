/** What is sent to a shell arrives as it was: pure quoting, and 10,000 random argument lists through OpenSSH and dropbear. */
import { afterAll, describe, expect, test } from "bun:test"
import { join } from "node:path"
import { FLEET_EXIT, parseFleet, quote, remote, remoteCommand } from "../src/fleet.ts"
import { busyboxTest, KINDS, sshTest, startFleet, type TestFleet } from "./fleet-hosts.ts"

const words = (...list: (string | Uint8Array)[]) => quote(list)

test("quote", () => {
  expect(words("a", "b/c.d", "--x")).toBe("a b/c.d --x")
  expect(words("a b", "", "it's", "$(id)", "`id`", "a\nb", "*", "~", "A=b")).toBe(
    `'a b' '' 'it'\\''s' '$(id)' '\`id\`' 'a\nb' '*' '~' 'A=b'`,
  )
  expect(words(Uint8Array.of(0x61, 0xff, 0xfe, 0x0a))).toBe(`a"$(printf '\\377\\376')"'\n'`)
  expect(words(new TextEncoder().encode("größe"))).toBe("'größe'")
  expect(() => words("a\0b")).toThrow("NUL")
  expect(() => words(Uint8Array.of(255, 0))).toThrow("NUL")
})

test("a command has no backslash within single quotes, which fish would read, and survives sh", () => {
  const text = String.raw`printf '%s' 'a\b\\c'\''d'"$(printf 'x\\y')"`
  const { command } = remoteCommand(text)
  const single = command.replaceAll(/"(\\\\|[^"\\])*"|'([^']*)'/g, (found) => (found.startsWith('"') ? "" : found))
  expect(single).toStartWith("exec sh -c '")
  expect(single).not.toContain("\\")
  const run = (line: string) => Bun.spawnSync(["sh", "-c", line]).stdout.toString()
  expect(run(command)).toBe(run(text))
})

test("exit code 255 of a script is told from a failure of ssh", () => {
  const { stderr, exitCode } = Bun.spawnSync(["sh", "-c", remoteCommand("exit 255").command])
  expect([exitCode, stderr.toString()]).toEqual([255, "alpha: the command ended with 255\n"])
  expect(Bun.spawnSync(["sh", "-c", remoteCommand("exit 7").command])).toMatchObject({ exitCode: 7 })
})

test("what ssh would take for an option, or split, is refused in fleet.json", () => {
  for (const fields of [{ host: "-oProxyCommand=id" }, { user: "-x" }, { host: "a b\nc" }, { key: 'a"b' }, { jump: "-x" }]) {
    expect(() => parseFleet({ instances: { a: fields } }, "/f")).toThrow(/expected/)
  }
})

/** Reproducible random argument lists of everything that shells stumble over. */
function randomLists(count: number, seed: number): Uint8Array[][] {
  let state = seed
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const pieces = [
    " ",
    "\n",
    "'",
    '"',
    "$(id)",
    "`id`",
    "$HOME",
    "\\",
    "\\n",
    "*",
    "?",
    "[a]",
    "{a,b}",
    "~",
    "!",
    "!!",
    "#",
    ";",
    "&",
    "|",
    "<",
    ">",
    "(",
    ")",
    "=",
    "-",
    "--",
    "\t",
    "\r",
    "%s",
    "é",
    "日本",
    "😀",
    "a",
    "Z",
    "0",
    "\x01",
    "\x7f",
  ]
  const encoder = new TextEncoder()
  const word = () => {
    const parts = Array.from({ length: random(7) }, () =>
      random(6) === 0 ? Uint8Array.of(1 + random(255)) : encoder.encode(pieces[random(pieces.length)]!),
    )
    return new Uint8Array(Buffer.concat(parts))
  }
  return Array.from({ length: count }, () => Array.from({ length: 1 + random(5) }, word))
}

describe("on machines", () => {
  let fleet: TestFleet | undefined
  const start = async () => {
    fleet ??= await startFleet(KINDS)
    return fleet
  }
  afterAll(async () => await fleet?.close())

  const arrive = async (name: "openssh" | "busybox", seed: number) => {
    const host = (await start()).instance(name)
    const lists = randomLists(5000, seed)
    // From one list to 600 at a time: short scripts are a command, long ones go over standard input.
    for (let at = 0, size = 1; at < lists.length; at += size, size = Math.min(600, size * 3)) {
      const batch = lists.slice(at, at + size)
      const script = batch.map((list) => `printf '%s\\0' ${quote(list)}; printf '\\0\\0'`).join("\n")
      const chunks: Uint8Array[] = []
      const { code, stderr } = await remote(host, script, { onStdout: (bytes) => void chunks.push(bytes) })
      expect([code, stderr]).toEqual([0, ""])
      const expected = Buffer.concat(
        batch.flatMap((list) => [...list.map((word) => Buffer.concat([word, Uint8Array.of(0)])), Uint8Array.of(0, 0)]),
      )
      expect(Buffer.concat(chunks).equals(expected)).toBe(true)
    }
  }
  sshTest("5,000 random argument lists arrive through OpenSSH", async () => await arrive("openssh", 1), 300_000)
  busyboxTest("5,000 random argument lists arrive through dropbear and BusyBox", async () => await arrive("busybox", 2), 300_000)

  busyboxTest(
    "run hands words on as they are, and returns the command's exit code",
    async () => {
      const { alpha, folder, environment } = await start()
      for (const name of ["openssh", "busybox"]) {
        const odd = ["a b", "it's", "$(id)", "x\ny", "größe", "--", "-n", "*", ""]
        const answer = await alpha(["fleet", "run", name, "--", "sh", "-c", 'printf "%s|" "$@"; echo err >&2; exit 7', "sh", ...odd])
        expect(answer).toEqual({ stdout: `${odd.join("|")}|`, stderr: "err\n", code: 7 })
        expect((await alpha(["fleet", "run", name, "--", "sh", "-c", "exit 255"])).code).toBe(255)
        // Bytes that are no text: a shell makes them, for JavaScript cannot pass them.
        const command = `exec "$@" fleet run ${name} -- printf '%s|' "$(printf '\\377\\200a')" "$(printf 'b\\303\\050')"`
        const program = [process.execPath, "--no-env-file", join(import.meta.dir, "../src/cli.ts")]
        const bytes = Bun.spawnSync(["sh", "-c", command, "sh", ...program], { cwd: folder, env: environment }).stdout
        expect(bytes.toString("latin1")).toBe("\xff\x80a|b\xc3(|")
      }
      const both = await alpha(["fleet", "run", "--all", "--", "sh", "-c", "exit 3"])
      expect(both.code).toBe(FLEET_EXIT.failed)
      expect(both.stdout).toContain("0 of 2 done; 2 failed (openssh, busybox)")
    },
    300_000,
  )
})
