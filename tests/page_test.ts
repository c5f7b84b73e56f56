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

Deno.test("a shader loses its comments and spaces, and no more", () => {
  const shader =
    "// A sum.\nfn main(/* of */ a: u32) -> u32 {\n  let b = a  + 1u; // more\n\n  return (b);\n}\n";
  assertEquals(bareShader(shader), "fn main(a:u32)-> u32{let b=a  + 1u;return(b);}\n");
});
