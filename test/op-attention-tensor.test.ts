/** The matrix kernels of attention in the simulator, against the f64 reference: whole and partial tiles, shared key heads, large scores. */
import { simulatedDevice } from "./gpu-simulated.ts"
import { testAttention } from "./op-attention-cases.ts"

const TILES = [
  { B: 1, T: 128, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, about: "whole tiles" },
  { B: 2, T: 70, nHead: 2, nKvHead: 1, headDim: 32, scale: 0.2, about: "partial tiles, shared key heads, two sequences" },
  { B: 1, T: 3, nHead: 1, nKvHead: 1, headDim: 96, scale: 0.1, about: "few rows, wider heads" },
  { B: 1, T: 66, nHead: 1, nKvHead: 1, headDim: 160, scale: 0.1, about: "widest heads" },
  { B: 2, T: 67, nHead: 2, nKvHead: 2, headDim: 32, scale: 0.2, dropout: 0.4, about: "dropout, rows of bits that are not aligned" },
  { B: 1, T: 128, nHead: 2, nKvHead: 1, headDim: 32, scale: 0.2, dropout: 0.2, about: "dropout, whole tiles" },
  { B: 1, T: 130, nHead: 1, nKvHead: 1, headDim: 32, scale: 12, about: "scores that pass the first reference" },
]
const FRAGMENTS = [
  { B: 1, T: 256, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, about: "fragments" },
  { B: 2, T: 128, nHead: 2, nKvHead: 1, headDim: 128, scale: 0.09, about: "fragments of the widest heads, shared key heads" },
  { B: 1, T: 128, nHead: 1, nKvHead: 1, headDim: 96, scale: 0.1, about: "fragments of wide heads" },
  { B: 1, T: 256, nHead: 2, nKvHead: 2, headDim: 32, scale: 0.2, dropout: 0.3, about: "fragments of narrow heads, dropout" },
  { B: 1, T: 256, nHead: 1, nKvHead: 1, headDim: 64, scale: 6, about: "fragments, large scores" },
]
testAttention(simulatedDevice(32, "nv2"), TILES, 300_000)
testAttention(simulatedDevice(32, "khr"), FRAGMENTS, 300_000)
