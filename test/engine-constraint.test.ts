import { afterAll, describe, expect, test } from "bun:test"
import { compileConstraint, type Vocabulary, vocabularyOf } from "../src/engine-constraint.ts"
import { Automaton, type State } from "../src/engine-constraint-automaton.ts"
import type { Constraint } from "../src/engine-serve-protocol.ts"
import { trainTokenizer } from "../src/token.ts"
import { dice, type Json, randomDocument, type Schema, violation } from "./json-schema.ts"
import { clean, makeModel, PLAIN, ServeEngine, tokenizer } from "./serve-engine.ts"

afterAll(clean)

/** Whether a whole text meets a constraint. */
function accepts(constraint: Constraint): (text: string) => boolean {
  const automaton = new Automaton(compileConstraint(constraint).grammar)
  return (text) => {
    let state: State | null = automaton.start
    for (const byte of new TextEncoder().encode(text)) {
      state = automaton.step(state, byte)
      if (state === null) return false
    }
    return state.accepts
  }
}

const regex = (pattern: string) => accepts({ type: "regex", pattern })
const schema = (value: unknown) => accepts({ type: "json_schema", schema: value })
const grammar = (text: string) => accepts({ type: "grammar", text })

describe("regular expressions", () => {
  const texts = [
    "",
    "a",
    "ab",
    "abab",
    "aab",
    "b",
    "ba",
    "é",
    "日本",
    "a\nb",
    "-",
    "]",
    "0x1F",
    "a.b",
    "aaa",
    "aaaa",
    "_9",
    "😀",
    " ",
    "\t",
    "^",
    "A",
  ]
  test.each([
    "",
    "a*",
    "(ab)+",
    "a|b|",
    "[^a]",
    ".",
    ".*",
    "a{2,3}b?",
    "\\w+",
    "[\\d\\-\\]]",
    "\\x61\\u0062",
    "\\u{1F600}",
    "[a-z日-本]+",
    "(?:a|(b))*?",
    "a{3}",
    "a{2,}",
    "\\s",
    "\\S\\W",
    "[^\\w\\s]",
    "0x[0-9A-F]{2}",
    "^a$|^b$",
    "(?<name>a)b",
    "a\\.b",
    "\\^",
  ])("%p accepts what JavaScript does", (pattern) => {
    const ours = regex(pattern)
    const theirs = new RegExp(`^(?:${pattern})$`, "u")
    for (const text of texts) expect([text, ours(text)]).toEqual([text, theirs.test(text)])
  })

  test.each([
    ["a(?=b)", "look-ahead"],
    ["(?<!a)b", "look-behind"],
    ["(a)\\1", "back-references"],
    ["\\bword", "word boundaries"],
    ["a^b", "anchor ^ inside"],
    ["a$b", "anchor $ inside"],
    ["\\p{L}", "\\p is not supported"],
    ["a)", "without an opening bracket"],
    ["(a", "does not end"],
    ["[a", "does not end"],
    ["a**", "nothing before *"],
    ["*", "nothing before *"],
    ["a{3,1}", "out of order"],
    ["\\q", "not known"],
  ])("%p is refused: %s", (pattern, message) => {
    expect(() => regex(pattern)).toThrow(message)
  })
})

describe("GBNF", () => {
  test("rules, classes, groups, repetitions, comments", () => {
    const sum = grammar(`
      # sums
      root ::= term ("+" term)*   # several
      term ::= [0-9]+ | "(" root ")" |
        "\\x78" [^a-z\\n]? "é"{2,3}
    `)
    for (const good of ["1", "1+2", "(1+(2))+34", "xéé", "x9ééé"]) expect([good, sum(good)]).toEqual([good, true])
    for (const bad of ["", "1+", "(1", "xé", "xaéé", "xééééé", "1 "]) expect([bad, sum(bad)]).toEqual([bad, false])
  })

  test("JSON as llama.cpp's users write it", () => {
    const json = grammar(String.raw`
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
`)
    for (const good of ['{"a": [1, -2.5e3, "x\\"\\u00e9", {}], "b": null}\n  ', "{}"]) expect([good, json(good)]).toEqual([good, true])
    for (const bad of ["[]", '{"a" 1}', '{"a": 01}', '{"a": "\n"}', '{"a": tru}']) expect([bad, json(bad)]).toEqual([bad, false])
  })

  test.each([
    ["a ::= b", "no rule root"],
    ["root ::= other", "no rule other"],
    ['root ::= "a', "line 1: a text that does not end"],
    ['root ::= root "a"', "no text can ever be complete"],
    ['root ::= root "a" | "b"', "calls itself before any byte"],
    ["root = 1", "::= is missing after root"],
  ])("%p is refused: %s", (text, message) => {
    expect(() => grammar(text)).toThrow(message)
  })
})

