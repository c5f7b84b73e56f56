import { assert, assertEquals, assertGreater, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";

const TINY = fileURLToPath(new URL("../../cli/assets/tiny_gpt2", import.meta.url));
const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

/** The tiny model with a chat template that never ends an answer by itself. */
async function withModel(run: (model: string) => Promise<void>): Promise<void> {
  const model = await Deno.makeTempDir();
  try {
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
      await Deno.copyFile(`${TINY}/${name}`, `${model}/${name}`);
    }
    const template = "{% for m in messages %}{{ m.role }}: {{ m.content }}. {% endfor %}";
    await Deno.writeTextFile(
      `${model}/tokenizer_config.json`,
      JSON.stringify({ eos_token: "<|endoftext|>", chat_template: template }),
    );
    await run(model);
  } finally {
    await Deno.remove(model, { recursive: true });
  }
}

function chat(args: readonly string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", MAIN, "chat", "--temperature", "0", ...args],
    ...{ stdin: "piped", stdout: "piped", stderr: "piped" },
  }).spawn();
}

async function say(child: Deno.ChildProcess, line: string): Promise<void> {
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(line));
  writer.releaseLock();
}

Deno.test("edgetuner chat answers each line, knows what was said, and refuses models without a template [slow]", async () => {
  await withModel(async (model) => {
    const talk = async (lines: string) => {
      const child = chat(["--model", model, "--max-tokens", "8"]);
      await say(child, lines);
      await child.stdin.close();
      const { code, stdout, stderr } = await child.output();
      assertEquals(code, 0, new TextDecoder().decode(stderr));
      return new TextDecoder().decode(stdout).split("\n").filter((line) => line !== "");
    };
    const [both, again, anew] = await Promise.all([
      talk("Where can I eat?\nWhat is it near?\n"),
      talk("What is it near?\n"),
      talk("Where can I eat?\n/new\nWhat is it near?\n/exit\n"),
    ]);
    assertEquals(both.length, 2);
    assertEquals([anew[1], anew[0]], [again[0], both[0]]);
    assert(both[1] !== again[0], "the second answer must depend on the first question");
  });
  const child = chat([]);
  await child.stdin.close();
  const { code, stderr } = await child.output();
  assertEquals(code, 2);
  assertStringIncludes(new TextDecoder().decode(stderr), "must have a chat template");
});

Deno.test("Ctrl-C stops an answer of edgetuner chat and not the talk; without an answer it ends [slow]", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await withModel(async (model) => {
    const child = chat(["--model", model, "--max-tokens", "64", "--temperature", "9", "--top-p", "1"]);
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let seen = "";
    const until = async (holds: () => boolean) => {
      while (!holds()) {
        const { done, value } = await reader.read();
        assert(!done, `ended early: ${seen}`);
        seen += value;
      }
    };
    const linesSeen = () => seen.split("\n").length - 1;
    await say(child, "Where can I eat?\n");
    // So hot a model draws the token that ends an answer once in many hundreds.
    await until(() => seen.length > 0);
    child.kill("SIGINT");
    await until(() => linesSeen() === 1);
    await say(child, "And what?\n");
    await until(() => linesSeen() === 2);
    child.kill("SIGINT");
    const { code } = await child.status;
    assertEquals(code, 130);
    assertGreater(seen.length, 2);
    await reader.cancel();
    await child.stderr.cancel();
    await child.stdin.close().catch(() => {});
  });
});
