/** What the parts of `data` hand to each other. */

import type { Tokenizer } from "./token.ts"

/** Tokens ready to train on: read from files by position, never all in memory. */
export interface Dataset {
  /** What it is, for messages: "train split of novels.txt". */
  readonly name: string
  /** Number of ids. */
  readonly tokens: number
  /** UTF-8 bytes of text behind the ids (special tokens count 0), or 0 when no tokenizer says. */
  readonly bytes: number
  /** Documents: text files, jsonl rows, stretches between end-of-text tokens. */
  readonly documents: number
  /** Ids that may be a target: all, or those of assistant messages when prompts are masked. */
  readonly counted: number
  /** SHA-256 of the ids and masks: changes with the text, the tokenizer, the split and the chat template. */
  readonly hash: string
  /** The id that ends a document, when the tokenizer has one. */
  readonly endOfText: number | undefined
  /** Bytes of text behind each id (0 for special tokens); undefined when no tokenizer was given. */
  readonly byteLengths: Uint32Array | undefined
  /** into[i] = id of token at + i, or −1 − id when no loss is taken on that token (a chat prompt). */
  read(at: number, into: Int32Array): void
  /** Closes the files; reading afterwards is an error. */
  close(): void
}

/** Progress of a slow part: `done` of `total` bytes (0: nobody knows). */
export interface DataProgress {
  label: string
  done: number
  total: number
}

/** How `openData` finds, splits and prepares. */
export interface DataOptions {
  /** A file, a directory, a glob, "-" (standard input) or "random". */
  data: string
  /** Held-out data of its own; otherwise the last `valFraction` of `data` is held out. */
  valData?: string | undefined
  /** Fraction of the characters held out, in [0, 1); 0 holds nothing out. */
  valFraction: number
  /** Needed for text; .bin shards and random tokens do without. */
  tokenizer?: Tokenizer | undefined
  /** Ids must be below it (shards are checked); the range of random tokens. */
  vocabSize?: number | undefined
  /** Window length T: a training split with fewer than T + 1 tokens is refused. */
  context?: number | undefined
  /** Directory for tokenised files, made when needed. */
  cacheDir: string
  /** Threads that tokenise. */
  workers: number
  /** Seed of random tokens. */
  seed: number
  /**
   * Respect documents: special tokens written in text files (<|endoftext|>) become those tokens, the split falls between documents
   * where it can, batches start at document starts and no target lies in another document than its token.
   */
  documentBoundaries: boolean
  /** Take the loss on assistant messages only; needs chat rows. */
  maskPrompt: boolean
  /** Called often; what it throws ends the work and leaves no unfinished file. */
  onProgress?: ((progress: DataProgress) => void) | undefined
  /** Something worth saying once (a damaged cache file that is made again). */
  onNote?: ((message: string) => void) | undefined
}

/** What a file holds: text, one JSON object per line, or token ids. */
export type SourceKind = "text" | "rows" | "shard"

/** One input file. */
export interface Source {
  path: string
  /** How messages call it: the path as given, or "standard input". */
  name: string
  kind: SourceKind
  bytes: number
}

/** Bytes from … to of one text or rows file; `sha256` is that of the whole file. */
export interface Piece {
  source: Source
  sha256: string
  from: number
  to: number
}

/** Random access to the ids of one file. */
export interface TokenReader {
  readonly length: number
  read(at: number, into: Int32Array): void
  close(): void
}
