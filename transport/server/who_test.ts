import { assert, assertEquals } from "@std/assert";
import { type Role, ROLES, type RouteDescription, ROUTES, TRANSPORT_ROUTES } from "../control/routes.ts";
import { httpListener } from "../http.ts";
import { webSocketListener } from "../web_socket.ts";
import { ADMIN, appOf, JOIN, MadeUpRun } from "../../tests/support/made_up_run.ts";
import { Sessions } from "./sessions.ts";

const HOST = "192.168.1.20:8787";

/** An app with everything, and each kind of caller by the headers that show it. */
async function world() {
  const sessions = new Sessions();
  const signedIn = await sessions.signIn((await sessions.link()).replace("/#signin=", ""));
  assert(typeof signedIn === "object");
  const callers: Record<Role, Record<string, string>> = {
    anonymous: {},
    "join token": { authorization: `Bearer ${JOIN}` },
    session: { cookie: `edgetuner=${signedIn.session}` },
    "admin token": { authorization: `Bearer ${ADMIN}` },
  };
  const webSocket = webSocketListener();
  const http = httpListener();
  const app = appOf(new MadeUpRun(), { sessions, webSocket, http });
  return {
    callers,
    ask: (name: string, headers: Record<string, string>, body: string | undefined) => {
      const [method, path] = name.split(" ") as [string, string];
      return app.request(path.replace(":run", "made%20up"), {
        method,
        headers: { host: HOST, origin: `http://${HOST}`, "content-type": "application/json", ...headers },
        ...(body === undefined ? {} : { body }),
      });
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
      // A secret of the right form, that is none.
      const body = takesBody ? JSON.stringify({ secret: "x".repeat(22) }) : undefined;
      const response = await made.ask(name, made.callers[role], body);
      const text = response.headers.get("content-type") === "text/event-stream" ? "" : await response.text();
      await response.body?.cancel().catch(() => {});
      const isRefused = [401, 403].includes(response.status) && text.includes("carries");
      assertEquals(
        isRefused,
        !who.includes("anonymous") && !who.includes(role),
        `${role}: ${response.status} ${text}`,
      );
    }
  });
}
