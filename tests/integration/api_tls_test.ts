/**
 * `edgetuner api` over TLS, in a process of its own.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { assetPath } from "../../cli/process/places.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

function start(args: readonly string[], cwd: string): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", MAIN, ...args],
    ...{ cwd, stdin: "null", stdout: "piped", stderr: "piped" },
  }).spawn();
}

Deno.test("api answers over TLS with a certificate that was made for it, and refuses a bad one [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const model = ["--model", assetPath("tiny_gpt2")];
  await Deno.writeTextFile(`${folder}/bad.pem`, "none");
  const bad = await start(
    ["api", ...model, "--cert", "bad.pem", "--key", "bad.pem"],
    folder,
  ).output();
  assertEquals(bad.code, 2);
  assertStringIncludes(new TextDecoder().decode(bad.stderr), "--cert must be a certificate");
  const api = start(
    ["api", ...model, "--tls", "self-signed", "--port", "0", "--api-key", "the-api-key"],
    folder,
  );
  const reader = api.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let said = "";
  while (!/Certificate .*\n/.test(said)) {
    const { done, value } = await reader.read();
    if (done) break;
    said += value;
  }
  const address = /https:\S+\/v1/.exec(said)?.[0];
  const pem = await Deno.readTextFile(`${folder}/runs/tls/self_signed.pem`);
  const [cert] = pem.split(/(?=-----BEGIN PRIVATE KEY-----)/);
  using client = Deno.createHttpClient({ caCerts: [cert!] });
  const answer = await fetch(`${address}/models`, {
    client,
    headers: { authorization: "Bearer the-api-key" },
  });
  assertEquals(answer.status, 200);
  assertStringIncludes(await answer.text(), "tiny_gpt2");
  api.kill("SIGINT");
  await reader.cancel();
  await api.stderr.cancel();
  assertEquals((await api.status).code, 130);
  await Deno.remove(folder, { recursive: true });
});
