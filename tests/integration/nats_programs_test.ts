/**
 * A run whose edge server and devices meet at a broker.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { assetPath, programArgs } from "../../cli/process/places.ts";
import { NatsServer } from "../support/nats_server.ts";

const TOKEN = "the-join-token";

/** Starts a program, and gives what it has said at its end. */
function start(program: string, args: readonly string[], env: Record<string, string>, cwd: string) {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", ...programArgs(program, "program"), ...args],
    ...{ env, cwd, stdin: "null", stdout: "piped", stderr: "piped" },
  }).spawn();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return process.output().then(({ code, stdout, stderr }) => ({
    code,
    text: decode(stdout) + decode(stderr),
  }));
}

Deno.test("edge server and devices meet at a broker, and neither shows its credentials [slow]", async () => {
  const folder = await Deno.makeTempDir();
  await using broker = await NatsServer.start({
    more: `authorization { user: home, password: "hush-hush" }`,
  });
  const url = broker.url("a-run");
  const env = { EDGETUNER_NATS_USER: "home", EDGETUNER_NATS_PASSWORD: "hush-hush" };
  const server = start(
    "edge_server.ts",
    [
      ...["--nats", broker.url("a-run", "home:hush-hush@"), "--port", "0", "--devices", "2", "--steps", "2"],
      ...["--join-token", TOKEN, "--state", "", "--join-timeout", "40"],
    ],
    {},
    folder,
  );
  const device = (...args: string[]) =>
    start("user_device.ts", ["--server", url, "--token", TOKEN, "--state", "", ...args], env, folder);
  const data = ["--data", assetPath("restaurant/train.txt"), "--batch", "1", "--length", "32"];
  const ends = await Promise.all([server, device(...data, "--name", "attic"), device("--name", "barn")]);
  for (const { code, text } of ends) {
    assertEquals(code, 0, text);
    assertStringIncludes(text, "Done: 2 steps");
    assertEquals(text.includes("hush-hush"), false, text);
  }
  assertStringIncludes(ends[0]!.text, `Through the broker\n  ${url}`);
  await Deno.remove(folder, { recursive: true });
});
