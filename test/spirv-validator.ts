/** SPIRV-Tools through its C API, as Dawn's prebuilt library in bun-webgpu-linux-x64 exports it: validates and disassembles modules. */
import { CString, dlopen, type Pointer, ptr, read } from "bun:ffi"
import { existsSync } from "node:fs"
import { join } from "node:path"

const LIBRARY = join(import.meta.dir, "../node_modules/bun-webgpu-linux-x64/libwebgpu_wrapper.so")
const VULKAN_1_3 = 25
/** Indented, without header, with ids named after their types. */
const READABLE = 0x8 | 0x20 | 0x40

/** Why modules cannot be validated here; undefined when they can. */
export const missingValidator: string | undefined =
  process.platform !== "linux" || process.arch !== "x64"
    ? `bun-webgpu-linux-x64 is not for ${process.platform}-${process.arch}`
    : existsSync(LIBRARY)
      ? undefined
      : "bun-webgpu-linux-x64 is not installed"

function open() {
  const { symbols } = dlopen(LIBRARY, {
    spvContextCreate: { args: ["i32"], returns: "ptr" },
    spvValidateBinary: { args: ["ptr", "ptr", "usize", "ptr"], returns: "i32" },
    spvBinaryToText: { args: ["ptr", "ptr", "usize", "u32", "ptr", "ptr"], returns: "i32" },
    spvTextDestroy: { args: ["ptr"], returns: "void" },
    spvDiagnosticDestroy: { args: ["ptr"], returns: "void" },
  })
  return { ...symbols, context: symbols.spvContextCreate(VULKAN_1_3) }
}
let opened: ReturnType<typeof open> | undefined
function library(): ReturnType<typeof open> {
  opened ??= open()
  return opened
}

/** What the validator holds against a module, with its text from the offending instruction's surroundings; undefined when it is valid. */
export function validate(words: Uint32Array): string | undefined {
  const { spvValidateBinary, spvDiagnosticDestroy, context } = library()
  const out = new BigUint64Array(1)
  if (spvValidateBinary(context, ptr(words), words.length, ptr(out)) === 0) return undefined
  const diagnostic = Number(out[0]) as Pointer
  // struct { size_t line, column, index; char *error; }
  const message = new CString(read.ptr(diagnostic, 24) as Pointer).toString()
  spvDiagnosticDestroy(diagnostic)
  return `${message}\n${disassemble(words)}`
}

/** A module as text. */
export function disassemble(words: Uint32Array): string {
  const { spvBinaryToText, spvTextDestroy, context } = library()
  const out = new BigUint64Array(1)
  if (spvBinaryToText(context, ptr(words), words.length, READABLE, ptr(out), null) !== 0) return "cannot be disassembled"
  const text = Number(out[0]) as Pointer
  // struct { const char *str; size_t length; }
  const result = new CString(read.ptr(text, 0) as Pointer, 0, Number(read.u64(text, 8))).toString()
  spvTextDestroy(text)
  return result
}
