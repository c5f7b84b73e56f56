/**
 * Errors of HTTP answers as JSON problem details (RFC 9457).
 *
 * @module
 */

import { plainText } from "@edgetuner/core/contracts";

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
  // A detail may quote what the client sent.
  const detail = plainText(problem.detail, 1000);
  return new Response(JSON.stringify({ type: "about:blank", ...problem, detail }), {
    status: problem.status,
    headers: { "content-type": "application/problem+json", ...headers },
  });
}

/** Names of the kinds of problem that a transport's listener answers with. */
const TITLES: Readonly<Record<number, string>> = {
  400: "Bad request",
  401: "Unauthorized",
  404: "Not found",
  405: "Method not allowed",
  408: "Timeout",
  409: "Conflict",
  413: "Too large",
  426: "Upgrade required",
  429: "Too many requests",
  503: "Unavailable",
};

/** What a listener refuses, as a problem that no cache keeps. */
export function refusal(
  status: number,
  detail: string,
  headers: Readonly<Record<string, string>> = {},
): Response {
  const title = TITLES[status] ?? "Refused";
  return problemResponse({ status, title, detail }, { "cache-control": "no-store", ...headers });
}

/** What an answer says of an error: the detail of a problem, else the beginning of its text. */
export function detailOf(text: string): string {
  try {
    const { detail } = JSON.parse(text) as { detail?: unknown };
    if (typeof detail === "string") return plainText(detail);
  } catch {
    // Not JSON: a proxy's own words, for one.
  }
  return plainText(text).trim();
}
