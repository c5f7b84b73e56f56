import { EdgeServer, runUserDevice, type UserDeviceResult } from "@edgetuner/core";
import type { Listener, Pruner, Transport } from "@edgetuner/core/contracts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  BATCH,
  flatten,
  keepAll,
  LOSS,
  sideBySide,
  TinyGpt2,
  tinySettings,
  trainLocally,
} from "../../tests/support/tiny_model.ts";
import { engineOf } from "../../tests/support/kernels.ts";
import { httpListener, httpTransport } from "../http.ts";
import { detailOf } from "../problem.ts";
import { webSocketListener, webSocketTransport } from "../web_socket.ts";
import { serverSentEvents } from "../control/client.ts";
import { type ControlAppOptions, eventJson, stepJson } from "./control_app.ts";
import { ADMIN, appOf, assertProblem, JOIN, MadeUpRun, RECORD } from "../../tests/support/made_up_run.ts";
import { until } from "../../tests/support/until.ts";

const engine = await engineOf("software");
const model = new TinyGpt2(engine);

const asAdmin = { headers: { authorization: `Bearer ${ADMIN}` } };
const asDevice = { headers: { authorization: `Bearer ${JOIN}` } };

Deno.test("health needs no token", async () => {
  const response = await appOf(new MadeUpRun(), { version: "1.2.3" }).request("/health");
  const runs = [{ health: "ok", state: "running", step: 3, secondsSinceStep: null, secondsSilent: 0 }];
  assertEquals([response.status, await response.json()], [200, { status: "ok", version: "1.2.3", runs }]);
});

Deno.test("health is 503 once a run has failed, or shows no sign of life", async () => {
  let silentMs = 900;
  const run = Object.assign(new MadeUpRun(), { health: () => ({ silentMs, sinceStepMs: 1500 }) });
  const app = appOf(run, { silentLimitMs: 1000 });
  const ask = async () => {
    const response = await app.request("/health");
    const { status, runs } = await response.json();
    return [response.status, status, runs[0].secondsSinceStep, runs[0].secondsSilent];
  };
  assertEquals(await ask(), [200, "ok", 1.5, 0.9]);
  silentMs = 1100;
  assertEquals(await ask(), [503, "silent", 1.5, 1.1]);
  run.status = "ended"; // whoever computed its steps may be gone
  assertEquals(await ask(), [200, "ok", 1.5, 1.1]);
  run.status = "failed";
  assertEquals(await ask(), [503, "failed", 1.5, 1.1]);
});

Deno.test("every other route needs its own token", async () => {
  const run = new MadeUpRun();
  await using webSocket = webSocketListener();
  await using http = httpListener();
  const app = appOf(run, { webSocket, http });
  const routes: [string, string, string][] = [
    ["GET", "/api/runs", JOIN],
    ["GET", "/api/runs/made%20up", JOIN],
    ["GET", "/api/runs/made%20up/devices", JOIN],
    ["GET", "/api/runs/made%20up/events", JOIN],
    ["POST", "/api/runs/made%20up/pause", JOIN],
    ["POST", "/api/runs/made%20up/resume", JOIN],
    ["POST", "/api/runs/made%20up/stop", JOIN],
    ["GET", "/api", JOIN],
    ["GET", "/api/nothing", JOIN],
    ["DELETE", "/api/runs", JOIN],
    ["GET", "/join/ws", ADMIN],
    ["GET", "/join/http", ADMIN],
    ["GET", "/join/http/frames", ADMIN],
    ["POST", "/join/http/frames", ADMIN],
    ["GET", "/join/nothing", ADMIN],
  ];
  for (const [method, path, otherToken] of routes) {
    for (
      const authorization of [
        undefined,
        "",
        "Bearer",
        "Bearer wrong-token-123",
        `Bearer ${otherToken}`,
        `Basic ${ADMIN}`,
      ]
    ) {
      const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
      const response = await app.request(path, { method, headers });
      assertEquals(
        response.headers.get("www-authenticate"),
        "Bearer",
        `${method} ${path} with ${authorization}`,
      );
      const detail = await assertProblem(response, 401);
      assert(!detail.includes(ADMIN) && !detail.includes(JOIN));
    }
  }
  assertEquals(run.actions, []);
});

