/**
 * Errors in the form that clients of the OpenAI API read.
 *
 * @module
 */

import { plainText } from "@edgetuner/core/contracts";

/** Longest message, in characters: it may quote what a client sent. */
const MOST_CHARACTERS = 1000;

/** What a client is told beside the message. */
export interface ApiErrorDetails {
  /** HTTP status. */
  readonly status: number;
  /** The field that is wrong; `null` if none is. */
  readonly param?: string | null;
  /** A word for programs; `null` for none. */
  readonly code?: string | null;
  /** Further headers of the answer. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** A request that cannot be answered. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly #details: ApiErrorDetails;

  /**
   * Makes an error.
   *
   * @param message What was wrong and what the rule is.
   * @param details What else the client is told.
   */
  constructor(message: string, details: ApiErrorDetails) {
    super(message);
    this.#details = details;
  }

  /** The body of the answer, and the last event of a stream that cannot go on. */
  get body(): Readonly<Record<string, unknown>> {
    const { status, param = null, code = null } = this.#details;
    const type = status >= 500 ? "server_error" : "invalid_request_error";
    return { error: { message: plainText(this.message, MOST_CHARACTERS), type, param, code } };
  }

  /** The answer. */
  response(): Response {
    const { status, headers } = this.#details;
    return new Response(JSON.stringify(this.body), {
      status,
      headers: { "content-type": "application/json", "cache-control": "no-store", ...headers },
    });
  }
}

/** An error of any kind as one that a client can be told. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const { name = "" } = error instanceof Error ? error : {};
  // Those who hold the model are not there.
  const isLost = name === "ChannelClosedError" || name === "DeadlineError";
  return new ApiError(message, {
    status: isLost ? 503 : 500,
    code: isLost ? "model_lost" : "internal_error",
  });
}

/** A field that is not as it must be. */
export function invalid(param: string, message: string, code = "invalid_value"): ApiError {
  return new ApiError(message, { status: 400, param, code });
}

/** A field, or a value of it, that this server does not have. */
export function unsupported(param: string, message: string): ApiError {
  return invalid(param, message, "unsupported_parameter");
}
