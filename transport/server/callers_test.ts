import { assert, assertEquals } from "@std/assert";
import type { PageFile } from "../page_file.ts";
import { webSocketListener } from "../web_socket.ts";
import { ADMIN, appOf, assertProblem, JOIN, MadeUpRun } from "../../tests/support/made_up_run.ts";
import { isOwnHost, RateLimit } from "./_callers.ts";
import { PAGE_POLICY } from "./pages.ts";
import { Sessions } from "./sessions.ts";

const PAGES = new Map<string, PageFile>([
  ["/", { type: "text/html; charset=utf-8", body: "<!doctype html>" }],
  ["/device/", { type: "text/html; charset=utf-8", body: "<!doctype html>device" }],
  ["/main.js", { type: "text/javascript; charset=utf-8", body: "// x\n".repeat(1000) }],
]);
const OWN = { host: "192.168.1.20:8787", origin: "http://192.168.1.20:8787" };
const admin = { authorization: `Bearer ${ADMIN}` };

/** A browser that is signed in, as it sends requests. */
async function signedIn(
  options: { readonly isTls?: boolean } = {},
  more: Readonly<Record<string, string>> = {},
) {
  const sessions = new Sessions();
  const app = appOf(new MadeUpRun(), { sessions, pages: PAGES });
  const secret = (await sessions.link()).replace("/#signin=", "");
  const remoteAddr = { hostname: "192.168.1.7", port: 1, transport: "tcp" };
  const send = (method: string, path: string, headers?: Record<string, string>, body?: unknown) =>
    app.request(path, {
      method,
      headers: { host: OWN.host, "content-type": "application/json", ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    }, { remoteAddr, ...options });
  const response = await send("POST", "/api/session", { origin: OWN.origin, ...more }, { secret });
  const cookie = response.headers.get("set-cookie")!;
  return { app, send, secret, response, cookie, shown: { cookie: cookie.split(";")[0]! } };
}

Deno.test("hosts: localhost, addresses and names that were allowed, and nothing that somebody else may own", () => {
  const own = [
    "localhost",
    "localhost:8787",
    "app.localhost",
    "127.0.0.1:1",
    "[::1]:8787",
    "10.0.0.3",
    "box",
    "BOX.lan:80",
  ];
  const others = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example:8787",
    "",
    "a b",
    "evil.example@localhost/",
  ];
  for (const host of own) assert(isOwnHost(host, ["box", "Box.LAN"]), host);
  for (const host of others) assert(!isOwnHost(host, ["box"]), host);
});

Deno.test("a page whose name was rebound to this server gets nothing, and programs with a token may use any name", async () => {
  const app = appOf(new MadeUpRun(), { pages: PAGES, allowHosts: ["edge.example"] });
  const get = (path: string, headers: Record<string, string>) => app.request(path, { headers });
  for (const path of ["/", "/main.js", "/health", "/openapi.json", "/api/session", "/api/runs", "/join/ws"]) {
    const detail = await assertProblem(await get(path, { host: "evil.example:8787" }), 421);
    assert(detail.includes("evil.example:8787"));
  }
  assertEquals((await get("/health", { host: "edge.example" })).status, 200);
  assertEquals((await get("/api/runs", { host: "edge.lan", ...admin })).status, 200);
  await assertProblem(
    await get("/api/runs", { host: "evil.example", authorization: "Bearer wrong-token" }),
    421,
  );
  const { send, shown } = await signedIn();
  await assertProblem(await send("GET", "/api/runs", { ...shown, host: "evil.example" }), 421);
});

Deno.test("what changes something takes no page of another origin, WebSockets neither", async () => {
  await using webSocket = webSocketListener();
  const app = appOf(new MadeUpRun(), { webSocket, allowOrigins: ["https://page.example"] });
  const post = (origin: string) =>
    app.request("/api/runs/made%20up/pause", {
      method: "POST",
      headers: { host: OWN.host, origin, ...admin },
    });
  for (
    const origin of [
      "http://evil.example",
      "null",
      "http://192.168.1.20:3000",
      "https://page.example:444",
      "x",
    ]
  ) {
    assert((await assertProblem(await post(origin), 403)).includes(origin));
  }
  for (const origin of [OWN.origin, "https://page.example"]) assertEquals((await post(origin)).status, 200);
  const upgrade = (origin: string) =>
    app.request("/join/ws", {
      headers: { host: OWN.host, origin, upgrade: "websocket", authorization: `Bearer ${JOIN}` },
    });
  await assertProblem(await upgrade("http://evil.example"), 403);
  // It got as far as the handshake.
  await assertProblem(await upgrade(OWN.origin), 400);
});

