import { testTransport } from "../tests/conformance/transport_suite.ts";
import { openWebSocket } from "./_test_fixtures.ts";

testTransport({ name: "WebSocket", open: openWebSocket });