describe("JSON schemas", () => {
  const check = (value: unknown, good: readonly string[], bad: readonly string[]) => {
    const ours = schema(value)
    for (const text of good) expect([text, ours(text)]).toEqual([text, true])
    for (const text of bad) expect([text, ours(text)]).toEqual([text, false])
  }

  test("strings, numbers, constants", () => {
    check(
      { type: "string", minLength: 1, maxLength: 2 },
      ['"a"', '"é😀"', '"\\n\\""', '"\\u00e9"'],
      ['""', '"abc"', '"\n"', '"\\ud800"', "a"],
    )
    check({ type: "string", pattern: '^a"b$' }, ['"a\\"b"'], ['"a"b"', '"xa\\"b"'])
    check(
      { type: "integer", minimum: -12, exclusiveMaximum: 105 },
      ["-12", "-9", "0", "7", "99", "104"],
      ["-13", "105", "-0", "007", "1.0", "1e2"],
    )
    check({ type: "number" }, ["0", "-1.5e-7", "12"], ["01", ".5", "1.", "+1", "1e999", "NaN"])
    check({ type: "number", minimum: 0, maximum: 1 }, ["0", "0.25", "1"], ["1.5", "-0.5", "2", "1e-1", "1.0"])
    check(
      { type: "number", exclusiveMinimum: -2, exclusiveMaximum: 1 },
      ["-1.999", "-1", "0", "-0.5", "0.999999"],
      ["-2", "-2.0", "1", "-2.5"],
    )
    check({ exclusiveMinimum: 0 }, ["0.001", "7", "12.5"], ["0", "0.0", "0.000000", "-1", '"x"'])
    check({ type: ["integer", "null"], maximum: -3 }, ["-3", "-40", "null"], ["-2", "3"])
    check(
      { type: "string", format: "date" },
      ['"2024-02-29"', '"2000-02-29"', '"2026-03-31"'],
      ['"2026-02-29"', '"1900-02-29"', '"2026-04-31"', '"2026-13-01"'],
    )
    check({ type: "string", format: "email" }, ['"ahab.captain@pequod.example"'], ['"@x.y"', '"a..b@x.y"', '"a@b"'])
    check({ type: "string", format: "duration" }, ['"P3D"', '"PT20M"', '"P1Y2M10DT2H"', '"P2W"'], ['"P"', '"PT"', '"3D"'])
    check({ enum: ["a", 1, null, { k: [1] }] }, ['"a"', "1", "null", '{"k":[1]}'], ["2", '"b"', "{}"])
    check({ enum: ["a", 1], type: "string" }, ['"a"'], ["1"])
    check({ type: ["boolean", "null"] }, ["true", "false", "null"], ["0"])
  })

  test("objects", () => {
    const object = { type: "object", properties: { a: { type: "integer" }, b: { const: 1 }, c: {} }, required: ["b"] }
    check(
      object,
      ['{"b":1}', '{"a":2,"b":1}', '{"b": 1, "c": [{}]}', '{\n  "a": 0,\n  "b": 1\n}'],
      ["{}", '{"a":1}', '{"b":1,"a":2}', '{"b":1,}', '{"b":1,"d":1}'],
    )
    const open = { type: "object", properties: { ab: { type: "null" } }, additionalProperties: { type: "integer" } }
    check(open, ["{}", '{"ab":null}', '{"ab":null,"x":1}', '{"a":1}', '{"abc":2,"":3}'], ['{"ab":1}', '{"x":null}', '{"\\u0061b":1}'])
    check({ type: "object", required: ["k"] }, ['{"k":[]}', '{"k":1,"l":2}'], ["{}", '{"l":1}'])
  })

  test("arrays", () => {
    check(
      { type: "array", items: { type: "null" }, minItems: 1, maxItems: 2 },
      ["[null]", "[null, null]"],
      ["[]", "[null,null,null]", "[1]"],
    )
    check({ type: "array", maxItems: 0 }, ["[]"], ["[1]"])
    const tuple = { type: "array", prefixItems: [{ const: 1 }, { const: 2 }], items: { const: 3 }, minItems: 1 }
    check(tuple, ["[1]", "[1,2]", "[1,2,3,3]"], ["[]", "[2]", "[1,3]"])
    check({ ...tuple, items: false, minItems: 2 }, ["[1,2]"], ["[1]", "[1,2,3]"])
  })

  test("alternatives, references, parts", () => {
    check({ anyOf: [{ type: "null" }, { type: "array", items: { $ref: "#" } }] }, ["null", "[]", "[[null],null]"], ["1", "[1]"])
    const shape = (kind: string, extra: object) => ({ type: "object", properties: { kind: { const: kind }, ...extra }, required: ["kind"] })
    check(
      { oneOf: [shape("a", { x: { type: "null" } }), shape("b", {})] },
      ['{"kind":"a","x":null}', '{"kind":"b"}'],
      ['{"kind":"b","x":null}'],
    )
    check({ allOf: [{ type: "string" }, { minLength: 2 }] }, ['"ab"'], ['"a"', "1"])
    check(
      { type: "object", $defs: { "a/b": { const: 5 } }, properties: { v: { $ref: "#/$defs/a~1b" } }, required: ["v"] },
      ['{"v":5}'],
      ['{"v":4}'],
    )
  })

  test.each([
    [{ type: "string", contentEncoding: "base64" }, "#: the keyword contentEncoding is not supported"],
    [{ properties: { a: { not: {} } } }, "#/properties/a: the keyword not is not supported"],
    [{ type: "number", minimum: 0.5 }, "the bound 0.5 of a number"],
    [{ type: "array", uniqueItems: true }, "uniqueItems"],
    [{ oneOf: [{ type: "integer" }, { type: "number" }] }, "oneOf whose alternatives may hold together"],
    [{ $ref: "https://example.org/x" }, "outside this document"],
    [{ $ref: "#/$defs/none" }, "leads nowhere"],
    [{ type: "string", format: "regex" }, 'format "regex"'],
    [{ type: "string", pattern: "a", maxLength: 3 }, "maxLength beside pattern"],
    [{ type: "strin" }, 'type "strin"'],
    [{ type: "integer", minimum: 5, maximum: 4 }, "no integer lies"],
    [false, "allows nothing"],
    [{ $ref: "#" }, "no text can ever be complete"],
    [{ allOf: [{ properties: { a: {} }, additionalProperties: false }, { properties: { b: {} } }] }, "beside property b of another part"],
    [{ type: "object", required: "a" }, "required is a list"],
    [JSON.parse(`${'{"items":'.repeat(20_000)}{}${"}".repeat(20_000)}`), "nests too deeply"],
    [{ type: "string", maxLength: 1e6 }, "more than 100000 nodes"],
  ])("%j is refused: %s", (value, message) => {
    expect(() => schema(value)).toThrow(message)
  })

  test("a long string's bound is counted, not tried", () => {
    const ours = schema({ type: "string", maxLength: 3000 })
    expect(ours(`"${"x".repeat(3000)}"`)).toBe(true)
    expect(ours(`"${"x".repeat(3001)}"`)).toBe(false)
  })
})

