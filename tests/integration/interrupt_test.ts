/**
 * Ctrl-C and the wish to terminate, sent to real processes at several moments: each ends within three seconds, with
 * exit code 130 and what was learnt saved.
 */

import { fileURLToPath } from "node:url";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { loadAdapter } from "@edgetuner/core";
import { until } from "../support/until.ts";
import { assertQuick } from "../support/quick.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const unlessWindows = { ignore: Deno.build.os === "windows" };

interface Interrupted {
  readonly code: number;
  readonly ms: number;
  readonly out: string;
  readonly errors: string;
}

/**
 * Starts a program, waits until it has printed something or a promise is resolved, sends signals, and waits for its
 * end.
 */
async function interrupt(
  program: string,
  args: readonly string[],
  after: string | Promise<void> | null,
  signals: readonly Deno.Signal[] = ["SIGINT"],
): Promise<Interrupted> {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${ROOT}${program}`, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let out = "";
  let errors = "";
  let asked = 0;
  const send = () => {
    asked = performance.now();
    // Two of one kind at once would be one to the system.
    signals.forEach((signal, i) => setTimeout(() => process.kill(signal), 100 * i));
  };
  const read = async (stream: ReadableStream<Uint8Array>, take: (text: string) => void) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) take(text);
  };
  const limit = setTimeout(() => process.kill("SIGKILL"), 60_000);
  if (after === null) setTimeout(send, 300); // before it has said anything
  else if (typeof after !== "string") after.then(send);
  await Promise.all([
    read(process.stdout, (text) => {
      out += text;
      if (asked === 0 && typeof after === "string" && out.includes(after)) send();
    }),
    read(process.stderr, (text) => errors += text),
  ]);
  const { code } = await process.status;
  clearTimeout(limit);
  assert(asked > 0, `it ended before: ${out}${errors}`);
  return { code, ms: performance.now() - asked, out, errors };
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test({
    name: `server_tuner.ts ends at ${signal} in the middle of its steps and saves its adapter [slow]`,
    ...unlessWindows,
    async fn() {
      const folder = await Deno.makeTempDir();
      const ended = await interrupt(
        "examples/server_tuner.ts",
        [
          ...["--steps", "4000", "--length", "48", "--save", folder, "--events", "--eval-every", "2"],
          ...["--valid", `${ROOT}cli/assets/restaurant/valid.txt`, "--valid-batches", "1"],
        ],
        `"type":"validation","step":2`,
        [signal],
      );
      assertEquals(ended.code, 130, ended.errors);
      assertQuick(ended.ms, 3000);
      const { arrays } = await loadAdapter(folder);
      assert([...arrays].some(([name, { data }]) => name.endsWith(".B") && data.some((x) => x !== 0)));
      await Deno.remove(folder, { recursive: true });
    },
  });
}

Deno.test({
  name:
    "programs end at once on Ctrl-C where there is nothing to save yet: loading, waiting for devices or a server [slow]",
  ...unlessWindows,
  async fn() {
    const all = await Promise.all([
      interrupt("examples/server_tuner.ts", ["--steps", "4000"], null),
      interrupt("examples/generate.ts", ["--beams", "4", "--count", "0"], null),
      interrupt("examples/edge_server.ts", ["--port", "0"], "Devices join at"),
      interrupt("examples/edge_server.ts", ["--port", "0"], "Devices join at", ["SIGTERM"]),
    ]);
    for (const { code, ms, errors } of all) {
      assertEquals(code, 130, errors);
      assertQuick(ms, 3000);
    }
  },
});

Deno.test({
  name:
    "a program that gives the event loop no turn ends at Ctrl-C all the same, at the second one at once [slow]",
  ...unlessWindows,
  async fn() {
    const [deaf, listens, twice] = await Promise.all([
      interrupt("tests/support/busy_program.ts", ["deaf"], "busy"),
      interrupt("tests/support/busy_program.ts", ["listens"], "busy"),
      interrupt("tests/support/busy_program.ts", ["listens"], "busy", ["SIGINT", "SIGINT"]),
    ]);
    assertEquals([deaf.code, listens.code, twice.code], [130, 130, 130]);
    assertQuick(deaf.ms, 1500);
    assertQuick(listens.ms, 3500);
    assertStringIncludes(listens.errors, "what was not saved before is lost");
    assertQuick(twice.ms, 1500);
  },
});

Deno.test({
  name: "demo.ts ends as interrupted before its first step, and saves an adapter from then on [slow]",
  ...unlessWindows,
  async fn() {
    const folder = await Deno.makeTempDir();
    const stepped = async () => {
      const rows = () => Deno.readTextFile(`${folder}/figures/metrics.jsonl`).catch(() => "");
      await until(async () => (await rows()).includes(`"mode":"train"`), "a step", 50_000);
    };
    const [early, late] = await Promise.all([
      interrupt("examples/demo.ts", ["--out", `${folder}/early`], "trainable parameters"),
      interrupt(
        "examples/demo.ts",
        ["--out", `${folder}/late`, "--metrics", `${folder}/figures`, "--valid-batches", "1"],
        stepped(),
      ),
    ]);
    for (const { code, ms, errors } of [early, late]) {
      assertEquals(code, 130, errors);
      assertQuick(ms, 3000);
    }
    assertMatch(
      early.errors,
      /^Stopping; what was learnt is saved\. Once more to stop at once\.\n\nStopped: .*\nSaved: nothing\n/m,
    );
    const { arrays } = await loadAdapter(`${folder}/late/adapter`);
    assert([...arrays].some(([name, { data }]) => name.endsWith(".B") && data.some((x) => x !== 0)));
    await Deno.remove(folder, { recursive: true });
  },
});

Deno.test({
  name:
    "pull.ts ends at Ctrl-C while a download trickles in, and the next one goes on where it stopped [slow]",
  ...unlessWindows,
  async fn() {
    const content = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 31 + (i >> 8)) % 256);
    const etag = '"1"';
    const ranges: (string | null)[] = [];
    let trickles = true;
    const weights = (request: Request) => {
      ranges.push(request.headers.get("range"));
      const start = Number(/^bytes=(\d+)-$/.exec(ranges.at(-1) ?? "")?.[1] ?? 0);
      const headers = {
        etag,
        "content-length": `${content.length - start}`,
        ...(start > 0 && { "content-range": `bytes ${start}-${content.length - 1}/${content.length}` }),
      };
      let at = start;
      let timer: ReturnType<typeof setInterval> | undefined;
      const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
        start(controller) {
          if (!trickles) {
            controller.enqueue(content.slice(start));
            return controller.close();
          }
          timer = setInterval(() => controller.enqueue(content.slice(at, at += 100)), 20);
        },
        cancel: () => clearInterval(timer),
      });
      return new Response(body, { status: start > 0 ? 206 : 200, headers });
    };
    await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
      const { pathname } = new URL(request.url);
      if (pathname.startsWith("/api/models/some/model/")) {
        const names = [["config.json", 2], ["model.safetensors", content.length]];
        return Response.json({ siblings: names.map(([rfilename, size]) => ({ rfilename, size })) });
      }
      return pathname.endsWith("config.json") ? new Response("{}") : weights(request);
    });
    const cache = await Deno.makeTempDir();
    const args = ["--model", "some/model", "--endpoint", `http://127.0.0.1:${server.addr.port}`];
    const folder = `${cache}/models/some/model/main`;
    const sizeOf = (name: string) => Deno.stat(`${folder}/${name}`).then(({ size }) => size, () => 0);
    const begun = async () => {
      await until(async () => await sizeOf("model.safetensors.partial") > 0, "the first bytes");
    };
    const ended = await interrupt("examples/pull.ts", [...args, "--cache", cache], begun());
    assertEquals(ended.code, 130, ended.errors);
    assertQuick(ended.ms, 3000);
    assertStringIncludes(ended.errors, "the same command goes on where it stopped");
    const there = (await Array.fromAsync(Deno.readDir(folder), (e) => e.name)).sort();
    assertEquals(there, ["config.json", "model.safetensors.partial", "model.safetensors.partial.json"]);
    const size = await sizeOf("model.safetensors.partial");
    assert(size > 0 && size < content.length);

    trickles = false;
    const again = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `${ROOT}examples/pull.ts`, ...args, "--cache", cache],
    });
    assertEquals((await again.output()).code, 0);
    assertEquals(ranges, [null, `bytes=${size}-`]);
    assertEquals(await Deno.readFile(`${folder}/model.safetensors`), content);
    await Deno.remove(cache, { recursive: true });
  },
});