Deno.test("tokens that are too short, or the same, are not taken", () => {
  for (const change of [{ joinToken: "" }, { adminToken: "1234567" }]) {
    assertThrows(() => appOf(new MadeUpRun(), change), RangeError, "at least 8 characters");
  }
  const same = { joinToken: "one-token", adminToken: "one-token" };
  assertThrows(() => appOf(new MadeUpRun(), same), RangeError, "must differ");
});

Deno.test("runs and devices as JSON", async () => {
  const run = new MadeUpRun();
  const app = appOf(run);
  const [listed] = await (await app.request("/api/runs", asAdmin)).json();
  const one = await (await app.request("/api/runs/made%20up", asAdmin)).json();
  assertEquals(one, listed);
  assertEquals(one, {
    run: "made up",
    status: "running",
    settings: JSON.parse(JSON.stringify(run.settings)),
    devices: run.devices,
    latest: { ...RECORD, mask: [0, 1], scores: [0.5, 0.25] },
    traffic: run.traffic(),
  });
  const devices = await (await app.request("/api/runs/made%20up/devices", asAdmin)).json();
  assertEquals(devices, run.devices);
  assertEquals(stepJson({ ...RECORD, scores: null }).scores, null);
  assertEquals(eventJson({ type: "step", record: RECORD }), { type: "step", record: stepJson(RECORD) });
});

Deno.test("what the transports refuse is told as problem details too", async () => {
  await using webSocket = webSocketListener();
  await using http = httpListener();
  const app = appOf(new MadeUpRun(), { webSocket, http });
  assertEquals(
    await assertProblem(await app.request("/join/ws", asDevice), 426),
    "This address speaks WebSocket",
  );
  await assertProblem(await app.request("/join/http/frames", { ...asDevice, method: "PUT" }), 405);
  const headers = { ...asDevice.headers, "edgetuner-session": "a".repeat(43) };
  await assertProblem(await app.request("/join/http/frames", { headers }), 404);
});

Deno.test("detailOf() takes a problem's detail, else the text as it is", () => {
  assertEquals(
    detailOf('{"status":409,"detail":"The session exists already"}'),
    "The session exists already",
  );
  assertEquals(detailOf("  <h1>502 of a proxy</h1>\n"), "<h1>502 of a proxy</h1>");
  assertEquals(detailOf('{"error":1}'), '{"error":1}');
});

Deno.test("unknown routes, runs and methods are 404", async () => {
  const app = appOf(new MadeUpRun());
  await assertProblem(await app.request("/"), 404);
  await assertProblem(await app.request("/nothing", { method: "POST" }), 404);
  await assertProblem(await app.request("/api/nothing", asAdmin), 404);
  await assertProblem(await app.request("/join/ws", asDevice), 404);
  await assertProblem(await app.request("/join/http/frames", asDevice), 404);
  await assertProblem(await app.request("/api/runs/made%20up/pause", asAdmin), 404);
  await assertProblem(await app.request("/api/runs/made%20up/start", { ...asAdmin, method: "POST" }), 404);
  for (const path of ["", "/devices", "/events"]) {
    const detail = await assertProblem(await app.request(`/api/runs/other${path}`, asAdmin), 404);
    assert(detail.includes(`"other"`) && detail.includes("made up"));
  }
});

Deno.test("bodies without a length are read without a warning of Deno's", async () => {
  const run = new MadeUpRun();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, appOf(run).fetch);
  const { warn } = console;
  const warnings: unknown[] = [];
  console.warn = (...values: unknown[]) => void warnings.push(values);
  try {
    for (const text of ["{}", "x".repeat(70_000)]) {
      const response = await fetch(`http://127.0.0.1:${server.addr.port}/api/runs/made%20up/pause`, {
        ...asAdmin,
        method: "POST",
        body: ReadableStream.from([new TextEncoder().encode(text)]),
      });
      assertEquals(response.status, text === "{}" ? 200 : 413);
      await response.body?.cancel();
    }
  } finally {
    await server.shutdown();
    console.warn = warn;
  }
  assertEquals(warnings, []);
});

