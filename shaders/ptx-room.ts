/** The kernel that tries whether a block gets all the shared memory that a processor of Hopper has. */
import { ptxKernel } from "../src/ptx.ts"
import { u32, write } from "../src/spirv.ts"

/** All that a block may have on Hopper: 227 KiB. */
export const ROOM = 232_448
const THREADS = 256
/** Every word's value is its number times this. */
const FACTOR = 0x9e3779b1

/** wrong (blocks, THREADS): how many words of its block's shared memory a thread did not find as another thread had left them. */
export const ptxRoom = ptxKernel({
  name: "ptx_room",
  about: `all ${ROOM} bytes of shared memory are written by some threads of a block and read by others`,
  threads: THREADS,
  sharedBytes: ROOM,
  buffers: { wrong: write(u32) },
  body(k, { wrong }) {
    const thread = k.special("%tid.x")
    const each = (first: typeof thread, body: (byte: typeof thread, value: typeof thread) => void) => {
      const word = k.variable("u32", first)
      k.while(
        "WORD",
        () => k.compare("lt", word, ROOM / 4),
        () => {
          body(k.add(k.base, k.shl(word, 2)), k.mul(word, FACTOR))
          k.add(word, THREADS, word)
        },
      )
    }
    each(thread, (byte, value) => k.storeShared({ base: byte, bytes: 0 }, [value]))
    k.syncBlock()
    const count = k.variable("u32", 0)
    each(k.xor(thread, THREADS - 1), (byte, value) => {
      const found = k.register("u32")
      k.loadSharedWords([found], { base: byte, bytes: 0 })
      k.add(count, k.select(k.compare("eq", found, value), 0, 1, "u32"), count)
    })
    const own = k.mad(k.special("%ctaid.x"), THREADS, thread)
    k.store("u32", k.madWide(own, 4, wrong), 0, [count])
    k.emit("ret")
  },
})
