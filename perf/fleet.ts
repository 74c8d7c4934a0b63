/** Speed of `alpha fleet deploy`: unchanged on 8 machines, and 100 MB beside `ssh cat`; rows unchanged, send; --rate=1gbit … shapes the link. */
import { randomBytes } from "node:crypto"
import { chmodSync, existsSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { sshArgv } from "../src/fleet.ts"
import { startFleet, type TestFleet } from "../test/fleet-hosts.ts"

const [row = "unchanged", ...flags] = process.argv.slice(2)
const flag = (name: string) => flags.find((word) => word.startsWith(`--${name}=`))?.split("=")[1]
const rounds = Number(flag("rounds") ?? 5)
const alpha = flag("alpha") ?? join(import.meta.dir, "../alpha")
if (!existsSync(alpha)) throw new Error("npm run build makes ./alpha, which is measured")

const program = (fleet: TestFleet, name: string, bytes: number) => {
  const path = join(fleet.folder, name)
  const text = '#!/bin/sh\n[ "$1" = --version ] && echo alpha 0; [ "$1" = doctor ] && echo fine; exit 0\n'
  writeFileSync(path, Buffer.concat([Buffer.from(text), randomBytes(bytes - text.length)]))
  chmodSync(path, 0o755)
  return path
}

/** Seconds of a command, which must succeed. */
async function seconds(command: readonly string[], fleet: TestFleet, stdin?: string): Promise<number> {
  const start = performance.now()
  const child = Bun.spawn(command as string[], {
    cwd: fleet.folder,
    env: fleet.environment,
    stdin: stdin === undefined ? "ignore" : Bun.file(stdin),
    stdout: "pipe",
    stderr: "pipe",
  })
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited])
  if (code !== 0) throw new Error(`${command[0]} ends with ${code}: ${out}${err}`)
  return (performance.now() - start) / 1000
}

const show = (name: string, series: readonly number[], unit: string) =>
  console.log(`${name.padEnd(34)}${series.map((value) => value.toFixed(2)).join(" ")} ${unit}; median ${median(series).toFixed(2)}`)
const median = (series: readonly number[]) => series.toSorted((a, b) => a - b)[series.length >> 1]!

if (row === "unchanged") {
  const names = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`h${i}`, "openssh" as const]))
  const fleet = await startFleet(names)
  try {
    const deploy = [alpha, "fleet", "deploy", "--all", `--binary=${alpha}`]
    const first = await seconds(deploy, fleet)
    const [cold, warm]: [number[], number[]] = [[], []]
    for (let round = 0; round < rounds; round++) {
      fleet.disconnect()
      cold.push(await seconds(deploy, fleet))
      warm.push(await seconds(deploy, fleet))
    }
    console.log(`first deploy of ${alpha.split("/").at(-1)} to 8 machines: ${first.toFixed(1)} s`)
    show("unchanged, new connections", cold, "s")
    show("unchanged, connections open", warm, "s")
  } finally {
    await fleet.close()
  }
}

if (row === "send") {
  const fleet = await startFleet({ box: "openssh" })
  try {
    const rate = flag("rate")
    const host = fleet.host("box")
    if (rate !== undefined) host.shape(rate)
    const bytes = 100_000_000
    const [ours, peer]: [number[], number[]] = [[], []]
    for (let round = 0; round < rounds; round++) {
      const path = program(fleet, `program-${round}`, bytes)
      fleet.disconnect()
      peer.push(await seconds(sshArgv(fleet.instance("box"), `cat > ${host.home}/plain`), fleet, path))
      fleet.disconnect()
      ours.push(await seconds([alpha, "fleet", "deploy", `--binary=${path}`], fleet))
      rmSync(path)
    }
    show(`deploy of 100 MB (${rate ?? "no limit"})`, ours, "s")
    show("ssh cat of the same", peer, "s")
    console.log(`share of ssh cat's speed: ${((100 * median(peer)) / median(ours)).toFixed(0)} %`)
  } finally {
    await fleet.close()
  }
}
