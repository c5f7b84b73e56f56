import { EdgeServer, HandshakeError, newDeviceKey, runUserDevice } from "@edgetuner/core";
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { askToJoin, inviteOf, waitForApproval } from "../control/ask_to_join.ts";
import { ControlClient, ControlError } from "../control/client.ts";
import type { JoinRequestJson } from "../control/types.ts";
import { httpListener, httpTransport } from "../http.ts";
import { invitedDeviceOf } from "../_invited.ts";
import { webSocketListener, webSocketTransport } from "../web_socket.ts";
import { engineOf } from "../../tests/support/kernels.ts";
import { ADMIN, appOf, assertProblem, JOIN, MadeUpRun } from "../../tests/support/made_up_run.ts";
import { BATCH, LOSS, TinyGpt2, tinySettings } from "../../tests/support/tiny_model.ts";
import { until } from "../../tests/support/until.ts";
import { Invitations, type InvitationsOptions } from "./invitations.ts";
import { serve } from "./serve.ts";

const engine = await engineOf("software");
const model = new TinyGpt2(engine);
const HOST = "192.168.1.20:8787";
const run = "made up";

/** An app with a made-up run and a device that has a key. */
async function invited(options: InvitationsOptions = {}) {
  const invitations = new Invitations(options);
  const made = Object.assign(new MadeUpRun(), { remove: () => false });
  const app = appOf(made, { invitations });
  const fetch = (request: Request) => app.fetch(request);
  const { publicKey } = await newDeviceKey();
  const device = { name: "kitchen phone", id: "0123456789abcdef".repeat(2), key: publicKey };
  const invite = async () => inviteOf(await invitations.invite(run))!;
  const ask = (secret: string, headers: Record<string, string> = {}, body: object = device) =>
    app.request("/join/requests", {
      method: "POST",
      headers: { host: HOST, "content-type": "application/json", ...headers },
      body: JSON.stringify({ invite: secret, ...body }),
    });
  return {
    invitations,
    made,
    app,
    fetch,
    device,
    invite,
    ask,
    host: new ControlClient({ token: ADMIN, fetch }),
  };
}

Deno.test("an invite has 128 bits, in the fragment, and is good for ten minutes", async () => {
  let now = 0;
  const { invitations, host, ask, invite } = await invited({ now: () => now });
  const { path, secondsLeft } = await host.call("POST /api/runs/:run/invites", { params: { run } });
  assertEquals(secondsLeft, 600);
  const secret = inviteOf(`http://${HOST}${path}`)!;
  assertEquals(Uint8Array.fromBase64(secret, { alphabet: "base64url" }).length, 16);
  assertEquals(new URL(`http://${HOST}${path}`).pathname, "/device/");
  assertEquals(inviteOf("http://x/device/?invite=" + secret), null);
  now = 599_999;
  assertEquals((await invitations.look(secret)).state, "good");
  const late = await invite();
  now = 600_000;
  const detail = await assertProblem(await ask(secret), 410);
  assertStringIncludes(detail, "its time is over");
  assertEquals((await ask(late)).status, 201);
});

Deno.test("a wrong, used, or foreign invite is refused, and says why", async () => {
  const { app, made, ask, invite, host } = await invited();
  const secret = await invite();
  assertStringIncludes(await assertProblem(await ask("x".repeat(22)), 401), "must be one of this server");
  // A page of somebody else, and a name that was pointed here: the invite stays good.
  for (const origin of ["http://evil.example", "null", `http://${HOST.replace("8787", "3000")}`]) {
    assertStringIncludes(await assertProblem(await ask(secret, { origin }), 403), origin);
  }
  await assertProblem(await ask(secret, { host: "evil.example" }), 421);
  const form = await ask(secret, { "content-type": "text/plain" });
  assertStringIncludes(await assertProblem(form, 400), "must be application/json");
  const [first, second] = await Promise.all([ask(secret, { origin: `http://${HOST}` }), ask(secret)]);
  assertEquals([first.status, second.status].sort(), [201, 410]);
  assertStringIncludes(await assertProblem(await ask(secret), 410), "used before");
  // It cannot be used for anything else.
  const other = await invite();
  const as = (path: string, method = "GET") =>
    app.request(path, { method, headers: { authorization: `Bearer ${other}` } });
  for (const path of ["/api/runs", "/join/ws", "/join/http/frames", "/join/request", "/metrics"]) {
    assertStringIncludes(await assertProblem(await as(path), 403), "An invite is good for asking to join");
  }
  assertEquals((await (await as("/join/about")).json()).map((one: { run: string }) => one.run), [run]);
  // For a run that is over it is not used up.
  made.status = "ended";
  await assertProblem(await ask(other), 404);
  await assertRejects(
    () => host.call("POST /api/runs/:run/invites", { params: { run } }),
    ControlError,
    "must not be over",
  );
  await assertRejects(
    () => host.call("POST /api/runs/:run/invites", { params: { run: "x" } }),
    ControlError,
    "must exist",
  );
});

