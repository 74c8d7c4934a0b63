/** 100 network cuts while a log is followed over ssh: what arrives is the file, byte for byte. `npm run soak -- cuts [CUTS]` */
import { join } from "node:path"

const cuts = Number(process.argv[2] ?? 100)
const child = Bun.spawn([process.execPath, "test", "--timeout=600000", "test/fleet-life.test.ts", "-t", "network cuts"], {
  cwd: join(import.meta.dir, ".."),
  env: { ...process.env, CUTS: String(cuts), ALPHA_REQUIRE: "ssh" },
  stdio: ["ignore", "inherit", "inherit"],
})
process.exit(await child.exited)
