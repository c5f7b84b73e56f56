/**
 * Plain answers of the listeners.
 *
 * @module
 */

/** Returns a response of one line of text, which no cache keeps. */
export function plain(status: number, text: string, headers: Record<string, string> = {}): Response {
  return new Response(`${text}\n`, { status, headers: { "cache-control": "no-store", ...headers } });
}
