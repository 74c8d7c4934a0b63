/** The question whether any rank was asked to stop: every call, or about once in a while, by all ranks at the same call. */
import { expect, test } from "bun:test"
import { Vote, type World } from "../src/dist.ts"

/** Two ranks in one process that make their calls in turn: rank 1's answer is that of rank 0 with its own flag. */
function pair(everyMs: number, msPerCall: number) {
  let [now, mine] = [0, new Uint8Array()]
  const world = (rank: number): World => ({
    ...{ rank, size: 2, localRank: rank, localSize: 2 },
    transport: {
      name: "pair",
      broadcast: () => {},
      allGather(bytes) {
        if (rank === 0) mine = Uint8Array.from(bytes)
        asked[rank]?.push(calls)
        return rank === 0 ? Uint8Array.of(...bytes, flags[1] ? 1 : 0, 0, 0) : Uint8Array.of(...mine, ...bytes)
      },
      barrier: () => {},
      close: () => {},
    },
  })
  const votes = [0, 1].map((rank) => new Vote(world(rank), everyMs, () => now + 17 * rank))
  const asked: number[][] = [[], []]
  const flags = [false, false]
  let calls = 0
  const call = (): boolean[] => {
    calls++
    now += msPerCall
    return votes.map((vote, rank) => vote.anyOf(flags[rank] as boolean))
  }
  return { call, flags, asked }
}

test("every call asks where nothing is lost by it", () => {
  const { call, flags, asked } = pair(0, 5)
  expect([call(), call()].flat()).toEqual([false, false, false, false])
  flags[1] = true
  expect(call()).toEqual([true, true])
  expect(asked).toEqual([
    [1, 2, 3],
    [1, 2, 3],
  ])
})

test("about once a second: ranks ask at the same calls, all hear of one that is asked to stop", () => {
  for (const msPerCall of [5, 147, 400, 3000]) {
    const { call, flags, asked } = pair(1000, msPerCall)
    for (let i = 0; i < 2000; i++) expect(call()).toEqual([false, false])
    expect(asked[0]).toEqual(asked[1] as number[])
    const gaps = (asked[0] as number[]).map((at, i, all) => at - (all[i - 1] ?? 0))
    expect(gaps.at(-1)).toBe(Math.max(1, Math.floor(1000 / msPerCall)))
    flags[1] = true
    let waited = 1
    for (let both = call(); !both[0]; both = call()) {
      expect(both[1]).toBe(false)
      waited++
    }
    expect(waited).toBeLessThanOrEqual(Math.max(1, 1000 / msPerCall))
  }
})