Deno.test("who asks must say who it is: names without control characters, ids and keys of their form", async () => {
  const { ask, device } = await invited();
  for (
    const [change, said] of [
      [{ name: "" }, '"name"'],
      [{ name: "a\nb" }, '"name"'],
      [{ name: "\u202egood" }, '"name"'],
      [{ name: "x".repeat(65) }, '"name"'],
      [{ id: "0123" }, '"id"'],
      [{ key: "short" }, '"key"'],
      [{ more: 1 }, '"more"'],
    ] as const
  ) {
    assertStringIncludes(
      await assertProblem(await ask("x".repeat(22), {}, { ...device, ...change }), 400),
      said,
    );
  }
});

Deno.test("a device waits until the host answers: approved, refused, or approved after all", async () => {
  const { invitations, fetch, device, invite, host } = await invited();
  const heard: [string, string][] = [];
  invitations.subscribe(({ request, state }) => heard.push([request, state]));
  const asking = async () => {
    const asked = Promise.withResolvers<{ request: JoinRequestJson; joinKey: string }>();
    const waiting = askToJoin({
      fetch,
      device,
      invite: await invite(),
      onAsked: (request, joinKey) => asked.resolve({ request, joinKey }),
    });
    return { waiting, ...await asked.promise };
  };
  const first = await asking();
  assertEquals(
    { ...first.request, code: "" },
    { request: "1", run, name: "kitchen phone", device: "01234567", code: "", state: "waiting", seconds: 0 },
  );
  assert(/^[\da-f]{4}-[\da-f]{4}$/.test(first.request.code));
  assertEquals(await host.call("GET /api/runs/:run/requests", { params: { run } }), [first.request]);
  await host.call("POST /api/runs/:run/requests/:request/approve", { params: { run, request: "1" } });
  assertEquals(await first.waiting, first.joinKey);
  const second = await asking();
  await host.call("POST /api/runs/:run/requests/:request/refuse", { params: { run, request: "2" } });
  await assertRejects(() => second.waiting, ControlError, "The host has refused this device");
  await host.call("POST /api/runs/:run/requests/:request/approve", { params: { run, request: "2" } });
  await waitForApproval({ fetch, joinKey: second.joinKey });
  assertEquals(heard, [["1", "waiting"], ["1", "approved"], ["2", "waiting"], ["2", "refused"], [
    "2",
    "approved",
  ]]);
  for (const request of ["3", "x"]) {
    const answer = host.call("POST /api/runs/:run/requests/:request/approve", { params: { run, request } });
    await assertRejects(() => answer, ControlError, "there is none");
  }
  // Removed: not even approved again, and the key says so.
  await host.call("POST /api/runs/:run/devices/:device/remove", { params: { run, device: device.id } });
  await assertRejects(
    () => host.call("POST /api/runs/:run/requests/:request/approve", { params: { run, request: "1" } }),
    ControlError,
    "its device was removed",
  );
  const removed = new ControlClient({ fetch, token: first.joinKey });
  assertEquals((await removed.call("GET /join/request")).state, "removed");
  await assertRejects(() => removed.call("GET /join/about"), ControlError, "has removed this device");
  await assertRejects(
    () => host.call("POST /api/runs/:run/devices/:device/remove", { params: { run, device: "nobody" } }),
    ControlError,
    "devices are 0123abcd",
  );
});

Deno.test("what is kept has no secret, and lets the same devices in again", async () => {
  const { invitations, device, invite } = await invited();
  const keys: string[] = [];
  for (const name of ["phone", "stranger", "late"]) {
    const redeemed = await invitations.redeem(await invite(), { ...device, name });
    assert(typeof redeemed === "object");
    keys.push(redeemed.joinKey);
  }
  invitations.answer("1", "approved");
  invitations.answer("2", "refused");
  const kept = JSON.parse(JSON.stringify(invitations.kept(run)));
  assert(keys.every((key) => !JSON.stringify(kept).includes(key)));
  const other = new Invitations();
  await other.restore(kept);
  await other.restore(kept);
  const states = await Promise.all(keys.map(async (key) => (await other.ofKey(key))?.state));
  assertEquals(states, ["approved", "refused", "waiting"]);
  assertEquals(await other.letIn(keys[0]!), { run, id: device.id, key: device.key });
  assertEquals([await other.letIn(keys[1]!), other.requests(run).length], [null, 3]);
});

Deno.test("a question for an answer ends after its time, and with its signal", async () => {
  const { invitations, device, invite } = await invited();
  const redeemed = await invitations.redeem(await invite(), device);
  assert(typeof redeemed === "object");
  const { request } = redeemed.request;
  const abort = new AbortController();
  await invitations.changed(request, { state: "waiting", limitMs: 5 });
  const waiting = invitations.changed(request, { state: "waiting", limitMs: 100_000, signal: abort.signal });
  abort.abort();
  await waiting;
  await invitations.changed(request, { state: "waiting", limitMs: 100_000, signal: abort.signal });
  await invitations.changed(request, { state: "approved", limitMs: 100_000 });
  await invitations.changed("none", { state: "waiting", limitMs: 100_000 });
});

