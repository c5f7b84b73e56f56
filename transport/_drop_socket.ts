/**
 * Dropping a WebSocket whose peer is gone without a word.
 *
 * WebSockets can only say farewell, and wait for the answer. Deno holds the process for as long, which may be many
 * minutes, and has no public way to end that; so its own way is taken where it is there.
 *
 * @module
 */

/** Of Deno what closes things by their numbers. */
interface Runtime {
  readonly internal: symbol;
  readonly [internal: symbol]: {
    readonly core?: { readonly tryClose?: (resource: number) => void };
  } | undefined;
}

/** What Deno calls the number of a socket. */
const NUMBER = "[[rid]]";

/**
 * Ends a WebSocket at once, without a farewell: its `close` event follows.
 *
 * @returns False where the runtime has no way to; then it ends when the network gives it up.
 */
export function dropSocket(socket: WebSocket): boolean {
  try {
    const { Deno: runtime } = globalThis as unknown as { readonly Deno?: Runtime };
    const close = runtime?.[runtime.internal]?.core?.tryClose;
    const name = Object.getOwnPropertySymbols(socket).find(({ description }) => description === NUMBER);
    const number = name && (socket as unknown as Readonly<Record<symbol, unknown>>)[name];
    if (close === undefined || typeof number !== "number") return false;
    close(number);
    return true;
  } catch {
    return false; // a later version has another way
  }
}
