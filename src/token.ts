/** Tokenizers by name: train, load, save, identity. */

export type { EncodeOptions, Tokenizer } from "./token-interface.ts"