Deno.test("only origins that were allowed may read answers, and ask before they send", async () => {
  const app = appOf(new MadeUpRun(), { allowOrigins: ["https://page.example"] });
  const ask = (origin: string, method: string, more: Record<string, string> = {}) =>
    app.request("/api/runs", { method, headers: { host: OWN.host, origin, ...more } });
  const preflight = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization",
    "access-control-request-private-network": "true",
  };
  const asked = await ask("https://page.example", "OPTIONS", preflight);
  assertEquals(asked.status, 204);
  assertEquals(
    ["origin", "headers", "private-network"].map((name) => asked.headers.get(`access-control-allow-${name}`)),
    ["https://page.example", "authorization", "true"],
  );
  const read = await ask("https://page.example", "GET", admin);
  assertEquals([read.status, read.headers.get("access-control-allow-origin")], [200, "https://page.example"]);
  // Why a token was refused is for it to read too.
  const refused = await ask("https://page.example", "GET");
  assertEquals([refused.status, refused.headers.get("vary")], [401, "origin"]);
  assertEquals(refused.headers.get("access-control-allow-origin"), "https://page.example");
  for (const origin of ["https://evil.example", OWN.origin]) {
    await assertProblem(await ask(origin, "OPTIONS", preflight), 403);
    assertEquals((await ask(origin, "GET", admin)).headers.get("access-control-allow-origin"), null);
  }
});

Deno.test("a link signs one browser in, by a cookie that neither scripts nor other sites get", async () => {
  const { send, secret, response, cookie, shown } = await signedIn();
  assertEquals(await response.json(), { by: "session", secondsLeft: 43_200 });
  assertEquals(
    cookie.replace(/=[\w-]{43};/, "=;"),
    "edgetuner=; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict",
  );
  assertEquals((await send("GET", "/api/runs", shown)).status, 200);
  assertEquals((await send("GET", "/metrics", shown)).status, 200);
  const again = await send("POST", "/api/session", { origin: OWN.origin }, { secret });
  assert((await assertProblem(again, 401)).includes("used before"));
  const wrong = await send("POST", "/api/session", { origin: OWN.origin }, { secret: "x".repeat(22) });
  assert((await assertProblem(wrong, 401)).includes("must be one of this server"));
  const out = await send("DELETE", "/api/session", { ...shown, origin: OWN.origin });
  assertEquals([out.status, out.headers.get("set-cookie")!.includes("Max-Age=0")], [204, true]);
  await assertProblem(await send("GET", "/api/runs", shown), 401);
  const behindProxy = await signedIn({}, { "x-forwarded-proto": "https" });
  assert(behindProxy.cookie.startsWith("__Host-") && behindProxy.cookie.endsWith("; Secure"));
  const overTls = await signedIn({ isTls: true });
  assert(/^__Host-edgetuner=[\w-]{43};.*; Secure$/.test(overTls.cookie), overTls.cookie);
  assertEquals((await overTls.send("GET", "/api/runs", overTls.shown)).status, 200);
});

Deno.test("a session changes nothing for a page of another port, and for none that does not say where it is from", async () => {
  const { send, shown } = await signedIn();
  const pause = (headers: Record<string, string>) =>
    send("POST", "/api/runs/made%20up/pause", { ...shown, ...headers });
  assert((await assertProblem(await pause({}), 403)).includes("not given"));
  await assertProblem(await pause({ origin: "http://192.168.1.20:3000" }), 403);
  assertEquals((await pause({ origin: OWN.origin })).status, 200);
});

Deno.test("links and sessions end: after their time, and the oldest where there are too many", async () => {
  let now = 0;
  const sessions = new Sessions({ now: () => now, lifetimeMs: 1000, linkLifetimeMs: 100 });
  const secretOf = async () => (await sessions.link()).replace("/#signin=", "");
  const late = await secretOf();
  now = 100;
  assertEquals(await sessions.signIn(late), "expired");
  const signIn = async () => {
    const signed = await sessions.signIn(await secretOf());
    assert(typeof signed === "object");
    return new Request("http://x/", { headers: { cookie: `a=b; edgetuner=${signed.session}` } });
  };
  const first = await signIn();
  assertEquals(await sessions.secondsLeft(first), 1);
  now = 1099;
  assertEquals(await sessions.secondsLeft(first), 0);
  now = 1100;
  assertEquals(await sessions.secondsLeft(first), null);
  const all = [];
  for (let i = 0; i < 65; i++) all.push(await signIn());
  assertEquals([await sessions.secondsLeft(all[0]!), await sessions.secondsLeft(all[1]!)], [null, 1]);
});

