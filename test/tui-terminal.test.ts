import { afterAll, expect, test } from "bun:test"
import { spawnSync } from "node:child_process"
import { appendFileSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { testWith } from "./require.ts"
import { until } from "./support.ts"

const missing = spawnSync("tmux", ["-V"]).status === 0 ? undefined : "the program tmux is not installed"
const CLI = join(import.meta.dir, "../src/cli.ts")
const socket = `alpha-test-${process.pid}`

const tmux = (...args: string[]) => spawnSync("tmux", ["-u", "-L", socket, "-f", "/dev/null", ...args], { encoding: "utf8" }).stdout
afterAll(() => void (missing === undefined && tmux("kill-server")))

const row = (step: number, loss: number) =>
  `${JSON.stringify({ type: "step", step, loss, lr: 0.001, gradNorm: 1, tokens: step * 32, tokens_per_s: 1000, ms_per_step: 32, mfu: 0.1, skipped: 0, elapsed_s: step, eta_s: 0 })}\n`

/** A directory with two runs, one of which is finished. */
function makeRuns(): string {
  const dir = mkdtempSync(join(tmpdir(), "tui-"))
  for (const name of ["first", "second"]) {
    mkdirSync(join(dir, name))
    writeFileSync(
      join(dir, name, "config.json"),
      JSON.stringify({ config: { lr: { value: 0.001, origin: { layer: "flag", from: "--lr" } } } }),
    )
    writeFileSync(join(dir, name, "metrics.jsonl"), row(1, 4) + row(2, 3.5) + row(3, 3.25))
    writeFileSync(
      join(dir, name, "samples.jsonl"),
      `${JSON.stringify({ type: "sample", step: 3, prompt: "Once", text: " upon a whale" })}\n`,
    )
  }
  const summary = { type: "summary", run: "second", status: "completed", steps: 3 }
  writeFileSync(join(dir, "second/events.jsonl"), `${JSON.stringify({ time: Date.now(), ...summary })}\n`)
  return dir
}

/** The screen once it holds `wanted`; fails with what it holds instead. */
async function screenWith(wanted: string, pane: string): Promise<string> {
  let text = ""
  const isThere = () => {
    text = tmux("capture-pane", "-p", "-t", pane)
    return text.includes(wanted)
  }
  await until(`"${wanted}" on the screen`, isThere, 100).catch((error: Error) => {
    throw new Error(`${error.message}:\n${text}`)
  })
  return text
}

/** A shell that shows `before`; its line discipline is on record. */
async function openShell(pane: string): Promise<void> {
  tmux(
    "new-session",
    "-d",
    "-s",
    pane,
    "-x",
    "90",
    "-y",
    "24",
    "-c",
    mkdtempSync(join(tmpdir(), "shell-")),
    "env PS1='$ ' bash --norc --noprofile",
  )
  tmux("send-keys", "-t", pane, "stty -g >before.txt; echo be''fore", "Enter")
  await screenWith("before\n", pane)
}

async function start(pane: string, dir: string): Promise<void> {
  await openShell(pane)
  tmux("send-keys", "-t", pane, `${process.execPath} ${CLI} tui ${dir} --refresh=0.1; echo code=$?`, "Enter")
  await screenWith("2 runs", pane)
}

/** After the end: the shell's text is back, and so are cursor, wrapping and the line discipline. */
async function expectRestored(pane: string, code: number): Promise<void> {
  expect(await screenWith(`code=${code}`, pane)).toContain("before")
  expect(tmux("display", "-p", "-t", pane, "#{alternate_on} #{cursor_flag} #{wrap_flag}").trim()).toBe("0 1 1")
  tmux("send-keys", "-t", pane, "stty -g | cmp - before.txt && rm before.txt && echo sa''me", "Enter")
  await screenWith("same\n", pane)
}

testWith("tmux", missing)(
  "a session: list, panels, new rows, another size, Ctrl-C; the terminal is as it was",
  async () => {
    const dir = makeRuns()
    await start("keys", dir)
    tmux("send-keys", "-t", "keys", "Down")
    expect(await screenWith("> first", "keys")).toContain("loss 3.250")
    appendFileSync(join(dir, "first/metrics.jsonl"), row(4, 1.125))
    await screenWith("loss 1.125", "keys")
    tmux("send-keys", "-t", "keys", "Enter", "Tab", "Tab")
    await screenWith(" upon a whale", "keys")
    tmux("resize-window", "-t", "keys", "-x", "40", "-y", "10")
    expect((await screenWith("esc:back", "keys")).split("\n")[9]).toStartWith(" q:quit")
    tmux("resize-window", "-t", "keys", "-x", "90", "-y", "24")
    tmux("send-keys", "-t", "keys", "C-c")
    await expectRestored("keys", 0)
  },
  300_000,
)

for (const [signal, code] of [
  ["TERM", 0],
  ["HUP", 0],
] as const)
  testWith("tmux", missing)(
    `SIG${signal} leaves the terminal as it was`,
    async () => {
      const pane = `signal-${signal}`
      await start(pane, makeRuns())
      const shell = tmux("display", "-p", "-t", pane, "#{pane_pid}").trim()
      process.kill(Number(spawnSync("pgrep", ["-P", shell], { encoding: "utf8" }).stdout), `SIG${signal}`)
      await expectRestored(pane, code)
    },
    300_000,
  )

testWith("tmux", missing)(
  "the view of machines: what answers and what does not, q",
  async () => {
    const file = join(mkdtempSync(join(tmpdir(), "fleet-view-")), "fleet.json")
    writeFileSync(file, JSON.stringify({ instances: { box: { host: "127.0.0.1", port: 1 } } }))
    await openShell("fleet")
    tmux("send-keys", "-t", "fleet", `${process.execPath} ${CLI} fleet --fleet=${file}; echo code=$?`, "Enter")
    const text = await screenWith("not reached", "fleet")
    expect(text).toStartWith(" alpha fleet · 1 machine · 1 not reached")
    expect(text).toContain("● box  unreachable: ")
    tmux("send-keys", "-t", "fleet", "q")
    await expectRestored("fleet", 0)
  },
  300_000,
)

testWith("tmux", missing)(
  "an error that nobody caught leaves the terminal as it was",
  async () => {
    await openShell("crash")
    const file = join(mkdtempSync(join(tmpdir(), "crash-")), "crash.ts")
    const screen = JSON.stringify(join(import.meta.dir, "../src/tui-screen.ts"))
    writeFileSync(
      file,
      `import { FullScreen } from ${screen}
const screen = new FullScreen({ onKey: () => { throw new Error("fault") }, onResize: () => {} })
screen.open()
screen.draw(["opened"])`,
    )
    tmux("send-keys", "-t", "crash", `${process.execPath} ${file}; echo code=$?`, "Enter")
    expect(await screenWith("opened", "crash")).not.toContain("before")
    tmux("send-keys", "-t", "crash", "j")
    await expectRestored("crash", 1)
  },
  300_000,
)

testWith("tmux", missing)(
  "Ctrl-Z gives the terminal back, and fg takes it again",
  async () => {
    await start("stop", makeRuns())
    tmux("send-keys", "-t", "stop", "C-z")
    expect(await screenWith("Stopped", "stop")).toContain("before")
    tmux("send-keys", "-t", "stop", "fg", "Enter")
    await screenWith("2 runs", "stop")
    tmux("send-keys", "-t", "stop", "q")
    await screenWith("Stopped", "stop")
    await expectRestored("stop", 147) // 128 + SIGSTOP, from when it stopped
  },
  300_000,
)

const alpha = (...args: string[]) =>
  spawnSync(process.execPath, [CLI, "tui", ...args], { encoding: "utf8", env: { ...process.env, LANG: "C.UTF-8" } })

test("without a terminal it says so; --once prints one frame all the same", () => {
  const dir = makeRuns()
  const refused = alpha(dir)
  expect([refused.status, refused.stdout]).toEqual([2, ""])
  expect(refused.stderr).toContain("tui needs a terminal")
  expect(refused.stderr).toContain("--once")
  const { status, stdout } = alpha(dir, "--once", "--width=70", "--height=18")
  const lines = stdout.trimEnd().split("\n")
  expect([status, lines.length]).toEqual([0, 18])
  expect(stdout).toContain("second")
  expect(stdout).toContain("finished")
  expect(JSON.parse(alpha(dir, "--json").stdout).lines.length).toBe(24)
})

test("a server's runs over HTTP, and a server that refuses", async () => {
  const asked: string[] = []
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch(request) {
      const { pathname, searchParams } = new URL(request.url)
      asked.push(`${pathname} ${searchParams.get("columns") ?? ""}`.trim())
      if (request.headers.get("authorization") !== "Bearer k") return new Response("", { status: 401 })
      if (pathname === "/api/runs") return Response.json({ runs: [{ ...SUMMARY, id: "i d" }] })
      return Response.json({ rows: 1, x: [1], columns: { loss: { min: [3], max: [3], last: [3] } } })
    },
  })
  try {
    const run = async (env: Record<string, string>) => {
      const child = Bun.spawn([process.execPath, CLI, "tui", `--server=http://127.0.0.1:${server.port}`, "--once"], {
        env: { ...process.env, ...env },
        stdout: "pipe",
        stderr: "pipe",
      })
      return [await new Response(child.stdout).text(), await new Response(child.stderr).text(), await child.exited] as const
    }
    const [out] = await run({ ALPHA_READ_KEYS: "k" })
    expect(out).toContain("> far")
    expect(asked).toContain("/api/runs/i%20d/metrics loss,valLoss,tokensPerS,lr,gradNorm,mfu")
    const [, error, code] = await run({})
    expect([code, error.includes("401"), error.includes("ALPHA_READ_KEYS")]).toEqual([1, true, true])
  } finally {
    await server.stop(true)
  }
})

const SUMMARY = {
  name: "far",
  state: "running",
  step: 1,
  steps: 2,
  loss: 3,
  valLoss: null,
  bestValLoss: null,
  tokensPerS: null,
  tokens: 0,
  msPerStep: null,
  device: null,
  precision: null,
  parameters: null,
  preset: null,
  domain: null,
  startedAt: 0,
  updatedAt: 0,
  host: null,
  notes: "",
  tags: [],
}
