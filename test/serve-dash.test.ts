/** The dashboard in headless Chromium: live curves, spikes, axes, zoom, compare, samples, notes; the address, keys, narrow screens, a dead server. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { existsSync } from "node:fs"
import { join } from "node:path"
import { type Browser, chromium, type Page } from "playwright-core"
import { DirectoryStore } from "../src/db.ts"
import { setLink } from "../src/gpt.ts"
import { bundleDash } from "../src/serve-dash.ts"
import { grow, nearest, smoothed } from "../src/serve-dash-client-curve.ts"
import { logTicks } from "../src/serve-dash-client-ticks.ts"
import { changes } from "../src/serve-dash-client-words.ts"
import { testWith } from "./require.ts"
import { addRow, writeRun } from "./serve-dash-runs.ts"
import { startTest, type TestServer, workFolder, writeModel } from "./serve-fake.ts"
import { PATIENCE_MS, until } from "./support.ts"

/** The page's own document, in functions that run there. */
declare const document: {
  querySelector(selector: string): { readonly textContent: string; readonly hidden: boolean } | null
  querySelectorAll(selector: string): { readonly length: number }
  readonly documentElement: { readonly scrollWidth: number }
  readonly activeElement: { readonly id: string; readonly textContent: string } | null
}

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path))
const browserTest = testWith("browser", executable === undefined ? "apt-get install chromium" : undefined)
const KEY = "a-key-of-these-tests"
const work = workFolder()
afterAll(() => work.remove())

