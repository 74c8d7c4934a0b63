/** Learns the merges of a byte-level BPE. */

import { Pairs } from "./token-bpe-pairs.ts"
import { alphabetOrder, byteCharacters } from "./token-bytes.ts"
import type { PieceCounter } from "./token-count.ts"

export interface LearnedBpe {
  /** Tokens in the byte-level alphabet: the 256 bytes in alphabet order, then what the merges make. */
  vocab: string[]
  merges: [string, string][]
}

/**
 * Merges the most frequent pair of neighbours inside the pieces until there are `vocabSize` tokens. Of equally frequent pairs
 * the one with the smaller left id, then right id is taken, which is the rule of Hugging Face's BpeTrainer. A merge that
 * makes an existing token (ab + c after a + bc) adds a merge, not a token. `onProgress` gets the number of tokens.
 * Ends with fewer tokens when no pair occurs `minCount` times any more.
 * Source: Sennrich et al. 2016, arXiv:1508.07909, with pair counts kept up to date instead of recounted.
 */
export function learnBpe(
  pieces: PieceCounter,
  options: { vocabSize: number; minCount: number; onProgress?: ((tokens: number) => void) | undefined },
): LearnedBpe {
  const vocab = alphabetOrder.map((byte) => byteCharacters[byte]!)
  const ids = new Map(vocab.map((token, id) => [token, id]))
  const merges: [string, string][] = []
  const chains = new Chains(pieces)
  while (vocab.length < options.vocabSize) {
    const pair = chains.pairs.mostFrequent()
    if (pair < 0 || chains.pairs.count(pair) < options.minCount) break
    const left = vocab[chains.pairs.left(pair)]!
    const right = vocab[chains.pairs.right(pair)]!
    const token = left + right
    let id = ids.get(token)
    if (id === undefined) {
      id = vocab.length
      vocab.push(token)
      ids.set(token, id)
      if (vocab.length % 256 === 0) options.onProgress?.(vocab.length)
    }
    merges.push([left, right])
    chains.merge(pair, id)
  }
  return { vocab, merges }
}

/** All distinct pieces as chains of symbols, and the pairs in them. */
class Chains {
  readonly pairs = new Pairs()
  /** By position: symbol (−1 once merged into its left neighbour), neighbours (−1 at the ends of a piece), piece. */
  readonly #symbols: Int32Array
  readonly #next: Int32Array
  readonly #previous: Int32Array
  readonly #pieceOf: Int32Array
  readonly #pieces: PieceCounter

  constructor(pieces: PieceCounter) {
    this.#pieces = pieces
    const idOfByte = new Int32Array(256)
    alphabetOrder.forEach((byte, id) => {
      idOfByte[byte] = id
    })
    let length = 0
    for (let i = 0; i < pieces.size; i++) length += pieces.piece(i).length
    this.#symbols = new Int32Array(length)
    this.#next = new Int32Array(length).fill(-1)
    this.#previous = new Int32Array(length).fill(-1)
    this.#pieceOf = new Int32Array(length)
    let at = 0
    for (let i = 0; i < pieces.size; i++) {
      const piece = pieces.piece(i)
      const count = pieces.count(i)
      for (let j = 0; j < piece.length; j++, at++) {
        this.#symbols[at] = idOfByte[piece[j]!]!
        this.#pieceOf[at] = i
        if (j === 0) continue
        this.#previous[at] = at - 1
        this.#next[at - 1] = at
        this.pairs.add(this.#symbols[at - 1]!, this.#symbols[at]!, count, at - 1)
      }
    }
    this.pairs.queueTouched()
  }

  /** Replaces every occurrence of `pair` by `id`, left to right. */
  merge(pair: number, id: number): void {
    const pairs = this.pairs
    const left = pairs.left(pair)
    const right = pairs.right(pair)
    const symbols = this.#symbols
    for (const at of pairs.take(pair)) {
      const second = this.#next[at]!
      // Stale places: the symbols changed since they were noted.
      if (symbols[at] !== left || second < 0 || symbols[second] !== right) continue
      const count = this.#pieces.count(this.#pieceOf[at]!)
      const before = this.#previous[at]!
      const after = this.#next[second]!
      if (before >= 0) {
        pairs.subtract(symbols[before]!, left, count)
        pairs.add(symbols[before]!, id, count, before)
      }
      if (after >= 0) {
        pairs.subtract(right, symbols[after]!, count)
        pairs.add(id, symbols[after]!, count, at)
        this.#previous[after] = at
      }
      symbols[at] = id
      symbols[second] = -1
      this.#next[at] = after
    }
    pairs.drop(pair)
    pairs.queueTouched()
  }
}
