/**
 * How programs end: exit codes, what they say, how soon they are gone, also where a link was cut without a word.
 */

import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { loadAdapter } from "@edgetuner/core";
import { ENDINGS } from "../../cli/process/exit_codes.ts";
import { goOnCommand, withoutFlags } from "../../cli/output/run_end.ts";
import { assetPath, programArgs } from "../../cli/process/places.ts";
import { inThread } from "../support/in_thread.ts";
import { until } from "../support/until.ts";
import { assertQuick } from "../support/quick.ts";
import { fileURLToPath } from "node:url";

const TOKEN = "the-join-token";
const SPOILING_DEVICE = new URL("../support/spoiling_device.ts", import.meta.url);

/** A program of `examples/`, with the times of its lines. */
class Program implements AsyncDisposable {
  readonly process: Deno.ChildProcess;
  readonly lines: string[] = [];
  /** When the last line came, as `performance.now()`. */
  lastLineAt = 0;
  #heard = Promise.withResolvers<void>();
  readonly #reading: Promise<unknown>;

  constructor(program: string, args: readonly string[]) {
    this.process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", ...programArgs(program, "program"), ...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#reading = Promise.all([this.#read(this.process.stdout), this.#read(this.process.stderr)]);
  }

  get text(): string {
    return this.lines.join("\n");
  }

