import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { ListenError } from "@edgetuner/core/contracts";
import { httpTransport, requireToken, webSocketListener, webSocketTransport } from "@edgetuner/transport";
import { fileURLToPath } from "node:url";
import { until } from "../../tests/support/until.ts";
import { serve, type ServeOptions, type Serving } from "./serve.ts";
import { assertQuick } from "../../tests/support/quick.ts";

const TOKEN = "a-join-token";
const encoder = new TextEncoder();
const HALF_HEADER = "GET /health HTT";
const SLOW_BODY = "POST /join/http/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nab";

async function open(port: number, text = ""): Promise<Deno.Conn> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  if (text !== "") await connection.write(encoder.encode(text)).catch(() => {});
  return connection;
}

/** Resolves with the first bytes of an answer; empty if the connection ends before. */
async function answerOf(connection: Deno.Conn): Promise<string> {
  const buffer = new Uint8Array(1000);
  const bytes = await connection.read(buffer).catch(() => null);
  return new TextDecoder().decode(buffer.subarray(0, bytes ?? 0));
}

function closeAll(connections: readonly Deno.Conn[]): void {
  for (const connection of connections) {
    try {
      connection.close();
    } catch {
      // The server did already.
    }
  }
}

/** `small_server.ts` in a process of its own that may open only so many files. */
class SmallServer implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  port = 0;

  constructor(files: number, options: ServeOptions) {
    const path = fileURLToPath(new URL("../../tests/support/small_server.ts", import.meta.url));
    this.#child = new Deno.Command("sh", {
      args: ["-c", 'ulimit -n "$1" && exec "$2" run -A "$3" "$4"', "sh"].concat(
        String(files),
        Deno.execPath(),
        path,
        JSON.stringify(options),
      ),
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    this.#lines = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#input = this.#child.stdin.getWriter();
  }

  static async start(files: number, options: ServeOptions): Promise<SmallServer> {
    const server = new SmallServer(files, options);
    server.port = Number((await server.#lines.read()).value);
    return server;
  }

  async connections(): Promise<Serving["connections"]> {
    await this.#input.write(encoder.encode("?\n"));
    return JSON.parse((await this.#lines.read()).value!);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {});
    assertEquals((await this.#child.status).code, 0);
    await this.#lines.cancel();
  }
}

/** What an honest device does: frames there and back over both transports. */
async function requireHonestRun(port: number): Promise<void> {
  const url = `http://127.0.0.1:${port}/join`;
  for (
    const transport of [
      webSocketTransport({ url: `${url}/ws`, token: TOKEN }),
      httpTransport({ url: `${url}/http/x`, token: TOKEN }),
    ]
  ) {
    await using channel = await transport.connect();
    for (const size of [1, 200_000]) {
      await channel.send(new Uint8Array(size));
      assertEquals((await channel.receive())?.length, size);
    }
  }
}

/** An honest device that is turned away tries again. */
async function requireHonestRunSoon(port: number): Promise<void> {
  await until(() => requireHonestRun(port).then(() => true, () => false), "an honest run");
}

const onUnix = Deno.build.os !== "windows";

Deno.test({
  name:
    "idle connections, half headers and slow bodies neither end a server nor keep honest devices out [slow]",
  ignore: !onUnix,
  async fn() {
    await using server = await SmallServer.start(200, { headerTimeoutMs: 1500 });
    const { port } = server;
    await requireHonestRun(port);
    const connections: Deno.Conn[] = [];
    for (let i = 0; i < 400; i++) connections.push(await open(port, ["", HALF_HEADER, SLOW_BODY][i % 3]));
    // The server hears of some of them only after they were opened here.
    await until(async () => {
      const { all, refused } = await server.connections();
      return all < 75 && refused > 200;
    }, "most are refused");
    await requireHonestRunSoon(port);
    // Nobody closes them but the server.
    await until(async () => (await server.connections()).strangers === 0, "the end of all half headers");
    closeAll(connections);
    await requireHonestRun(port);
  },
});

Deno.test({
  name: "a server that ran out of files accepts again by itself [slow]",
  ignore: !onUnix,
  async fn() {
    const limits = { maxConnections: 5000, maxStrangersPerAddress: 2000, checkIntervalMs: 300 };
    await using server = await SmallServer.start(64, { headerTimeoutMs: 1000, ...limits });
    const connections: Deno.Conn[] = [];
    for (let i = 0; i < 200; i++) connections.push(await open(server.port));
    assert((await server.connections()).all < 64);
    await requireHonestRunSoon(server.port);
    closeAll(connections);
    await requireHonestRunSoon(server.port);
  },
});

Deno.test("too many connections are answered with 503, and there is room again once they are over [slow]", async () => {
  await using server = await serve({ fetch: () => new Response("fine") }, {
    maxConnections: 20,
    maxStrangers: 10,
    maxStrangersPerAddress: 3,
  });
  const connections: Deno.Conn[] = [];
  for (let i = 0; i < 3; i++) connections.push(await open(server.port));
  await until(() => server.connections.all === 3, "three connections");
  const url = `http://127.0.0.1:${server.port}/`;
  const client = Deno.createHttpClient({ poolMaxIdlePerHost: 0 });
  const response = await fetch(url, { client });
  assertEquals([response.status, response.headers.get("retry-after")], [503, "5"]);
  assertStringIncludes(await response.text(), "there must be room for a connection");
  const socket = new WebSocket(`ws://127.0.0.1:${server.port}/`);
  await new Promise((resolve) => socket.onerror = resolve);
  assertEquals(server.connections, { all: 3, strangers: 3, refused: 2 });
  closeAll(connections);
  await until(() => server.connections.all === 0, "their end");
  const after = await fetch(url, { client });
  assertEquals([after.status, await after.text()], [200, "fine"]);
  client.close();
});

Deno.test("those who showed a token stay, and strangers without a request give way [slow]", async () => {
  await using listener = webSocketListener({ authorize: requireToken(TOKEN) });
  await using server = await serve({ fetch: (request) => listener.handle(request) }, {
    maxConnections: 4,
    maxStrangers: 2,
    maxStrangersPerAddress: 2,
  });
  const transport = webSocketTransport({ url: `ws://127.0.0.1:${server.port}`, token: TOKEN });
  await using first = await transport.connect();
  const strangers = [await open(server.port), await open(server.port)];
  await until(() => server.connections.all === 3, "three connections");
  assertEquals(server.connections.strangers, 2);
  // After a second without a request.
  await using second = await (async () => {
    for (;;) {
      const channel = await transport.connect().catch(() => null);
      if (channel !== null) return channel;
    }
  })();
  assertEquals(await answerOf(strangers[0]!), "");
  for (const channel of [first, second]) {
    const accepted = await listener.accept();
    await channel.send(Uint8Array.of(7));
    assertEquals(await accepted?.receive(), Uint8Array.of(7));
    await channel.close();
  }
  closeAll(strangers);
  await until(() => server.connections.all === 0, "the end of all");
});

Deno.test("a stranger who is turned away keeps no place, whatever the answer says of the connection", async () => {
  const headers = { connection: "upgrade", upgrade: "websocket" };
  await using server = await serve({ fetch: () => new Response("", { status: 426, headers }) });
  const client = Deno.createHttpClient({});
  // A client that would keep the connection for the next request.
  const response = await fetch(`http://127.0.0.1:${server.port}/`, { client });
  assertEquals([response.status, response.headers.get("upgrade")], [426, "websocket"]);
  assertStringIncludes(response.headers.get("connection") ?? "", "upgrade");
  await response.body?.cancel();
  await until(() => server.connections.all === 0, "its end");
  client.close();
});

Deno.test("headers, bodies and idle connections have a time limit [slow]", async () => {
  await using server = await serve({
    fetch: async (request) => new Response(String((await request.arrayBuffer()).byteLength)),
  }, { headerTimeoutMs: 200, requestTimeoutMs: 500, idleTimeoutMs: 400 });
  const body = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
  const started = performance.now();
  const endOf = async (text: string, more = "") => {
    const connection = await open(server.port, text);
    const timer = setInterval(() => void connection.write(encoder.encode(more)).catch(() => {}), 100);
    let all = "";
    for (let part = await answerOf(connection); part !== ""; part = await answerOf(connection)) all += part;
    clearInterval(timer);
    closeAll([connection]);
    return all.split("\r\n")[0];
  };
  const answers = await Promise.all([
    endOf(""),
    endOf(HALF_HEADER, "a"),
    endOf(body, "x".repeat(3)),
    endOf(body + "12"),
    endOf("GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
    endOf("GET / HTTP/1.1\r\nhost: x\r\nlong: " + "x".repeat(20_000)),
  ]);
  assertEquals(answers, ["", "", "HTTP/1.1 200 OK", "", "HTTP/1.1 200 OK", ""]);
  assertQuick(performance.now() - started, 4000);
  await until(() => server.connections.all === 0, "the end of all");
});

Deno.test("what comes over a WebSocket before it is open here is not lost [slow]", async () => {
  await using listener = webSocketListener({ authorize: requireToken(TOKEN), retryTimeoutMs: 100 });
  const asked = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<void>();
  await using server = await serve({
    async fetch(request) {
      if (request.url.endsWith("/turn")) return new Response("");
      asked.resolve();
      await answered.promise;
      return await listener.handle(request);
    },
  });
  const connection = await open(
    server.port,
    [
      "GET / HTTP/1.1",
      "host: x",
      "connection: Upgrade",
      "upgrade: websocket",
      "sec-websocket-version: 13",
      "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
      `sec-websocket-protocol: edgetuner.v2, edgetuner.open.${"a".repeat(43)}`,
      `authorization: Bearer ${TOKEN}\r\n\r\n`,
    ].join("\r\n"),
  );
  await asked.promise;
  // A message with a frame of one byte, 7, under a mask of zeros.
  const message = new Uint8Array(33);
  message.set([1, 0, 0, 0, 1]);
  message[32] = 7;
  await connection.write(Uint8Array.of(0x82, 0x80 + message.length, 0, 0, 0, 0, ...message));
  for (let turns = 0; turns < 5; turns++) await (await fetch(`http://127.0.0.1:${server.port}/turn`)).text();
  answered.resolve();
  await using edge = await listener.accept();
  assertEquals(await edge?.receive({ signal: AbortSignal.timeout(3000) }), Uint8Array.of(7));
  connection.close();
  await edge?.closed;
});

Deno.test("a port that is in use and options out of range are refused [slow]", async () => {
  const app = { fetch: () => new Response("") };
  await using server = await serve(app);
  const error = await assertRejects(() => serve(app, { port: server.port }), ListenError, "it is in use");
  assertEquals(error.code, "EADDRINUSE");
  await assertRejects(() => serve(app, { port: 70_000 }), RangeError, "70000");
  await assertRejects(() => serve(app, { maxConnections: 0 }), RangeError, "'maxConnections'");
});

Deno.test("shutdown ends connections that would stay [slow]", async () => {
  const server = await serve({ fetch: () => new Promise<Response>(() => {}) });
  const connections = [await open(server.port), await open(server.port, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")];
  await until(() => server.connections.all === 2, "two connections");
  await server.shutdown(100);
  assertEquals(await Promise.all(connections.map(answerOf)), ["", ""]);
  closeAll(connections);
  await assertRejects(() => open(server.port));
});
