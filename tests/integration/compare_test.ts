import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ROOT } from "../support/places.ts";

Deno.test("the comparison runs all systems and writes table, report, plots and a page [slow]", async () => {
  const out = await Deno.makeTempDir();
  try {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--quiet", `${ROOT}examples/compare.ts`, "--out", out, "--no-lab", "--no-study"],
        ...["--seeds", "1", "--steps", "12", "--batch", "1", "--length", "24", "--prompts", "1"],
        ...["--valid-batches", "1", "--eval-every", "12"],
      ],
      env: { NO_COLOR: "1" },
    }).output();
    const decoder = new TextDecoder();
    assertEquals(code, 0, decoder.decode(stdout) + decoder.decode(stderr));
    const table = await Deno.readTextFile(`${out}/table.md`);
    for (const system of ["ServerTuner", "EdgeTuner", "DLoRA", "DLoRA at", "vEdgeTuner", "TPTensor"]) {
      assert(table.includes(`| ${system} `), table);
    }
    assert(table.includes("Seconds a step are in the"), table);
    const cells = (system: string) =>
      table.split("\n").find((line) => line.startsWith(`| ${system} |`))!.split("|").map((c) => c.trim());
    // ServerTuner sends nothing; unpruned, every head is kept and `plan` is exact to the byte.
    assert(cells("ServerTuner")[6]!.startsWith("0.00"), table);
    assert(cells("vEdgeTuner")[8]!.startsWith("100"), table);
    assertEquals(cells("vEdgeTuner")[6], cells("vEdgeTuner")[7]);
    assert(parseFloat(cells("EdgeTuner")[8]!) < 100, "iHeadPruner must have pruned");
    assert(parseFloat(cells("EdgeTuner")[6]!) < parseFloat(cells("vEdgeTuner")[6]!), table);
    JSON.parse(await Deno.readTextFile(`${out}/compare.json`));
    for (const name of ["loss_over_time", "loss_over_bytes", "which_heads_matter"]) {
      assert((await Deno.readTextFile(`${out}/${name}.svg`)).startsWith("<svg"), name);
    }
    assert((await Deno.readTextFile(`${out}/index.html`)).includes("TPTensor"));
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("the comparison takes GGUF files, packed bases and other tokenizers, and says what cannot take part [slow]", async () => {
  const out = await Deno.makeTempDir();
  const model = `${ROOT}tests/fixtures/gguf/bpe.gguf`;
  const compare = async (...args: string[]) => {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", `${ROOT}examples/compare.ts`, "--out", out, ...args],
      env: { NO_COLOR: "1" },
    }).output();
    return { code, err: new TextDecoder().decode(stderr) };
  };
  const small = ["--no-lab", "--no-study", "--seeds", "1", "--steps", "4", "--batch", "1", "--length", "32"]
    .concat("--valid-batches", "1");
  try {
    await Deno.writeTextFile(`${out}/data.txt`, "the food||the food and\nthe||food\n");
    const data = ["data", "valid", "test"].flatMap((flag) => [`--${flag}`, `${out}/data.txt`]);
    const some = [...small, ...data, "--prompts", "1", "--capacities", "2,1", "--model", model];
    const right = await compare(...some, "--systems", "ServerTuner,vEdgeTuner", "--base-weights", "int8");
    assertEquals(right.code, 0, right.err);
    const { settings, table } = JSON.parse(await Deno.readTextFile(`${out}/compare.json`));
    assertEquals([settings["base-weights"], table.length], ["int8", 2]);
    const edge = await compare(...some, "--systems", "EdgeTuner");
    assertEquals(edge.code, 2, edge.err);
    assert(
      edge.err.includes("--predictor must be trained for a model of 2 layers, 4 heads and d 32"),
      edge.err,
    );
    const tensor = await compare(...some, "--systems", "TPTensor");
    assertEquals(tensor.code, 2, tensor.err);
    assert(
      tensor.err.includes("must be a GPT-2 and --base-weights f32: current values are another family"),
      tensor.err,
    );
    const other = await compare(
      ...some,
      "--systems",
      "ServerTuner",
      "--tokenizer",
      `${ROOT}cli/assets/tiny_gpt2`,
    );
    assertEquals(other.code, 1, other.err);
    assert(other.err.includes("below the model's vocabulary, 266"), other.err);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("runs that end early say why, and nothing is concluded from them; too little memory is a result [slow]", async () => {
  const out = await Deno.makeTempDir();
  try {
    const link = `${out}/gone.json`;
    const way = { bandwidthMbit: 60, latencyMs: 3 };
    // The data device: without the others' heads a run goes on.
    const failures = [{ device: 0, goneMs: 400 }];
    await Deno.writeTextFile(link, JSON.stringify({ name: "gone", up: way, down: way, failures }));
    const compare = async (...args: string[]) => {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["run", "-A", "--quiet", `${ROOT}examples/compare.ts`, "--no-lab", "--no-study", "--seeds", "1"],
          ...[
            "--steps",
            "8",
            "--batch",
            "1",
            "--length",
            "32",
            "--prompts",
            "1",
            "--valid-batches",
            "1",
            ...args,
          ],
        ],
        env: { NO_COLOR: "1" },
      }).output();
      const [text, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
      return { code, text: text!, errors: errors! };
    };
    const cut = await compare("--out", out, "--systems", "EdgeTuner, vEdgeTuner", "--link", link);
    assertEquals(cut.code, 1, cut.text + cut.errors);
    assertStringIncludes(cut.text, "vEdgeTuner ended early, so it says nothing: ");
    assertStringIncludes(cut.text, "the emulated link was cut at 400 ms");
    assert(!/NaN|pruning|paper/.test(cut.text), cut.text);

    const small = await compare("--out", out, "--systems", "TPTensor", "--memory", "8,0.5,8");
    assertEquals(small.code, 0, small.text + small.errors);
    assertMatch(small.text, /TPTensor +out of memory: needs [\d.]+ MB/);

    const unwritable = await compare("--out", "/proc/compare");
    assertEquals(unwritable.code, 2, unwritable.text);
    assertStringIncludes(unwritable.errors, "--out must be a path that can be written");
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("a grid of modes, codecs and pruners shows costs, budgets and links, and goes on where it was interrupted [slow]", async () => {
  const out = await Deno.makeTempDir();
  const compare = async (...more: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...[
          "run",
          "-A",
          "--quiet",
          `${ROOT}examples/compare.ts`,
          "--out",
          out,
          "--seeds",
          "2",
          "--steps",
          "4",
        ],
        ...["--batch", "1", "--length", "48", "--prompts", "1", "--valid-batches", "1", "--rates", "0.5,1"],
        ...["--systems", `vEdgeTuner,${ROOT}examples/custom_pruner.ts`, "--pruners", "random"],
        ...[
          "--modes",
          "slice,core",
          "--codecs",
          "f32;f16,delta=int4",
          "--set",
          "random.share=0.25,core.rank=4",
        ],
        ...["--only", "vEdgeTuner slice f32;resting core f16,delta=int4;random core f32"],
        ...more,
      ],
      env: { NO_COLOR: "1" },
    }).output();
    const decoder = new TextDecoder();
    return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
  };
  try {
    const whole = await compare("--links", "lan-1g", "--eval-every", "2");
    assertEquals(whole.code, 0, whole.out + whole.err);
    const json = async () => JSON.parse(await Deno.readTextFile(`${out}/compare.json`));
    const first = await json();
    const names = ["vEdgeTuner slice f32", "resting core f16,delta=int4", "random core f32"];
    assertEquals(first.table.map(({ name }: { name: string }) => name), names);
    assertEquals(first.rates.map(({ mode }: { mode: string }) => mode), ["slice", "slice", "core", "core"]);
    const [plain, resting, random] = first.table;
    assertEquals(plain.runs.length, 2);
    assertEquals(plain.runs[0].curve.map(({ step }: { step: number }) => step), [0, 2, 4]);
    // Masks are there, and the options reached the pruner: a quarter rests.
    const pruned = (mask: string) => [...mask].filter((z) => z === "1").length / mask.length;
    assertEquals(random.runs[0].steps.map(({ mask }: { mask: string }) => pruned(mask)), Array(4).fill(0.25));
    assert(resting.runs[0].bytesPerStep < random.runs[0].bytesPerStep);
    assertEquals(first.figures.reference, "vEdgeTuner slice f32");
    assertEquals(first.figures.entries[0].share, 1);
    assertEquals(first.links.map(({ link }: { link: string }) => link), Array(3).fill("lan-1g"));
    const table = await Deno.readTextFile(`${out}/table.md`);
    for (const text of ["of the reference", "## Robustness", "## Rates that were tried"]) {
      assertStringIncludes(table, text);
    }
    for (
      const name of ["pareto_bytes", "pareto_seconds", "valid_over_steps", "valid_over_bytes", "step_time"]
    ) {
      assert((await Deno.readTextFile(`${out}/${name}.svg`)).startsWith("<svg"), name);
    }
    // As if it was interrupted: some runs are not there.
    const files = (await Array.fromAsync(Deno.readDir(`${out}/runs`), ({ name }) => name)).sort();
    for (const name of files.slice(0, 2)) await Deno.remove(`${out}/runs/${name}`);
    const again = await compare("--links", "lan-1g", "--eval-every", "2", "--resume-runs");
    assertEquals(again.code, 0, again.err);
    assertStringIncludes(again.out + again.err, `${files.length - 2} of them finished before`);
    const second = await json();
    const results = ({ table, links, figures }: typeof first) => ({ table, links, figures });
    assertEquals(results(second), results(first), "bit for bit");
    const wrong = await compare("--only", "random core f23");
    assertEquals(wrong.code, 2);
    assertStringIncludes(wrong.err, "did you mean random core f32?");
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