/** A text of random tokens, closed within `length` of them. */
function randomText(constraint: Constraint, vocabulary: Vocabulary, seed: number, length: number): string {
  const roll = dice(seed)
  const mask = compileConstraint(constraint).mask(vocabulary, new Set())
  const ids: number[] = []
  const automaton = new Automaton(compileConstraint(constraint).grammar)
  const follow = (from: State | null, id: number) =>
    Array.from(tokenizer.tokenBytes(id)).reduce<State | null>((at, byte) => at && automaton.step(at, byte), from)
  let state: State = automaton.start
  while (!mask.complete && ids.length < length) {
    const bits = mask.allowed(length - ids.length)
    const open = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter((id) => (bits[id >> 5]! >> (id & 31)) & 1)
    if (open.length === 0) break // complete, though it could go on
    // The mask is what every token's own way says.
    const rest = length - ids.length
    const isNear = (to: State) => state.least > rest || to.least < rest
    const ways = Array.from({ length: tokenizer.vocabSize }, (_, id) => (tokenizer.tokenBytes(id).length > 0 ? follow(state, id) : null))
    expect(open).toEqual(ways.flatMap((to, id) => (to !== null && isNear(to) ? [id] : [])))
    const id = open[roll(open.length)]!
    mask.accept(id)
    state = ways[id]!
    ids.push(id)
  }
  return tokenizer.decode(ids)
}

