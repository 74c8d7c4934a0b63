/** Values as objects with methods: what stands behind the interfaces of spirv-value. */
import { type Callback, isMatrix, isPlain, type MatrixDetail, type Node } from "./spirv-node.ts"
import { OPERATIONS, type OperationName } from "./spirv-operation.ts"
import type { Recorder } from "./spirv-record.ts"
import { f32, type MatrixType, type Plain, plain, type ScalarName, type Type, typeName, u32 } from "./spirv-type.ts"
import type { F32, ValueOf } from "./spirv-value.ts"

/** A recorded value. The interfaces of spirv-value say which of its methods exist for which type. */
export class Expression {
  constructor(
    readonly recorder: Recorder,
    readonly node: Node,
  ) {}

  get scalar(): ScalarName {
    return (this.node.type as Plain).scalar
  }
  get size(): number {
    return (this.node.type as Plain).size
  }
  get x(): Expression {
    return this.component(0)
  }
  get y(): Expression {
    return this.component(1)
  }
  get z(): Expression {
    return this.component(2)
  }
  get w(): Expression {
    return this.component(3)
  }

  private component(i: number): Expression {
    const { size } = this.node.type as Plain
    if (i >= size || size === 1) this.recorder.fail(`component ${i} of a value with ${size}`)
    return new Expression(this.recorder, this.recorder.extract(this.node, i))
  }

  operation(name: OperationName, operands: readonly Operand[]): Expression {
    return new Expression(this.recorder, this.recorder.operation(name, this.node, operands.map(unwrap)))
  }

  select(yes: Expression, no: Operand): Expression {
    const type = yes.node.type as Plain
    return new Expression(this.recorder, this.recorder.select(this.node, yes.node, this.recorder.operand(unwrap(no), type)))
  }

  dot(b: Expression): Expression {
    const product = this.operation("mul", [b])
    let sum = product.component(0)
    for (let i = 1; i < this.size; i++) sum = sum.operation("add", [product.component(i)])
    return sum
  }
}

type Operand = Expression | number | boolean
const unwrap = (operand: Operand) => (typeof operand === "object" ? operand.node : operand)

for (const name of Object.keys(OPERATIONS) as OperationName[]) {
  Object.defineProperty(Expression.prototype, name, {
    value(this: Expression, ...operands: Operand[]) {
      return this.operation(name, operands)
    },
  })
}

/** A recorded matrix; the interfaces of spirv-value say which of its methods exist for which type. */
class MatrixExpression {
  constructor(
    readonly recorder: Recorder,
    readonly node: Node,
  ) {}

  private next(detail: MatrixDetail, type: Type | undefined, args: readonly Node[]): MatrixExpression {
    return new MatrixExpression(this.recorder, this.recorder.add({ kind: "matrix", ...detail }, type, args))
  }
  private arithmetic(op: "add" | "sub" | "mul" | "div", b: MatrixExpression): MatrixExpression {
    return this.next({ does: "arithmetic", op }, this.node.type, [this.node, b.node])
  }
  add(b: MatrixExpression): MatrixExpression {
    return this.arithmetic("add", b)
  }
  sub(b: MatrixExpression): MatrixExpression {
    return this.arithmetic("sub", b)
  }
  mul(b: MatrixExpression): MatrixExpression {
    return this.arithmetic("mul", b)
  }
  div(b: MatrixExpression): MatrixExpression {
    return this.arithmetic("div", b)
  }
  neg(): MatrixExpression {
    return this.next({ does: "arithmetic", op: "neg" }, this.node.type, [this.node])
  }
  scale(factor: F32 | number): MatrixExpression {
    return this.next({ does: "scale" }, this.node.type, [this.node, operandOf(this.recorder, factor, f32)])
  }
  convert(type: MatrixType): MatrixExpression {
    return this.next({ does: "convert" }, type, [this.node])
  }

  map(fn: (...parameters: never[]) => unknown, ...operands: { readonly node: Node }[]): MatrixExpression {
    const nodes = operands.map(({ node }) => node)
    const types = [u32, u32, f32, ...nodes.map(({ type }) => (isMatrix(type) ? f32 : (type as Plain)))]
    return this.next({ does: "map", callback: this.callback(fn, types) }, this.node.type, [this.node, ...nodes])
  }

  each(fn: (...parameters: never[]) => unknown, ...operands: { readonly node: Node }[]): MatrixExpression {
    const nodes = operands.map(({ node }) => node)
    const types = [f32, ...nodes.map(({ type }) => (isMatrix(type) ? f32 : (type as Plain)))]
    return this.next({ does: "each", callback: this.callback(fn, types) }, this.node.type, [this.node, ...nodes])
  }

  reduce(along: "row" | "column", combine: (a: never, b: never) => unknown, type = this.node.type as MatrixType): MatrixExpression {
    return this.next({ does: "reduce", callback: this.callback(combine, [f32, f32]), along }, type, [this.node])
  }

  /** The function recorded from `fn`, once per list of parameter types. */
  private callback(fn: (...parameters: never[]) => unknown, types: readonly Plain[]): Callback {
    const { recorder } = this
    const known = recorder.callbacks
      .get(fn)
      ?.find(({ parameters }) => `${parameters.map(({ type }) => typeName(type as Plain))}` === `${types.map(typeName)}`)
    if (known !== undefined) return known
    const parameters: Node[] = []
    let result: Node | undefined
    const root = recorder.inside(undefined, () => {
      for (const type of types) parameters.push(recorder.add({ kind: "parameter" }, type))
      result = operandOf(recorder, fn(...(parameters.map((node) => new Expression(recorder, node)) as never[])), f32)
    })
    const callback = { parameters, root, result: result! }
    recorder.callbacks.set(fn, [...(recorder.callbacks.get(fn) ?? []), callback])
    return callback
  }
}

/** The value a node stands for. */
export function value<T>(recorder: Recorder, node: Node): ValueOf<T> {
  return (isMatrix(node.type) ? new MatrixExpression(recorder, node) : new Expression(recorder, node)) as unknown as ValueOf<T>
}

/** The node behind a value. */
export const nodeOf = (given: unknown): Node => (given as { readonly node: Node }).node

/** The node behind a value of a plain type, or of a literal that stands for one. */
export function operandOf(recorder: Recorder, given: unknown, type: Plain): Node {
  return recorder.operand(typeof given === "object" ? nodeOf(given) : (given as number | boolean), type)
}

/** A vector of scalars of one type. */
export function vectorOf(recorder: Recorder, parts: readonly unknown[]): Node {
  const nodes = parts.map(nodeOf)
  const type = nodes[0]!.type
  if (!isPlain(type) || nodes.some((node) => node.type !== type)) recorder.fail("the components of a vector must be scalars of one type")
  return recorder.pure({ kind: "construct" }, plain(type.scalar, nodes.length as 2 | 3 | 4), nodes)
}
