import { assert, assertEquals, assertRejects } from "@std/assert";
import { safeParse } from "valibot";
import { type CallArguments, ControlClient, ControlError } from "../control/client.ts";
import { problemsOf, type RouteDescription, type RouteName, ROUTES } from "../control/routes.ts";
import { problem } from "../control/schemas.ts";
import type { AskedJson, JoinRequestJson } from "../control/types.ts";
import { ADMIN, appOf, assertProblem, JOIN, MadeUpRun, RECORD } from "../../tests/support/made_up_run.ts";
import { API_PAGE, apiPage } from "../../tests/support/api_page.ts";
import { EventLog } from "./_event_log.ts";
import { eventJson } from "./_json.ts";
import type { ControlAppOptions } from "./control_app.ts";
import type { ServedModel } from "./device_routes.ts";
import { Invitations } from "./invitations.ts";
import { openApi } from "./openapi.ts";
import { RunStore } from "./run_store.ts";
import { Sessions } from "./sessions.ts";

const run = { run: "made up" };

/** What a device with data gets of a model. */
const PARTS: ServedModel = {
  about: () =>
    Promise.resolve({
      config: {},
      fingerprint: "f".repeat(64),
      tensors: [{ name: "wte", shape: [1, 2], digest: "d".repeat(64) }],
      ends: ["wte"],
      tokenizer: { json: {}, options: {} },
    }),
  values: (name) =>
    Promise.resolve(name === "wte" ? [Uint8Array.of(1, 2, 3, 4), Uint8Array.of(5, 6, 7, 8)] : null),
};

/** Checks an answer by the description of its route; the stream of events is not read. */
async function assertDescribed(route: RouteName, response: Response): Promise<void> {
  const description = ROUTES[route] as RouteDescription;
  const type = response.headers.get("content-type");
  const answer = description.answers[response.status];
  if (answer === undefined) {
    assertEquals(type, "application/problem+json", `${route}: ${response.status}`);
    assert(
      response.status in problemsOf(route, description),
      `${route} does not describe ${response.status}`,
    );
    assert(safeParse(problem, await response.clone().json()).success);
    return;
  }
  assertEquals(type, answer.body === undefined ? null : answer.type ?? "application/json", route);
  if (answer.body === undefined || type === "text/event-stream") return;
  const copy = response.clone();
  const value = type === "application/json"
    ? copy.json()
    : type === "application/octet-stream"
    ? copy.bytes()
    : copy.text();
  const result = safeParse(answer.body, await value);
  assert(result.success, `${route}: ${JSON.stringify(result.issues?.slice(0, 2))}`);
}

