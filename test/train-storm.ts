/** A real trainer that ships to a real server while both are killed and the way between them fails; for the tests and the soak. */
import { existsSync, mkdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { sha256 } from "../src/base-file.ts"
import { uniform } from "../src/base-random.ts"
import { JOURNALS, type Journal, RunDatabase, readJournal } from "../src/db.ts"
import { faultProxy } from "./serve-ingest-proxy.ts"
import { PROGRAM, sampleText } from "./support.ts"

export const SECRET = "upload-secret-1"
const NAME = "storm"
/** About what a logged step takes in the journal. */
const ROW_BYTES = 330
/** Small enough for thousands of steps a second, each logged; checkpoints are shipped too. */
export const RUN = [
  ...["--tokenizer=char", "--nLayer=1", "--nHead=1", "--nEmbd=16", "--context=16", "--batch=2", "--device=cpu", "--threads=1", "--json"],
  ...["--logInterval=1", "--evalInterval=500", "--evalSteps=1", "--sampleInterval=300", "--sampleTokens=4", "--keepCheckpoints=2"],
]

export interface Storm {
  /** Holds both sides' runs; empty at first. */
  readonly folder: string
  readonly seed: number
  readonly steps: number
  /** SIGKILLs of the trainer; each goes on from its last checkpoint. */
  readonly kills: number
  readonly checkpointInterval: number
  /** Share of the requests that fail. */
  readonly faults: number
  readonly slowMs: number
  /** Longest life of a server before its SIGKILL. */
  readonly serverMs: number
  readonly onNote?: (note: string) => void
}

export interface StormReport {
  readonly kills: number
  readonly serverKills: number
  /** Rows that a resumed trainer took back and wrote anew. */
  readonly rewound: number
  readonly rows: Readonly<Record<Journal, number>>
  readonly requests: Readonly<Record<string, number>>
}

/** `alpha serve` for the runs in a directory, which anybody may read; it keeps them in the database `runsDir`.db too. */
export async function shippingServer(runsDir: string) {
  const places = [`--runsDir=${runsDir}`, `--database=${runsDir}.db`]
  const child = Bun.spawn([...PROGRAM, "serve", "--runsOnly", "--publicRead", "--json", "--port=0", ...places], {
    env: { ...process.env, UPLOAD_SECRET: SECRET },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  })
  const { value } = await child.stdout.getReader().read()
  const end = async (signal: "SIGKILL" | "SIGTERM") => {
    child.kill(signal)
    await child.exited
  }
  const { url } = JSON.parse(new TextDecoder().decode(value)) as { url: string }
  return { url, pid: child.pid, kill: () => end("SIGKILL"), close: () => end("SIGTERM") }
}

/** `alpha …` in `folder` with a server to ship to. */
export const trainerOf =
  (folder: string, url: string) =>
  (...args: string[]) =>
    Bun.spawn([...PROGRAM, ...args], {
      cwd: folder,
      env: { ...process.env, ALPHA_REMOTE_URL: url, ALPHA_REMOTE_SECRET: SECRET },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    })

/** A server that is killed and started again until `settle`. */
async function fallibleServer(runsDir: string, seed: number, lifeMs: number) {
  let kills = 0
  let settled = false
  let server = await shippingServer(runsDir)
  const killing = (async () => {
    for (; ; kills++) {
      for (const until = performance.now() + lifeMs * uniform(seed, 1, 0, kills); performance.now() < until && !settled; )
        await Bun.sleep(20)
      if (settled) return
      await server.kill()
      await Bun.sleep((lifeMs / 4) * uniform(seed, 2, 0, kills))
      server = await shippingServer(runsDir)
    }
  })()
  return {
    url: () => server.url,
    kills: () => kills,
    async settle() {
      settled = true
      await killing
    },
    close: () => server.close(),
  }
}

/** Throws naming the first difference between what the trainer wrote and what the server has. */
export async function storm({ folder, seed, steps, kills, checkpointInterval, faults, slowMs, serverMs, onNote = () => {} }: Storm) {
  const [own, theirs] = [join(folder, "trainer"), join(folder, "server")]
  const directory = join(own, NAME)
  const metrics = join(directory, "metrics.jsonl")
  mkdirSync(theirs, { recursive: true })
  writeFileSync(join(folder, "text.txt"), sampleText(20_000))
  const server = await fallibleServer(theirs, seed, serverMs)
  const proxy = await faultProxy(server.url, seed, faults, slowMs)
  const alpha = trainerOf(folder, proxy.url)
  const train = () => {
    const place = existsSync(join(directory, "config.json")) ? [`--resume=${directory}`] : [`--run=${NAME}`, "--data=text.txt"]
    return alpha("train", `--runsDir=${own}`, ...place, ...RUN, `--steps=${steps}`, `--checkpointInterval=${checkpointInterval}`)
  }
  const size = () => statSync(metrics, { throwIfNoEntry: false })?.size ?? 0
  const isComplete = () => {
    const last = join(directory, "last")
    return existsSync(last) && readlinkSync(last) === `checkpoints/step-${String(steps).padStart(6, "0")}`
  }

  let [hits, rewound] = [0, 0]
  for (let k = 0; hits < kills && !isComplete(); k++) {
    const child = train()
    const before = size()
    // Most die after some steps, wherever that is; some at a time of their own, as early as while they start.
    const bytes = (2 * steps * ROW_BYTES * uniform(seed, 3, 0, k)) / kills
    const until = performance.now() + (uniform(seed, 4, 0, k) < 0.2 ? 800 * uniform(seed, 5, 0, k) : 60_000)
    let highest = before
    while (performance.now() < until && child.exitCode === null && size() - Math.min(before, size()) < bytes) {
      highest = Math.max(highest, size())
      await Bun.sleep(2)
    }
    child.kill("SIGKILL")
    await child.exited
    if (child.signalCode === "SIGKILL") hits++
    else if (child.exitCode !== 0) throw new Error(`trainer: ${await new Response(child.stderr).text()}`)
    rewound += linesAfterCheckpoint(directory)
    if (hits % 10 === 0)
      onNote(`${hits} kills, step ${lastStep(metrics)}, ${server.kills()} kills of the server, ${JSON.stringify(proxy.counts)}`)
  }
  await server.settle()
  proxy.faults = 0
  if (!isComplete()) {
    const child = train()
    if ((await child.exited) !== 0) throw new Error(`trainer: ${await new Response(child.stderr).text()}`)
  }
  const child = alpha("runs", "ship", directory)
  if ((await child.exited) !== 0) throw new Error(`runs ship: ${await new Response(child.stderr).text()}`)
  const rows = await compare(own, theirs, steps, server.url())
  await proxy.close()
  await server.close() // which brings the last rows into the database
  await compareDatabase(join(own, NAME), `${theirs}.db`)
  const report: StormReport = { kills: hits, serverKills: server.kills(), rewound, rows, requests: proxy.counts }
  return report
}

function lastStep(path: string): number {
  return existsSync(path) ? (readJournal(path).findLast(({ step }) => step !== undefined)?.step ?? 0) : 0
}

/** Rows of steps after the newest checkpoint: the next process writes them again. */
function linesAfterCheckpoint(directory: string): number {
  if (!existsSync(join(directory, "last"))) return 0
  const saved = Number(/(\d+)$/.exec(readlinkSync(join(directory, "last")))![1])
  return readJournal(join(directory, "metrics.jsonl")).filter(({ step }) => (step ?? 0) > saved).length
}

/** Files byte for byte, what the API answers row for row, the last checkpoint by its hash. */
async function compare(own: string, theirs: string, steps: number, url: string): Promise<Record<Journal, number>> {
  const [mine, copy] = [join(own, NAME), join(theirs, NAME)]
  const logged = readJournal(join(mine, "metrics.jsonl")).filter(({ type }) => type === "step")
  logged.forEach(({ step }, i) => {
    if (step !== i + 1) throw new Error(`the trainer's own journal has step ${step} at place ${i + 1}`)
  })
  if (logged.length !== steps) throw new Error(`the trainer's own journal has ${logged.length} of ${steps} steps`)
  const rows = { metrics: 0, events: 0, samples: 0 }
  for (const journal of JOURNALS) {
    const [a, b] = [mine, copy].map((directory) => readFileSync(join(directory, `${journal}.jsonl`), "utf8"))
    if (a !== b) throw new Error(`${journal}: the server's file differs, ${b!.length} characters for ${a!.length}`)
    const answer = await (await fetch(`${url}/api/runs/${NAME}/${journal}?format=jsonl`)).text()
    const told = answer.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line)]))
    rows[journal] = sameRows(`${journal} of the API`, told, readJournal(join(mine, `${journal}.jsonl`)))
  }
  const hash = (directory: string) => sha256(readFileSync(join(directory, "last", "model.safetensors")))
  if (hash(mine) !== hash(copy)) throw new Error("the server's last checkpoint is another")
  return rows
}

async function compareDatabase(directory: string, file: string): Promise<void> {
  const { id } = JSON.parse(readFileSync(join(directory, "config.json"), "utf8")) as { id: string }
  const database = await RunDatabase.open({ url: `file:${file}` })
  for (const journal of JOURNALS)
    sameRows(`${journal} of the database`, await database.rows(id, journal), readJournal(join(directory, `${journal}.jsonl`)))
  database.close()
}

/** Throws naming the first row that is another; returns how many there are. */
function sameRows(what: string, rows: readonly unknown[], wanted: readonly unknown[]): number {
  wanted.forEach((row, i) => {
    if (!Bun.deepEquals(rows[i], row)) throw new Error(`${what}: row ${i}: ${JSON.stringify(rows[i])}, want ${JSON.stringify(row)}`)
  })
  if (rows.length !== wanted.length) throw new Error(`${what}: ${rows.length} rows for ${wanted.length}`)
  return rows.length
}