  /** Waits for a line. */
  async line(pattern: RegExp, ms = 60_000): Promise<RegExpExecArray> {
    const until = performance.now() + ms;
    for (;;) {
      const found = pattern.exec(this.text);
      if (found !== null) return found;
      const left = until - performance.now();
      assert(left > 0, `${pattern} did not come within ${ms} ms:\n${this.text}`);
      await within(this.#heard.promise, left);
    }
  }

  /** Waits for the end, which must come soon after the last line. */
  async end(): Promise<number> {
    const { code } = await this.process.status;
    const endedAt = performance.now();
    await this.#reading;
    assertLess(endedAt - this.lastLineAt, 1000, `gone only after its last line:\n${this.text}`);
    return code;
  }

  /** Ends it, however the test went. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.process.kill("SIGKILL");
    } catch {
      // It has ended already.
    }
    await this.#reading;
    await this.process.status;
  }

  async #read(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    let rest = "";
    for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      // Mesa complains where there is no desktop.
      const own = lines.filter((line) => line !== "" && !line.includes("XDG_RUNTIME_DIR"));
      this.lines.push(...own);
      if (own.length > 0) this.lastLineAt = performance.now();
      this.#heard.resolve();
      this.#heard = Promise.withResolvers();
    }
  }
}

async function within(promise: Promise<void>, ms: number): Promise<void> {
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(late.resolve, ms);
  await Promise.race([promise, late.promise]);
  clearTimeout(timer);
}

/** Waits until an edge server has taken so many steps, by the metrics that it writes. */
async function untilSteps(folder: string, steps: number): Promise<void> {
  const rows = async () => (await Deno.readTextFile(`${folder}/metrics.csv`).catch(() => "")).split("\n");
  const seen = async () => (await rows()).filter((row) => row.includes(",train,")).length;
  await until(async () => await seen() >= steps, `${steps} steps`, 60_000);
}

const SMALL = ["--batch", "2", "--length", "48", "--valid-batches", "1"];

function startServer(args: readonly string[] = []): Program {
  // How a run ends: how it goes on without a device is told elsewhere.
  const ends = ["--on-loss", "stop", "--retry-timeout", "1"];
  return new Program("edge_server.ts", [
    "--port",
    "0",
    "--join-token",
    TOKEN,
    "--devices",
    "1",
    ...ends,
    ...args,
  ]);
}

async function addressOf(server: Program): Promise<string> {
  return (await server.line(/ws:\/\/([\d.:]+)\/join\/ws/))[1]!;
}

function startDevice(url: string, args: readonly string[] = []): Program {
  return new Program("user_device.ts", ["--server", url, "--token", TOKEN, "--server-lost", "0", ...args]);
}

const dataFlags = () => ["--data", assetPath("restaurant/train.txt"), ...SMALL];

/** Carries bytes to a port, as a process of its own that can be stopped: a cable that is pulled without a word. */
async function proxyTo(port: string): Promise<AsyncDisposable & { readonly port: string; cut(): void }> {
  const source = `
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    console.log(listener.addr.port);
    for await (const near of listener) {
      const far = await Deno.connect({ hostname: "127.0.0.1", port: ${port} });
      near.readable.pipeTo(far.writable).catch(() => {});
      far.readable.pipeTo(near.writable).catch(() => {});
    }`;
  const process = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", source],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value } = await reader.read();
  return {
    port: value!.trim(),
    cut: () => process.kill("SIGSTOP"),
    async [Symbol.asyncDispose]() {
      process.kill("SIGKILL");
      await process.status;
      await reader.cancel();
    },
  };
}

/** Cuts a run's link, and holds what both sides then say and when. */
async function cutRun(transport: "ws" | "http"): Promise<void> {
  const folder = await Deno.makeTempDir();
  const saves = (name: string) => ["--state", `${folder}/${name}`];
  await using server = startServer([
    ...["--steps", "5000", "--step-timeout", "2", "--state-every", "2", ...saves("edge")],
    ...["--metrics", folder],
  ]);
  const [, port] = (await addressOf(server)).split(":");
  await using proxy = await proxyTo(port!);
  await using device = startDevice(`${transport}://127.0.0.1:${proxy.port}/join/${transport}`, [
    ...["--step-timeout", "2", "--retry-timeout", "2", "--save", `${folder}/heads`],
    ...[...saves("device"), ...dataFlags()],
  ]);
  await untilSteps(folder, 4);
  proxy.cut();
  const cutAt = performance.now();
  const codes = await Promise.all([server.end(), device.end()]);
  // The limit counts from the last frame, and half a second is for the step that was under way.
  assertQuick(performance.now() - cutAt, 500 + 2000 + 1000);
  assertEquals(codes, [ENDINGS.lost.code, ENDINGS.lost.code], device.text);
  for (const [program, name] of [[server, "edge"], [device, "device"]] as const) {
    assertStringIncludes(program.text, "must take at most 2000 ms: it took longer");
    assertMatch(program.text, /Ended too early: \d+ steps/);
    assertMatch(
      program.text,
      new RegExp(`Go on from step \\d+: deno run -A .*--resume ${folder}/${name}$`, "m"),
    );
  }
  assertMatch(device.text, new RegExp(`Saved: \\d+ parameters in ${folder}/heads; the state of step`));
  await Deno.remove(folder, { recursive: true });
}

Deno.test({
  name: "both ends of a link that is cut without a word end at their limits, and say what goes on [slow]",
  ignore: Deno.build.os === "windows",
  async fn() {
    await Promise.all([cutRun("ws"), cutRun("http")]);
  },
});

Deno.test("a device that survives says that its run is lost, with its exit code; one whose run was stopped too [slow]", async () => {
  const folder = await Deno.makeTempDir();
  await using server = startServer(["--steps", "5000", "--devices", "2", "--metrics", `${folder}/1`]);
  const url = `ws://${await addressOf(server)}/join/ws`;
  await using data = startDevice(url, dataFlags());
  await using other = startDevice(url);
  await untilSteps(`${folder}/1`, 2);
  data.process.kill("SIGKILL");
  assertEquals([await server.end(), await other.end()], [4, 4]);
  assertStringIncludes(other.text, "Cannot go on as the edge server ended the run: Cannot go on with device");
  assertMatch(
    other.text,
    /Ended too early: \d+ steps\nSaved: the state of step \d+ in (runs\/user_device\/state\S*)\nGo on from step \d+: deno run -A .*--server .*--resume \1/,
  );
  await data.process.status;

  await using second = startServer(["--steps", "5000", "--metrics", `${folder}/2`]);
  await using device = startDevice(`ws://${await addressOf(second)}/join/ws`, dataFlags());
  await untilSteps(`${folder}/2`, 2);
  second.process.kill("SIGINT");
  assertEquals([await second.end(), await device.end()], [130, 130]);
  assertMatch(device.text, /Stopped: \d+ steps.*\(interrupted\)$/m);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("numbers of one device that are not finite take nothing from the others: heads and the command that goes on [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const saves = (name: string) => ["--state", `${folder}/${name}`, "--state-every", "1"];
  await using server = startServer([
    "--steps",
    "20",
    "--devices",
    "2",
    ...saves("edge"),
  ]);
  const url = `ws://${await addressOf(server)}/join/ws`;
  const [, state] = saves("state");
  const save = ["--save", `${folder}/heads`, "--state", state!];
  await using honest = startDevice(url, [...dataFlags(), ...save]);
  await honest.line(/joined on/);
  const spoiling = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", fileURLToPath(SPOILING_DEVICE), url, TOKEN],
    stderr: "null",
  });
  const { stdout } = await spoiling.output();
  assertEquals([await server.end(), await honest.end()], [ENDINGS.failed.code, ENDINGS.failed.code]);
  for (const text of [server.text, honest.text, new TextDecoder().decode(stdout)]) {
    assertStringIncludes(text, `"delta" of device "spoiling" must be finite: in step 1`);
  }
  for (const { text } of [server, honest]) assertMatch(text, /^Go on from step 1: deno run -A .*--resume/m);
  assertMatch(honest.text, /^Saved: \d+ parameters in .*heads; the state of step 1 in/m);
  const { lora } = await loadAdapter(`${folder}/heads`);
  assertEquals(lora.rank, 8);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a device that is early waits for its server, is told the truth at the end; a wrong token is refused at once [slow]", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const url = `ws://127.0.0.1:${port}/join/ws`;
  await using device = startDevice(url, [
    ...dataFlags(),
    ...["--valid", assetPath("restaurant/valid.txt"), "--share-loss"],
  ]);
  await using late = startDevice(url, ["--connect-timeout", "0.5"]);
  assertEquals(await late.end(), ENDINGS.lost.code);
  assertMatch(late.text, /(\d|one) attempts? within 500 ms\nNothing was done; again: deno run -A/);
  await device.line(/Cannot connect to ws:\/\/127.*; trying again for \d+ s/);
  await using server = startServer(["--port", `${port}`, "--steps", "3"]);
  await addressOf(server);
  await using wrong = startDevice(`http://127.0.0.1:${port}/join/http`, ["--token", "another"]);
  const codes = await Promise.all([wrong.end(), server.end(), device.end()]);
  assertEquals(codes, [ENDINGS.refused.code, 0, 0], `${server.text}\n${device.text}`);
  assertStringIncludes(wrong.text, "the token was refused");
  assertEquals(wrong.lines.length, 1, "one attempt");
  for (const { text } of [server, device]) {
    assertMatch(text, /Done: 3 steps.*, validation loss \d\.\d+ before and \d\.\d+ after$/m);
  }
});

Deno.test("limits of waiting that do not go together are refused before anything starts [slow]", async () => {
  for (
    const [program, args] of [
      ["edge_server.ts", ["--ping-interval", "20"]],
      ["user_device.ts", ["--token", "t", "--ping-interval", "20"]],
      ["user_device.ts", ["--token", "t", "--step-timeout", "5", "--retry-timeout", "6"]],
      ["demo.ts", ["--idle-timeout", "200"]],
      ["edge_server.ts", ["--pause-timeout", "20"]],
      ["generate.ts", ["--connect", "ws://127.0.0.1:1", "--token", "t", "--retry-timeout", "40"]],
      ["edge_server.ts", ["--step-timeout", "1e9"]],
    ] as const
  ) {
    const { code, out, errors } = await inThread(program, args);
    assertEquals([code, out], [ENDINGS.usage.code, ""], errors);
    assertMatch(errors, /^Cannot run [a-z_]+\.ts as --[a-z]+-[a-z]+ must be.*$/);
  }
});

Deno.test("docs/exit_codes.md has the table that programs go by", async () => {
  const page = await Deno.readTextFile(new URL("../../docs/exit_codes.md", import.meta.url));
  const rows = [...page.matchAll(/^\| (\d+) +\| (\w+) +\| (.*?) +\|$/gm)].map(([, code, name, meaning]) =>
    [name, { code: Number(code), meaning }] as const
  );
  assertEquals(Object.fromEntries(rows), ENDINGS);
});

Deno.test("the command that goes on has the program's own flags", () => {
  const args = ["--steps", "9", "--resume=old", "--state", "a b", "--events", "--port", "0"];
  assertEquals(withoutFlags(args, ["resume", "state"]), ["--steps", "9", "--events", "--port", "0"]);
  assertEquals(withoutFlags(["--resume", "--steps", "9", "--resume"], ["resume"]), ["--steps", "9"]);
  assertEquals(
    goOnCommand({ args, form: "program" }, "edge_server.ts", { folder: "a b", step: 3 }, { port: "80" }),
    "deno run -A examples/edge_server.ts --steps 9 --events --port 80 --resume 'a b'",
  );
  assertEquals(
    goOnCommand({ args: ["--state", "c"], form: "command" }, "edge_server.ts", null),
    "edgetuner serve --state c",
  );
});

/** The token of the REST API of the demo's edge server: the demo makes it up, and tells its own child alone. */
async function adminTokenAt(port: number): Promise<string | null> {
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const args = (await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "")).split("\0");
    const token = args.indexOf("--admin-token");
    if (token >= 0 && args.includes(String(port))) return args[token + 1] ?? null;
  }
  return null;
}