Deno.test("with approveAll nobody is asked; events of a run tell of requests", async () => {
  const { fetch, device, invite, host } = await invited({ approveAll: true });
  const events = host.events(run);
  await events.next();
  await askToJoin({ fetch, device, invite: await invite() });
  const { event, data } = (await events.next()).value!;
  assertEquals([event, (data as JoinRequestJson).state], ["request", "approved"]);
  await events.return(undefined);
});

Deno.test("a real run: an invited device joins over WebSocket and HTTP with its key, and no other device does [slow]", async () => {
  const invitations = new Invitations();
  const server = new EdgeServer({
    engine,
    base: model.layers,
    fingerprint: "tiny",
    settings: tinySettings("slice", 1000),
    pruner: { name: "none", needs: [], init: () => null, decide: () => [{ mask: new Uint8Array(12) }, null] },
    devices: 2,
    run: "real",
  });
  await using webSocket = webSocketListener();
  await using http = httpListener();
  const app = appOf(server, { webSocket, http, invitations });
  // What a proxy, a log or a history would see of a request.
  const lines: string[] = [];
  await using served = await serve({
    fetch: (request, info) => {
      lines.push(`${request.method} ${request.url}`);
      return app.fetch(request, info);
    },
  });
  const url = `http://127.0.0.1:${served.port}`;
  const admitting = [webSocket, http].map(async (listener) => {
    for (let channel = await listener.accept(); channel !== null; channel = await listener.accept()) {
      void server.join(channel, { device: invitedDeviceOf(channel) });
    }
  });
  const running = server.start();
  const host = new ControlClient({ url, token: ADMIN });
  const params = { run: "real" };
  const key = await newDeviceKey();
  const phone = { name: "phone", id: "a".repeat(32), key: key.publicKey };
  const { path } = await host.call("POST /api/runs/:run/invites", { params });
  const asked = Promise.withResolvers<readonly [request: string, joinKey: string]>();
  const approved = askToJoin({
    url,
    device: phone,
    invite: inviteOf(path)!,
    onAsked: ({ request }, joinKey) => asked.resolve([request, joinKey]),
  });
  const [request, waitingKey] = await asked.promise;
  const wsOf = (token: string) => webSocketTransport({ url: `${url}/join/ws`, token });
  const httpOf = (token: string) => httpTransport({ url: `${url}/join/http/frames`, token });
  // Before the host has answered.
  await assertRejects(
    () => wsOf(waitingKey).connect(),
    HandshakeError,
    "has not approved this device yet",
  );
  await assertRejects(
    () => httpOf(waitingKey).connect(),
    HandshakeError,
    "has not approved this device yet",
  );
  await host.call("POST /api/runs/:run/requests/:request/approve", { params: { ...params, request } });
  const token = await approved;
  const common = { engine, capacity: 1, timeoutMs: 20_000 };
  // Whoever finds the key: another device.
  const thief = await newDeviceKey();
  for (const link of [wsOf(token), httpOf(token)]) {
    await assertRejects(
      async () =>
        await runUserDevice({
          ...common,
          name: "phone",
          id: phone.id,
          key: thief,
          channel: await link.connect(),
        }),
      HandshakeError,
      "is another device's",
    );
  }
  const data = {
    ends: model.ends,
    loss: LOSS,
    fingerprint: "tiny",
    next: () => ({ batch: BATCH, mode: "train" as const }),
  };
  const laptop = runUserDevice({ ...common, name: "laptop", data, channel: await wsOf(JOIN).connect() });
  const { name, id } = phone;
  const joined = runUserDevice({ ...common, name, id, key, channel: await wsOf(token).connect() });
  await until(() => server.latest !== null, "a step");
  // Removed: it hears why, and its key opens nothing.
  const device = id.slice(0, 8);
  assertEquals(
    await host.call("POST /api/runs/:run/devices/:device/remove", { params: { ...params, device } }),
    {
      run: "real",
      device,
    },
  );
  const result = await joined;
  assertStringIncludes(result.reason, "the host has removed this device");
  result.modules![Symbol.dispose]();
  await assertRejects(() => wsOf(token).connect(), HandshakeError, "The host has removed this device");
  await host.call("POST /api/runs/:run/stop", { params });
  await running;
  (await laptop).modules![Symbol.dispose]();
  for (const secret of [inviteOf(path)!, token, JOIN, ADMIN, phone.key, phone.id]) {
    const base64 = new TextEncoder().encode(secret).toBase64({ alphabet: "base64url", omitPadding: true });
    for (const line of lines) assert(!line.includes(secret) && !line.includes(base64), line);
  }
  for (const asked of ["/join/requests", "/join/request?", "/join/ws", "/join/http/frames"]) {
    assert(lines.some((line) => line.includes(asked)), asked);
  }
  for (const listener of [webSocket, http]) await listener[Symbol.asyncDispose]();
  await Promise.all(admitting);
});
