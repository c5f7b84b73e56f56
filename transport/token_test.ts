import { assertEquals, assertThrows } from "@std/assert";
import { testStrictly } from "../tests/conformance/transport_suite.ts";
import {
  newSession,
  offeredSession,
  offeredSubprotocols,
  requestToken,
  requireToken,
  subprotocols,
} from "./token.ts";

function withHeader(name: string, value: string): Request {
  return new Request("http://localhost/", { headers: { [name]: value } });
}

testStrictly("requestToken() reads both places", () => {
  assertEquals(requestToken(new Request("http://localhost/")), undefined);
  assertEquals(requestToken(withHeader("authorization", "Bearer a.b-c~1/+=")), "a.b-c~1/+=");
  assertEquals(requestToken(withHeader("authorization", "Basic abc")), undefined);
  const session = { session: newSession(), goesOn: true };
  const offer = withHeader("sec-websocket-protocol", subprotocols("a b,c=", session).join(", "));
  assertEquals(requestToken(offer), "a b,c=");
  assertEquals(offeredSubprotocols(offer)[0], "edgetuner.v2");
  assertEquals(offeredSession(offer), session);
  assertEquals(offeredSession(withHeader("sec-websocket-protocol", "edgetuner.open.short")), undefined);
  assertEquals(requestToken(withHeader("sec-websocket-protocol", "edgetuner.token.!!")), undefined);
  assertEquals(requestToken(withHeader("sec-websocket-protocol", "edgetuner.token._w")), undefined);
});

testStrictly("requireToken() wants exactly its token", async () => {
  const authorize = requireToken("secret");
  assertEquals(await authorize(withHeader("authorization", "Bearer secret")), true);
  for (const wrong of ["Secret", "secret1", "secre", "x"]) {
    assertEquals(await authorize(withHeader("authorization", `Bearer ${wrong}`)), false);
  }
  assertEquals(await authorize(new Request("http://localhost/")), false);
});

testStrictly("requireToken() refuses a token that fits into no header, without repeating it", () => {
  for (const token of ["", "two words", "\u00e9"]) {
    const error = assertThrows(() => requireToken(token), TypeError);
    assertEquals(token !== "" && error.message.includes(token), false);
  }
});
