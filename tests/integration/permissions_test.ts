/**
 * Programs run with the permissions that docs/permissions.md lists for them, and not with fewer.
 */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { ASSETS, EXAMPLES, ROOT } from "../support/places.ts";

/** Kinds of permissions, in the order of the table's columns. */
const KINDS = ["read", "write", "net", "env", "run"] as const;
type Kind = typeof KINDS[number];
type Set = Readonly<Record<Kind, readonly string[]>>;

/** The rows of the table, by program. */
const DOCUMENTED = new Map(
  [...(await Deno.readTextFile(`${ROOT}docs/permissions.md`)).matchAll(/^\| `(\S+\.ts)` +\|(.*)\|$/gm)]
    .map(([, program, rest]): [string, Set] => {
      const columns = rest!.split("|").map((cell) =>
        [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name!)
      );
      return [program!, Object.fromEntries(KINDS.map((kind, i) => [kind, columns[i]!])) as unknown as Set];
    }),
);

/** What the table's words stand for in this test. */
interface Places {
  readonly files?: readonly string[];
  readonly out?: string;
  readonly net?: string;
}

/** Starts a program with its row of the table, but for one kind. */
function start(
  program: string,
  args: readonly string[],
  { files = [], out, net }: Places,
  without?: Kind,
): Deno.ChildProcess {
  const words: Readonly<Record<string, readonly (string | undefined)[]>> = {
    CHECKOUT: [ROOT],
    FILES: files,
    OUT: [out],
    "HOST:PORT": [net],
  };
  const flags = Object.entries(DOCUMENTED.get(program)!).flatMap(([kind, names]) => {
    const values = names.flatMap((name) => words[name] ?? [name]).filter((value) => value !== undefined);
    return kind === without || values.length === 0 ? [] : [`--allow-${kind}=${values.join(",")}`];
  });
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...flags, `${EXAMPLES}${program}`, ...args],
    ...(out === undefined ? {} : { cwd: out }), // a run keeps its state there
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { DENO_NO_UPDATE_CHECK: "1" },
  }).spawn();
}

async function end(process: Deno.ChildProcess): Promise<{ code: number; text: string }> {
  const { code, stdout, stderr } = await process.output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

async function succeeds(process: Deno.ChildProcess): Promise<string> {
  const { code, text } = await end(process);
  assertEquals(code, 0, text);
  return text;
}

/** The first line that has a part, from a program that goes on. */
async function lineWith(part: string, output: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of output.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const line = text.split("\n").slice(0, -1).find((line) => line.includes(part));
    if (line !== undefined) return line;
  }
  throw new Error(`it must print ${part}: it prints ${text}`);
}

Deno.test("every program of the examples is in the table, and none may load native code or everything [slow]", async () => {
  const programs: string[] = [];
  for await (const { name, isFile } of Deno.readDir(EXAMPLES)) {
    if (!isFile || !name.endsWith(".ts") || name.startsWith("bench_")) continue;
    if ((await Deno.readTextFile(`${EXAMPLES}${name}`)).includes("import.meta.main")) programs.push(name);
  }
  assertEquals([...DOCUMENTED.keys()].sort(), programs.sort());
  for (const [program, set] of DOCUMENTED) {
    for (const kind of KINDS) assertEquals(set[kind].includes("*"), false, program);
  }
});

Deno.test("server, devices, tuner, generation and demo run with the permissions of the table, and not with fewer [slow]", async () => {
  const out = await Deno.makeTempDir();
  const data = `${await Deno.makeTempDir()}/train.txt`;
  await Deno.copyFile(`${ASSETS}restaurant/train.txt`, data);
  const files = [data];
  const small = ["--batch", "1", "--length", "32", "--valid-batches", "1"];
  const short = ["--steps", "1", "--data", data, ...small];

  const tuner = ["--save", `${out}/tuned`, "--report", `${out}/tuned.json`, "--metrics", `${out}/metrics`];
  await succeeds(start("server_tuner.ts", [...short, ...tuner], { files, out }));
  const generate = ["--adapter", `${out}/tuned`, "--data", data, "--count", "1", "--max-tokens", "2"];
  await succeeds(start("generate.ts", generate, { files: [...files, out] }));
  await succeeds(
    start("demo.ts", [...short, "--capacities", "1", "--prompts", "1", "--out", `${out}/demo`], {
      files,
      out,
    }),
  );
  for (const kind of ["read", "write"] as const) {
    const fewer = await end(start("server_tuner.ts", [...short, ...tuner], { files, out }, kind));
    assertNotEquals(fewer.code, 0, `it runs without ${kind}`);
    assertMatch(fewer.text, new RegExp(`Requires ${kind} access`));
  }
  const mute = await end(start("edge_server.ts", ["--port", "0"], { out, net: "127.0.0.1:0" }, "net"));
  assertNotEquals(mute.code, 0);
  assertMatch(mute.text, /Requires net access/);

  const token = "a-token-of-the-test";
  const server = start("edge_server.ts", [
    ...["--port", "0", "--steps", "1", "--devices", "2", "--join-token", token, "--events"],
    ...["--report", `${out}/edge.json`, "--state", `${out}/edge`],
  ], { out, net: "127.0.0.1:0" });
  const errors = new Response(server.stderr).text();
  const [lines, rest] = server.stdout.tee();
  const drained = rest.pipeTo(new WritableStream());
  const { address } = JSON.parse(await lineWith('"listening"', lines)) as { address: string };
  const device = (name: string, scheme: string, more: readonly string[]) =>
    succeeds(start("user_device.ts", [
      ...[
        "--server",
        scheme,
        "--token",
        token,
        "--name",
        name,
        "--capacity",
        "1",
        "--save",
        `${out}/${name}`,
      ],
      ...more,
    ], { files, out, net: address }));
  await Promise.all([
    device("first", `ws://${address}/join/ws`, ["--data", data, "--state", `${out}/first-state`, ...small]),
    device("second", `http://${address}/join/http`, []),
  ]);
  assertEquals((await server.status).code, 0, await errors);
  await drained;
  assert((await Deno.stat(`${out}/second/adapter_model.safetensors`)).isFile);
  for (const folder of [out, data.slice(0, data.lastIndexOf("/"))]) {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("peak memory is told whatever may be read [slow]", async () => {
  const report = JSON.stringify(new URL("../../cli/output/report.ts", import.meta.url).href);
  // A file: local modules are not imported from an address without one.
  const main = `${await Deno.makeTempDir()}/main.ts`;
  await Deno.writeTextFile(main, `import { peakMemory } from ${report}; console.log(peakMemory());`);
  for (const flags of [["-A"], ["--allow-read"], [`--allow-read=${ROOT}`]]) {
    const text = await succeeds(
      new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          "--quiet",
          "--no-prompt",
          ...flags,
          "--config",
          `${ROOT}deno.json`,
          main,
        ],
        cwd: ROOT,
        stdout: "piped",
        stderr: "piped",
      }).spawn(),
    );
    assert(Number(text) > 1e7, text);
  }
  await Deno.remove(main.slice(0, main.lastIndexOf("/")), { recursive: true });
});
