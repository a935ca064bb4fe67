// Package api is how anybody but the daemon sees gardu: JSON over HTTP on a Unix socket. The types of this
// package are its wire format and their JSON names are promises; Engine is what answers, implemented by the
// daemon; Server puts an Engine on a socket; package api/client is the other end.
//
// The list of routes says what there is, what it takes and answers, and who may ask: what serves requests and the document that
// describes them (openapi.json, served as /v1/openapi.json) are made from it. Lists come in pages when asked for a limit; what comes
// bit by bit is a value a line (NDJSON), or server-sent events for who asks for text/event-stream.
//
// The same readers, /metrics, /healthz and /readyz are served by TCP, to this machine alone, where the configuration says so.
//
// Every error is a Problem (RFC 9457, application/problem+json). Times are RFC 3339, durations are seconds,
// sizes are bytes, counters are plain numbers that only ever grow.
package api
