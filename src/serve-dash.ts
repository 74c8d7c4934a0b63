/** The dashboard's shell, styles and script; its data comes from /api, so the shell is open. */
import { fileURLToPath } from "node:url"
import uplotStyles from "uplot/dist/uPlot.min.css" with { type: "text" }
import { isCompiled } from "./base-build.ts"
import { AlphaError } from "./base-error.ts"
import styles from "./serve-dash.css" with { type: "text" }
import shell from "./serve-dash.html" with { type: "text" }

/** bun-types takes every HTML import for a bundle; read as text it is a string. */
const page = shell as unknown as string

/** The one shell of all pages; the script draws by the path. */
export const dashboard = (): Response =>
  new Response(page, { headers: { "content-type": "text/html; charset=utf-8", "cache-control": "no-cache" } })

export const dashStyles = `${uplotStyles}\n${styles}`

/** The browser's part in one minified module, uPlot included. */
export async function bundleDash(): Promise<string> {
  const result = await Bun.build({
    entrypoints: [fileURLToPath(new URL("serve-dash-client.ts", import.meta.url))],
    target: "browser",
    format: "esm",
    minify: true,
  })
  const [output] = result.outputs
  if (output === undefined) throw new AlphaError("the dashboard's script has no output", { hint: "npm ci" })
  return output.text()
}

let script: Promise<string> | undefined
/** From the binary; run from source, bundled when first asked for. */
export function dashScript(): Promise<string> {
  script ??= isCompiled ? Bun.file(require("alpha:dashboard")).text() : bundleDash()
  return script
}