Deno.test("a body that is too large is 413", async () => {
  const run = new MadeUpRun();
  const app = appOf(run, { maxBodyBytes: 100 });
  const post = (body: BodyInit) =>
    app.request("/api/runs/made%20up/pause", { ...asAdmin, method: "POST", body });
  await assertProblem(await post("x".repeat(101)), 413);
  const stream = new ReadableStream<Uint8Array<ArrayBuffer>>({
    pull(controller) {
      controller.enqueue(new Uint8Array(64));
    },
  });
  await assertProblem(await post(stream), 413);
  assertEquals(run.actions, []);
  assertEquals((await post("x".repeat(100))).status, 200);
});

Deno.test("a body that comes too slowly is 408, and ends when the server does", async () => {
  const run = new MadeUpRun();
  const stop = new AbortController();
  const post = async (everyMs: number, bodyTimeoutMs: number) => {
    let timer: ReturnType<typeof setInterval> | undefined;
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
      start: (controller) => {
        timer = setInterval(() => controller.enqueue(new Uint8Array(1)), everyMs);
      },
      cancel: () => clearInterval(timer),
    });
    const app = appOf(run, { bodyTimeoutMs, signal: stop.signal });
    return await app.request("/api/runs/made%20up/pause", { ...asAdmin, method: "POST", body });
  };
  assert((await assertProblem(await post(5, 150), 408)).includes("must bring 4 bytes a millisecond"));
  assert((await assertProblem(await post(100_000, 50), 408)).includes("must come every 50 ms"));
  const reading = post(100_000, 100_000);
  stop.abort(new Error("the server ends"));
  assertEquals(await assertProblem(await reading, 408), "the server ends");
  assertEquals(run.actions, []);
  assertThrows(() => appOf(run, { bodyTimeoutMs: 0 }), RangeError, "'bodyTimeoutMs'");
});

Deno.test("pause, resume and stop reach the run; afterwards 409", async () => {
  const run = new MadeUpRun();
  const app = appOf(run);
  const post = (action: string) =>
    app.request(`/api/runs/made%20up/${action}`, { ...asAdmin, method: "POST" });
  assertEquals(await (await post("pause")).json(), { run: "made up", status: "paused" });
  assertEquals(await (await post("resume")).json(), { run: "made up", status: "running" });
  assertEquals(await (await post("stop")).json(), { run: "made up", status: "ended" });
  for (const status of ["ended", "failed"] as const) {
    run.status = status;
    for (const action of ["pause", "resume", "stop"]) {
      const detail = await assertProblem(await post(action), 409);
      assert(detail.includes(status));
    }
  }
  assertEquals(run.actions, ["pause", "resume", "stop"]);
});

Deno.test("pause, resume and stop answer the state that follows them, and 202 if it takes too long", async () => {
  const run = new MadeUpRun();
  const later = (status: "paused" | "running" | "ended") => () => {
    queueMicrotask(() =>
      queueMicrotask(() => run.emit({ type: "status", status: run.status = status, reason: "" }))
    );
  };
  run.pause = later("paused");
  run.resume = later("running");
  run.stop = later("ended");
  const post = async (action: string, options: Partial<ControlAppOptions> = {}) => {
    const response = await appOf(run, options)
      .request(`/api/runs/made%20up/${action}`, { ...asAdmin, method: "POST" });
    return [response.status, (await response.json()).status];
  };
  assertEquals(await post("pause"), [200, "paused"]);
  assertEquals(await post("resume"), [200, "running"]);
  run.pause = () => {};
  assertEquals(await post("pause", { actionTimeoutMs: 20 }), [202, "running"]);
  run.status = "waiting";
  assertEquals(await post("pause"), [202, "waiting"]);
  assertEquals(await post("resume"), [200, "waiting"]);
  assertEquals(await post("stop"), [200, "ended"]);
  assertEquals(run.listeners.size, 0);
});

Deno.test("an error within is a 500 that names it", async () => {
  const run = new MadeUpRun();
  run.pause = () => {
    throw new Error("out of paper");
  };
  const response = await appOf(run).request("/api/runs/made%20up/pause", { ...asAdmin, method: "POST" });
  assert((await assertProblem(response, 500)).includes("out of paper"));
});

