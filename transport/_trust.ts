/**
 * Trusting certificates that the system does not know.
 *
 * @module
 */

/** What trusts more than the system does. */
export type TrustingClient = Deno.HttpClient;

/**
 * A client that trusts these certificates too; `null` without any.
 *
 * @throws {TypeError} If the runtime cannot: browsers trust what the system does.
 */
export function trusting(caCerts: readonly string[] | undefined): TrustingClient | null {
  if (caCerts === undefined) return null;
  const runtime = (globalThis as { readonly Deno?: Partial<typeof Deno> }).Deno;
  if (runtime?.createHttpClient === undefined) {
    throw new TypeError(
      "Cannot use 'caCerts' as the runtime must be Deno: browsers trust what the system does",
    );
  }
  return runtime.createHttpClient({ caCerts: [...caCerts] });
}

/**
 * Opens a WebSocket that trusts these certificates too.
 *
 * @throws {TypeError} If the runtime cannot.
 */
export function trustingSocket(
  url: string | URL,
  caCerts: readonly string[] | undefined,
  protocols: string[] = [],
): WebSocket {
  using client = trusting(caCerts);
  // The second argument of a WebSocket in Deno; a page has no type for it, and never comes here.
  return new WebSocket(url, client === null ? protocols : { protocols, client } as unknown as string[]);
}