Deno.test("a pruner that never returns ends the run in time; the device hears why and saves what it learnt [slow]", async () => {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(
    `${folder}/spin.js`,
    `export default () => ({ name: "spin", needs: [], init: () => 0, decide({ step }, state, { layers, heads }) {
      while (step >= 2); return [{ mask: new Uint8Array(layers * heads) }, state]; } });`,
  );
  const start = (program: string, args: readonly string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `${ROOT}examples/${program}`, ...args],
      cwd: folder,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  const server = start("edge_server.ts", [
    ...["--port", "0", "--devices", "1", "--join-token", "the-join-token", "--step-timeout", "6"],
    ...["--pruner", `${folder}/spin.js`],
  ]);
  const address = Promise.withResolvers<string>();
  const reading = (async () => {
    let said = "";
    for await (const text of server.stdout.pipeThrough(new TextDecoderStream())) {
      said += text;
      const found = /(ws:\/\/\S+)\s/.exec(said);
      if (found !== null) address.resolve(found[1]!);
    }
    address.reject(new Error(said));
  })();
  const url = await address.promise;
  const device = start("user_device.ts", [
    ...["--server", url, "--token", "the-join-token", "--length", "48", "--save", `${folder}/heads`],
    ...["--data", `${ROOT}cli/assets/restaurant/train.txt`],
  ]);
  const [ended, errors, code] = await Promise.all([
    device.output(),
    new Response(server.stderr).text(),
    server.status.then((status) => status.code),
    reading,
  ]);
  const why = `pruner "spin" must decide within 4500 ms: it took longer`;
  assertStringIncludes(errors, why);
  assertStringIncludes(new TextDecoder().decode(ended.stderr) + new TextDecoder().decode(ended.stdout), why);
  assert(code !== 0 && ended.code !== 0);
  const { arrays } = await loadAdapter(`${folder}/heads`);
  assert([...arrays].some(([name, { data }]) => name.endsWith(".B") && data.some((x) => x !== 0)));
  await Deno.remove(folder, { recursive: true });
});
