/** Placeholder of `alpha infer` until its owner writes it. */
import { AlphaError } from "./base-error.ts"

export async function run(_: unknown): Promise<undefined> {
  throw new AlphaError("infer: not written yet")
}
