/** Machines for the fleet's tests: real sshd and dropbear, each in a network namespace of its own where root can make one, else on loopback. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { type FleetHost, readFleet } from "../src/fleet.ts"
import { testWith } from "./require.ts"
import { freePort, PATIENCE_MS, PROGRAM } from "./support.ts"

const find = (program: string) => Bun.which(program, { PATH: `${process.env.PATH}:/usr/sbin:/sbin` }) ?? undefined
const [sshd, dropbear, busybox, ssh, ip] = ["sshd", "dropbear", "busybox", "ssh", "ip"].map(find)
const isRoot = process.getuid?.() === 0

/** Why no OpenSSH host can be started here. */
export const missingSsh = sshd && ssh ? undefined : "openssh-server or openssh-client is not installed"
/** The BusyBox host lives in a root directory of its own, with /dev and /proc mounted there. */
const canMount = isRoot && Bun.spawnSync(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], { stderr: "ignore" }).exitCode === 0
const missing =
  missingSsh ??
  (!dropbear || !busybox ? "dropbear-bin or busybox-static is not installed" : canMount ? undefined : "root cannot mount here")

/** Whether hosts of both kinds can be started. */
export const hasBusybox = missing === undefined

/** A test with an OpenSSH host. */
export const sshTest = testWith("ssh", missingSsh)
/** A test with a host that has dropbear and BusyBox alone. */
export const busyboxTest = testWith(!isRoot ? "root" : canMount ? "ssh" : "mount", missing)
/** A test with a disk of its own size. */
export const mountTest = testWith("mount", canMount ? missingSsh : "root cannot mount here")

/** One machine of every kind that can be had here, named by its kind. */
export const KINDS: Readonly<Record<string, "openssh" | "busybox">> = hasBusybox
  ? { openssh: "openssh", busybox: "busybox" }
  : { openssh: "openssh" }

export interface TestHost {
  readonly name: string
  readonly kind: "openssh" | "busybox"
  readonly address: string
  readonly port: number
  /** The deploy directory of the host as a path of this machine. */
  readonly deploy: string
  /** HOME of the host as a path of this machine. */
  readonly home: string
  /** Root of the host's files as a path of this machine; "/" for OpenSSH hosts. */
  readonly root: string
  /** Nothing gets through any more, in either direction, and nobody is told. */
  cut(): void
  /** Undoes `cut`. */
  restore(): void
  /** The cable takes no more than this towards the host, as tc writes it ("1gbit"); only with network namespaces. */
  shape(rate: string): void
  /** The host comes back with another host key, as an impostor would. */
  rekey(): Promise<void>
  stop(): void
}

export interface TestFleet {
  /** Folder of fleet.json and of the program's files. */
  readonly folder: string
  readonly file: string
  readonly hosts: readonly TestHost[]
  /** Environment of the program. */
  readonly environment: Record<string, string>
  host(name: string): TestHost
  /** The same as the program sees it, for calls within the test's own process. */
  instance(name: string): FleetHost
  /** Runs `alpha ARGUMENTS` from source in `folder`. */
  alpha(args: readonly string[], options?: AlphaOptions): Promise<{ stdout: string; stderr: string; code: number }>
  /** Starts it and lets go: for kills. */
  start(args: readonly string[], options?: AlphaOptions): Bun.Subprocess<"ignore", "pipe", "pipe">
  /** Writes fleet.json again with these defaults, and these fields of single hosts or further ones. */
  configure(defaults: Record<string, unknown>, instances?: Record<string, Record<string, unknown>>): void
  /** Ends the open connections, so that the next command makes new ones. */
  disconnect(): void
  close(): Promise<void>
}

export interface AlphaOptions {
  readonly environment?: Record<string, string>
}

export interface FleetOptions {
  readonly trusted?: boolean
  readonly fields?: Record<string, unknown>
  readonly diskMiB?: number
  /** All hosts on loopback, at ports of their own: they reach each other. */
  readonly loopback?: boolean
  /** What `alpha` is on this side: the source, or a built binary, which starts faster. */
  readonly program?: readonly string[]
}

