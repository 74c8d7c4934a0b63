/** The playground in headless Chromium: type, stream, stop, regenerate, compare, probabilities; the server's death; keyboard, narrow screens. */
import { afterAll, beforeAll, describe, expect } from "bun:test"
import { existsSync, mkdirSync } from "node:fs"
import { join } from "node:path"
import { type Browser, chromium, type Page } from "playwright-core"
import { testWith } from "./require.ts"
import { fakeEngine, startTest, type TestServer, workFolder, writeModel } from "./serve-fake.ts"
import { PATIENCE_MS, until } from "./support.ts"

/** The page's own document, in functions that run there. */
declare const document: {
  querySelector(selector: string): { readonly textContent: string; readonly disabled: boolean } | null
  readonly documentElement: { readonly scrollWidth: number }
  readonly activeElement: { readonly id: string } | null
}

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path))
const browserTest = testWith("browser", executable === undefined ? "apt-get install chromium" : undefined)
const work = workFolder()
afterAll(() => work.remove())

describe("the playground", () => {
  let browser: Browser
  let server: TestServer
  let page: Page
  const faults: string[] = []
  const foreign: string[] = []

  beforeAll(async () => {
    if (executable === undefined) return
    server = await startTest([writeModel(join(work.path, "first")), writeModel(join(work.path, "second"))])
    browser = await chromium.launch({
      executablePath: executable,
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
      timeout: PATIENCE_MS,
    })
    page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
    page.setDefaultTimeout(PATIENCE_MS)
    page.on("pageerror", (error) => faults.push(error.message))
    page.on("console", (message) => {
      if (message.text().includes("Content Security Policy")) faults.push(message.text())
    })
    page.on("request", (request) => {
      if (!request.url().startsWith(server.url) && !request.url().startsWith("data:")) foreign.push(request.url())
    })
    await page.goto(`${server.url}/`)
    await page.waitForSelector(".dot.ready")
  }, 300_000)
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  const idle = () => page.waitForFunction(() => document.querySelector("#stop")?.disabled === true)
  const said = (pane = 0) => page.locator(".pane").nth(pane).locator(".turn.assistant .said").last().textContent()

  browserTest("streams an answer to a message, stops it, and writes another", async () => {
    server.engine.holdAfter = 2
    await page.fill("#prompt", "Hello")
    await page.press("#prompt", "Enter")
    await page.waitForFunction(() => document.querySelector(".turn.assistant .said")?.textContent.startsWith("the") === true)
    expect(await page.isEnabled("#stop")).toBe(true)
    await page.keyboard.press("Escape")
    await idle()
    const partial = (await said())!
    expect("the sea and the whale".startsWith(partial) && partial !== "the sea and the whale").toBe(true)
    expect(await page.textContent(".turn.assistant .meta")).toContain("stopped")
    await until("the end of the request", () => server.engine.open.size === 0)
    server.engine.holdAfter = Number.POSITIVE_INFINITY
    const before = server.engine.requests.at(-1)!.sampling.seed
    await page.click("#again")
    await idle()
    expect(await said()).toBe("the sea and the whale")
    expect(server.engine.requests.at(-1)!.sampling.seed).not.toBe(before)
    expect(await page.locator(".turn").count()).toBe(2)
    expect(await page.textContent(".turn.assistant .meta")).toContain("stop · 7 tokens")
  })

  browserTest("sends what the sampler panel says", async () => {
    await page.uncheck("#vary")
    for (const [id, value] of Object.entries({
      temperature: "0.3",
      top_p: "0.9",
      top_k: "7",
      seed: "42",
      max_tokens: "5",
      system: "Be brief.",
    }))
      await page.fill(`#${id}`, value)
    await page.fill("#prompt", "Again")
    await page.press("#prompt", "Enter")
    await idle()
    const { sampling, maxTokens } = server.engine.requests.at(-1)!
    expect([sampling.temperature, sampling.topP, sampling.topK, sampling.seed, maxTokens]).toEqual([0.3, 0.9, 7, 42, 5])
    expect(await page.locator(".turn.assistant .meta").last().textContent()).toContain("length")
    await page.fill("#max_tokens", "50")
  })

  browserTest("compares two models on one prompt, and shows what else was likely", async () => {
    await page.click("#completion")
    await page.check("#compare")
    await page.check("#probabilities")
    expect(await page.locator(".pane").nth(1).locator("select").inputValue()).toBe("second")
    await page.fill("#prompt", "the ship")
    await page.press("#prompt", "Control+Enter")
    await idle()
    expect(
      server.engine.requests
        .slice(-2)
        .map(({ model }) => model)
        .sort(),
    ).toEqual(["first", "second"])
    for (const pane of [0, 1]) expect(await page.locator(".pane").nth(pane).locator(".tok").count()).toBe(7)
    await page.locator(".turn.assistant .said").first().focus()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    expect(await page.textContent(".alternatives h3")).toBe("Token 2 of 7")
    expect(await page.textContent(".alternatives .picked .name")).toBe(" sea")
    expect(await page.locator(".alternatives > div").count()).toBe(6)
    mkdirSync(join(import.meta.dir, "../.bun-out"), { recursive: true })
    await page.screenshot({ path: join(import.meta.dir, "../.bun-out/playground.png") })
  })

  browserTest("can be used with the keyboard alone and on a narrow screen", async () => {
    await page.setViewportSize({ width: 360, height: 700 })
    await page.reload()
    await page.waitForSelector(".dot.ready")
    expect(await page.evaluate(() => document.documentElement.scrollWidth <= 360)).toBe(true)
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("prompt")
    await page.keyboard.type("Hello")
    await page.keyboard.press("Enter")
    await idle()
    expect(await said()).toBe("the sea and the whale")
    await page.keyboard.press("Tab")
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("send")
    await page.setViewportSize({ width: 1280, height: 800 })
  })

  browserTest("loads nothing from elsewhere, and the documentation is a page", async () => {
    await page.goto(`${server.url}/docs`)
    expect(await page.locator("tr.honoured").count()).toBeGreaterThan(80)
    expect(foreign).toEqual([])
    expect(faults).toEqual([])
  })

  browserTest("says so when the server refuses, and when it dies in an answer", async () => {
    await page.goto(`${server.url}/`)
    await page.waitForSelector(".dot.ready")
    server.engine.script = () => ({ code: "queue_full", message: "the queue is full", retryAfterMs: 10 })
    await page.fill("#prompt", "Hello")
    await page.press("#prompt", "Enter")
    await idle()
    expect(await page.textContent(".error[role=alert]")).toBe("the queue is full")
    server.engine.script = fakeEngine().script
    server.engine.holdAfter = 2
    await page.click("#again")
    await page.waitForFunction(() => (document.querySelector(".turn.assistant .said")?.textContent ?? "") !== "")
    await server.close()
    await idle()
    expect(await page.textContent(".error[role=alert]")).toMatch(/the server cannot be reached|the connection broke/)
    await page.waitForSelector(".dot.failed")
    expect(await page.textContent("#state")).toBe("unreachable")
  })
})