Deno.test("the event stream begins with the run and ends with it", async () => {
  const run = new MadeUpRun();
  const response = await appOf(run).request("/api/runs/made%20up/events", asAdmin);
  assert(response.headers.get("content-type")!.startsWith("text/event-stream"));
  const events = serverSentEvents(response);
  const first = (await events.next()).value!;
  assertEquals([first.event, JSON.parse(first.data).run], ["run", "made up"]);
  run.emit({ type: "step", record: RECORD });
  const second = (await events.next()).value!;
  assertEquals([second.event, JSON.parse(second.data)], ["step", { type: "step", record: stepJson(RECORD) }]);
  run.emit({ type: "refused", peer: "somebody", reason: "a line\nand another" });
  assertEquals(JSON.parse((await events.next()).value!.data).reason, "a line\nand another");
  run.stop();
  assertEquals((await events.next()).value!.event, "status");
  assertEquals((await events.next()).done, true);
  assertEquals(run.listeners.size, 0);
});

Deno.test("the event stream of a run that is over ends at once", async () => {
  const run = new MadeUpRun();
  run.status = "failed";
  const events = await Array.fromAsync(
    serverSentEvents(await appOf(run).request("/api/runs/made%20up/events", asAdmin)),
  );
  assertEquals(events.map((e) => e.event), ["run"]);
  assertEquals(run.listeners.size, 0);
});

Deno.test("readers that come and go add no listeners to a run", async () => {
  const run = new MadeUpRun();
  const events = serverSentEvents(await appOf(run).request("/api/runs/made%20up/events", asAdmin));
  await events.next();
  // The log's, whoever reads it.
  assertEquals(run.listeners.size, 1);
  await events.return(undefined);
  assertEquals(run.listeners.size, 1);
  run.stop();
  assertEquals(run.listeners.size, 0);
});

Deno.test("a reader of the event stream that is far behind is cut off", async () => {
  const run = new MadeUpRun();
  const events = serverSentEvents(await appOf(run).request("/api/runs/made%20up/events", asAdmin));
  await events.next();
  for (let i = 0; i < 1100; i++) run.emit({ type: "step", record: RECORD });
  let count = 0;
  for await (const _ of events) count++;
  assert(count <= 1001, `${count} events`);
});

async function admit(listener: Listener, server: EdgeServer): Promise<void> {
  for (let channel = await listener.accept(); channel !== null; channel = await listener.accept()) {
    await server.join(channel);
  }
}