Deno.test("two that use a link at once: one is signed in", async () => {
  const sessions = new Sessions();
  const secret = (await sessions.link()).replace("/#signin=", "");
  const signed = await Promise.all([sessions.signIn(secret), sessions.signIn(secret)]);
  assertEquals(signed.map((one) => typeof one === "string" ? one : "in").sort(), ["in", "used"]);
});

Deno.test("pages come with headers that let them load nothing of others", async () => {
  const app = appOf(new MadeUpRun(), { pages: PAGES });
  const get = (path: string, headers: Record<string, string> = {}) =>
    app.request(path, { headers: { host: OWN.host, ...headers } });
  const page = await get("/");
  assertEquals([page.status, await page.text()], [200, "<!doctype html>"]);
  const expected = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
  };
  for (const [name, value] of Object.entries(expected)) assertEquals(page.headers.get(name), value, name);
  for (const rule of ["default-src 'none'", "require-trusted-types-for 'script'", "frame-ancestors 'none'"]) {
    assert(PAGE_POLICY.split("; ").includes(rule), rule);
  }
  assert(!PAGE_POLICY.includes("unsafe"));
  const packed = await get("/main.js", { "accept-encoding": "br, gzip" });
  assertEquals(packed.headers.get("content-encoding"), "gzip");
  const text = await new Response(packed.body!.pipeThrough(new DecompressionStream("gzip"))).text();
  assertEquals(text, PAGES.get("/main.js")!.body);
  const etag = packed.headers.get("etag")!;
  assertEquals((await get("/main.js", { "if-none-match": etag })).status, 304);
  const moved = await get("/device");
  assertEquals([moved.status, moved.headers.get("location")], [308, "/device/"]);
  assertEquals(await (await app.request("/main.js", { method: "HEAD" })).text(), "");
  await assertProblem(await app.request("/main.js", { method: "POST" }), 404);
  // Answers of the API are no pages.
  const api = await get("/health");
  assertEquals(api.headers.get("content-security-policy"), "default-src 'none'; frame-ancestors 'none'");
  assertEquals([api.headers.get("cache-control"), api.headers.get("x-content-type-options")], [
    "no-store",
    "nosniff",
  ]);
});

Deno.test("an address that sends too much without a token is told to wait; wrong tokens count more", async () => {
  const from = (hostname: string) => ({ remoteAddr: { hostname, port: 1, transport: "tcp" } });
  const app = appOf(new MadeUpRun(), { rate: { perSecond: 1, burst: 20 } });
  const ask = (address: string, headers: Record<string, string> = {}) =>
    app.request("/health", { headers }, from(address));
  for (let i = 0; i < 20; i++) assertEquals((await ask("10.0.0.1")).status, 200);
  const refused = await ask("10.0.0.1");
  assertEquals(refused.headers.get("retry-after"), "1");
  await assertProblem(refused, 429);
  assertEquals((await ask("10.0.0.1", admin)).status, 200);
  assertEquals((await ask("10.0.0.2")).status, 200);
  const guess = () =>
    app.request("/api/runs", { headers: { authorization: "Bearer wrong-token" } }, from("10.0.0.3"));
  assertEquals([(await guess()).status, (await guess()).status, (await guess()).status], [401, 401, 429]);
});

Deno.test("the limit of an address fills again, and remembers so many addresses", () => {
  const limit = new RateLimit({ perSecond: 10, burst: 2 });
  assertEquals([limit.take("a", 1, 0), limit.take("a", 1, 0), limit.take("a", 1, 0)], [0, 0, 1]);
  assertEquals(limit.take("a", 1, 100), 0);
  assertEquals(limit.take("b", 100, 0), 0);
  assertEquals(limit.take("b", 1, 0), 10);
  for (let i = 0; i < 5000; i++) limit.take(`${i}`, 1, 0);
  assertEquals(limit.take("b", 1, 0), 0);
});
