/** A tiktoken rank file is imported as a path: of the file, or of its copy inside the binary. */
declare module "*.tiktoken" {
  const path: string
  export default path
}
