import { newDeviceKey } from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import { type Role, ROLES, type RouteDescription, ROUTES, TRANSPORT_ROUTES } from "../control/routes.ts";
import { httpListener } from "../http.ts";
import { webSocketListener } from "../web_socket.ts";
import { ADMIN, appOf, JOIN, MadeUpRun } from "../../tests/support/made_up_run.ts";
import { Invitations } from "./invitations.ts";
import { Sessions } from "./sessions.ts";

const HOST = "192.168.1.20:8787";

/** An app with everything, and each kind of caller by the headers that show it. */
async function world() {
  const sessions = new Sessions();
  const signedIn = await sessions.signIn((await sessions.link()).replace("/#signin=", ""));
  assert(typeof signedIn === "object");
  const invitations = new Invitations();
  const secretOf = async () => (await invitations.invite("made up")).split("=")[1]!;
  const keys: Record<string, string> = {};
  for (const state of ["waiting", "approved", "refused"] as const) {
    const id = (await newDeviceKey()).publicKey;
    const redeemed = await invitations.redeem(await secretOf(), { name: state, id: "1".repeat(32), key: id });
    assert(typeof redeemed === "object");
    if (state !== "waiting") invitations.answer(redeemed.request.request, state);
    keys[state] = redeemed.joinKey;
  }
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
  const callers: Record<Role, Record<string, string>> = {
    anonymous: {},
    invite: bearer(await secretOf()),
    "waiting device": bearer(keys["waiting"]!),
    "approved device": bearer(keys["approved"]!),
    "refused device": bearer(keys["refused"]!),
    "join token": bearer(JOIN),
    session: { cookie: `edgetuner=${signedIn.session}` },
    "admin token": bearer(ADMIN),
  };
  const webSocket = webSocketListener();
  const http = httpListener();
  const run = Object.assign(new MadeUpRun(), { remove: () => true });
  const app = appOf(run, { sessions, invitations, webSocket, http });
  return {
    callers,
    ask: (name: string, headers: Record<string, string>, body: string | undefined) => {
      const [method, path] = name.split(" ") as [string, string];
      return app.request(
        path.replace(":run", "made%20up").replace(":request", "1").replace(":device", "0123abcd").replace(
          ":name",
          "wte",
        ),
        {
          method,
          headers: { host: HOST, origin: `http://${HOST}`, "content-type": "application/json", ...headers },
          ...(body === undefined ? {} : { body }),
        },
      );
    },
    [Symbol.asyncDispose]: async () => {
      await webSocket[Symbol.asyncDispose]();
      await http[Symbol.asyncDispose]();
    },
  };
}

for (const [name, { who }] of Object.entries({ ...ROUTES, ...TRANSPORT_ROUTES })) {
  Deno.test(`who may call ${name}`, async () => {
    for (const role of ROLES) {
      // Anew for each, as some calls change what the next one finds.
      await using made = await world();
      const takesBody = (ROUTES as Record<string, RouteDescription>)[name]?.body !== undefined;
      // Of no form that a route takes: who may call it hears that.
      const body = takesBody ? "{}" : undefined;
      const response = await made.ask(name, made.callers[role], body);
      const text = response.headers.get("content-type") === "text/event-stream" ? "" : await response.text();
      await response.body?.cancel().catch(() => {});
      const isRefused = /"title":"(Unauthorized|Not allowed)"/.test(text);
      assertEquals(
        isRefused,
        !who.includes("anonymous") && !who.includes(role),
        `${role}: ${response.status} ${text}`,
      );
    }
  });
}
