/** The fields of `alpha tui`. */
import { bool, float, inGroup, int, list, text, type Values } from "./config-field.ts"
import { RUNS_LS } from "./config-runs.ts"
import { FILES } from "./config-shared.ts"

/** What `alpha tui` reads. */
export const TUI = {
  ...inGroup("Runs", {
    server: text("address of an alpha server whose runs to show; ALPHA_READ_KEYS gives its key", {
      form: { pattern: /^https?:\/\/[^/]+\/?$/, words: "an address like http://127.0.0.1:8080" },
      aliases: ["url"],
    }),
    refresh: float("time between looks for what is new", { default: 1, min: 0.1, max: 3600, unit: "seconds" }),
  }),
  from: RUNS_LS.from,
  database: RUNS_LS.database,
  ...inGroup("Screen", {
    once: bool("print one frame and stop; needs no terminal", { default: false }),
    width: int("columns of the frame that --once prints", { derive: "the terminal's, else 80", min: 1, max: 1000 }),
    height: int("lines of it", { derive: "the terminal's, else 24", min: 1, max: 1000 }),
    ascii: bool("draw with ASCII alone", { derive: "where the locale is not UTF-8" }),
    press: list("keys to press at the start, such as enter, tab, c, x", { default: [] }),
  }),
  ...inGroup("Run", FILES),
}
export type TuiConfig = Values<typeof TUI>