/** A client of an app of a made-up run, whose answers must be as described. */
function clientOf(
  made: MadeUpRun,
  options: Partial<ControlAppOptions> = {},
  token: string = ADMIN,
): ControlClient {
  const app = appOf(made, options);
  return new ControlClient({
    token,
    fetch: async (request) => {
      const response = await app.fetch(request);
      const { pathname } = new URL(request.url);
      const path = pathname.replace(/^\/api\/runs\/[^/]+/, "/api/runs/:run")
        .replace(/\/(request|device)s\/[^/]+\//, "/$1s/:$1/")
        .replace(/^\/join\/model\/[^/]+/, "/join/model/:run").replace(/\/tensors\/.*/, "/tensors/:name");
      await assertDescribed(`${request.method} ${path}` as RouteName, response);
      return response;
    },
  });
}

Deno.test("every route answers as it is described, and the client reads it", async () => {
  const sessions = new Sessions();
  const secret = (await sessions.link()).split("=")[1]!;
  const invitations = new Invitations();
  const invite = (await invitations.invite("made up")).split("=")[1]!;
  const made = Object.assign(new MadeUpRun(), { remove: () => true });
  using store = RunStore.open(":memory:");
  store.record(made);
  made.emit({ type: "step", record: RECORD });
  const client = clientOf(made, { sessions, invitations, store, version: "1.2.3" });
  const models = new Map([["made up", PARTS]]);
  const device = { name: "kitchen phone", id: "1".repeat(32), key: "k".repeat(43) };
  const first = { params: { ...run, request: "1" } };
  const calls: { [N in RouteName]: CallArguments<N> } = {
    "GET /health": [],
    "GET /openapi.json": [],
    "GET /metrics": [],
    "GET /api/session": [],
    "POST /api/session": [{ body: { secret } }],
    "DELETE /api/session": [],
    "POST /api/sign-in-links": [],
    "GET /join/about": [],
    "GET /join/model/:run": [{ params: run }],
    "GET /join/model/:run/tensors/:name": [{ params: { ...run, name: "wte" } }],
    "POST /join/requests": [{ body: { invite, ...device } }],
    "GET /join/request": [],
    "GET /api/runs": [],
    "GET /api/runs/:run": [{ params: run }],
    "GET /api/runs/:run/devices": [{ params: run }],
    "POST /api/runs/:run/invites": [{ params: run }],
    "GET /api/runs/:run/requests": [{ params: run }],
    "POST /api/runs/:run/requests/:request/approve": [first],
    "POST /api/runs/:run/requests/:request/refuse": [first],
    "POST /api/runs/:run/devices/:device/remove": [{ params: { ...run, device: "11111111" } }],
    "GET /api/runs/:run/events": [{ params: run, signal: AbortSignal.timeout(5000) }],
    "GET /api/history": [],
    "GET /api/runs/:run/series": [{ params: run, query: { points: "10" } }],
    "GET /api/runs/:run/heads": [{ params: run }],
    "GET /api/runs/:run/happened": [{ params: run }],
    "GET /api/runs/:run/records": [{ params: run }],
    "GET /api/runs/:run/records.csv": [{ params: run }],
    "GET /api/runs/:run/records.json": [{ params: run }],
    "POST /api/runs/:run/pause": [{ params: run }],
    "POST /api/runs/:run/resume": [{ params: run }],
    "POST /api/runs/:run/stop": [{ params: run }],
  };
  const answers: Record<string, unknown> = {};
  for (const [route, args] of Object.entries(calls)) {
    // The stream has a test of its own.
    if (route.endsWith("/events")) continue;
    const asked = answers["POST /join/requests"] as AskedJson | undefined;
    const caller = route.startsWith("GET /join/model")
      ? clientOf(made, { models }, JOIN)
      : route.startsWith("GET /join")
      ? clientOf(made, { invitations }, asked?.joinKey ?? invite)
      : client;
    const call = caller.call as (route: string, ...args: unknown[]) => Promise<unknown>;
    answers[route] = await call.call(caller, route, ...args);
  }
  assertEquals([...answers["GET /join/model/:run/tensors/:name"] as Uint8Array], [1, 2, 3, 4, 5, 6, 7, 8]);
  assertEquals((answers["GET /join/request"] as JoinRequestJson).state, "waiting");
  assertEquals(
    (answers["POST /api/runs/:run/requests/:request/approve"] as JoinRequestJson).state,
    "approved",
  );
  assertEquals(answers["GET /api/session"], { by: "admin token", secondsLeft: null });
  assertEquals(answers["DELETE /api/session"], null);
  assertEquals((answers["GET /api/runs/:run"] as { latest: { mask: number[] } }).latest.mask, [0, 1]);
  assertEquals(answers["POST /api/runs/:run/stop"], { run: "made up", status: "ended" });
});

Deno.test("an invited device gets the model of its run, and hears of no other", async () => {
  const invitations = new Invitations({ approveAll: true });
  const invite = (await invitations.invite("made up")).split("=")[1]!;
  const models = new Map([["made up", PARTS], ["other", PARTS]]);
  const device = { name: "kitchen phone", id: "1".repeat(32), key: "k".repeat(43) };
  const redeemed = await invitations.redeem(invite, device);
  assert(typeof redeemed === "object");
  const client = clientOf(new MadeUpRun(), { invitations, models }, redeemed.joinKey);
  assertEquals((await client.call("GET /join/model/:run", { params: run })).ends, ["wte"]);
  for (const name of ["other", "no such run"]) {
    const params = { run: name, name: "wte" };
    for (const route of ["GET /join/model/:run", "GET /join/model/:run/tensors/:name"] as const) {
      const error = await assertRejects(() => client.call(route, { params }), ControlError, "is not served");
      assertEquals(error.status, 404);
    }
  }
  const withToken = clientOf(new MadeUpRun(), { models }, JOIN);
  assertEquals((await withToken.call("GET /join/model/:run", { params: { run: "other" } })).ends, ["wte"]);
  const params = { ...run, name: "lm_head.secret" };
  await assertRejects(() => withToken.call("GET /join/model/:run/tensors/:name", { params }), ControlError);
});

Deno.test("a problem is an error of the client, with its status and detail", async () => {
  const client = clientOf(new MadeUpRun());
  const error = await assertRejects(
    () => client.call("GET /api/runs/:run", { params: { run: "a/b" } }),
    ControlError,
    `run "a/b" must exist`,
  );
  assertEquals(error.status, 404);
  const stranger = clientOf(new MadeUpRun(), {}, JOIN);
  assertEquals((await assertRejects(() => stranger.call("GET /api/runs"), ControlError)).status, 401);
  // It tells how the runs are, well or not.
  const failed = Object.assign(new MadeUpRun(), { status: "failed" as const });
  assertEquals((await clientOf(failed).call("GET /health")).status, "failed");
});

Deno.test("a body that is not as described is refused with what is wrong", async () => {
  const app = appOf(new MadeUpRun());
  const post = async (body: string, type = "application/json") =>
    await assertProblem(
      await app.request("/api/session", { method: "POST", body, headers: { "content-type": type } }),
      400,
    );
  assert((await post("{")).includes("must be JSON"));
  assert((await post("{}", "text/plain")).includes("must be application/json: it is text/plain"));
  assert((await post("{}")).includes('"secret"'));
  assert((await post('{"secret":"short"}')).includes("22 characters"));
  assert((await post(JSON.stringify({ secret: "x".repeat(22), more: 1 }))).includes('"more"'));
});

Deno.test("GET /openapi.json describes all routes, and every reference in it leads somewhere", async () => {
  const response = await appOf(new MadeUpRun(), { version: "1.2.3" }).request("/openapi.json");
  const document = await response.json();
  assertEquals(document, JSON.parse(JSON.stringify(openApi("1.2.3"))));
  assertEquals([document.openapi, document.info.version], ["3.1.0", "1.2.3"]);
  const described = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.keys(operations as object).map((method) =>
      `${method.toUpperCase()} ${path.replace(/\{(\w+)\}/g, ":$1")}`
    )
  );
  assertEquals(described.sort(), Object.keys(ROUTES).sort());
  const ids = Object.values(document.paths).flatMap((operations) =>
    Object.values(operations as Record<string, { operationId: string }>).map(({ operationId }) => operationId)
  );
  assertEquals(new Set(ids).size, ids.length);
  for (const [, name] of JSON.stringify(document).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
    assert(name! in document.components.schemas, name);
  }
  const { schema } = document.paths["/api/runs"].get.responses["200"].content["application/json"];
  assertEquals(schema, { type: "array", items: { $ref: "#/components/schemas/Run" } });
  assertEquals(document.components.schemas.Device.properties.capacity.type, "number");
});

