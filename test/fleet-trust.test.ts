/** Host keys and connections: pinned, changed, through a machine in between, unreachable; keys allowed. */
import { afterAll, beforeEach, expect } from "bun:test"
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { FLEET_EXIT } from "../src/fleet.ts"
import { sshTest, startFleet, type TestFleet } from "./fleet-hosts.ts"

let fleet: TestFleet
let pins: string
beforeEach(async () => {
  if (fleet !== undefined) return
  fleet = await startFleet({ a: "openssh", b: "openssh" }, { trusted: false })
  pins = join(fleet.folder, "fleet_known_hosts")
})
afterAll(async () => await fleet?.close())

const ask = async (...args: string[]) => await fleet.alpha(["fleet", ...args])
const fingerprint = (text: string) => /SHA256:[\w+/]{43}/.exec(text)![0]
const sshKeygen = (line: string) => fingerprint(Bun.spawnSync(["ssh-keygen", "-lf", "-"], { stdin: Buffer.from(line) }).stdout.toString())

sshTest(
  "an unknown host is refused until it is trusted; the fingerprint is ssh-keygen's",
  async () => {
    const before = await ask("run", "a", "--", "true")
    expect([before.code, before.stderr]).toEqual([
      FLEET_EXIT.unreachable,
      expect.stringContaining("no host key is pinned for a: alpha fleet trust a"),
    ])
    const wrong = await ask("trust", "a", `--fingerprint=SHA256:${"A".repeat(43)}`)
    expect([wrong.code, existsSync(pins)]).toEqual([FLEET_EXIT.failed, false])
    const trusted = await ask("trust", "a")
    expect([trusted.code, trusted.stdout]).toEqual([0, expect.stringContaining("is pinned now")])
    expect(sshKeygen(readFileSync(pins, "utf8"))).toBe(fingerprint(trusted.stdout))
    expect((await ask("trust", "a", `--fingerprint=${fingerprint(trusted.stdout)}`)).stdout).toContain("was pinned before")
    expect((await ask("run", "a", "--", "true")).code).toBe(0)
    // b is still unknown; a works: the codes of one kind of failure stay, and the summary tells who.
    const both = await ask("run", "--all", "--", "true")
    expect([both.code, both.stdout]).toEqual([FLEET_EXIT.unreachable, expect.stringContaining("1 of 2 done; 1 unreachable (b)")])
    expect((await ask("trust", "b")).code).toBe(0)
    expect(readFileSync(pins, "utf8").trim().split("\n").length).toBe(2)
  },
  300_000,
)

sshTest(
  "a machine in between is checked against its own pin",
  async () => {
    const { address, port } = fleet.host("a")
    // The same server as seen from within: reached through itself.
    fleet.configure({}, { inner: { host: address, port, jump: "a" }, lost: { host: address, port, jump: "nobody@192.0.2.1:1" } })
    const trusted = await ask("trust", "inner")
    expect([trusted.code, trusted.stdout]).toEqual([0, expect.stringContaining("pinned now")])
    const inside = await ask("run", "inner", "--", "sh", "-c", "echo through $SSH_CLIENT")
    expect([inside.code, inside.stdout]).toEqual([0, expect.stringMatching(/^through /)])
    // Without the pin of the machine in between there is no way through it, though its own key is known.
    const all = readFileSync(pins, "utf8")
    writeFileSync(
      pins,
      all
        .split("\n")
        .filter((line) => !line.startsWith("a "))
        .join("\n"),
    )
    fleet.disconnect()
    expect((await ask("run", "inner", "--", "true")).code).toBe(FLEET_EXIT.unreachable)
    writeFileSync(pins, all)
    expect((await ask("run", "inner", "--", "true")).code).toBe(0)
    fleet.configure({})
  },
  300_000,
)

sshTest(
  "a changed host key ends every verb, and trust gives up the old one only when told to",
  async () => {
    await fleet.host("b").rekey()
    fleet.disconnect()
    for (const verb of [
      ["run", "b", "--", "true"],
      ["setup", "b"],
      ["doctor", "b"],
      ["deploy", "b", "--rollback"],
      ["deploy", "b", "--binary=id.pub"],
    ]) {
      const { code, stdout, stderr } = await ask(...verb)
      expect([verb[0], code, stdout + stderr]).toEqual([
        verb[0],
        FLEET_EXIT.unreachable,
        expect.stringContaining("is not the pinned one: another machine answers"),
      ])
    }
    const old = readFileSync(pins, "utf8")
    const refused = await ask("trust", "b")
    expect([refused.code, refused.stdout]).toEqual([FLEET_EXIT.failed, expect.stringContaining("trust b --replace")])
    expect(readFileSync(pins, "utf8")).toBe(old)
    expect((await ask("trust", "b", "--replace")).code).toBe(0)
    expect((await ask("run", "b", "--", "true")).code).toBe(0)
  },
  300_000,
)

sshTest(
  "a machine that nothing reaches is told from one that refuses the login, and stops nobody else",
  async () => {
    fleet.configure({}, { b: { connectTimeout: 2 } }) // a has all the time that it needs
    fleet.disconnect()
    fleet.host("b").cut()
    const gone = await ask("run", "--all", "--", "echo", "here")
    fleet.host("b").restore()
    expect([gone.code, gone.stdout]).toEqual([
      FLEET_EXIT.unreachable,
      expect.stringMatching(/a \| here[\s\S]*unreachable +b .*cannot be reached.*tim/),
    ])
    fleet.configure({ key: join(fleet.folder, "other") })
    Bun.spawnSync(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", join(fleet.folder, "other")])
    const refused = await ask("run", "b", "--", "true")
    expect([refused.code, refused.stderr]).toEqual([FLEET_EXIT.unreachable, expect.stringContaining("refuses the login")])

    // sync-keys lets the new key in, each key once, and never sends a private one.
    fleet.configure({})
    const file = join(fleet.host("b").home, ".ssh/authorized_keys")
    writeFileSync(file, readFileSync(file, "utf8").trimEnd()) // its last line has no end
    for (const added of ["1 new keys allowed", "all keys were there"]) {
      const { code, stdout } = await ask("sync-keys", "b", "--publicKey=other.pub", "--publicKey=id.pub")
      expect([code, stdout]).toEqual([0, expect.stringContaining(added)])
    }
    expect(readFileSync(file, "utf8").split("\n").length).toBe(3)
    const secret = await ask("sync-keys", "b", "--publicKey=other")
    expect([secret.code, secret.stderr]).toEqual([
      FLEET_EXIT.usage,
      expect.stringContaining("private key, which never leaves this machine"),
    ])
    fleet.configure({ key: join(fleet.folder, "other") })
    expect((await ask("run", "b", "--", "true")).code).toBe(0)
    rmSync(join(fleet.folder, "other"))
  },
  300_000,
)
