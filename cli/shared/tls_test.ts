import { HandshakeError } from "@edgetuner/core";
import {
  httpListener,
  httpTransport,
  requireToken,
  webSocketListener,
  webSocketTransport,
} from "@edgetuner/transport";
import { createControlApp, serve, Sessions } from "@edgetuner/transport/server";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { UsageError } from "../flags/flags.ts";
import { reachable } from "../output/addresses.ts";
import { named, pinned } from "../flags/pinned.ts";
import { until } from "../../tests/support/until.ts";
import { certificateOf } from "./tls.ts";

const FLAGS = { cert: "", key: "", tls: "", host: "127.0.0.1" };

/** Runs with a folder for what is kept. */
async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("frames go over TLS to the certificate that was made here, and only to it", async () => {
  await inFolder(async (folder) => {
    const made = await certificateOf({ ...FLAGS, tls: "self-signed" }, `${folder}/tls/kept.pem`);
    const kept = await certificateOf({ ...FLAGS, tls: "self-signed" }, `${folder}/tls/kept.pem`);
    assertEquals(kept, made);
    assertEquals((await Deno.stat(`${folder}/tls/kept.pem`)).mode! & 0o777, 0o600);
    const { cert, key, fingerprint } = made!;
    await using sockets = webSocketListener({ authorize: requireToken("secret-token") });
    await using polls = httpListener({ authorize: requireToken("secret-token") });
    await using server = await serve({
      fetch: (request) =>
        new URL(request.url).pathname === "/ws" ? sockets.handle(request) : polls.handle(request),
    }, { tls: { cert, key } });
    const other = fingerprint.replace(/^../, (byte) => byte === "00" ? "01" : "00");
    for (
      const { url, make, listener } of [
        { url: `wss://127.0.0.1:${server.port}/ws`, make: webSocketTransport, listener: sockets },
        { url: `https://127.0.0.1:${server.port}/http`, make: httpTransport, listener: polls },
      ]
    ) {
      const open = (caCerts?: readonly string[]) =>
        make({ url, token: "secret-token", ...(caCerts && { caCerts }), connectTimeoutMs: 5000 });
      const device = await pinned(new URL(url), fingerprint, open).connect();
      const edge = await listener.accept();
      const frame = new Uint8Array(300_000).fill(7);
      await device.send(frame);
      assertEquals((await edge!.receive())?.byteLength, frame.byteLength);
      await edge!.send(frame);
      assertEquals((await device.receive())?.byteLength, frame.byteLength);
      await Promise.all([device.close(), edge!.close()]);
      await assertRejects(() => named(open()).connect(), HandshakeError, "--fingerprint");
      await assertRejects(() => pinned(new URL(url), other, open).connect(), HandshakeError, "--fingerprint");
      assertThrows(() => pinned(new URL(url), "12:34", open), UsageError, "--fingerprint");
    }
  });
});

Deno.test("a certificate and a key that do not belong together are refused by the names of their flags", async () => {
  await inFolder(async (folder) => {
    const one = await certificateOf({ ...FLAGS, tls: "self-signed" }, `${folder}/tls/kept.pem`);
    await Deno.remove(`${folder}/tls/kept.pem`);
    const two = await certificateOf({ ...FLAGS, tls: "self-signed" }, `${folder}/tls/kept.pem`);
    assert(one!.fingerprint !== two!.fingerprint);
    const [certificate, key, none] = ["cert", "key", "none"].map((name) => `${folder}/${name}.pem`);
    await Deno.writeTextFile(certificate!, one!.cert);
    await Deno.writeTextFile(key!, two!.key);
    const flags = { ...FLAGS, cert: certificate!, key: key! };
    await assertRejects(() => certificateOf(flags), UsageError, "--key");
    await assertRejects(() => certificateOf({ ...flags, key: "" }), UsageError, "--key");
    await assertRejects(() => certificateOf({ ...flags, cert: key! }), UsageError, "--cert");
    await assertRejects(() => certificateOf({ ...flags, cert: none! }), UsageError, `--cert ${none}`);
    await Deno.writeTextFile(key!, one!.key);
    assertEquals((await certificateOf(flags))?.cert, one!.cert);
  });
});

