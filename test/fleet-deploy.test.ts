/** Deploys to real ssh servers: what is sent, what is current, and what a kill, a full disk or a second deploy leaves. */
import { afterAll, describe, expect, test } from "bun:test"
import { createHash, randomBytes } from "node:crypto"
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { blobOf, FLEET_EXIT, fleetSchema, releaseOf, remote } from "../src/fleet.ts"
import { lockOwner } from "../src/fleet-lock.ts"
import { probeScript } from "../src/fleet-release.ts"
import { sendBlob } from "../src/fleet-upload.ts"
import { busyboxTest, KINDS, mountTest, sshTest, startFleet, type TestFleet, type TestHost } from "./fleet-hosts.ts"
import { testWith } from "./require.ts"
import { until } from "./support.ts"

/** A small real program in alpha's place: it tells its version, finds itself well, and prints what it is given. */
function standIn(fleet: TestFleet, version: string, padding = 0): string {
  const path = join(fleet.folder, `alpha-${version}`)
  const body = `#!/bin/sh
case $1 in
--version) echo "alpha ${version}" ;;
doctor) [ "$2" = --json ] && echo '{"ok":true,"devices":[{"device":"cpu"}]}' || echo "right: 0 operations" ;;
*) echo "library $ALPHA_NATIVE_LIBRARY"; printf '<%s>' "$@" ;;
esac
exit
`
  writeFileSync(path, Buffer.concat([Buffer.from(body), randomBytes(padding)]))
  chmodSync(path, 0o755)
  return path
}

/** What is current on a host: its version, after the check that its bytes are those of its name. */
function current({ deploy }: TestHost): string {
  const link = readlinkSync(join(deploy, "current"))
  const blob = join(deploy, "blobs", readlinkSync(join(deploy, link)).split("/").at(-1)!)
  expect(createHash("sha256").update(readFileSync(blob)).digest("hex")).toBe(blob.split("/").at(-1)!)
  return /alpha (\S+)"/.exec(readFileSync(blob, "latin1"))![1]!
}

const parts = ({ deploy }: TestHost) => readdirSync(join(deploy, "blobs")).filter((name) => name.endsWith(".part"))
const isLocked = ({ deploy }: TestHost) => lstatSync(join(deploy, "deploy.lock"), { throwIfNoEntry: false }) !== undefined

let fleet: TestFleet
const both = ["openssh", "busybox"] as const
const start = async () => {
  fleet ??= await startFleet(KINDS)
  return fleet
}
afterAll(async () => await fleet?.close())

