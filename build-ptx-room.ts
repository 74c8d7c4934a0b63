/** Shared memory of a kernel in machine code: ptxas gives it at most 48 KiB, Hopper has 227, and the driver gives what the ELF file says. */

/** Fields of ELF files of 64 bits, by their byte: of the file, of a section's row and of a segment's. Source: ELF-64 Object File Format, version 1.5. */
const FILE = {
  segments: 0x20,
  sections: 0x28,
  segmentBytes: 0x36,
  segmentCount: 0x38,
  sectionBytes: 0x3a,
  sectionCount: 0x3c,
  names: 0x3e,
} as const
const SECTION = { name: 0, offset: 0x18, size: 0x20 } as const
const SEGMENT = { offset: 0x08, fileBytes: 0x20, memoryBytes: 0x28 } as const

/** The file with `bytes` of shared memory for its kernel in place of the 1,024 that its text declares. Throws a TypeError where it declares none. */
export function withRoom(code: Uint8Array<ArrayBuffer>, kernel: string, bytes: number): Uint8Array<ArrayBuffer> {
  const made = code.slice()
  const view = new DataView(made.buffer)
  const long = (at: number) => Number(view.getBigUint64(at, true))
  const short = (at: number) => view.getUint16(at, true)
  const section = (i: number) => long(FILE.sections) + i * short(FILE.sectionBytes)
  const names = long(section(short(FILE.names)) + SECTION.offset)
  const nameOf = (row: number) => {
    const from = names + view.getUint32(row + SECTION.name, true)
    return new TextDecoder().decode(made.subarray(from, made.indexOf(0, from)))
  }
  const rows = Array.from({ length: short(FILE.sectionCount) }, (_, i) => section(i))
  const shared = rows.find((row) => nameOf(row) === `.nv.shared.${kernel}`)
  if (shared === undefined) throw new TypeError(`${kernel}: its machine code has no shared memory of its own`)
  const [offset, size] = [long(shared + SECTION.offset), long(shared + SECTION.size)]
  const segments = Array.from({ length: short(FILE.segmentCount) }, (_, i) => long(FILE.segments) + i * short(FILE.segmentBytes))
  const isIts = (row: number) =>
    long(row + SEGMENT.offset) === offset && long(row + SEGMENT.fileBytes) === 0 && long(row + SEGMENT.memoryBytes) === size
  const segment = segments.find(isIts)
  if (segment === undefined) throw new TypeError(`${kernel}: its machine code has no segment for its shared memory`)
  view.setBigUint64(shared + SECTION.size, BigInt(bytes), true)
  view.setBigUint64(segment + SEGMENT.memoryBytes, BigInt(bytes), true)
  return made
}
