/**
 * Tokens that devices show to a listener.
 *
 * @module
 */

/**
 * Decides whether a request may open or use a channel. A listener answers 401 if not.
 *
 * @param request The request as it came in.
 * @returns True if the request may go on.
 */
export type Authorize = (request: Request) => boolean | Promise<boolean>;

/** Subprotocol that both sides of a WebSocket agree on. */
export const SUBPROTOCOL = "edgetuner.v2";

const TOKEN_PREFIX = "edgetuner.token.";
const OPEN_PREFIX = "edgetuner.open.";
const GO_ON_PREFIX = "edgetuner.go-on.";

/** A session that a WebSocket is opened for. */
export interface SessionOffer {
  /** Name that the client chose: 32 random bytes as base64url. Whoever knows it owns the session. */
  readonly session: string;
  /** True if it has been opened before. */
  readonly goesOn: boolean;
}

/** Makes the name of a session. */
export function newSession(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return bytes.toBase64({ alphabet: "base64url", omitPadding: true });
}

/** Returns the subprotocols with which a WebSocket is opened. */
export function subprotocols(token: string | undefined, { session, goesOn }: SessionOffer): string[] {
  const own = [SUBPROTOCOL, (goesOn ? GO_ON_PREFIX : OPEN_PREFIX) + session];
  if (token === undefined) return own;
  const base64 = new TextEncoder().encode(token).toBase64({ alphabet: "base64url", omitPadding: true });
  return [...own, TOKEN_PREFIX + base64];
}

/** Returns the session that a request is for; `undefined` if it names none, or more than one. */
export function offeredSession(request: Request): SessionOffer | undefined {
  const found = offeredSubprotocols(request).flatMap((name) => {
    const match = /^edgetuner\.(open|go-on)\.([\w-]{43})$/.exec(name);
    return match === null ? [] : [{ session: match[2]!, goesOn: match[1] === "go-on" }];
  });
  return found.length === 1 ? found[0] : undefined;
}

/** Returns the subprotocols that a request offers. */
export function offeredSubprotocols(request: Request): string[] {
  return (request.headers.get("sec-websocket-protocol") ?? "").split(",").map((name) => name.trim());
}

/**
 * Returns the token of a request: from `Authorization: Bearer`, or from the subprotocols of a
 * WebSocket, which are the only header that a browser lets a page fill in there.
 *
 * @example Usage
 * ```ts
 * import { requestToken } from "@edgetuner/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const request = new Request("https://edge.example/", { headers: { authorization: "Bearer secret" } });
 * assertEquals(requestToken(request), "secret");
 * ```
 *
 * @param request The request to read.
 * @returns The token, or `undefined` if there is none.
 */
export function requestToken(request: Request): string | undefined {
  const bearer = /^Bearer +(\S+) *$/i.exec(request.headers.get("authorization") ?? "")?.[1];
  if (bearer !== undefined) return bearer;
  const base64 = offeredSubprotocols(request).find((name) => name.startsWith(TOKEN_PREFIX));
  if (base64 === undefined) return undefined;
  try {
    const bytes = Uint8Array.fromBase64(base64.slice(TOKEN_PREFIX.length), { alphabet: "base64url" });
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/**
 * Makes an {@linkcode Authorize} that wants a token, or one of several. The comparison does not tell by its
 * duration how much of a wrong token is right.
 *
 * @example Usage
 * ```ts
 * import { requireToken, webSocketListener } from "@edgetuner/transport";
 *
 * await using listener = webSocketListener({ authorize: requireToken("secret") });
 * ```
 *
 * @param token The token that requests must show.
 * @param others Tokens that they may show instead.
 * @returns The hook for a listener.
 * @throws {TypeError} If a token is empty or has characters that do not fit into a header.
 */
export function requireToken(token: string, ...others: readonly string[]): Authorize {
  const tokens = [token, ...others];
  tokens.forEach(checkToken);
  const wanted = Promise.all(tokens.map(digest));
  return async (request) => {
    const shown = requestToken(request);
    if (shown === undefined) return false;
    const b = await digest(shown);
    const right = (await wanted).map((a) => {
      let difference = 0;
      for (let i = 0; i < a.length; i++) difference |= (a[i] ?? 0) ^ (b[i] ?? 0);
      return difference === 0;
    });
    return right.includes(true);
  };
}

/** Throws unless `token` fits into a header. The token itself stays out of the message. */
export function checkToken(token: string): void {
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new TypeError(
      "Cannot use the token as it must be one or more visible ASCII characters without spaces: " +
        `current length is ${token.length}`,
    );
  }
}

async function digest(text: string): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
}
