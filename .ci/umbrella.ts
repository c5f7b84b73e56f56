/**
 * Keeps the umbrella module in step with its members: `mod.ts` names everything that they export.
 *
 * ```sh
 * deno run -A .ci/umbrella.ts          # says what is missing or too much
 * deno run -A .ci/umbrella.ts --write  # writes it
 * ```
 *
 * @module
 */

const ROOT = `${import.meta.dirname}/..`;
const MEMBERS = ["kernels", "core", "transport", "plugins"];

interface Documentation {
  nodes: Record<string, { symbols: { name: string; declarations: { kind: string }[] }[] }>;
}

/** Declarations that vanish when types are stripped. */
const TYPES = ["interface", "typeAlias"];

/** `name` or `type name` of everything that a member exports. */
async function exportsOf(member: string): Promise<string[]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--json", `${member}/mod.ts`],
    cwd: ROOT,
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`Cannot read the exports of ${member}: ${decoder.decode(stderr)}`);
  const { nodes } = JSON.parse(decoder.decode(stdout)) as Documentation;
  return Object.values(nodes).flatMap(({ symbols }) => symbols).map(({ name, declarations }) =>
    declarations.every(({ kind }) => TYPES.includes(kind)) ? `type ${name}` : name
  );
}

/** The text that `mod.ts` should have: its documentation, then all names of all members. */
async function umbrella(current: string): Promise<string> {
  const head = current.slice(0, current.indexOf("*/") + 2);
  const blocks = await Promise.all(
    MEMBERS.map(async (member) =>
      `export { ${(await exportsOf(member)).join(", ")} } from "@edgetuner/${member}";`
    ),
  );
  const format = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", "ts", "-"],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = format.stdin.getWriter();
  await writer.write(new TextEncoder().encode(`${head}\n\n${blocks.join("\n")}\n`));
  await writer.close();
  return new TextDecoder().decode((await format.output()).stdout);
}

/** True if `mod.ts` names exactly what the members export. */
export async function isComplete(): Promise<boolean> {
  const current = await Deno.readTextFile(`${ROOT}/mod.ts`);
  return await umbrella(current) === current;
}

if (import.meta.main) {
  const file = `${ROOT}/mod.ts`;
  const current = await Deno.readTextFile(file);
  const wanted = await umbrella(current);
  if (Deno.args.includes("--write")) await Deno.writeTextFile(file, wanted);
  else if (wanted !== current) {
    console.error("mod.ts does not name what its members export; --write mends it");
    Deno.exitCode = 1;
  }
}
