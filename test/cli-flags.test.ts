import { expect, test } from "bun:test"
import { AlphaError, EXIT } from "../src/base-error.ts"
import { parseFlags } from "../src/cli-flags.ts"
import { INFER, TRAIN_FIELDS } from "../src/config.ts"

const parse = (...argv: string[]) => parseFlags(argv, TRAIN_FIELDS, ["data"])
const values = (...argv: string[]) => Object.fromEntries(parse(...argv).entries.map(({ name, raw }) => [name, raw]))
const refusal = (...argv: string[]): AlphaError => {
  try {
    parse(...argv)
  } catch (error) {
    expect(error).toBeInstanceOf(AlphaError)
    expect((error as AlphaError).code).toBe(EXIT.usage)
    return error as AlphaError
  }
  throw new Error(`${argv.join(" ")} was accepted`)
}

test("camelCase, kebab-case and snake_case, = and space", () => {
  expect(values("--nLayer=2", "--n-head", "4", "--n_embd=64", "--lr", "1e-3", "--eval-interval=5")).toEqual({
    nLayer: "2",
    nHead: "4",
    nEmbd: "64",
    lr: "1e-3",
    evalInterval: "5",
  })
  expect(values("--data=a=b.txt")).toEqual({ data: "a=b.txt" })
  expect(values("--minLr", "-1")).toEqual({ minLr: "-1" })
  expect(values("--data", "-")).toEqual({ data: "-" })
})

test("every heritage and nanoGPT spelling reaches its field", () => {
  const line = `--iters=1 --domain=abc --block=2 --layers=3 --dim=4 --heads=5 --backend=cpu_ref --runDir=r --activation=relu --lrMin=6 --warmupIters=7
    --optim=lion --evalIters=8 --initCheckpoint=i --normType=rmsnorm --posEnc=rope --tieEmbeddings=false --logEvery=9 --batch_size=10 --dtype=bfloat16`
  expect(values(...line.split(/\s+/))).toEqual({
    ...{ steps: "1", preset: "abc", blockSize: "2", nLayer: "3", nEmbd: "4", nHead: "5", device: "cpu_ref", run: "r", activation: "relu" },
    ...{ minLr: "6", warmupSteps: "7", optimizer: "lion", evalSteps: "8", init: "i", norm: "rmsnorm", position: "rope", tie: "false" },
    ...{ logInterval: "9", batch: "10", precision: "bfloat16" },
  })
  expect(values("--max_iters=1", "--learning_rate=2", "--lr_decay_iters=3", "--gradient_accumulation_steps=4")).toEqual({
    steps: "1",
    lr: "2",
    decaySteps: "3",
    accumSteps: "4",
  })
  expect(values("--packed", "--checkpoint", "--sft")).toEqual({ order: "sequential", activationCheckpointing: "true", maskPrompt: "true" })
  const infer = parseFlags(["--steps=9", "--temp=0.5", "--topk=3", "--topp=0.9", "--checkpoint=c"], INFER, [])
  expect(infer.entries.map(({ name }) => name)).toEqual(["maxTokens", "temperature", "topK", "topP", "model"])
})

test("switches: --x, --x=false, --no-x, --noX; optional values need =", () => {
  expect(values("--bias", "--no-tie", "--qk-norm=false", "--noResidualScaling")).toEqual({
    bias: "true",
    tie: "false",
    qkNorm: "false",
    residualScaling: "false",
  })
  // noDecayList and norm begin with "no" and are no negations.
  expect(values("--noDecayList=wpe", "--norm=rmsnorm")).toEqual({ noDecayList: ["wpe"].join(), norm: "rmsnorm" })
  expect(values("--resume")).toEqual({ resume: "newest" })
  expect(values("--resume=first", "book.txt")).toEqual({ resume: "first", data: "book.txt" })
  expect(values("--resume", "--data=book.txt")).toEqual({ resume: "newest", data: "book.txt" })
  expect(refusal("--resume", "first").hint).toBe("write --resume=first") // not the newest run, on data called "first"
  expect(refusal("--data=a.txt", "b.txt").message).toBe("argument b.txt and --data a.txt both set data")
  expect(refusal("--bias", "false").hint).toBe("write --bias=false")
  expect(refusal("--no-bias=true").message).toBe("--no-bias=true: takes no value")
  expect(refusal("--no-lr").message).toBe("unknown flag --no-lr")
  expect(refusal("--packed=false").message).toContain("leave the flag out")
})

test("lists repeat, other flags are overwritten by a later one, of any spelling", () => {
  expect(values("--samplePrompts=a", "--sample-prompts", "b c", "--lr=1", "--learning-rate=2")).toEqual({
    samplePrompts: ["a", "b c"],
    lr: "2",
  })
  expect(parse("--lr=1", "--learning-rate=2").entries[0]).toEqual({ name: "lr", raw: "2", layer: "flag", from: "--learning-rate" })
})

test("positionals, -- and switches of every command", () => {
  expect(values("book.txt", "--lr=1")).toEqual({ data: "book.txt", lr: "1" })
  expect(values("--", "--odd-name.txt")).toEqual({ data: "--odd-name.txt" })
  expect(parse("--json", "--print-config")).toMatchObject({ json: true, printConfig: true, help: undefined })
  expect(parse("--help")).toMatchObject({ help: "" })
  expect(parse("-h", "data")).toMatchObject({ help: "data", entries: [] })
  expect(parse("book.txt", "--lr=1", "--help")).toMatchObject({ help: "", entries: [] })
  expect(refusal("a.txt", "b.txt").message).toBe("unexpected argument b.txt")
})

test("what is not in the table is refused with the nearest name", () => {
  expect(refusal("--lrr=5")).toMatchObject({ message: "unknown flag --lrr", hint: "did you mean --lr?" })
  expect(refusal("--print-confg")).toMatchObject({ hint: "did you mean --printConfig?" })
  expect(refusal("--warmup-iter=5").hint).toBe("did you mean --warmupIters?")
  expect(refusal("--zzzzzz").hint).toBe("--help lists the flags")
  expect(refusal("-x").message).toBe("unknown flag -x")
  expect(refusal("--constructor=1").message).toBe("unknown flag --constructor")
  expect(refusal("--lr").message).toBe("--lr: a value is missing")
  expect(refusal("--lr", "--steps=3").message).toBe("--lr: a value is missing")
})
