/**
 * Errors of the REST API as JSON problem details (RFC 9457).
 *
 * @module
 */

/** What a client is told about an error. */
export interface Problem {
  /** HTTP status. */
  readonly status: number;
  /** Short name of the kind of problem. */
  readonly title: string;
  /** What was wrong and what the rule is. */
  readonly detail: string;
}

/** A response with a problem. */
export function problemResponse(problem: Problem, headers: Readonly<Record<string, string>> = {}): Response {
  return new Response(JSON.stringify({ type: "about:blank", ...problem }), {
    status: problem.status,
    headers: { "content-type": "application/problem+json", ...headers },
  });
}