/** Starts hosts with these names; all keys are pinned unless `trusted` is false. `diskMiB` gives each a small disk to deploy to (root only). */
export async function startFleet(
  names: Readonly<Record<string, "openssh" | "busybox">>,
  { trusted = true, fields = {}, diskMiB, loopback = false, program = PROGRAM }: FleetOptions = {},
): Promise<TestFleet> {
  // A name that stumbles wherever a path is not quoted or a % not doubled.
  const folder = mkdtempSync(join(tmpdir(), "fleet 5%h "))
  const place = mkdtempSync(join(tmpdir(), "hosts-"))
  const key = join(folder, "id")
  run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", key])
  const hosts = await Promise.all(
    Object.entries(names).map(([name, kind]) => startHost(place, name, kind, readFileSync(`${key}.pub`, "utf8"), diskMiB, loopback)),
  )
  const file = join(folder, "fleet.json")
  const sockets = join(place, "s")
  mkdirSync(join(sockets, "alpha-ssh-test"), { recursive: true, mode: 0o700 })
  const { PATH = "", HOME = "", TMPDIR = "/tmp", SSH_AUTH_SOCK: _ } = process.env
  const environment = { PATH, HOME, TMPDIR, XDG_RUNTIME_DIR: sockets }
  const spawn = (args: readonly string[], { environment: more = {} }: AlphaOptions = {}) =>
    Bun.spawn([...program, ...args], {
      cwd: folder,
      env: { ...environment, ...more },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    })
  const fleet: TestFleet = {
    folder,
    file,
    hosts,
    environment,
    host: (name) => hosts.find((host) => host.name === name)!,
    instance: (name) => ({
      ...readFleet(file).instances.find((instance) => instance.name === name)!,
      controlPath: join(environment.XDG_RUNTIME_DIR, "alpha-ssh-test", name),
    }),
    async alpha(args, options) {
      const child = spawn(args, options)
      const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited])
      return { stdout, stderr, code }
    },
    start: spawn,
    configure(more, others = {}) {
      const own = hosts.map(({ name, address, port, kind, deploy }) => {
        return [name, { host: address, port, deployDir: kind === "busybox" ? "alpha" : deploy, labels: [kind], ...others[name] }] as const
      })
      const instances = { ...others, ...Object.fromEntries(own) }
      const defaults = { user: run(["id", "-un"]).trim(), key, connectTimeout: 60, ...fields, ...more }
      writeFileSync(file, JSON.stringify({ defaults, instances }, null, 2))
    },
    disconnect() {
      const place = environment.XDG_RUNTIME_DIR
      for (const folder of readdirSync(place))
        for (const socket of readdirSync(join(place, folder))) {
          Bun.spawnSync(["ssh", "-O", "exit", "-o", `ControlPath=${join(place, folder, socket)}`, "x"], { stderr: "ignore" })
        }
    },
    async close() {
      fleet.disconnect()
      for (const host of hosts) host.stop()
      for (const path of [folder, place, environment.XDG_RUNTIME_DIR]) rmSync(path, { recursive: true, force: true })
    },
  }
  fleet.configure({})
  if (trusted) {
    const { code, stdout, stderr } = await fleet.alpha(["fleet", "trust", "--all"])
    if (code !== 0) throw new Error(`trust fails: ${stdout}${stderr}`)
  }
  return fleet
}

let network = 0

