import { assertEquals } from "@std/assert";
import { run as tune } from "../../cli/commands/tune.ts";
import { ProgramEnd } from "../../cli/flags/flags.ts";
import { printedBy } from "../support/printed.ts";

/** What the report of a run says of its losses. */
async function losses(folder: string, args: readonly string[]): Promise<unknown[]> {
  const report = `${folder}/report.json`;
  await printedBy(() => tune({ args: [...args, "--report", report], form: "command" }));
  const { steps, validation } = JSON.parse(await Deno.readTextFile(report));
  return [steps.map(({ loss }: { loss: number }) => loss), validation];
}

Deno.test("edgetuner tune: the settings that it prints give the same run [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const args = [
      ...["--steps", "3", "--batch-size", "2", "--length", "24", "--lr", "0.003", "--targets", "q,v"],
      ...["--schedule", "cosine", "--seed", "7", "--dropout", "0.1", "--state", ""],
    ];
    const config = await printedBy(async () => {
      await tune({ args: [...args, "--print-config"], form: "command" }).catch((end) => {
        if (!(end instanceof ProgramEnd)) throw end;
      });
    });
    await Deno.writeTextFile(`${folder}/tune.yaml`, config);
    const first = await losses(folder, args);
    assertEquals(await losses(folder, ["--config", `${folder}/tune.yaml`]), first);
    const [other] = await losses(folder, ["--config", `${folder}/tune.yaml`, "--seed", "8"]);
    assertEquals((other as number[]).length, 3);
    assertEquals(
      JSON.stringify(other) === JSON.stringify(first[0]),
      false,
      "a seed of its own is another run",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
