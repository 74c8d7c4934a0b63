/** Who touched which unit of memory last, so that a race between two lanes is noticed. */

const ATOMIC = -1
const SEVERAL = -2

/** A lane that touches memory: its number over all workgroups from 1, its workgroup, and how many barriers it has passed. */
export interface Toucher {
  readonly lane: number
  readonly group: number
  readonly epoch: number
}

/** Last plain or atomic write and the reads since the last barrier, per unit. */
export class RaceCheck {
  private readonly writer: Int32Array
  private readonly writeGroup: Int32Array
  private readonly writeEpoch: Int32Array
  private readonly reader: Int32Array
  private readonly readGroup: Int32Array
  private readonly readEpoch: Int32Array

  constructor(units: number) {
    this.writer = new Int32Array(units)
    this.writeGroup = new Int32Array(units)
    this.writeEpoch = new Int32Array(units)
    this.reader = new Int32Array(units)
    this.readGroup = new Int32Array(units)
    this.readEpoch = new Int32Array(units)
  }

  /** Nothing is remembered any more. */
  clear(): void {
    this.writer.fill(0)
    this.reader.fill(0)
  }

  /** The lane whose write is not ordered before this access: another one's in the same epoch or in another workgroup. */
  private otherWriter(unit: number, { lane, group, epoch }: Toucher): number | undefined {
    const writer = this.writer[unit]!
    if (writer === 0 || writer === lane) return undefined
    return this.writeGroup[unit] !== group || this.writeEpoch[unit] === epoch ? writer : undefined
  }

  private otherReader(unit: number, { lane, group, epoch }: Toucher): number | undefined {
    const reader = this.reader[unit]!
    if (reader === 0 || reader === lane) return undefined
    return this.readGroup[unit] !== group || this.readEpoch[unit] === epoch ? reader : undefined
  }

  /** What is wrong with reading `unit` now; undefined when nothing is. */
  read(unit: number, by: Toucher): string | undefined {
    const writer = this.otherWriter(unit, by)
    if (writer !== undefined) return `reads what ${this.name(writer)} writes`
    const isFirst = this.reader[unit] === 0 || (this.readGroup[unit] === by.group && this.readEpoch[unit] !== by.epoch)
    if (isFirst) {
      this.reader[unit] = by.lane
      this.readGroup[unit] = by.group
      this.readEpoch[unit] = by.epoch
    } else {
      if (this.reader[unit] !== by.lane) this.reader[unit] = SEVERAL
      if (this.readGroup[unit] !== by.group) this.readGroup[unit] = SEVERAL
    }
    return undefined
  }

  write(unit: number, by: Toucher): string | undefined {
    const writer = this.otherWriter(unit, by)
    if (writer !== undefined) return `writes what ${this.name(writer)} writes`
    const reader = this.otherReader(unit, by)
    if (reader !== undefined) return `writes what ${this.name(reader)} reads`
    this.writer[unit] = by.lane
    this.writeGroup[unit] = by.group
    this.writeEpoch[unit] = by.epoch
    return undefined
  }

  /** An atomic access: in order with other atomics, not with plain reads and writes. */
  atomic(unit: number, by: Toucher): string | undefined {
    const writer = this.writer[unit] === ATOMIC ? undefined : this.otherWriter(unit, by)
    if (writer !== undefined) return `changes what ${this.name(writer)} writes`
    const reader = this.otherReader(unit, by)
    if (reader !== undefined) return `changes what ${this.name(reader)} reads`
    this.writeGroup[unit] = this.writer[unit] === ATOMIC && this.writeGroup[unit] !== by.group ? SEVERAL : by.group
    this.writeEpoch[unit] = by.epoch
    this.writer[unit] = ATOMIC
    return undefined
  }

  private name(lane: number): string {
    if (lane === ATOMIC) return "an atomic"
    return lane === SEVERAL ? "another lane" : `lane ${lane - 1} of the grid`
  }
}
