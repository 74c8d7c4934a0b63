/** Uniform random tokens, for measuring speed without data. */

import { sha256 } from "./base-file.ts"
import { philox } from "./base-random.ts"
import type { Dataset } from "./data-types.ts"

/** Philox streams of this file. */
const STREAMS = { train: 0xda7a_0101, val: 0xda7a_0102 }
/** Lengths: more than a run reads, and a held-out split that evaluates in moments. */
const TOKENS = { train: 2 ** 32, val: 2 ** 14 }

/** Token i is floor(bits · vocabSize / 2³²), bits = Philox lane i & 3 of counter i >> 2 under key (seed, stream of the split). */
export function randomTokens(split: "train" | "val", vocabSize: number, seed: number): Dataset {
  const tokens = TOKENS[split]
  const lanes = new Uint32Array(4)
  return {
    name: `${split} split of random tokens`,
    tokens,
    bytes: 0,
    documents: 1,
    counted: tokens,
    hash: sha256(`random ${split} ${vocabSize} ${seed}`),
    endOfText: undefined,
    byteLengths: undefined,
    read(at, into) {
      for (let i = 0; i < into.length; i++) {
        const lane = (at + i) % 4
        if (lane === 0 || i === 0) philox((at + i - lane) / 4, 0, 0, 0, seed, STREAMS[split], lanes)
        into[i] = Math.floor((lanes[lane]! * vocabSize) / 2 ** 32)
      }
    },
    close() {},
  }
}