test("the script is one module that names no other place", async () => {
  const text = await bundleDash()
  expect(text.length).toBeLessThan(150_000)
  expect(text.match(/https?:\/\/[^"'`\s)]+/g) ?? []).toEqual([])
  expect(text).not.toMatch(/\bimport\b\s*["'{*]|\beval\(|new Function\(/)
})

test("ticks of a logarithmic axis: 1, 2, 5; decades where there are many; even ones where there is little of one", () => {
  expect(logTicks(0.9, 60)).toEqual([1, 2, 5, 10, 20, 50])
  expect(logTicks(1e5, 1e12)).toEqual([1e6, 1e8, 1e10, 1e12])
  expect(logTicks(63_400, 66_100)).toEqual([64_000, 65_000, 66_000])
  expect(logTicks(2.61, 2.74)).toEqual([2.65, 2.7])
})

test("a smoothed line looks alike with few and with many points, begins where the values begin, and keeps gaps", () => {
  const line = (points: number) => {
    const at = Array.from({ length: points + 1 }, (_, i) => (1000 * i) / points)
    return smoothed(
      at,
      at.map((x) => (x < 500 ? 4 : 2)),
      0.9,
    )
  }
  const [few, many] = [line(100), line(10_000)] as [number[], number[]]
  expect([few[0], many[0]]).toEqual([4, 4])
  for (const part of [0.4, 0.52, 0.55, 0.6, 1])
    expect(Math.abs(few[Math.round(100 * part)]! - many[Math.round(10_000 * part)]!)).toBeLessThan(0.4)
  expect(many.at(-1)).toBeCloseTo(2, 3)
  expect(smoothed([0, 1, 2], [1, null, 1], 0.9)).toEqual([1, null, 1])
  expect(smoothed([0, 1], [1, 2], 0)).toEqual([1, 2])
})

test("a live row goes to the end of a series; a row from before does nothing, one without a place asks for a new fetch", () => {
  const series = { run: "a", x: [1, 2], columns: new Map([["tokensPerS", { min: [5, 6], max: [7, 8], last: [6, 7] }]]), origin: 0, unit: 1 }
  expect(grow(series, "step", { step: 4, tokens_per_s: 9 })).toBe(true)
  expect(grow(series, "step", { step: 3, tokens_per_s: 1 })).toBe(true)
  expect(grow(series, "step", { step: 4, tokens_per_s: 3 })).toBe(true)
  expect(grow(series, "step", { step: 4, val_loss: 3 })).toBe(true)
  expect([series.x, series.columns.get("tokensPerS")]).toEqual([[1, 2, 4], { min: [5, 6, 3], max: [7, 8, 9], last: [6, 7, 3] }])
  expect(grow(series, "flops", { step: 5, tokens_per_s: 9 })).toBe(false)
  expect([nearest(series.x, 2.9), nearest(series.x, 3.1), nearest([], 1)]).toEqual([1, 2, -1])
})

test("what changed between two samples, word by word", () => {
  const marked = (before: string, text: string) =>
    changes(before, text)
      .map(({ word, isNew }) => (isNew ? `[${word.trim()}]` : word.trim()))
      .join(" ")
  expect(marked("the ship of the sea", "the old ship on the sea")).toBe("the [old] ship [on] the sea")
  expect(marked("", "all new")).toBe("[all] [new]")
  expect(marked("a b c", "a b c")).toBe("a b c")
})

describe("the dashboard", () => {
  let browser: Browser
  let server: TestServer
  let page: Page
  let live: { directory: string; rows: number }
  const runs = join(work.path, "runs")
  const faults: string[] = []
  const foreign: string[] = []
  /** The x axes that the page asked for. */
  const axes: string[] = []

  beforeAll(async () => {
    if (executable === undefined) return
    live = writeRun(runs, "live-run", { id: "id-live", steps: 1000, wants: 10_000, seed: 2, state: "running", tags: ["now"] })
    const base = writeRun(runs, "baseline", { id: "id-base", steps: 2000, notes: "the first" })
    writeRun(runs, "high-rate", { id: "id-high", steps: 1000, seed: 4, lr: 1e-3, state: "crashed" })
    writeRun(runs, "long", { id: "id-long", steps: 20_000, seed: 3, cpu: true })
    const checkpoint = writeModel(join(base.directory, "checkpoints/step-002000"))
    setLink(base.directory, "best", checkpoint)
    server = await startTest([writeModel(join(work.path, "tiny"))], {
      store: new DirectoryStore(runs),
      runsDir: runs,
      environment: { ALPHA_ADMIN_KEY: KEY, ALPHA_READ_KEYS: KEY, ALPHA_API_KEYS: KEY },
    })
    browser = await chromium.launch({
      executablePath: executable,
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
      timeout: PATIENCE_MS,
    })
    page = await browser.newPage({ viewport: { width: 1280, height: 900 } })
    page.setDefaultTimeout(PATIENCE_MS)
    page.on("pageerror", (error) => faults.push(error.message))
    page.on("console", (message) => {
      if (message.text().includes("Content Security Policy")) faults.push(message.text())
    })
    page.on("request", (request) => {
      if (request.url().includes("/metrics?")) axes.push(new URL(request.url()).searchParams.get("x") ?? "")
      if (!request.url().startsWith(server.url) && !request.url().startsWith("data:")) foreign.push(request.url())
    })
    await page.goto(`${server.url}/runs`)
    await page.click("#alert a")
    await page.fill("input[name=key]", KEY)
    await page.press("input[name=key]", "Enter")
    await page.waitForURL(`${server.url}/runs`)
  }, 300_000)
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  const open = async (path: string, selector: string) => {
    await page.goto(server.url + path)
    await page.waitForSelector(selector)
  }
  const drawn = () => page.waitForFunction(() => document.querySelector(".charts:not([aria-busy]) canvas") !== null)
  const pressed = (name: string) => page.locator(".charts .axes button", { hasText: name }).getAttribute("aria-pressed")
  /** Lit pixels of the first chart in a part of its width and height where only the spike reaches. */
  const spikePixels = () =>
    page.evaluate(`(() => {
      const canvas = document.querySelector(".chart canvas")
      const { width, height } = canvas
      const { data } = canvas.getContext("2d").getImageData(width * 0.35, 0, width * 0.15, height * 0.4)
      let count = 0
      for (let i = 0; i < data.length; i += 4) if (data[i + 2] > data[i] + 40 && data[i + 3] > 60) count++
      return count
    })()`)

  browserTest("draws a run, and its live rows as they come", async () => {
    await open("/runs/id-live", ".u-over")
    await drawn()
    expect(await page.textContent("h1")).toContain("live-run running")
    await page.waitForFunction(() => document.querySelector("#state")?.textContent === "live")
    addRow(live.directory, live.rows, { step: 1001, loss: 1.234, tokens_per_s: 70_123, tokens: 1001 * 16_384, lr: 1e-4 })
    await page.waitForFunction(() => document.querySelector(".chart:nth-child(2) .legend")?.textContent.includes("70.1k") === true)
    expect(await page.textContent(".chart .legend")).toMatch(/1\.234.*validation/)
    expect(await page.textContent(".incident")).toContain("4.1 times its average")
    await page.locator(".chart[aria-label=Power]").scrollIntoViewIfNeeded()
    await page.waitForSelector(".chart[aria-label=Power] .u-over")
    expect(await page.textContent(".chart[aria-label=Power] .legend")).toMatch(/\d{3}\.?\d* W/)
  })

  browserTest("a spike stays visible among many points, in sight or marked at the edge; zoom stays in the address", async () => {
    await open("/runs/id-long?smooth=0.99", ".u-over")
    await drawn()
    expect((await spikePixels()) as number).toBeGreaterThan(10)
    await page.keyboard.press("f")
    await page.waitForURL(/fit=1/)
    expect((await spikePixels()) as number).toBeGreaterThan(10)
    const box = (await page.locator(".u-over").first().boundingBox())!
    await page.mouse.move(box.x + box.width * 0.38, box.y + 60)
    await page.mouse.down()
    await page.mouse.move(box.x + box.width * 0.42, box.y + 70, { steps: 4 })
    await page.mouse.up()
    await page.waitForURL(/from=\d+.*to=\d+/)
    await page.reload()
    await drawn()
    await page.waitForURL(/smooth=0\.99.*from=\d+.*fit=1/)
    await page.keyboard.press("r")
    await page.waitForURL((url) => !url.search.includes("from"))
    // A chart that takes the whole width gives it back by the browser's own button.
    await page.locator(".expand").first().click()
    await page.waitForSelector(".wide-chart")
    await page.goBack()
    await page.waitForFunction(() => document.querySelectorAll(".wide-chart").length === 0)
  })

  browserTest("the address holds axes and smoothing; keys change them; the crosshair is shared", async () => {
    await open("/runs/id-base?x=tokens&logx=1&logy=1&smooth=0.5", ".u-over")
    await drawn()
    for (const name of ["Tokens", "log x", "log y"]) expect([name, await pressed(name)]).toEqual([name, "true"])
    expect(axes.at(-1)).toBe("tokens")
    const box = (await page.locator(".u-over").first().boundingBox())!
    await page.mouse.move(box.x + box.width / 2, box.y + 50)
    await page.waitForFunction(() => document.querySelector(".chart:nth-child(2) .where")?.textContent.startsWith("tokens") === true)
    expect(await page.locator(".chart .where").first().textContent()).toBe((await page.locator(".chart .where").nth(1).textContent())!)
    await page.mouse.move(5, 5)
    await page.locator(".u-over").first().focus()
    await page.keyboard.press("ArrowRight")
    await page.waitForFunction(() => document.querySelector(".chart:nth-child(2) .where")?.textContent.startsWith("tokens") === true)
    for (const axis of ["time", "flops", "step"]) {
      await page.keyboard.press("x")
      await until(`the axis ${axis}`, () => axes.at(-1) === axis)
      await drawn()
    }
    await page.keyboard.press("l")
    await page.keyboard.press("k")
    await page.waitForURL(`${server.url}/runs/id-base?smooth=0.5`)
    await page.keyboard.press("?")
    await page.waitForSelector("dialog kbd")
    await page.keyboard.press("Escape")
  })

  browserTest("samples of one prompt, checkpoints with the one that is served, times, events, settings", async () => {
    await open("/runs/id-base?tab=samples", ".sample")
    expect(await page.locator(".sample h3").allTextContents()).toEqual(["Step 2000", "Step 1500", "Step 1000", "Step 500"])
    await page.locator("[aria-label=Prompt] button").nth(1).click()
    await page.waitForFunction(() => document.querySelector(".sample .prompt")?.textContent === "Once upon")
    await page.waitForURL(/prompt=1/)
    await page.check("text=mark what changed")
    await page.waitForFunction(() => document.querySelector("mark")?.textContent === "4")
    await page.keyboard.press("3")
    await page.waitForSelector("table[aria-label=Checkpoints]")
    expect(await page.textContent("tbody tr")).toMatch(/2000best473 MiB2\.\d{3}2\.\d{3}4{12}/)
    await page.click("[aria-label='Serve baseline@2000']")
    expect(await page.locator("tbody a", { hasText: "served" }).getAttribute("href")).toBe("/?model=baseline%402000")
    expect(server.context.models.entries().find(({ id }) => id === "baseline@2000")?.loaded?.key).toBe("baseline@2000")
    await page.keyboard.press("4")
    await page.waitForSelector("table[aria-label=Kernels]")
    expect(await page.locator(".panel-card h3").allTextContents()).toEqual(["The run", "A step", "Kernels"])
    await page.keyboard.press("5")
    await page.waitForSelector("table[aria-label=Events]")
    expect(await page.textContent("table[aria-label=Events]")).toContain("4.1 times its average")
    await page.keyboard.press("6")
    await page.waitForSelector("table[aria-label=Settings]")
    expect((await page.locator("tbody tr").allTextContents()).slice(0, 3)).toEqual([
      "datamoby-dick.txt--data",
      "lr0.0003--lr",
      "steps2000--steps",
    ])
  })

  browserTest("notes and tags are changed in place", async () => {
    await open("/runs/id-base", ".notes button")
    await page.click(".notes button")
    await page.fill("textarea[aria-label=Notes]", "dropped")
    await page.keyboard.press("Escape")
    expect(await page.textContent(".notes button")).toBe("the first")
    await page.click(".notes button")
    await page.fill("textarea[aria-label=Notes]", "better <img src=x onerror=alert(1)>")
    await page.keyboard.press("Tab")
    await page.waitForFunction(() => document.querySelector(".notes button")?.textContent === "better <img src=x onerror=alert(1)>")
    await page.fill("[aria-label='Add a tag']", "my tag")
    await page.keyboard.press("Enter")
    await page.waitForSelector("[aria-label='Remove tag my-tag']")
    const { notes, tags } = (await new DirectoryStore(runs).run("id-base"))!
    expect([notes, tags]).toEqual(["better <img src=x onerror=alert(1)>", ["my-tag"]])
  })

  browserTest("lists runs: searched, sorted, ticked, compared with what differs", async () => {
    await open("/runs", "tbody tr")
    expect(await page.locator("tbody tr").count()).toBe(4)
    await page.keyboard.press("/")
    await page.waitForFunction(() => document.activeElement?.id === "find")
    await page.keyboard.type("better")
    await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1)
    expect(await page.textContent("tbody a")).toBe("baseline")
    await page.fill("#find", "nothing of the kind")
    expect(await page.textContent(".empty h2")).toBe("No run matches")
    await page.fill("#find", "")
    await page.locator("th button", { hasText: "Loss" }).click()
    await page.waitForFunction(() => document.querySelector("tbody a")?.textContent === "high-rate")
    await page.check("[aria-label='Compare baseline']")
    await page.check("[aria-label='Compare high-rate']")
    await page.keyboard.press("c")
    await page.waitForURL(/compare\?runs=id-base,id-high/)
    await page.waitForSelector("table[aria-label=Settings]")
    expect(await page.locator("table[aria-label=Settings] tbody th").allTextContents()).toEqual(["lr", "seed", "steps"])
    await drawn()
    expect(await page.textContent(".chart .legend")).toMatch(/baseline.*high-rate/)
    await page.click("text=Show the newest of each run")
    await page.waitForFunction(() => document.querySelectorAll(".beside h3").length === 2)
    expect(await page.locator(".beside h3").allTextContents()).toEqual(["baseline, step 2000", "high-rate, step 1000"])
    await page.uncheck("[aria-label='Draw baseline']")
    await page.waitForURL(/hide=id-base/)
    await page.waitForFunction(() => document.querySelector(".chart .legend")?.textContent.includes("baseline") === false)
    await page.check("[aria-label='Draw baseline']")
    await page.selectOption("[aria-label='Add a run']", "id-long")
    await page.waitForURL(/runs=id-base,id-high,id-long/)
    await page.waitForFunction(() => document.querySelector(".chart .legend")?.textContent.includes("long") === true)
  })

  browserTest("shows what trains, models, checkpoints, domains", async () => {
    await open("/training", ".card")
    await drawn()
    expect(await page.locator(".card").count()).toBe(1)
    await open("/models", "tbody tr")
    expect(await page.textContent("tbody tr")).toContain("tinyloaded")
    await open("/checkpoints", "tbody tr")
    expect(await page.locator("tbody tr").count()).toBe(8)
    await open("/domains", "tbody tr")
    expect(await page.textContent("tbody tr")).toMatch(/^novels41/)
  })

  browserTest("fits narrow screens, and says what is missing", async () => {
    await page.setViewportSize({ width: 360, height: 700 })
    for (const path of ["/runs", "/runs/id-base", "/runs/id-base?tab=time", "/compare?runs=id-base,id-high", "/training", "/checkpoints"]) {
      await open(path, "main .wide, main .u-over, main .stack >> visible=true")
      expect([path, await page.evaluate(() => document.documentElement.scrollWidth)]).toEqual([path, 360])
    }
    await page.setViewportSize({ width: 1280, height: 900 })
    await open("/compare", ".empty")
    await page.goto(`${server.url}/runs/none-such`)
    await page.waitForSelector("#alert:not([hidden])")
    expect(await page.textContent("#alert")).toBe("none-such: no such run")
    expect([foreign, faults]).toEqual([[], []])
  })

  browserTest("without the admin key: the command that serves a checkpoint, and notes that stay", async () => {
    const other = await startTest([], { store: new DirectoryStore(runs), runsDir: runs })
    try {
      await page.goto(`${other.url}/runs/id-base?tab=checkpoints`)
      await page.click("[aria-label='Serve baseline@2000']")
      await page.waitForSelector(".serve code")
      expect(await page.textContent(".serve code")).toBe("alpha serve --model=baseline/checkpoints/step-002000")
      expect(await page.textContent("#alert")).toContain("admin key")
      await page.click(".notes button")
      await page.fill("textarea[aria-label=Notes]", "not mine")
      await page.keyboard.press("Tab")
      await page.waitForFunction(() => document.querySelector(".notes .meta")?.textContent === "not saved")
      await page.goto(`${other.url}/models`)
      await page.waitForSelector(".empty")
    } finally {
      await other.close()
    }
  })

  browserTest("says so when the server is gone", async () => {
    await open("/runs/id-live", ".u-over")
    await drawn()
    await page.waitForFunction(() => document.querySelector("#state")?.textContent === "live")
    await server.close()
    await page.waitForSelector("#alert:not([hidden])")
    expect(await page.textContent("#alert")).toContain("the server cannot be reached")
    await page.waitForSelector(".dot.failed")
    expect(await page.isVisible("canvas")).toBe(true)
  })
})
