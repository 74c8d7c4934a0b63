import { describe, expect, test } from "bun:test"
import { PagePool, type SharedPage } from "../src/engine-serve-pages.ts"
import { FairQueue } from "../src/engine-serve-queue.ts"
import { dice } from "./json-schema.ts"

const text = (...ids: number[]) => Int32Array.from(ids)

describe("pages", () => {
  test("equal beginnings share pages; the page used least recently goes first, never before what follows it", () => {
    const pool = new PagePool(3, 2, true)
    const first = pool.share(undefined, text(1, 2), pool.take()!)
    const second = pool.share(first, text(3, 4), pool.take()!)
    expect(pool.find(undefined, text(1, 2))).toBe(first)
    expect(pool.find(undefined, text(3, 4))).toBeUndefined() // the same tokens elsewhere are something else
    pool.release([first], [])
    pool.release([first, second], [])
    expect([pool.used, pool.kept, pool.available]).toEqual([0, 2, 3])
    const own = [pool.take()!, pool.take()!] // the second page made room
    expect(pool.find(first, text(3, 4))).toBeUndefined()
    expect(pool.find(undefined, text(1, 2))).toBe(first)
    expect(pool.take()).toBeUndefined() // all are held
    pool.release([first], own)
    expect([pool.used, pool.sound]).toEqual([0, true])
  })

  test("two that compute the same page end with one", () => {
    const pool = new PagePool(4, 2, true)
    const [a, b] = [pool.take()!, pool.take()!]
    const shared = pool.share(undefined, text(1, 2), a)
    expect(pool.share(undefined, text(1, 2), b)).toBe(shared)
    expect([shared.holders, pool.used, pool.available]).toEqual([2, 1, 3])
  })

  test("the books agree whatever happens", () => {
    const roll = dice(5)
    const pool = new PagePool(12, 2, true)
    const holders: { shared: SharedPage[]; own: number[] }[] = []
    for (let i = 0; i < 3000; i++) {
      const kind = roll(4)
      const one = holders[roll(Math.max(1, holders.length))]
      if (kind === 0 && holders.length < 5) holders.push({ shared: [], own: [] })
      else if (one === undefined) continue
      else if (kind === 1) {
        const tokens = text(roll(2), 0)
        const found = one.own.length === 0 ? pool.find(one.shared.at(-1), tokens) : undefined
        const page = found === undefined ? pool.take() : undefined
        if (found !== undefined) one.shared.push(found)
        else if (page !== undefined) one.own.push(page)
      } else if (kind === 2 && one.own.length > 0) {
        one.shared.push(pool.share(one.shared.at(-1), text(roll(2), 0), one.own.shift()!))
      } else if (kind === 3) {
        pool.release(one.shared, one.own)
        holders.splice(holders.indexOf(one), 1)
      }
      expect(pool.sound).toBe(true)
      const held = new Set(holders.flatMap(({ shared, own }) => [...shared.map(({ page }) => page), ...own]))
      expect(pool.used).toBe(held.size)
    }
  })
})

describe("the queue", () => {
  test("clients take turns by tokens; one that comes starts level", () => {
    const queue = new FairQueue<{ client: string; tokens: number; name: string }>()
    const push = (client: string, name: string, tokens = 10) => queue.push({ client, name, tokens })
    for (const name of ["a1", "a2", "a3", "a4"]) push("a", name)
    push("b", "b1")
    const order: string[] = []
    const next = () => {
      const one = queue.peek()!
      queue.take(one, true)
      queue.serve(one.client, one.tokens)
      order.push(one.name)
    }
    next()
    next()
    expect(order).toEqual(["a1", "b1"])
    expect([queue.count, queue.tokens]).toEqual([3, 30])
    push("c", "c1")
    push("c", "c2")
    for (let i = 0; i < 5; i++) next()
    expect(order.slice(2)).toEqual(["a2", "c1", "a3", "c2", "a4"])
    expect(queue.peek()).toBeUndefined()
  })

  test("what is gone is not served", () => {
    const queue = new FairQueue<{ client: string; tokens: number }>()
    const [a, b] = [1, 2].map((tokens) => ({ client: "x", tokens }))
    queue.push(a!)
    queue.push(b!)
    queue.take(a!, false)
    expect(queue.peek()).toBe(b!)
    queue.take(b!, true)
    queue.ended("x")
    expect([queue.count, queue.tokens, queue.all()]).toEqual([0, 0, []])
  })
})
