import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../../", import.meta.url).pathname;
const E2E = `${ROOT}tests/fixtures/eval/data/e2e`;

Deno.test("the five steps run one after the other, from E2E's files to scores", async () => {
  const out = await Deno.makeTempDir();
  try {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--quiet", `${ROOT}examples/e2e/run.ts`, "--out", out, "--synonyms", "none"],
        ...["--train", `${E2E}/lora_valid.head300.txt`, "--valid", `${E2E}/lora_test.head400.txt`],
        ...["--test", `${E2E}/lora_test.head400.txt`, "--pruner-steps", "120", "--steps", "12"],
        ...[
          "--batch",
          "1",
          "--length",
          "64",
          "--rank",
          "2",
          "--count",
          "4",
          "--beams",
          "3",
          "--max-tokens",
          "10",
        ],
      ],
      env: { NO_COLOR: "1" },
    }).output();
    const decoder = new TextDecoder();
    assertEquals(code, 0, decoder.decode(stdout) + decoder.decode(stderr));
    const scores = JSON.parse(await Deno.readTextFile(`${out}/scores.json`));
    const text = JSON.stringify(scores);
    for (const name of ["BLEU", "NIST", "ROUGE_L", "CIDEr"]) {
      assert(text.includes(`"${name}"`), text.slice(0, 300));
    }
    const report = JSON.parse(await Deno.readTextFile(`${out}/finetune.json`));
    assertEquals(report.steps.filter((step: { mode: string }) => step.mode === "train").length, 12);
    // The predictor prunes once its history of ten steps is full.
    assert(JSON.stringify(report).includes("ihead"), "the run must have used iHeadPruner");
    const predictions = (await Deno.readTextFile(`${out}/predictions.txt`)).trimEnd().split("\n");
    assertEquals(predictions.length, 4);
    assert((await Deno.stat(`${out}/samples.html`)).size > 1000);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
