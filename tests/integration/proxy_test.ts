/**
 * `examples/pull.ts` behind a proxy: a hub and a proxy on this machine, the program in a process of its own.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { EXAMPLES } from "../support/places.ts";

const PULL = `${EXAMPLES}pull.ts`;
const CONTENT = Uint8Array.from({ length: 50_000 }, (_, i) => (i * 7919) >> 3);
const FILES: Readonly<Record<string, Uint8Array<ArrayBuffer>>> = {
  "config.json": new TextEncoder().encode('{"model_type":"gpt2"}'),
  "model.safetensors": CONTENT,
};

/** A hub with one model. */
function hub(request: Request): Response {
  const { pathname } = new URL(request.url);
  if (pathname === "/api/models/some/model/revision/main") {
    return Response.json({
      siblings: Object.entries(FILES).map(([rfilename, { length: size }]) => ({ rfilename, size })),
    });
  }
  const file = FILES[pathname.replace("/some/model/resolve/main/", "")];
  return file === undefined ? new Response("", { status: 404 }) : new Response(file);
}

/** A server on a free port. */
function serve(handler: (request: Request) => Response | Promise<Response>) {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, handler);
  return { url: `http://127.0.0.1:${server.addr.port}`, [Symbol.asyncDispose]: () => server.shutdown() };
}

/** A proxy for plain HTTP, which gets whole addresses and asks for them itself; it notes what it saw. */
function proxy() {
  const seen: { readonly url: string; readonly credentials: string | null }[] = [];
  const server = serve(async (request) => {
    seen.push({ url: request.url, credentials: request.headers.get("proxy-authorization") });
    const answer = await fetch(request.url);
    return new Response(answer.body, { status: answer.status, headers: answer.headers });
  });
  return { ...server, seen };
}

interface Pulled {
  readonly code: number;
  readonly err: string;
  /** The model's file, if it came. */
  readonly bytes: Uint8Array | null;
}

/** Runs the program with an environment of its own. */
async function pull(endpoint: string, env: Readonly<Record<string, string>>): Promise<Pulled> {
  const cache = await Deno.makeTempDir();
  try {
    const home = ["PATH", "HOME", "DENO_DIR", "XDG_CACHE_HOME"].flatMap((name) => {
      const value = Deno.env.get(name);
      return value === undefined ? [] : [[name, value] as const];
    });
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--quiet", "--cached-only", PULL],
        ...["--model", "some/model", "--endpoint", endpoint, "--cache", cache],
      ],
      clearEnv: true,
      env: { ...Object.fromEntries(home), NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", ...env },
    }).output();
    const file = `${cache}/models/some/model/main/model.safetensors`;
    const bytes = await Deno.readFile(file).catch(() => null);
    return { code, err: new TextDecoder().decode(stderr), bytes };
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
}

for (const name of ["HTTP_PROXY", "http_proxy", "ALL_PROXY"]) {
  Deno.test(`pull.ts asks the proxy that ${name} names, and the file arrives [slow]`, async () => {
    await using origin = serve(hub);
    await using between = proxy();
    const { code, err, bytes } = await pull(origin.url, { [name]: between.url });
    assertEquals(code, 0, err);
    assertEquals(bytes, CONTENT);
    assertEquals(between.seen.map(({ url }) => url), [
      `${origin.url}/api/models/some/model/revision/main?blobs=true`,
      `${origin.url}/some/model/resolve/main/config.json`,
      `${origin.url}/some/model/resolve/main/model.safetensors`,
    ]);
  });
}

Deno.test("pull.ts tells the proxy the user and password of its address [slow]", async () => {
  await using origin = serve(hub);
  await using between = proxy();
  const address = between.url.replace("://", "://user:secret@");
  const { code, err } = await pull(origin.url, { HTTP_PROXY: address });
  assertEquals(code, 0, err);
  assert(between.seen.every(({ credentials }) => credentials === `Basic ${btoa("user:secret")}`));
});

Deno.test("pull.ts goes past the proxy where NO_PROXY says so [slow]", async () => {
  await using origin = serve(hub);
  await using between = proxy();
  const env = { HTTP_PROXY: between.url, NO_PROXY: "localhost,127.0.0.1" };
  const { code, err, bytes } = await pull(origin.url, env);
  assertEquals(code, 0, err);
  assertEquals(bytes, CONTENT);
  assertEquals(between.seen, []);
});

Deno.test("pull.ts does not go past a proxy that refuses [slow]", async () => {
  let asked = 0;
  await using origin = serve((request) => {
    asked++;
    return hub(request);
  });
  await using refusing = serve(() => new Response("ask the administrator", { status: 403 }));
  const { code, err, bytes } = await pull(origin.url, { HTTP_PROXY: refusing.url });
  assertEquals([code, bytes, asked], [1, null, 0]);
  assertStringIncludes(err, "403");
});
