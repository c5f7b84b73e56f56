/**
 * Several people's data through the programs: kinds of data that differ, an owner that is killed and comes back, and one
 * that joins late.
 */

import { assert, assertEquals } from "@std/assert";
import { ASSETS, EXAMPLES } from "../support/places.ts";
import { until } from "../support/until.ts";

const TINY = `${ASSETS}tiny_gpt2`;
const TOKENS = { EDGETUNER_JOIN_TOKEN: "secret-join", EDGETUNER_ADMIN_TOKEN: "secret-admin" };

/** A program, and what it has printed so far. */
class Running {
  readonly #process: Deno.ChildProcess;
  readonly done: Promise<{ readonly code: number; readonly errors: string }>;
  out = "";

  constructor(program: string, args: readonly string[], cwd: string) {
    this.#process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `${EXAMPLES}${program}`, ...args],
      ...{ cwd, env: { ...TOKENS, NO_COLOR: "1" }, stdin: "null", stdout: "piped", stderr: "piped" },
    }).spawn();
    this.done = this.#end();
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }

  /** Events that it has printed. */
  get events(): Record<string, unknown>[] {
    return this.out.split("\n").slice(0, -1).map((line) => JSON.parse(line));
  }

  async #end() {
    const reading = (async () => {
      for await (const text of this.#process.stdout.pipeThrough(new TextDecoderStream())) this.out += text;
    })();
    const errors = await new Response(this.#process.stderr).text();
    await reading;
    return { code: (await this.#process.status).code, errors };
  }
}

/** The tiny model with a chat template, and data of three kinds. */
async function prepare(folder: string): Promise<void> {
  await Deno.mkdir(`${folder}/model`);
  for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
    await Deno.copyFile(`${TINY}/${name}`, `${folder}/model/${name}`);
  }
  const template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}" +
    "{% if add_generation_prompt %}[assistant] {% endif %}";
  await Deno.writeTextFile(
    `${folder}/model/tokenizer_config.json`,
    JSON.stringify({ eos_token: "<|endoftext|>", chat_template: template }),
  );
  const lines = (await Deno.readTextFile(`${ASSETS}restaurant/train.txt`)).split("\n").slice(0, 60);
  const pairs = lines.map((line) => line.split("||") as [string, string]);
  const chats = pairs.map(([asked, answer]) => ({
    messages: [{ role: "user", content: asked.slice(0, 40) }, {
      role: "assistant",
      content: answer.slice(0, 40),
    }],
  }));
  const write = (name: string, from: number, content: readonly string[]) =>
    Deno.writeTextFile(`${folder}/${name}`, content.slice(from, from + 20).join("\n") + "\n");
  for (const [kind, from] of [["train", 0], ["valid", 20]] as const) {
    await write(`attic-${kind}.txt`, from, lines);
    await write(`barn-${kind}.jsonl`, from, pairs.map(([, text]) => JSON.stringify({ text })));
    await write(`cellar-${kind}.jsonl`, from, chats.map((chat) => JSON.stringify(chat)));
  }
}

Deno.test("owners of pairs, texts and chats: one is killed and comes back, one joins late, and all are validated together [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const running: Running[] = [];
  const start = (program: string, args: readonly string[]) => {
    const one = new Running(program, args, folder);
    running.push(one);
    return one;
  };
  try {
    await prepare(folder);
    const server = start("edge_server.ts", [
      ...["--model", "model", "--devices", "1", "--data-devices", "2", "--steps", "24", "--port", "0"],
      ...[
        "--eval-every",
        "8",
        "--events",
        "--report",
        "report.json",
        "--state",
        "server",
        "--state-every",
        "4",
      ],
      ...["--rank", "2"],
    ]);
    const event = (type: string, test: (event: Record<string, unknown>) => boolean = () => true) =>
      until(() => server.events.find((e) => e.type === type && test(e)), `${type} of the server`, 120_000);
    const { address, run } = await event("listening") as { address: string; run: string };
    const join = (name: string, ext: string, more: readonly string[] = []) =>
      start("user_device.ts", [
        ...["--server", `ws://${address}/join/ws`, "--name", name, "--model", "model", "--length", "32"],
        ...[
          "--data",
          `${name}-train.${ext}`,
          "--valid",
          `${name}-valid.${ext}`,
          "--batch",
          "2",
        ],
        ...["--state", name, ...more],
      ]);
    join("attic", "txt", ["--capacity", "1"]);
    const barn = join("barn", "jsonl", ["--capacity", "0"]);
    await event("step", (e) => (e.record as { step: number }).step >= 5);
    const steer = async (what: string) => {
      const response = await fetch(`http://${address}/api/runs/${run}/${what}`, {
        method: "POST",
        headers: { authorization: "Bearer secret-admin" },
      });
      await response.body?.cancel();
      assert(response.ok, `${response.status}`);
    };
    await steer("pause");
    barn.kill();
    await barn.done;
    const again = join("barn", "jsonl", ["--capacity", "0", "--resume"]);
    const cellar = join("cellar", "jsonl", ["--capacity", "0"]);
    await event("joined", (e) => (e.device as { name: string }).name === "cellar");
    await until(() => again.out.includes("joined on"), "barn's connection", 120_000);
    await steer("resume");
    for (const one of [server, running[1]!, again, cellar]) {
      const { code, errors } = await one.done;
      assertEquals(code, 0, errors);
    }
    assertEquals((await event("back")).type, "back");
    const report = JSON.parse(await Deno.readTextFile(`${folder}/report.json`));
    const owners = report.owners as { name: string; steps: number; validations: unknown[] }[];
    assertEquals(owners.map(({ name }) => name).sort(), ["attic", "barn", "cellar"]);
    assertEquals(owners.reduce((sum, { steps }) => sum + steps, 0), 24);
    const last = server.events.filter((e) => e.type === "validation").at(-1)!;
    assertEquals(last.step, 24);
    assertEquals((last.owners as { name: string }[]).map(({ name }) => name).sort(), [
      "attic",
      "barn",
      "cellar",
    ]);
    assertEquals(report.validations.at(-1).loss, last.loss);
    assert(report.validations.at(-1).loss < report.validations[0].loss);
  } finally {
    for (const one of running) {
      try {
        one.kill();
      } catch {
        // it is over
      }
      await one.done;
    }
    await Deno.remove(folder, { recursive: true });
  }
});
