/** What lanes of a subgroup or workgroup compute together: reductions, scans, broadcasts, shuffles, votes. */
import { nodeOf, operandOf, value } from "./spirv-expression.ts"
import { Flow } from "./spirv-flow.ts"
import type { SharedArray, SharedElement } from "./spirv-memory.ts"
import type { Node, SubgroupName } from "./spirv-node.ts"
import { GROUP_OPERATIONS, type GroupOperationName } from "./spirv-operation.ts"
import type { Recorder } from "./spirv-record.ts"
import { bool, type Plain, type Type, typeName, u32, vec4 } from "./spirv-type.ts"
import type { Bool, F32, FloatVector, I32, IntVector, U32, UintVector } from "./spirv-value.ts"

/** Name of the specialization constant that every kernel with subgroup operations has; its SpecId is 0. */
export const SUBGROUP_SIZE = { name: "subgroupSize", id: 0, type: u32, value: 32 } as const
/** The smallest subgroup a kernel must be right for. */
const SMALLEST = 4

type Numeric = F32 | U32 | I32 | FloatVector<2 | 3 | 4> | UintVector<2 | 3 | 4> | IntVector<2 | 3 | 4>
type Reduction = "subgroupAdd" | "subgroupMin" | "subgroupMax"

/**
 * Subgroup operations belong in control flow that is the same for the whole subgroup. The pipeline must require full subgroups of the size
 * given by the constant `subgroupSize` (4 … 64), and the workgroup be a multiple of it.
 */
export class Subgroups extends Flow {
  private readonly slots = new Map<Plain, SharedArray<SharedElement>>()

  /** Lanes per subgroup. */
  get subgroupSize(): U32 {
    return value<typeof u32>(this.recorder, subgroupSizeOf(this.recorder))
  }
  /** Number of this subgroup in its workgroup, and of this lane in its subgroup. */
  get subgroup(): U32 {
    return this.builtin("subgroup")
  }
  get subgroupLane(): U32 {
    return this.builtin("subgroupLane")
  }

  private collective(name: SubgroupName, type: Type, args: readonly Node[]): never {
    return value(this.recorder, this.recorder.add({ kind: "subgroup", name }, type, args)) as never
  }

  private reduced<V extends Numeric>(name: GroupOperationName, given: V): V {
    const node = nodeOf(given)
    return this.collective(name, node.type!, [node])
  }
  subgroupAdd<V extends Numeric>(given: V): V {
    return this.reduced("subgroupAdd", given)
  }
  subgroupMin<V extends Numeric>(given: V): V {
    return this.reduced("subgroupMin", given)
  }
  subgroupMax<V extends Numeric>(given: V): V {
    return this.reduced("subgroupMax", given)
  }
  /** Sum over the lanes up to this one, itself included. */
  subgroupInclusiveAdd<V extends Numeric>(given: V): V {
    return this.reduced("subgroupInclusiveAdd", given)
  }
  /** Sum over the lanes before this one. */
  subgroupExclusiveAdd<V extends Numeric>(given: V): V {
    return this.reduced("subgroupExclusiveAdd", given)
  }

  /** The value of one lane, the same `lane` for all. */
  subgroupBroadcast<V extends Numeric>(given: V, lane: U32 | number): V {
    return this.collective("broadcast", nodeOf(given).type!, [nodeOf(given), operandOf(this.recorder, lane, u32)])
  }
  /** The value of lane `lane`, which each lane chooses for itself. */
  subgroupShuffle<V extends Numeric>(given: V, lane: U32): V {
    return this.collective("shuffle", nodeOf(given).type!, [nodeOf(given), nodeOf(lane)])
  }
  /** The value of the lane whose number differs in the bits of `mask`, which is below the smallest subgroup size the kernel allows. */
  subgroupShuffleXor<V extends Numeric>(given: V, mask: U32 | number): V {
    return this.collective("shuffleXor", nodeOf(given).type!, [nodeOf(given), operandOf(this.recorder, mask, u32)])
  }
  /**
   * The lanes of the subgroup wait for each other; what its matrices wrote to shared memory before, its matrices read after. (The simulator
   * orders nothing else by it.)
   */
  subgroupBarrier(): void {
    this.recorder.add({ kind: "barrier", buffers: false, scope: "subgroup" }, undefined)
  }
  /** True in one lane. */
  subgroupElect(): Bool {
    return this.collective("elect", bool, [])
  }
  subgroupAny(condition: Bool): Bool {
    return this.collective("any", bool, [nodeOf(condition)])
  }
  subgroupAll(condition: Bool): Bool {
    return this.collective("all", bool, [nodeOf(condition)])
  }
  /** One bit per lane, lane 0 lowest. */
  subgroupBallot(condition: Bool): UintVector<4> {
    return this.collective("ballot", vec4(u32), [nodeOf(condition)])
  }

  /** Sum over the workgroup, in every lane. Two barriers; the order of addition is fixed for a subgroup size. */
  workgroupSum<V extends Numeric>(given: V): V {
    return this.workgroupReduce("subgroupAdd", "add", given)
  }
  workgroupMax<V extends Numeric>(given: V): V {
    return this.workgroupReduce("subgroupMax", "max", given)
  }
  workgroupMin<V extends Numeric>(given: V): V {
    return this.workgroupReduce("subgroupMin", "min", given)
  }

  private workgroupReduce<V extends Numeric>(name: Reduction, combine: "add" | "max" | "min", given: V): V {
    const type = nodeOf(given).type as Plain<"f32" | "u32" | "i32">
    const partial = this.reduced(name, given)
    const slots = this.slotsFor(type)
    this.if(this.subgroupElect(), () => slots.set(this.subgroup, partial as never))
    this.barrier()
    const identity = GROUP_OPERATIONS[name].identity[type.scalar]
    const total = this.var(type, identity as never)
    this.for(0, this.workgroup.div(this.subgroupSize), 1, (i) => {
      const next = this.recorder.operation(combine, nodeOf(total.get()), [nodeOf(slots.at(i))])
      total.set(value(this.recorder, next))
    })
    this.barrier() // the slots may be written again from here on
    return total.get() as never
  }

  /** One slot per subgroup, shared by all reductions of a type. */
  private slotsFor(type: Plain<"f32" | "u32" | "i32">): SharedArray<SharedElement> {
    const known = this.slots.get(type)
    if (known !== undefined) return known
    const array = this.shared(`reduction of ${typeName(type)}`, type, Math.ceil(this.mostLanes / SMALLEST))
    this.slots.set(type, array)
    return array
  }
}

function subgroupSizeOf(recorder: Recorder): Node {
  return recorder.global(`constant ${SUBGROUP_SIZE.name}`, { kind: "constant", constant: SUBGROUP_SIZE }, u32)
}
