import { assertRejects } from "@std/assert";
import { UsageError } from "../flags/flags.ts";
import { requireWritable } from "./writable.ts";

Deno.test("two outputs of one path are refused, however it is written", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const files = { report: `${folder}/a.json`, pretty: `${folder}/./a.json` };
    await assertRejects(
      () => requireWritable("evaluate.ts", { files }),
      UsageError,
      "--report and --pretty must be two files",
    );
    await requireWritable("evaluate.ts", { files: { ...files, pretty: `${folder}/b.html` } });
    await requireWritable("evaluate.ts", { files: { report: "", pretty: "" } });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