Deno.test({
  name: "a demo that is stopped over REST ends as interrupted, with what was learnt and how to go on [slow]",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const out = await Deno.makeTempDir();
    const port = freePort();
    await using demo = new Program("demo.ts", [
      ...["--port", `${port}`, "--steps", "5000", "--prompts", "1", "--metrics", out, "--out", `${out}/demo`],
      ...["--capacities", "2,1", ...SMALL],
    ]);
    await untilSteps(out, 2);
    const headers = { authorization: `Bearer ${await adminTokenAt(port)}` };
    const api = `http://127.0.0.1:${port}/api/runs`;
    const [{ run }] = await (await fetch(api, { headers })).json();
    const answer = await fetch(`${api}/${run}/stop`, { method: "POST", headers });
    await answer.body?.cancel();
    assert(answer.ok, `${answer.status}`);
    assertEquals(await demo.end(), ENDINGS.interrupted.code, demo.text);
    assertMatch(demo.text, /Saved/);
    assertMatch(demo.text, /Go on from step \d+: .*--resume/);
    assert((await loadAdapter(`${out}/demo/adapter`)).arrays.size > 0);
    await Deno.remove(out, { recursive: true });
  },
});

/** A port that nobody uses. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

Deno.test({
  name:
    "a device and then the edge server are killed and started again with the same commands: the run goes on [slow]",
  ignore: Deno.build.os === "windows",
  async fn() {
    const folder = await Deno.makeTempDir();
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    listener.close();
    const serve = (...more: string[]) =>
      startServer([
        ...[
          "--port",
          `${port}`,
          "--steps",
          "48",
          "--devices",
          "2",
          "--on-loss",
          "prune",
          "--state-every",
          "5",
        ],
        ...["--retry-timeout", "2", "--state", `${folder}/edge`, "--metrics", folder, ...more],
      ]);
    const join = (name: string, ...more: string[]) =>
      startDevice(`ws://127.0.0.1:${port}/join/ws`, [
        ...["--name", name, "--server-lost", "60", "--state", `${folder}/${name}`, ...more],
      ]);
    await using first = serve();
    await addressOf(first);
    const small = ["--batch", "1", "--length", "24", "--valid-batches", "1"];
    await using data = join("data", "--data", assetPath("restaurant/train.txt"), ...small);
    await using other = join("other");
    await untilSteps(folder, 10);
    other.process.kill("SIGKILL");
    await first.line(/^other is away from step \d+ on, its heads are pruned: /m);
    // Without data no step is taken: how long it takes to start is not the run's.
    data.process.kill("SIGSTOP");
    await using again = join("other", "--resume");
    await again.line(/joined on/);
    data.process.kill("SIGCONT");
    const [, step] = await first.line(/^other is back from step (\d+) on$/m);
    await untilSteps(folder, Number(step) + 10);
    first.process.kill("SIGKILL");
    await data.line(/trying to come back/);
    await using second = serve("--resume");
    await addressOf(second);
    const codes = await Promise.all([second.end(), data.end(), again.end()]);
    assertEquals(codes, [0, 0, 0], `${second.text}\n${data.text}\n${again.text}`);
    for (const { text } of [data, again]) assertMatch(text, /^The connection is there again$/m);
    await Deno.remove(folder, { recursive: true });
  },
});
