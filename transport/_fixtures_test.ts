/**
 * Fixtures for the tests of transports: each on real sockets of this machine.
 *
 * @module
 */

import type { Listener, Transport } from "@edgetuner/core/contracts";
import { httpListener, httpTransport } from "./http.ts";
import { inProcessTransport } from "./in_process.ts";
import { emulateLink } from "./simulation/link.ts";
import { webSocketListener, webSocketTransport } from "./web_socket.ts";
import { FAULT_LIMITS, type FaultFixture } from "../tests/conformance/link_faults_suite.ts";
import { FaultyRelay } from "../tests/support/faulty_relay.ts";

/** Largest frame in the tests. */
export const MAX_FRAME_BYTES = 2 * 2 ** 20;

/** Limits in the tests; small queues make back-pressure quick to reach. */
export const LIMITS = { maxFrameBytes: MAX_FRAME_BYTES, queueBytes: 2 ** 20 } as const;

/** What the conformance suite wants of a transport. */
export interface TransportFixture extends AsyncDisposable {
  /** The transport under test. */
  readonly transport: Transport;
  /** Where its channels arrive. */
  readonly listener: Listener;
  /** The same transport, pointed at where nobody listens. */
  readonly unreachable: Transport;
}

/** A server on a free port. */
export type TestServer = Deno.HttpServer<Deno.NetAddr>;

/** Serves on a free port of this machine. */
export function serve(handler: (request: Request) => Response | Promise<Response>): TestServer {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, handler);
}

/** Returns the address of a server. */
export function address(server: TestServer): string {
  return `http://127.0.0.1:${server.addr.port}/frames`;
}

/** Returns an address where nobody listens. */
export function nowhere(): string {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  return `http://127.0.0.1:${port}/frames`;
}

/** Passes requests on, whole, as a proxy without any support for streams does. */
export function reverseProxy(target: string): TestServer {
  return serve(async (request) => {
    const body = await request.arrayBuffer();
    const { pathname, search } = new URL(request.url);
    const headers = new Headers(request.headers);
    headers.delete("host");
    try {
      const answer = await fetch(new URL(pathname + search, target), {
        method: request.method,
        headers,
        ...(body.byteLength > 0 && { body }),
      });
      const bytes = await answer.arrayBuffer();
      return new Response(answer.status === 204 ? null : bytes, {
        status: answer.status,
        headers: answer.headers,
      });
    } catch {
      return new Response("Bad gateway", { status: 502 });
    }
  });
}

function fixture(
  transport: Transport,
  listener: Listener,
  unreachable: Transport,
  servers: readonly TestServer[] = [],
): TransportFixture {
  return {
    transport,
    listener,
    unreachable,
    async [Symbol.asyncDispose]() {
      await listener[Symbol.asyncDispose]();
      for (const server of servers) await server.shutdown();
    },
  };
}

/** Opens an in-process transport. */
export async function openInProcess(): Promise<TransportFixture> {
  const gone = inProcessTransport();
  await gone.listener[Symbol.asyncDispose]();
  const { transport, listener } = inProcessTransport(LIMITS);
  return fixture(transport, listener, gone.transport);
}

/** Opens a WebSocket transport. */
export function openWebSocket(): Promise<TransportFixture> {
  const listener = webSocketListener(LIMITS);
  const server = serve((request) => listener.handle(request));
  const transport = webSocketTransport({ url: address(server), ...LIMITS });
  const unreachable = webSocketTransport({ url: nowhere() });
  return Promise.resolve(fixture(transport, listener, unreachable, [server]));
}

/** Opens an HTTP transport. */
export function openHttp(): Promise<TransportFixture> {
  const listener = httpListener(LIMITS);
  const server = serve((request) => listener.handle(request));
  const transport = httpTransport({ url: address(server), ...LIMITS });
  return Promise.resolve(fixture(transport, listener, httpTransport({ url: nowhere() }), [server]));
}

/** Opens an HTTP transport through a reverse proxy. */
export function openProxiedHttp(): Promise<TransportFixture> {
  const listener = httpListener(LIMITS);
  const server = serve((request) => listener.handle(request));
  const proxy = reverseProxy(address(server));
  const brokenProxy = reverseProxy(nowhere());
  const transport = httpTransport({ url: address(proxy), ...LIMITS });
  const unreachable = httpTransport({ url: address(brokenProxy) });
  return Promise.resolve(fixture(transport, listener, unreachable, [proxy, brokenProxy, server]));
}

