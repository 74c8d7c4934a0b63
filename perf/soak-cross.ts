/** Builds the arm64 binary and runs `alpha doctor` on it under qemu: every operation with the kernels of that processor. */
import { join } from "node:path"
import { canRun, runAlone } from "../build-check.ts"
import { findTarget, root } from "../build-target.ts"

const target = findTarget("linux-arm64")
if (!canRun(target)) {
  console.error(`error: ${target.emulator} or its libraries are not here\n  hint: apt-get install qemu-user libc6-dev-arm64-cross`)
  process.exit(1)
}
const build = Bun.spawn([process.execPath, "build.ts", `--target=${target.name}`], { cwd: root, stdout: "inherit", stderr: "inherit" })
if ((await build.exited) !== 0) process.exit(1)
console.log(await runAlone(join(root, `alpha-${target.name}`), ["doctor"], target))
