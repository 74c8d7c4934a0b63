/** Placeholder of `alpha eval` until its owner writes it. */
import { AlphaError } from "./base-error.ts"

export async function run(_: unknown): Promise<undefined> {
  throw new AlphaError("eval: not written yet")
}
