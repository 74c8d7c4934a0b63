/** What must not compile in an op's definition and use; `tsc` fails where an expected error is missing. */
import { expect, test } from "bun:test"
import type { NativeCall } from "../src/native.ts"
import { defineOp } from "../src/op-define.ts"
import { trace } from "../src/program.ts"
import { expectShape, type Tensor } from "../src/tensor.ts"

const call: NativeCall<Tensor> = { kernel: "none", fields: {}, args: {} }
const common = { doc: "", cpu: () => call, reference: () => {}, cases: [] } as const

const scale = defineOp({
  ...common,
  name: "scale",
  inputs: { x: "grad", w: "grad?", tokens: "index" },
  outputs: ["y", "rstd"],
  attrs: {} as { eps: number },
  shape({ x, w, tokens }, { eps }) {
    void (eps satisfies number)
    w?.shape.at(0)
    // @ts-expect-error an optional input may be absent
    void (() => w.shape)
    expectShape("scale", "tokens", tokens, [2], "the test")
    return { y: x, rstd: x }
  },
  backward({ x, w }, { rstd }, { y }) {
    rstd.shape.at(0)
    // @ts-expect-error the gradient of an output may be absent
    y.shape.at(0)
    return { x, w }
  },
  cases: [{ inputs: { x: [2], tokens: [2] }, attrs: { eps: 1 } }],
})

test("a forgotten gradient does not compile", () => {
  defineOp({
    ...common,
    name: "forgets",
    inputs: { x: "grad", w: "grad" },
    outputs: ["y"],
    shape: ({ x }) => ({ y: x }),
    // @ts-expect-error w owes a gradient
    backward: ({ x }) => ({ x }),
  })
  defineOp({
    ...common,
    name: "absent",
    inputs: { x: "grad" },
    outputs: ["y"],
    shape: ({ x }) => ({ y: x }),
    // @ts-expect-error x is always there, so its gradient is too
    backward: () => ({ x: undefined }),
  })
})

test("a misspelt name does not compile", () => {
  defineOp({
    ...common,
    name: "misspelt",
    inputs: { x: "grad" },
    outputs: ["y"],
    // @ts-expect-error z is no input
    act: ["z"],
    // @ts-expect-error z is no output
    accumulates: ["z"],
    // @ts-expect-error z is no output
    differentiable: ["z"],
    // @ts-expect-error z is no input
    inPlace: { y: "z" },
    // @ts-expect-error z is no input
    shape: ({ z }) => ({ y: z }),
  })
  defineOp({
    ...common,
    name: "kind",
    // @ts-expect-error "gradient" is no kind of input
    inputs: { x: "gradient" },
    outputs: ["y"],
    shape: () => ({}),
  })
  const wrongAttrs = () =>
    defineOp({
      ...common,
      name: "attrs",
      inputs: { x: "grad" },
      outputs: ["y"],
      attrs: {} as { eps: number },
      shape: ({ x }) => ({ y: x }),
      // @ts-expect-error eps is a number
      cases: [{ inputs: { x: [1] }, attrs: { eps: "1" } }],
    })
  expect(wrongAttrs().name).toBe("attrs")
})

test("an application needs every input, every attribute and nothing else", () => {
  const program = trace("types", (t) => {
    const x = t.input("x", "f32", [2])
    const tokens = t.input("tokens", "i32", [2])
    const { y, rstd } = scale({ x, tokens }, { eps: 1 })
    scale({ x: y, tokens, w: rstd }, { eps: 1 })
    // @ts-expect-error eps is missing
    scale({ x, tokens }, {})
    // @ts-expect-error attributes are missing
    scale({ x, tokens })
    // @ts-expect-error w2 is no input
    scale({ x, tokens, w2: x }, { eps: 1 })
    // @ts-expect-error there is no output z
    scale({ x, tokens }, { eps: 1 }).z
    // @ts-expect-error tokens are missing
    expect(() => scale({ x }, { eps: 1 })).toThrow()
  })
  expect(program.nodes.map((node) => node.op.name)).toEqual(["scale", "scale", "scale", "scale", "scale", "scale"])
  expect(program.nodes[0]?.outputs.y?.name).toBe("scale.y")
})

test("a wrong shape names both sides", () => {
  const wrong = () =>
    trace("shapes", (t) => {
      scale({ x: t.input("x", "f32", [2]), tokens: t.input("tokens", "i32", [3]) }, { eps: 1 })
    })
  expect(wrong).toThrow("scale: tokens (3) where (2) is needed by the test")
})
