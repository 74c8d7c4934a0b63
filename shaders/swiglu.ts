/** SwiGLU, forward and backward. */
import { act, type Body, type F32, kernel, read, type U32, u32, write } from "../src/spirv.ts"

/** Calls `each` with y's element (or pack), and gate's and up's in x, for every element (or pack) of y: F to a row of y, of R rows. */
function eachGate(k: Body, R: U32, F: U32, each: (y: U32, gate: U32, up: U32) => void): void {
  k.for(k.group.mul(k.workgroup).add(k.lane), R.mul(F), k.groups.mul(k.workgroup), (i) => {
    const gate = i.div(F).mul(F).add(i)
    each(i, gate, gate.add(F))
  })
}

const sigmoid = (k: Body, x: F32): F32 => k.f32(1).div(x.neg().exp().add(1))

const value = (k: Body, gate: F32, up: F32): F32 => gate.mul(sigmoid(k, gate)).mul(up)

/** Gradients of gate and up. */
function gradients(k: Body, gate: F32, up: F32, dy: F32): readonly [F32, F32] {
  const s = sigmoid(k, gate)
  return [
    dy
      .mul(up)
      .mul(s)
      .mul(gate.mul(k.f32(1).sub(s)).add(1)),
    dy.mul(gate).mul(s),
  ]
}

/**
 * y[r,f] = silu(x[r,f])·x[r,F+f]: x (R, 2F) holds gate, then up; y (R, F). `packed`: F a multiple of 8, a pack to a lane and turn.
 * Grid: any; ⌈R·F / 2048⌉ workgroups give each lane one pack. Moves 3·R·F·s bytes. Source: arXiv:2002.05202.
 */
export const swiglu = {
  packed: kernel({
    name: "swiglu",
    workgroup: 256,
    buffers: { x: read(act), y: write(act) },
    push: { R: u32, F: u32 },
    body: (k, { x, y, R, F }) =>
      eachGate(k, R, F.div(8), (i, gate, up) => {
        const [gates, ups] = [x.pack(8).at(gate), x.pack(8).at(up)]
        y.pack(8).set(
          i,
          gates.map((g, j) => value(k, g, ups[j]!)),
        )
      }),
  }),
  any: kernel({
    name: "swiglu_edge",
    workgroup: 256,
    buffers: { x: read(act), y: write(act) },
    push: { R: u32, F: u32 },
    body: (k, { x, y, R, F }) => eachGate(k, R, F, (i, gate, up) => y.set(i, value(k, x.at(gate), x.at(up)))),
  }),
}

/**
 * dx[r,f] = dy[r,f]·x[r,F+f]·silu'(x[r,f]), dx[r,F+f] = dy[r,f]·silu(x[r,f]); dx may be x. Grid and shapes as forward.
 * Moves 5·R·F·s bytes.
 */
export const swigluBackward = {
  packed: kernel({
    name: "swiglu_backward",
    workgroup: 256,
    buffers: { x: read(act), dy: read(act), dx: write(act) },
    push: { R: u32, F: u32 },
    body: (k, { x, dy, dx, R, F }) =>
      eachGate(k, R, F.div(8), (i, gate, up) => {
        const [gates, ups, d] = [x.pack(8).at(gate), x.pack(8).at(up), dy.pack(8).at(i)]
        const pairs = gates.map((g, j) => gradients(k, g, ups[j]!, d[j]!))
        dx.pack(8).set(
          gate,
          pairs.map(([dGate]) => dGate),
        )
        dx.pack(8).set(
          up,
          pairs.map(([, dUp]) => dUp),
        )
      }),
  }),
  any: kernel({
    name: "swiglu_backward_edge",
    workgroup: 256,
    buffers: { x: read(act), dy: read(act), dx: write(act) },
    push: { R: u32, F: u32 },
    body: (k, { x, dy, dx, R, F }) =>
      eachGate(k, R, F, (i, gate, up) => {
        const [dGate, dUp] = gradients(k, x.at(gate), x.at(up), dy.at(i))
        dx.set(gate, dGate)
        dx.set(up, dUp)
      }),
  }),
}