async function startHost(
  folder: string,
  name: string,
  kind: "openssh" | "busybox",
  publicKey: string,
  diskMiB?: number,
  loopback = false,
): Promise<TestHost> {
  const own = join(folder, name)
  const root = kind === "busybox" ? join(own, "root") : "/"
  const home = kind === "busybox" ? join(root, "root") : join(own, "home")
  mkdirSync(join(home, ".ssh"), { recursive: true, mode: 0o700 })
  writeFileSync(join(home, ".ssh/authorized_keys"), publicKey, { mode: 0o600 })
  if (kind === "busybox") fillRoot(root)
  const deploy = kind === "busybox" ? join(home, "alpha") : join(own, "deploy")
  if (diskMiB !== undefined) {
    mkdirSync(deploy)
    run(["mount", "-t", "tmpfs", "-o", `size=${diskMiB}m`, "none", deploy])
  }
  const net = isRoot && !loopback ? makeNetwork() : undefined
  const address = net?.address ?? "127.0.0.1"
  const port = net ? 22 : await freePort()
  const place = { own, root, home, address, port, net }
  const serve = kind === "openssh" ? serveOpenSsh : serveDropbear
  let child = await serve(place)
  const signal = (name: "SIGSTOP" | "SIGCONT") => process.kill(child.pid, name)
  const host: TestHost = {
    name,
    kind,
    address,
    port,
    home,
    root,
    deploy,
    cut: () => (net ? run(["ip", "link", "set", net.link, "down"]) : signal("SIGSTOP")),
    restore: () => (net ? run(["ip", "link", "set", net.link, "up"]) : signal("SIGCONT")),
    shape: (rate) => run(["tc", "qdisc", "replace", "dev", net!.link, "root", "tbf", "rate", rate, "burst", "512kb", "latency", "50ms"]),
    async rekey() {
      child.kill("SIGKILL")
      await child.exited
      rmSync(join(own, "host_key"), { force: true })
      rmSync(join(own, "host_key.pub"), { force: true })
      child = await serve(place)
    },
    stop() {
      child.kill("SIGKILL")
      if (net) for (const pid of run(["ip", "netns", "pids", net.name]).split("\n").filter(Boolean)) kill(Number(pid))
      if (net) run(["ip", "netns", "del", net.name])
      if (diskMiB !== undefined) run(["umount", "-l", deploy])
    },
  }
  return host
}

interface Place {
  readonly own: string
  readonly root: string
  readonly home: string
  readonly address: string
  readonly port: number
  readonly net: Network | undefined
}

/** OpenSSH with a configuration of its own; as an ordinary user it serves that user alone. */
async function serveOpenSsh({ own, home, address, port, net }: Place) {
  const key = join(own, "host_key")
  if (!existsSync(key)) run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
  const config = join(own, "sshd_config")
  const lines = {
    ListenAddress: `${address}:${port}`,
    HostKey: key,
    PidFile: "none",
    AuthorizedKeysFile: join(home, ".ssh/authorized_keys"),
    StrictModes: "no",
    UsePAM: "no",
    PasswordAuthentication: "no",
    PermitRootLogin: "yes",
    MaxStartups: "100",
    MaxSessions: "100",
    SetEnv: `HOME=${home}`,
  }
  writeFileSync(
    config,
    `${Object.entries(lines)
      .map((pair) => pair.join(" "))
      .join("\n")}\n`,
  )
  if (isRoot) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 }) // where sshd itself runs without rights
  return await serve([sshd!, "-D", "-e", "-f", config], own, address, port, net)
}

/** dropbear within a root directory that has BusyBox and nothing else but the C library that alpha needs. */
async function serveDropbear({ own, root, address, port, net }: Place) {
  const key = join(own, "host_key")
  if (!existsSync(key)) run(["dropbearkey", "-t", "ed25519", "-f", key])
  copyFileSync(key, join(root, "host_key"))
  const mounts = `mount --rbind /dev ${root}/dev && mount -t proc proc ${root}/proc`
  const start = `${mounts} && exec chroot ${root} /dropbear -F -E -m -s -r /host_key -P /pid -p ${address}:${port}`
  return await serve(["unshare", "-m", "sh", "-c", start], own, address, port, net)
}

/** Programs of GNU coreutils: what a machine must have beside sh, and all that the BusyBox host has. */
const COREUTILS =
  "[ arch base64 basename cat chgrp chmod chown chroot cksum comm cp cut date dd df dirname du echo env expand expr factor false fold head hostid id join link ln logname ls md5sum mkdir mkfifo mknod mktemp mv nice nl nohup nproc od paste pathchk pinky pr printenv printf pwd readlink realpath rm rmdir seq sha1sum sha256sum sha512sum shred shuf sleep sort split stat stty sum sync tac tail tee test timeout touch tr true truncate tsort tty uname unexpand uniq unlink users wc who whoami yes".split(
    " ",
  )

