/**
 * Processes that the system holds up, as a laptop that sleeps: the run goes on without anybody doing anything.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { assetPath, programArgs } from "../../cli/process/places.ts";
import { until } from "../support/until.ts";

const TOKEN = "the-join-token";
/** What is silent for so long is given up, in seconds; the others are multiples of it. */
const LIMITS = [
  "--ping-interval",
  "0.5",
  "--idle-timeout",
  "1.5",
  "--retry-timeout",
  "1.5",
  "--step-timeout",
  "60",
];
/** Longer than silence and the time for another connection together, in milliseconds. */
const SLEEP_MS = 4000;

/** A program, and what it has said. */
class Running implements AsyncDisposable {
  readonly process: Deno.ChildProcess;
  text = "";
  readonly #reading: Promise<unknown>;

  constructor(program: string, args: readonly string[]) {
    this.process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", ...programArgs(program, "program"), ...args],
      ...{ stdin: "null", stdout: "piped", stderr: "piped" },
    }).spawn();
    this.#reading = Promise.all(
      [this.process.stdout, this.process.stderr].map(async (stream) => {
        for await (const text of stream.pipeThrough(new TextDecoderStream())) this.text += text;
      }),
    );
  }

  async end(): Promise<number> {
    const { code } = await this.process.status;
    await this.#reading;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.process.kill("SIGCONT");
      this.process.kill("SIGKILL");
    } catch {
      // It has ended already.
    }
    await this.end();
  }
}

for (const sleeper of ["a device", "the edge server"] as const) {
  Deno.test({
    name:
      `${sleeper} is held up for longer than all limits of its links: the run goes on and ends by itself [slow]`,
    ignore: Deno.build.os === "windows",
    async fn() {
      const folder = await Deno.makeTempDir();
      const rows = async () => (await Deno.readTextFile(`${folder}/metrics.csv`).catch(() => "")).split("\n");
      const steps = async () => (await rows()).filter((row) => row.includes(",train,")).length;
      await using server = new Running("edge_server.ts", [
        ...["--port", "0", "--join-token", TOKEN, "--devices", "2", "--steps", "64", "--metrics", folder],
        ...["--state", "", "--pruner", "none", ...LIMITS],
      ]);
      const address = () => /ws:\/\/[\d.:]+\/join\/ws/.exec(server.text)?.[0];
      await until(() => address() !== undefined, "the address", 60_000);
      const join = (...args: string[]) =>
        new Running("user_device.ts", [
          ...[
            "--server",
            address()!,
            "--token",
            TOKEN,
            "--state",
            "",
            "--server-lost",
            "60",
            ...LIMITS,
            ...args,
          ],
        ]);
      const data = ["--data", assetPath("restaurant/train.txt"), "--batch", "1", "--length", "32"];
      await using first = join("--name", "first", ...data);
      await using second = join("--name", "second");
      await until(async () => await steps() >= 3, "3 steps", 90_000);
      const { process } = sleeper === "a device" ? second : server;
      process.kill("SIGSTOP");
      const asleep = performance.now();
      await until(() => performance.now() - asleep > SLEEP_MS, "the sleep", 2 * SLEEP_MS);
      process.kill("SIGCONT");
      const codes = await Promise.all([server.end(), first.end(), second.end()]);
      assertEquals(codes, [0, 0, 0], `${server.text}\n${first.text}\n${second.text}`);
      if (sleeper === "a device") assertStringIncludes(server.text, "second is away");
      assertEquals(await steps(), 64);
      await Deno.remove(folder, { recursive: true });
    },
  });
}
