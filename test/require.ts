/** Tests that need something a machine may lack: skipped by name with the reason, or failed where ALPHA_REQUIRE lists the need. */
import { expect, test } from "bun:test"

/**
 * `test` when `missing` is undefined. Else a skip whose name carries the reason; a failure when ALPHA_REQUIRE (comma-separated, like
 * "vulkan,ssh,browser") holds `need`.
 */
export function testWith(
  need: string,
  missing: string | undefined,
): (name: string, body: () => void | Promise<void>, timeoutMs?: number) => void {
  if (missing === undefined) return test
  const isRequired = (process.env.ALPHA_REQUIRE ?? "").split(",").includes(need)
  if (isRequired) return (name) => test(name, () => expect(`ALPHA_REQUIRE=${need}, but ${missing}`).toBe("there"))
  return (name) => test.skip(`${name} (no ${need}: ${missing})`, () => {})
}
