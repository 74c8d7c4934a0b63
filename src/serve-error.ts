/** Errors as OpenAI's clients read them: a status and {error: {message, type, param, code}}. */

/** Kinds of OpenAI's error object; what clients branch on is the status and `code`. */
export type ErrorType =
  | "invalid_request_error"
  | "authentication_error"
  | "permission_error"
  | "not_found_error"
  | "rate_limit_error"
  | "server_error"

export interface ErrorBody {
  readonly error: { readonly message: string; readonly type: ErrorType; readonly param: string | null; readonly code: string | null }
}

interface Details {
  readonly type?: ErrorType
  /** Path of the request field that is wrong: "messages[0].content". */
  readonly param?: string
  /** Fixed word for programs: "model_not_found". */
  readonly code?: string
  readonly headers?: Readonly<Record<string, string>>
}

/** What a route throws to refuse a request; everything else that is thrown is a fault of ours and answered 500. */
export class ApiError extends Error {
  override readonly name = "ApiError"
  readonly body: ErrorBody
  readonly headers: Readonly<Record<string, string>>

  constructor(
    readonly status: number,
    message: string,
    { type = typeOf(status), param, code, headers = {} }: Details = {},
  ) {
    super(message)
    this.body = { error: { message, type, param: param ?? null, code: code ?? null } }
    this.headers = headers
  }
}

function typeOf(status: number): ErrorType {
  switch (status) {
    case 401:
      return "authentication_error"
    case 403:
      return "permission_error"
    case 404:
      return "not_found_error"
    case 429:
      return "rate_limit_error"
    default:
      return status >= 500 ? "server_error" : "invalid_request_error"
  }
}

/** A field whose value cannot be honoured. */
export const badField = (param: string, message: string, code = "invalid_value"): ApiError =>
  new ApiError(400, `${param}: ${message}`, { param, code })

/** The request came while the server ends; another instance can take it at once. */
export const draining = (): ApiError =>
  new ApiError(503, "the server is shutting down", { code: "draining", headers: { "retry-after-ms": "1000" } })
