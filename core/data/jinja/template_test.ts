import { assert, assertEquals, assertThrows } from "@std/assert";
import { FIXTURES } from "../../../tests/support/places.ts";
import { compareWithJinja2 } from "../../../tests/support/jinja_compare.ts";
import { strftime } from "./globals.ts";
import { Template } from "./template.ts";

const NOW = new Date(2024, 6, 6, 15, 4, 9);

/** What becomes of a template: its text, or why there is none. */
function outcome(
  template: string,
  names: Readonly<Record<string, unknown>>,
): { text?: string; why?: string } {
  try {
    return { text: new Template(template).render(names, NOW).text };
  } catch (error) {
    return { why: `${(error as Error).name}: ${(error as Error).message}` };
  }
}

/** Checks that no template of a file gives another text than in jinja2; how many are refused. */
async function refusedOf(file: string): Promise<number> {
  const { refused, otherwise } = await compareWithJinja2(`${FIXTURES}jinja/${file}`);
  assertEquals(otherwise, []);
  return refused.length;
}

Deno.test("templates are rendered as jinja2 renders them, or refused", async () => {
  assertEquals(await refusedOf("chat_expressions.json"), 0);
  // Of 458: widths in texts, `center`, `slice`, places in texts, keys that are no texts, and their like.
  assertEquals(await refusedOf("expressions.json"), 25);
});

Deno.test("chats in templates as models have them are rendered as jinja2 renders them", async () => {
  assertEquals(await refusedOf("models.json"), 0);
});

Deno.test("every operator, filter, test and method with every kind of value", async () => {
  // Generators that are written, and division of fractions are refused, and little else.
  assertEquals(await refusedOf("combinations.json"), 22);
});

Deno.test("parts that a template marks as the assistant's are told", () => {
  const template = new Template(
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>" +
      "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
  );
  const messages = [
    { role: "user", content: "Hi 🙂" },
    { role: "assistant", content: "Yo" },
    { role: "user", content: "?" },
    { role: "assistant", content: "" },
  ];
  const { text, generated } = template.render({ messages }, NOW);
  assertEquals(generated.map(([start, end]) => text.slice(start, end)), ["Yo</s>", "</s>"]);
  const inMacro = "{% macro f() %}{% generation %}x{% endgeneration %}{% endmacro %}{{ f() }}";
  assertEquals(
    outcome(inMacro, {}).why,
    "UnsupportedError: {% generation %} in a macro or a captured part is not done here",
  );
});

Deno.test("a date is that of the time that counts as now", () => {
  assertEquals(
    outcome("{{ strftime_now('%d %b %Y, %A %B %-d %H:%M:%S %j %I %p %y%m%d %%') }}", {}).text,
    "06 Jul 2024, Saturday July 6 15:04:09 188 03 PM 240706 %",
  );
  assertEquals(
    strftime("%F %T %D %R %e %a", new Date(2023, 11, 31)),
    "2023-12-31 00:00:00 12/31/23 00:00 31 Sun",
  );
  assert(outcome("{{ strftime_now('%U') }}", {}).why?.includes("is not done here"));
});

Deno.test("what is not done is said, and only where it is reached", () => {
  for (
    const [template, what] of [
      ["{% include 'x' %}", "{% include %}"],
      ["{% for m in [] recursive %}{% endfor %}{% for m in [1] recursive %}{% endfor %}", "recursive"],
      ["{{ 'a' | urlize }}", 'the filter "urlize"'],
      ["{{ [1] | map('string') }}", "generator"],
      ["{{ 'a'.encode() }}", ".encode"],
      ["{{ ''.__class__ }}", ".__class__"],
      ["{{ [1].append(1) }}", ".append"],
      ["{{ 'a' | e | upper }}", "escaped text"],
      ["{{ self }}", '"self"'],
    ] as const
  ) {
    const { why } = outcome(template, {});
    assert(why?.startsWith("UnsupportedError") && why.includes(what), `${template}: ${why}`);
  }
  assertEquals(outcome("{% if false %}{{ 'a' | urlize }}{{ 'a'.encode() }}{% endif %}ok", {}).text, "ok");
});

Deno.test("templates that make much of little end [slow]", () => {
  const grown =
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}" +
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
  for (
    const template of [
      `${grown}{{ ns.x }}`,
      `${grown}{{ ns.x == ns.y }}`,
      `${grown}{{ ns.x | tojson }}`,
      "{{ 'a' * 2000000 }}",
      "{{ [1] * 2000000 }}",
      "{{ 9 ** 99999 }}",
      "{{ '%999999999s' % 1 }}",
      "{{ 'a'.zfill(99999999) }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
      `{{ ${"-".repeat(100_000)}1 }}`,
      `{{ ${"not ".repeat(100_000)}1 }}`,
      `{{ ${"1+".repeat(100_000)}1 }}`,
      `{{ 1${" if 1 else 1".repeat(100_000)} }}`,
      `{{ x${".a".repeat(100_000)} }}`,
      `{{ x${" | e".repeat(100_000)} }}`,
      "{% if 1 %}".repeat(100_000),
    ]
  ) {
    const begin = performance.now();
    assert(outcome(template, {}).why !== undefined, template.slice(0, 80));
    assert(performance.now() - begin < 3000, template.slice(0, 80));
  }
  assertThrows(() => new Template("x".repeat(2 ** 20 + 1)), RangeError, "at most 1048576 characters");
});
