/**
 * Requests for a WebSocket that came in over a socket of `node:http`. Whoever serves them offers the socket, and
 * whoever answers the request takes it.
 *
 * @module
 */

/** A socket over which a request asks for a WebSocket. */
export interface UpgradeOffer {
  /** The socket. */
  readonly socket: NonNullable<Deno.UpgradeWebSocketOptions["socket"]>;
  /** Bytes that came behind the request. */
  readonly head: Uint8Array;
  /** Called with the WebSocket that took the socket over. */
  taken(webSocket: WebSocket): void;
}

const offers = new WeakMap<Request, UpgradeOffer>();

/** Offers the socket of a request to whoever answers it. */
export function offerUpgrade(request: Request, offer: UpgradeOffer): void {
  offers.set(request, offer);
}

/** The socket of a request; `undefined` if whoever serves it needs no such offer, as `Deno.serve`. */
export function upgradeOffer(request: Request): UpgradeOffer | undefined {
  return offers.get(request);
}
