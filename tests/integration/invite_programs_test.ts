/**
 * An edge server that invites, and a device that comes with the invite, as people start them; each has an engine.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ASSETS, EXAMPLES } from "../support/places.ts";

/** A program whose lines are read as they come. */
class Program {
  readonly #child: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #errors: Promise<string>;
  #rest = "";

  constructor(program: string, cwd: string, args: readonly string[]) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `${EXAMPLES}${program}`, ...args],
      cwd,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#lines = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#input = this.#child.stdin.getWriter();
    this.#errors = new Response(this.#child.stderr).text();
  }

  async type(line: string): Promise<void> {
    await this.#input.write(new TextEncoder().encode(`${line}\n`));
  }

  /** Reads on until a line has a text; that line. */
  async until(text: string): Promise<string> {
    for (;;) {
      const at = this.#rest.indexOf("\n");
      const line = this.#rest.slice(0, at);
      if (at >= 0) this.#rest = this.#rest.slice(at + 1);
      if (at >= 0 && line.includes(text)) return line;
      if (at >= 0) continue;
      const { done, value } = await this.#lines.read();
      if (done) throw new Error(`There is no line with "${text}": ${await this.#errors}`);
      this.#rest += value;
    }
  }

  async end(): Promise<{ readonly code: number; readonly errors: string }> {
    await this.#input.close().catch(() => {});
    while (!(await this.#lines.read()).done);
    const { code } = await this.#child.status;
    return { code, errors: await this.#errors };
  }
}

Deno.test("a program joins with an invite once the host has approved it by a line; the invite is good once [slow]", async () => {
  const root = await Deno.makeTempDir();
  const server = new Program("edge_server.ts", root, [
    ...["--invite", "--events", "--port", "0", "--devices", "1", "--steps", "3", "--state", ""],
    ...["--tls", "self-signed"],
  ]);
  const listening = JSON.parse(await server.until('"type":"listening"'));
  const { address } = JSON.parse(await server.until('"type":"invite"'));
  assert(address.startsWith("https://127.0.0.1:"), address);
  const joining = (name: string) =>
    new Program("user_device.ts", root, [
      ...["--server", address, "--fingerprint", listening.fingerprint, "--name", name],
      ...["--data", `${ASSETS}restaurant/train.txt`, "--batch", "2", "--length", "24"],
      ...["--state", `${root}/${name}`],
    ]);
  const device = joining("laptop");
  const asked = JSON.parse(await server.until('"type":"request"'));
  assertEquals([asked.name, asked.state], ["laptop", "waiting"]);
  assertStringIncludes(await device.until("Asked to join"), `code ${asked.code}`);
  const second = joining("second");
  const refused = await second.end();
  assertEquals(refused.code, 3);
  assertStringIncludes(refused.errors, "used before");
  await server.type(`approve ${asked.request}`);
  await server.until('"type":"joined"');
  const ends = await Promise.all([device.end(), server.end()]);
  assertEquals(ends.map(({ code }) => code), [0, 0], ends.map(({ errors }) => errors).join("\n"));
  // Kept for when it comes back.
  assertEquals(JSON.parse(await Deno.readTextFile(`${root}/laptop/join_key.json`)).address, address);
  await Deno.remove(root, { recursive: true });
});
