/** The speed that a run tells of itself: steps that the device had done before anybody asked are no speed. */
import { expect, test } from "bun:test"
import { steadyFrom } from "../src/train-log.ts"

test("the first tenth is no speed, nor what was ready when the host came back; a device that is always waiting for the host is taken as it is", () => {
  const even = Array.from({ length: 40 }, () => 147)
  expect(steadyFrom(even, even)).toBe(4)
  // Held up while it gave the device its fifth step: what is read after that was there already, the next in part.
  const held = [400, 588, 0, 0, 0, 90, ...even.slice(6)]
  expect(steadyFrom(held, [400, 0, 0, 0, 0, 90, ...even.slice(6)])).toBe(6)
  // The host is the slower of the two.
  expect(
    steadyFrom(
      even,
      even.map(() => 0),
    ),
  ).toBe(4)
  expect(steadyFrom([5], [5])).toBe(1)
})
