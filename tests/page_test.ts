import { assert, assertEquals, assertMatch } from "@std/assert";
import { PAGE_FILES } from "@edgetuner/page";
import { bareShader } from "../.ci/page.ts";

Deno.test("scripts of pages have nothing that Safari 26 cannot read, and the symbols that it lacks", () => {
  const scripts = [...PAGE_FILES].filter(([path]) => path.endsWith(".js"));
  assert(scripts.length >= 4);
  for (const [path, { body }] of scripts) {
    assertEquals(/(?:^|[;{}])\s*(?:await )?using \w+\s*=/.exec(body), null, path);
    assertMatch(body, /^for\(const n of\["dispose","asyncDispose"\]\)/, path);
  }
});

Deno.test("JavaScriptCore, which Safari is built on, reads the scripts of pages", async () => {
  const shell = "/usr/bin/jsc";
  if (!await Deno.stat(shell).then(() => true, () => false)) {
    return console.log("Left out: there is no jsc (apt-get install libjavascriptcoregtk-4.0-bin)");
  }
  const folder = await Deno.makeTempDir();
  try {
    const scripts = [...PAGE_FILES].filter(([path]) => path.endsWith(".js"));
    for (const [i, [, { body }]] of scripts.entries()) await Deno.writeTextFile(`${folder}/${i}.js`, body);
    // A script that it does not read, to see that it does look.
    await Deno.writeTextFile(`${folder}/${scripts.length}.js`, "const = 1;");
    const check = `for (let i = 0; i <= ${scripts.length}; i++) {
      try { checkModuleSyntax(read("${folder}/" + i + ".js")); print(i, "read"); }
      catch (error) { print(i, error); }
    }`;
    const { stdout } = await new Deno.Command(shell, { args: ["-e", check], stdin: "null" }).output();
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    assertEquals(lines.slice(0, -1), scripts.map((_, i) => `${i} read`));
    assertMatch(lines.at(-1)!, /SyntaxError/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a shader loses its comments and spaces, and no more", () => {
  const shader =
    "// A sum.\nfn main(/* of */ a: u32) -> u32 {\n  let b = a  + 1u; // more\n\n  return (b);\n}\n";
  assertEquals(bareShader(shader), "fn main(a:u32)-> u32{let b=a  + 1u;return(b);}\n");
});
