/** Placeholder of `alpha train` until its owner writes it. */
import { AlphaError } from "./base-error.ts"

export async function run(_: unknown): Promise<undefined> {
  throw new AlphaError("train: not written yet")
}

export async function base(_: unknown): Promise<undefined> {}
