/** Placeholder of `alpha tokenizer` until its owner writes it. */
import { AlphaError } from "./base-error.ts"

export async function build(_: unknown): Promise<undefined> {
  throw new AlphaError("tokenizer: not written yet")
}
export const encode = build
export const decode = build
export const info = build
