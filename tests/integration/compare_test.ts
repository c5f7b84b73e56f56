import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../../", import.meta.url).pathname;

Deno.test("the comparison runs all systems and writes table, report, plots and a page", async () => {
  const out = await Deno.makeTempDir();
  try {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--quiet", `${ROOT}examples/compare.ts`, "--out", out, "--no-lab", "--no-study"],
        ...["--seeds", "1", "--steps", "14", "--batch", "1", "--length", "64", "--prompts", "1"],
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
