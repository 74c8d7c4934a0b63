/** Rotary position embedding. */
import { act, type Body, constant, type F32, f32, i32, kernel, read, u32, write } from "../src/spirv.ts"

/** 1/(2π) in units of 2⁻⁶⁴: high and low word. */
const TURN = [0x28be60db, 0x9391054a] as const
/** Coefficients of x²ⁿ in cos x and in (sin x)/x. */
const COSINE = [1, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800] as const
const SINE = [1, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880] as const

/**
 * Cosine and sine of an angle, 0 ≤ angle < 2²³, to about 1e-7: the built-in ones promise 2⁻¹¹ and only within a turn.
 * The angle is 2⁻ˢ times an integer; times 1/(2π) in whole words, its place in the turn is exact to 2⁻³².
 */
function cosineSine(k: Body, angle: F32): readonly [F32, F32] {
  const bits = angle.bits()
  const whole = bits.and(0x7fffff).or(0x800000)
  const shift = k.u32(150).sub(bits.shr(23).min(149))
  const low = whole.mul(TURN[0])
  const middle = low.add(whole.mulHigh(TURN[1]))
  const high = whole.mulHigh(TURN[0]).add(middle.lt(low).select(k.u32(1), 0))
  const near = middle.shr(shift.and(31)).or(high.shl(k.u32(32).sub(shift).and(31)))
  const far = high.shr(shift.max(32).sub(32).min(31))
  const turn = shift.lt(32).select(near, far)
  const quadrant = turn.add(1 << 29).shr(30)
  const x = turn
    .sub(quadrant.shl(30))
    .toI32()
    .toF32()
    .mul((2 * Math.PI) / 2 ** 32)
  const square = x.mul(x)
  const series = (coefficients: readonly number[]) =>
    coefficients.slice(0, -1).reduceRight<F32>((sum, c) => sum.mul(square).add(c), k.f32(coefficients.at(-1) as number))
  const [c, s] = [series(COSINE), series(SINE).mul(x)]
  const isOdd = quadrant.and(1).ne(0)
  const [cosine, sine] = [isOdd.select(s, c), isOdd.select(c, s)]
  const isLeft = quadrant.add(1).and(2).ne(0)
  return [isLeft.select(cosine.neg(), cosine), quadrant.ge(2).select(sine.neg(), sine)]
}

function rope(pack: 1 | 8) {
  return kernel({
    name: pack === 8 ? "rope" : "rope_uneven",
    workgroup: 256,
    buffers: { x: read(act), positions: read(i32), frequencies: read(f32), y: write(act) },
    push: { n: u32, T: u32, direction: f32 },
    constants: { half: constant(u32, 4), heads: constant(u32, 36), rotated: constant(u32, 24), given: constant(u32, 0) },
    body(k, { x, positions, frequencies, y, n, T, direction, half, heads, rotated, given }) {
      k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) => {
        const head = i.div(half)
        const c = i.sub(head.mul(half))
        const r = head.div(heads)
        const low = head.mul(half).mul(2).add(c)
        const places = [low, low.add(half)] as const
        const [as, bs] = places.map((at) => (pack === 8 ? x.pack(8).at(at) : [x.at(at)]).map((value) => k.var(f32, value)))
        k.if(head.sub(r.mul(heads)).lt(rotated), () => {
          const position = k.var(u32, 0)
          k.if(
            given.ne(0),
            () => position.set(positions.at(r).toU32()),
            () => position.set(r.mod(T)),
          )
          const radians = pack === 8 ? frequencies.pack(8).at(c) : [frequencies.at(c)]
          radians.forEach((frequency, j) => {
            const [cosine, turned] = cosineSine(k, position.get().toF32().mul(frequency))
            const sine = turned.mul(direction)
            const [a, b] = [as![j]!.get(), bs![j]!.get()]
            as![j]!.set(a.mul(cosine).sub(b.mul(sine)))
            bs![j]!.set(b.mul(cosine).add(a.mul(sine)))
          })
        })
        for (const [at, values] of [
          [places[0], as!],
          [places[1], bs!],
        ] as const) {
          const out = values.map((value) => value.get())
          if (pack === 8) y.pack(8).set(at, out)
          else y.set(at, out[0]!)
        }
      })
    },
  })
}

/**
 * Pair (j, j + D/2) of the first `rotated` of `heads` heads in each row of x (R, heads·D) is turned by position·frequencies[j] radians, times `direction`
 * (1 or −1); the other heads are copied. The position is positions[r] when `given`, else r mod T. `half`: packs in half a head, of 8, or of 1 where D is no
 * multiple of 16; n = R·heads·half. y may lie where x does. Grid: any. Moves 2·R·heads·D·s bytes. Source: arXiv:2104.09864.
 */
export const ropes = { packed: rope(8), uneven: rope(1) }
