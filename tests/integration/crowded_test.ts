/** A run on an edge server that others keep busy, in a process that may open few files. */

import { assertEquals, assertGreater, assertStringIncludes } from "@std/assert";
import { ASSETS, EXAMPLES } from "../support/places.ts";

const TOKEN = "a-join-token";

/** Reads JSON lines until one of a type comes. */
async function eventOf(
  lines: ReadableStreamDefaultReader<string>,
  type: string,
): Promise<Record<string, unknown>> {
  let text = "";
  for (;;) {
    const { value, done } = await lines.read();
    if (done) throw new Error(`The program ended before "${type}": ${text}`);
    text += value;
    const found = text.split("\n").slice(0, -1).find((line) => line.includes(`"type":"${type}"`));
    if (found !== undefined) return JSON.parse(found);
  }
}

Deno.test({
  name:
    "an honest run succeeds while idle connections and half headers crowd an edge server of few files [slow]",
  ignore: Deno.build.os === "windows",
  async fn() {
    const size = ["--batch", "2", "--length", "48"];
    const server = new Deno.Command("sh", {
      args: ["-c", 'ulimit -n 400 && exec "$@"', "sh", Deno.execPath(), "run", "-A", "--quiet"].concat(
        `${EXAMPLES}edge_server.ts`,
        ["--devices", "1", "--port", "0", "--join-token", TOKEN, "--steps", "2", "--events"],
      ),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const lines = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const address = String((await eventOf(lines, "listening")).address);
    const [hostname, port] = address.split(":") as [string, string];
    const crowd: Deno.Conn[] = [];
    for (let i = 0; i < 800; i++) {
      const connection = await Deno.connect({ hostname, port: Number(port) });
      crowd.push(connection);
      if (i % 2 === 1) await connection.write(new TextEncoder().encode("GET / HTT")).catch(() => {});
    }
    const device = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `${EXAMPLES}user_device.ts`].concat(
        ["--server", `ws://${address}/join/ws`, "--token", TOKEN, ...size],
        ["--data", `${ASSETS}restaurant/train.txt`],
      ),
      stdin: "null",
    });
    // Where there is no room for a second, a device is turned away, and tries again.
    let ended = await device.output();
    for (let tries = 1; ended.code !== 0 && tries < 4; tries++) ended = await device.output();
    assertEquals(ended.code, 0, new TextDecoder().decode(ended.stderr));
    assertStringIncludes(new TextDecoder().decode(ended.stderr), "2 steps");
    const rest: string[] = [];
    for (let part = await lines.read(); !part.done; part = await lines.read()) rest.push(part.value);
    const [{ code }, errors] = await Promise.all([server.status, new Response(server.stderr).text()]);
    assertEquals(code, 0, errors);
    assertGreater(rest.join("").split(`"type":"step"`).length, 1);
    for (const connection of crowd) connection.close();
  },
});