Deno.test({
  name: "connections that never begin TLS keep no files, and give way to others",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await inFolder(async (folder) => {
      const { cert, key } =
        (await certificateOf({ ...FLAGS, tls: "self-signed" }, `${folder}/tls/kept.pem`))!;
      await using server = await serve({ fetch: () => new Response("here") }, { tls: { cert, key } });
      const { port } = server;
      const openFiles = () => [...Deno.readDirSync("/proc/self/fd")].length;
      const before = openFiles();
      const idle = await Promise.all(
        Array.from({ length: 300 }, () => Deno.connect({ hostname: "127.0.0.1", port })),
      );
      try {
        await until(() => openFiles() <= before + 300 + 70, "those that are too many are closed here");
        using client = Deno.createHttpClient({ caCerts: [cert] });
        // Whoever came just now is waited for.
        const answer = await until(
          () => fetch(`https://127.0.0.1:${port}`, { client }).then((there) => there.text(), () => null),
          "an idle one has given way",
        );
        assertEquals(answer, "here");
      } finally {
        for (const connection of idle) connection.close();
      }
    });
  },
});

Deno.test("over TLS a browser that signs in gets a cookie that plain HTTP never sees", async () => {
  await inFolder(async (folder) => {
    const { cert, key } = (await certificateOf({ ...FLAGS, tls: "self-signed" }, `${folder}/tls/kept.pem`))!;
    const sessions = new Sessions();
    const app = createControlApp({
      ...{ runs: new Map(), joinToken: "join-token", adminToken: "admin-token", sessions },
      pages: new Map([["/", { type: "text/html; charset=utf-8", body: "<!doctype html>" }]]),
    });
    await using server = await serve(app, { tls: { cert, key } });
    const url = `https://127.0.0.1:${server.port}`;
    using client = Deno.createHttpClient({ caCerts: [cert] });
    const page = await fetch(url, { client });
    assertEquals([page.status, await page.text()], [200, "<!doctype html>"]);
    assert(page.headers.get("content-security-policy")!.startsWith("default-src 'none'"));
    const signedIn = await fetch(`${url}/api/session`, {
      client,
      method: "POST",
      headers: { "content-type": "application/json", origin: url },
      body: JSON.stringify({ secret: (await sessions.link()).replace("/#signin=", "") }),
    });
    const cookie = signedIn.headers.get("set-cookie")!;
    await signedIn.body?.cancel();
    assert(/^__Host-edgetuner=[\w-]{43}; .*HttpOnly; SameSite=Strict; Secure$/.test(cookie), cookie);
    const runs = await fetch(`${url}/api/runs`, { client, headers: { cookie: cookie.split(";")[0]! } });
    assertEquals([runs.status, await runs.json()], [200, []]);
  });
});

Deno.test("an address that the certificate is not for is refused with what to do, and may be named", async () => {
  await inFolder(async (folder) => {
    await using sockets = webSocketListener();
    const connect = async (names: string) => {
      const made = (await certificateOf(
        { ...FLAGS, tls: "self-signed", "allow-host": names },
        `${folder}/tls/kept.pem`,
      ))!;
      await using server = await serve({ fetch: (request) => sockets.handle(request) }, {
        ...{ tls: made, hostname: "127.0.0.2" },
      });
      // Of this machine, but not among its addresses.
      const url = `wss://127.0.0.2:${server.port}/ws`;
      const open = (caCerts: readonly string[]) =>
        webSocketTransport({ url, caCerts, connectTimeoutMs: 5000 });
      const channel = await pinned(new URL(url), made.fingerprint, open).connect();
      await Promise.all([channel.close(), sockets.accept().then((edge) => edge!.close())]);
    };
    await assertRejects(() => connect(""), HandshakeError, "must be for 127.0.0.2, and is for");
    await assertRejects(() => connect("edge.example"), HandshakeError, "--allow-host");
    await connect("edge.example,127.0.0.2");
  });
});

Deno.test("every address that is printed works as it is printed, over TLS too", async () => {
  await inFolder(async (folder) => {
    for (const host of ["127.0.0.1", "0.0.0.0", "::", "::1", "localhost"]) {
      const made = (await certificateOf({ ...FLAGS, tls: "self-signed", host }, `${folder}/tls/kept.pem`))!;
      await using server = await serve({ fetch: () => new Response("here") }, { tls: made, hostname: host });
      using client = Deno.createHttpClient({ caCerts: [made.cert] });
      const { addresses } = reachable(host, server.port);
      assertEquals(addresses.length > 0, true);
      for (const address of addresses) {
        assertEquals(/0\.0\.0\.0|\[::\]/.test(address), false, address);
        assertEquals(await (await fetch(`https://${address}/`, { client })).text(), "here", address);
      }
    }
  });
});
