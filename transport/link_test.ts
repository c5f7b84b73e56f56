import { testTransport } from "../tests/conformance/transport_suite.ts";
import { openHttp, openInProcess, openProxiedHttp, openWebSocket, overLink } from "./_test_fixtures.ts";

testTransport({ name: "link in process", open: () => overLink(openInProcess()) });
testTransport({ name: "link over WebSocket", open: () => overLink(openWebSocket()) });
testTransport({ name: "link over HTTP", open: () => overLink(openHttp()) });
testTransport({ name: "link over HTTP through a proxy", open: () => overLink(openProxiedHttp()) });
