/**
 * A split run of processes that begins with what another run has learnt, and one that its data device ends.
 */

import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { loadAdapter, saveAdapter } from "@edgetuner/core";
import { ASSETS, EXAMPLES } from "../support/places.ts";

const TOKEN = "the-join-token";
const VALID = ["--valid", `${ASSETS}restaurant/valid.txt`, "--valid-batches", "1"];
const DATA = ["--batch", "2", "--length", "32", ...VALID];

function start(program: string, ...args: string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}${program}`, "--checkpoint=", ...args],
    ...{ stdin: "null", stdout: "piped", stderr: "piped" },
  }).spawn();
}

async function end(process: Deno.ChildProcess) {
  const { code, stdout, stderr } = await process.output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

/** An edge server on a free port; with the address once devices may join. */
async function startServer(...args: string[]) {
  const process = start("edge_server.ts", "--port=0", `--join-token=${TOKEN}`, ...args);
  const [first, second] = process.stdout.tee();
  let text = "";
  let address: string | undefined;
  for await (const part of first.pipeThrough(new TextDecoderStream())) {
    text += part;
    address = /ws:\/\/\S+\/join\/ws/.exec(text)?.[0];
    if (address !== undefined) break;
  }
  const ended = Promise.all([
    process.status,
    new Response(second).text(),
    new Response(process.stderr).text(),
  ]).then(([{ code }, out, err]) => ({ code, out, err }));
  assert(
    address !== undefined,
    `${text}\n${(await Promise.race([ended, Promise.resolve({ err: "" })])).err}`,
  );
  return { address, ended };
}

Deno.test("processes of a split run begin with an adapter; one of another base is refused [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const first = await end(
      start(
        "server_tuner.ts",
        ...["--steps=3", "--rank=2", "--mode=slice", "--save", `${folder}/first`],
        ...["--report", `${folder}/first.json`, ...DATA],
      ),
    );
    assertEquals(first.code, 0, first.err);
    const learnt = await loadAdapter(`${folder}/first`);
    await saveAdapter(`${folder}/foreign`, { ...learnt, fingerprint: "0".repeat(64) });

    const server = await startServer("--devices=2", "--steps=2", "--adapter", `${folder}/first`);
    const join = (name: string, adapter: string, ...args: string[]) =>
      end(start(
        "user_device.ts",
        ...["--server", server.address, `--token=${TOKEN}`, `--name=${name}`],
        ...["--adapter", `${folder}/${adapter}`, "--save", `${folder}/${name}`, ...args],
      ));
    const data = ["--data", `${ASSETS}restaurant/train.txt`, "--share-loss", "--capacity=2", ...DATA];
    const [withHeads, withData] = await Promise.all([
      join("stranger", "foreign"),
      join("reader", "foreign", ...data),
    ]);
    assert(withHeads.code !== 0 && withData.code !== 0, "both must be refused");
    assertStringIncludes(withHeads.err, "adapter's base model must be the server's");
    assertStringIncludes(withData.err, "the adapter must have been learnt on this device's model");

    const report = `${folder}/data.json`;
    const ended = await Promise.all([
      join("data", "first", ...data, "--report", report),
      join("more", "first"),
    ]);
    for (const { code, err } of [...ended, await server.ended]) assertEquals(code, 0, err);
    const { validations } = JSON.parse(await Deno.readTextFile(`${folder}/first.json`));
    const { losses } = JSON.parse(await Deno.readTextFile(report));
    // What was learnt is there before the first step.
    assertAlmostEquals(losses.validations[0].loss, validations.at(-1).loss, 1e-4);
    assert(Math.abs(validations[0].loss - validations.at(-1).loss) > 1e-2, "it makes a difference");
    assertEquals((await loadAdapter(`${folder}/more`)).lora.rank, 2);
    assertStringIncludes((await server.ended).out, "LoRA rank 2 for each of 8 heads, 48 at most");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the data device ends a split run: out of patience, or after its epochs [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const lines = (await Deno.readTextFile(`${ASSETS}restaurant/train.txt`)).split("\n").slice(0, 5);
    await Deno.writeTextFile(`${folder}/five.txt`, lines.join("\n"));
    const stepsOf = async (rate: string, ...args: string[]): Promise<number> => {
      const server = await startServer("--devices=1", "--steps=30", `--rate=${rate}`, "--warmup=0");
      const report = `${folder}/report.json`;
      const data = ["--data", `${folder}/five.txt`, "--capacity=1", "--report", report, ...DATA];
      const device = await end(
        start("user_device.ts", "--server", server.address, `--token=${TOKEN}`, ...data, ...args),
      );
      assertEquals(device.code, 0, device.err);
      const { code, err } = await server.ended;
      assertEquals(code, 0, err);
      const { steps } = JSON.parse(await Deno.readTextFile(report));
      assertStringIncludes(err, `Done: ${steps} steps`);
      return steps;
    };
    // So high a rate makes the loss rise from the first step on.
    assertEquals(await stepsOf("10", "--eval-every=1", "--patience=2"), 2);
    // Five sequences in steps of two.
    assertEquals(await stepsOf("0.001", "--epochs=2"), 5);
    const refused = await end(start("edge_server.ts", "--patience=2"));
    assertStringIncludes(
      refused.err,
      "the data device has it: deno run -A examples/user_device.ts --patience",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