function fillRoot(root: string): void {
  for (const directory of ["bin", "dev", "proc", "etc", "tmp", "root", "lib", "lib64", "usr"])
    mkdirSync(join(root, directory), { recursive: true })
  for (const directory of ["sbin", "usr/bin", "usr/sbin"])
    symlinkSync(directory.startsWith("usr") ? "../bin" : "bin", join(root, directory))
  copyFileSync(busybox!, join(root, "bin/busybox"))
  const applets = run([busybox!, "--list"]).split("\n")
  for (const name of ["sh", ...COREUTILS]) if (applets.includes(name)) symlinkSync("busybox", join(root, "bin", name))
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
  writeFileSync(join(root, "etc/group"), "root:x:0:\n")
  writeFileSync(join(root, "etc/shells"), "/bin/sh\n")
  copyFileSync(dropbear!, join(root, "dropbear"))
  const more = ["libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libgcc_s.so.1"]
  const listed = run(["ldd", dropbear!]).matchAll(/(\/\S+) \(0x/g)
  for (const [, path] of listed) copyInto(root, path!)
  const folder = dirname(run(["ldd", dropbear!]).match(/=> (\S+libc\.so\.6)/)![1]!)
  for (const name of more) if (existsSync(join(folder, name))) copyInto(root, join(folder, name))
}

function copyInto(root: string, path: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true })
  copyFileSync(path, join(root, path))
  chmodSync(join(root, path), 0o755)
}

/** Starts a server, and comes back when it answers. It ends with the test process, however that ends. */
async function serve(command: readonly string[], own: string, address: string, port: number, net: Network | undefined) {
  const inside = net ? ["ip", "netns", "exec", net.name] : []
  const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", ...inside, ...command], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: Bun.file(join(own, "server.log")),
  })
  for (const latest = Date.now() + PATIENCE_MS; ; ) {
    if (await answers(address, port)) return child
    if (child.exitCode !== null || Date.now() > latest) throw new Error(`${command[0]}: ${readFileSync(join(own, "server.log"), "utf8")}`)
    await Bun.sleep(50)
  }
}

/** Whether a server greets there. */
async function answers(host: string, port: number): Promise<boolean> {
  return await new Promise<boolean>((resolve) => {
    const socket = connect({ host, port })
    const end = (greeted: boolean) => {
      socket.destroy()
      resolve(greeted)
    }
    socket.once("data", () => end(true))
    for (const event of ["error", "close"]) socket.once(event, () => end(false))
  })
}

interface Network {
  readonly name: string
  readonly address: string
  /** The end of the cable on this side. */
  readonly link: string
}

/** A network namespace with a cable to it; undefined where the system gives none. */
function makeNetwork(): Network | undefined {
  const id = network++
  if (id === 0) sweepNetworks()
  const name = `alpha${process.pid}-${id}`
  const link = `a${process.pid.toString(36)}${id.toString(36)}`
  const subnet = `10.${100 + (process.pid % 100)}.${Math.floor(process.pid / 100) % 250}`
  const [here, there] = [`${subnet}.${4 * id + 1}`, `${subnet}.${4 * id + 2}`]
  if (!ip || Bun.spawnSync([ip, "netns", "add", name], { stderr: "ignore" }).exitCode !== 0) return undefined
  run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])
  run(["ip", "addr", "add", `${here}/30`, "dev", link])
  run(["ip", "link", "set", link, "up"])
  run(["ip", "-n", name, "addr", "add", `${there}/30`, "dev", "eth0"])
  run(["ip", "-n", name, "link", "set", "eth0", "up"])
  run(["ip", "-n", name, "link", "set", "lo", "up"])
  return { name, address: there, link }
}

/** Removes the namespaces of test processes that were killed. */
function sweepNetworks(): void {
  if (!ip) return
  for (const [name, pid] of run([ip, "netns", "list"]).matchAll(/^alpha(\d+)-\d+/gm)) {
    if (!existsSync(`/proc/${pid}`)) Bun.spawnSync([ip, "netns", "del", name!], { stderr: "ignore" })
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL")
  } catch {}
}

/** Runs a command that must succeed; returns what it printed. */
function run(command: readonly string[]): string {
  const path = `${process.env.PATH}:/usr/sbin:/sbin`
  const { stdout, stderr, exitCode } = Bun.spawnSync(command as string[], { env: { ...process.env, PATH: path } })
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString()}`)
  return stdout.toString()
}