Deno.test("a real run: devices join over WebSocket and HTTP with their token, and it is watched and steered [slow]", async () => {
  const steps = 3;
  const settings = tinySettings("slice", steps);
  const pruner: Pruner = {
    name: "none",
    needs: [],
    init: () => null,
    decide: () => [{ mask: new Uint8Array(12), scores: new Float32Array(12).fill(0.5) }, null],
  };
  const run = new EdgeServer({
    engine,
    base: model.layers,
    fingerprint: "tiny",
    settings,
    pruner,
    devices: 2,
    run: "real",
    timeoutMs: 20_000,
    joinTimeoutMs: 20_000,
  });
  await using webSocket = webSocketListener();
  await using http = httpListener();
  const app = appOf(run, { webSocket, http });
  await using served = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, app.fetch);
  const url = `http://127.0.0.1:${served.addr.port}`;
  const admitting = [admit(webSocket, run), admit(http, run)];
  const running = run.start();
  const get = async (path: string) => await (await fetch(url + path, asAdmin)).json();
  const post = async (action: string) => {
    const response = await fetch(`${url}/api/runs/real/${action}`, { ...asAdmin, method: "POST" });
    return { status: response.status, body: await response.json() };
  };

  for (const token of [undefined, "wrong-token-123", ADMIN]) {
    const options = token === undefined ? {} : { token };
    await assertRejects(() => webSocketTransport({ url: `${url}/join/ws`, ...options }).connect());
    await assertRejects(() => httpTransport({ url: `${url}/join/http/frames`, ...options }).connect());
  }
  assertEquals(await get("/api/runs/real/devices"), []);
  assertEquals((await (await fetch(`${url}/health`)).json()).status, "ok");

  run.pause();
  const stream = await fetch(`${url}/api/runs/real/events`, asAdmin);
  const seen = Array.fromAsync(serverSentEvents(stream));
  const device = async (
    transport: Transport,
    name: string,
    capacity: number,
    data: boolean,
  ): Promise<UserDeviceResult> =>
    await runUserDevice({
      engine,
      channel: await transport.connect(),
      name,
      capacity,
      timeoutMs: 20_000,
      data: data
        ? {
          ends: model.ends,
          loss: LOSS,
          fingerprint: "tiny",
          shareLoss: true,
          next: (step) => step < steps ? { batch: BATCH, mode: "train" } : null,
        }
        : undefined,
    });
  const devices = [
    device(webSocketTransport({ url: `${url}/join/ws`, token: JOIN }), "phone", 3, true),
    device(httpTransport({ url: `${url}/join/http/frames`, token: JOIN }), "tablet", 1, false),
  ];
  await until(() => run.status === "paused", "the pause");
  const joined = await get("/api/runs/real/devices");
  assertEquals(
    joined.map((d: { name: string; range: unknown }) => [d.name, d.range]).sort(),
    [["phone", { first: 0, count: 3 }], ["tablet", { first: 3, count: 1 }]],
  );
  assertEquals((await get("/api/runs/real")).latest, null);
  assertEquals((await post("resume")).body, { run: "real", status: "running" });
  await running;
  const results = await Promise.all(devices);
  assertEquals(results.map((r) => [r.error, r.steps]), [[null, steps], [null, steps]]);
  assertEquals((await post("pause")).status, 409);

  const events = await seen;
  const records = events.filter((e) => e.event === "step").map((e) => JSON.parse(e.data).record);
  assertEquals(records.map((r) => r.step), [0, 1, 2]);
  assertEquals(records[0].scores, Array(12).fill(0.5));
  const statuses = events.filter((e) => e.event === "status").map((e) => JSON.parse(e.data).status);
  assertEquals(statuses, ["running", "paused", "running", "ended"]);
  const state = await get("/api/runs/real");
  assertEquals([state.status, state.latest.step], ["ended", 2]);
  assert(
    state.traffic.some((t: { kind: string; frames: number }) => t.kind === "delta" && t.frames === steps * 6),
  );

  const local = await trainLocally(model, settings, keepAll(steps));
  assertEquals(records.map((r) => r.loss), [...local.losses]);
  const weights = await Promise.all(results.map((r) => r.modules!.weights()));
  assertEquals(flatten(sideBySide(weights)), local.weights);
  for (const { modules } of results) modules![Symbol.dispose]();
  await webSocket[Symbol.asyncDispose]();
  await http[Symbol.asyncDispose]();
  await Promise.all(admitting);
});

Deno.test("stop through the API ends a real run, and its device keeps what it learnt", async () => {
  const run = new EdgeServer({
    engine,
    base: model.layers,
    fingerprint: "tiny",
    settings: tinySettings("slice", 1000),
    pruner: { name: "none", needs: [], init: () => null, decide: () => [{ mask: new Uint8Array(12) }, null] },
    devices: 1,
    run: "long",
  });
  await using http = httpListener();
  const app = appOf(run, { http });
  await using served = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, app.fetch);
  const url = `http://127.0.0.1:${served.addr.port}/join/http/frames`;
  const admitting = admit(http, run);
  const running = run.start();
  const channel = await httpTransport({ url, token: JOIN }).connect();
  const device = runUserDevice({
    engine,
    channel,
    name: "phone",
    capacity: 1,
    data: {
      ends: model.ends,
      loss: LOSS,
      fingerprint: "tiny",
      next: () => ({ batch: BATCH, mode: "train" }),
    },
  });
  await until(() => run.latest !== null, "the first step");
  const stopped = await app.request("/api/runs/long/stop", { ...asAdmin, method: "POST" });
  assertEquals(stopped.status, 200);
  await stopped.body?.cancel();
  await running;
  const result = await device;
  assertEquals([result.error, result.reason], [null, "stopped"]);
  assert(result.steps > 0);
  result.modules![Symbol.dispose]();
  await http[Symbol.asyncDispose]();
  await admitting;
});