/** Puts a link around a fixture, fast enough for the tests to stay quick. */
export async function overLink(opening: Promise<TransportFixture>): Promise<TransportFixture> {
  const inner = await opening;
  const link = { bandwidthBytesPerSecond: 2e8, latencyMs: 2, jitterMs: 1 };
  const options = { queueBytes: 2 ** 19 };
  return {
    transport: emulateLink(inner.transport, link, options),
    listener: inner.listener,
    unreachable: emulateLink(inner.unreachable, link, options),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  };
}

async function closeAll(
  listener: AsyncDisposable,
  relay: AsyncDisposable,
  server: ReturnType<typeof serve>,
): Promise<void> {
  await listener[Symbol.asyncDispose]();
  await relay[Symbol.asyncDispose]();
  await server.shutdown();
}

/** Opens a WebSocket transport over a relay that does harm. */
export function openFaultyWebSocket(): Promise<FaultFixture> {
  const limits = { ...LIMITS, ...FAULT_LIMITS };
  const listener = webSocketListener(limits);
  const server = serve((request) => listener.handle(request));
  const relay = new FaultyRelay(server.addr.port);
  const transport = webSocketTransport({ url: `ws://127.0.0.1:${relay.port}/`, ...limits });
  return Promise.resolve({
    transport,
    listener,
    relay,
    [Symbol.asyncDispose]: () => closeAll(listener, relay, server),
  });
}

/** Opens an HTTP transport over a relay that does harm. */
export function openFaultyHttp(): Promise<FaultFixture> {
  const { pingIntervalMs, idleTimeoutMs, retryTimeoutMs } = FAULT_LIMITS;
  const listener = httpListener({
    ...LIMITS,
    pollTimeoutMs: pingIntervalMs,
    idleTimeoutMs: idleTimeoutMs + retryTimeoutMs,
  });
  const server = serve((request) => listener.handle(request));
  const relay = new FaultyRelay(server.addr.port);
  const url = `http://127.0.0.1:${relay.port}/`;
  const transport = httpTransport({ url, ...LIMITS, requestTimeoutMs: idleTimeoutMs, retryTimeoutMs });
  return Promise.resolve({
    transport,
    listener,
    relay,
    [Symbol.asyncDispose]: () => closeAll(listener, relay, server),
  });
}

/** Carries bytes to a port of this machine, until it stops without closing anything: a cable that was pulled. */
export class StoppingRelay implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #connections: Deno.Conn[] = [];
  readonly #copying: Promise<unknown>[] = [];
  readonly #serving: Promise<void>;
  readonly #reads: boolean;
  readonly #over = Promise.withResolvers<void>();
  #stopped = false;

  /** @param options Whether what comes after the stop is taken, and thrown away; it fills buffers otherwise. */
  constructor(port: number, { reads = true }: { readonly reads?: boolean } = {}) {
    this.#reads = reads;
    this.#serving = this.#serve(port);
  }

  /** Where to connect, over HTTP or WebSocket. */
  get url(): string {
    return `http://127.0.0.1:${this.#listener.addr.port}/frames`;
  }

  /** From now on nothing gets through, and nobody is told. */
  stop(): void {
    this.#stopped = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#serving;
    this.#over.resolve();
    for (const connection of this.#connections) connection.close();
    await Promise.all(this.#copying);
  }

  async #serve(port: number): Promise<void> {
    for await (const near of this.#listener) {
      const far = await Deno.connect({ hostname: "127.0.0.1", port });
      this.#connections.push(near, far);
      this.#copying.push(this.#copy(near, far), this.#copy(far, near));
    }
  }

  async #copy(from: Deno.Conn, to: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(65_536);
    try {
      for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
        if (this.#stopped && !this.#reads) await this.#over.promise;
        for (let at = 0; at < n && !this.#stopped;) at += await to.write(buffer.subarray(at, n));
      }
    } catch {
      // Closed at the end of the test.
    }
  }
}
