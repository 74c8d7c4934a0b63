/** A lost device, by a driver in front of the real one: every way in which one tells of it gives an error that names the kernel, and the run resumes. */
import { afterAll, describe, expect } from "bun:test"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { testWith } from "./require.ts"
import { PROGRAM, sampleText } from "./support.ts"
import { rowsOf } from "./train-kill.ts"

const root = join(import.meta.dir, "..")
const folder = mkdtempSync(join(tmpdir(), "alpha-lost-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const ICDS = "/usr/share/vulkan/icd.d"
const icd = existsSync(ICDS) ? readdirSync(ICDS).find((name) => name.startsWith("lvp_icd")) : undefined
const compiler = Bun.which("cc") ?? Bun.which("gcc")
const withLavapipe = testWith("vulkan", icd === undefined ? "no lavapipe" : compiler === null ? "no C compiler" : undefined)

/** What a process needs to see the driver of lost-driver.c alone; the device is lost with the first kernel after `file` is there. */
function losing(file: string, way: string): Record<string, string> {
  const library = join(folder, "lost-driver.so")
  const list = join(folder, "lost-driver.json")
  if (!existsSync(list)) {
    const flags = [
      "-O1",
      "-Wall",
      "-Wextra",
      "-Werror",
      "-fPIC",
      "-shared",
      "-fvisibility=hidden",
      "-I",
      join(root, "native"),
      "-o",
      library,
    ]
    const built = Bun.spawnSync([compiler as string, ...flags, join(root, "test/lost-driver.c"), "-ldl"], { stderr: "pipe" })
    expect(built.stderr.toString()).toBe("")
    writeFileSync(list, JSON.stringify({ file_format_version: "1.0.0", ICD: { library_path: library, api_version: "1.3.0" } }))
  }
  const { library_path } = (JSON.parse(readFileSync(join(ICDS, icd as string), "utf8")) as { ICD: { library_path: string } }).ICD
  return { ...(process.env as Record<string, string>), VK_DRIVER_FILES: list, LOST_DRIVER: library_path, LOST_FILE: file, LOST_WAY: way }
}

/** One kernel on a device that is lost with it; what a second one and the end are told. */
const KERNEL = `
import { add } from "ROOT/shaders/elementwise.ts"
import { Driver } from "ROOT/src/gpu-driver.ts"
import { findGpus, targetOf } from "ROOT/src/gpu-info.ts"
import { Pipelines } from "ROOT/src/gpu-pipeline.ts"
import { vulkan } from "ROOT/src/native.ts"
const [info] = findGpus().usable
const driver = new Driver(info, undefined)
const pipelines = new Pipelines(driver, targetOf(info.facts), undefined)
const launch = { kernel: add, variant: add.variants[0].name, constants: {} }
pipelines.prepare([launch])
const { handle, layout } = pipelines.of(launch)
const dispatch = (commands) => vulkan().gpu_dispatch(driver.gpu, commands, handle, layout, new Uint8Array(28), 28, 1, 1, 1)
for (const what of ["kernel one", "kernel two"])
  try {
    driver.now(what, dispatch, 2)
  } catch (error) {
    console.log(error.message)
  }
driver.idle("the end")
driver.close()
console.log("ended")
`

describe("a lost device", () => {
  const told = {
    wait: "vkWaitSemaphores: VK_ERROR_DEVICE_LOST",
    counter: "vkGetSemaphoreCounterValue: VK_ERROR_DEVICE_LOST",
    submit: "vkQueueSubmit: VK_ERROR_DEVICE_LOST",
    fence: "vkGetFenceStatus: VK_ERROR_DEVICE_LOST",
    nothing: "it has not ended for 2 s",
  }
  for (const [way, reason] of Object.entries(told)) {
    withLavapipe(
      `is told of by ${way}`,
      () => {
        const [script, file] = [join(folder, "kernel.ts"), join(folder, "now")]
        writeFileSync(script, KERNEL.replaceAll("ROOT", root))
        writeFileSync(file, "")
        const run = Bun.spawnSync([process.execPath, script], { env: losing(file, way), stdout: "pipe", stderr: "pipe" })
        const [one, two, end] = run.stdout.toString().trim().split("\n")
        expect([run.stderr.toString(), one, two, end]).toEqual([
          "",
          expect.stringContaining(`failed during kernel one: ${reason}`),
          one,
          "ended",
        ])
      },
      300_000,
    )
  }

  withLavapipe(
    "under --debugGpu ends a run with the kernel's name, and the run resumes",
    async () => {
      const [data, file] = [join(folder, "data.txt"), join(folder, "later")]
      writeFileSync(data, sampleText(6000))
      const model = ["--tokenizer=char", "--nLayer=1", "--nHead=2", "--nEmbd=16", "--context=16", "--batch=2", "--device=gpu"]
      const often = ["--checkpointInterval=1", "--evalInterval=none", "--sampleInterval=none", "--logInterval=1", "--json"]
      const train = (env: Record<string, string>, ...flags: string[]) =>
        Bun.spawn([...PROGRAM, "train", `--data=${data}`, ...model, ...often, ...flags], {
          env,
          stdout: "pipe",
          stderr: "pipe",
        })
      const runs = join(folder, "runs")
      mkdirSync(runs)
      const cut = train(losing(file, "fence"), `--runsDir=${runs}`, "--run=cut", "--debugGpu", "--steps=100000")
      let seen = ""
      for await (const part of cut.stdout) {
        seen += new TextDecoder().decode(part)
        if (seen.includes('"type":"checkpoint"')) writeFileSync(file, "")
      }
      const [code, errors] = [await cut.exited, await new Response(cut.stderr).text()]
      expect([code, errors]).toEqual([
        EXIT.device,
        expect.stringMatching(/failed during kernel \S+ \(\d+ × 1 × 1 workgroups\) of \S+: vkGetFenceStatus: VK_ERROR_DEVICE_LOST/),
      ])
      expect(errors).toContain("it wrote to address 123456789000, where nothing is")
      expect(errors).toContain("--resume")

      const next = Number(readlinkSync(join(runs, "cut", "last")).slice(-6)) + 1
      const again = train(process.env as Record<string, string>, `--resume=${join(runs, "cut")}`, `--steps=${next}`)
      expect([await again.exited, await new Response(again.stderr).text()]).toEqual([0, expect.anything()])
      const steps = rowsOf(join(runs, "cut"), "metrics").map(({ step }) => step)
      expect(steps).toEqual(Array.from({ length: next }, (_, i) => i + 1))
      expect(Number(readlinkSync(join(runs, "cut", "last")).slice(-6))).toBe(next)
    },
    600_000,
  )
})
