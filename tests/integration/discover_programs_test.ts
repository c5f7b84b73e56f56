/**
 * An edge server that announces itself, and a device that finds it, as programs.
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { assetPath, programArgs } from "../../cli/process/places.ts";
import { ROOT } from "../support/places.ts";
import { until } from "../support/until.ts";

const TOKEN = "the-join-token";

Deno.test("a device without an address finds the edge server that announces itself, with its certificate [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const start = (args: readonly string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", ...args],
      ...{ cwd: folder, stdin: "null", stdout: "piped", stderr: "piped" },
    }).spawn();
  const server = start([
    ...programArgs("edge_server.ts", "program"),
    ...["--host", "0.0.0.0", "--port", "0", "--announce", "127.0.0.1", "--tls", "self-signed"],
    ...["--devices", "1", "--steps", "2", "--join-token", TOKEN, "--state", "", "--rank", "2"],
  ]);
  let said = "";
  const reading = (async () => {
    for await (const text of server.stdout.pipeThrough(new TextDecoderStream())) said += text;
  })();
  try {
    await until(() => /Watch it/.test(said), "the edge server listens", 120_000);
    const [, port] = /wss:\/\/127\.0\.0\.1:(\d+)/.exec(said)!;
    const [, fingerprint] = /--fingerprint\n {2}(\S+)/.exec(said)!;
    const list = await start([`${ROOT}cli/main.ts`, "discover", "--wait", "2", "--json"]).output();
    const text = new TextDecoder().decode(list.stdout);
    assertEquals(list.code, 0, text);
    assertEquals(text.includes(TOKEN), false);
    const found = JSON.parse(text).find((one: { fingerprint: string }) => one.fingerprint === fingerprint);
    assertStringIncludes(found.addresses.join(" "), `:${port}/join/ws`);
    const device = await start([
      ...programArgs("user_device.ts", "program"),
      ...["--token", TOKEN, "--fingerprint", fingerprint!, "--state", ""],
      ...["--data", assetPath("restaurant/train.txt"), "--batch", "1", "--length", "32"],
    ]).output();
    const told = new TextDecoder().decode(device.stdout) + new TextDecoder().decode(device.stderr);
    assertEquals(device.code, 0, told);
    assertMatch(told, new RegExp(`Found run ${found.run}`));
    assertStringIncludes(told, "Done: 2 steps");
    assertEquals((await server.status).code, 0);
  } finally {
    try {
      server.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await Promise.all([reading, server.stderr.cancel()]);
    await Deno.remove(folder, { recursive: true });
  }
});
