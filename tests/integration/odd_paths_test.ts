/**
 * Programs in a folder, and with files, whose names have what an address and a path write in different ways.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { ROOT } from "../support/places.ts";

/** A space, a comma, a letter beyond ASCII, what begins a fragment, what looks like an escape, a question mark. */
const ODD = "a b, ü #1 %20?";

/** What the programs need of the repository. */
const NEEDED = ["deno.json", "deno.lock", "mod.ts", "server.ts", "evaluation.ts", ".jsr", "examples"];
const MEMBERS = ["kernels", "core", "transport", "plugins", "page", "cli"];

async function copy(from: string, to: string): Promise<void> {
  if ((await Deno.stat(from)).isFile) return await Deno.copyFile(from, to);
  await Deno.mkdir(to);
  for await (const { name } of Deno.readDir(from)) {
    if (name !== "bench" && name !== "runs") await copy(`${from}/${name}`, `${to}/${name}`);
  }
}

Deno.test("set-up, demo, tuner and generation run from and with folders of any name [slow]", async () => {
  const folder = `${await Deno.makeTempDir()}/${ODD}`;
  await Deno.mkdir(folder);
  for (const name of [...NEEDED, ...MEMBERS]) await copy(`${ROOT}${name}`, `${folder}/${name}`);
  const mine = `${folder}/${ODD}`;
  await Deno.mkdir(mine);
  await copy(`${folder}/cli/assets/tiny_gpt2`, `${mine}/model`);
  for (const name of ["train.txt", "test.txt"]) {
    await Deno.copyFile(`${folder}/cli/assets/restaurant/${name}`, `${mine}/#${name}`);
  }
  for (const name of ["custom_pruner.ts", "custom_codec.ts"]) {
    await Deno.copyFile(`${folder}/examples/${name}`, `${mine}/${name}`);
  }
  const run = async (...[command, ...args]: [string, ...string[]]) => {
    const { code, stdout, stderr } = await new Deno.Command(command, {
      args,
      cwd: mine,
      stdin: "null",
      env: { DENO_NO_UPDATE_CHECK: "1" },
    }).output();
    const [out, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    assertEquals(code, 0, `${args.join(" ")}\n${out}\n${errors}`);
    return `${out}${errors}`;
  };
  const example = (name: string, ...args: string[]) =>
    run(Deno.execPath(), "run", "-A", "--quiet", `../examples/${name}`, ...args);

  if (Deno.build.os !== "windows") assertMatch(await run("sh", "../examples/setup.sh"), /^Ready: /m);
  const demo = await example(
    "demo.ts",
    ...["--steps", "2", "--prompts", "2", "--capacities", "5,3", "--valid-batches", "1", "--no-overlap"],
    ...["--batch", "1", "--length", "48"],
    ...["--pruner", "custom_pruner.ts", "--codec", `${mine}/custom_codec.ts`, "--model", `${mine}/model`],
    ...["--data", "#train.txt", "--test", `${mine}/#test.txt`, "--out", `${mine}/out`],
  );
  assertMatch(demo, /Saved: the adapter in /);
  await example(
    "server_tuner.ts",
    ...[
      "--steps",
      "2",
      ...["--batch", "1", "--length", "48"],
      "--data",
      `${mine}/#train.txt`,
      "--state",
      "run #3",
      "--metrics",
      `${mine}/out %41`,
    ],
    ...["--model", "./model", "--save", `${mine}/tuned #2`, "--report", "report %20.json"],
  );
  assertEquals(
    JSON.parse(await Deno.readTextFile(`${mine}/report %20.json`)).settings.save,
    `${mine}/tuned #2`,
  );
  const text = await example(
    "generate.ts",
    ...["--model", "model", "--adapter", `${mine}/tuned #2`, "--data", "#test.txt", "--count", "1"],
    ...["--max-tokens", "4"],
  );
  assertMatch(text, /reference/);
  await Deno.remove(folder.slice(0, -ODD.length), { recursive: true });
});
