import { testTransport } from "../tests/conformance/transport_suite.ts";
import { openHttp, openProxiedHttp } from "./_test_fixtures.ts";

testTransport({ name: "HTTP", open: openHttp });
testTransport({ name: "HTTP through a proxy", open: openProxiedHttp });
