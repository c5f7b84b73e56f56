/**
 * The text of `--help`: flags in groups, the common ones first, as wide as the terminal.
 *
 * @module
 */

import type { Flag, ProgramText } from "./kinds.ts";
import type { CallForm } from "../process/invocation.ts";
import { commandOf, commandText, inCallForm, shownPath } from "../process/places.ts";
import { LAUNCHER_FLAG } from "../process/supervisor.ts";
import { wrapped } from "../output/terminal.ts";

/** A group of flags in the help, and the flags that belong to it, the most common ones first. */
interface FlagGroup {
  readonly title: string;
  readonly names: readonly string[];
}

const words = (list: string): string[] => list.trim().split(/\s+/);

/** All groups in their order. A test sees to it that each flag of each command is in one. */
const GROUPS: readonly FlagGroup[] = [
  { title: "What to do", names: words("prompt message system chat raw pair task format dataset generate") },
  {
    title: "Model",
    names: words(
      `model models adapter load import tokenizer base-weights webgpu revision layers heads hidden vocabulary
      head-size kv-heads inner gated`,
    ),
  },
  {
    title: "Data",
    names: words(
      `data train valid test input references predictions batch length prompts count first distinct samples
      instruct filter map data-format eval-every valid-batches train-on-prompt skip-bad pad-to-multiple-of share-loss smoothing
      drop-missing lower-case tokenize numbered restaurant`,
    ),
  },
  {
    title: "Tuning",
    names: words(
      `steps epochs rate rank mode targets alpha dropout warmup schedule accumulate clip-norm seed seeds runs
      pruner-steps history settings`,
    ),
  },
  {
    title: "Heads and pruning",
    names: words(
      `pruner capacities capacity devices keep tau eta rho beta lambda predictor online-steps online-refresh
      share keep-layers active collect systems`,
    ),
  },
  {
    title: "Generation",
    names: words(
      `max-tokens temperature top-k top-p beams best min-length repetition-penalty length-penalty
      no-repeat-ngram cache-mb`,
    ),
  },
  {
    title: "Network",
    names: words(
      `server connect token name host port join-token admin-token transport codec link bandwidth latency
      micro-batches no-overlap bits speeds compute memory max-connections link-seed link-device
      connect-timeout join-timeout step-timeout idle-timeout pause-timeout ping-interval retry-timeout cache endpoint`,
    ),
  },
  {
    title: "Output",
    names: words(
      `save out output resume checkpoint checkpoint-every checkpoint-seconds keep-best peft merge results pretty
      log-every metrics report json events accept-loss tolerance synonyms no-lab no-study lab-steps end-with`,
    ),
  },
];

/** Names of flags by group, in the order of the help; groups without any are left out. */
export function groupedNames(names: readonly string[]): FlagGroup[] {
  const known = new Set(GROUPS.flatMap((group) => group.names));
  const groups = GROUPS.map(({ title, names: all }) => ({
    title,
    names: all.filter((name) => names.includes(name)),
  }));
  const others = { title: "Others", names: names.filter((name) => !known.has(name)) };
  return [...groups, others].filter((group) => group.names.length > 0);
}

/** Columns that names of flags take at most; longer ones stand on a line of their own. */
const MOST_LEFT = 30;

/** A flag as two columns. */
function row(name: string, flag: Flag): [left: string, right: string] {
  if (flag.kind === "switch") return [`--${name}`, flag.help];
  const choices = flag.kind === "text" && flag.choices
    ? ` (${flag.choices.filter((choice) => choice !== "").join(", ")})`
    : "";
  const initial = flag.default === "" ? "" : ` [${shownPath(String(flag.default))}]`;
  const value = flag.kind === "text" && flag.alone !== undefined ? `[${flag.value}]` : flag.value;
  return [`--${name} ${value}`, `${flag.help}${choices}${initial}`];
}

/** Rows of two columns, the right one wrapped. */
function columns(rows: readonly (readonly [string, string])[], left: number, width: number): string[] {
  const indent = " ".repeat(left);
  return rows.flatMap(([name, help]) => {
    const lines = wrapped(help, Math.max(20, width - left));
    const first = `  ${name}`;
    if (first.length + 2 > left) return [first, ...lines.map((line) => indent + line)];
    return [first.padEnd(left) + lines[0]!, ...lines.slice(1).map((line) => indent + line)];
  });
}

/** Sentences of a text wrapped; lines that are set in, such as tables, stay as they are. */
function paragraphs(text: string, width: number): string {
  return text.split("\n").flatMap((line) => line.startsWith(" ") ? [line] : wrapped(line, width)).join("\n");
}

/**
 * The help of a command.
 *
 * @param program What the command says of itself.
 * @param flags Its flags.
 * @param width Columns of the terminal.
 * @param form How the person called it.
 */
export function helpText(
  program: ProgramText,
  flags: Readonly<Record<string, Flag>>,
  width: number,
  form: CallForm,
): string {
  // What only launchers say is not for people.
  const shown = Object.keys(flags).filter((name) => name !== LAUNCHER_FLAG);
  const groups = groupedNames(shown).map(({ title, names }) => ({
    title,
    rows: names.map((name) => row(name, flags[name]!)),
  }));
  const general: [string, string][] = [
    ["--config FILE", "values of flags as JSON or YAML; flags given here come first"],
    ["--print-config", "print such a file for the flags given here, and end"],
    ["-h, --help", "this text"],
  ];
  const all = [...groups, { title: "General", rows: general }];
  const longest = Math.max(...all.flatMap(({ rows }) => rows.map(([left]) => left.length)));
  const left = Math.min(longest + 4, MOST_LEFT, Math.floor(width * 0.4));
  const blocks = all.map(({ title, rows }) => [title, ...columns(rows, left, width)].join("\n"));
  const usage = commandOf(program.name) === null ? program.name : commandText(program.name, [], form);
  const examples = program.examples.map((example) => `  ${example}`).join("\n");
  return inCallForm(
    [
      paragraphs(program.about, width),
      `  ${usage} [flags]`,
      "Values in [brackets] are what a flag is without you.",
      ...blocks,
      ...(examples === "" ? [] : [`Examples\n${examples}`]),
    ].join("\n\n"),
    form,
  );
}
