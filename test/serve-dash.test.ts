/** The dashboard in headless Chromium: live curves, spikes, axes, zoom, compare, samples, notes; the address, keys, narrow screens, a dead server. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync, mkdirSync } from "node:fs"
import { join } from "node:path"
import { type Browser, chromium, type Page } from "playwright-core"
import { DirectoryStore } from "../src/db.ts"
import { bundleDash } from "../src/serve-dash.ts"
import { testWith } from "./require.ts"
import { addRow, writeRun } from "./serve-dash-runs.ts"
import { startTest, type TestServer, workFolder, writeModel } from "./serve-fake.ts"

/** The page's own document, in functions that run there. */
declare const document: {
  querySelector(selector: string): { readonly textContent: string; readonly hidden: boolean } | null
  readonly documentElement: { readonly scrollWidth: number }
  readonly activeElement: { readonly id: string; readonly textContent: string } | null
}

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path))
const browserTest = testWith("browser", executable === undefined ? "apt-get install chromium" : undefined)
const KEY = "a-key-of-these-tests"
const work = workFolder()
afterAll(() => work.remove())
const pictures = join(import.meta.dir, "../.bun-out")

test("the script is one module that names no other place", async () => {
  const text = await bundleDash()
  expect(text.length).toBeLessThan(150_000)
  expect(text.match(/https?:\/\/[^"'`\s)]+/g) ?? []).toEqual([])
  expect(text).not.toMatch(/\bimport\b\s*["'{*]|\beval\(|new Function\(/)
})

describe("the dashboard", () => {
  let browser: Browser
  let server: TestServer
  let live: { directory: string; rows: number }
  let page: Page
  const faults: string[] = []
  const foreign: string[] = []
  /** The x axes that the page asked for. */
  const axes: string[] = []

  beforeAll(async () => {
    if (executable === undefined) return
    mkdirSync(pictures, { recursive: true })
    const runs = join(work.path, "runs")
    live = writeRun(runs, "live-run", { id: "id-live", steps: 2000, wants: 10_000, seed: 2, state: "running", tags: ["now"] })
    writeRun(runs, "baseline", { id: "id-base", steps: 2000, notes: "the first" })
    writeRun(runs, "high-rate", { id: "id-high", steps: 2000, seed: 4, lr: 1e-3, state: "crashed" })
    writeRun(runs, "long", { id: "id-long", steps: 100_000, seed: 3, cpu: true })
    server = await startTest([writeModel(join(work.path, "tiny"))], {
      store: new DirectoryStore(runs),
      environment: { ALPHA_ADMIN_KEY: KEY, ALPHA_READ_KEYS: KEY, ALPHA_API_KEYS: KEY },
    })
    browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox", "--disable-dev-shm-usage"] })
    page = await browser.newPage({ viewport: { width: 1280, height: 900 } })
    page.on("pageerror", (error) => faults.push(error.message))
    page.on("console", (message) => {
      if (message.text().includes("Content Security Policy")) faults.push(message.text())
    })
    page.on("request", (request) => {
      if (request.url().includes("/metrics?")) axes.push(new URL(request.url()).searchParams.get("x") ?? "")
      if (!request.url().startsWith(server.url) && !request.url().startsWith("data:")) foreign.push(request.url())
    })
    await page.goto(`${server.url}/login`)
    await page.fill("input[name=key]", KEY)
    await page.press("input[name=key]", "Enter")
    await page.waitForURL(`${server.url}/`)
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  const open = async (path: string, selector: string) => {
    await page.goto(server.url + path)
    await page.waitForSelector(selector)
  }
  const drawn = () => page.waitForFunction(() => document.querySelector(".charts:not([aria-busy]) canvas") !== null)
  const legend = (chart = 0) => page.locator(".chart .legend").nth(chart).textContent()
  const picture = (name: string) => page.screenshot({ path: join(pictures, `dash-${name}.png`), fullPage: true })

  browserTest("draws a run, and its live rows as they come", async () => {
    await open("/runs/id-live", ".u-over")
    await drawn()
    expect(await page.textContent("h1")).toContain("live-run running")
    await page.waitForFunction(() => document.querySelector("#state")?.textContent === "live")
    addRow(live.directory, live.rows, { step: 2001, loss: 1.234, tokens_per_s: 70_123, tokens: 2001 * 16_384, lr: 1e-4 })
    await page.fill("input[type=range]", "0")
    await page.waitForFunction(() => document.querySelector(".chart .legend")?.textContent.includes("1.234") === true)
    expect(await page.textContent("#state")).toBe("live")
    await picture("run")
  })

  browserTest("a spike stays visible among a million points, and zoom shows its value", async () => {
    await open("/runs/id-long?smooth=0.9", ".u-over")
    await drawn()
    // Pixels of the band high above the curve, where only the spike reaches.
    const lit = await page.evaluate(`(() => {
      const canvas = document.querySelector(".chart canvas")
      const { width, height } = canvas
      const { data } = canvas.getContext("2d").getImageData(width * 0.3, height * 0.2, width * 0.25, height * 0.25)
      let count = 0
      for (let i = 0; i < data.length; i += 4) if (data[i + 2] > 150 && data[i + 2] > data[i] + 40) count++
      return count
    })()`)
    expect(lit as number).toBeGreaterThan(10)
    await picture("million")
    const box = (await page.locator(".u-over").first().boundingBox())!
    await page.mouse.move(box.x + box.width * 0.38, box.y + 60)
    await page.mouse.down()
    await page.mouse.move(box.x + box.width * 0.42, box.y + 70, { steps: 4 })
    await page.mouse.up()
    await page.waitForURL(/from=\d+.*to=\d+/)
    await drawn()
    await page.reload()
    await drawn()
    expect(page.url()).toMatch(/smooth=0\.9.*from=3\d+/)
    await page.keyboard.press("r")
    await page.waitForURL((url) => !url.search.includes("from"))
  })

  browserTest("the address holds axes and smoothing; keys change them; the crosshair is shared", async () => {
    await open("/runs/id-base?x=tokens&logx=1&logy=1&smooth=0.5", ".u-over")
    await drawn()
    expect([await page.isChecked("text=log x"), await page.isChecked("text=log y")]).toEqual([true, true])
    expect(axes.at(-1)).toBe("tokens")
    await picture("log")
    const box = (await page.locator(".u-over").first().boundingBox())!
    await page.mouse.move(box.x + box.width / 2, box.y + 50)
    await page.waitForFunction(() => document.querySelector(".chart:nth-child(2) .where")?.textContent.startsWith("tokens") === true)
    expect(await page.locator(".chart .where").first().textContent()).toBe((await page.locator(".chart .where").nth(1).textContent())!)
    for (const axis of ["time", "flops", "step"]) {
      await page.keyboard.press("x")
      for (let i = 0; axes.at(-1) !== axis && i < 1000; i++) await Bun.sleep(10)
      expect(axes.at(-1)).toBe(axis)
      await drawn()
    }
    await page.keyboard.press("l")
    await page.keyboard.press("k")
    expect(page.url()).toBe(`${server.url}/runs/id-base?smooth=0.5`)
    await page.keyboard.press("?")
    expect(await page.isVisible("dialog kbd")).toBe(true)
    await page.keyboard.press("Escape")
  })

  browserTest("samples of one prompt, checkpoints, events, settings, notes", async () => {
    await open("/runs/id-base?tab=samples", ".sample")
    expect(await page.locator(".sample h3").allTextContents()).toEqual(["Step 2000", "Step 1500", "Step 1000", "Step 500"])
    await page.selectOption("select[aria-label=Prompt]", "1")
    await page.waitForFunction(() => document.querySelector(".sample .prompt")?.textContent === "Once upon")
    expect(page.url()).toContain("prompt=1")
    await picture("samples")
    await page.keyboard.press("Escape")
    await page.locator("[role=tab]", { hasText: "Checkpoints" }).click()
    await page.waitForSelector("table[aria-label=Checkpoints]")
    expect(await page.textContent("tbody tr")).toContain("2000 best")
    expect(await page.textContent("tbody tr code")).toBe("444444444444")
    await picture("checkpoints")
    await page.keyboard.press("4")
    await page.waitForSelector("table[aria-label=Events]")
    await page.keyboard.press("5")
    await page.waitForSelector("table[aria-label=Settings]")
    await page.fill("textarea[aria-label=Notes]", "better")
    await page.press("textarea[aria-label=Notes]", "Tab")
    await page.waitForFunction(
      () => document.querySelector(".notes .meta")?.textContent !== "" && document.querySelector(".notes .meta")?.textContent !== "saving",
    )
  })

  browserTest("lists runs: searched, sorted, ticked, compared with what differs", async () => {
    await open("/runs", "tbody tr")
    expect(await page.locator("tbody tr").count()).toBe(4)
    await picture("runs")
    await page.keyboard.press("/")
    await page.waitForFunction(() => document.activeElement?.id === "find")
    await page.keyboard.type("better")
    await page.waitForFunction(() => document.querySelector("tbody tr:nth-child(2)") === null)
    expect(await page.textContent("tbody a")).toBe("baseline")
    await page.fill("#find", "nothing of the kind")
    expect(await page.textContent(".empty h2")).toBe("No run matches")
    await page.fill("#find", "")
    await page.check("[aria-label='Compare baseline']")
    await page.check("[aria-label='Compare high-rate']")
    await page.keyboard.press("c")
    await page.waitForURL(/compare\?runs=id-base,id-high/)
    await page.waitForSelector("table[aria-label=Settings]")
    expect(await page.locator("tbody th").allTextContents()).toEqual(["lr", "seed"])
    await drawn()
    expect(await legend()).toContain("high-rate")
    await picture("compare")
  })

  browserTest("shows what trains, models, checkpoints, domains", async () => {
    await open("/training", ".card")
    await drawn()
    expect(await page.locator(".card").count()).toBe(1)
    await picture("training")
    for (const name of ["models", "checkpoints", "domains"]) {
      await open(`/${name}`, name === "domains" ? ".empty" : "tbody tr")
      await picture(`list-${name}`)
    }
  })

  browserTest("fits narrow screens, and says what is missing", async () => {
    await page.setViewportSize({ width: 360, height: 700 })
    for (const path of ["/runs", "/runs/id-base", "/compare?runs=id-base,id-high", "/training"]) {
      await open(path, path === "/runs" ? "tbody tr" : ".u-over")
      expect([path, await page.evaluate(() => document.documentElement.scrollWidth)]).toEqual([path, 360])
    }
    await picture("narrow")
    await page.setViewportSize({ width: 1280, height: 900 })
    await open("/compare", ".empty")
    await page.goto(`${server.url}/runs/none-such`)
    await page.waitForSelector("#alert:not([hidden])")
    expect(await page.textContent("#alert")).toBe("none-such: no such run")
    expect([foreign, faults]).toEqual([[], []])
  })

  browserTest("says so when the server is gone", async () => {
    await open("/runs/id-live", ".u-over")
    await drawn()
    await server.close()
    await page.waitForSelector("#alert:not([hidden])")
    expect(await page.textContent("#alert")).toContain("the server cannot be reached")
    expect(await page.isVisible(".dot.failed")).toBe(true)
    expect(await page.isVisible("canvas")).toBe(true)
  })
})
