/** What is measured: load on a server. */
export { type Load, type LoadResult, report, runLoad } from "./bench-load.ts"