Deno.test("GET /metrics is OpenMetrics text", async () => {
  const odd = Object.assign(new MadeUpRun(), { run: 'a "quoted\\ name' });
  const response = await appOf(odd).request("/metrics", { headers: { authorization: `Bearer ${ADMIN}` } });
  const lines = (await response.text()).split("\n");
  assertEquals(lines.slice(-2), ["# EOF", ""]);
  const label = 'run="a \\"quoted\\\\ name"';
  for (
    const line of [
      "# TYPE edgetuner_frame_bytes counter",
      "# UNIT edgetuner_frame_bytes bytes",
      `edgetuner_frame_bytes_total{${label},kind="mask",direction="sent"} 80`,
      `edgetuner_step_seconds{${label},part="total"} 0.005`,
      `edgetuner_device_step_seconds{${label},device="phone",does="heads",part="compute"} 0.002`,
      `edgetuner_device_step_seconds{${label},device="phone",does="heads",part="wire"} 0.001`,
      `edgetuner_device_step_seconds{${label},device="phone",does="heads",part="wait"} 0.002`,
      `edgetuner_device_step_seconds{${label},device="phone",does="data",part="answer"} 0.001`,
      `edgetuner_run_state{${label},edgetuner_run_state="running"} 1`,
      `edgetuner_run_state{${label},edgetuner_run_state="failed"} 0`,
      `edgetuner_loss{${label},mode="train"} 1.5`,
    ]
  ) assert(lines.includes(line), line);
  // Each family is named before its figures, and once.
  const families = lines.filter((line) => line.startsWith("# TYPE ")).map((line) => line.split(" ")[2]);
  assertEquals(new Set(families).size, families.length);
  for (const line of lines.filter((line) => line !== "" && !line.startsWith("#"))) {
    assert(/^[a-z_]+\{([a-z_]+="([^"\\]|\\.)*",?)+\} (-?[\d.e+-]+|NaN|[+-]Inf)$/.test(line), line);
  }
});

Deno.test("an event stream that was cut off goes on after the last event, without a gap", async () => {
  const made = new MadeUpRun();
  const client = clientOf(made);
  const stop = new AbortController();
  const first = client.events("made up", { signal: stop.signal });
  const begin = (await first.next()).value!;
  assertEquals([begin.event, (begin.data as { run: string }).run], ["run", "made up"]);
  made.emit({ type: "step", record: RECORD });
  const { event, id } = (await first.next()).value!;
  assertEquals(event, "step");
  await first.return(undefined);
  // Nobody reads now.
  for (const step of [4, 5]) made.emit({ type: "step", record: { ...RECORD, step } });
  const second = client.events("made up", { after: id });
  const steps: unknown[] = [];
  for await (const { event, data } of second) {
    steps.push(event === "step" ? data.record.step : event);
    if (steps.length === 2) made.stop();
  }
  assertEquals(steps, [4, 5, "status"]);
});

Deno.test("an event stream begins anew where the server does not know the last event", async () => {
  const made = new MadeUpRun();
  const app = appOf(made);
  const text = async (last: string) => {
    const response = await app.request("/api/runs/made%20up/events", {
      headers: { authorization: `Bearer ${ADMIN}`, "last-event-id": last },
    });
    return [response.status, (await response.text()).match(/^event: .*$/gm)] as const;
  };
  made.status = "ended";
  for (const last of ["", "nonsense", "00000000.0", "1", "x.y.z"]) {
    assertEquals(await text(last), [200, ["event: run"]], last);
  }
});

Deno.test("the log of events forgets the oldest, by number and by size, and its readers when they leave", () => {
  const made = new MadeUpRun();
  const log = new EventLog(made, eventJson);
  const start = log.position;
  const read: number[] = [];
  const leave = log.read(({ number }) => read.push(number));
  made.emit({ type: "step", record: RECORD });
  assertEquals([log.readers, read, log.since(start)?.length], [1, [1], 1]);
  leave();
  assertEquals(log.readers, 0);
  for (let i = 0; i < 4096; i++) log.add("x", i);
  assertEquals(log.since(start), null);
  assertEquals(log.since(log.idOf(1))?.length, 4096);
  assertEquals(log.since(log.position), []);
  assertEquals(log.since(log.idOf(5000)), null);
  const before = log.position;
  for (let i = 0; i < 8; i++) log.add("x", "y".repeat(2 ** 20));
  assertEquals(log.since(before), null);
  assertEquals(log.since(log.idOf(4097 + 5))?.length, 3);
  made.stop();
  assertEquals(made.listeners.size, 0);
});

Deno.test("docs/api.md is what the routes are described by", async () => {
  assertEquals(
    await Deno.readTextFile(API_PAGE),
    apiPage(),
    "the page is stale: deno run -A tests/support/api_page.ts writes it",
  );
});
