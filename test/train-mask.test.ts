/** Loss on assistant tokens only: chat rows through openData and the micro program equal a sum made by hand. */
import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { chatSpecials, evalWindows, openData } from "../src/data.ts"
import { gptHidden, gptLogits, initialise } from "../src/gpt.ts"
import { plan, trace } from "../src/program.ts"
import { trainTokenizer } from "../src/token.ts"
import { microPlan } from "../src/train-step.ts"

const device = openCpu(2)
const root = mkdtempSync(join(tmpdir(), "alpha-mask-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const END = "<|endoftext|>"
const conversations = [
  [
    ["system", "Be kind."],
    ["user", "Hi"],
    ["assistant", "Hello there!"],
    ["user", "How are you?"],
    ["assistant", "Fine."],
  ],
  [
    ["user", "Who sings?"],
    ["assistant", "The whale."],
  ],
  [
    ["user", "Where is the whale now?"],
    ["assistant", ""],
  ],
] as const

test("chat rows: the loss and its count are those of assistant tokens, summed by hand from the logits", async () => {
  const path = join(root, "chat.jsonl")
  const rows = conversations.map((turns) => JSON.stringify({ messages: turns.map(([role, content]) => ({ role, content })) }))
  writeFileSync(path, rows.join("\n"))
  const text = conversations.flat().map(([, content]) => content)
  const tokenizer = trainTokenizer({ kind: "bpe", vocabSize: 270, special: [...chatSpecials, END] }, [text.join(" ").repeat(3)])
  const { train } = await openData({
    data: path,
    tokenizer,
    valFraction: 0,
    cacheDir: join(root, "cache"),
    workers: 1,
    seed: 1,
    documentBoundaries: false,
    maskPrompt: true,
  })

  // the whole data as the template writes it, and which tokens an assistant wrote: its text and the end of its turn
  const ids: number[] = []
  const spoken: boolean[] = []
  for (const turns of conversations) {
    for (const [role, content] of turns) {
      const piece = [tokenizer.special.get(`<|${role}|>`)!, ...tokenizer.encode(content), tokenizer.special.get("<|end|>")!]
      ids.push(...piece)
      spoken.push(...piece.map((_, i) => role === "assistant" && i > 0))
    }
    if (turns !== conversations.at(-1)) {
      ids.push(tokenizer.special.get(END)!)
      spoken.push(false)
    }
  }
  expect(train.tokens).toBe(ids.length)

  const [B, T] = [2, 10]
  const model = resolveModel({ vocabSize: tokenizer.vocabSize, blockSize: T, nLayer: 1, nHead: 2, nEmbd: 16, initStd: 0.3 })
  const state = device.state()
  initialise(device, state, model, 5)
  const micro = device.compile(microPlan({ model, precision: "f32", B, T }, false), state)
  const pass = { precision: "f32" as const, T }
  const logits = device.compile(
    plan(trace("logits", (t) => t.output("logits", gptLogits(model, gptHidden(model, t.input("tokens", "i32", [T]), pass), pass)))),
    state,
  )

  // by hand: every window of T tokens predicts its own next tokens
  let [nats, count] = [0, 0]
  for (let start = 0; start + 1 < ids.length; start += T) {
    const window = Int32Array.from({ length: T }, (_, i) => ids[start + i] ?? 0)
    const z = Array.from(logits.submit({ tokens: window }).read("logits"))
    for (let i = 0; i < T && start + i + 1 < ids.length; i++) {
      if (!spoken[start + i + 1]) continue
      const row = z.slice(i * model.vocabSize, (i + 1) * model.vocabSize)
      const total = row.reduce((sum, x) => sum + Math.exp(x), 0)
      nats += Math.log(total) - (row[ids[start + i + 1] as number] as number)
      count++
    }
  }

  const windows = evalWindows(train, T)
  const tokens = new Int32Array(B * T)
  const targets = new Int32Array(B * T)
  for (let index = 0; index < windows.count; index += B) {
    windows.fill(index, B, tokens, targets)
    micro.submit({ tokens, targets, accumulate: index === 0 ? 0 : 1 })
  }
  expect(state.read("sum.count")[0]).toBe(count)
  expect(count).toBe(spoken.filter((is) => is).length)
  expect(Math.abs((state.read("sum.loss")[0] as number) / nats - 1)).toBeLessThan(2e-6)
  train.close()
})
