import { assertEquals } from "@std/assert";
import { longest, TestOutput, together } from "../.ci/test_output.ts";

const FAILED = `running 2 tests from ./a_test.ts
one ... ok (1m2s)
two ...error: something of a program
 ok (16s)
  a step ... ok (5s)
./b_test.ts => three [slow] ... ok (250ms)
./b_test.ts => four ... FAILED (3s)

 ERRORS 

four => ./b_test.ts:7:6
error: AssertionError: no

 FAILURES 

four => ./b_test.ts:7:6

FAILED | 3 passed | 1 failed (1m22s)

error: Test failed
`;

function read(text: string, success: boolean, size = text.length) {
  const output = new TestOutput();
  for (let start = 0; start < text.length; start += size) output.add(text.slice(start, start + size));
  return output.end(success);
}

Deno.test("what tests printed gives counts, failures and seconds a file, however it is cut", () => {
  for (const size of [FAILED.length, 7, 1]) {
    const report = read(FAILED, false, size);
    assertEquals([report.passed, report.failed], [3, 1]);
    assertEquals(report.failures, ["four => ./b_test.ts:7:6"]);
    assertEquals(Object.fromEntries(report.seconds), { "./a_test.ts": 78, "./b_test.ts": 3.25 });
  }
  assertEquals(longest(read(FAILED, false), 1), ["    78 s  ./a_test.ts"]);
});

Deno.test("what ends without a summary, or fails beside a good one, has failed", () => {
  assertEquals(read("error: Type checking failed.\n", false).failed, 1);
  assertEquals(read("", true).failed, 1);
  assertEquals(read("\x1b[32mok\x1b[0m | 5 passed | 0 failed (1s)\n", true).failed, 0);
  const both = together([read(FAILED, false), read("ok | 5 passed | 0 failed (1s)\n", false)]);
  assertEquals([both.passed, both.failed], [8, 2]);
});