test("random tokens within random schemas are valid JSON that meets them, also when they are cut short", () => {
  const vocabulary = vocabularyOf(tokenizer, 320)
  let refused = 0
  for (let seed = 0; seed < 300; seed++) {
    const document = randomDocument(seed)
    const constraint: Constraint = { type: "json_schema", schema: document }
    try {
      compileConstraint(constraint)
    } catch {
      refused++
      continue
    }
    const text = randomText(constraint, vocabulary, seed, 150)
    expect(violation(JSON.parse(text) as Json, document, document), text).toBeUndefined()
  }
  expect(refused).toBeLessThan(10)
})

test("a model with random weights keeps to schemas, regular expressions and grammars", async () => {
  const engine = new ServeEngine({ slots: 16 })
  await engine.load(makeModel("constrained", { blockSize: 256 }))
  const ask = (constraint: Constraint, seed: number) =>
    engine.ask({ constraint, maxTokens: 200, sampling: { ...PLAIN.sampling, temperature: [0, 1, 2][seed % 3]!, seed } })
  const documents: Schema[] = Array.from({ length: 60 }, (_, seed) => randomDocument(1000 + seed))
  const told = await Promise.all(documents.map((value, seed) => ask({ type: "json_schema", schema: value }, seed)))
  told.forEach(({ ids, failed }, i) => {
    if (failed !== undefined) return expect(failed.param).toBe("constraint")
    const text = tokenizer.decode(ids.filter((id) => tokenizer.tokenBytes(id).length > 0))
    expect(violation(JSON.parse(text) as Json, documents[i]!, documents[i]!), text).toBeUndefined()
  })
  expect(told.filter(({ failed }) => failed !== undefined).length).toBeLessThan(3)
  // Every text of 16 letters leads to a state of its own.
  const explosion = await ask({ type: "regex", pattern: "(a|b)*a(a|b){16}" }, 1)
  expect(explosion.failed ?? explosion.finished).toBeDefined()
  const call: Constraint = {
    type: "sequence",
    items: [
      { type: "literal", text: "call " },
      { type: "choice", items: [{ type: "json_object" }, { type: "regex", pattern: "\\d{4}" }] },
    ],
  }
  const calls = await Promise.all([0, 1, 2, 3].map((seed) => ask(call, seed)))
  for (const { ids, finished } of calls) {
    const text = tokenizer.decode(ids)
    expect(text).toMatch(/^call (\{.*\}|\d{4})$/s)
    expect(finished!.reason).toBe("complete")
  }
  await engine.stop()
})

test("a tokenizer without the characters fails the request, not the engine", async () => {
  const engine = new ServeEngine()
  await engine.load(makeModel("letters", { own: trainTokenizer({ kind: "char" }, ["abc "]) }))
  const ask = (constraint: Constraint) => engine.ask({ prompt: Int32Array.of(1), constraint })
  const [object, letters] = await Promise.all([ask({ type: "json_object" }), ask({ type: "regex", pattern: "[ab]{3}" })])
  expect(object.failed).toMatchObject({ param: "constraint", message: expect.stringContaining("no token that goes on from here") })
  expect(letters.finished).toMatchObject({ reason: "complete", completionTokens: 3 })
  await engine.stop()
})