busyboxTest(
  "the life of a release on OpenSSH and on BusyBox with dropbear: setup, deploy, unchanged, upload, rollback, doctor",
  async () => {
    const { alpha, folder, configure, host } = await start()
    mkdirSync(join(folder, "data"))
    writeFileSync(join(folder, "data/book one.txt"), "Call me Ishmael.")
    writeFileSync(join(folder, ".env.local"), "UPLOAD_SECRET='s3cret $(id)'\n")
    configure({ files: ["data/book one.txt"], setupCommand: 'echo prepared > "$HOME/setup was here"' })
    const json = async (...args: string[]) => {
      const { stdout, stderr, code } = await alpha(["fleet", ...args, "--all", "--json"])
      expect([stderr, code]).toEqual(["", 0])
      return JSON.parse(stdout).hosts as Record<string, unknown>[]
    }

    for (const row of await json("setup"))
      expect(row).toMatchObject({
        state: "ok",
        facts: { kernel: expect.stringContaining("Linux"), libc: expect.stringContaining("glibc 2.") },
      })
    for (const name of both) expect(readFileSync(join(host(name).home, "setup was here"), "utf8")).toBe("prepared\n")

    const one = standIn(fleet, "1.0", 3_000_000)
    for (const row of await json("deploy", `--binary=${one}`)) {
      expect(row).toMatchObject({ state: "changed", version: "alpha 1.0", doctor: "right: 0 operations", from: null })
      expect(row.sentBytes).toBe(statSync(one).size + 16)
    }
    for (const row of await json("deploy", `--binary=${one}`)) expect(row).toMatchObject({ state: "unchanged", requests: 1, sentBytes: 0 })
    for (const name of both) {
      const { deploy } = host(name)
      expect(current(host(name))).toBe("1.0")
      expect(readFileSync(join(deploy, "data/book one.txt"), "utf8")).toBe("Call me Ishmael.")
      expect([readFileSync(join(deploy, ".env.local"), "utf8"), statSync(join(deploy, ".env.local")).mode & 0o777]).toEqual([
        "UPLOAD_SECRET='s3cret $(id)'\n",
        0o600,
      ])
      expect([parts(host(name)), isLocked(host(name)), readdirSync(deploy).filter((file) => /^\.|^lock/.test(file))]).toEqual([
        [],
        false,
        [".env.local"],
      ])
      const entries = readFileSync(join(deploy, "audit.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line))
      expect(entries.at(-1)).toMatchObject({ verb: "deploy", who: expect.stringContaining("@"), time: expect.stringMatching(/^20.*Z$/) })
      expect(readFileSync(join(deploy, "audit.jsonl"), "utf8")).not.toContain("s3cret")
    }

    // Secrets change alone: nothing else is sent.
    writeFileSync(join(folder, ".env.local"), "UPLOAD_SECRET=other\n")
    for (const row of await json("deploy", `--binary=${one}`)) expect(row).toMatchObject({ state: "changed", sentBytes: 0 })
    for (const name of both) expect(readFileSync(join(host(name).deploy, ".env.local"), "utf8")).toBe("UPLOAD_SECRET=other\n")

    for (const row of await json("upload", `--file=${folder}/data`, "--to=more"))
      expect(row).toMatchObject({ state: "changed", sentBytes: 0 })
    expect(readFileSync(join(host("busybox").deploy, "more/data/book one.txt"), "utf8")).toBe("Call me Ishmael.")

    for (const row of await json("deploy", `--binary=${standIn(fleet, "2.0")}`))
      expect(row).toMatchObject({ version: "alpha 2.0", from: expect.stringMatching(/^\w{16}$/) })
    for (const name of both) expect(current(host(name))).toBe("2.0")
    for (const row of await json("deploy", "--rollback")) expect(row).toMatchObject({ version: "alpha 1.0" })
    for (const name of both) expect(current(host(name))).toBe("1.0")

    for (const row of await json("doctor")) expect(row).toMatchObject({ state: "ok", doctor: { ok: true } })
    const { deploy } = host("busybox")
    const blob = join(
      deploy,
      "blobs",
      readlinkSync(join(deploy, readlinkSync(join(deploy, "current"))))
        .split("/")
        .at(-1)!,
    )
    chmodSync(blob, 0o700)
    writeFileSync(blob, Buffer.concat([readFileSync(blob), Buffer.from("x")]))
    const damaged = await alpha(["fleet", "doctor", "busybox"])
    expect([damaged.code, damaged.stdout]).toEqual([FLEET_EXIT.failed, expect.stringContaining(`damaged: blobs/`)])
    for (const row of await json("deploy", `--binary=${one}`)) expect(row.host === "busybox" ? row.state : "changed").toBe("changed")
    expect(current(host("busybox"))).toBe("1.0")
  },
  600_000,
)

sshTest(
  "a release that does not run, or whose doctor fails, never becomes current",
  async () => {
    const { alpha, folder, host } = await start()
    const good = await alpha(["fleet", "deploy", "openssh", `--binary=${standIn(fleet, "3.0")}`])
    expect(good.code).toBe(0)
    const bad = {
      "no-start": "#!/nowhere/sh\n",
      other: Buffer.concat([Buffer.from("\x7fELF"), Buffer.alloc(14), Buffer.of(22, 0), Buffer.alloc(40)]),
      sick: '#!/bin/sh\n[ "$1" = doctor ] && { echo "WRONG: matmul"; exit 1; }\necho "alpha sick"\n',
    }
    for (const [name, text] of Object.entries(bad)) {
      const path = join(folder, name)
      writeFileSync(path, text)
      const answer = await alpha(["fleet", "deploy", "openssh", `--binary=${path}`])
      expect([answer.code, current(host("openssh")), isLocked(host("openssh"))]).toEqual([FLEET_EXIT.failed, "3.0", false])
      expect(answer.stdout).toContain(name === "other" ? "but other is for another machine" : "hint: the current release is as it was")
    }
  },
  600_000,
)

busyboxTest(
  "a deploy that is killed at any instant leaves the old release or the new one, and the next one continues",
  async () => {
    const { alpha, start: launch, host } = await start()
    const machine = host("busybox")
    const first = standIn(fleet, "k0")
    expect((await alpha(["fleet", "deploy", "busybox", `--binary=${first}`])).code).toBe(0)

    // In the middle of the file, for certain: the link is stopped by the server's own process once some of it has come.
    const big = standIn(fleet, "k1", 48_000_000)
    const sha = createHash("sha256").update(readFileSync(big)).digest("hex")
    const part = join(machine.deploy, "blobs", `${sha}.part`)
    const size = () => statSync(part, { throwIfNoEntry: false })?.size ?? 0
    let left = 0
    for (let tries = 0; left === 0 && tries < 10; tries++) {
      const child = launch(["fleet", "deploy", "busybox", `--binary=${big}`])
      await until("a part", () => size() > 100_000 || child.exitCode !== null, 2)
      child.kill("SIGKILL")
      await child.exited
      fleet.disconnect() // the laptop is dead: its connection too
      await until("the end of the request", () => !isLocked(machine) || size() < statSync(big).size, 2)
      expect(["k0", "k1"]).toContain(current(machine))
      left = current(machine) === "k0" ? size() : 0
      if (left === 0)
        for (const name of readdirSync(join(machine.deploy, "blobs"))) if (name.startsWith(sha)) rmSync(join(machine.deploy, "blobs", name))
    }
    expect(left).toBeGreaterThan(100_000)
    expect(current(machine)).toBe("k0")
    expect(isLocked(machine)).toBe(true)
    // The holder was a process of this computer that is gone, so its lock is nobody's.
    const again = await alpha(["fleet", "deploy", "busybox", `--binary=${big}`, "--json"])
    expect(again.code).toBe(0)
    const [row] = JSON.parse(again.stdout).hosts
    expect(row.resumedBytes).toBeGreaterThan(100_000)
    expect(row.resumedBytes + row.sentBytes).toBe(statSync(big).size)
    expect([current(machine), parts(machine), isLocked(machine)]).toEqual(["k1", [], false])

    const versions = ["k1", "r0", "r1", "r2", "r3", "r4", "r5"]
    for (const version of versions.slice(1)) {
      const child = launch(["fleet", "deploy", "busybox", `--binary=${standIn(fleet, version, 4_000_000)}`])
      await Bun.sleep(60 + 70 * versions.indexOf(version))
      child.kill("SIGKILL")
      await child.exited
      fleet.disconnect()
      expect(versions).toContain(current(machine))
    }
    expect((await alpha(["fleet", "deploy", "busybox", `--binary=${standIn(fleet, "last")}`])).code).toBe(0)
    expect(current(machine)).toBe("last")
    // Five releases stay.
    expect(readdirSync(join(machine.deploy, "releases")).length).toBeLessThanOrEqual(6)
  },
  600_000,
)

describe("a full disk", () => {
  let small: TestFleet | undefined
  afterAll(async () => await small?.close())
  mountTest(
    "leaves the current release, and gives back what came",
    async () => {
      small = await startFleet({ box: "openssh" }, { diskMiB: 16 })
      const box = small.host("box")
      expect((await small.alpha(["fleet", "deploy", `--binary=${standIn(small, "1.0", 1_000_000)}`])).code).toBe(0)

      const large = standIn(small, "2.0", 30_000_000)
      const refused = await small.alpha(["fleet", "deploy", `--binary=${large}`])
      expect([refused.code, refused.stdout]).toEqual([
        FLEET_EXIT.failed,
        expect.stringMatching(/disk full: 28\.6 MiB are to be sent, .* are free/),
      ])
      expect([current(box), parts(box), isLocked(box)]).toEqual(["1.0", [], false])

      // It fills while the file comes: there is room when the machine is asked, and none when it is sent.
      const middle = standIn(small, "3.0", 12_000_000)
      const filler = join(box.deploy, "filler")
      const [instance, owner, blob] = [small.instance("box"), lockOwner("deploy"), await blobOf(middle, { isProgram: true })]
      const asked = await remote(
        instance,
        probeScript(instance, { release: await releaseOf(middle), files: [] }, owner, { secretBytes: undefined }),
      )
      expect([asked.code, asked.stdout]).toEqual([0, expect.stringContaining(`need=${blob.sha256} 0`)])
      Bun.spawnSync(["dd", "if=/dev/zero", `of=${filler}`, "bs=1M", "count=10"], { stderr: "ignore" })
      const sending = sendBlob(instance, blob, owner, 0, { onProgress: () => {}, signal: undefined })
      await expect(sending).rejects.toThrow("disk full while sending")
      expect([parts(box), isLocked(box)]).toEqual([[], true])
      rmSync(filler)
      expect(current(box)).toBe("1.0")
      expect((await small.alpha(["fleet", "deploy", `--binary=${middle}`, "--takeover"])).code).toBe(0)
      expect(current(box)).toBe("3.0")
    },
    300_000,
  )
})

sshTest(
  "the lock names its holder, expires, and can be taken over",
  async () => {
    const { alpha, host } = await start()
    const { deploy } = host("openssh")
    const lock = (secondsLeft: number) => {
      const now = Math.floor(Date.now() / 1000)
      rmSync(join(deploy, "deploy.lock"), { force: true })
      symlinkSync(`x:1:2:3:elsewhere|${now + secondsLeft}|${now - 60}|bob@elsewhere|deploy`, join(deploy, "deploy.lock"))
    }
    const [a, b, c] = ["l1", "l2", "l3"].map((version) => standIn(fleet, version)) as [string, string, string]
    expect((await alpha(["fleet", "deploy", "openssh", `--binary=${a}`])).code).toBe(0)
    lock(600)
    // What changes nothing needs no lock.
    expect((await alpha(["fleet", "deploy", "openssh", `--binary=${a}`])).code).toBe(0)
    const held = await alpha(["fleet", "deploy", "openssh", `--binary=${b}`])
    expect(held.code).toBe(FLEET_EXIT.locked)
    expect(held.stdout).toMatch(/locked by bob@elsewhere since \S+ \S+ UTC \(deploy\); it expires at/)
    expect((await alpha(["fleet", "deploy", "openssh", "--rollback"])).code).toBe(FLEET_EXIT.locked)
    expect(current(host("openssh"))).toBe("l1")
    expect((await alpha(["fleet", "deploy", "openssh", `--binary=${b}`, "--takeover"])).code).toBe(0)
    lock(-1)
    expect((await alpha(["fleet", "deploy", "openssh", `--binary=${c}`])).code).toBe(0)
    expect([current(host("openssh")), isLocked(host("openssh"))]).toEqual(["l3", false])

    // Of several at the same time one works and the others name it; in the end all agree.
    const many = ["m1", "m2", "m3", "m4"].map((version) => standIn(fleet, version, 2_000_000))
    const codes = await Promise.all(many.map(async (path) => (await alpha(["fleet", "deploy", "openssh", `--binary=${path}`])).code))
    expect(codes).toContain(0)
    expect(codes.filter((code) => code !== 0 && code !== FLEET_EXIT.locked)).toEqual([])
    expect(["m1", "m2", "m3", "m4"].filter((_, i) => codes[i] === 0)).toContain(current(host("openssh")))
  },
  600_000,
)

busyboxTest(
  "a large file goes in pieces, and what an earlier deploy left is used only if it is the same file",
  async () => {
    const { alpha, host, instance } = await start()
    const machine = host("busybox")
    expect((await alpha(["fleet", "deploy", "busybox", `--binary=${standIn(fleet, "p0")}`])).code).toBe(0)
    const path = standIn(fleet, "p1", 3_500_000)
    const blob = await blobOf(path, { link: "p1" })
    const owner = lockOwner("deploy")
    const take = async () =>
      await remote(
        instance("busybox"),
        probeScript(instance("busybox"), { release: undefined, files: [blob] }, owner, { secretBytes: undefined }),
      )
    expect((await take()).stdout).toContain(`need=${blob.sha256} 0`)
    const done: number[] = []
    const options = { onProgress: (bytes: number) => void done.push(bytes), signal: undefined, chunk: 1 << 20 }
    expect(await sendBlob(instance("busybox"), blob, owner, 0, options)).toEqual({ sentBytes: blob.bytes, resumedBytes: 0, requests: 4 })
    expect(done.toSorted((a, b) => a - b)).toEqual(done)
    expect(done.at(-1)).toBe(blob.bytes)
    const stored = join(machine.deploy, "blobs", blob.sha256)
    expect(readFileSync(stored).equals(readFileSync(path))).toBe(true)

    // Half of another file under its name: found out at the end, and sent anew.
    rmSync(stored)
    writeFileSync(`${stored}.part`, randomBytes(1_000_000))
    const again = await sendBlob(instance("busybox"), blob, owner, 1_000_000, { onProgress: () => {}, signal: undefined })
    expect([again.resumedBytes, again.requests, readFileSync(stored).equals(readFileSync(path))]).toEqual([0, 2, true])
    // More than the whole of it, and a machine that has other bytes than it said.
    for (const [there, have] of [
      [4_000_000, 4_000_000],
      [1000, 0],
    ] as const) {
      rmSync(stored)
      writeFileSync(`${stored}.part`, there === 1000 ? readFileSync(path).subarray(0, there) : randomBytes(there))
      await sendBlob(instance("busybox"), blob, owner, Math.min(have, blob.bytes), { onProgress: () => {}, signal: undefined })
      expect(readFileSync(stored).equals(readFileSync(path))).toBe(true)
    }
    rmSync(join(machine.deploy, "deploy.lock"))
    // Of other files, what a test before left may still be there for the next deploy.
    expect(parts(machine)).not.toContain(`${blob.sha256}.part`)
  },
  600_000,
)

describe("--rebuildNative", () => {
  busyboxTest(
    "without a compiler names the package; with one the release has its own library",
    async () => {
      const { alpha, host } = await start()
      const machine = host("busybox")
      const binary = standIn(fleet, "n1")
      expect((await alpha(["fleet", "deploy", "busybox", `--binary=${binary}`])).code).toBe(0)
      const without = await alpha(["fleet", "deploy", "busybox", `--binary=${binary}`, "--rebuildNative"])
      expect([without.code, without.stdout]).toEqual([FLEET_EXIT.failed, expect.stringContaining("apt-get install gcc libc6-dev")])
      expect(isLocked(machine)).toBe(false)

      // A compiler that makes a file of everything: what is compiled, how it is linked and where it lies is what counts here.
      const cc = join(machine.root, "bin/cc")
      writeFileSync(
        cc,
        `#!/bin/sh\nout=; for word in "$@"; do [ "$out" != -o ] || out=$word; [ "$word" != -o ] || out=-o; done\ncase $* in *cpu-gemm.c*) [ -f native/cpu-gemm.c ] || exit 1 ;; esac\nprintf '%s\\n' "$*" > "$out"\n`,
      )
      chmodSync(cc, 0o755)
      const built = await alpha(["fleet", "deploy", "busybox", `--binary=${binary}`, "--rebuildNative"])
      expect([built.code, built.stdout]).toEqual([0, expect.stringContaining("alpha n1")])
      const release = join(machine.deploy, readlinkSync(join(machine.deploy, "current")), "..")
      expect(readFileSync(join(release, "libalpha.so"), "utf8")).toMatch(
        /^-shared .*cpu-gemm-v3\.o .*-o libalpha\.so\n$|^-shared .*cpu-gemm-base\.o .*-o libalpha\.so\n$/,
      )
      rmSync(cc)
    },
    300_000,
  )
})

describe("a machine with musl", () => {
  let musl: TestFleet | undefined
  afterAll(async () => await musl?.close())
  busyboxTest(
    "is refused by name before anything is sent",
    async () => {
      musl = await startFleet({ alpine: "busybox" })
      const { root, deploy } = musl.host("alpine")
      for (const name of readdirSync(join(root, "lib64"))) rmSync(join(root, "lib64", name))
      rmSync(join(root, "lib/x86_64-linux-gnu"), { recursive: true, force: true })
      writeFileSync(join(root, "lib/ld-musl-x86_64.so.1"), "")
      for (const verb of [["setup"], ["deploy", `--binary=${standIn(musl, "1.0", 1000)}`]]) {
        const { code, stdout } = await musl.alpha(["fleet", ...verb])
        expect([code, stdout]).toEqual([FLEET_EXIT.failed, expect.stringContaining("its C library is musl")])
      }
      expect([readdirSync(join(deploy, "blobs")), existsSync(join(deploy, "current"))]).toEqual([[], false])
    },
    300_000,
  )
})

const built = join(import.meta.dir, "../alpha")
describe("the real program", () => {
  let real: TestFleet | undefined
  afterAll(async () => await real?.close())
  const missing = existsSync(built) ? undefined : "npm run build has not been run"
  ;(missing === undefined ? busyboxTest : testWith("build", missing))(
    "runs on BusyBox with dropbear, and its doctor finds every operation right",
    async () => {
      real = await startFleet({ box: "busybox" })
      const deployed = await real.alpha(["fleet", "deploy", `--binary=${realpathSync(built)}`, "--json"])
      expect(deployed.stdout).toContain('"exit":0')
      expect(JSON.parse(deployed.stdout).hosts[0]).toMatchObject({
        state: "changed",
        version: expect.stringMatching(/^alpha \d/),
        doctor: expect.stringMatching(/^right: \d+ operations/),
      })
      const { stdout, code } = await real.alpha(["fleet", "run", "box", "--", "./current", "version", "--json"])
      expect([code, JSON.parse(stdout)]).toMatchObject([0, { version: expect.any(String) }])
    },
    300_000,
  )
})

test("the example of fleet.json has only fields of the schema", () => {
  const schema = fleetSchema() as { properties: Record<string, { additionalProperties?: { properties: object } }> }
  const example = JSON.parse(readFileSync(join(import.meta.dir, "../fleet.json.example"), "utf8"))
  const known = Object.keys(schema.properties.instances!.additionalProperties!.properties)
  for (const fields of [example.defaults, ...Object.values(example.instances as object)])
    for (const name of Object.keys(fields)) expect(known).toContain(name)
})
