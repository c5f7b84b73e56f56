/**
 * One validation loss, whichever command prints it: of a run on one machine, of the same run over devices, and of what
 * was saved.
 */

import { assert, assertEquals } from "@std/assert";
import { ROOT } from "../support/places.ts";

const decoder = new TextDecoder();

function start(...args: string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "cli/main.ts", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(120_000),
  }).spawn();
}

async function run(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await start(...args).output();
  assertEquals(code, 0, decoder.decode(stderr));
  return decoder.decode(stdout) + decoder.decode(stderr);
}

/** Validation losses that a command printed at its end, before and after. */
function printed(output: string): readonly [before: string, after: string] {
  const [, before, after] = /validation loss ([\d.]+) before and ([\d.]+) after/.exec(output) ?? [];
  assert(before !== undefined && after !== undefined, output);
  return [before, after];
}

Deno.test("tune, serve with join, and a run from what was saved print one validation loss [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    // Of very different lengths: a mean by batches would be another number.
    const lines = (await Deno.readTextFile(`${ROOT}cli/assets/restaurant/valid.txt`)).split("\n");
    await Deno.writeTextFile(`${folder}/valid.txt`, `${lines.slice(0, 5).join("\n")}\nname : X||Hi.\n`);
    await Deno.writeTextFile(`${folder}/train.txt`, lines.slice(10, 22).join("\n"));
    const data = [
      ...[`--data=${folder}/train.txt`, `--valid=${folder}/valid.txt`, "--batch=2", "--length=48"],
      ...["--seed=3", "--eval-every=1"],
    ];
    const tuned = await run(
      ...["tune", ...data, "--rank=2", "--steps=2", "--rate=0.01", "--warmup=0", `--save=${folder}/one`],
    );
    const server = start(
      ...["serve", "--devices=1", "--port=0", "--join-token=the-join-token", "--steps=1"],
      ...[`--adapter=${folder}/one`, "--pruner=none", "--events", `--state=${folder}/server`],
    );
    const [first, second] = server.stdout.tee();
    let text = "";
    for await (const part of first.pipeThrough(new TextDecoderStream())) {
      text += part;
      if (text.includes("\n")) break;
    }
    const rest = Promise.all([new Response(second).text(), new Response(server.stderr).text()]);
    const { address } = JSON.parse(text.split("\n")[0]!);
    const joined = await run(
      ...["join", `--server=ws://${address}/join/ws`, "--token=the-join-token", ...data],
      ...[`--adapter=${folder}/one`, `--save=${folder}/split`, `--state=${folder}/device`],
    );
    assertEquals((await server.status).code, 0, (await rest).join("\n"));
    const again = await run(
      ...["tune", ...data, "--steps=1", "--rate=0.001", `--adapter=${folder}/one`, `--save=${folder}/again`],
    );
    // What was saved is validated before it is trained further: here, and over devices.
    assertEquals([printed(again)[0], printed(joined)[0]], [printed(tuned)[1], printed(tuned)[1]]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
