/** What ptxas says of the kernels in PTX, where it is installed: they must assemble without spills, their products must not wait for each other. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError } from "./src/base-error.ts"
import type { PtxKernel } from "./src/ptx.ts"

/** PTXAS, or ptxas in PATH; undefined without one. */
export function findPtxas(): string | undefined {
  const file = process.env.PTXAS ?? Bun.which("ptxas") ?? undefined
  return file !== undefined && existsSync(file) ? file : undefined
}

/** Registers and spills of a kernel. Throws AlphaError with what ptxas says: C7512 and C7513 mean that products were put one after another. */
async function assemble(ptxas: string, folder: string, { name, text }: Pick<PtxKernel, "name" | "text">): Promise<number> {
  const file = join(folder, `${name}.ptx`)
  writeFileSync(file, text)
  const run = Bun.spawn([ptxas, "-arch=sm_90a", "-v", file, "-o", `${file}.cubin`], { stdout: "pipe", stderr: "pipe" })
  const [said, errors, code] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text(), run.exited])
  const all = said + errors
  const spilled = [...all.matchAll(/(\d+) bytes spill/g)].some(([, bytes]) => bytes !== "0")
  if (code !== 0 || spilled || /C751[23]/.test(all)) throw new AlphaError(`kernel ${name}: ptxas says\n${all.trim()}`)
  return Number(/Used (\d+) registers/.exec(all)?.[1])
}

/** Assembles all kernels, on all cores; returns the most registers that one uses. */
export async function checkPtx(ptxas: string, kernels: readonly Pick<PtxKernel, "name" | "text">[]): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "alpha-ptx-"))
  try {
    let [next, most] = [0, 0]
    const work = async () => {
      for (let kernel = kernels[next++]; kernel !== undefined; kernel = kernels[next++]) {
        most = Math.max(most, await assemble(ptxas, folder, kernel))
      }
    }
    await Promise.all(Array.from({ length: availableParallelism() }, work))
    return most
  } finally {
    rmSync(folder, { recursive: true })
  }
}
